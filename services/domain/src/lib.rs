//! What Caudal is about, with no I/O, no async, no clock and no randomness: ids, paths, state machines, the route,
//! limits, keys, reasons and refusals. Every other crate knows this one; this one knows nobody.

pub mod address;
pub mod batch_state;
pub mod catalogue;
pub mod file_state;
pub mod ids;
pub mod keys;
pub mod language;
pub mod limits;
pub mod media_kind;
pub mod media_type;
pub mod names;
pub mod outcome;
pub mod path;
pub mod path_load;
pub mod plain_text;
pub mod reason;
pub mod refusal;
pub mod retry;
pub mod route;
pub mod stage;
pub mod stage_set;
pub mod stage_version;
pub mod text_encoding;
pub mod trace;

pub use address::shown_address;
pub use batch_state::{
    BatchFacts, BatchState, CountUnderflow, FileCounts, FolderCounts, FolderState, run_after,
};
pub use catalogue::catalogue_markdown;
pub use file_state::{FileEvent, FileState, IllegalTransition};
pub use ids::{BatchId, BatchRef, FileRef, Generation, InvalidId, Target, TenantId, Token};
pub use keys::{
    InvalidArtifactName, artifact_key, artifact_prefix, check_artifact_name, final_key,
    landing_key, landing_prefix, tenant_prefix, tus_bytes_key, tus_prefix, tus_tail_key,
};
pub use language::Language;
pub use media_kind::MediaKind;
pub use media_type::{MediaType, Reading, TextReader};
pub use names::{
    NameError, batch_name, file_name, folder_name, operation_name, parse_batch_name,
    parse_file_name, parse_folder_name, parse_operation_name, parse_tenant_name, tenant_name,
};
pub use outcome::{Outcome, Warning, WarningCode};
pub use path::{PathError, RelativePath};
pub use path_load::{PageFull, PathLoad};
pub use plain_text::{plain, steers_a_screen};
pub use reason::Reason;
pub use refusal::{FieldViolation, QuotaViolation, Refusal, RefusalKind, Violations};
pub use retry::{InvalidRetryPolicy, MAX_KILLS, RetryPolicy};
pub use route::{Hop, Recorded, next_hop, route};
pub use stage::{Stage, StageProfile, UnknownStage};
pub use stage_set::StageSet;
pub use stage_version::{InvalidStageVersion, StageVersion, idempotency_key};
pub use text_encoding::TextEncoding;
pub use trace::{file_trace_id, sampled};
