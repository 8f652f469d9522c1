//! `file_work`: the hot row of each file.

use caudal_domain::{
    BatchRef, FileRef, FileState, Generation, Outcome, Reason, Stage, Target, Token,
};
use sea_orm::{ConnectionTrait, DbErr, QueryResult, Value};

use super::page::Page;
use super::time::Micros;
use super::{Session, batch_key_of, code_of, damaged, file_of, signed, u32_of, u64_of};
use crate::likeness::{FileKind, Likeness};

/// One row of `file_work`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct WorkRow {
    pub(crate) file: FileRef,
    pub(crate) state: FileState,
    pub(crate) stage: Stage,
    pub(crate) token: Token,
    pub(crate) generation: Generation,
    pub(crate) fails: u32,
    pub(crate) kills: u32,
    pub(crate) target: Target,
    pub(crate) etag: Option<String>,
    pub(crate) wait_stage: Option<Stage>,
    pub(crate) ready_at: Option<Micros>,
    pub(crate) dispatched_at: Option<Micros>,
    pub(crate) lease_until: Option<Micros>,
    pub(crate) changed_at: Micros,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) reason: Option<Reason>,
    pub(crate) folder: u32,
    pub(crate) size: u64,
    pub(crate) kind: FileKind,
}

pub(crate) const COLUMNS: &str = "w.tenant_id, w.batch_id, w.ordinal, w.state, w.stage, w.token, w.generation, w.fails, w.kills, \
    w.target, w.etag, w.wait_stage, w.ready_at, w.dispatched_at, w.lease_until, w.changed_at, w.outcome, w.reason, \
    w.folder, w.size, w.kind";

/// The join of a page `u` with the primary key. The sums keep the planner from any other path.
pub(crate) const BY_KEY: &str = "w.tenant_id = u.t AND w.batch_id = u.b AND w.ordinal = u.o";

/// Stands in the place of a confirmed ETag where the bytes are at a final key already: they are held, or processed again.
/// No store says it, because an ETag is quoted.
pub(crate) const AT_FINAL_KEY: &str = "kept";

impl WorkRow {
    /// Whether its bytes are at a final key, and not at a landing key.
    pub(crate) fn is_at_final_key(&self) -> bool {
        self.etag.as_deref() == Some(AT_FINAL_KEY)
    }

    /// The row of a file that enters the manifest.
    pub(crate) fn pending(file: FileRef, folder: u32, like: Likeness, now: Micros) -> Self {
        Self {
            file,
            state: FileState::Pending,
            stage: Stage::Upload,
            token: Token::FIRST,
            generation: Generation::FIRST,
            fails: 0,
            kills: 0,
            target: Target::FIRST,
            etag: None,
            wait_stage: None,
            ready_at: None,
            dispatched_at: None,
            lease_until: None,
            changed_at: now,
            outcome: None,
            reason: None,
            folder,
            size: like.size,
            kind: like.kind,
        }
    }

    /// What is known of it before it is worked on.
    pub(crate) fn likeness(&self) -> Likeness {
        Likeness {
            kind: self.kind,
            size: self.size,
        }
    }

    /// Whether its bytes have not come yet.
    pub(crate) fn waits_for_bytes(&self) -> bool {
        matches!(self.state, FileState::Pending | FileState::Uploading)
    }

    /// Whether it was given up or left out before any bytes came: what lands after all is adopted (protocol 12.3).
    pub(crate) fn was_given_up(&self) -> bool {
        self.state == FileState::Failed && self.reason.is_some_and(Reason::never_had_bytes)
    }

    pub(crate) fn read(row: &QueryResult) -> Result<Self, DbErr> {
        let wait_stage: Option<i32> = row.try_get("", "wait_stage")?;
        let outcome: i32 = row.try_get("", "outcome")?;
        let reason: i32 = row.try_get("", "reason")?;
        Ok(Self {
            file: file_of(row)?,
            state: code_of(row, "state", FileState::from_code)?,
            stage: code_of(row, "stage", Stage::from_code)?,
            token: Token::new(u64_of(row, "token")?),
            generation: Generation::new(u32_of(row, "generation")?),
            fails: u32_of(row, "fails")?,
            kills: u32_of(row, "kills")?,
            target: Target::new(u32_of(row, "target")?),
            etag: row.try_get("", "etag")?,
            wait_stage: wait_stage
                .map(|code| stage_of(code, "wait_stage"))
                .transpose()?,
            ready_at: time_of(row, "ready_at")?,
            dispatched_at: time_of(row, "dispatched_at")?,
            lease_until: time_of(row, "lease_until")?,
            changed_at: Micros(row.try_get("", "changed_at")?),
            outcome: optional_code(outcome, "outcome", Outcome::from_code)?,
            reason: match reason {
                0 => None,
                number => Some(
                    u16::try_from(number)
                        .ok()
                        .and_then(Reason::from_number)
                        .ok_or_else(|| damaged("reason"))?,
                ),
            },
            folder: u32_of(row, "folder")?,
            size: u64_of(row, "size")?,
            kind: FileKind::from_number(u32_of(row, "kind")?),
        })
    }

    /// Says the detail that watchers see beside the state (see `FileColumns.detail` of the public API).
    pub(crate) fn detail(&self) -> u32 {
        detail(self.state, self.stage, self.outcome, self.reason)
    }
}

/// The detail that watchers see beside a state.
pub(crate) fn detail(
    state: FileState,
    stage: Stage,
    outcome: Option<Outcome>,
    reason: Option<Reason>,
) -> u32 {
    match state {
        FileState::Queued | FileState::Processing | FileState::Retrying => u32::from(stage.code()),
        FileState::Processed => outcome.map_or(0, |outcome| u32::from(outcome.code())),
        FileState::Failed => reason.map_or(0, |reason| u32::from(reason.number())),
        FileState::Pending | FileState::Uploading | FileState::Uploaded | FileState::Cancelled => 0,
    }
}

fn stage_of(code: i32, column: &str) -> Result<Stage, DbErr> {
    u8::try_from(code)
        .ok()
        .and_then(Stage::from_code)
        .ok_or_else(|| damaged(column))
}

fn optional_code<T>(
    code: i32,
    column: &str,
    from_code: impl Fn(u8) -> Option<T>,
) -> Result<Option<T>, DbErr> {
    match code {
        0 => Ok(None),
        code => u8::try_from(code)
            .ok()
            .and_then(from_code)
            .map(Some)
            .ok_or_else(|| damaged(column)),
    }
}

fn time_of(row: &QueryResult, column: &str) -> Result<Option<Micros>, DbErr> {
    Ok(row.try_get::<Option<i64>>("", column)?.map(Micros))
}

/// Rows by key, locked until the transaction ends. `files` in key order, so that two groups never lock crosswise.
pub(crate) async fn lock<C: ConnectionTrait>(
    session: &Session<'_, C>,
    files: &[FileRef],
) -> Result<Vec<WorkRow>, DbErr> {
    by_key(session, files, &session.dialect.for_update_of("w")).await
}

/// Rows by key, as committed.
pub(crate) async fn read<C: ConnectionTrait>(
    session: &Session<'_, C>,
    files: &[FileRef],
) -> Result<Vec<WorkRow>, DbErr> {
    by_key(session, files, "").await
}

async fn by_key<C: ConnectionTrait>(
    session: &Session<'_, C>,
    files: &[FileRef],
    lock: &str,
) -> Result<Vec<WorkRow>, DbErr> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    let (page, values) = Page::of_files(files.iter().copied()).bind(session.dialect, 1);
    let sql = format!("WITH {page} SELECT {COLUMNS} FROM u JOIN file_work AS w ON {BY_KEY}{lock}");
    session
        .rows(sql, values)
        .await?
        .iter()
        .map(WorkRow::read)
        .collect()
}

/// Rows of a query over `file_work AS w`, which is told around its columns: `with` stands before, `from` and `rest` after.
pub(crate) async fn select<C: ConnectionTrait>(
    session: &Session<'_, C>,
    with: &str,
    from: &str,
    rest: &str,
    values: Vec<Value>,
) -> Result<Vec<WorkRow>, DbErr> {
    session
        .rows(format!("{with}SELECT {COLUMNS} FROM {from} {rest}"), values)
        .await?
        .iter()
        .map(WorkRow::read)
        .collect()
}

/// Inserts the rows of a manifest page.
pub(crate) async fn insert<C: ConnectionTrait>(
    session: &Session<'_, C>,
    rows: &[WorkRow],
) -> Result<(), DbErr> {
    if rows.is_empty() {
        return Ok(());
    }
    let page = Page::of_files(rows.iter().map(|row| row.file))
        .numbers("state", rows.iter().map(|row| i64::from(row.state.code())))
        .numbers("stage", rows.iter().map(|row| i64::from(row.stage.code())))
        .numbers("token", rows.iter().map(|row| signed(row.token.get())))
        .numbers("at", rows.iter().map(|row| row.changed_at.0))
        .numbers("folder", rows.iter().map(|row| i64::from(row.folder)))
        .numbers("size", rows.iter().map(|row| signed(row.size)))
        .numbers("kind", rows.iter().map(|row| i64::from(row.kind.number())));
    let (page, values) = page.alike_once().bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} INSERT INTO file_work (tenant_id, batch_id, ordinal, state, stage, token, generation, fails, \
         kills, target, changed_at, outcome, reason, folder, size, kind) \
         SELECT u.t, u.b, u.o, u.state, u.stage, u.token, 1, 0, 0, 1, u.at, 0, 0, u.folder, u.size, u.kind FROM u"
    );
    session.execute(sql, values).await?;
    Ok(())
}

/// Which columns of a row may have moved: the fewer, the narrower the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Moved {
    /// It goes on undisturbed: nothing waits, failed or was renewed.
    Onward,
    /// Anything but the next.
    Anything,
    /// Etag, target or generation too.
    BytesToo,
}

impl Moved {
    /// The narrowest statement that writes a row.
    pub(crate) fn of(row: &WorkRow, bytes_moved: bool) -> Self {
        let undisturbed = row.wait_stage.is_none()
            && row.ready_at.is_none()
            && row.lease_until.is_none()
            && row.reason.is_none()
            && (row.fails, row.kills) == (0, 0);
        match (bytes_moved, undisturbed) {
            (true, _) => Self::BytesToo,
            (false, true) => Self::Onward,
            (false, false) => Self::Anything,
        }
    }
}

/// Writes rows whose token is still the one given beside them. How many were: fewer than asked means that a row
/// changed under a caller that thought it knew it.
pub(crate) async fn update<C: ConnectionTrait>(
    session: &Session<'_, C>,
    rows: &[(Token, &WorkRow)],
    moved: Moved,
) -> Result<u64, DbErr> {
    if rows.is_empty() {
        return Ok(0);
    }
    let mut page = Page::of_files(rows.iter().map(|(_, row)| row.file))
        .numbers("held", rows.iter().map(|(held, _)| signed(held.get())))
        .numbers("token", rows.iter().map(|(_, row)| signed(row.token.get())))
        .numbers(
            "state",
            rows.iter().map(|(_, row)| i64::from(row.state.code())),
        )
        .numbers(
            "stage",
            rows.iter().map(|(_, row)| i64::from(row.stage.code())),
        )
        .nullable_numbers(
            "dispatched_at",
            rows.iter().map(|(_, row)| row.dispatched_at.map(|at| at.0)),
        )
        .numbers("changed_at", rows.iter().map(|(_, row)| row.changed_at.0))
        .numbers(
            "outcome",
            rows.iter()
                .map(|(_, row)| row.outcome.map_or(0, |outcome| outcome.code().into())),
        );
    let mut rest =
        "wait_stage = NULL, ready_at = NULL, lease_until = NULL, fails = 0, kills = 0, reason = 0";
    if moved > Moved::Onward {
        page = page
            .numbers("fails", rows.iter().map(|(_, row)| i64::from(row.fails)))
            .numbers("kills", rows.iter().map(|(_, row)| i64::from(row.kills)))
            .nullable_numbers(
                "wait_stage",
                rows.iter()
                    .map(|(_, row)| row.wait_stage.map(|stage| stage.code().into())),
            )
            .nullable_numbers(
                "ready_at",
                rows.iter().map(|(_, row)| row.ready_at.map(|at| at.0)),
            )
            .nullable_numbers(
                "lease_until",
                rows.iter().map(|(_, row)| row.lease_until.map(|at| at.0)),
            )
            .numbers(
                "reason",
                rows.iter()
                    .map(|(_, row)| row.reason.map_or(0, |reason| reason.number().into())),
            );
        rest = "wait_stage = u.wait_stage, ready_at = u.ready_at, lease_until = u.lease_until, fails = u.fails, \
                kills = u.kills, reason = u.reason";
    }
    let mut bytes = "";
    if moved == Moved::BytesToo {
        page = page
            .numbers(
                "generation",
                rows.iter().map(|(_, row)| i64::from(row.generation.get())),
            )
            .numbers(
                "target",
                rows.iter().map(|(_, row)| i64::from(row.target.get())),
            )
            .texts("etag", rows.iter().map(|(_, row)| row.etag.clone()));
        bytes = ", generation = u.generation, target = u.target, etag = u.etag";
    }
    let (page, values) = page.bind(session.dialect, 1);
    let sql = format!(
        "WITH {page} UPDATE file_work AS w SET token = u.token, state = u.state, stage = u.stage, \
         dispatched_at = u.dispatched_at, changed_at = u.changed_at, outcome = u.outcome, {rest}{bytes} \
         FROM u WHERE {BY_KEY} AND w.token + 0 = u.held"
    );
    session.execute(sql, values).await
}

/// The next files of one batch that wait for `stage` and whose time has come, by index `file_work_ready`; locked. Those of
/// one instant come in any order: to sort them, all would be read, and that may be the whole batch.
pub(crate) async fn waiting<C: ConnectionTrait>(
    session: &Session<'_, C>,
    stage: Stage,
    BatchRef { tenant, batch }: BatchRef,
    now: Micros,
    limit: u32,
) -> Result<Vec<WorkRow>, DbErr> {
    let skip = match session.dialect {
        super::dialect::Dialect::Sqlite => "",
        super::dialect::Dialect::Postgres => " FOR UPDATE SKIP LOCKED",
    };
    let sql = format!(
        "SELECT {COLUMNS} FROM file_work AS w WHERE w.wait_stage = $1 AND w.tenant_id = $2 AND w.batch_id = $3 \
         AND w.ready_at <= $4 ORDER BY w.ready_at LIMIT {limit}{skip}"
    );
    let values = vec![
        i32::from(stage.code()).into(),
        tenant.as_uuid().into(),
        batch.as_uuid().into(),
        now.0.into(),
    ];
    session
        .rows(sql, values)
        .await?
        .iter()
        .map(WorkRow::read)
        .collect()
}

/// When the earliest file of one batch that waits for `stage` is ready; none waits: `None`. By index `file_work_ready`.
pub(crate) async fn earliest_ready<C: ConnectionTrait>(
    session: &Session<'_, C>,
    stage: Stage,
    BatchRef { tenant, batch }: BatchRef,
) -> Result<Option<Micros>, DbErr> {
    let sql = "SELECT min(w.ready_at) AS at FROM file_work AS w WHERE w.wait_stage = $1 AND w.tenant_id = $2 \
               AND w.batch_id = $3";
    let values: Vec<Value> = vec![
        i32::from(stage.code()).into(),
        tenant.as_uuid().into(),
        batch.as_uuid().into(),
    ];
    match session.row(sql, values).await? {
        Some(row) => time_of(&row, "at"),
        None => Ok(None),
    }
}

/// How many files wait for each stage and when the first of them is ready, by index `file_work_ready`.
pub(crate) async fn waiting_by_stage<C: ConnectionTrait>(
    session: &Session<'_, C>,
) -> Result<std::collections::HashMap<Stage, (u64, Micros)>, DbErr> {
    let sql = "SELECT w.wait_stage, count(*) AS n, min(w.ready_at) AS earliest FROM file_work AS w \
               WHERE w.wait_stage IS NOT NULL GROUP BY w.wait_stage";
    let mut found = std::collections::HashMap::new();
    for row in session.rows(sql, Vec::new()).await? {
        let stage = code_of(&row, "wait_stage", Stage::from_code)?;
        let earliest = Micros(row.try_get("", "earliest")?);
        found.insert(stage, (u64_of(&row, "n")?, earliest));
    }
    Ok(found)
}

/// A batch in which files wait for a stage.
pub(crate) struct WaitingBatch {
    pub(crate) stage: Stage,
    pub(crate) batch: BatchRef,
    pub(crate) earliest: Micros,
}

/// Every batch in which files wait, by index `file_work_ready`: read once, when a ledger begins.
pub(crate) async fn all_waiting<C: ConnectionTrait>(
    session: &Session<'_, C>,
) -> Result<Vec<WaitingBatch>, DbErr> {
    let sql = "SELECT w.wait_stage, w.tenant_id, w.batch_id, min(w.ready_at) AS earliest FROM file_work AS w \
               WHERE w.wait_stage IS NOT NULL GROUP BY w.wait_stage, w.tenant_id, w.batch_id";
    let mut found = Vec::new();
    for row in session.rows(sql, Vec::new()).await? {
        found.push(WaitingBatch {
            stage: code_of(&row, "wait_stage", Stage::from_code)?,
            batch: batch_key_of(&row)?,
            earliest: Micros(row.try_get("", "earliest")?),
        });
    }
    Ok(found)
}

/// Every file whose dispatch is out, by the key ranges of the batches that have such: read once, when a ledger begins.
pub(crate) async fn all_dispatched<C: ConnectionTrait>(
    session: &Session<'_, C>,
) -> Result<Vec<WorkRow>, DbErr> {
    let sql = format!(
        "SELECT {COLUMNS} FROM batch_progress AS p JOIN file_work AS w ON w.tenant_id = p.tenant_id AND \
         w.batch_id = p.batch_id WHERE p.state IN (1, 2) AND p.n_queued + p.n_processing > 0 \
         AND w.dispatched_at IS NOT NULL"
    );
    session
        .rows(sql, Vec::new())
        .await?
        .iter()
        .map(WorkRow::read)
        .collect()
}

/// Rows of one batch from an ordinal on, in order: a range of the key.
pub(crate) async fn range<C: ConnectionTrait>(
    session: &Session<'_, C>,
    batch: BatchRef,
    from: u32,
    limit: u32,
) -> Result<Vec<WorkRow>, DbErr> {
    rows_from(session, batch, from, limit, "").await
}

async fn rows_from<C: ConnectionTrait>(
    session: &Session<'_, C>,
    BatchRef { tenant, batch }: BatchRef,
    from: u32,
    limit: u32,
    lock: &str,
) -> Result<Vec<WorkRow>, DbErr> {
    let sql = format!(
        "SELECT {COLUMNS} FROM file_work AS w WHERE w.tenant_id = $1 AND w.batch_id = $2 AND w.ordinal >= $3 \
         ORDER BY w.ordinal LIMIT {limit}{lock}"
    );
    let from = i32::try_from(from).unwrap_or(i32::MAX);
    session
        .rows(
            sql,
            vec![tenant.as_uuid().into(), batch.as_uuid().into(), from.into()],
        )
        .await?
        .iter()
        .map(WorkRow::read)
        .collect()
}

/// As [`range`], locked until the transaction ends.
pub(crate) async fn lock_range<C: ConnectionTrait>(
    session: &Session<'_, C>,
    batch: BatchRef,
    from: u32,
    limit: u32,
) -> Result<Vec<WorkRow>, DbErr> {
    rows_from(session, batch, from, limit, session.dialect.for_update()).await
}
