//! Rows as messages.

use caudal_domain::{FileRef, FileState, Language, Refusal, Stage, StageSet, Token, names};
use caudal_proto::convert::{
    batch_state_to_proto, counts_to_proto, file_state_to_proto, outcome_to_proto, reason_to_proto,
    timestamp_from_micros, warning_to_proto,
};
use caudal_proto::status::status_parts;
use caudal_proto::v1;
use caudal_streams::Lane;
use serde::{Deserialize, Serialize};

use super::json::{json_struct, struct_of};
use super::record;
use crate::store::progress::{BatchRow, ProgressRow};
use crate::store::reads::FileView;
use crate::store::results::ResultRow;
pub(crate) use crate::store::signed;
use crate::store::stages::StageRow;
use crate::store::time::Micros;
use crate::waits::StageWait;

/// `batches.options` as JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct StoredOptions {
    pub(crate) stages: Vec<String>,
    pub(crate) start: i32,
}

/// The part of a batch that moves: what a change carries.
pub(crate) fn progress(row: &ProgressRow) -> v1::Batch {
    let pause = row.pause.as_ref().map(|pause| v1::Pause {
        by: i32::try_from(pause.by).unwrap_or_default(),
        who: pause.who.clone(),
        note: pause.note.clone(),
        since: Some(timestamp_from_micros(pause.at.0)),
    });
    v1::Batch {
        name: names::batch_name(row.batch),
        state: batch_state_to_proto(row.state).into(),
        run: row.run,
        revision: signed(row.revision),
        pause,
        counts: Some(counts_to_proto(&row.facts.counts)),
        bytes: Some(v1::ByteCounts {
            declared: signed(row.bytes_declared),
            uploaded: signed(row.bytes_uploaded),
            processed: signed(row.bytes_processed),
        }),
        completed_by_system: row.completed_by_system,
        cancelling: row.facts.cancel_requested && !row.state.is_ended(),
        update_time: Some(timestamp_from_micros(row.changed_at.0)),
        ..v1::Batch::default()
    }
}

/// What a stage waits for, as a tenant may know it: without what was seen.
pub(crate) fn wait(wait: &StageWait) -> v1::Wait {
    v1::Wait {
        stage: wait.stage.name().to_owned(),
        r#for: wait.waiting.r#for.clone(),
        reason: wait.waiting.reason.clone(),
        words: wait.waiting.words.clone(),
        since_time: wait.waiting.since,
    }
}

/// What operators set for a stage.
pub(crate) fn stage(row: &StageRow) -> v1::Stage {
    v1::Stage {
        name: row.stage.name().to_owned(),
        pause: row.pause.as_ref().map(|pause| v1::StagePause {
            note: pause.note.clone(),
            who: pause.who.clone(),
            since_time: Some(timestamp_from_micros(pause.at.0)),
        }),
        max_slots: row.max_slots.unwrap_or_default(),
        max_files: row.max_files.unwrap_or_default(),
        ..v1::Stage::default()
    }
}

/// An operator holds the files of the whole tenant.
pub(crate) fn tenant_waits(note: Option<&str>, since: Micros) -> v1::Wait {
    let paused = "the tenant is paused";
    v1::Wait {
        stage: String::new(),
        r#for: "tenant".to_owned(),
        reason: "TENANT_PAUSED".to_owned(),
        words: match note {
            Some(note) => format!("{paused}: {note}"),
            None => paused.to_owned(),
        },
        since_time: Some(timestamp_from_micros(since.0)),
    }
}

/// A whole batch.
pub(crate) fn batch(row: &ProgressRow, cold: &BatchRow) -> v1::Batch {
    let options: StoredOptions = serde_json::from_str(&cold.options).unwrap_or_default();
    let time = |at: Option<Micros>| at.map(|at| timestamp_from_micros(at.0));
    v1::Batch {
        display_name: cold.name.clone(),
        priority: i32::try_from(cold.priority).unwrap_or_default(),
        options: Some(v1::BatchOptions {
            stages: options.stages,
            start: options.start,
        }),
        metadata: cold.metadata.as_deref().and_then(json_struct),
        create_time: Some(timestamp_from_micros(cold.created_at.0)),
        complete_time: time(cold.completed_at),
        end_time: time(cold.ended_at),
        upload_expire_time: row
            .uploads_open
            .then(|| timestamp_from_micros(row.upload_deadline.0)),
        ..progress(row)
    }
}

/// A file. Results are given for the full view only.
pub(crate) fn file(
    view: &FileView,
    results: Option<&[ResultRow]>,
    versions: &dyn Fn(u32) -> String,
    detail: &str,
    language: Language,
) -> v1::File {
    let work = &view.work;
    let upload = results.and_then(|results| results.iter().find(|result| result.content.is_some()));
    let reason = work
        .reason
        .map(|reason| reason_to_proto(reason, Some(work.stage), detail, language));
    let mut message = v1::File {
        name: names::file_name(work.file.batch, work.file.ordinal),
        ordinal: work.file.ordinal,
        folder: names::folder_name(work.file.batch, work.folder),
        path: view.path.clone(),
        size: signed(work.size),
        media_type: upload
            .and_then(|upload| upload.media_type.clone())
            .unwrap_or_default(),
        sha256: upload
            .and_then(|upload| upload.content)
            .map(|content| content.to_vec())
            .or_else(|| verified(view))
            .unwrap_or_default(),
        state: file_state_to_proto(work.state).into(),
        stage: work.stage.name().to_owned(),
        outcome: outcome_to_proto(work.outcome).into(),
        reason,
        attempts: work.fails,
        generation: work.generation.get(),
        next_attempt_time: match work.state {
            FileState::Retrying => work.ready_at.map(|at| timestamp_from_micros(at.0)),
            _ => None,
        },
        metadata: view.metadata.as_deref().and_then(json_struct),
        change_time: Some(timestamp_from_micros(work.changed_at.0)),
        create_time: Some(timestamp_from_micros(view.created_at.0)),
        modified_time: view.modified_at.map(|at| timestamp_from_micros(at.0)),
        ..v1::File::default()
    };
    for result in results.unwrap_or_default() {
        let stage = result.stage.name();
        message
            .warnings
            .extend(result.warnings.iter().map(warning_to_proto));
        message
            .artifacts
            .extend(result.artifacts.iter().map(|artifact| v1::Artifact {
                name: format!("{stage}/{}", artifact.name),
                stage: stage.to_owned(),
                size: signed(artifact.size),
                media_type: artifact.media_type.clone(),
            }));
        message.results.push(stage_result(result, versions));
    }
    message.record = results.and_then(|results| record::record(view, results, versions));
    message
}

/// The declared checksum of content that the upload stage has found to have it.
fn verified(view: &FileView) -> Option<Vec<u8>> {
    let work = &view.work;
    let is_verified = work.stage != Stage::Upload || work.state == FileState::Processed;
    view.declared_sha256.clone().filter(|_| is_verified)
}

/// The recorded result of a stage; what the metadata stage found is the outcome, which the file shows.
pub(crate) fn stage_result(
    result: &ResultRow,
    versions: &dyn Fn(u32) -> String,
) -> v1::StageResult {
    let is_judgement = result.stage == caudal_domain::Stage::Metadata;
    v1::StageResult {
        stage: result.stage.name().to_owned(),
        version: result.version.map(versions).unwrap_or_default(),
        usage: Some(usage(result)),
        skipped: result.skipped,
        facts: if is_judgement {
            None
        } else {
            record::facts(result).as_ref().and_then(struct_of)
        },
    }
}

/// A folder.
pub(crate) fn folder(
    batch: caudal_domain::BatchId,
    row: &crate::store::manifest::FolderRow,
) -> v1::Folder {
    let counts = row.counts;
    v1::Folder {
        name: names::folder_name(batch, row.folder),
        ordinal: row.folder,
        parent: row
            .ancestors
            .last()
            .map(|parent| names::folder_name(batch, *parent))
            .unwrap_or_default(),
        path: row.path.clone(),
        state: caudal_domain::FolderState::derive(&counts).code().into(),
        total: counts.total,
        processed: counts.processed,
        failed: counts.failed,
        cancelled: counts.cancelled,
    }
}

/// What a result used up.
pub(crate) fn usage(result: &ResultRow) -> v1::Usage {
    v1::Usage {
        bytes: signed(result.used.bytes),
        pages: signed(result.used.pages),
        tokens: signed(result.used.tokens),
        provider_calls: signed(result.used.calls),
    }
}

/// A folder of a manifest page.
pub(crate) fn added_folder(path: &str, folder: u32) -> v1::AddedFolder {
    v1::AddedFolder {
        path: path.to_owned(),
        folder_ordinal: folder,
    }
}

/// What is answered for one file of several: one that is refused stops no other.
#[derive(Clone, Debug)]
pub(crate) enum FileAnswer {
    /// The file is in this state now.
    Stands(FileState),
    Refused(Refusal),
}

impl FileAnswer {
    /// There is no such file, or none that the caller may know.
    pub(crate) fn unknown(file: FileRef) -> Self {
        let name = names::file_name(file.batch, file.ordinal);
        Self::Refused(Refusal::not_found(&name))
    }
}

/// Answers to confirmations, in order.
pub(crate) fn confirmations(
    ordinals: impl Iterator<Item = u32>,
    answers: &[FileAnswer],
) -> v1::ConfirmUploadsResponse {
    let confirmation = |(ordinal, answer): (u32, &FileAnswer)| v1::Confirmation {
        ordinal,
        result: Some(match answer {
            FileAnswer::Stands(state) => {
                v1::confirmation::Result::State(file_state_to_proto(*state).into())
            }
            FileAnswer::Refused(refusal) => v1::confirmation::Result::Error(status_parts(refusal)),
        }),
    };
    v1::ConfirmUploadsResponse {
        confirmations: ordinals.zip(answers).map(confirmation).collect(),
    }
}

/// Answers to files that were left out, in order.
pub(crate) fn left_out(
    ordinals: impl Iterator<Item = u32>,
    answers: &[FileAnswer],
) -> v1::LeaveOutFilesResponse {
    let left_out = |(ordinal, answer): (u32, &FileAnswer)| v1::LeaveOut {
        ordinal,
        result: Some(match answer {
            FileAnswer::Stands(state) => {
                v1::leave_out::Result::State(file_state_to_proto(*state).into())
            }
            FileAnswer::Refused(refusal) => v1::leave_out::Result::Error(status_parts(refusal)),
        }),
    };
    v1::LeaveOutFilesResponse {
        files: ordinals.zip(answers).map(left_out).collect(),
    }
}

/// The body of an outbox row.
pub(crate) fn dispatches(files: &[(FileRef, Token)], lane: Lane, now: Micros) -> Vec<u8> {
    const MICROS_PER_MILLI: i64 = 1_000;
    caudal_streams::encode(files, lane, now.0 / MICROS_PER_MILLI).to_vec()
}

/// The names of the stages asked for.
pub(crate) fn stage_names(stages: StageSet) -> Vec<String> {
    stages.names().into_iter().map(str::to_owned).collect()
}
