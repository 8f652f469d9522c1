//! The metadata stage: gathers what the earlier stages recorded into the file's final record, and judges how much of what
//! was asked for was done. It reads and writes no object.

mod record;

use caudal_domain::{MediaKind, Outcome, Reason, Stage, StageVersion, Warning};
use caudal_stage::{Done, Failure, Handler, Job};

pub use record::MAX_RECORD_BYTES;

/// Version of this stage's code: raised whenever it would make another record of the same results.
pub const CODE_VERSION: &str = "1";

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
        let record = record::record(&job, outcome)?;
        Ok(Done {
            facts: record,
            outcome: Some(outcome),
            ..Done::default()
        })
    }
}
