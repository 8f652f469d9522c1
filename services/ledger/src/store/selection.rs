//! Files chosen by a selector: one walk in the order of keys and one count, which lists, counts and bulk operations
//! share.
//!
//! Where to look is decided by what is known without looking: given ordinals are read by key; FAILED files of a whole
//! tenant stand in `dead_letters`; otherwise the counters of `batch_progress` tell which batches hold any, and those are
//! read by ranges of the primary key. Nothing here wants an index on a column that a hop changes.

use caudal_domain::{BatchId, BatchRef, FileRef, FileState, Outcome, Reason, Stage, TenantId};
use globset::GlobMatcher;
use sea_orm::sea_query::ArrayType;
use sea_orm::{ConnectionTrait, DbErr, QueryResult, TransactionTrait, Value};

use super::dialect::Dialect;
use super::page::Page;
use super::reads;
use super::time::Micros;
use super::work::{self, WorkRow};
use super::{Session, u32_of, uuid_of};

/// Batches whose ranges one statement counts.
const BATCHES_A_STATEMENT: usize = 256;
/// What visiting a batch costs of the rows a walk may read: many small batches are bounded too.
const ROWS_A_BATCH: u32 = 10;
/// Rows that are read at once where paths are looked at: many of a tenant's reads may hold so many.
const ROWS_A_STEP: u32 = 1_000;

/// Which files are chosen: all that is set must hold.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    pub(crate) tenant: TenantId,
    /// `None`: the whole tenant, and then `states` is not empty.
    pub(crate) batch: Option<BatchId>,
    /// In order; empty: all of the batch.
    pub(crate) ordinals: Vec<u32>,
    pub(crate) states: Vec<FileState>,
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) reasons: Vec<Reason>,
    pub(crate) changed_before: Option<Micros>,
    pub(crate) folder: Option<Subtree>,
    pub(crate) glob: Option<GlobMatcher>,
    /// Values in the caller's metadata; needs a batch.
    pub(crate) metadata: Vec<MetadataMatch>,
    /// Only files whose dead letter was not dismissed.
    pub(crate) undismissed: bool,
}

/// A text, number or truth that stands at a path of the caller's metadata.
#[derive(Clone, Debug)]
pub(crate) struct MetadataMatch {
    /// Names from the outside in; none holds what would end a name in a path of SQLite's.
    pub(crate) path: Vec<String>,
    pub(crate) value: serde_json::Value,
}

impl MetadataMatch {
    /// The smallest object that holds it.
    fn object(&self) -> String {
        let inside = self.value.clone();
        let names = self.path.iter().rev();
        let object = names.fold(inside, |value, name| serde_json::json!({ name: value }));
        object.to_string()
    }

    /// The path as SQLite writes it, and the value as JSON.
    fn at_path(&self) -> [String; 2] {
        let names = self.path.iter();
        let path = names.fold("$".to_owned(), |path, name| format!("{path}.\"{name}\""));
        [path, self.value.to_string()]
    }
}

/// A folder of the batch, alone or with everything below it.
#[derive(Clone, Debug)]
pub(crate) struct Subtree {
    pub(crate) folder: u32,
    /// Between which paths the folders below it stand.
    pub(crate) below: Option<(String, String)>,
}

impl Subtree {
    /// The folder with everything below it.
    pub(crate) fn recursive(folder: u32, path: &str) -> Self {
        // '0' is the character after '/': everything below `path/`.
        let below = if path.is_empty() {
            (String::new(), "\u{10FFFF}".to_owned())
        } else {
            (format!("{path}/"), format!("{path}0"))
        };
        Self {
            folder,
            below: Some(below),
        }
    }
}

/// Where a walk goes on: the first key that was not looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) batch: BatchId,
    pub(crate) ordinal: u32,
}

/// A step of a walk.
#[derive(Debug)]
pub(crate) struct Step {
    /// In the order of keys.
    pub(crate) rows: Vec<WorkRow>,
    /// `None`: that was the end.
    pub(crate) next: Option<Position>,
}

/// What files are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Grouping {
    Nothing,
    State,
    Reason,
    Stage,
    Outcome,
}

impl Selection {
    /// Whether `batch_progress` answers how many there are.
    pub(crate) fn is_counted(&self) -> bool {
        self.ordinals.is_empty()
            && self.stages.is_empty()
            && self.reasons.is_empty()
            && self.changed_before.is_none()
            && self.folder.is_none()
            && self.glob.is_none()
            && self.metadata.is_empty()
            && !self.undismissed
    }

    /// Whether every chosen file has a dead letter, and those are the shortest way to it.
    fn goes_by_dead_letters(&self) -> bool {
        self.undismissed || (self.batch.is_none() && self.states == [FileState::Failed])
    }

    /// Which of the counters of a batch count chosen files.
    fn counters(&self) -> Counters {
        let is_chosen = |counter: &Counter| {
            let has_state = self.states.is_empty() || self.states.contains(&counter.state);
            let has_outcome = self.outcomes.is_empty()
                || counter
                    .outcome
                    .is_some_and(|outcome| self.outcomes.contains(&outcome));
            has_state && has_outcome
        };
        Counters::which(is_chosen)
    }

    /// What rows of `file_work` as `w` must hold beside the key. The sums keep the planner on the key.
    fn conditions(&self, dialect: Dialect, values: &mut Vec<Value>) -> String {
        let mut text = String::new();
        let mut any = |column: &str, codes: Vec<i64>| {
            if !codes.is_empty() {
                values.push(dialect.numbers(codes));
                let is_among = dialect.is_among(&format!("w.{column} + 0"), values.len());
                text.push_str(&format!(" AND {is_among}"));
            }
        };
        any("state", codes(&self.states, |state| state.code().into()));
        any(
            "outcome",
            codes(&self.outcomes, |outcome| outcome.code().into()),
        );
        any("stage", codes(&self.stages, |stage| stage.code().into()));
        any("reason", codes(&self.reasons, |reason| reason.number()));
        if self.undismissed && !self.ordinals.is_empty() {
            text.push_str(
                " AND EXISTS (SELECT 1 FROM dead_letters AS d WHERE d.tenant_id = w.tenant_id \
                 AND d.batch_id = w.batch_id AND d.ordinal = w.ordinal AND d.dismissed_at IS NULL)",
            );
        }
        if let Some(before) = self.changed_before {
            values.push(before.0.into());
            text.push_str(&format!(" AND w.changed_at <= ${}", values.len()));
        }
        if let Some(Subtree { folder, below }) = &self.folder {
            values.push(i64::from(*folder).into());
            text.push_str(&format!(" AND (w.folder = ${}", values.len()));
            if let (Some((from, to)), Some(batch)) = (below, self.batch) {
                let first = values.len() + 1;
                text.push_str(&format!(
                    " OR w.folder IN (SELECT d.folder FROM folders AS d WHERE d.tenant_id = ${first} AND d.batch_id = ${} \
                     AND d.path > ${} AND d.path < ${})",
                    first + 1,
                    first + 2,
                    first + 3
                ));
                values.extend([
                    self.tenant.as_uuid().into(),
                    batch.as_uuid().into(),
                    from.clone().into(),
                    to.clone().into(),
                ]);
            }
            text.push(')');
        }
        if !self.metadata.is_empty() {
            let matches = self.metadata.iter();
            // A scalar for each file, read by its key; a join would be planned as one over the whole batch.
            let holds_all = match dialect {
                Dialect::Postgres => {
                    let objects = matches.map(|one| Value::from(one.object()));
                    let objects = Some(Box::new(objects.collect()));
                    values.push(Value::Array(ArrayType::String, objects));
                    format!("f.metadata @> ALL (${}::text[]::jsonb[])", values.len())
                }
                Dialect::Sqlite => {
                    let pairs: Vec<_> = matches.map(MetadataMatch::at_path).collect();
                    values.push(serde_json::json!(pairs).to_string().into());
                    format!(
                        "NOT EXISTS (SELECT 1 FROM json_each(${}) AS q \
                         WHERE (f.metadata -> (q.value ->> 0)) IS NOT (q.value ->> 1))",
                        values.len()
                    )
                }
            };
            text.push_str(&format!(
                " AND (SELECT {holds_all} FROM files AS f WHERE f.tenant_id = w.tenant_id \
                 AND f.batch_id = w.batch_id AND f.ordinal = w.ordinal)"
            ));
        }
        text
    }
}

fn codes<T>(members: &[T], code: impl Fn(&T) -> u16) -> Vec<i64> {
    members.iter().map(|member| code(member).into()).collect()
}

/// A counter of `batch_progress`: of a state, the PROCESSED by how they ended.
struct Counter {
    column: &'static str,
    state: FileState,
    outcome: Option<Outcome>,
}

/// All of them: each file is counted in one.
fn every_counter() -> impl Iterator<Item = Counter> {
    FileState::ALL.into_iter().flat_map(|state| {
        let outcomes = match state {
            FileState::Processed => Outcome::ALL.map(Some).to_vec(),
            _ => vec![None],
        };
        outcomes.into_iter().map(move |outcome| Counter {
            column: outcome.map_or_else(|| state_column(state), outcome_column),
            state,
            outcome,
        })
    })
}

/// Some of the counters, as a number with a bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counters(i64);

impl Counters {
    fn which(is_chosen: impl Fn(&Counter) -> bool) -> Self {
        let chosen = every_counter()
            .enumerate()
            .filter(|(_, counter)| is_chosen(counter));
        Self(chosen.fold(0, |bits, (place, _)| bits | 1 << place))
    }

    fn members(self) -> impl Iterator<Item = Counter> {
        every_counter()
            .enumerate()
            .filter(move |(place, _)| self.0 >> place & 1 == 1)
            .map(|(_, counter)| counter)
    }

    /// Their sum over a row of `batch_progress` as `p`: one text, whichever they are.
    fn sum(self, values: &mut Vec<Value>) -> String {
        values.push(self.0.into());
        let parameter = values.len();
        let terms: Vec<String> = every_counter()
            .enumerate()
            .map(|(place, counter)| {
                format!("p.{} * ((${parameter} >> {place}) & 1)", counter.column)
            })
            .collect();
        format!("({})", terms.join(" + "))
    }
}

/// The counter of a state.
pub(crate) fn state_column(state: FileState) -> &'static str {
    match state {
        FileState::Pending => "n_pending",
        FileState::Uploading => "n_uploading",
        FileState::Uploaded => "n_uploaded",
        FileState::Queued => "n_queued",
        FileState::Processing => "n_processing",
        FileState::Processed => "n_processed",
        FileState::Retrying => "n_retrying",
        FileState::Failed => "n_failed",
        FileState::Cancelled => "n_cancelled",
    }
}

fn outcome_column(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Complete => "n_complete",
        Outcome::Partial => "n_partial",
        Outcome::StoredOnly => "n_stored_only",
    }
}

/// The next chosen files from a position on: at most `files`, after reading about `rows` rows at most.
pub(crate) async fn next<C: ConnectionTrait>(
    session: &Session<'_, C>,
    selection: &Selection,
    from: Option<Position>,
    rows: u32,
    files: u32,
) -> Result<Step, DbErr> {
    let Some(glob) = &selection.glob else {
        return next_by_row(session, selection, from, rows, files).await;
    };
    // Few may match, so all that may be read is read, some at a time.
    let (mut chosen, mut from, mut left) = (Vec::new(), from, rows);
    loop {
        let some = left.min(ROWS_A_STEP);
        left -= some;
        let step = next_by_row(session, selection, from, some, some).await?;
        let views = reads::views(session, step.rows).await?;
        let matching = views.into_iter().filter(|view| glob.is_match(&view.path));
        chosen.extend(matching.map(|view| view.work));
        let is_enough = chosen.len() > files as usize;
        if is_enough || left == 0 || step.next.is_none() {
            let mut step = Step {
                rows: chosen,
                next: step.next,
            };
            if let Some(beyond) = step.rows.get(files as usize) {
                step.next = Some(position_of(beyond.file));
                step.rows.truncate(files as usize);
            }
            return Ok(step);
        }
        from = step.next;
    }
}

/// The same without a look at paths.
async fn next_by_row<C: ConnectionTrait>(
    session: &Session<'_, C>,
    selection: &Selection,
    from: Option<Position>,
    rows: u32,
    files: u32,
) -> Result<Step, DbErr> {
    if !selection.ordinals.is_empty() {
        named(session, selection, from, files).await
    } else if selection.goes_by_dead_letters() {
        failed(session, selection, from, rows.min(files)).await
    } else {
        ranges(session, selection, from, rows, files).await
    }
}

/// Given ordinals, by key.
async fn named<C: ConnectionTrait>(
    session: &Session<'_, C>,
    selection: &Selection,
    from: Option<Position>,
    files: u32,
) -> Result<Step, DbErr> {
    let Some(batch) = selection.batch else {
        return Ok(Step {
            rows: Vec::new(),
            next: None,
        });
    };
    let from = from.map_or(0, |position| position.ordinal);
    let wanted = selection
        .ordinals
        .iter()
        .filter(|ordinal| **ordinal >= from);
    let keys: Vec<FileRef> = wanted
        .map(|ordinal| FileRef::new(selection.tenant, batch, *ordinal))
        .collect();
    let mut rows = by_key(session, selection, &keys).await?;
    let next = rows.get(files as usize).map(|row| position_of(row.file));
    rows.truncate(files as usize);
    Ok(Step { rows, next })
}

fn position_of(file: FileRef) -> Position {
    Position {
        batch: file.batch,
        ordinal: file.ordinal,
    }
}

async fn by_key<C: ConnectionTrait>(
    session: &Session<'_, C>,
    selection: &Selection,
    keys: &[FileRef],
) -> Result<Vec<WorkRow>, DbErr> {
    if keys.is_empty() {
        return Ok(Vec::new());
    }
    let (page, mut values) = Page::of_files(keys.iter().copied()).bind(session.dialect, 1);
    let conditions = selection.conditions(session.dialect, &mut values);
    // Read first and chosen then: the conditions look so selective that rows would be looked for by them.
    let with = format!(
        "WITH {page}, k AS MATERIALIZED (SELECT x.* FROM u JOIN file_work AS x ON {}) ",
        work::BY_KEY.replace("w.", "x.")
    );
    let rest = format!("WHERE 1 = 1{conditions}");
    let mut rows = work::select(session, &with, "k AS w", &rest, values).await?;
    rows.sort_by_key(|row| row.file);
    Ok(rows)
}

/// FAILED files, by the keys of their dead letters.
async fn failed<C: ConnectionTrait>(
    session: &Session<'_, C>,
    selection: &Selection,
    from: Option<Position>,
    rows: u32,
) -> Result<Step, DbErr> {
    let mut values: Vec<Value> = vec![selection.tenant.as_uuid().into()];
    let mut range = String::new();
    if let Some(batch) = selection.batch {
        values.push(batch.as_uuid().into());
        range.push_str(" AND d.batch_id = $2");
    }
    if let Some(from) = from {
        let first = values.len() + 1;
        values.push(from.batch.as_uuid().into());
        values.push(signed_small(from.ordinal).into());
        range.push_str(&format!(
            " AND (d.batch_id, d.ordinal) >= (${first}, ${})",
            first + 1
        ));
    }
    values.push(i64::from(rows.saturating_add(1)).into());
    let sql = format!(
        "SELECT d.tenant_id, d.batch_id, d.ordinal, d.dismissed_at FROM dead_letters AS d WHERE d.tenant_id = $1{range} \
         ORDER BY d.batch_id, d.ordinal LIMIT ${}",
        values.len()
    );
    let mut keys = Vec::new();
    let mut next = None;
    for (read, row) in session.rows(sql, values).await?.iter().enumerate() {
        let file = super::file_of(row)?;
        if read == rows as usize {
            next = Some(position_of(file));
            break;
        }
        let dismissed: Option<i64> = row.try_get("", "dismissed_at")?;
        if !(selection.undismissed && dismissed.is_some()) {
            keys.push(file);
        }
    }
    Ok(Step {
        rows: by_key(session, selection, &keys).await?,
        next,
    })
}

/// Ranges of the key, batch by batch.
async fn ranges<C: ConnectionTrait>(
    session: &Session<'_, C>,
    selection: &Selection,
    from: Option<Position>,
    rows: u32,
    files: u32,
) -> Result<Step, DbErr> {
    let mut found = Vec::new();
    let mut position = from;
    let mut budget = rows;
    while let Some((batch, end)) = batch_from(session, selection, position).await? {
        let begin = position
            .filter(|position| position.batch == batch)
            .map_or(0, |position| position.ordinal);
        let until = begin.saturating_add(budget).min(end);
        let wanted = files.saturating_sub(u32::try_from(found.len()).unwrap_or(u32::MAX));
        let chosen = range(session, selection, batch, begin..until, wanted).await?;
        let is_full = chosen.len() >= wanted as usize;
        let last = chosen.last().map(|row| row.file.ordinal);
        found.extend(chosen);
        let reached = match last {
            Some(last) if is_full => last.saturating_add(1),
            _ => until,
        };
        let next = if reached < end {
            Position {
                batch,
                ordinal: reached,
            }
        } else {
            match batch_after(batch) {
                Some(batch) if selection.batch.is_none() => Position { batch, ordinal: 0 },
                _ => break,
            }
        };
        budget = budget.saturating_sub(reached.saturating_sub(begin).max(ROWS_A_BATCH));
        if is_full || budget == 0 {
            return Ok(Step {
                rows: found,
                next: Some(next),
            });
        }
        position = Some(next);
    }
    Ok(Step {
        rows: found,
        next: None,
    })
}

/// The least batch id above this one.
fn batch_after(batch: BatchId) -> Option<BatchId> {
    let next = batch.as_uuid().as_u128().checked_add(1)?;
    Some(BatchId::from_uuid(uuid::Uuid::from_u128(next)))
}

/// The next batch that holds chosen files, and how many ordinals it has given.
async fn batch_from<C: ConnectionTrait>(
    session: &Session<'_, C>,
    selection: &Selection,
    from: Option<Position>,
) -> Result<Option<(BatchId, u32)>, DbErr> {
    let (relation, batch) = match (selection.batch, from) {
        (Some(batch), _) => ("=", batch),
        (None, Some(position)) => (">=", position.batch),
        (None, None) => (">=", BatchId::from_uuid(uuid::Uuid::nil())),
    };
    let mut values: Vec<Value> = vec![selection.tenant.as_uuid().into(), batch.as_uuid().into()];
    let sql = format!(
        "SELECT p.batch_id, p.next_ordinal FROM batch_progress AS p WHERE p.tenant_id = $1 AND p.batch_id {relation} $2 \
         AND {} > 0 ORDER BY p.batch_id LIMIT 1",
        selection.counters().sum(&mut values)
    );
    let row = session.row(sql, values).await?;
    row.map(|row| {
        let batch = BatchId::from_uuid(uuid_of(&row, "batch_id")?);
        Ok((batch, u32_of(&row, "next_ordinal")?))
    })
    .transpose()
}

async fn range<C: ConnectionTrait>(
    session: &Session<'_, C>,
    selection: &Selection,
    batch: BatchId,
    ordinals: std::ops::Range<u32>,
    files: u32,
) -> Result<Vec<WorkRow>, DbErr> {
    let mut values: Vec<Value> = vec![
        selection.tenant.as_uuid().into(),
        batch.as_uuid().into(),
        signed_small(ordinals.start).into(),
        signed_small(ordinals.end).into(),
    ];
    let conditions = selection.conditions(session.dialect, &mut values);
    values.push(i64::from(files).into());
    let rest = format!(
        "WHERE w.tenant_id = $1 AND w.batch_id = $2 AND w.ordinal >= $3 AND w.ordinal < $4{conditions} \
         ORDER BY w.ordinal LIMIT ${}",
        values.len()
    );
    work::select(session, "", "file_work AS w", &rest, values).await
}

/// How many files are chosen, by the number of what they are grouped by (0: none of it; all are 0 when by nothing).
pub(crate) async fn count<C: ConnectionTrait + TransactionTrait>(
    session: &Session<'_, C>,
    selection: &Selection,
    grouping: Grouping,
) -> Result<Vec<(u16, u64)>, DbErr> {
    let by_counters = matches!(
        grouping,
        Grouping::Nothing | Grouping::State | Grouping::Outcome
    );
    if selection.is_counted() && by_counters {
        return counted(session, selection, grouping).await;
    }
    if selection.glob.is_some() || !selection.metadata.is_empty() {
        return count_by_walk(session, selection, grouping).await;
    }
    let key = match grouping {
        Grouping::Nothing => "min(0)",
        Grouping::State => "w.state",
        Grouping::Reason => "w.reason",
        Grouping::Stage => "w.stage",
        Grouping::Outcome => "w.outcome",
    };
    let grouped = match grouping {
        Grouping::Nothing => "",
        _ => " GROUP BY 1",
    };
    let mut tally = Tally::default();
    if !selection.ordinals.is_empty() {
        let rows = named(session, selection, None, u32::MAX).await?.rows;
        for row in &rows {
            tally.add(grouping.key_of(row), 1);
        }
    } else if selection.goes_by_dead_letters() {
        let mut values: Vec<Value> = vec![selection.tenant.as_uuid().into()];
        let mut of_letters = String::new();
        if let Some(batch) = selection.batch {
            values.push(batch.as_uuid().into());
            of_letters.push_str(" AND d.batch_id = $2");
        }
        if selection.undismissed {
            of_letters.push_str(" AND d.dismissed_at IS NULL");
        }
        let conditions = selection.conditions(session.dialect, &mut values);
        let sql = format!(
            "SELECT {key} AS key, count(*) AS n FROM dead_letters AS d JOIN file_work AS w ON w.tenant_id = d.tenant_id \
             AND w.batch_id = d.batch_id AND w.ordinal = d.ordinal WHERE d.tenant_id = $1{of_letters}{conditions}{grouped}"
        );
        tally.add_rows(&session.rows(sql, values).await?)?;
    } else if let Some(batch) = selection.batch {
        let mut values: Vec<Value> =
            vec![selection.tenant.as_uuid().into(), batch.as_uuid().into()];
        let conditions = selection.conditions(session.dialect, &mut values);
        let sql = format!(
            "SELECT {key} AS key, count(*) AS n FROM file_work AS w WHERE w.tenant_id = $1 AND w.batch_id = $2{conditions}{grouped}"
        );
        tally.add_rows(&session.rows_of_ranges(sql, values).await?)?;
    } else {
        let tenant = Some(selection.tenant);
        let holders = batches_with(session, tenant, selection.counters(), "").await?;
        for page in holders.chunks(BATCHES_A_STATEMENT) {
            let (page, mut values) =
                Page::of_batches(page.iter().copied()).bind(session.dialect, 1);
            let columns = format!("{key} AS key, count(*) AS n");
            let rest = format!(
                "{}{grouped}",
                selection.conditions(session.dialect, &mut values)
            );
            let sql = over_batches(session.dialect, &page, &columns, &rest);
            tally.add_rows(&session.rows_of_ranges(sql, values).await?)?;
        }
    }
    Ok(tally.counts)
}

impl Grouping {
    fn key_of(self, row: &WorkRow) -> u16 {
        match self {
            Self::Nothing => 0,
            Self::State => row.state.code().into(),
            Self::Reason => row.reason.map_or(0, Reason::number),
            Self::Stage => row.stage.code().into(),
            Self::Outcome => row.outcome.map_or(0, |outcome| outcome.code().into()),
        }
    }
}

#[derive(Default)]
struct Tally {
    counts: Vec<(u16, u64)>,
}

impl Tally {
    fn add(&mut self, key: u16, by: u64) {
        if by == 0 {
            return;
        }
        match self.counts.iter_mut().find(|(known, _)| *known == key) {
            Some((_, count)) => *count += by,
            None => self.counts.push((key, by)),
        }
    }

    fn add_rows(&mut self, rows: &[QueryResult]) -> Result<(), DbErr> {
        for row in rows {
            // Null: nothing was counted, and not even that by a key.
            let key: Option<i32> = row.try_get("", "key")?;
            let key = u16::try_from(key.unwrap_or_default()).map_err(|_| super::damaged("key"))?;
            self.add(key, super::u64_of(row, "n")?);
        }
        Ok(())
    }
}

/// From the counters of batches: one row each, by key.
async fn counted<C: ConnectionTrait>(
    session: &Session<'_, C>,
    selection: &Selection,
    grouping: Grouping,
) -> Result<Vec<(u16, u64)>, DbErr> {
    let mut values: Vec<Value> = vec![selection.tenant.as_uuid().into()];
    let mut of_batch = "";
    if let Some(batch) = selection.batch {
        values.push(batch.as_uuid().into());
        of_batch = " AND p.batch_id = $2";
    }
    let sums: Vec<String> = every_counter()
        .map(|Counter { column, .. }| {
            format!("CAST(coalesce(sum(p.{column}), 0) AS bigint) AS {column}")
        })
        .collect();
    let sql = format!(
        "SELECT {} FROM batch_progress AS p WHERE p.tenant_id = $1{of_batch}",
        sums.join(", ")
    );
    let mut tally = Tally::default();
    if let Some(row) = session.row(sql, values).await? {
        for counter in selection.counters().members() {
            let key = match grouping {
                Grouping::Outcome => counter.outcome.map_or(0, |outcome| outcome.code().into()),
                Grouping::State => counter.state.code().into(),
                Grouping::Nothing | Grouping::Reason | Grouping::Stage => 0,
            };
            tally.add(key, super::u64_of(&row, counter.column)?);
        }
    }
    Ok(tally.counts)
}

async fn count_by_walk<C: ConnectionTrait>(
    session: &Session<'_, C>,
    selection: &Selection,
    grouping: Grouping,
) -> Result<Vec<(u16, u64)>, DbErr> {
    let mut tally = Tally::default();
    let mut from = None;
    loop {
        let step = next(session, selection, from, ROWS_A_STEP, ROWS_A_STEP).await?;
        for row in &step.rows {
            tally.add(grouping.key_of(row), 1);
        }
        match step.next {
            Some(next) => from = Some(next),
            None => return Ok(tally.counts),
        }
    }
}

/// Batches, of one tenant or of all, for which a sum of counters is not 0; in order.
async fn batches_with<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: Option<TenantId>,
    counters: Counters,
    more: &str,
) -> Result<Vec<BatchRef>, DbErr> {
    let mut values: Vec<Value> = Vec::new();
    let sum = counters.sum(&mut values);
    let mut of_tenant = "";
    if let Some(tenant) = tenant {
        values.push(tenant.as_uuid().into());
        of_tenant = " AND p.tenant_id = $2";
    }
    let sql = format!(
        "SELECT p.tenant_id, p.batch_id FROM batch_progress AS p WHERE {sum} > 0{of_tenant}{more}"
    );
    let rows = session.rows(sql, values).await?;
    let mut found: Vec<BatchRef> = rows
        .iter()
        .map(super::batch_key_of)
        .collect::<Result<_, _>>()?;
    // Put in order here, for the database would go by the key, over all batches that ever were.
    found.sort_unstable();
    Ok(found)
}

/// A query of totals over the files of a page of batches; on Postgres in a row for each batch, each of which is read by
/// its own range of the key.
fn over_batches(dialect: Dialect, page: &str, columns: &str, rest: &str) -> String {
    match dialect {
        Dialect::Postgres => format!(
            "WITH {page} SELECT x.* FROM u CROSS JOIN LATERAL (SELECT {columns} FROM file_work AS w \
             WHERE w.tenant_id = u.t AND w.batch_id = u.b{rest}) AS x"
        ),
        Dialect::Sqlite => format!(
            "WITH {page} SELECT {columns} FROM u JOIN file_work AS w ON w.tenant_id = u.t AND w.batch_id = u.b \
             WHERE 1 = 1{rest}"
        ),
    }
}

/// Files that have been in a state for some time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Aged {
    pub(crate) tenant: TenantId,
    /// Set when counted by stage, and where all are in one.
    pub(crate) stage: Option<Stage>,
    pub(crate) count: u64,
    pub(crate) oldest: Micros,
}

/// Files that have been in `state` since `before` or longer, of one tenant or of all, by tenant and perhaps by stage;
/// `state` is one in which files wait, or FAILED.
///
/// Batches that hold any are told by their counters: those not ended by index `batch_progress_live`. FAILED files of all
/// batches stand in `dead_letters`. Totals alone, for to group 100,000 rows takes longer than to read them.
pub(crate) async fn aged<C: ConnectionTrait + TransactionTrait>(
    session: &Session<'_, C>,
    tenant: Option<TenantId>,
    state: FileState,
    before: Micros,
    by_stage: bool,
) -> Result<Vec<Aged>, DbErr> {
    if state == FileState::Failed {
        return aged_failures(session, tenant, before).await;
    }
    let counters = Counters::which(|counter| counter.state == state);
    let live = " AND p.state IN (1, 2)";
    let holders = batches_with(session, tenant, counters, live).await?;
    let mut found = Vec::new();
    for of_tenant in holders.chunk_by(|one, next| one.tenant == next.tenant) {
        for batches in of_tenant.chunks(BATCHES_A_STATEMENT) {
            // A total for each stage costs a third of the reading, and mostly all wait in one.
            let mut totals = aged_in(session, batches, (state, before), &[]).await?;
            if by_stage && totals.iter().any(|total| total.stage.is_none()) {
                totals = aged_in(session, batches, (state, before), &Stage::ALL).await?;
            }
            found.append(&mut totals);
        }
    }
    Ok(found)
}

/// Totals of batches of one tenant, for each of `stages` or for all together. Together they name the stage when there is
/// but one.
async fn aged_in<C: ConnectionTrait + TransactionTrait>(
    session: &Session<'_, C>,
    batches: &[BatchRef],
    (state, before): (FileState, Micros),
    stages: &[Stage],
) -> Result<Vec<Aged>, DbErr> {
    let filters: Vec<String> = match stages {
        [] => vec![String::new()],
        stages => stages
            .iter()
            .map(|stage| format!(" FILTER (WHERE w.stage = {})", stage.code()))
            .collect(),
    };
    let mut columns: Vec<String> = filters
        .iter()
        .enumerate()
        .map(|(number, filter)| {
            format!("count(*){filter} AS n{number}, min(w.changed_at){filter} AS oldest{number}")
        })
        .collect();
    if stages.is_empty() {
        columns.push("min(w.stage) AS first_stage, max(w.stage) AS last_stage".to_owned());
    }
    let (page, mut values) = Page::of_batches(batches.iter().copied()).bind(session.dialect, 1);
    values.push(i64::from(state.code()).into());
    values.push(before.0.into());
    let rest = format!(
        " AND w.state + 0 = ${} AND w.changed_at <= ${}",
        values.len() - 1,
        values.len()
    );
    let sql = over_batches(session.dialect, &page, &columns.join(", "), &rest);
    let mut found = Vec::new();
    for row in session.rows_of_ranges(sql, values).await? {
        for number in 0..filters.len() {
            let Some(oldest) = row.try_get("", &format!("oldest{number}"))? else {
                continue;
            };
            let stage = match stages.get(number) {
                Some(stage) => Some(*stage),
                None => {
                    let first = super::code_of(&row, "first_stage", Stage::from_code)?;
                    let last = super::code_of(&row, "last_stage", Stage::from_code)?;
                    (first == last).then_some(first)
                }
            };
            found.push(Aged {
                tenant: batches[0].tenant,
                stage,
                count: super::u64_of(&row, &format!("n{number}"))?,
                oldest: Micros(oldest),
            });
        }
    }
    Ok(found)
}

async fn aged_failures<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: Option<TenantId>,
    before: Micros,
) -> Result<Vec<Aged>, DbErr> {
    let mut values: Vec<Value> = vec![before.0.into()];
    let mut of_tenant = "";
    if let Some(tenant) = tenant {
        values.push(tenant.as_uuid().into());
        of_tenant = " AND d.tenant_id = $2";
    }
    let sql = format!(
        "SELECT d.tenant_id, d.stage, count(*) AS n, min(d.at) AS oldest FROM dead_letters AS d WHERE d.at <= $1{of_tenant} \
         GROUP BY d.tenant_id, d.stage"
    );
    let mut found = Vec::new();
    for row in session.rows(sql, values).await? {
        found.push(Aged {
            tenant: super::tenant_of(&row)?,
            stage: Some(super::code_of(&row, "stage", Stage::from_code)?),
            count: super::u64_of(&row, "n")?,
            oldest: Micros(row.try_get("", "oldest")?),
        });
    }
    Ok(found)
}

fn signed_small(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Selection {
        /// All files of a batch.
        fn of_batch(tenant: TenantId, batch: BatchId) -> Self {
            Self {
                batch: Some(batch),
                ..Self::of_tenant(tenant)
            }
        }

        /// All files of a tenant; `states` is to be set.
        fn of_tenant(tenant: TenantId) -> Self {
            Self {
                tenant,
                batch: None,
                ordinals: Vec::new(),
                states: Vec::new(),
                outcomes: Vec::new(),
                stages: Vec::new(),
                reasons: Vec::new(),
                changed_before: None,
                folder: None,
                glob: None,
                metadata: Vec::new(),
                undismissed: false,
            }
        }
    }

    fn tenant() -> TenantId {
        TenantId::from_uuid(uuid::Uuid::from_u128(7))
    }

    #[test]
    fn counters_tell_which_batches_to_look_into() {
        let columns = |selection: &Selection| -> Vec<&str> {
            let members = selection.counters().members();
            members.map(|counter| counter.column).collect()
        };
        let mut selection = Selection::of_tenant(tenant());
        assert_eq!(columns(&selection).len(), every_counter().count());
        selection.states = vec![FileState::Retrying, FileState::Processed];
        assert_eq!(
            columns(&selection),
            ["n_complete", "n_partial", "n_stored_only", "n_retrying"]
        );
        selection.outcomes = vec![Outcome::Partial, Outcome::StoredOnly];
        assert_eq!(columns(&selection), ["n_partial", "n_stored_only"]);
    }

    // Each text is a statement of its own, prepared and kept by every connection.
    #[test]
    fn one_value_and_all_values_are_chosen_by_the_same_text() {
        let batch = BatchId::from_uuid(uuid::Uuid::from_u128(1));
        let mut one = Selection::of_batch(tenant(), batch);
        one.states = vec![FileState::Processed];
        one.outcomes = vec![Outcome::Complete];
        one.stages = vec![Stage::Upload];
        one.reasons = vec![Reason::NeverArrived];
        one.changed_before = Some(Micros(1));
        one.folder = Some(Subtree::recursive(1, "a"));
        let text = |name: &str, value: &str| MetadataMatch {
            path: vec![name.to_owned()],
            value: value.into(),
        };
        one.metadata = vec![text("a", "x")];
        let mut all = Selection::of_batch(tenant(), batch);
        all.states = FileState::ALL.to_vec();
        all.outcomes = Outcome::ALL.to_vec();
        all.stages = Stage::ALL.to_vec();
        all.reasons = Reason::ALL.to_vec();
        all.changed_before = Some(Micros(2));
        all.folder = Some(Subtree::recursive(2, "b"));
        all.metadata = vec![text("a", "x"), text("b", "y")];
        for dialect in [Dialect::Sqlite, Dialect::Postgres] {
            let text = |selection: &Selection| {
                let mut values = Vec::new();
                let conditions = selection.conditions(dialect, &mut values);
                let counters = selection.counters().sum(&mut values);
                (conditions, counters, values.len())
            };
            assert_eq!(text(&one), text(&all));
        }
    }

    #[test]
    fn failed_files_of_a_tenant_are_found_by_their_dead_letters() {
        let mut selection = Selection::of_tenant(tenant());
        selection.states = vec![FileState::Failed];
        assert!(selection.goes_by_dead_letters());
        selection.states.push(FileState::Retrying);
        assert!(!selection.goes_by_dead_letters());
        let batch = BatchId::from_uuid(uuid::Uuid::from_u128(1));
        let mut of_batch = Selection::of_batch(tenant(), batch);
        of_batch.states = vec![FileState::Failed];
        assert!(!of_batch.goes_by_dead_letters());
    }

    #[test]
    fn a_folder_is_a_range_of_paths() {
        let below = Subtree::recursive(3, "a/b").below;
        assert_eq!(below, Some(("a/b/".to_owned(), "a/b0".to_owned())));
    }
}
