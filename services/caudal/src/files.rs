//! `caudal files`: the files of a batch, how each ended and why.

use std::io::{self, Write as _};
use std::process::ExitCode;

use caudal_domain::plain;
use caudal_proto::convert::json_from_struct;
use caudal_sdk::v1;
use serde::Serialize;

use crate::answer;
use crate::arguments::Output;
use crate::cli::FilesArguments;
use crate::failure::Failure;
use crate::report::{file_state, outcome};

/// Whole records are asked for, so pages are small.
const FILES_A_PAGE: i32 = 100;

/// One file as scripts read it.
#[derive(Debug, Serialize)]
struct Row {
    path: String,
    state: &'static str,
    outcome: Option<&'static str>,
    reason: Option<String>,
    words: Option<String>,
    /// What the stage said, or whoever left the file out.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    media_type: String,
    /// The codes of what was not done.
    warnings: Vec<String>,
    /// What was found, of a PROCESSED file.
    record: Option<serde_json::Map<String, serde_json::Value>>,
}

impl From<v1::File> for Row {
    fn from(file: v1::File) -> Self {
        let state = file_state(file.state());
        let outcome = outcome(file.outcome());
        let codes: Vec<String> = file
            .warnings
            .iter()
            .map(|warning| warning.code.clone())
            .collect();
        let record = file.record.as_ref().map(json_from_struct);
        let warnings = || {
            let words: Vec<String> = file
                .warnings
                .into_iter()
                .map(|warning| warning.words)
                .collect();
            (!words.is_empty()).then(|| words.join("; "))
        };
        let (reason, words, detail) = match file.reason {
            Some(reason) => {
                let detail = Some(reason.detail).filter(|detail| !detail.is_empty());
                (Some(reason.code), Some(reason.words), detail)
            }
            None => (None, warnings(), None),
        };
        Self {
            path: file.path,
            state,
            outcome,
            reason,
            words,
            detail,
            media_type: file.media_type,
            warnings: codes,
            record: record.and_then(Result::ok),
        }
    }
}

pub(crate) async fn run(arguments: FilesArguments) -> Result<ExitCode, Failure> {
    let client = arguments.gateway.connect().await?;
    let output = arguments.output.output;
    let mut request = v1::ListFilesRequest {
        selector: Some(v1::FileSelector {
            batch: arguments.batch,
            metadata: arguments.metadata.matches,
            ..v1::FileSelector::default()
        }),
        page_size: FILES_A_PAGE,
        page_token: String::new(),
        view: v1::FileView::Full.into(),
    };
    let mut rows_written: u64 = 0;
    loop {
        let page = client.list_files(request.clone()).await?;
        let mut text = Vec::new();
        for file in page.files {
            write_row(&mut text, output, rows_written, &Row::from(file)).map_err(cannot_write)?;
            rows_written += 1;
        }
        let is_last = page.next_page_token.is_empty();
        if is_last && output == Output::Json {
            text.extend_from_slice(if rows_written == 0 { b"[]\n" } else { b"\n]\n" });
        }
        answer::bytes(&text);
        if is_last {
            return Ok(ExitCode::SUCCESS);
        }
        request.page_token = page.next_page_token;
    }
}

fn write_row(out: &mut Vec<u8>, output: Output, rows_before: u64, row: &Row) -> io::Result<()> {
    match output {
        Output::Json => {
            out.extend_from_slice(if rows_before == 0 { b"[\n" } else { b",\n" });
            serde_json::to_writer(out, row)?;
        }
        Output::Text => {
            let ended = row.outcome.or(row.reason.as_deref()).unwrap_or_default();
            write!(
                out,
                "{:<10} {ended:<20} {}",
                row.state,
                row.path.escape_debug()
            )?;
            match (&row.words, &row.detail) {
                (Some(words), Some(detail)) => write!(out, "  ({words}: {})", plain(detail))?,
                (Some(words), None) => write!(out, "  ({words})")?,
                (None, _) => {}
            }
            writeln!(out)?;
        }
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "shaped for map_err")]
fn cannot_write(error: io::Error) -> Failure {
    Failure::broken(format!("cannot write the answer: {error}"))
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;
    use caudal_proto::convert::struct_from_json;

    #[test]
    fn a_failed_file_tells_its_reason_and_a_partial_one_its_warnings() {
        let failed = v1::File {
            path: "a.pdf".into(),
            state: v1::FileState::Failed.into(),
            reason: Some(v1::Reason {
                code: "CORRUPT_DOCUMENT".into(),
                words: "the document is damaged".into(),
                detail: "no\u{1b} trailer".into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let partial = v1::File {
            path: "b.png".into(),
            state: v1::FileState::Processed.into(),
            outcome: v1::Outcome::Partial.into(),
            media_type: "image/png".into(),
            warnings: vec![v1::Warning {
                code: "NO_CAPTION_PROVIDER".into(),
                words: "no caption provider".into(),
                ..Default::default()
            }],
            record: Some(
                struct_from_json(&serde_json::Map::from_iter([("size".into(), 7.into())])).unwrap(),
            ),
            ..Default::default()
        };
        let mut text = Vec::new();
        write_row(&mut text, Output::Json, 0, &failed.into()).unwrap();
        write_row(&mut text, Output::Json, 1, &partial.into()).unwrap();
        text.extend_from_slice(b"\n]\n");
        let rows: serde_json::Value = serde_json::from_slice(&text).unwrap();
        assert_eq!(
            rows,
            serde_json::json!([
                {"path": "a.pdf", "state": "FAILED", "outcome": null, "reason": "CORRUPT_DOCUMENT",
                 "words": "the document is damaged", "detail": "no\u{1b} trailer", "media_type": "", "warnings": [], "record": null},
                {"path": "b.png", "state": "PROCESSED", "outcome": "PARTIAL", "reason": null,
                 "words": "no caption provider", "media_type": "image/png",
                 "warnings": ["NO_CAPTION_PROVIDER"], "record": {"size": 7}},
            ])
        );
    }
}
