//! The calls of the ledger that a stage makes.

use std::time::Duration;

use caudal_domain::{Generation, Stage, StageVersion};
use caudal_node::{MAX_ENCODE_BYTES, MeshChannel, with_deadline};
use caudal_proto::convert::{file_tokens_to_proto, stage_version_to_proto};
use caudal_proto::mesh::v1::ledger_service_client::LedgerServiceClient;
use caudal_proto::mesh::v1::{
    AttendRequest, AttendResponse, CheckRecordedRequest, FileTokens, LeaseRequest, LeaseResponse,
    LeaseVerdict, ProcessWait, ReleaseRequest, RenewRequest, RenewVerdict, Report, ReportRequest,
    ReportVerdict, RequestReconcileRequest,
};
use tonic::{Code, Status};
use uuid::Uuid;

use crate::book::{Due, Key};

/// Longest wait for an answer; the ledger's commit groups take far less, and a dead connection is noticed by it.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The same for what is said again half a second later.
const ATTEND_TIMEOUT: Duration = Duration::from_secs(2);

/// The ledger as a stage sees it. Answers that do not fit their question count as none.
#[derive(Debug, Clone)]
pub(crate) struct LedgerLink {
    client: LedgerServiceClient<MeshChannel>,
}

impl LedgerLink {
    pub(crate) fn new(channel: MeshChannel) -> Self {
        Self {
            client: LedgerServiceClient::new(channel).max_decoding_message_size(MAX_ENCODE_BYTES),
        }
    }

    /// Verdicts for all keys, and a work for each that is granted.
    pub(crate) async fn lease(
        &self,
        version: &StageVersion,
        process: Uuid,
        keys: &[Key],
    ) -> Result<LeaseResponse, Status> {
        let request = LeaseRequest {
            stage: version.stage.name().to_owned(),
            process: process.to_string(),
            stage_version: Some(stage_version_to_proto(version)),
            files: Some(columns(keys)),
        };
        let response = self
            .client
            .clone()
            .lease(with_deadline(request, CALL_TIMEOUT))
            .await?
            .into_inner();
        check_length("verdicts of a lease", keys.len(), response.verdicts.len())?;
        check_known(&response.verdicts, |verdict| {
            LeaseVerdict::try_from(verdict).is_ok()
        })?;
        let granted = response
            .verdicts
            .iter()
            .filter(|verdict| **verdict == LeaseVerdict::Granted as i32)
            .count();
        check_length("works of a lease", granted, response.works.len())?;
        Ok(response)
    }

    /// Verdicts for all that are held. What has begun is said too: a death is charged to what a process has worked on
    /// (protocol 7.3).
    pub(crate) async fn renew(
        &self,
        process: Uuid,
        due: &Due,
        wait: Option<ProcessWait>,
        patience: Duration,
    ) -> Result<Vec<i32>, Status> {
        let request = RenewRequest {
            process: process.to_string(),
            files: Some(columns(&due.held)),
            wait,
            begun: Some(columns(&due.begun)),
        };
        let response = self
            .client
            .clone()
            .renew(with_deadline(request, patience))
            .await?
            .into_inner();
        let asked = due.held.len();
        check_length("verdicts of a renewal", asked, response.verdicts.len())?;
        Ok(response.verdicts)
    }

    /// Says that the handler of a suspect file begins; whether it may.
    pub(crate) async fn begin(&self, process: Uuid, key: &Key) -> Result<bool, Status> {
        let file = || Some(columns(std::slice::from_ref(key)));
        let request = RenewRequest {
            process: process.to_string(),
            files: file(),
            wait: None,
            begun: file(),
        };
        let answer = self.client.clone();
        let answer = answer
            .clone()
            .renew(with_deadline(request, CALL_TIMEOUT))
            .await?
            .into_inner();
        check_length("verdicts of a renewal", 1, answer.verdicts.len())?;
        Ok(answer.verdicts[0] == RenewVerdict::Keep as i32)
    }

    /// Says that this process lives; what is set for its stage.
    pub(crate) async fn attend(
        &self,
        stage: Stage,
        process: Uuid,
        slots: usize,
    ) -> Result<AttendResponse, Status> {
        let request = AttendRequest {
            stage: stage.name().to_owned(),
            process: process.to_string(),
            slots: u32::try_from(slots).unwrap_or(u32::MAX),
            leaves: false,
        };
        let mut client = self.client.clone();
        let answer = client
            .attend(with_deadline(request, ATTEND_TIMEOUT))
            .await?;
        Ok(answer.into_inner())
    }

    /// Says that this process ends.
    pub(crate) async fn leave(&self, stage: Stage, process: Uuid) -> Result<(), Status> {
        let request = AttendRequest {
            stage: stage.name().to_owned(),
            process: process.to_string(),
            slots: 0,
            leaves: true,
        };
        let mut client = self.client.clone();
        client
            .attend(with_deadline(request, ATTEND_TIMEOUT))
            .await?;
        Ok(())
    }

    pub(crate) async fn release(&self, process: Uuid, keys: &[Key]) -> Result<(), Status> {
        let request = ReleaseRequest {
            process: process.to_string(),
            files: Some(columns(keys)),
        };
        self.client
            .clone()
            .release(with_deadline(request, CALL_TIMEOUT))
            .await?;
        Ok(())
    }

    /// Verdicts for all keys, each of them final.
    pub(crate) async fn report(
        &self,
        version: &StageVersion,
        process: Uuid,
        slots: usize,
        keys: &[Key],
        reports: Vec<Report>,
    ) -> Result<Vec<i32>, Status> {
        let request = ReportRequest {
            stage: version.stage.name().to_owned(),
            process: process.to_string(),
            stage_version: Some(stage_version_to_proto(version)),
            files: Some(columns(keys)),
            reports,
            slots: u32::try_from(slots).unwrap_or(u32::MAX),
        };
        let response = self
            .client
            .clone()
            .report(with_deadline(request, CALL_TIMEOUT))
            .await?
            .into_inner();
        check_length("verdicts of a report", keys.len(), response.verdicts.len())?;
        check_known(&response.verdicts, |verdict| {
            ReportVerdict::try_from(verdict).is_ok()
        })?;
        Ok(response.verdicts)
    }

    /// For each execution, whether a reader of the database sees its result.
    pub(crate) async fn check_recorded(
        &self,
        stage: Stage,
        executions: &[(Key, Generation)],
    ) -> Result<Vec<bool>, Status> {
        let request = CheckRecordedRequest {
            stage: stage.name().to_owned(),
            files: Some(file_tokens_to_proto(executions.iter().map(|(key, _)| *key))),
            generation: executions
                .iter()
                .map(|(_, generation)| generation.get())
                .collect(),
        };
        let response = self
            .client
            .clone()
            .check_recorded(with_deadline(request, CALL_TIMEOUT))
            .await?
            .into_inner();
        check_length(
            "answers about results",
            executions.len(),
            response.recorded.len(),
        )?;
        Ok(response.recorded)
    }

    pub(crate) async fn request_reconcile(&self, stage: Stage) -> Result<(), Status> {
        let request = RequestReconcileRequest {
            stage: stage.name().to_owned(),
        };
        self.client
            .clone()
            .request_reconcile(with_deadline(request, CALL_TIMEOUT))
            .await?;
        Ok(())
    }
}

fn columns(keys: &[Key]) -> FileTokens {
    file_tokens_to_proto(keys.iter().copied())
}

fn check_length(what: &str, expected: usize, got: usize) -> Result<(), Status> {
    if expected == got {
        return Ok(());
    }
    Err(Status::new(
        Code::DataLoss,
        format!("{got} {what}, expected {expected}"),
    ))
}

/// An unknown verdict must not be taken for a final one: the message would be acknowledged and the file lost to its lease.
fn check_known(verdicts: &[i32], is_known: impl Fn(i32) -> bool) -> Result<(), Status> {
    match verdicts
        .iter()
        .find(|verdict| **verdict == 0 || !is_known(**verdict))
    {
        None => Ok(()),
        Some(verdict) => Err(Status::new(
            Code::DataLoss,
            format!("verdict {verdict} is unknown"),
        )),
    }
}
