//! The metadata stage: judges by what the earlier stages recorded how much of what was asked for was done, which closes the
//! file's final record. It reads and writes no object, and repeats no fact: the record is composed when it is read.

use caudal_domain::{MediaKind, Outcome, Reason, Stage, StageVersion, Warning};
use caudal_stage::{Done, Failure, Handler, Job};
use serde_json::json;

/// Version of this stage's code: raised whenever it would judge the same results otherwise.
pub const CODE_VERSION: &str = "2";

/// The handler of the metadata stage.
#[derive(Debug, Clone, Copy, Default)]
pub struct Metadata;

impl Handler for Metadata {
    fn version(&self) -> StageVersion {
        StageVersion::new(Stage::Metadata, CODE_VERSION)
    }

    async fn handle(&self, job: Job) -> Result<Done, Failure> {
        if job.input(Stage::Upload).is_none() {
            return Err(Failure::new(
                Reason::Internal,
                "there is no result of the upload stage",
            ));
        }
        let media_type = job.media_type.as_deref().unwrap_or_default();
        let warnings: Vec<Warning> = job
            .inputs
            .iter()
            .flat_map(|input| input.warnings.iter().cloned())
            .collect();
        let outcome = Outcome::judge(MediaKind::of(media_type), &warnings);
        Ok(Done {
            facts: json!({ "outcome": outcome.name() }),
            outcome: Some(outcome),
            ..Done::default()
        })
    }
}
