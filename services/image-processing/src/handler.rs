//! The stage as the runtime sees it: fetch, read, ask, write what came of it.

use bytes::Bytes;
use caudal_domain::{Reason, Stage, StageVersion};
use caudal_stage::sandbox::fetch_input;
use caudal_stage::{Done, Failure, Handler, Job, Provider, Usage};

use crate::{Described, ImageProcessing, Processed, vector};

/// The caption, where there is one: the text of the image for all that comes behind.
pub const CAPTION_ARTIFACT: &str = "caption.txt";
const CAPTION_TYPE: &str = "text/plain; charset=utf-8";
/// The vector of the picture, where there is one: a row, as docs/results.md describes it.
pub const VECTOR_ARTIFACT: &str = "image-vector.arrow";

/// The version of this stage's code: raised whenever its results change.
const CODE_VERSION: &str = "2";

impl Handler for ImageProcessing {
    fn version(&self) -> StageVersion {
        let thumbnail = format!("thumbnail={}", self.settings.thumbnail_side);
        StageVersion::new(Stage::ImageProcessing, CODE_VERSION)
            .with_model(self.providers.models())
            .with_options(thumbnail + &self.providers.version_options())
    }

    async fn handle(&self, mut job: Job) -> Result<Done, Failure> {
        let input = fetch_input(&job, self.settings.max_file_bytes, Reason::ImageTooLarge).await?;
        let Processed {
            mut facts,
            thumbnail_name,
            thumbnail_type,
            thumbnail,
            views,
            mut warnings,
        } = self.process(input.path(), &job.cancelled).await?;
        let bytes = input.size();
        // Not kept while providers are waited for.
        drop(input);
        let version = self.version().key_string();
        let whose = (job.file, job.generation);
        let describing = self.providers.describe(whose, &views, job.dimensions);
        // Dropped, it ends what it asked of a provider.
        let described = job
            .cancelled
            .run_until_cancelled(describing)
            .await
            .unwrap_or_else(|| Err(Failure::new(Reason::Internal, "cancelled")))?;
        let Described {
            caption,
            vector,
            usage,
            warnings: refused,
        } = described;
        warnings.extend(refused);
        if let Some(facts) = facts.as_object_mut() {
            facts.extend(self.providers.facts(caption.as_deref(), vector.as_deref()));
        }

        let (has_text, dimensions) = (caption.is_some(), vector.as_ref().map(Vec::len));
        let mut results = vec![(thumbnail_name, thumbnail_type, Bytes::from(thumbnail))];
        results.extend(caption.map(|text| (CAPTION_ARTIFACT, CAPTION_TYPE, Bytes::from(text))));
        if let Some(vector) = vector {
            let table = self.providers.table(vector, &version)?;
            results.push((VECTOR_ARTIFACT, vector::MEDIA_TYPE, table));
        }
        for (name, media_type, bytes) in results {
            job.artifacts.put(name, media_type, bytes).await?;
        }
        Ok(Done {
            artifacts: job.artifacts.finish(),
            facts,
            has_text,
            warnings,
            usage: Usage { bytes, ..usage },
            dimensions: dimensions.and_then(|length| u32::try_from(length).ok()),
            ..Done::default()
        })
    }

    async fn probe(&self, provider: Provider) -> Result<(), Failure> {
        self.providers.probe(provider).await
    }
    async fn probe_parser_host(&self) -> Result<(), Failure> {
        self.sandbox.probe().await
    }
}
