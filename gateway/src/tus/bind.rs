//! Which file an upload becomes: `Upload-Metadata` names a batch and a path in it, or a batch is made for the one file.

use caudal_domain::limits::MAX_TUS_METADATA_BYTES;
use caudal_domain::{BatchId, Refusal, RelativePath, batch_name, parse_batch_name};
use caudal_node::scope::Scope;
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::status::to_status;
use caudal_proto::v1;
use tonic::Status;
use uuid::Uuid;

use super::Tus;
use super::headers::{Metadata, UPLOAD_METADATA};
use super::record::signed;
use super::request_id;
use crate::ledger::passed_on;
use crate::uploads::{HAS_ARRIVED, not_waited_for};

/// What a file is called where its client has no name for it.
const UNNAMED: &str = "upload";
/// Letters of a batch's name that are taken of its file's.
const NAME_LETTERS: usize = 200;

fn invalid(words: impl Into<String>) -> Refusal {
    Refusal::invalid(UPLOAD_METADATA.as_str(), words)
}

/// The file as the metadata describes it.
pub(super) fn described(metadata: &Metadata) -> Result<mesh::TusFacts, Refusal> {
    debug_assert!(metadata.text.len() <= MAX_TUS_METADATA_BYTES);
    let names = ["path", "relativePath", "filename", "name"];
    let path = names.iter().find_map(|key| metadata.get(key));
    let path = path.unwrap_or(UNNAMED);
    let path = RelativePath::parse(path).map_err(|error| invalid(format!("path: {error}")))?;
    let sha256 = metadata.get("sha256").unwrap_or_default();
    let sha256 = hex::decode(sha256).ok();
    let sha256 = sha256.filter(|sum| sum.is_empty() || sum.len() == 32);
    let sha256 = sha256.ok_or_else(|| invalid("sha256: must be 64 hexadecimal digits"))?;
    Ok(mesh::TusFacts {
        metadata: metadata.text.clone(),
        path: path.as_str().to_owned(),
        sha256: sha256.into(),
        ..mesh::TusFacts::default()
    })
}

/// The batch that the metadata names, or the one that a credential is good for.
pub(super) fn named_batch(scope: &Scope, metadata: &Metadata) -> Result<Option<BatchId>, Refusal> {
    let Some(name) = metadata.get("batch") else {
        return Ok(scope.batch);
    };
    let batch = match name.parse::<Uuid>() {
        Ok(id) => BatchId::from_uuid(id),
        Err(_) => parse_batch_name(name)
            .map_err(|_| invalid("batch: must be the name of a batch, `batches/{uuid}`"))?,
    };
    if !scope.covers(batch) {
        return Err(Refusal::not_found(&batch_name(batch)));
    }
    Ok(Some(batch))
}

/// A file in its manifest, by its number.
pub(super) enum Entered {
    /// Its bytes are to come.
    Waits(u32),
    /// The tenant holds what has the checksum that was told, and the file has it.
    Held(u32),
}

impl Tus {
    /// A batch for one file.
    pub(super) async fn make_batch(
        &self,
        scope: &Scope,
        upload: Uuid,
        path: &str,
    ) -> Result<BatchId, Status> {
        let request = v1::CreateBatchRequest {
            batch: Some(v1::Batch {
                display_name: path.chars().take(NAME_LETTERS).collect(),
                ..v1::Batch::default()
            }),
            request_id: request_id(upload, "batch"),
        };
        let made = self.records.ledger.call(scope, request, |ledger, request| {
            let mut batches = ledger.batches();
            async move { batches.create_batch(request).await }
        });
        let made = made.await.map_err(|status| passed_on(&status))?;
        parse_batch_name(&made.name).map_err(|_| to_status(&Refusal::internal()))
    }

    /// Whether the batch takes files; asked where its file enters the manifest only later.
    pub(super) async fn check_open(&self, scope: &Scope, batch: BatchId) -> Result<(), Status> {
        let request = v1::GetBatchRequest {
            name: batch_name(batch),
        };
        let found = self.records.ledger.call(scope, request, |ledger, request| {
            let mut batches = ledger.batches();
            async move { batches.get_batch(request).await }
        });
        let found = found.await.map_err(|status| passed_on(&status))?;
        if found.state() == v1::BatchState::Open {
            return Ok(());
        }
        let words = format!(
            "{} is complete or cancelled: it takes no more files",
            found.name
        );
        let refusal = Refusal::failed_precondition("MANIFEST_COMPLETE", words);
        Err(to_status(&refusal))
    }

    /// The file in the manifest of its batch: the one that is there under its path, or a new one. Of a new one the tenant
    /// may hold the bytes already: then none are to come.
    pub(super) async fn enter(
        &self,
        scope: &Scope,
        upload: Uuid,
        batch: BatchId,
        length: u64,
        facts: &mesh::TusFacts,
    ) -> Result<Entered, Status> {
        if let Some(tenant) = scope.tenant {
            self.rates.entries(tenant, 1).await?;
        }
        let request = v1::AddEntriesRequest {
            batch: batch_name(batch),
            entries: vec![v1::Entry {
                path: facts.path.clone(),
                kind: Some(v1::entry::Kind::File(v1::FileEntry {
                    size: signed(length),
                    sha256: facts.sha256.to_vec(),
                    ..v1::FileEntry::default()
                })),
            }],
            request_id: request_id(upload, &format!("entry {length}")),
        };
        let added = self.records.ledger.call(scope, request, |ledger, request| {
            let mut batches = ledger.batches();
            async move { batches.add_entries(request).await }
        });
        let added = added.await.map_err(|status| passed_on(&status))?;
        let ordinal = added.ordinals.first().copied();
        let ordinal = ordinal.unwrap_or(added.first_ordinal);
        let found = self.uploads.facts_of_one(scope, batch, ordinal).await?;
        match not_waited_for(batch, &found) {
            None => Ok(Entered::Waits(ordinal)),
            Some(refusal) if added.new_count > 0 && refusal.reason == HAS_ARRIVED => {
                Ok(Entered::Held(ordinal))
            }
            Some(refusal) => Err(to_status(&refusal)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use http::HeaderMap;

    use super::*;

    fn metadata(pairs: &[(&str, &str)]) -> Metadata {
        let pairs = pairs
            .iter()
            .map(|(key, value)| format!("{key} {}", STANDARD.encode(value)));
        let text = pairs.collect::<Vec<_>>().join(",");
        Metadata::read(&HeaderMap::from_iter([(
            UPLOAD_METADATA,
            text.parse().unwrap(),
        )]))
        .unwrap()
    }

    #[test]
    fn a_file_is_called_as_clients_call_it_and_no_path_leaves_its_batch() {
        let path = |pairs: &[(&str, &str)]| described(&metadata(pairs)).map(|facts| facts.path);
        assert_eq!(path(&[("filename", "a.txt")]).unwrap(), "a.txt");
        let uppy = [
            ("name", "a.txt"),
            ("relativePath", "in/a.txt"),
            ("type", "text/plain"),
        ];
        assert_eq!(path(&uppy).unwrap(), "in/a.txt");
        assert_eq!(
            path(&[("relativePath", "null"), ("name", "b")]).unwrap(),
            "b"
        );
        assert_eq!(path(&[]).unwrap(), UNNAMED);
        for wrong in ["../a", "/a", "a//b"] {
            assert_eq!(
                path(&[("path", wrong)]).unwrap_err().reason,
                "INVALID_FIELD"
            );
        }
        assert!(described(&metadata(&[("sha256", "abc")])).is_err());
    }
}
