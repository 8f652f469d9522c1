//! The stage as the runtime sees it: fetch, read, write what came of it.

use bytes::Bytes;
use caudal_domain::{Reason, Stage, StageVersion};
use caudal_stage::sandbox::fetch_input;
use caudal_stage::{Done, Failure, Handler, Job, Usage};

use crate::ImageProcessing;

/// The version of this stage's code: raised whenever its results change.
const CODE_VERSION: &str = "2";

impl Handler for ImageProcessing {
    fn version(&self) -> StageVersion {
        StageVersion::new(Stage::ImageProcessing, CODE_VERSION)
            .with_options(format!("thumbnail={}", self.settings.thumbnail_side))
    }

    async fn handle(&self, mut job: Job) -> Result<Done, Failure> {
        let input = fetch_input(&job, self.settings.max_file_bytes, Reason::ImageTooLarge).await?;
        let processed = self.process(input.path(), &job.cancelled).await?;
        job.artifacts
            .put(
                processed.thumbnail_name,
                processed.thumbnail_type,
                Bytes::from(processed.thumbnail),
            )
            .await?;
        Ok(Done {
            artifacts: job.artifacts.finish(),
            facts: processed.facts,
            warnings: processed.warnings,
            usage: Usage {
                bytes: input.size(),
                ..Usage::default()
            },
            ..Done::default()
        })
    }
}
