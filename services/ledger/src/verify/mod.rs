//! Checks what must hold, over database, streams and object store. Reads only. Run it when nothing is in work to have
//! all of it checked, or at any time for what must hold even then.
//!
//! Each invariant is a file of its own, of functions over rows that were read before; this one reads them.

pub(crate) mod bytes;
pub(crate) mod chain;
pub(crate) mod counters;
pub(crate) mod live;
pub(crate) mod once;
pub(crate) mod outbox;
pub(crate) mod report;
pub(crate) mod shown;
pub(crate) mod terminal;

use std::collections::HashMap;

use caudal_domain::{FileRef, Stage, Token};
use caudal_objects::ObjectStore;
use caudal_proto::mesh::v1::ChangeSet;
use caudal_streams::{Names, Streams, StreamsError};
use prost::Message;
use sea_orm::{DatabaseConnection, DbErr};

use self::chain::Chain;
use self::counters::Recount;
pub use self::report::{Invariant, VerifyReport, Violation};
use self::shown::{Last, Shown};
use crate::store::manifest::FolderRow;
use crate::store::progress::{self, ProgressRow};
use crate::store::work::WorkRow;
use crate::store::{
    Session, Store, changes, dead_letters, manifest, outbox as stored_outbox, reads, results, work,
};

/// Rows read in one statement.
const PAGE: u32 = 2_000;

/// Why the check itself failed.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The database cannot be read.
    #[error("the database cannot be read: {0}")]
    Database(#[from] DbErr),
    /// Redis cannot be read.
    #[error("Redis cannot be read: {0}")]
    Streams(#[from] StreamsError),
}

/// Checks all invariants. Without `redis_url` or `objects`, what needs them is left out.
///
/// # Errors
/// When the database or Redis cannot be read.
pub async fn verify(
    database_url: &str,
    redis_url: Option<&str>,
    objects: Option<&ObjectStore>,
) -> Result<VerifyReport, VerifyError> {
    let store = Store::open(database_url).await?;
    let mut report = VerifyReport::default();
    let session = store.reader();
    let mut in_work = false;
    for key in progress::all(&session).await? {
        if let Some((progress, _)) = reads::batch(&session, key).await? {
            report.batches += 1;
            in_work |= !progress.state.is_ended();
            verify_batch(&session, &progress, objects, &mut report).await?;
        }
    }
    for kept in changes::kept_revisions(&session).await? {
        shown::check_tenant(&kept, &mut report);
    }
    verify_outbox(&session, redis_url, in_work, &mut report).await?;
    store.close().await;
    Ok(report)
}

async fn verify_batch(
    session: &Session<'_, DatabaseConnection>,
    progress: &ProgressRow,
    objects: Option<&ObjectStore>,
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    let mut recount = Recount::default();
    let mut files = HashMap::new();
    let mut from = 0;
    loop {
        let rows = work::range(session, progress.key(), from, PAGE).await?;
        let last = rows.len() < PAGE as usize;
        from = rows
            .last()
            .map_or(from, |row| row.file.ordinal.saturating_add(1));
        for row in &rows {
            report.files += 1;
            recount.add(row);
            let shown = Shown {
                state: row.state,
                detail: row.detail(),
            };
            files.insert(row.file, shown);
            terminal::check_row(progress, row, report);
            live::check(row, report);
        }
        verify_rows(session, progress, &rows, objects, report).await?;
        if last {
            break;
        }
    }
    terminal::check_batch(progress, report);
    let (chain, last) = follow(session, progress, report).await?;
    for (file, shown) in &files {
        chain.check(*file, shown.state, report);
        last.check_file(*file, *shown, report);
    }
    shown::check_batch(progress, &last, report);
    let folders = folders(session, progress).await?;
    for folder in &folders {
        last.check_folder(progress, folder, report);
    }
    counters::check(progress, &recount, &folders, report);
    Ok(())
}

/// Checks a page of rows against what else is kept of their files.
async fn verify_rows(
    session: &Session<'_, DatabaseConnection>,
    progress: &ProgressRow,
    rows: &[WorkRow],
    objects: Option<&ObjectStore>,
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    let (Some(first), Some(last)) = (rows.first(), rows.last()) else {
        return Ok(());
    };
    let span = (first.file.ordinal, last.file.ordinal);
    let listed = manifest::file_span(session, progress.key(), span).await?;
    counters::check_manifest(progress, rows, listed, report);
    let files: Vec<FileRef> = rows.iter().map(|row| row.file).collect();
    let letters = dead_letters::of_files(session, &files).await?;
    let generations: Vec<_> = rows.iter().map(|row| (row.file, row.generation)).collect();
    let of_files = results::of_generations(session, &generations).await?;
    for row in rows {
        terminal::check_letter(row, letters.get(&row.file).copied(), report);
        let results = of_files.get(&row.file).map_or(&[][..], Vec::as_slice);
        once::check(row, results, report);
        if let Some(objects) = objects {
            bytes::check(objects, row, results, report).await;
        }
    }
    Ok(())
}

/// Takes the recorded changes of a batch, as far as they are kept.
async fn follow(
    session: &Session<'_, DatabaseConnection>,
    progress: &ProgressRow,
    report: &mut VerifyReport,
) -> Result<(Chain, Last), VerifyError> {
    let mut chain = Chain::default();
    let mut last = Last::default();
    let mut after = 0;
    loop {
        let rows = changes::after(session, progress.key(), after, PAGE).await?;
        if rows.is_empty() {
            return Ok((chain, last));
        }
        for (revision, body) in rows {
            after = revision;
            let changes = ChangeSet::decode(body.as_slice()).ok();
            chain.take(progress, revision, changes.as_ref(), report);
            if let Some(changes) = changes {
                last.take(revision, changes);
            }
        }
    }
}

async fn folders(
    session: &Session<'_, DatabaseConnection>,
    progress: &ProgressRow,
) -> Result<Vec<FolderRow>, VerifyError> {
    let mut folders = Vec::new();
    let mut from = 0;
    loop {
        let page = manifest::folder_range(session, progress.key(), from, PAGE).await?;
        let last = page.len() < PAGE as usize;
        from = page
            .last()
            .map_or(from, |folder| folder.folder.saturating_add(1));
        folders.extend(page);
        if last {
            return Ok(folders);
        }
    }
}

async fn verify_outbox(
    session: &Session<'_, DatabaseConnection>,
    redis_url: Option<&str>,
    in_work: bool,
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    let waiting = stored_outbox::oldest(session).await?;
    outbox::check_published(in_work, waiting.keys(), report);
    let mut after = 0;
    loop {
        let rows = stored_outbox::after(session, after, PAGE).await?;
        let Some(last) = rows.last() else { break };
        after = last.id;
        for row in rows {
            let place = format!("outbox row {}", row.id);
            match caudal_streams::decode(&row.body) {
                Ok(dispatch) => verify_message(session, &place, &dispatch.files, report).await?,
                Err(error) => report.breaks(Invariant::Outbox, format!("{place}: {error}")),
            }
        }
    }
    let Some(redis_url) = redis_url else {
        return Ok(());
    };
    let streams = Streams::connect(redis_url, Names::new(caudal_streams::DEFAULT_PREFIX))?;
    for stage in Stage::ALL {
        for entry in streams.inspect(stage).await?.entries {
            let place = format!("{stage}: entry {}", entry.id);
            verify_message(session, &place, &entry.files, report).await?;
        }
    }
    Ok(())
}

async fn verify_message(
    session: &Session<'_, DatabaseConnection>,
    place: &str,
    dispatches: &[(FileRef, Token)],
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    let files: Vec<FileRef> = dispatches.iter().map(|(file, _)| *file).collect();
    let rows = work::read(session, &files).await?;
    let current: HashMap<FileRef, Token> = rows.iter().map(|row| (row.file, row.token)).collect();
    outbox::check_message(place, dispatches, &current, report);
    Ok(())
}
