//! Which batch of a folder is unfinished. The server knows it: each batch that `ingest` makes carries a mark of the machine
//! and the folder, made with the batch itself, so no crash can come between, and nothing is kept on the machine.

use std::path::Path;

use caudal_domain::StageSet;
use caudal_proto::convert::struct_from_json;
use caudal_sdk::{Client, ClientError, v1};
use prost_types::Struct;
use prost_types::value::Kind;
use serde_json::json;
use sha2::{Digest as _, Sha256};

const INGEST: &str = "ingest";
const SOURCE: &str = "source";
const BATCHES_A_PAGE: i32 = 200;
/// Pages of unfinished batches that are looked through, newest first.
const MOST_PAGES: usize = 25;
const SOURCE_BYTES: usize = 16;
/// What tells one machine from another.
const MACHINE: [&str; 2] = ["/etc/machine-id", "/proc/sys/kernel/hostname"];

/// The mark of a folder of this machine. It says nothing of either.
pub(crate) fn source_of(folder: &Path) -> String {
    let whole = folder
        .canonicalize()
        .unwrap_or_else(|_| folder.to_path_buf());
    let mut mark = Sha256::new();
    for file in MACHINE {
        mark.update(std::fs::read(file).unwrap_or_default());
        mark.update([0]);
    }
    mark.update(whole.as_os_str().as_encoded_bytes());
    hex::encode(&mark.finalize()[..SOURCE_BYTES])
}

/// The metadata of a new batch.
pub(crate) fn metadata_with(source: &str) -> Option<Struct> {
    let marked = json!({ INGEST: { SOURCE: source } });
    struct_from_json(marked.as_object()?).ok()
}

/// The newest batch of this mark and these stages that waits for bytes.
pub(crate) async fn unfinished(
    client: &Client,
    source: &str,
    stages: &[String],
) -> Result<Option<v1::Batch>, ClientError> {
    let states = [v1::BatchState::Open, v1::BatchState::Running];
    let mut request = v1::ListBatchesRequest {
        page_size: BATCHES_A_PAGE,
        states: states.into_iter().map(i32::from).collect(),
        ..v1::ListBatchesRequest::default()
    };
    for _ in 0..MOST_PAGES {
        let page = client.list_batches(request.clone()).await?;
        let found = page
            .batches
            .into_iter()
            .find(|batch| is_unfinished(batch, source, stages));
        if found.is_some() || page.next_page_token.is_empty() {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
    Ok(None)
}

fn is_unfinished(batch: &v1::Batch, source: &str, stages: &[String]) -> bool {
    let counts = batch.counts.unwrap_or_default();
    let waits = batch.state() == v1::BatchState::Open || counts.pending + counts.uploading > 0;
    // The batch names all that it runs, also what was not asked for by name.
    let of_batch = batch.options.as_ref().map_or(&[][..], |it| &it.stages);
    let is_asked = matches!(
        (StageSet::parse(stages), StageSet::parse(of_batch)),
        (Ok(asked), Ok(of_batch)) if asked == of_batch
    );
    waits && !batch.cancelling && is_asked && mark_of(batch) == Some(source)
}

fn mark_of(batch: &v1::Batch) -> Option<&str> {
    let ingest = batch.metadata.as_ref()?.fields.get(INGEST)?;
    let Some(Kind::StructValue(ingest)) = &ingest.kind else {
        return None;
    };
    match &ingest.fields.get(SOURCE)?.kind {
        Some(Kind::StringValue(source)) => Some(source),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(state: v1::BatchState, pending: u32, source: &str) -> v1::Batch {
        v1::Batch {
            state: state.into(),
            counts: Some(v1::FileCounts {
                total: 5,
                pending,
                ..v1::FileCounts::default()
            }),
            metadata: metadata_with(source),
            ..v1::Batch::default()
        }
    }

    #[test]
    fn a_batch_is_unfinished_when_it_is_open_or_waits_for_bytes() {
        let (open, running) = (v1::BatchState::Open, v1::BatchState::Running);
        assert!(is_unfinished(&batch(open, 0, "a"), "a", &[]));
        assert!(is_unfinished(&batch(running, 1, "a"), "a", &[]));
        assert!(!is_unfinished(&batch(running, 0, "a"), "a", &[]));
        assert!(!is_unfinished(&batch(open, 1, "a"), "b", &[]));
        assert!(!is_unfinished(
            &batch(open, 1, "a"),
            "a",
            &["upload".to_owned()]
        ));
        // As the server answers: it names the stages that always run, and all where none were asked for.
        for (asked, named) in [
            (
                &[][..],
                &[
                    "upload",
                    "extract-text",
                    "embeddings",
                    "image-processing",
                    "metadata",
                ][..],
            ),
            (&["upload"], &["upload", "metadata"]),
            (
                &["metadata", "extract-text"],
                &["upload", "extract-text", "metadata"],
            ),
        ] {
            let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
            let mut of_server = batch(open, 1, "a");
            of_server.options = Some(v1::BatchOptions {
                stages: named.iter().map(|name| (*name).to_owned()).collect(),
                ..v1::BatchOptions::default()
            });
            assert!(is_unfinished(&of_server, "a", &asked), "{asked:?}");
            assert!(!is_unfinished(
                &of_server,
                "a",
                &["upload".to_owned(), "embeddings".to_owned()]
            ));
        }
        let cancelling = v1::Batch {
            cancelling: true,
            ..batch(open, 1, "a")
        };
        assert!(!is_unfinished(&cancelling, "a", &[]));
    }

    #[test]
    fn folders_have_marks_of_their_own_that_stay_the_same() {
        let here = source_of(Path::new("."));
        assert_eq!(here, source_of(Path::new("./.")));
        assert_ne!(here, source_of(Path::new("/")));
        assert_eq!(here.len(), 2 * SOURCE_BYTES);
    }
}
