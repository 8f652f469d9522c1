//! Explains what the store runs: on tables that are empty, young (nobody has analysed them, and nobody will) and large.
//! A plan that walks a table is quick in every other test and ruins the first large batch.
//!
//! The statements are those that the store's functions send: a recorder in [`super::Session`] keeps them with their
//! values. On Postgres each is explained with a custom and with a generic plan, because a prepared statement's generic
//! plan is made once, perhaps while its table is empty, and stays.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::cell::RefCell;
use std::collections::BTreeSet;

use caudal_domain::{
    BatchId, BatchRef, BatchState, FileRef, FileState, FolderCounts, Generation, Outcome, Reason,
    Stage, TenantId, Token,
};
use caudal_harness::Postgres;
use sea_orm::{ConnectionTrait, DatabaseTransaction, Statement, TransactionTrait, Value};
use serde_json::Value as Json;
use tempfile::TempDir;
use uuid::Uuid;

use caudal_node::scope::Role;

use super::attempts::{self, AttemptRow};
use super::audit::{self, AuditRow};
use super::changes::{self, ChangeRow};
use super::credentials::{self, Allowance, KeyRow, Spent};
use super::dialect::Dialect;
use super::failures::{self, FailureGroup, Letters};
use super::history;
use super::manifest::{self, FileRow, FolderRow};
use super::operations::{self, Viewer};
use super::outbox::{self, OutboxRow};
use super::progress::{self, BatchRow, ProgressRow, Renamed, Times};
use super::requests::{self, AnsweredRequest};
use super::results::{self, ResultRow, Trace, Used};
use super::selection::{self, Grouping, MetadataMatch, Position, Selection, Subtree};
use super::tenants::{self, TenantRow};
use super::time::Micros;
use super::tus::{self, TusRow, TusState};
use super::work::{self, Moved, WorkRow};
use super::{Session, Store, dead_letters, leadership, reads};

/// What one statement must read by an index: the table, the index, and how many of its columns must be in the search.
type Path = (&'static str, &'static str, usize);

/// A statement that the store sent.
#[derive(Clone)]
struct Recorded {
    name: &'static str,
    paths: &'static [Path],
    sorts: bool,
    by_range: bool,
    sql: String,
    values: Vec<Value>,
}

#[derive(Default)]
struct Recorder {
    step: Option<(&'static str, &'static [Path], bool)>,
    next_is_by_range: bool,
    found: Vec<Recorded>,
}

thread_local! {
    static RECORDER: RefCell<Recorder> = RefCell::default();
}

/// Keeps a statement, when a step is under way in this thread.
pub(super) fn record(sql: &str, values: &[Value]) {
    RECORDER.with_borrow_mut(|recorder| {
        let by_range = std::mem::take(&mut recorder.next_is_by_range);
        if let Some((name, paths, sorts)) = recorder.step {
            recorder.found.push(Recorded {
                name,
                paths,
                sorts,
                by_range,
                sql: sql.to_owned(),
                values: values.to_vec(),
            });
        }
    });
}

/// The next statement reads whole ranges, with the settings for that.
pub(super) fn record_range() {
    RECORDER.with_borrow_mut(|recorder| recorder.next_is_by_range = true);
}

/// The statements sent from now on belong to `name`.
fn step(name: &'static str, paths: &'static [Path]) {
    RECORDER.with_borrow_mut(|recorder| recorder.step = Some((name, paths, false)));
}

/// The same for one that must put in order what its page names.
fn sorting_step(name: &'static str, paths: &'static [Path]) {
    RECORDER.with_borrow_mut(|recorder| recorder.step = Some((name, paths, true)));
}

fn recorded() -> Vec<Recorded> {
    RECORDER.with_borrow_mut(|recorder| {
        recorder.step = None;
        std::mem::take(&mut recorder.found)
    })
}

/// The columns of an index, in order, as the migrations make it. `PK`: the primary key.
fn columns(table: &str, index: &str) -> &'static [&'static str] {
    match (table, index) {
        ("file_work" | "files" | "dead_letters", PK) => &["tenant_id", "batch_id", "ordinal"],
        ("stage_results", PK) => &["tenant_id", "batch_id", "ordinal", "generation", "stage"],
        ("attempts", PK) => &["tenant_id", "batch_id", "ordinal", "token"],
        ("folders", PK) => &["tenant_id", "batch_id", "folder"],
        ("batches" | "batch_progress", PK) => &["tenant_id", "batch_id"],
        ("changes", PK) => &["tenant_id", "revision"],
        ("requests", PK) => &["tenant_id", "request_id"],
        ("tenants", PK)
        | ("batch_progress", "batch_progress_open")
        | ("operations", "operations_running") => &["tenant_id"],
        ("tenants", "tenants_called") => &["called"],
        ("api_keys" | "audit" | "outbox" | "leadership", PK) => &["id"],
        ("api_keys", "api_keys_of_tenant") => &["tenant_id", "created_at", "id"],
        ("api_keys", "api_keys_of_operators") => &["created_at", "id"],
        ("audit", "audit_of_tenant") => &["tenant_id", "id"],
        ("file_work", "file_work_ready") => &["wait_stage", "tenant_id", "batch_id", "ready_at"],
        ("files", "files_name") => &["tenant_id", "batch_id", "folder", "name"],
        ("folders", "folders_path") => &["tenant_id", "batch_id", "path"],
        ("dead_letters", "dead_letters_without_bytes") => {
            &["at", "tenant_id", "batch_id", "ordinal"]
        }
        ("changes", "changes_of_batch") => &["tenant_id", "batch_id", "batch_revision"],
        ("changes", "changes_age") | ("requests", "requests_age") => &["at"],
        ("batch_progress", "batch_progress_live") => &["state"],
        ("batch_progress", "batch_progress_idle") => &["touched_at"],
        ("stage_results", "stage_results_held") => &["tenant_id", "content"],
        ("operations", PK) => &["tenant_id", "operation_id"],
        ("operations", "operations_id") => &["operation_id"],
        ("operations", "operations_due") => &["next_at"],
        ("operations", "operations_ended") | ("batches", "batches_uncollected") => &["ended_at"],
        ("tus_uploads", PK) => &["tenant_id", "upload_id"],
        ("tus_uploads", "tus_uploads_open") => &["tenant_id", "state"],
        ("tus_uploads", "tus_uploads_due") => &["due_at"],
        _ => panic!("{table} has no index {index}"),
    }
}

const PK: &str = "PK";

fn tenant() -> TenantId {
    TenantId::from_uuid(uuid(0))
}

/// Batch 1 is the large one.
fn batch(number: u32) -> BatchId {
    BatchId::from_uuid(uuid(number))
}

fn uuid(number: u32) -> Uuid {
    Uuid::from_u128((0x7000_8000_u128 << 48) | u128::from(number))
}

fn file(ordinal: u32) -> FileRef {
    FileRef::new(tenant(), batch(1), ordinal)
}

/// Runs every function of the store with pages of `size`, on rows as they are in the young database.
#[expect(
    clippy::too_many_lines,
    reason = "a list, in the order of the store's files"
)]
async fn tour(session: &Session<'_, DatabaseTransaction>, size: u32) {
    const BY_FILE: &[Path] = &[("file_work", PK, 3)];
    let now = Micros(1_000_000);
    let key = BatchRef::new(tenant(), batch(1));
    let files: Vec<FileRef> = (0..size).map(file).collect();

    step("work::lock", BY_FILE);
    let rows = work::lock(session, &files).await.unwrap();
    step("work::read", BY_FILE);
    work::read(session, &files).await.unwrap();
    let moved: Vec<(Token, &WorkRow)> = rows.iter().map(|row| (row.token, row)).collect();
    for (name, columns) in [
        ("work::update onward", Moved::Onward),
        ("work::update", Moved::Anything),
        ("work::update with bytes", Moved::BytesToo),
    ] {
        step(name, BY_FILE);
        work::update(session, &moved, columns).await.unwrap();
    }
    step("work::waiting", &[("file_work", "file_work_ready", 4)]);
    work::waiting(session, Stage::Upload, key, now, size)
        .await
        .unwrap();
    step(
        "work::earliest_ready",
        &[("file_work", "file_work_ready", 3)],
    );
    work::earliest_ready(session, Stage::Upload, key)
        .await
        .unwrap();
    step("work::all_waiting", &[("file_work", "file_work_ready", 0)]);
    work::all_waiting(session).await.unwrap();
    step(
        "work::all_dispatched",
        &[
            ("batch_progress", "batch_progress_live", 0),
            ("file_work", PK, 2),
        ],
    );
    work::all_dispatched(session).await.unwrap();
    step("work::range", BY_FILE);
    work::range(session, key, 1, size).await.unwrap();
    step("work::insert", &[]);
    let new: Vec<WorkRow> = rows
        .iter()
        .map(|row| WorkRow {
            file: FileRef::new(tenant(), batch(9_999_999), row.file.ordinal),
            ..row.clone()
        })
        .collect();
    work::insert(session, &new).await.unwrap();

    step("changes::after", &[("changes", "changes_of_batch", 3)]);
    changes::after(session, key, 5, size).await.unwrap();
    step("changes::tenant_changes_after", &[("changes", PK, 2)]);
    changes::tenant_changes_after(session, key.tenant, None, 5, size)
        .await
        .unwrap();
    step(
        "changes::tenant_changes_after of a batch",
        &[("changes", "changes_of_batch", 2)],
    );
    changes::tenant_changes_after(session, key.tenant, Some(key.batch), 5, size)
        .await
        .unwrap();
    step(
        "changes::tenant_revisions",
        &[("tenants", PK, 1), ("changes", PK, 1)],
    );
    changes::tenant_revisions(session, key.tenant)
        .await
        .unwrap();
    step("changes::insert", &[]);
    let change = ChangeRow {
        key,
        revision: 1 << 40,
        batch_revision: 1 << 40,
        count: 1,
        body: vec![1],
    };
    changes::insert(session, &[change], now).await.unwrap();
    step(
        "changes::prune",
        &[("changes", PK, 2), ("changes", "changes_age", 1)],
    );
    changes::prune(session, Micros(5), size).await.unwrap();
    step(
        "requests::prune",
        &[("requests", PK, 2), ("requests", "requests_age", 1)],
    );
    requests::prune(session, Micros(5), size).await.unwrap();
    step("outbox::insert", &[]);
    let row = OutboxRow {
        id: 1 << 50,
        stage: Stage::Upload,
        body: vec![1],
    };
    outbox::insert(session, &[row], now).await.unwrap();
    step("outbox::delete", &[("outbox", PK, 1)]);
    let ids: Vec<u64> = (0..u64::from(size)).collect();
    outbox::delete(session, &ids).await.unwrap();
    step("outbox::left", &[("outbox", PK, 0)]);
    outbox::left(session, 3, Micros(3), 512).await.unwrap();
    step("requests::answered", &[("requests", PK, 2)]);
    requests::answered(session, (key.tenant, uuid(3)))
        .await
        .unwrap();
    step(
        "leadership::begin",
        &[("leadership", PK, 1), ("requests", PK, 2)],
    );
    let names: Vec<_> = (0..size).map(|number| (key.tenant, uuid(number))).collect();
    leadership::begin(session, 1, &names).await.unwrap();
    step("requests::remember", &[]);
    let answered = AnsweredRequest {
        method: "m".into(),
        body_hash: vec![0; 32],
        answer: vec![1],
    };
    requests::remember(session, &[((key.tenant, uuid(9_999_999)), answered)], now)
        .await
        .unwrap();

    step("progress::read", &[("batch_progress", PK, 2)]);
    let keys: Vec<_> = (1..=size)
        .map(|number| BatchRef::new(tenant(), batch(number)))
        .collect();
    let batches: Vec<ProgressRow> = progress::read(session, &keys).await.unwrap();
    step("progress::update", &[("batch_progress", PK, 2)]);
    progress::update(session, &batches).await.unwrap();
    step("progress::set_times", &[("batches", PK, 2)]);
    let times = Times {
        batch: key,
        completed_at: Some(now),
        ended_at: None,
    };
    progress::set_times(session, &[times]).await.unwrap();
    step("tenants::read", &[("tenants", PK, 1)]);
    let ids: Vec<TenantId> = (0..size).map(|n| TenantId::from_uuid(uuid(n))).collect();
    let of_tenants: Vec<TenantRow> = tenants::read(session, &ids).await.unwrap();
    let of_tenants = of_tenants.into_iter();
    let of_tenants: Vec<(u64, TenantRow)> = of_tenants.map(|row| (row.revision, row)).collect();
    step("tenants::update", &[("tenants", PK, 1)]);
    tenants::update(session, &of_tenants).await.unwrap();
    step(
        "progress::failing_missing",
        &[("batch_progress", "batch_progress_live", 0)],
    );
    progress::failing_missing(session, size).await.unwrap();
    step(
        "progress::overdue",
        &[("batch_progress", "batch_progress_live", 0)],
    );
    progress::overdue(session, now, size).await.unwrap();
    step(
        "progress::uncollected",
        &[("batches", "batches_uncollected", 1)],
    );
    let ended = progress::uncollected(session, now, size).await.unwrap();
    step("progress::mark_collected", &[("batches", PK, 2)]);
    let of_all = keys.iter().map(|key| (*key, now)).chain(ended);
    let of_all: Vec<(BatchRef, Micros)> = of_all.collect();
    progress::mark_collected(session, &of_all, now)
        .await
        .unwrap();
    step(
        "dead_letters::without_bytes",
        &[
            ("dead_letters", "dead_letters_without_bytes", 1),
            ("file_work", PK, 3),
        ],
    );
    dead_letters::without_bytes(session, (Micros(0), file(0)), now, 500)
        .await
        .unwrap();
    step(
        "progress::live_priorities",
        &[("batch_progress", "batch_progress_live", 0)],
    );
    progress::live_priorities(session).await.unwrap();
    step("progress::insert", &[]);
    let made = BatchRow {
        name: String::new(),
        options: "{}".into(),
        metadata: None,
        priority: 2,
        created_by: String::new(),
        created_at: now,
        completed_at: None,
        ended_at: None,
    };
    let new = ProgressRow::new(BatchRef::new(tenant(), batch(9_999_999)), now);
    progress::insert(session, &[(new, made)]).await.unwrap();

    step(
        "manifest::folders_by_path",
        &[("folders", "folders_path", 3)],
    );
    let paths: Vec<String> = (1..=size).map(|number| format!("d{number}")).collect();
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    manifest::folders_by_path(session, key, &paths)
        .await
        .unwrap();
    step("manifest::folders", &[("folders", PK, 3)]);
    let places: Vec<_> = (0..size).map(|folder| (key, folder)).collect();
    manifest::folders(session, &places).await.unwrap();
    step("manifest::update_folders", &[("folders", PK, 3)]);
    let counts: Vec<_> = (0..size)
        .map(|folder| (key, folder, FolderCounts::default()))
        .collect();
    manifest::update_folders(session, &counts).await.unwrap();
    step("manifest::folder_range", &[("folders", PK, 3)]);
    manifest::folder_range(session, key, 1, size).await.unwrap();
    step("manifest::file_span", &[("files", PK, 3)]);
    manifest::file_span(session, key, (3, 2 + size))
        .await
        .unwrap();
    step("manifest::known_files", &[("files", "files_name", 4)]);
    let names: Vec<(u32, &str)> = (0..size).map(|number| (number, "f1")).collect();
    manifest::known_files(session, key, &names).await.unwrap();
    step("manifest::insert_folders", &[]);
    let folder = FolderRow {
        folder: 9_999_999,
        ancestors: vec![0],
        path: "new".into(),
        counts: FolderCounts::default(),
    };
    manifest::insert_folders(session, &[(key, folder)])
        .await
        .unwrap();
    step("manifest::insert_files", &[]);
    let new: Vec<FileRow> = files
        .iter()
        .map(|file| FileRow {
            file: FileRef::new(tenant(), batch(9_999_999), file.ordinal),
            folder: 0,
            name: format!("f{}", file.ordinal),
            size: 1,
            declared_sha256: None,
            metadata: None,
            modified_at: None,
            created_at: now,
            added_by: None,
        })
        .collect();
    manifest::insert_files(session, &new).await.unwrap();

    step("manifest::added_with", &[("files", PK, 3)]);
    manifest::added_with(session, "token", &files)
        .await
        .unwrap();

    step("results::of_generations", &[("stage_results", PK, 4)]);
    let generations: Vec<_> = files
        .iter()
        .map(|file| (*file, Generation::FIRST))
        .collect();
    results::of_generations(session, &generations)
        .await
        .unwrap();
    let pairs: Vec<_> = files.iter().map(|file| (*file, Token::new(3))).collect();
    step("results::already_recorded", &[("stage_results", PK, 3)]);
    results::already_recorded(session, Trace::Result, &pairs)
        .await
        .unwrap();
    step("results::already_recorded attempts", &[("attempts", PK, 4)]);
    results::already_recorded(session, Trace::Attempt, &pairs)
        .await
        .unwrap();
    let executions: Vec<_> = files
        .iter()
        .map(|file| (*file, Generation::FIRST, Token::new(3)))
        .collect();
    step("results::recorded", &[("stage_results", PK, 5)]);
    results::recorded(session, Stage::Upload, &executions)
        .await
        .unwrap();
    // The rows of a page are put in the order of their tokens: no more than were asked for.
    sorting_step("attempts::last", &[("attempts", PK, 3)]);
    attempts::last(session, &files).await.unwrap();
    step("dead_letters::delete", &[("dead_letters", PK, 3)]);
    dead_letters::delete(session, &files).await.unwrap();
    step("results::insert", &[]);
    let new: Vec<ResultRow> = files
        .iter()
        .map(|file| result(FileRef::new(tenant(), batch(9_999_999), file.ordinal), now))
        .collect();
    results::insert(session, &new).await.unwrap();
    step("attempts::insert", &[]);
    let lost: Vec<AttemptRow> = files
        .iter()
        .map(|file| AttemptRow {
            file: FileRef::new(tenant(), batch(9_999_999), file.ordinal),
            token: Token::new(1),
            stage: Stage::Upload,
            reason: Reason::WorkerLost,
            detail: "d".into(),
            trace_id: String::new(),
            ended_at: now,
        })
        .collect();
    attempts::insert(session, &lost).await.unwrap();
    step("dead_letters::insert", &[]);
    dead_letters::insert(session, &lost).await.unwrap();

    step(
        "reads::batch",
        &[("batch_progress", PK, 2), ("batches", PK, 2)],
    );
    reads::batch(session, key).await.unwrap();
    step(
        "reads::batches",
        &[("batch_progress", PK, 1), ("batches", PK, 1)],
    );
    reads::batches(session, key.tenant, Some(batch(50)), &[], None, 100)
        .await
        .unwrap();
    reads::batches(
        session,
        key.tenant,
        Some(batch(50)),
        &BatchState::ALL,
        Some(now),
        100,
    )
    .await
    .unwrap();
    step("reads::views", &[("files", PK, 3), ("folders", PK, 3)]);
    reads::views(session, rows.clone()).await.unwrap();
    step("reads::declared_checksums", &[("files", PK, 3)]);
    reads::declared_checksums(session, rows.iter().map(|row| row.file))
        .await
        .unwrap();
    step("reads::folder_path", &[("folders", PK, 3)]);
    reads::folder_path(session, key.tenant, key.batch, 1)
        .await
        .unwrap();
    step("reads::snapshot_files", BY_FILE);
    reads::snapshot_files(session, key.tenant, key.batch, 1, size)
        .await
        .unwrap();
    step("reads::snapshot_folders", &[("folders", PK, 3)]);
    reads::snapshot_folders(session, key.tenant, key.batch, 1, size)
        .await
        .unwrap();
}

/// The same for what bulk operations, selectors and histories read.
async fn second_tour(session: &Session<'_, DatabaseTransaction>, size: u32) {
    let now = Micros(1_000_000);
    let key = BatchRef::new(tenant(), batch(1));
    let files: Vec<FileRef> = (0..size).map(file).collect();
    let generations: Vec<_> = files
        .iter()
        .map(|file| (*file, Generation::new(2)))
        .collect();

    step(
        "work::waiting_by_stage",
        &[("file_work", "file_work_ready", 0)],
    );
    work::waiting_by_stage(session).await.unwrap();
    step("work::lock_range", &[("file_work", PK, 3)]);
    work::lock_range(session, key, 1, size).await.unwrap();

    step("results::served", &[("stage_results", PK, 3)]);
    results::served(session, &generations).await.unwrap();
    step("results::verified_contents", &[("stage_results", PK, 3)]);
    results::verified_contents(session, &files).await.unwrap();
    step(
        "results::holders",
        &[
            ("stage_results", "stage_results_held", 2),
            ("file_work", PK, 3),
        ],
    );
    let contents: Vec<_> = (0..size)
        .map(|number| (tenant(), [u8::try_from(number % 250).unwrap(); 32]))
        .collect();
    results::holders(session, &contents).await.unwrap();
    step("results::of_file", &[("stage_results", PK, 3)]);
    results::of_file(session, file(1)).await.unwrap();
    step("dead_letters::of_files", &[("dead_letters", PK, 3)]);
    dead_letters::of_files(session, &files).await.unwrap();
    step("dead_letters::dismiss", &[("dead_letters", PK, 3)]);
    dead_letters::dismiss(session, &files, now).await.unwrap();

    step(
        "progress::cancelling",
        &[("batch_progress", "batch_progress_live", 0)],
    );
    progress::cancelling(session, size).await.unwrap();
    step(
        "progress::idle",
        &[("batch_progress", "batch_progress_idle", 1)],
    );
    progress::idle(session, now, size).await.unwrap();
    step("progress::rename", &[("batches", PK, 2)]);
    let renamed = Renamed {
        name: Some("n".into()),
        priority: Some(1),
        metadata: None,
    };
    progress::rename(session, key, &renamed).await.unwrap();

    step(
        "history::transitions",
        &[("changes", "changes_of_batch", 3)],
    );
    history::transitions(session, file(1), 1, size)
        .await
        .unwrap();
    step("history::is_pruned", &[("changes", "changes_of_batch", 2)]);
    history::is_pruned(session, file(1)).await.unwrap();
    step("history::attempts_of", &[("attempts", PK, 3)]);
    history::attempts_of(session, file(1)).await.unwrap();
    step("history::letter_of", &[("dead_letters", PK, 3)]);
    history::letter_of(session, file(1)).await.unwrap();

    step("operations::due", &[("operations", "operations_due", 0)]);
    operations::due(session, size).await.unwrap();
    step("operations::lock", &[("operations", "operations_id", 1)]);
    operations::lock(session, key.tenant, uuid(3))
        .await
        .unwrap();
    step("operations::get", &[("operations", "operations_id", 1)]);
    operations::get(session, Viewer::Operator, uuid(3))
        .await
        .unwrap();
    step("operations::list", &[]);
    operations::list(session, Viewer::Tenant(key.tenant), None, size)
        .await
        .unwrap();
    step(
        "operations::prune",
        &[("operations", "operations_ended", 1)],
    );
    operations::prune(session, now, size).await.unwrap();

    step("tus::get", &[("tus_uploads", PK, 2)]);
    tus::get(session, key.tenant, uuid(3)).await.unwrap();
    step("tus::lock", &[("tus_uploads", PK, 2)]);
    tus::lock(session, key.tenant, uuid(3)).await.unwrap();
    step("tus::put", &[]);
    let row = TusRow {
        tenant: key.tenant,
        id: uuid(3),
        batch: None,
        ordinal: None,
        length: Some(1),
        received: 0,
        state: TusState::Open,
        lock: 0,
        locked_until: None,
        expires_at: now,
        facts: Vec::new(),
    };
    tus::put(session, &row).await.unwrap();
    step("tus::delete", &[("tus_uploads", PK, 2)]);
    tus::delete(session, key.tenant, uuid(3)).await.unwrap();
    step("tus::under_way", &[("tus_uploads", "tus_uploads_open", 2)]);
    tus::under_way(session, key.tenant).await.unwrap();
    step("tus::due", &[("tus_uploads", "tus_uploads_due", 1)]);
    tus::due(session, now, size).await.unwrap();

    let letters = Letters {
        tenant: Some(key.tenant),
        batch: None,
        stages: Stage::ALL.to_vec(),
        reasons: Reason::ALL.to_vec(),
        before: Some(now),
    };
    // All rows of the test are one tenant's, of one reason: either index of groups does.
    step("failures::groups", &[]);
    failures::groups(session, &letters).await.unwrap();
    step("failures::add_samples", &[]);
    let mut group = FailureGroup {
        reason: Reason::WorkerLost,
        stage: Stage::Upload,
        count: 1,
        first: now,
        last: now,
        samples: Vec::new(),
        detail: String::new(),
    };
    failures::add_samples(session, &letters, &mut group)
        .await
        .unwrap();

    let mut chosen = Selection {
        tenant: key.tenant,
        batch: Some(key.batch),
        ordinals: Vec::new(),
        states: vec![FileState::Retrying],
        outcomes: Vec::new(),
        stages: vec![Stage::Upload],
        reasons: Vec::new(),
        changed_before: Some(now),
        folder: None,
        glob: None,
        metadata: Vec::new(),
        undismissed: false,
    };
    const OF_A_BATCH: &[Path] = &[("batch_progress", PK, 2), ("file_work", PK, 3)];
    step("selection::next of a batch", OF_A_BATCH);
    let from = Position {
        batch: key.batch,
        ordinal: 3,
    };
    chosen.states = vec![FileState::Processing];
    selection::next(session, &chosen, Some(from), 100, size)
        .await
        .unwrap();
    selection::next(session, &everything(key), Some(from), 100, size)
        .await
        .unwrap();
    step("selection::count of a batch", &[("file_work", PK, 2)]);
    selection::count(session, &chosen, Grouping::State)
        .await
        .unwrap();
    chosen.batch = None;
    step("selection::next of a tenant", &[("file_work", PK, 3)]);
    selection::next(session, &chosen, None, 100, size)
        .await
        .unwrap();
    step("selection::count of a tenant", &[("file_work", PK, 2)]);
    selection::count(session, &chosen, Grouping::State)
        .await
        .unwrap();
    const LIVE: &[Path] = &[
        ("batch_progress", "batch_progress_live", 0),
        ("file_work", PK, 2),
    ];
    step("selection::aged", LIVE);
    for by_stage in [false, true] {
        selection::aged(session, None, FileState::Processing, now, by_stage)
            .await
            .unwrap();
    }
    chosen.states = vec![FileState::Failed];
    step(
        "selection::next of dead letters",
        &[("dead_letters", PK, 1), ("file_work", PK, 3)],
    );
    selection::next(session, &chosen, None, 100, size)
        .await
        .unwrap();
    chosen.states = Vec::new();
    chosen.ordinals = (0..size).collect();
    chosen.batch = Some(key.batch);
    step("selection::next of ordinals", &[("file_work", PK, 3)]);
    selection::next(session, &chosen, None, 100, size)
        .await
        .unwrap();
}

/// All files of a batch, chosen by all that they can be chosen by.
/// The same for tenants, keys and the audit.
async fn tour_of_tenancy(session: &Session<'_, DatabaseTransaction>) {
    let now = Micros(1_000_000);
    step("tenants::account", &[("tenants", PK, 1)]);
    let account = tenants::account(session, tenant()).await.unwrap().unwrap();
    step("tenants::named", &[("tenants", "tenants_called", 1)]);
    tenants::named(session, "tenant 1").await.unwrap();
    step("tenants::accounts", &[("tenants", PK, 1)]);
    tenants::accounts(session, Some(uuid(5)), 3).await.unwrap();
    step("tenants::set", &[("tenants", PK, 1)]);
    tenants::set(session, &account).await.unwrap();
    step("tenants::insert", &[]);
    let mut another = account.clone();
    another.row.tenant = TenantId::from_uuid(uuid(4_000_000_001));
    another.name = "another".into();
    tenants::insert(session, &another).await.unwrap();

    step("credentials::insert", &[]);
    let mut key = KeyRow {
        id: "new".into(),
        tenant: Some(tenant()),
        role: Some(Role::Member),
        batch: None,
        secret_sha256: vec![1; 32],
        name: "new".into(),
        created_at: now,
        expires_at: None,
        lifetime: None,
        revoked_at: None,
        last_used_at: None,
        may_add: Allowance::default(),
        added: Spent::default(),
    };
    credentials::insert(session, &key).await.unwrap();
    step("credentials::key", &[("api_keys", PK, 1)]);
    credentials::key(session, "new").await.unwrap();
    step(
        "credentials::presented",
        &[("api_keys", PK, 1), ("tenants", PK, 1)],
    );
    credentials::presented(session, "new").await.unwrap();
    step(
        "credentials::keys",
        &[("api_keys", "api_keys_of_tenant", 1)],
    );
    credentials::keys(session, Some(tenant()), Some((now, "x")), 3)
        .await
        .unwrap();
    // SQLite searches the other index for keys of no tenant.
    let of_operators: &'static [Path] = match session.dialect {
        Dialect::Postgres => &[("api_keys", "api_keys_of_operators", 1)],
        Dialect::Sqlite => &[("api_keys", "api_keys_of_tenant", 1)],
    };
    step("credentials::keys of operators", of_operators);
    credentials::keys(session, None, Some((now, "x")), 3)
        .await
        .unwrap();
    step(
        "credentials::good_keys",
        &[("api_keys", "api_keys_of_tenant", 1)],
    );
    credentials::good_keys(session, Some(tenant()), now)
        .await
        .unwrap();
    key.revoked_at = Some(now);
    step("credentials::set_end", &[("api_keys", PK, 1)]);
    credentials::set_end(session, &key).await.unwrap();
    step("credentials::set_used", &[("api_keys", PK, 1)]);
    credentials::set_used(session, "new", now).await.unwrap();
    step("credentials::spend", &[("api_keys", PK, 1)]);
    credentials::spend(session, "new", Spent::default())
        .await
        .unwrap();

    step("audit::insert", &[]);
    let act = AuditRow {
        id: uuid(4_000_000_002),
        tenant: Some(tenant()),
        at: now,
        actor: String::new(),
        key_id: String::new(),
        act: String::new(),
        target: String::new(),
        detail: String::new(),
    };
    audit::insert(session, &act).await.unwrap();
    step("audit::before", &[("audit", PK, 1)]);
    audit::before(session, None, Some(uuid(7)), 3)
        .await
        .unwrap();
    step(
        "audit::before in a tenant",
        &[("audit", "audit_of_tenant", 2)],
    );
    audit::before(session, Some(tenant()), Some(uuid(7)), 3)
        .await
        .unwrap();

    step(
        "progress::open_batches",
        &[("batch_progress", "batch_progress_open", 1)],
    );
    progress::open_batches(session, tenant()).await.unwrap();
    // Postgres may as well go through all that run, of whatever tenant, by `operations_due`: they are few.
    if session.dialect == Dialect::Sqlite {
        step(
            "operations::running",
            &[("operations", "operations_running", 1)],
        );
        operations::running(session, tenant()).await.unwrap();
    }
}

fn everything(BatchRef { tenant, batch }: BatchRef) -> Selection {
    Selection {
        tenant,
        batch: Some(batch),
        ordinals: Vec::new(),
        states: FileState::ALL.to_vec(),
        outcomes: Outcome::ALL.to_vec(),
        stages: Stage::ALL.to_vec(),
        reasons: Reason::ALL.to_vec(),
        changed_before: Some(Micros(2_000_000)),
        folder: Some(Subtree::recursive(2, "d2")),
        glob: None,
        metadata: vec![MetadataMatch {
            path: vec!["a".into(), "b".into()],
            value: "x".into(),
        }],
        undismissed: false,
    }
}

fn result(file: FileRef, at: Micros) -> ResultRow {
    ResultRow {
        file,
        generation: Generation::FIRST,
        stage: Stage::Upload,
        version: None,
        content: Some([1; 32]),
        media_type: None,
        token: Token::new(1),
        nonce: "n".into(),
        artifacts: Vec::new(),
        facts: "{}".into(),
        warnings: Vec::new(),
        used: Used::default(),
        skipped: false,
        has_text: false,
        taken_from: None,
        at,
    }
}

/// Rows of one filling.
struct Filling {
    /// First and last batch; each has `files` files.
    batches: (u32, u32),
    files: u32,
}

/// Says the same rows to both databases.
struct Words(Dialect);

impl Words {
    fn uuid(&self, number: &str) -> String {
        match self.0 {
            Dialect::Postgres => {
                format!("('00000000-0000-7000-8000-' || lpad(to_hex({number}), 12, '0'))::uuid")
            }
            Dialect::Sqlite => format!("unhex(printf('00000000000070008000%012x', {number}))"),
        }
    }

    fn bytes(&self, hex: &str) -> String {
        match self.0 {
            Dialect::Postgres => format!("'\\x{hex}'::bytea"),
            Dialect::Sqlite => format!("unhex('{hex}')"),
        }
    }

    /// `name(n)`, counting.
    fn count(&self, name: &str, from: u32, to: u32) -> String {
        match self.0 {
            Dialect::Postgres => format!("{name}(n) AS (SELECT generate_series({from}, {to}))"),
            Dialect::Sqlite => format!(
                "{name}(n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM {name} WHERE n < {to})"
            ),
        }
    }
}

/// Inserts rows of every table by one statement each.
async fn fill(session: &Session<'_, sea_orm::DatabaseConnection>, filling: &Filling) {
    let words = Words(session.dialect);
    let (first, last) = filling.batches;
    let t = words.uuid("0");
    let b = words.uuid("b.n");
    let each = format!(
        "WITH RECURSIVE {}, {}",
        words.count("b", first, last),
        words.count("f", 0, filling.files - 1)
    );
    let batches = format!("WITH RECURSIVE {}", words.count("b", first, last));
    let of_file = format!("{t}, {b}, f.n");
    let content = words.bytes(&"01".repeat(32));
    let facts = session.dialect.json("'{}'");
    let reason = Reason::WorkerLost.number();
    let few = (filling.files / 10).max(1);
    // Most batches have ended, as in an installation that has run for a while.
    let state = "CASE WHEN b.n % 50 = 1 THEN 2 ELSE 3 END";
    let inserts = [
        format!(
            "{batches} INSERT INTO tenants (tenant_id, name, limits, used_bytes, used_files, revision, \
             created_at) SELECT {}, 'tenant ' || (b.n - 1), '{{}}', 0, 0, 0, 0 FROM b",
            words.uuid("b.n - 1")
        ),
        format!(
            "{batches} INSERT INTO batches (tenant_id, batch_id, name, options, priority, created_by, created_at) \
             SELECT {t}, {b}, '', '{{}}', 2, '', 0 FROM b"
        ),
        format!(
            "{batches} INSERT INTO batch_progress (tenant_id, batch_id, state, manifest_complete, cancel_requested, \
             missing_fails, starts_when_completed, stages, priority, run, pause_by, completed_by_system, revision, \
             next_ordinal, next_folder, n_pending, n_uploading, n_uploaded, n_queued, n_processing, n_processed, \
             n_retrying, n_failed, n_cancelled, n_complete, n_partial, n_stored_only, bytes_declared, \
             bytes_uploaded, bytes_processed, changed_at, touched_at, upload_deadline, uploads_open) \
             SELECT {t}, {b}, {state}, true, false, false, false, 31, 2, 1, 0, false, 1, 0, 1, 0, 0, 0, 0, \
             CASE WHEN b.n % 50 = 1 THEN 5 ELSE 0 END, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, false FROM b"
        ),
        format!(
            "{each} INSERT INTO file_work (tenant_id, batch_id, ordinal, state, stage, token, generation, fails, \
             kills, target, wait_stage, ready_at, changed_at, outcome, reason, folder, size) SELECT {of_file}, \
             CASE WHEN f.n < {few} THEN 5 ELSE 6 END, 1 + f.n % 5, 9, 1, 0, 0, 1, \
             CASE WHEN f.n < {few} THEN 1 + f.n % 5 END, CASE WHEN f.n < {few} THEN f.n END, 0, \
             CASE WHEN f.n < {few} THEN 0 ELSE 1 END, 0, 0, 10 FROM b, f"
        ),
        format!(
            "{each} INSERT INTO files (tenant_id, batch_id, ordinal, folder, name, size, created_at) \
             SELECT {of_file}, 0, 'f' || f.n, 10, 0 FROM b, f"
        ),
        format!(
            "{each} INSERT INTO folders (tenant_id, batch_id, folder, ancestors, path, total, processed, failed, \
             cancelled) SELECT {of_file}, {}, CASE WHEN f.n = 0 THEN '' ELSE 'd' || f.n END, 0, 0, 0, 0 FROM b, f \
             WHERE f.n < {few}",
            words.bytes("")
        ),
        format!(
            "{each} INSERT INTO stage_results (tenant_id, batch_id, ordinal, generation, stage, content, token, \
             nonce, artifacts, facts, warnings, used_bytes, used_pages, used_tokens, used_calls, skipped, has_text, at) \
             SELECT {of_file}, 1, 1, {content}, 3, 'n', '[]', {facts}, '[]', 0, 0, 0, 0, false, false, 0 FROM b, f"
        ),
        format!(
            "{each} INSERT INTO attempts (tenant_id, batch_id, ordinal, token, stage, reason, detail, trace_id, \
             ended_at) SELECT {of_file}, 3, 1, {reason}, '', '', 0 FROM b, f WHERE f.n < {few}"
        ),
        format!(
            "{each} INSERT INTO dead_letters (tenant_id, batch_id, ordinal, stage, reason, token, detail, at) \
             SELECT {of_file}, 1, {reason}, 3, '', 0 FROM b, f WHERE f.n < {few}"
        ),
        format!(
            "{each} INSERT INTO changes (tenant_id, revision, batch_id, batch_revision, at, n, body) \
             SELECT {t}, b.n * 1000 + f.n, {b}, f.n, f.n, 1, {} FROM b, f WHERE f.n < {few}",
            words.bytes("")
        ),
        format!(
            "{each} INSERT INTO requests (tenant_id, request_id, method, body_hash, answer, at) \
             SELECT {t}, {}, 'm', {content}, {content}, f.n FROM b, f WHERE f.n < {few}",
            words.uuid("b.n * 100000 + f.n")
        ),
        format!(
            "{batches} INSERT INTO operations (tenant_id, operation_id, kind, options, selector, state, matched, \
             max_count, done, refused, requested_by, by_operator, next_at, created_at, updated_at, ended_at) \
             SELECT {t}, {b}, 'CANCEL', '{{}}', {content}, CASE WHEN b.n % 100 = 1 THEN 'RUNNING' ELSE 'SUCCEEDED' END, \
             1, 0, 0, '{{}}', '', false, b.n, 0, 0, CASE WHEN b.n % 100 = 1 THEN NULL ELSE b.n END FROM b"
        ),
        format!(
            "{each} INSERT INTO tus_uploads (tenant_id, upload_id, batch_id, ordinal, length, received, state,              lock_number, expires_at, due_at, facts) SELECT {t}, {}, {b}, f.n, 9, 0, CASE WHEN f.n % 10 = 1 THEN 1 ELSE 3              END, 0, f.n, f.n, {} FROM b, f WHERE f.n < {few}",
            words.uuid("b.n * 100000 + f.n"),
            words.bytes("")
        ),
        format!(
            "{each} INSERT INTO api_keys (id, tenant_id, role, secret_sha256, name, created_at) \
             SELECT 'k' || (b.n * 100000 + f.n), CASE WHEN f.n % 5 = 0 THEN NULL ELSE {} END, 'MEMBER', {content}, '', f.n \
             FROM b, f WHERE f.n < {few}",
            words.uuid("f.n % 7")
        ),
        format!(
            "{each} INSERT INTO audit (id, tenant_id, at, actor, key_id, act, target, detail) \
             SELECT {}, {}, f.n, '', '', '', '', '' FROM b, f WHERE f.n < {few}",
            words.uuid("b.n * 100000 + f.n"),
            words.uuid("f.n % 7")
        ),
        format!(
            "{batches} INSERT INTO outbox (id, stage, at, body) SELECT b.n, 1 + b.n % 5, b.n, {content} FROM b"
        ),
    ];
    for sql in inserts {
        session.connection.execute_unprepared(&sql).await.unwrap();
    }
}

/// The tables' states, in the order in which a database comes to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Empty,
    Young,
    Large,
    LargeAnalysed,
}

async fn explain_all(open: impl AsyncFn(&str) -> Store) {
    let store = open("recorded").await;
    let writes = store.writes.current().await;
    fill(
        &Session::new(&writes, store.dialect()),
        &Filling {
            batches: (1, 20),
            files: 100,
        },
    )
    .await;
    for size in [2, 500] {
        let transaction = store.begin().await.unwrap();
        let session = transaction.session();
        second_tour(&session, size).await;
        tour_of_tenancy(&session).await;
        tour(&session, size).await;
        transaction.roll_back().await;
    }
    store.close().await;
    let statements = recorded();
    assert!(statements.len() > 150, "the recorder missed something");

    let store = open("explained").await;
    let writes = store.writes.current().await;
    let session = Session::new(&writes, store.dialect());
    let mut wrong = BTreeSet::new();
    for size in [Size::Empty, Size::Young, Size::Large, Size::LargeAnalysed] {
        match size {
            Size::Empty => {}
            Size::Young => {
                let filling = Filling {
                    batches: (1, 2),
                    files: 1_000,
                };
                fill(&session, &filling).await;
            }
            Size::Large => {
                let filling = Filling {
                    batches: (3, 4_002),
                    files: 49,
                };
                fill(&session, &filling).await;
            }
            // Nobody analyses SQLite: it goes by what the indexes look like.
            Size::LargeAnalysed if store.dialect() == Dialect::Sqlite => break,
            Size::LargeAnalysed => {
                session
                    .connection
                    .execute_unprepared("ANALYZE")
                    .await
                    .unwrap();
            }
        }
        // Of one connection: what is prepared is its own.
        let transaction = store.begin().await.unwrap();
        let session = transaction.session();
        for step in statements.chunk_by(|one, next| one.name == next.name) {
            let modes: &[&str] = match store.dialect() {
                Dialect::Postgres => &["force_custom_plan", "force_generic_plan"],
                Dialect::Sqlite => &[""],
            };
            for mode in modes {
                let mut missed: Vec<&Path> = step[0].paths.iter().collect();
                let mut faults = Vec::new();
                for statement in step {
                    faults.extend(match store.dialect() {
                        Dialect::Postgres => {
                            postgres_faults(&session, statement, mode, &mut missed).await
                        }
                        Dialect::Sqlite => sqlite_faults(&session, statement, &mut missed).await,
                    });
                }
                faults.extend(missed.into_iter().map(|path| format!("not by {path:?}")));
                for fault in faults {
                    wrong.insert(format!("{} ({size:?}, {mode}): {fault}", step[0].name));
                }
            }
        }
        transaction.roll_back().await;
    }
    store.close().await;
    let wrong: Vec<String> = wrong.into_iter().collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with the plan that Postgres makes of a statement; `missed` are the paths not seen yet.
async fn postgres_faults(
    session: &Session<'_, DatabaseTransaction>,
    statement: &Recorded,
    mode: &str,
    missed: &mut Vec<&Path>,
) -> Vec<String> {
    let types: Vec<&str> = statement.values.iter().map(type_of).collect();
    let types = if types.is_empty() {
        String::new()
    } else {
        format!("({})", types.join(", "))
    };
    let values: Vec<String> = statement.values.iter().map(literal).collect();
    let values = if values.is_empty() {
        String::new()
    } else {
        format!("({})", values.join(", "))
    };
    let savepoint = session.connection.begin().await.unwrap();
    let run = async |sql: String| {
        savepoint
            .execute_unprepared(&sql)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", statement.name));
    };
    let prepare = format!(
        "PREPARE statement {types} AS {}; SET plan_cache_mode = {mode}",
        statement.sql
    );
    run(prepare).await;
    if statement.by_range {
        run(super::BY_RANGE.into()).await;
    }
    let sql = format!("EXPLAIN (FORMAT JSON) EXECUTE statement {values}");
    let plan = Statement::from_string(Dialect::Postgres.backend(), sql);
    let row = savepoint.query_one_raw(plan).await;
    let plan: Json = row.unwrap().unwrap().try_get_by_index(0).unwrap();
    run("DEALLOCATE statement".into()).await;
    savepoint.rollback().await.unwrap();
    let mut nodes = Vec::new();
    flatten(&plan[0]["Plan"], &mut nodes);
    faults_of_nodes(&nodes, statement, missed)
}

fn flatten<'a>(node: &'a Json, nodes: &mut Vec<&'a Json>) {
    nodes.push(node);
    for child in node["Plans"].as_array().into_iter().flatten() {
        flatten(child, nodes);
    }
}

fn faults_of_nodes(nodes: &[&Json], statement: &Recorded, missed: &mut Vec<&Path>) -> Vec<String> {
    let text = |node: &Json, member: &str| node[member].as_str().unwrap_or_default().to_owned();
    let mut faults = Vec::new();
    let mut reads_a_table = false;
    for node in nodes {
        let kind = text(node, "Node Type");
        let table = text(node, "Relation Name");
        let index = text(node, "Index Name");
        let condition = text(node, "Index Cond");
        if kind == "ModifyTable" || kind == "LockRows" {
            continue;
        }
        let by_bitmap = kind.starts_with("Bitmap") && !statement.by_range;
        if kind.contains("Seq Scan") || by_bitmap || kind == "Tid Scan" {
            faults.push(format!("{kind} of {table}"));
        }
        if !table.is_empty() {
            reads_a_table = true;
        }
        missed.retain(|(wanted, name, count)| {
            let name = if *name == PK {
                format!("{wanted}_pkey")
            } else {
                (*name).to_owned()
            };
            let key = &columns(wanted, if name.ends_with("_pkey") { PK } else { &name })[..*count];
            // The scan of the index below a bitmap's names no table; the index is of one.
            let found = (*wanted == table || kind == "Bitmap Index Scan")
                && name == index
                && key.iter().all(|column| condition.contains(column));
            !found
        });
    }
    for node in nodes {
        let kind = text(node, "Node Type");
        let walks = kind == "Hash Join" || kind == "Merge Join" || kind == "Materialize";
        let sorts = kind.ends_with("Sort") && !statement.sorts;
        if reads_a_table && (walks || sorts) {
            let mut below = Vec::new();
            flatten(node, &mut below);
            let tables: Vec<String> = below
                .iter()
                .map(|node| text(node, "Relation Name"))
                .filter(|table| !table.is_empty())
                .collect();
            if !tables.is_empty() {
                faults.push(format!("{kind} over {}", tables.join(", ")));
            }
        }
    }
    faults
}

/// What is wrong with the plan that SQLite makes of a statement; `missed` are the paths not seen yet.
async fn sqlite_faults(
    session: &Session<'_, DatabaseTransaction>,
    statement: &Recorded,
    missed: &mut Vec<&Path>,
) -> Vec<String> {
    let explain = Statement::from_sql_and_values(
        Dialect::Sqlite.backend(),
        format!("EXPLAIN QUERY PLAN {}", statement.sql),
        statement.values.clone(),
    );
    let mut faults = Vec::new();
    let tables = aliases(&statement.sql);
    for row in session.connection.query_all_raw(explain).await.unwrap() {
        let detail: String = row.try_get("", "detail").unwrap();
        let mut words = detail.split(' ');
        let (verb, name) = (words.next().unwrap(), words.next().unwrap_or_default());
        let table = tables.iter().find(|(alias, _)| alias == name);
        let Some((_, table)) = table else {
            if detail.contains("TEMP B-TREE FOR ORDER BY") && !statement.sorts {
                faults.push(detail);
            }
            continue;
        };
        let by_index = detail.contains(" USING ") && !detail.contains("AUTOMATIC");
        let allowed_to_walk = statement
            .paths
            .iter()
            .any(|(wanted, _, count)| wanted == table && *count == 0);
        if verb == "SCAN" && !allowed_to_walk || verb == "SEARCH" && !by_index {
            faults.push(detail.clone());
        }
        missed.retain(|(wanted, index, count)| {
            let key = &columns(wanted, index)[..*count];
            let rowid = ["outbox", "leadership"].contains(wanted)
                && detail.contains("INTEGER PRIMARY KEY (rowid=?)");
            let by = if *index == PK {
                // A table with a row id names its primary key so.
                detail.contains("USING PRIMARY KEY")
                    || detail.contains(&format!("sqlite_autoindex_{wanted}_1"))
            } else {
                detail.contains(index)
            };
            let walked = *count == 0 && (by || *index == PK && verb == "SCAN");
            let found = wanted == table
                && (rowid || walked || by && key.iter().all(|column| detail.contains(column)));
            !found
        });
    }
    faults
}

/// Which table each name of a statement stands for.
fn aliases(sql: &str) -> Vec<(String, String)> {
    let words: Vec<&str> = sql
        .split([' ', ',', '(', ')', '\n'])
        .filter(|word| !word.is_empty())
        .collect();
    let mut found = Vec::new();
    for (at, word) in words.iter().enumerate() {
        if !matches!(*word, "FROM" | "JOIN" | "UPDATE") {
            continue;
        }
        let table = words.get(at + 1).copied().unwrap_or_default();
        if matches!(table, "u" | "k" | "json_each" | "SET" | "SELECT") {
            continue;
        }
        found.push((table.to_owned(), table.to_owned()));
        if words.get(at + 2) == Some(&"AS")
            && let Some(alias) = words.get(at + 3)
        {
            found.push(((*alias).to_owned(), table.to_owned()));
        }
    }
    found
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Bool(_) => "boolean",
        Value::Int(_) => "integer",
        Value::BigInt(_) => "bigint",
        Value::String(_) => "text",
        Value::Bytes(_) => "bytea",
        Value::Uuid(_) => "uuid",
        Value::Array(sea_orm::sea_query::ArrayType::Uuid, _) => "uuid[]",
        Value::Array(sea_orm::sea_query::ArrayType::BigInt, _) => "bigint[]",
        Value::Array(sea_orm::sea_query::ArrayType::String, _) => "text[]",
        Value::Array(sea_orm::sea_query::ArrayType::Bytes, _) => "bytea[]",
        other => panic!("the store sends a {other:?}"),
    }
}

fn literal(value: &Value) -> String {
    match value {
        Value::Array(_, Some(cells)) => {
            let cells: Vec<String> = cells.iter().map(literal).collect();
            format!("ARRAY[{}]::{}", cells.join(", "), type_of(value))
        }
        Value::Bool(Some(cell)) => cell.to_string(),
        Value::Int(Some(cell)) => cell.to_string(),
        Value::BigInt(Some(i64::MIN)) => "'-9223372036854775808'::bigint".into(),
        Value::BigInt(Some(cell)) => cell.to_string(),
        Value::String(Some(cell)) => format!("'{}'", cell.replace('\'', "''")),
        Value::Bytes(Some(cell)) => format!("'\\x{}'::bytea", hex::encode(cell)),
        Value::Uuid(Some(cell)) => format!("'{cell}'::uuid"),
        _ => "NULL".into(),
    }
}

/// What a caller reads by one value of everything, or by all, in pages of a size.
async fn read_by(session: &Session<'_, sea_orm::DatabaseConnection>, all: bool, size: u32) {
    fn some<T: Clone>(members: &[T], all: bool) -> Vec<T> {
        members[..if all { members.len() } else { 1 }].to_vec()
    }
    let key = BatchRef::new(tenant(), batch(1));
    let now = Micros(size.into());
    let stages = some(&Stage::ALL, all);
    let reasons = some(&Reason::ALL, all);
    let states = some(&BatchState::ALL, all);
    reads::batches(session, key.tenant, None, &states, Some(now), size)
        .await
        .unwrap();
    operations::list(session, Viewer::Tenant(key.tenant), None, size)
        .await
        .unwrap();
    manifest::folder_range(session, key, 0, size).await.unwrap();
    let letters = Letters {
        tenant: Some(key.tenant),
        batch: None,
        stages: stages.clone(),
        reasons: reasons.clone(),
        before: Some(now),
    };
    failures::groups(session, &letters).await.unwrap();
    let mut chosen = Selection {
        states: some(&FileState::ALL, all),
        outcomes: some(&Outcome::ALL, all),
        stages,
        reasons,
        changed_before: Some(now),
        folder: Some(Subtree::recursive(size, &"d".repeat(size as usize))),
        // Counted by a walk, whose statements depend on what there is.
        metadata: Vec::new(),
        ..everything(key)
    };
    selection::next(session, &chosen, None, 100, size)
        .await
        .unwrap();
    for grouping in [Grouping::Nothing, Grouping::State, Grouping::Reason] {
        selection::count(session, &chosen, grouping).await.unwrap();
    }
    chosen.folder = None;
    chosen.batch = None;
    selection::next(session, &chosen, None, 100, size)
        .await
        .unwrap();
    selection::count(session, &chosen, Grouping::State)
        .await
        .unwrap();
    chosen.stages = Vec::new();
    chosen.reasons = Vec::new();
    chosen.changed_before = None;
    selection::count(session, &chosen, Grouping::Outcome)
        .await
        .unwrap();
    selection::aged(session, Some(key.tenant), FileState::Queued, now, true)
        .await
        .unwrap();
}

// Every text is a statement of its own: prepared, and kept by each connection that sent it.
#[tokio::test]
async fn the_text_of_a_statement_does_not_depend_on_how_many_values_came() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite:{}", folder.path().join("ledger").display());
    let store = Store::open(&url).await.unwrap();
    let writes = store.writes.current().await;
    let session = Session::new(&writes, store.dialect());
    fill(
        &session,
        &Filling {
            batches: (1, 2),
            files: 100,
        },
    )
    .await;
    let mut texts = Vec::new();
    for (all, size) in [(false, 1), (true, 7)] {
        step("read", &[]);
        read_by(&session, all, size).await;
        let sent = recorded().into_iter().map(|statement| statement.sql);
        texts.push(sent.collect::<BTreeSet<String>>());
    }
    assert!(texts[0].len() > 8, "the recorder missed something");
    let only_one: Vec<_> = texts[0].symmetric_difference(&texts[1]).collect();
    assert!(only_one.is_empty(), "{only_one:#?}");
    store.close().await;
}

#[tokio::test]
async fn every_statement_goes_by_its_index_on_postgres() {
    explain_all(async |_| {
        let store = Store::open(&Postgres::new_database().unwrap())
            .await
            .unwrap();
        let writes = store.writes.current().await;
        let session = Session::new(&writes, store.dialect());
        let tables = "SELECT tablename::text AS name FROM pg_tables WHERE schemaname = 'public'";
        for row in session.rows(tables, Vec::new()).await.unwrap() {
            let name: String = row.try_get("", "name").unwrap();
            let sql = format!("ALTER TABLE {name} SET (autovacuum_enabled = off)");
            session.connection.execute_unprepared(&sql).await.unwrap();
        }
        store
    })
    .await;
}

#[tokio::test]
async fn every_statement_goes_by_its_index_on_sqlite() {
    let folder = TempDir::new().unwrap();
    explain_all(async |name| {
        let url = format!("sqlite:{}", folder.path().join(name).display());
        Store::open(&url).await.unwrap()
    })
    .await;
}
