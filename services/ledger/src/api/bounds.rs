//! What a request holds at most: one table of every field that repeats or holds text, and which of the texts may hold letters
//! that steer a screen (next to none). It is looked at right after a
//! request is decoded and its caller is known, before anything is done for each element; whoever asks for a caller's scope
//! ([`super::TenantScope::of`] and its like) must be in it, so no method can forget.
//!
//! A message is at most 4 MiB, and without this a field of it could name one stage a million times.

use std::fmt;

use caudal_domain::{
    BatchState, FileState, Outcome, Reason, Refusal, Stage, Violations, limits, steers_a_screen,
};
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::{longrunning, v1};
use prost::Message;

use super::words::STEERS;

/// Values of a set that has a member for each reason of the catalogue, with room for those to come.
const REASONS: usize = 64;
/// Paths of an update mask: more than can be changed.
const MASK_PATHS: usize = 16;
/// Limits of a tenant: more than there are.
const TENANT_LIMITS: usize = 16;
const _: () = assert!(Reason::ALL.len() <= REASONS);

// Bytes of texts.

/// The name of a resource.
const NAME: usize = 128;
/// A code or a stage's name.
const WORD: usize = 64;
/// A UUID in any of its forms.
const REQUEST_ID: usize = 64;
const PAGE_TOKEN: usize = 128;
const UUID: usize = 16;
const SHA256: usize = 32;
/// What is shorter in characters is counted where it is read.
const TEXT: usize = 1_024;
/// Letters have up to four bytes.
const CAUSE: usize = 4 * limits::MAX_CAUSE_CHARS;
/// A detail, in bytes of UTF-8.
const DETAIL: usize = 4 * limits::MAX_DETAIL_CHARS;
/// A path before its letters are composed, which makes it shorter.
const PATH: usize = 4 * limits::MAX_PATH_BYTES;

/// Bytes on the wire for each byte of JSON at most: a number of one digit and a comma is two bytes of JSON, and eleven.
const WIRE_BYTES_A_JSON_BYTE: usize = 8;

/// A message whose fields are bounded.
pub(crate) trait Bounded {
    /// Tells what of it is too much.
    fn look(&self, at: &Place<'_>, wrong: &mut Violations);
}

/// Refuses a request that holds more than it may.
pub(super) fn check(request: &impl Bounded) -> Result<(), Refusal> {
    let mut wrong = Violations::default();
    request.look(&Place::Request, &mut wrong);
    wrong.into_result()
}

/// Where a field stands in its request; spelled only when something is wrong with it.
pub(crate) enum Place<'a> {
    Request,
    Field(&'a Place<'a>, &'static str),
    Element(&'a Place<'a>, usize),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request => Ok(()),
            Self::Field(Place::Request, name) => out.write_str(name),
            Self::Field(above, name) => write!(out, "{above}.{name}"),
            Self::Element(above, index) => write!(out, "{above}[{index}]"),
        }
    }
}

/// The table: of each message its fields that repeat, hold text or hold such a message, and what of them is taken.
macro_rules! bounds {
    ($($module:ident :: $message:ident { $($field:ident: $kind:ident $(($most:expr))?),* $(,)? })*) => {
        $(impl Bounded for $module::$message {
            #[allow(unused_variables, reason = "some messages hold nothing that is bounded")]
            fn look(&self, at: &Place<'_>, wrong: &mut Violations) {
                $($kind(
                    &self.$field,
                    $($most,)?
                    &Place::Field(at, stringify!($field).trim_start_matches("r#")),
                    wrong,
                );)*
            }
        })*

        #[cfg(test)]
        const TABLE: &[(&str, &str, &[(&str, &str)])] = &[$((
            stringify!($module),
            stringify!($message),
            &[$((stringify!($field), stringify!($kind))),*],
        )),*];
    };
}

bounds! {
    v1::CreateBatchRequest { batch: one, request_id: text(REQUEST_ID) }
    v1::GetBatchRequest { name: text(NAME) }
    v1::ListBatchesRequest { page_token: text(PAGE_TOKEN), states: values(BatchState::ALL.len()) }
    v1::AddEntriesRequest {
        batch: text(NAME),
        entries: each(limits::MAX_ENTRIES_PER_PAGE),
        request_id: text(REQUEST_ID),
    }
    v1::CompleteBatchRequest { name: text(NAME), request_id: text(REQUEST_ID) }
    v1::UpdateBatchRequest { batch: one, update_mask: one, request_id: text(REQUEST_ID) }
    v1::CancelBatchRequest { name: text(NAME), request_id: text(REQUEST_ID) }
    v1::PauseBatchRequest { name: text(NAME), note: text(TEXT), request_id: text(REQUEST_ID) }
    v1::ResumeBatchRequest { name: text(NAME), request_id: text(REQUEST_ID) }
    v1::ListFoldersRequest { parent: text(NAME), page_token: text(PAGE_TOKEN) }
    v1::CreateUploadTokenRequest { batch: text(NAME), request_id: text(REQUEST_ID) }
    v1::Batch {
        name: text(NAME),
        display_name: text(TEXT),
        pause: one,
        options: one,
        metadata: json(limits::MAX_BATCH_METADATA_BYTES),
        // Given by the system alone.
        waits: each(0),
        queue: one,
    }
    v1::QueuePlace { stage: text(WORD), words: text(TEXT) }
    v1::Wait { stage: text(WORD), r#for: text(WORD), reason: text(WORD), words: text(TEXT) }
    v1::Pause { who: text(TEXT), note: text(TEXT) }
    v1::BatchOptions { stages: words(Stage::ALL.len()) }
    prost_types::FieldMask { paths: words(MASK_PATHS) }
    // A path has rules of its own.
    v1::Entry { path: raw(PATH), kind: one }
    v1::FileEntry {
        sha256: bytes(SHA256),
        metadata: json(limits::MAX_ENTRY_METADATA_BYTES),
    }
    v1::DirectoryEntry {}

    v1::FileSelector {
        batch: text(NAME),
        folder: text(NAME),
        states: values(FileState::ALL.len()),
        outcomes: values(Outcome::ALL.len()),
        stages: words(Stage::ALL.len()),
        reasons: words(REASONS),
        // As paths are.
        path_glob: raw(limits::MAX_PATH_BYTES),
        ordinals: values(limits::MAX_ORDINALS_PER_SELECTOR),
        metadata: each(limits::MAX_METADATA_MATCHES),
    }
    v1::MetadataMatch { path: words(limits::MAX_METADATA_PATH), value: one }
    v1::GetFileRequest { name: text(NAME) }
    v1::ListFilesRequest { selector: one, page_token: text(PAGE_TOKEN) }
    v1::CountFilesRequest { selector: one }
    v1::ListFileHistoryRequest { name: text(NAME), page_token: text(PAGE_TOKEN) }
    v1::ListFailuresRequest { selector: one, page_token: text(PAGE_TOKEN) }
    v1::RetryFilesRequest { selector: one, request_id: text(REQUEST_ID) }
    v1::CancelFilesRequest { selector: one, request_id: text(REQUEST_ID) }
    v1::ReprocessFilesRequest { selector: one, from_stage: text(WORD), request_id: text(REQUEST_ID) }
    v1::DismissFailuresRequest { selector: one, request_id: text(REQUEST_ID) }

    v1::ConfirmUploadsRequest {
        batch: text(NAME),
        uploads: each(limits::MAX_CONFIRMATIONS_PER_PAGE),
        request_id: text(REQUEST_ID),
    }
    v1::Uploaded { etag: text(TEXT) }
    v1::LeaveOutFilesRequest {
        batch: text(NAME),
        files: each(limits::MAX_CONFIRMATIONS_PER_PAGE),
        request_id: text(REQUEST_ID),
    }
    v1::LeftOut { cause: text(CAUSE) }

    v1::CountAgedRequest { tenant: text(NAME) }
    v1::ListStagesRequest {}
    v1::UpdateStageRequest { stage: one, update_mask: one, request_id: text(REQUEST_ID) }
    // What waits is given by the system alone.
    v1::Stage { name: text(WORD), waits: each(0), pause: one, costs: each(0) }
    v1::StageCost {}
    v1::StagePause { note: text(TEXT), who: text(TEXT) }
    v1::StageWait { wait: one, detail: text(TEXT) }
    v1::CreateTenantRequest { tenant: one, request_id: text(REQUEST_ID) }
    v1::Tenant { name: text(NAME), display_name: text(TEXT), pause: one, usage: one }
    v1::TenantPause { note: text(TEXT), who: text(TEXT) }
    v1::TenantUsage { limits: each(TENANT_LIMITS), pause: one }
    v1::UsedLimit { name: text(WORD) }
    v1::GetTenantRequest { name: text(NAME) }
    v1::ListTenantsRequest { page_token: text(PAGE_TOKEN) }
    v1::UpdateTenantRequest { tenant: one, update_mask: one, request_id: text(REQUEST_ID) }
    v1::CloseTenantRequest { name: text(NAME), request_id: text(REQUEST_ID) }
    v1::OperatorServiceCreateApiKeyRequest { tenant: text(NAME), key: one }
    v1::OperatorServiceListApiKeysRequest { tenant: text(NAME), keys: one }
    v1::OperatorServiceRevokeApiKeyRequest { tenant: text(NAME), key: one }
    v1::OperatorServiceRotateApiKeyRequest { tenant: text(NAME), key: one }
    v1::OperatorServiceListAuditRequest { tenant: text(NAME), audit: one }
    v1::GetUsageRequest {}
    v1::CreateApiKeyRequest { display_name: text(TEXT), request_id: text(REQUEST_ID) }
    v1::ListApiKeysRequest { page_token: text(PAGE_TOKEN) }
    v1::RevokeApiKeyRequest { name: text(NAME), request_id: text(REQUEST_ID) }
    v1::RotateApiKeyRequest { name: text(NAME), request_id: text(REQUEST_ID) }
    v1::ListAuditRequest { page_token: text(PAGE_TOKEN) }

    v1::OperatorServiceListFailuresRequest { tenant: text(NAME), failures: one }
    v1::OperatorServiceRetryFilesRequest { tenant: text(NAME), files: one }
    v1::OperatorServiceCancelFilesRequest { tenant: text(NAME), files: one }
    v1::OperatorServiceReprocessFilesRequest { tenant: text(NAME), files: one }
    v1::OperatorServiceDismissFailuresRequest { tenant: text(NAME), files: one }

    longrunning::ListOperationsRequest { filter: text(TEXT), page_token: text(PAGE_TOKEN), name: text(NAME) }
    longrunning::GetOperationRequest { name: text(NAME) }
    longrunning::DeleteOperationRequest { name: text(NAME) }
    longrunning::CancelOperationRequest { name: text(NAME) }
    longrunning::WaitOperationRequest { name: text(NAME) }

    mesh::LeaseRequest { stage: text(WORD), process: text(TEXT), stage_version: one, files: one }
    mesh::RenewRequest { process: text(TEXT), files: one, wait: one, begun: one }
    mesh::AttendRequest { stage: text(WORD), process: text(TEXT) }
    mesh::ProcessWait { stage: text(WORD), waiting: one }
    // The detail is made plain where it is kept.
    mesh::Waiting { r#for: text(WORD), reason: text(WORD), words: text(TEXT), detail: raw(DETAIL) }
    mesh::ReleaseRequest { process: text(TEXT), files: one }
    mesh::ReportRequest {
        stage: text(WORD),
        process: text(TEXT),
        stage_version: one,
        files: one,
        reports: each(limits::MAX_FILES_PER_CALL),
    }
    mesh::CheckRecordedRequest {
        stage: text(WORD),
        files: one,
        generation: values(limits::MAX_FILES_PER_CALL),
    }
    mesh::FileTokens {
        batches: each(limits::MAX_FILES_PER_CALL),
        batch_index: values(limits::MAX_FILES_PER_CALL),
        ordinal: values(limits::MAX_FILES_PER_CALL),
        token: values(limits::MAX_FILES_PER_CALL),
    }
    mesh::BatchKey { tenant: bytes(UUID), batch: bytes(UUID) }
    mesh::StageVersion { code: text(TEXT), model: text(TEXT), options: text(TEXT) }
    mesh::Report { outcome: one }
    mesh::Done {
        artifacts: each(limits::MAX_ARTIFACTS_PER_RESULT),
        nonce: text(WORD),
        facts: bytes(limits::MAX_FACTS_BYTES),
        content_sha256: bytes(SHA256),
        media_type: text(TEXT),
        warnings: each(limits::MAX_WARNINGS_PER_RESULT),
    }
    mesh::WrittenArtifact { name: text(NAME), media_type: text(TEXT) }
    v1::Warning { code: text(WORD), stage: text(WORD), words: whole }
    // The detail is cut and made plain where it is kept.
    mesh::Failed { reason: text(WORD), detail: whole, trace_id: text(NAME) }
    mesh::RequestReconcileRequest { stage: text(WORD) }
    mesh::CheckCredentialRequest { key_id: text(TEXT), secret_sha256: bytes(SHA256) }
    mesh::GetIssueFactsRequest { batch: bytes(UUID), ordinals: values(limits::MAX_TARGETS_PER_PAGE) }
    mesh::GetArtifactFactsRequest { batch: bytes(UUID), artifact: text(NAME) }
    mesh::CreateTusRequest { upload: bytes(UUID), batch: bytes(UUID), facts: one }
    mesh::GetTusRequest { upload: bytes(UUID) }
    mesh::LockTusRequest { upload: bytes(UUID) }
    mesh::AdvanceTusRequest { upload: bytes(UUID), facts: one }
    mesh::EndTusRequest { upload: bytes(UUID) }
    mesh::ListDueTusRequest {}
    mesh::TusFacts {
        metadata: raw(limits::MAX_TUS_METADATA_BYTES),
        path: raw(PATH),
        sha256: bytes(SHA256),
        concat: text(limits::MAX_TUS_METADATA_BYTES),
        multipart: text(TEXT),
        parts_digest: bytes(SHA256),
    }
    mesh::ListChangesRequest { batch: bytes(UUID) }
    mesh::ListEventsRequest { batch: bytes(UUID) }
    mesh::GetSnapshotRequest { batch: bytes(UUID) }
}

impl Bounded for v1::entry::Kind {
    fn look(&self, at: &Place<'_>, wrong: &mut Violations) {
        // Its members are spelled as fields of the entry itself.
        let entry = match at {
            Place::Field(entry, _) => entry,
            Place::Request | Place::Element(..) => at,
        };
        match self {
            Self::File(file) => file.look(&Place::Field(entry, "file"), wrong),
            Self::Directory(directory) => directory.look(&Place::Field(entry, "directory"), wrong),
        }
    }
}

impl Bounded for v1::metadata_match::Value {
    fn look(&self, at: &Place<'_>, wrong: &mut Violations) {
        if let Self::Text(value) = self {
            raw(value, TEXT, at, wrong);
        }
    }
}

impl Bounded for mesh::report::Outcome {
    fn look(&self, at: &Place<'_>, wrong: &mut Violations) {
        let report = match at {
            Place::Field(report, _) => report,
            Place::Request | Place::Element(..) => at,
        };
        match self {
            Self::Done(done) => done.look(&Place::Field(report, "done"), wrong),
            Self::Failed(failed) => failed.look(&Place::Field(report, "failed"), wrong),
        }
    }
}

/// Whether so many are taken.
fn takes(count: usize, most: usize, at: &Place<'_>, wrong: &mut Violations) -> bool {
    if count > most {
        wrong.add(
            at.to_string(),
            format!("has {count} values; at most {most} are taken"),
        );
    }
    count <= most
}

/// A text. Sooner or later somebody reads it on a screen: it may not steer one.
fn text(text: &str, most: usize, at: &Place<'_>, wrong: &mut Violations) {
    raw(text, most, at, wrong);
    if text.len() <= most && text.chars().any(steers_a_screen) {
        wrong.add(at.to_string(), STEERS);
    }
}

/// A text that may hold any letter; whoever keeps or shows it sees to that.
fn raw(text: &str, most: usize, at: &Place<'_>, wrong: &mut Violations) {
    bytes(text, most, at, wrong);
}

/// Bytes.
fn bytes(bytes: &(impl AsRef<[u8]> + ?Sized), most: usize, at: &Place<'_>, wrong: &mut Violations) {
    let bytes = bytes.as_ref().len();
    if bytes > most {
        wrong.add(
            at.to_string(),
            format!("has {bytes} bytes; at most {most} are taken"),
        );
    }
}

/// A text that may be as long as the message.
fn whole(_text: &str, _at: &Place<'_>, _wrong: &mut Violations) {}

/// Numbers.
fn values<T>(values: &[T], most: usize, at: &Place<'_>, wrong: &mut Violations) {
    takes(values.len(), most, at, wrong);
}

/// Codes or names of stages.
fn words(words: &[String], most: usize, at: &Place<'_>, wrong: &mut Violations) {
    if takes(words.len(), most, at, wrong) {
        for (index, word) in words.iter().enumerate() {
            text(word, WORD, &Place::Element(at, index), wrong);
        }
    }
}

/// A caller's own data.
fn json(object: &Option<prost_types::Struct>, most: usize, at: &Place<'_>, wrong: &mut Violations) {
    let bytes = object.as_ref().map_or(0, Message::encoded_len);
    if bytes > most.saturating_mul(WIRE_BYTES_A_JSON_BYTE) {
        wrong.add(
            at.to_string(),
            format!("has {bytes} bytes; at most {most} bytes of JSON are kept"),
        );
    }
}

/// A message.
fn one(message: &Option<impl Bounded>, at: &Place<'_>, wrong: &mut Violations) {
    if let Some(message) = message {
        message.look(at, wrong);
    }
}

/// Messages.
fn each(messages: &[impl Bounded], most: usize, at: &Place<'_>, wrong: &mut Violations) {
    if takes(messages.len(), most, at, wrong) {
        for (index, message) in messages.iter().enumerate() {
            if wrong.is_full() {
                return;
            }
            message.look(&Place::Element(at, index), wrong);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use std::collections::{BTreeMap, BTreeSet};

    use prost_types::field_descriptor_proto::{Label, Type};
    use prost_types::{DescriptorProto, FileDescriptorSet};

    use super::*;

    /// Requests that the ledger does not read: the gateway serves these methods, or no one does.
    const NOT_READ: [&str; 7] = [
        "WatchBatchRequest",
        "IssueUploadsRequest",
        "ListPartsRequest",
        "AbortPartsRequest",
        "SignUploadCallRequest",
        "GetArtifactRequest",
        "WatchEventsRequest",
    ];
    /// Of the mesh, others than the ledger's.
    const OTHERS: [&str; 2] = ["StageService", "LimiterService"];
    /// Bounded as a whole, or of a fixed size.
    const WELL_KNOWN: [&str; 4] = [
        ".google.protobuf.Struct",
        ".google.protobuf.Timestamp",
        ".google.protobuf.Duration",
        ".google.protobuf.Empty",
    ];

    fn package_of(module: &str) -> &'static str {
        match module {
            "v1" => ".caudal.v1",
            "mesh" => ".caudal.mesh.v1",
            "longrunning" => ".google.longrunning",
            "prost_types" => ".google.protobuf",
            _ => panic!("{module} is no package"),
        }
    }

    /// Fields that repeat or hold text, and messages that hold such, of all that is reached from `name`.
    fn needed(
        name: &str,
        messages: &BTreeMap<String, DescriptorProto>,
        found: &mut BTreeSet<(String, String)>,
    ) -> bool {
        let message = messages.get(name).unwrap_or_else(|| panic!("{name}"));
        let mut is_needed = false;
        for field in &message.field {
            let of_message = field.r#type() == Type::Message;
            let below = of_message
                && !WELL_KNOWN.contains(&field.type_name())
                && needed(field.type_name(), messages, found);
            let holds_text = matches!(field.r#type(), Type::String | Type::Bytes);
            let is_json = field.type_name() == ".google.protobuf.Struct";
            if below || holds_text || is_json || field.label() == Label::Repeated {
                is_needed = true;
                let listed = match field.oneof_index {
                    Some(index) if !field.proto3_optional() => {
                        let index = usize::try_from(index).unwrap();
                        message.oneof_decl[index].name().to_owned()
                    }
                    _ => field.name().to_owned(),
                };
                found.insert((name.to_owned(), listed));
            }
        }
        is_needed
    }

    #[test]
    fn every_field_that_repeats_or_holds_text_is_in_the_table() {
        let files = FileDescriptorSet::decode(caudal_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut messages = BTreeMap::new();
        let mut requests = BTreeSet::new();
        for file in &files.file {
            for message in &file.message_type {
                let name = format!(".{}.{}", file.package(), message.name());
                messages.insert(name, message.clone());
            }
            for service in &file.service {
                if OTHERS.contains(&service.name()) {
                    continue;
                }
                for method in &service.method {
                    let request = method.input_type();
                    let name = request.rsplit_once('.').unwrap().1;
                    if !NOT_READ.contains(&name) {
                        requests.insert(request.to_owned());
                    }
                }
            }
        }
        assert!(requests.len() > 40, "{requests:?}");
        let mut wanted = BTreeSet::new();
        for request in &requests {
            needed(request, &messages, &mut wanted);
        }
        let listed: BTreeSet<(String, String)> = TABLE
            .iter()
            .flat_map(|(module, message, fields)| {
                let name = format!("{}.{message}", package_of(module));
                fields.iter().map(move |(field, _)| {
                    (name.clone(), field.trim_start_matches("r#").to_owned())
                })
            })
            .collect();
        let missing: Vec<_> = wanted.difference(&listed).collect();
        let needless: Vec<_> = listed.difference(&wanted).collect();
        assert!(missing.is_empty(), "not bounded: {missing:?}");
        assert!(needless.is_empty(), "of no request: {needless:?}");
    }

    fn fields(request: &impl Bounded) -> Vec<String> {
        let refusal = check(request).err();
        let violations = refusal
            .map(|refusal| refusal.violations)
            .unwrap_or_default();
        violations.into_iter().map(|one| one.field).collect()
    }

    #[test]
    fn what_is_too_much_is_named_by_its_field_and_no_more_of_it_is_looked_at() {
        let entry = v1::Entry {
            path: "x".repeat(PATH + 1),
            kind: Some(v1::entry::Kind::File(v1::FileEntry {
                sha256: vec![0; 33],
                ..v1::FileEntry::default()
            })),
        };
        let mut page = v1::AddEntriesRequest {
            entries: vec![v1::Entry::default(), entry.clone()],
            ..v1::AddEntriesRequest::default()
        };
        assert_eq!(fields(&page), ["entries[1].path", "entries[1].file.sha256"]);
        page.entries = vec![entry.clone(); limits::MAX_ENTRIES_PER_PAGE];
        assert_eq!(fields(&page).len(), limits::MAX_VIOLATIONS);
        page.entries.push(entry);
        assert_eq!(fields(&page), ["entries"]);

        let selector = v1::FileSelector {
            states: vec![1; 10],
            reasons: vec!["r".repeat(65); 2],
            ..v1::FileSelector::default()
        };
        let act = v1::OperatorServiceCancelFilesRequest {
            files: Some(v1::CancelFilesRequest {
                selector: Some(selector),
                ..v1::CancelFilesRequest::default()
            }),
            ..v1::OperatorServiceCancelFilesRequest::default()
        };
        assert_eq!(
            fields(&act),
            [
                "files.selector.states",
                "files.selector.reasons[0]",
                "files.selector.reasons[1]"
            ]
        );
    }

    #[test]
    fn every_text_is_held_against_letters_that_steer_a_screen_but_those_that_say_why_not() {
        let mut unchecked = Vec::new();
        for (_, message, fields) in TABLE {
            for (field, kind) in *fields {
                if ["raw", "whole"].contains(kind) {
                    unchecked.push(format!("{message}.{field}"));
                }
            }
        }
        // Paths and what is held against them have rules of their own, and what services say of a failure is made plain
        // where it is kept.
        assert_eq!(
            unchecked,
            [
                "Entry.path",
                "FileSelector.path_glob",
                "Waiting.detail",
                "Warning.words",
                "Failed.detail",
                "TusFacts.metadata",
                "TusFacts.path",
            ]
        );
    }

    #[test]
    fn a_text_that_steers_a_screen_is_named_by_its_field_wherever_it_stands() {
        let steering = || "a\u{1b}[2J".to_owned();
        let file = v1::LeftOut {
            cause: steering(),
            ..v1::LeftOut::default()
        };
        let left_out = v1::LeaveOutFilesRequest {
            files: vec![v1::LeftOut::default(), file],
            ..v1::LeaveOutFilesRequest::default()
        };
        assert_eq!(fields(&left_out), ["files[1].cause"]);
        let selector = v1::FileSelector {
            reasons: vec![steering()],
            ..v1::FileSelector::default()
        };
        let list = v1::ListFilesRequest {
            selector: Some(selector),
            ..v1::ListFilesRequest::default()
        };
        assert_eq!(fields(&list), ["selector.reasons[0]"]);
        let object = |name: String, text: String| prost_types::Struct {
            fields: [(
                name,
                prost_types::Value {
                    kind: Some(prost_types::value::Kind::ListValue(
                        prost_types::ListValue {
                            values: vec![prost_types::Value {
                                kind: Some(prost_types::value::Kind::StringValue(text)),
                            }],
                        },
                    )),
                },
            )]
            .into(),
        };
        let request = |metadata| v1::CreateBatchRequest {
            batch: Some(v1::Batch {
                metadata: Some(metadata),
                ..v1::Batch::default()
            }),
            ..v1::CreateBatchRequest::default()
        };
        // A caller's own data is kept as it is: it holds names of disks too.
        for data in [
            object("a".to_owned(), steering()),
            object(steering(), "two\nlines".to_owned()),
        ] {
            assert_eq!(check(&request(data)), Ok(()));
        }
    }

    #[test]
    fn no_object_that_is_short_as_json_is_too_long_on_the_wire() {
        let number = |number| prost_types::Value {
            kind: Some(prost_types::value::Kind::NumberValue(number)),
        };
        let list = prost_types::ListValue {
            values: vec![number(1.0); limits::MAX_BATCH_METADATA_BYTES / 2 - 4],
        };
        let object = prost_types::Struct {
            fields: [(
                "n".to_owned(),
                prost_types::Value {
                    kind: Some(prost_types::value::Kind::ListValue(list)),
                },
            )]
            .into(),
        };
        let json = caudal_proto::convert::json_from_struct(&object).unwrap();
        let json = serde_json::Value::Object(json).to_string();
        assert!(json.len() <= limits::MAX_BATCH_METADATA_BYTES);
        let request = |metadata| v1::CreateBatchRequest {
            batch: Some(v1::Batch {
                metadata: Some(metadata),
                ..v1::Batch::default()
            }),
            ..v1::CreateBatchRequest::default()
        };
        assert_eq!(check(&request(object)), Ok(()));
        let long = prost_types::Struct {
            fields: (0..limits::MAX_BATCH_METADATA_BYTES)
                .map(|n| (n.to_string(), number(1.0)))
                .collect(),
        };
        assert_eq!(fields(&request(long)), ["batch.metadata"]);
    }
}
