//! Where a file's text is, and reading no more of it than is wanted.

use caudal_domain::{Reason, Stage};
use caudal_objects::{ObjectError, ObjectStore};
use caudal_stage::{Failure, InputArtifact, Job};
use futures::StreamExt;

use crate::places::Parts;

/// The text artifact of each stage that makes one, in the order they are looked for.
const SOURCES: [(Stage, &str); 2] = [
    (Stage::ExtractText, "text.txt"),
    (Stage::ImageProcessing, "caption.txt"),
];

/// The text of a file.
#[derive(Debug, Clone)]
pub(crate) struct SourceText {
    artifact: InputArtifact,
    name: &'static str,
    parts: Parts,
}

/// The text that was read.
#[derive(Debug)]
pub(crate) struct ReadText {
    pub(crate) text: String,
    /// There is more of it in the store.
    pub(crate) truncated: bool,
    /// The name of its artifact.
    pub(crate) name: &'static str,
    /// What is known of its pages.
    pub(crate) parts: Parts,
}

impl SourceText {
    /// The text that an earlier stage made of this file; `None` where there is none, or nothing in it.
    pub(crate) fn of(job: &Job) -> Option<Self> {
        SOURCES.into_iter().find_map(|(stage, name)| {
            let input = job.input(stage)?;
            let artifact = input
                .artifacts
                .iter()
                .find(|artifact| artifact.name == name && artifact.size > 0)?;
            Some(Self {
                artifact: artifact.clone(),
                name,
                parts: Parts::of(&input.facts),
            })
        })
    }

    /// Reads at most the first `max_bytes`, without the character that the limit cuts through.
    pub(crate) async fn read(
        self,
        objects: &ObjectStore,
        max_bytes: usize,
    ) -> Result<ReadText, Failure> {
        let mut object = objects
            .get(&self.artifact.key, None)
            .await
            .map_err(|error| store_failure(&error))?;
        let mut bytes = Vec::new();
        let mut truncated = false;
        while let Some(piece) = object.stream.next().await {
            let piece = piece.map_err(|error| store_failure(&error))?;
            let room = max_bytes - bytes.len();
            bytes.extend_from_slice(&piece[..piece.len().min(room)]);
            if piece.len() > room {
                truncated = true;
                break;
            }
        }
        let text = whole_characters(bytes, truncated).map_err(|position| {
            let name = &self.artifact.name;
            let words = format!("the artifact {name} is not UTF-8 at byte {position}");
            Failure::new(Reason::Internal, words)
        })?;
        Ok(ReadText {
            text,
            truncated,
            name: self.name,
            parts: self.parts,
        })
    }
}

fn store_failure(error: &ObjectError) -> Failure {
    let reason = match error {
        ObjectError::NotFound { .. } => Reason::ArtifactMissing,
        _ => Reason::StoreUnavailable,
    };
    Failure::of_store(reason, error)
}

/// The text that `bytes` are; where they were `cut`, they may end in the middle of a character. The error is the first
/// byte that is no text.
fn whole_characters(mut bytes: Vec<u8>, cut: bool) -> Result<String, usize> {
    if let Err(error) = std::str::from_utf8(&bytes)
        && cut
        && error.error_len().is_none()
    {
        bytes.truncate(error.valid_up_to());
    }
    String::from_utf8(bytes).map_err(|error| error.utf8_error().valid_up_to())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_through_a_character_leaves_the_text_before_it() {
        let bytes = "señal".as_bytes();
        assert_eq!(
            whole_characters(bytes[..3].to_vec(), true),
            Ok("se".to_owned())
        );
        assert_eq!(whole_characters(bytes[..3].to_vec(), false), Err(2));
        assert_eq!(
            whole_characters(bytes.to_vec(), true),
            Ok("señal".to_owned())
        );
        assert_eq!(whole_characters(vec![b'a', 0xff, b'b'], true), Err(1));
    }
}
