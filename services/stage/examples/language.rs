//! The stage that `docs/adding-a-stage.md` adds: it finds the language of a document's text by the commonest words of
//! each. The page shows this file, and the tests of the runtime run it.

use std::collections::BTreeMap;
use std::time::Duration;

use caudal_domain::{MediaKind, Reason, RetryPolicy, Stage, StageProfile, StageVersion};
use caudal_stage::{Done, Failure, Handler, Job};
use serde_json::json;

/// Longest text that is read.
const MAX_TEXT_BYTES: u64 = 16 << 20;

/// The example has no variant of its own and is run in the place of another stage; in yours stands `Stage::Language`.
pub const STAGE: Stage = Stage::Embeddings;

/// Its row in the table of stages.
pub const ROW: StageProfile = StageProfile {
    name: "language",
    route: &[MediaKind::Document],
    needs: &[Stage::ExtractText],
    needs_text: true,
    retry: RetryPolicy::fixed(3, Duration::from_secs(1), Duration::from_secs(30)),
    window: 1_024,
    pack: 4,
    slots: 32,
    port: 7418,
};

/// The commonest words of each language.
const COMMON: [(&str, [&str; 6]); 3] = [
    ("de", ["der", "die", "und", "das", "nicht", "ist"]),
    ("en", ["the", "of", "and", "to", "is", "that"]),
    ("es", ["el", "la", "de", "que", "y", "los"]),
];

/// The handler.
#[derive(Debug, Clone, Copy, Default)]
pub struct Language;

impl Handler for Language {
    fn version(&self) -> StageVersion {
        StageVersion::new(STAGE, "1")
    }

    async fn handle(&self, mut job: Job) -> Result<Done, Failure> {
        let scores = scores(&text_of(&job).await?);
        let json = json!(scores).to_string().into();
        let media_type = "application/json";
        job.artifacts.put("scores.json", media_type, json).await?;
        Ok(Done {
            artifacts: job.artifacts.finish(),
            facts: json!({ "language": best(&scores) }),
            ..Done::default()
        })
    }
}

async fn text_of(job: &Job) -> Result<String, Failure> {
    let input = job.input(Stage::ExtractText);
    let Some(text) = input.and_then(|input| input.artifacts.first()) else {
        return Err(Failure::new(Reason::ArtifactMissing, "there is no text"));
    };
    match job.objects.get_bytes(&text.key, MAX_TEXT_BYTES).await {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => Err(Failure::of_store(Reason::StoreUnavailable, &error)),
    }
}

fn scores(text: &str) -> BTreeMap<&'static str, usize> {
    let count = |common: [&str; 6]| {
        let words = text.split_whitespace().map(str::to_lowercase);
        words.filter(|word| common.contains(&word.as_str())).count()
    };
    COMMON
        .map(|(language, common)| (language, count(common)))
        .into()
}

fn best(scores: &BTreeMap<&'static str, usize>) -> Option<&'static str> {
    let (language, score) = scores.iter().max_by_key(|(_, score)| **score)?;
    (*score > 0).then_some(*language)
}
