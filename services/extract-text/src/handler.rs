//! The stage as the runtime sees it: fetch, read, write what came of it.

use bytes::Bytes;
use caudal_domain::{Reason, Stage, StageVersion};
use caudal_stage::sandbox::fetch_input;
use caudal_stage::{Done, Failure, Handler, Job, Usage};

use crate::{ExtractText, TEXT_ARTIFACT, TEXT_MEDIA_TYPE};

/// The version of this stage's code: raised whenever its results change.
const CODE_VERSION: &str = "2";

impl Handler for ExtractText {
    fn version(&self) -> StageVersion {
        StageVersion::new(Stage::ExtractText, CODE_VERSION).with_options(format!(
            "pages={},text={},pdf={}",
            self.settings.max_pages,
            self.settings.max_text_bytes,
            // Results of one reader must not pass for those of the other.
            if self.settings.pdf_library.is_some() {
                "pdfium"
            } else {
                "own"
            }
        ))
    }

    async fn handle(&self, mut job: Job) -> Result<Done, Failure> {
        let media_type = job.media_type.clone().unwrap_or_default();
        let input =
            fetch_input(&job, self.settings.max_file_bytes, Reason::DocumentTooLarge).await?;
        let document = self
            .extract(&media_type, input.path(), &job.cancelled)
            .await?;
        // No text is no artifact: nobody is offered an empty file.
        if !document.text.is_empty() {
            job.artifacts
                .put(TEXT_ARTIFACT, TEXT_MEDIA_TYPE, Bytes::from(document.text))
                .await?;
        }
        Ok(Done {
            artifacts: job.artifacts.finish(),
            facts: document.facts,
            has_text: document.has_text,
            warnings: document.warnings,
            usage: Usage {
                bytes: input.size(),
                pages: document.pages.into(),
                ..Usage::default()
            },
            ..Done::default()
        })
    }
    async fn probe_parser_host(&self) -> Result<(), Failure> {
        self.sandbox.probe().await
    }
}
