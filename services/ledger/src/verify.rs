//! Checks what must hold, over database, streams and object store. Reads only. Run it when nothing is in work to have
//! all of it checked, or at any time for what must hold even then.

mod letters;
mod manifest;
mod shown;
mod standing;

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use caudal_domain::{
    BatchState, FileCounts, FileEvent, FileRef, FileState, FolderCounts, Generation, Reason, Stage,
    Token, keys,
};
use caudal_objects::ObjectStore;
use caudal_proto::mesh::v1::ChangeSet;
use caudal_streams::{Names, Streams, StreamsError};
use futures::StreamExt;
use prost::Message;
use sea_orm::{DatabaseConnection, DbErr};
use sha2::{Digest, Sha256};

use crate::store::progress::{BatchKey, ProgressRow};
use crate::store::results::ResultRow;
use crate::store::work::WorkRow;
use crate::store::{Session, Store, changes, reads, results, work};

/// Rows read in one statement.
const PAGE: u32 = 2_000;
/// Violations reported of each invariant; more are only counted.
const SHOWN: usize = 20;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Each accepted file is in exactly one final state when its batch has ended, and the batch's state follows from
    /// its counters.
    Terminal,
    /// The recorded changes of a file form a path of the state table, and the last equals its row.
    Chain,
    /// One result for each file, generation and stage; a PROCESSED file has its record.
    Once,
    /// The counters of batches and folders equal a recount.
    Counters,
    /// Nothing is left to publish when nothing is in work, and no message names a file or token that never was.
    Outbox,
    /// The bytes at a file's final key have the recorded checksum.
    Bytes,
    /// What watchers were shown last is what the rows say, and revisions have no gap.
    Shown,
    /// What is ready waits or is out, never both and never neither: nobody else would ever find it.
    Live,
}

impl Invariant {
    /// All, in order.
    pub const ALL: [Self; 8] = [
        Self::Terminal,
        Self::Chain,
        Self::Once,
        Self::Counters,
        Self::Outbox,
        Self::Bytes,
        Self::Shown,
        Self::Live,
    ];

    /// Its short name, as `docs/guarantees.md` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Terminal => "I1 terminal",
            Self::Chain => "I2 chain",
            Self::Once => "I3 once",
            Self::Counters => "I4 counters",
            Self::Outbox => "I5 outbox",
            Self::Bytes => "I6 bytes",
            Self::Shown => "I8 shown",
            Self::Live => "I11 live",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What is broken.
    pub invariant: Invariant,
    /// Where and how.
    pub words: String,
}

/// What was checked and found.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Batches looked at.
    pub batches: u64,
    /// Files looked at.
    pub files: u64,
    /// How many things each invariant was checked on; absent: it was not checked (no Redis or no object store given).
    pub checked: BTreeMap<Invariant, u64>,
    /// How many violations of each.
    pub broken: BTreeMap<Invariant, u64>,
    /// The first of each.
    pub violations: Vec<Violation>,
}

impl VerifyReport {
    /// Whether everything that was checked holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.broken.is_empty()
    }

    fn check(&mut self, invariant: Invariant) {
        *self.checked.entry(invariant).or_default() += 1;
    }

    fn breaks(&mut self, invariant: Invariant, words: String) {
        let broken = self.broken.entry(invariant).or_default();
        *broken += 1;
        if *broken <= SHOWN as u64 {
            self.violations.push(Violation { invariant, words });
        }
    }
}

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
    for key in all_batches(&session).await? {
        if let Some((progress, _)) = reads::batch(&session, key.0, key.1).await? {
            report.batches += 1;
            in_work |= !progress.state.is_ended();
            verify_batch(&session, &progress, objects, &mut report).await?;
        }
    }
    shown::verify_tenants(&session, &mut report).await?;
    verify_outbox(&session, redis_url, in_work, &mut report).await?;
    store.close().await;
    Ok(report)
}

async fn all_batches(session: &Session<'_, DatabaseConnection>) -> Result<Vec<BatchKey>, DbErr> {
    let sql =
        "SELECT p.tenant_id, p.batch_id FROM batch_progress AS p ORDER BY p.tenant_id, p.batch_id";
    let mut found = Vec::new();
    for row in session.rows(sql, Vec::new()).await? {
        found.push(crate::store::batch_key_of(&row)?);
    }
    Ok(found)
}

/// What one batch's rows add up to.
#[derive(Default)]
struct Recount {
    counts: FileCounts,
    bytes: Bytes,
    /// Bytes that may count as uploaded.
    unclear: u64,
    folders: HashMap<u32, FolderCounts>,
    files: HashMap<u32, Shown>,
}

/// Bytes of a batch's files: of all, of those that have arrived, of those that are processed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Bytes {
    declared: u64,
    uploaded: u64,
    processed: u64,
}

/// Whether a file's bytes count as uploaded; `None`: its row does not tell. A reprocess from the upload stage on forgets
/// the ETag and keeps the bytes; a replay that needs them again forgets both.
fn has_bytes(row: &WorkRow) -> Option<bool> {
    let kept = row.generation > Generation::FIRST;
    match row.state {
        FileState::Pending | FileState::Uploading => Some(false),
        FileState::Failed => Some(row.reason != Some(Reason::NeverArrived)),
        FileState::Cancelled if row.etag.is_none() && kept => None,
        FileState::Cancelled => Some(row.etag.is_some()),
        _ => Some(true),
    }
}

/// What is shown of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    state: FileState,
    detail: u32,
}

async fn verify_batch(
    session: &Session<'_, DatabaseConnection>,
    progress: &ProgressRow,
    objects: Option<&ObjectStore>,
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    let mut recount = Recount::default();
    let mut from = 0;
    loop {
        let rows = work::range(session, progress.tenant, progress.batch, from, PAGE).await?;
        let last = rows.len() < PAGE as usize;
        from = rows
            .last()
            .map_or(from, |row| row.file.ordinal.saturating_add(1));
        for row in &rows {
            report.files += 1;
            recount.add(row);
            verify_terminal(progress, row, report);
            standing::verify(row, report);
        }
        letters::verify(session, &rows, report).await?;
        manifest::verify(session, progress, &rows, report).await?;
        verify_results(session, &rows, objects, report).await?;
        if last {
            break;
        }
    }
    verify_batch_state(progress, report);
    let mut last = verify_chains(session, progress, &recount.files, report).await?;
    shown::verify_batch(progress, &last, report);
    verify_counters(session, progress, recount, &mut last, report).await?;
    Ok(())
}

impl Recount {
    fn add(&mut self, row: &WorkRow) {
        let shown = Shown {
            state: row.state,
            detail: row.detail(),
        };
        self.files.insert(row.file.ordinal, shown);
        self.bytes.declared += row.size;
        match has_bytes(row) {
            Some(true) => self.bytes.uploaded += row.size,
            Some(false) => {}
            None => self.unclear += row.size,
        }
        if let Ok(counts) = self.counts.moved(None, Some(row.state)) {
            self.counts = counts;
        }
        let folder = self.folders.entry(row.folder).or_default();
        folder.total += 1;
        match row.state {
            FileState::Processed => {
                folder.processed += 1;
                self.bytes.processed += row.size;
                if let Ok(counts) = self.counts.outcome_moved(None, row.outcome) {
                    self.counts = counts;
                }
            }
            FileState::Failed => folder.failed += 1,
            FileState::Cancelled => folder.cancelled += 1,
            _ => {}
        }
    }
}

fn verify_terminal(progress: &ProgressRow, row: &WorkRow, report: &mut VerifyReport) {
    report.check(Invariant::Terminal);
    if progress.state.is_ended() && !row.state.is_final() {
        report.breaks(
            Invariant::Terminal,
            format!("{} is {} in a batch that has ended", row.file, row.state),
        );
    }
    if row.state.is_final() && (row.dispatched_at.is_some() || row.wait_stage.is_some()) {
        report.breaks(
            Invariant::Terminal,
            format!("{} is {} and still waits or is out", row.file, row.state),
        );
    }
    if (row.state == FileState::Processed) != row.outcome.is_some() {
        report.breaks(
            Invariant::Terminal,
            format!(
                "{} is {} with outcome {:?}",
                row.file, row.state, row.outcome
            ),
        );
    }
    if row.state == FileState::Failed && row.reason.is_none() {
        report.breaks(
            Invariant::Terminal,
            format!("{} is FAILED without a reason", row.file),
        );
    }
}

fn verify_batch_state(progress: &ProgressRow, report: &mut VerifyReport) {
    report.check(Invariant::Terminal);
    let derived = BatchState::derive(&progress.facts);
    if derived != progress.state {
        let words = format!(
            "batch {} is {}, its counters say {derived}",
            progress.batch, progress.state
        );
        report.breaks(Invariant::Terminal, words);
    }
}

async fn verify_results(
    session: &Session<'_, DatabaseConnection>,
    rows: &[WorkRow],
    objects: Option<&ObjectStore>,
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    let generations: Vec<_> = rows.iter().map(|row| (row.file, row.generation)).collect();
    let of_files = results::of_generations(session, &generations).await?;
    for row in rows {
        report.check(Invariant::Once);
        let results = of_files.get(&row.file).map_or(&[][..], Vec::as_slice);
        let recorded = results.iter().filter(|result| !result.skipped);
        let mut makers: HashMap<u64, Stage> = HashMap::new();
        for result in recorded {
            let own = result.taken_from.is_none();
            if own && let Some(other) = makers.insert(result.token.get(), result.stage) {
                let words = format!(
                    "{}: token {} recorded {other} and {}",
                    row.file, result.token, result.stage
                );
                report.breaks(Invariant::Once, words);
            }
            if result.token >= row.token {
                let words = format!(
                    "{}: {} was recorded under a token that is not past",
                    row.file, result.stage
                );
                report.breaks(Invariant::Once, words);
            }
        }
        let is_there = |stage: Stage| results.iter().any(|result| result.stage == stage);
        if !row.state.is_final() && is_there(row.stage) {
            let words = format!(
                "{} is {} at {}, which has been recorded already",
                row.file, row.state, row.stage
            );
            report.breaks(Invariant::Once, words);
        }
        if row.state == FileState::Processing
            && row.stage != Stage::Upload
            && !is_there(Stage::Upload)
        {
            let words = format!("{} is at {} without an upload result", row.file, row.stage);
            report.breaks(Invariant::Once, words);
        }
        let has_record = results
            .iter()
            .any(|result| result.stage == Stage::Metadata && !result.skipped);
        if has_record != (row.state == FileState::Processed) {
            let words = format!(
                "{} is {}; final record there: {has_record}",
                row.file, row.state
            );
            report.breaks(Invariant::Once, words);
        }
        if let Some(objects) = objects {
            let upload = results.iter().find(|result| result.content.is_some());
            if let Some(upload) = upload {
                verify_bytes(objects, row, upload, report).await;
            } else if row.state == FileState::Processed {
                report.check(Invariant::Bytes);
                report.breaks(
                    Invariant::Bytes,
                    format!("{} is PROCESSED without an upload result", row.file),
                );
            }
        }
    }
    Ok(())
}

async fn verify_bytes(
    objects: &ObjectStore,
    row: &WorkRow,
    upload: &ResultRow,
    report: &mut VerifyReport,
) {
    report.check(Invariant::Bytes);
    let content = upload.content.unwrap_or_default();
    let key = keys::final_key(upload.maker().file, &content);
    match digest(objects, &key).await {
        Ok((size, sha256)) if size == row.size && sha256 == content => {}
        Ok((size, sha256)) => {
            let words = format!(
                "{}: {key} has {size} bytes with sha256 {}, recorded are {} bytes",
                row.file,
                hex::encode(sha256),
                row.size
            );
            report.breaks(Invariant::Bytes, words);
        }
        Err(error) => report.breaks(
            Invariant::Bytes,
            format!("{}: {key} cannot be read: {error}", row.file),
        ),
    }
}

async fn digest(
    objects: &ObjectStore,
    key: &str,
) -> Result<(u64, [u8; 32]), caudal_objects::ObjectError> {
    let mut stream = objects.get(key, None).await?.stream;
    let mut sha256 = Sha256::new();
    let mut size = 0;
    while let Some(chunk) = stream.next().await.transpose()? {
        size += chunk.len() as u64;
        sha256.update(&chunk);
    }
    Ok((size, sha256.finalize().into()))
}

async fn verify_counters(
    session: &Session<'_, DatabaseConnection>,
    progress: &ProgressRow,
    recount: Recount,
    last: &mut shown::Last,
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    report.check(Invariant::Counters);
    let (counts, direct) = (recount.counts, recount.folders);
    if progress.facts.counts != counts {
        let words = format!(
            "batch {}: {:?} recorded, {counts:?} counted",
            progress.batch, progress.facts.counts
        );
        report.breaks(Invariant::Counters, words);
    }
    let mut recorded = Bytes {
        declared: progress.bytes_declared,
        uploaded: progress.bytes_uploaded,
        processed: progress.bytes_processed,
    };
    let certain = recount.bytes.uploaded;
    if (certain..=certain + recount.unclear).contains(&recorded.uploaded) {
        recorded.uploaded = certain;
    }
    if recorded != recount.bytes {
        let words = format!(
            "batch {}: {recorded:?} recorded, {:?} counted",
            progress.batch, recount.bytes
        );
        report.breaks(Invariant::Counters, words);
    }
    let missing = counts.pending + counts.uploading > 0;
    if progress.uploads_open != missing {
        let words = format!(
            "batch {}: uploads open {}, files without bytes {missing}",
            progress.batch, progress.uploads_open
        );
        report.breaks(Invariant::Counters, words);
    }
    let mut folders = Vec::new();
    let mut from = 0;
    loop {
        let page =
            crate::store::manifest::folder_range(session, progress.key(), from, PAGE).await?;
        let last = page.len() < PAGE as usize;
        from = page
            .last()
            .map_or(from, |folder| folder.folder.saturating_add(1));
        folders.extend(page);
        if last {
            break;
        }
    }
    let mut subtrees: HashMap<u32, FolderCounts> = HashMap::new();
    for folder in &folders {
        let own = direct.get(&folder.folder).copied().unwrap_or_default();
        for above in folder.ancestors.iter().chain([&folder.folder]) {
            let sum = subtrees.entry(*above).or_default();
            sum.total += own.total;
            sum.processed += own.processed;
            sum.failed += own.failed;
            sum.cancelled += own.cancelled;
        }
    }
    for folder in folders {
        last.verify_folder(progress, &folder, report);
        report.check(Invariant::Counters);
        let counted = subtrees.get(&folder.folder).copied().unwrap_or_default();
        if counted != folder.counts {
            let words = format!(
                "batch {} folder `{}`: {:?} recorded, {counted:?} counted",
                progress.batch, folder.path, folder.counts
            );
            report.breaks(Invariant::Counters, words);
        }
    }
    Ok(())
}

/// Follows each file through the recorded changes, as far as they are kept; what they showed last.
async fn verify_chains(
    session: &Session<'_, DatabaseConnection>,
    progress: &ProgressRow,
    files: &HashMap<u32, Shown>,
    report: &mut VerifyReport,
) -> Result<shown::Last, VerifyError> {
    let mut followed: HashMap<u32, FileState> = HashMap::new();
    let mut last = shown::Last::default();
    let mut after = 0;
    let mut whole = true;
    loop {
        let rows = changes::changes_after(session, progress.key(), after, PAGE).await?;
        if rows.is_empty() {
            break;
        }
        for (revision, body) in rows {
            if revision != after + 1 {
                // Pruned before this one; what follows must still be without a gap.
                whole = false;
                if after != 0 {
                    let words = format!(
                        "batch {}: revision {revision} follows {after}",
                        progress.batch
                    );
                    report.breaks(Invariant::Chain, words);
                }
            }
            after = revision;
            let Ok(changes) = ChangeSet::decode(body.as_slice()) else {
                report.breaks(
                    Invariant::Chain,
                    format!("batch {}: change {revision} cannot be read", progress.batch),
                );
                continue;
            };
            follow(progress, &changes, whole, &mut followed, report);
            last.take(revision, changes);
        }
    }
    for (ordinal, shown) in files {
        report.check(Invariant::Chain);
        let file = FileRef::new(progress.tenant, progress.batch, *ordinal);
        match followed.get(ordinal) {
            Some(last) if *last == shown.state => {}
            None if !whole => {}
            last => {
                let words = format!("{file} is {}, its changes end with {last:?}", shown.state);
                report.breaks(Invariant::Chain, words);
            }
        }
        last.verify_file(file, *shown, report);
    }
    Ok(last)
}

fn follow(
    progress: &ProgressRow,
    changes: &ChangeSet,
    whole: bool,
    followed: &mut HashMap<u32, FileState>,
    report: &mut VerifyReport,
) {
    for ((ordinal, from), to) in changes.ordinal.iter().zip(&changes.from).zip(&changes.to) {
        let file = FileRef::new(progress.tenant, progress.batch, *ordinal);
        let from = u8::try_from(*from).ok().and_then(FileState::from_code);
        let Some(to) = u8::try_from(*to).ok().and_then(FileState::from_code) else {
            report.breaks(
                Invariant::Chain,
                format!("{file}: a change leads to no state"),
            );
            continue;
        };
        let before = followed.insert(*ordinal, to);
        if before != from && (whole || before.is_some()) {
            let words = format!("{file}: a change from {from:?} to {to} follows {before:?}");
            report.breaks(Invariant::Chain, words);
        }
        let legal = match from {
            None => to == FileState::Pending,
            Some(from) => from == to && to == FileState::Processing || leads(from, to),
        };
        if !legal {
            report.breaks(
                Invariant::Chain,
                format!("{file}: {from:?} -> {to} is not in the state table"),
            );
        }
    }
}

/// Whether some event leads from one state to the next.
fn leads(from: FileState, to: FileState) -> bool {
    const EVENTS: [FileEvent; 14] = [
        FileEvent::UploadBegun,
        FileEvent::Arrived,
        FileEvent::Admitted,
        FileEvent::Leased,
        FileEvent::StageRecorded { last: false },
        FileEvent::StageRecorded { last: true },
        FileEvent::Retry,
        FileEvent::Fail,
        FileEvent::NeverArrived,
        FileEvent::Replay { needs_bytes: false },
        FileEvent::Replay { needs_bytes: true },
        FileEvent::Adopted,
        FileEvent::Reprocess,
        FileEvent::Cancel,
    ];
    // An upload seen only when it is whole is recorded in both steps, the first of which is UploadBegun's.
    EVENTS.iter().any(|event| from.next(*event) == Ok(to))
}

async fn verify_outbox(
    session: &Session<'_, DatabaseConnection>,
    redis_url: Option<&str>,
    in_work: bool,
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    report.check(Invariant::Outbox);
    let waiting = changes::oldest_outbox(session).await?;
    if !in_work && !waiting.is_empty() {
        let stages: Vec<&str> = waiting.keys().map(|stage| stage.name()).collect();
        report.breaks(
            Invariant::Outbox,
            format!(
                "dispatches are still to be published: {}",
                stages.join(", ")
            ),
        );
    }
    let mut after = 0;
    loop {
        let rows = changes::outbox_after(session, after, PAGE).await?;
        let Some(last) = rows.last() else { break };
        after = last.id;
        for row in rows {
            let place = format!("outbox row {}", row.id);
            match caudal_streams::decode(&row.body) {
                Ok(dispatch) => verify_tokens(session, &place, &dispatch.files, report).await?,
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
            verify_tokens(session, &place, &entry.files, report).await?;
        }
    }
    Ok(())
}

/// A message names files and tokens that are, or have been: a dispatch is committed before it is published.
async fn verify_tokens(
    session: &Session<'_, DatabaseConnection>,
    place: &str,
    dispatches: &[(FileRef, Token)],
    report: &mut VerifyReport,
) -> Result<(), VerifyError> {
    let files: Vec<FileRef> = dispatches.iter().map(|(file, _)| *file).collect();
    let rows = work::read(session, &files).await?;
    let current: HashMap<FileRef, Token> = rows.iter().map(|row| (row.file, row.token)).collect();
    for (file, token) in dispatches {
        report.check(Invariant::Outbox);
        if current.get(file).is_none_or(|current| token > current) {
            let words = format!("{place} names {file} token {token}, which never was");
            report.breaks(Invariant::Outbox, words);
        }
    }
    Ok(())
}
