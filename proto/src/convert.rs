//! Between the generated messages and the domain: what arrives is checked here once, and is a domain type afterwards.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use caudal_domain::{
    BatchId, BatchState, FileCounts, FileRef, FileState, InvalidId, Language, Outcome, Reason,
    Refusal, Stage, StageVersion, TenantId, Token, Warning, WarningCode,
};
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Timestamp, Value};

use crate::mesh::v1::{BatchKey, FileTokens};
use crate::{mesh, v1};

/// Leaves out of a batch what its tenant says to its own people: whoever comes with an upload token is none of them.
pub fn leave_out_words(batch: &mut v1::Batch) {
    batch.display_name.clear();
    batch.metadata = None;
    if let Some(pause) = &mut batch.pause {
        pause.who.clear();
        pause.note.clear();
    }
}

/// A value of a message that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// A number that names nothing in its enum.
    #[error("{number} is no {what}")]
    UnknownNumber {
        /// The enum, in words.
        what: &'static str,
        /// What came.
        number: i32,
    },
    /// A text that names nothing.
    #[error("`{text}` is no {what}")]
    UnknownText {
        /// What it should name.
        what: &'static str,
        /// What came, cut to 64 characters.
        text: String,
    },
    /// Bytes that are no id.
    #[error("{what}: {source}")]
    Id {
        /// Which id.
        what: &'static str,
        /// Why not.
        source: InvalidId,
    },
    /// A checksum of another length.
    #[error("a sha256 has 32 bytes, not {0}")]
    Sha256Length(usize),
    /// Columns that do not belong together.
    #[error(
        "columns differ in length: batch_index has {batch_index}, ordinal {ordinal}, token {token}"
    )]
    UnequalColumns {
        /// Length of that column.
        batch_index: usize,
        /// Length of that column.
        ordinal: usize,
        /// Length of that column.
        token: usize,
    },
    /// More rows than the call takes.
    #[error("{got} {what}, at most {max} are taken")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// What came.
        got: usize,
        /// What is allowed.
        max: usize,
    },
    /// A row that points to no batch.
    #[error("batch_index[{row}] is {index}, but there are {batches} batches")]
    BatchIndex {
        /// Which row.
        row: usize,
        /// What it says.
        index: u32,
        /// How many there are.
        batches: usize,
    },
    /// A token that was never given out.
    #[error("token[{row}] is {token}: tokens are from 1 to 2^63 - 1")]
    Token {
        /// Which row.
        row: usize,
        /// What came.
        token: u64,
    },
    /// A time or duration out of range.
    #[error("{0} is out of range")]
    Time(&'static str),
    /// A number that JSON cannot write.
    #[error("a number is not finite")]
    NotFinite,
    /// A text that no database keeps in JSON.
    #[error("a text holds the character U+0000")]
    Nul,
    /// A value without a kind, or nested too deep.
    #[error("a value has no kind, or is nested more than {MAX_JSON_DEPTH} deep")]
    NoKind,
}

impl ConvertError {
    /// Says which field of the request it is.
    #[must_use]
    pub fn refusal(&self, field: &str) -> Refusal {
        Refusal::invalid(field, self.to_string())
    }
}

fn unknown_text(what: &'static str, text: &str) -> ConvertError {
    const SHOWN_CHARACTERS: usize = 64;
    ConvertError::UnknownText {
        what,
        text: text.chars().take(SHOWN_CHARACTERS).collect(),
    }
}

// Enums: the numbers of the domain and of the protos are the same; tests below hold them together.

/// For the wire.
#[must_use]
pub fn file_state_to_proto(state: FileState) -> v1::FileState {
    match state {
        FileState::Pending => v1::FileState::Pending,
        FileState::Uploading => v1::FileState::Uploading,
        FileState::Uploaded => v1::FileState::Uploaded,
        FileState::Queued => v1::FileState::Queued,
        FileState::Processing => v1::FileState::Processing,
        FileState::Processed => v1::FileState::Processed,
        FileState::Retrying => v1::FileState::Retrying,
        FileState::Failed => v1::FileState::Failed,
        FileState::Cancelled => v1::FileState::Cancelled,
    }
}

/// From the wire; UNSPECIFIED is an error.
///
/// # Errors
/// When the number names no state.
pub fn file_state_from_proto(number: i32) -> Result<FileState, ConvertError> {
    u8::try_from(number)
        .ok()
        .and_then(FileState::from_code)
        .ok_or(ConvertError::UnknownNumber {
            what: "state of a file",
            number,
        })
}

/// For the wire.
#[must_use]
pub fn batch_state_to_proto(state: BatchState) -> v1::BatchState {
    match state {
        BatchState::Open => v1::BatchState::Open,
        BatchState::Running => v1::BatchState::Running,
        BatchState::Succeeded => v1::BatchState::Succeeded,
        BatchState::Failed => v1::BatchState::Failed,
        BatchState::Cancelled => v1::BatchState::Cancelled,
    }
}

/// From the wire; UNSPECIFIED is an error.
///
/// # Errors
/// When the number names no state.
pub fn batch_state_from_proto(number: i32) -> Result<BatchState, ConvertError> {
    u8::try_from(number)
        .ok()
        .and_then(BatchState::from_code)
        .ok_or(ConvertError::UnknownNumber {
            what: "state of a batch",
            number,
        })
}

/// For the wire.
#[must_use]
pub fn outcome_to_proto(outcome: Option<Outcome>) -> v1::Outcome {
    match outcome {
        None => v1::Outcome::Unspecified,
        Some(Outcome::Complete) => v1::Outcome::Complete,
        Some(Outcome::Partial) => v1::Outcome::Partial,
        Some(Outcome::StoredOnly) => v1::Outcome::StoredOnly,
    }
}

/// From the wire; UNSPECIFIED is none.
///
/// # Errors
/// When the number names no outcome.
pub fn outcome_from_proto(number: i32) -> Result<Option<Outcome>, ConvertError> {
    if number == 0 {
        return Ok(None);
    }
    u8::try_from(number)
        .ok()
        .and_then(Outcome::from_code)
        .map(Some)
        .ok_or(ConvertError::UnknownNumber {
            what: "outcome",
            number,
        })
}

/// A stage by its name.
///
/// # Errors
/// When there is none of that name.
pub fn stage_from_name(name: &str) -> Result<Stage, ConvertError> {
    Stage::from_name(name).ok_or_else(|| unknown_text("stage", name))
}

/// For the wire.
#[must_use]
pub fn warning_to_proto(warning: &Warning) -> v1::Warning {
    v1::Warning {
        code: warning.code.code().to_owned(),
        stage: warning.stage.name().to_owned(),
        words: warning.words.clone(),
    }
}

/// From the wire.
///
/// # Errors
/// When the code or the stage is unknown.
pub fn warning_from_proto(warning: &v1::Warning) -> Result<Warning, ConvertError> {
    let code = WarningCode::from_code(&warning.code)
        .ok_or_else(|| unknown_text("warning", &warning.code))?;
    Ok(Warning::new(
        code,
        stage_from_name(&warning.stage)?,
        warning.words.clone(),
    ))
}

/// A reason in the words of the reader. `stage` is where it happened, when the reason's own stage does not say it.
#[must_use]
pub fn reason_to_proto(
    reason: Reason,
    stage: Option<Stage>,
    detail: &str,
    language: Language,
) -> v1::Reason {
    let detail = if reason.is_for_operators() {
        ""
    } else {
        detail
    };
    let stage = stage.or(reason.stage());
    v1::Reason {
        code: reason.code().to_owned(),
        stage: stage.map_or_else(String::new, |stage| stage.name().to_owned()),
        words: reason.words(language).to_owned(),
        remedy: reason.remedy(language).to_owned(),
        retryable: reason.retryable(),
        needs_bytes: reason.needs_bytes(),
        detail: detail.to_owned(),
    }
}

/// A reason by its code.
///
/// # Errors
/// When the catalogue has none of that code.
pub fn reason_from_code(code: &str) -> Result<Reason, ConvertError> {
    Reason::from_code(code).ok_or_else(|| unknown_text("reason", code))
}

/// For the wire, without the stage, which stands beside it.
#[must_use]
pub fn stage_version_to_proto(version: &StageVersion) -> mesh::v1::StageVersion {
    mesh::v1::StageVersion {
        code: version.code.clone(),
        model: version.model.clone(),
        options: version.options.clone(),
    }
}

/// From the wire.
#[must_use]
pub fn stage_version_from_proto(stage: Stage, version: &mesh::v1::StageVersion) -> StageVersion {
    StageVersion::new(stage, &version.code)
        .with_model(&version.model)
        .with_options(&version.options)
}

/// For the wire.
#[must_use]
pub fn counts_to_proto(counts: &FileCounts) -> v1::FileCounts {
    v1::FileCounts {
        total: counts.total(),
        pending: counts.pending,
        uploading: counts.uploading,
        uploaded: counts.uploaded,
        queued: counts.queued,
        processing: counts.processing,
        retrying: counts.retrying,
        processed: counts.processed,
        failed: counts.failed,
        cancelled: counts.cancelled,
        complete: counts.complete,
        partial: counts.partial,
        stored_only: counts.stored_only,
    }
}

// Ids, checksums, times.

/// A tenant from 16 bytes.
///
/// # Errors
/// When they are not 16.
pub fn tenant_from_bytes(bytes: &[u8]) -> Result<TenantId, ConvertError> {
    TenantId::from_slice(bytes).map_err(|source| ConvertError::Id {
        what: "tenant",
        source,
    })
}

/// A batch from 16 bytes.
///
/// # Errors
/// When they are not 16.
pub fn batch_from_bytes(bytes: &[u8]) -> Result<BatchId, ConvertError> {
    BatchId::from_slice(bytes).map_err(|source| ConvertError::Id {
        what: "batch",
        source,
    })
}

/// A checksum; empty is none.
///
/// # Errors
/// When there are neither 0 nor 32 bytes.
pub fn sha256_from_bytes(bytes: &[u8]) -> Result<Option<[u8; 32]>, ConvertError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    bytes
        .try_into()
        .map(Some)
        .map_err(|_| ConvertError::Sha256Length(bytes.len()))
}

const MICROS_PER_SECOND: i64 = 1_000_000;

/// A time from microseconds since 1970, as the database keeps it.
#[must_use]
pub fn timestamp_from_micros(micros: i64) -> Timestamp {
    let nanos = micros.rem_euclid(MICROS_PER_SECOND) * 1000;
    Timestamp {
        seconds: micros.div_euclid(MICROS_PER_SECOND),
        nanos: i32::try_from(nanos).unwrap_or_default(),
    }
}

/// Microseconds since 1970; what is finer is cut off.
///
/// # Errors
/// When the nanoseconds are not below a second, or the year is not from 1 to 9999.
pub fn micros_from_timestamp(timestamp: &Timestamp) -> Result<i64, ConvertError> {
    const YEAR_1: i64 = -62_135_596_800;
    const YEAR_10_000: i64 = 253_402_300_800;
    let out_of_range = ConvertError::Time("a timestamp");
    if !(YEAR_1..YEAR_10_000).contains(&timestamp.seconds)
        || !(0..1_000_000_000).contains(&timestamp.nanos)
    {
        return Err(out_of_range);
    }
    Ok(timestamp.seconds * MICROS_PER_SECOND + i64::from(timestamp.nanos) / 1000)
}

/// For the wire; longer than the type can hold is its longest.
#[must_use]
pub fn duration_to_proto(duration: Duration) -> prost_types::Duration {
    const LONGEST_SECONDS: u64 = 315_576_000_000;
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs().min(LONGEST_SECONDS)).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

/// From the wire.
///
/// # Errors
/// When it is negative or its nanoseconds are not below a second.
pub fn duration_from_proto(duration: &prost_types::Duration) -> Result<Duration, ConvertError> {
    let out_of_range = || ConvertError::Time("a duration");
    let seconds = u64::try_from(duration.seconds).map_err(|_| out_of_range())?;
    let nanos = u32::try_from(duration.nanos).map_err(|_| out_of_range())?;
    if nanos >= 1_000_000_000 {
        return Err(out_of_range());
    }
    Ok(Duration::new(seconds, nanos))
}

// Columns of files.

/// Files with their tokens, in columns: each batch is named once.
#[must_use]
pub fn file_tokens_to_proto(files: impl IntoIterator<Item = (FileRef, Token)>) -> FileTokens {
    let files = files.into_iter();
    let expected = files.size_hint().0;
    let mut columns = FileTokens {
        batches: Vec::new(),
        batch_index: Vec::with_capacity(expected),
        ordinal: Vec::with_capacity(expected),
        token: Vec::with_capacity(expected),
    };
    let mut indexes: HashMap<(TenantId, BatchId), u32> = HashMap::new();
    let mut last: Option<((TenantId, BatchId), u32)> = None;
    for (file, token) in files {
        let key = (file.tenant, file.batch);
        let index = match last {
            Some((last_key, last_index)) if last_key == key => last_index,
            _ => *indexes.entry(key).or_insert_with(|| {
                columns.batches.push(BatchKey {
                    tenant: Bytes::copy_from_slice(file.tenant.as_bytes()),
                    batch: Bytes::copy_from_slice(file.batch.as_bytes()),
                });
                u32::try_from(columns.batches.len() - 1).unwrap_or(u32::MAX)
            }),
        };
        last = Some((key, index));
        columns.batch_index.push(index);
        columns.ordinal.push(file.ordinal);
        columns.token.push(token.get());
    }
    columns
}

/// The files of columns, in order; at most `max`. None at all is no error here.
///
/// # Errors
/// When the columns differ in length, are too long, or hold a value that cannot be: nothing of them is trusted.
pub fn file_tokens_from_proto(
    columns: &FileTokens,
    max: usize,
) -> Result<Vec<(FileRef, Token)>, ConvertError> {
    let rows = columns.ordinal.len();
    if columns.batch_index.len() != rows || columns.token.len() != rows {
        return Err(ConvertError::UnequalColumns {
            batch_index: columns.batch_index.len(),
            ordinal: rows,
            token: columns.token.len(),
        });
    }
    if rows > max {
        return Err(ConvertError::TooMany {
            what: "files",
            got: rows,
            max,
        });
    }
    if columns.batches.len() > rows {
        return Err(ConvertError::TooMany {
            what: "batches",
            got: columns.batches.len(),
            max: rows,
        });
    }
    let mut batches = Vec::with_capacity(columns.batches.len());
    for key in &columns.batches {
        batches.push((
            tenant_from_bytes(&key.tenant)?,
            batch_from_bytes(&key.batch)?,
        ));
    }
    let mut files = Vec::with_capacity(rows);
    for row in 0..rows {
        let index = columns.batch_index[row];
        let Some((tenant, batch)) = batches.get(index as usize) else {
            return Err(ConvertError::BatchIndex {
                row,
                index,
                batches: batches.len(),
            });
        };
        let token = columns.token[row];
        if token == 0 || i64::try_from(token).is_err() {
            return Err(ConvertError::Token { row, token });
        }
        files.push((
            FileRef::new(*tenant, *batch, columns.ordinal[row]),
            Token::new(token),
        ));
    }
    Ok(files)
}

// JSON objects. A protobuf Struct knows numbers as 64-bit floats only.

/// How deep a JSON value may be nested on its way to or from a Struct. A level is three messages on the wire (Struct,
/// entry, Value), and decoders stop at 100 nested messages.
pub const MAX_JSON_DEPTH: usize = 24;

/// A JSON object as a Struct. Whole numbers beyond 2^53 lose their last digits, as the type demands.
///
/// # Errors
/// When it is nested too deep.
pub fn struct_from_json(
    object: &serde_json::Map<String, serde_json::Value>,
) -> Result<Struct, ConvertError> {
    struct_at(object, MAX_JSON_DEPTH)
}

fn struct_at(
    object: &serde_json::Map<String, serde_json::Value>,
    depth: usize,
) -> Result<Struct, ConvertError> {
    let mut fields = std::collections::BTreeMap::new();
    for (name, value) in object {
        fields.insert(name.clone(), value_at(value, depth)?);
    }
    Ok(Struct { fields })
}

fn value_at(value: &serde_json::Value, depth: usize) -> Result<Value, ConvertError> {
    let depth = depth.checked_sub(1).ok_or(ConvertError::NoKind)?;
    let kind = match value {
        serde_json::Value::Null => Kind::NullValue(0),
        serde_json::Value::Bool(value) => Kind::BoolValue(*value),
        serde_json::Value::Number(number) => {
            Kind::NumberValue(number.as_f64().ok_or(ConvertError::NotFinite)?)
        }
        serde_json::Value::String(text) => Kind::StringValue(text.clone()),
        serde_json::Value::Array(items) => {
            let values: Result<Vec<_>, _> =
                items.iter().map(|item| value_at(item, depth)).collect();
            Kind::ListValue(ListValue { values: values? })
        }
        serde_json::Value::Object(object) => Kind::StructValue(struct_at(object, depth)?),
    };
    Ok(Value { kind: Some(kind) })
}

/// A Struct as a JSON object. Whole numbers are written without a fraction.
///
/// # Errors
/// When a number is not finite, a text holds U+0000, a value has no kind, or it is nested too deep.
pub fn json_from_struct(
    object: &Struct,
) -> Result<serde_json::Map<String, serde_json::Value>, ConvertError> {
    json_object_at(object, MAX_JSON_DEPTH)
}

fn json_object_at(
    object: &Struct,
    depth: usize,
) -> Result<serde_json::Map<String, serde_json::Value>, ConvertError> {
    let mut json = serde_json::Map::new();
    for (name, value) in &object.fields {
        json.insert(without_nul(name)?, json_at(value, depth)?);
    }
    Ok(json)
}

fn json_at(value: &Value, depth: usize) -> Result<serde_json::Value, ConvertError> {
    let depth = depth.checked_sub(1).ok_or(ConvertError::NoKind)?;
    Ok(match value.kind.as_ref().ok_or(ConvertError::NoKind)? {
        Kind::NullValue(_) => serde_json::Value::Null,
        Kind::BoolValue(value) => serde_json::Value::Bool(*value),
        Kind::NumberValue(number) => json_number(*number)?,
        Kind::StringValue(text) => serde_json::Value::String(without_nul(text)?),
        Kind::ListValue(list) => {
            let items: Result<Vec<_>, _> = list
                .values
                .iter()
                .map(|item| json_at(item, depth))
                .collect();
            serde_json::Value::Array(items?)
        }
        Kind::StructValue(object) => serde_json::Value::Object(json_object_at(object, depth)?),
    })
}

/// No database keeps U+0000 in JSON.
fn without_nul(text: &str) -> Result<String, ConvertError> {
    match text.contains('\0') {
        true => Err(ConvertError::Nul),
        false => Ok(text.to_owned()),
    }
}

/// A number as JSON: whole ones are written without a fraction.
///
/// # Errors
/// When it is not finite.
pub fn json_number(number: f64) -> Result<serde_json::Value, ConvertError> {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() <= EXACT {
        return Ok(serde_json::Value::from(number as i64));
    }
    serde_json::Number::from_f64(number)
        .map(serde_json::Value::Number)
        .ok_or(ConvertError::NotFinite)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    fn file(batch: u8, ordinal: u32) -> FileRef {
        let tenant = TenantId::from_slice(&[batch % 3; 16]).unwrap();
        FileRef::new(tenant, BatchId::from_slice(&[batch; 16]).unwrap(), ordinal)
    }

    #[test]
    fn the_numbers_of_the_domain_are_the_numbers_of_the_protos() {
        for state in FileState::ALL {
            assert_eq!(file_state_to_proto(state) as i32, i32::from(state.code()));
            assert_eq!(file_state_from_proto(i32::from(state.code())), Ok(state));
            let name = file_state_to_proto(state).as_str_name();
            assert_eq!(name, format!("FILE_STATE_{}", state.name()));
        }
        for state in BatchState::ALL {
            assert_eq!(batch_state_to_proto(state) as i32, i32::from(state.code()));
            assert_eq!(batch_state_from_proto(i32::from(state.code())), Ok(state));
        }
        for outcome in Outcome::ALL {
            assert_eq!(
                outcome_to_proto(Some(outcome)) as i32,
                i32::from(outcome.code())
            );
            assert_eq!(
                outcome_from_proto(i32::from(outcome.code())),
                Ok(Some(outcome))
            );
        }
        assert_eq!(outcome_from_proto(0), Ok(None));
        for wrong in [0, -1, 10, 256 + 1] {
            assert!(file_state_from_proto(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_warning_and_a_reason_travel() {
        let warning = Warning::plain(WarningCode::NoCaptionProvider, Stage::ImageProcessing);
        assert_eq!(warning_from_proto(&warning_to_proto(&warning)), Ok(warning));
        let reason = reason_to_proto(
            Reason::CorruptDocument,
            Some(Stage::ExtractText),
            "xref",
            Language::Es,
        );
        assert_eq!(reason.code, "CORRUPT_DOCUMENT");
        assert_eq!(reason.words, Reason::CorruptDocument.words(Language::Es));
        assert_eq!(reason_from_code(&reason.code), Ok(Reason::CorruptDocument));
        assert_eq!(
            reason_from_code("x").unwrap_err().to_string(),
            "`x` is no reason"
        );
    }

    #[test]
    fn columns_that_do_not_belong_together_are_refused() {
        let good = file_tokens_to_proto([(file(1, 0), Token::new(1)), (file(2, 9), Token::new(7))]);
        assert_eq!(file_tokens_from_proto(&good, 2).unwrap().len(), 2);
        assert!(matches!(
            file_tokens_from_proto(&good, 1),
            Err(ConvertError::TooMany { got: 2, max: 1, .. })
        ));
        let mut short = good.clone();
        short.token.pop();
        assert!(matches!(
            file_tokens_from_proto(&short, 9),
            Err(ConvertError::UnequalColumns { token: 1, .. })
        ));
        let mut outside = good.clone();
        outside.batch_index[1] = 2;
        assert!(matches!(
            file_tokens_from_proto(&outside, 9),
            Err(ConvertError::BatchIndex {
                row: 1,
                index: 2,
                batches: 2
            })
        ));
        for token in [0, u64::MAX] {
            let mut wrong = good.clone();
            wrong.token[0] = token;
            assert_eq!(
                file_tokens_from_proto(&wrong, 9),
                Err(ConvertError::Token { row: 0, token })
            );
        }
        let mut no_id = good.clone();
        no_id.batches[0].tenant = Bytes::from_static(b"short");
        assert!(matches!(
            file_tokens_from_proto(&no_id, 9),
            Err(ConvertError::Id { what: "tenant", .. })
        ));
        let mut many_batches = good;
        many_batches.batches = vec![many_batches.batches[0].clone(); 3];
        assert!(matches!(
            file_tokens_from_proto(&many_batches, 9),
            Err(ConvertError::TooMany { got: 3, .. })
        ));
    }

    #[test]
    fn times_keep_their_microseconds_and_wrong_ones_are_refused() {
        let wrong = Timestamp {
            seconds: 0,
            nanos: 1_000_000_000,
        };
        assert!(micros_from_timestamp(&wrong).is_err());
        assert!(
            micros_from_timestamp(&Timestamp {
                seconds: i64::MAX,
                nanos: 0
            })
            .is_err()
        );
        assert!(
            duration_from_proto(&prost_types::Duration {
                seconds: -1,
                nanos: 0
            })
            .is_err()
        );
        let duration = Duration::from_millis(1500);
        assert_eq!(
            duration_from_proto(&duration_to_proto(duration)),
            Ok(duration)
        );
        assert!(duration_from_proto(&duration_to_proto(Duration::MAX)).is_ok());
    }

    #[test]
    fn a_json_object_comes_back_from_its_struct() {
        let json = serde_json::json!({"a": 1, "b": [true, null, "x", 1.5], "c": {"d": -3}});
        let object = json.as_object().unwrap();
        assert_eq!(
            &json_from_struct(&struct_from_json(object).unwrap()).unwrap(),
            object
        );
        let infinite = Struct {
            fields: [(
                "n".to_owned(),
                Value {
                    kind: Some(Kind::NumberValue(f64::INFINITY)),
                },
            )]
            .into(),
        };
        assert_eq!(json_from_struct(&infinite), Err(ConvertError::NotFinite));
        let mut deep = serde_json::json!(1);
        for _ in 0..MAX_JSON_DEPTH {
            deep = serde_json::json!({ "d": deep });
        }
        let record = Some(struct_from_json(deep.as_object().unwrap()).unwrap());
        let files = vec![v1::File {
            record,
            ..v1::File::default()
        }];
        let page = v1::ListFilesResponse {
            files,
            next_page_token: String::new(),
        };
        assert_eq!(
            v1::ListFilesResponse::decode(page.encode_to_vec().as_slice()).unwrap(),
            page
        );
        deep = serde_json::json!({ "d": deep });
        assert_eq!(
            struct_from_json(deep.as_object().unwrap()),
            Err(ConvertError::NoKind)
        );
    }

    proptest! {
        #[test]
        fn files_come_back_from_their_columns_in_order(
            rows in prop::collection::vec((0_u8..9, any::<u32>(), 1..=i64::MAX as u64), 0..60),
        ) {
            let files: Vec<_> =
                rows.iter().map(|(batch, ordinal, token)| (file(*batch, *ordinal), Token::new(*token))).collect();
            let columns = file_tokens_to_proto(files.clone());
            prop_assert!(columns.batches.len() <= 9);
            prop_assert_eq!(file_tokens_from_proto(&columns, 60).unwrap(), files);
        }

        #[test]
        fn microseconds_come_back_from_their_timestamp(micros in -62_135_596_800_000_000_i64..253_402_300_800_000_000) {
            prop_assert_eq!(micros_from_timestamp(&timestamp_from_micros(micros)), Ok(micros));
        }
    }
}
