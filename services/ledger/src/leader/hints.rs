//! Tells watchers that batches moved. Only a hint: what it says can be read from the database.

use bytes::Bytes;
use caudal_domain::BatchRef;
use caudal_node::hints::Publisher;
use caudal_proto::mesh::v1::ChangedBatch;
use tokio::sync::mpsc;

/// Publishes until the writer has ended.
pub(crate) async fn run(publisher: Publisher, mut changed: mpsc::Receiver<Vec<(BatchRef, u64)>>) {
    while let Some(batches) = changed.recv().await {
        let batches = batches
            .into_iter()
            .map(|(BatchRef { tenant, batch }, revision)| ChangedBatch {
                tenant: Bytes::copy_from_slice(tenant.as_bytes()),
                batch: Bytes::copy_from_slice(batch.as_bytes()),
                batch_revision: crate::store::signed(revision),
            });
        if let Err(error) = publisher.publish(batches.collect()).await {
            tracing::debug!(%error, "a hint was not published; watchers find the change by themselves");
        }
    }
}
