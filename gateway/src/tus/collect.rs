//! What nobody looks after any more: uploads that expired are freed, and those that are whole, whose gateway died, become
//! their files after all. Every gateway does it; the right to write keeps them out of each other's way.

use std::time::Duration;

use caudal_proto::mesh::v1 as mesh;
use caudal_proto::status::from_status;
use caudal_proto::v1;
use tonic::Status;

use super::Tus;
use super::record::Record;
use crate::no_store::freed_later;

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(5);
/// Uploads of one look.
const PAGE: u32 = 100;

impl Tus {
    /// Looks until the gateway ends.
    pub(crate) async fn collect(self) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let shutdown = self.receiver.shutdown.clone();
        while shutdown.run_until_cancelled(every.tick()).await.is_some() {
            // One that is begun is ended: what is half done stays due, but another would wait for the lock.
            if let Err(status) = self.collect_due().await {
                tracing::debug!(error = %status, "uploads that are due are looked for again");
            }
        }
    }

    async fn collect_due(&self) -> Result<(), Status> {
        for record in self.records.due(PAGE).await? {
            if self.receiver.shutdown.is_cancelled() {
                return Ok(());
            }
            if let Err(status) = self.look_after(&record).await
                && from_status(&status).reason != "UPLOAD_LOCKED"
            {
                freed_later(&status);
            }
        }
        Ok(())
    }

    async fn look_after(&self, due: &Record) -> Result<(), Status> {
        let scope = due.scope();
        let held = self.records.lock(&scope, due.id).await?;
        match held.record.now.state {
            mesh::TusState::Whole => self.finish(held, true).await.map(|_| ()),
            _ if held.record.is_expired() => {
                let record = held.record.clone();
                if record.now.state == mesh::TusState::Open
                    && record.now.facts.own_batch
                    && let Some(batch) = record.batch
                {
                    // Its file, if it has one, has never arrived.
                    let missing = v1::MissingFiles::Fail;
                    let completed = self.complete(&record, &scope, batch, missing).await;
                    if let Err(status) = completed {
                        tracing::debug!(error = %status, "the batch of an expired upload is not completed");
                    }
                }
                self.drop_upload(held).await;
                Ok(())
            }
            _ => {
                held.let_go().await;
                Ok(())
            }
        }
    }
}
