//! A bulk operation as `google.longrunning.Operation`.

use caudal_domain::names;
use caudal_proto::convert::timestamp_from_micros;
use caudal_proto::longrunning::Operation;
use caudal_proto::longrunning::operation::Result as Ended;
use caudal_proto::status::status_of;
use caudal_proto::v1::{BulkKind, BulkMetadata, BulkResult, FileSelector, RefusedFiles};
use prost::Message;

use crate::store::operations::{FileVerb, OperationRow, OperationState};

/// An operation on the wire.
pub(crate) fn operation(row: &OperationRow) -> Operation {
    let refused: Vec<RefusedFiles> = row
        .refused
        .iter()
        .map(|(reason, count)| RefusedFiles {
            reason: reason.clone(),
            count: saturated(*count),
        })
        .collect();
    let kind = match row.verb {
        FileVerb::Retry { .. } => BulkKind::Retry,
        FileVerb::Cancel => BulkKind::Cancel,
        FileVerb::Reprocess { .. } => BulkKind::Reprocess,
        FileVerb::Dismiss => BulkKind::Dismiss,
    };
    let metadata = BulkMetadata {
        kind: kind.into(),
        selector: FileSelector::decode(row.selector.as_slice()).ok(),
        matched: saturated(row.matched),
        done: saturated(row.done),
        refused: refused.clone(),
        create_time: Some(timestamp_from_micros(row.created_at.0)),
        update_time: Some(timestamp_from_micros(row.updated_at.0)),
    };
    let ended = match row.state {
        OperationState::Running => None,
        OperationState::Succeeded => Some(Ended::Response(packed(
            "caudal.v1.BulkResult",
            &BulkResult {
                done: saturated(row.done),
                refused,
            },
        ))),
        OperationState::Cancelled => Some(Ended::Error(status_of(
            tonic::Code::Cancelled,
            "the operation was cancelled; what it had done stays done",
        ))),
        OperationState::Failed => Some(Ended::Error(status_of(
            tonic::Code::Internal,
            "the operation was given up because its slices failed again and again; what it had done stays done",
        ))),
    };
    Operation {
        name: names::operation_name(row.id),
        metadata: Some(packed("caudal.v1.BulkMetadata", &metadata)),
        done: ended.is_some(),
        result: ended,
    }
}

fn packed(name: &str, message: &impl Message) -> prost_types::Any {
    prost_types::Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: message.encode_to_vec(),
    }
}

/// A count on the wire.
pub(crate) fn saturated(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
