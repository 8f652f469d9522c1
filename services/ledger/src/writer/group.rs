//! One group of acts in one transaction, in two halves.
//!
//! [`decide`] reads what it needs, moves the files in memory through the domain's state machine and writes their rows in
//! set-based statements whose WHERE clause holds the token that was read: that token is the fence (protocol 0). Rows of
//! files that are new or out, of batches, tenants and folders are known from memory, so confirmations, leases and reports
//! read nothing. Two acts on one file keep their order, because they are applied one after the other. [`write`] then inserts
//! the files of manifests and results, writes the rows of new files that have arrived, and, when the group ahead is
//! committed, moves folders, batches and tenants, appends changes and outbox, and commits.
//!
//! While one group is being written the next may decide (on Postgres, which has two connections for it), and write what
//! belongs to files. The first never waits for the second: its locks on files were taken before the second began, but for
//! those on new files, which nobody else wants (acts that look for such rows by themselves wait for it); and what it still
//! locks (folders, batches, tenants) the second locks only when the first is committed. Order of locks: leadership (shared),
//! files by key, then folders, batches, tenants, each by key (protocol 9.3).

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::panic::AssertUnwindSafe;

use caudal_domain::{
    FileEvent, FileRef, FileState, FolderCounts, Generation, Refusal, Stage, StageVersion,
    TenantId, Token,
};
use caudal_proto::mesh::v1::ChangeSet;
use futures::FutureExt;
use prost::Message;
use rustc_hash::{FxHashMap, FxHashSet};
use sea_orm::{DatabaseTransaction, DbErr};
use tokio::sync::oneshot;

use super::acts::{Act, Answer, RequestKey};
use super::known::Pending;
#[cfg(debug_assertions)]
use super::planted;
use super::{Waiting, WriterState};
use crate::api::messages;
use crate::briefs::Carried;
use crate::store::changes::{self, AnsweredRequest, Beginning, ChangeRow, OutboxRow, RequestName};
use crate::store::manifest::{self, FileRow};
use crate::store::progress::{self, BatchKey, BatchRow, ProgressRow, TenantRow};
use crate::store::results::{self, AttemptRow, ResultRow};
use crate::store::time::Micros;
use crate::store::trouble::Trouble;
use crate::store::work::{self, Moved, WorkRow, detail};
use crate::store::{Session, Store, Transaction};

/// Turns that one group takes at one stage, and files it admits there: a group stays a bounded piece of work.
const MAX_TURNS: usize = 32;
const MAX_ADMISSIONS: u32 = 1_000;

/// Why a group was not committed.
#[derive(Debug)]
pub(crate) enum GroupError {
    /// The database failed before COMMIT, whatever it was asked: nothing happened.
    Database(DbErr),
    /// Something that will fail again: an act the database refuses, a stored row that cannot be, a bug that panics. Nothing
    /// happened. `act` is the position of the act it happened in, where it is known.
    Defect { act: Option<usize>, words: String },
    /// Another ledger leads: nothing happened, and this one must stop.
    NotLeading,
    /// A remembered row was not what the database holds: nothing happened; read and try again.
    Stale,
    /// The group ahead, on which it stood, was not committed: nothing happened; try again.
    Adrift,
    /// COMMIT got no answer: it may have happened.
    Unknown(DbErr),
}

impl From<DbErr> for GroupError {
    fn from(error: DbErr) -> Self {
        if Trouble::of(&error) == Trouble::Defect {
            return Self::defect(error.to_string());
        }
        Self::Database(error)
    }
}

impl GroupError {
    pub(super) fn defect(words: String) -> Self {
        Self::Defect { act: None, words }
    }

    fn panicked(panic: &(dyn Any + Send)) -> Self {
        let words = panic
            .downcast_ref::<&str>()
            .map(|words| (*words).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        Self::defect(format!("panicked: {}", words.unwrap_or_default()))
    }

    /// The same, of the act that was being decided.
    fn of_act(self, deciding: Option<usize>) -> Self {
        match self {
            Self::Defect { act: None, words } => Self::Defect {
                act: deciding,
                words,
            },
            other => other,
        }
    }
}

/// A file of the group.
pub(super) struct Worked {
    /// The token it came in with.
    first: Token,
    /// The token the database holds.
    held: Token,
    pub(super) row: WorkRow,
    touched: bool,
    /// Etag, target or generation moved too.
    pub(super) bytes_moved: bool,
    /// It came in without bytes, and never had any: nobody borrows from it, so nobody else wants its row.
    new: bool,
}

impl Worked {
    fn is_left_to_the_second_half(&self) -> bool {
        self.bytes_moved && self.new
    }
}

/// A batch of the group.
pub(super) struct Batched {
    pub(super) row: ProgressRow,
    /// The row as it is to be inserted, when the batch is made in this group.
    pub(super) made: Option<BatchRow>,
    pub(super) touched: bool,
    pub(super) completed: bool,
    /// Entries were added.
    pub(super) grown: bool,
    pub(super) pause_moved: bool,
    pub(super) priority_moved: bool,
    /// What a caller changed of the cold row.
    pub(super) renamed: Option<Renamed>,
    pub(super) changes: ChangeSet,
    folders: HashMap<u32, FolderDelta>,
}

#[derive(Clone, Copy, Default)]
struct FolderDelta {
    total: i64,
    processed: i64,
    failed: i64,
    cancelled: i64,
}

impl FolderDelta {
    fn add(&mut self, other: Self) {
        self.total += other.total;
        self.processed += other.processed;
        self.failed += other.failed;
        self.cancelled += other.cancelled;
    }

    fn apply(self, counts: FolderCounts) -> Result<FolderCounts, GroupError> {
        let moved = |count: u32, by: i64| {
            u32::try_from(i64::from(count) + by).map_err(|_| {
                GroupError::defect(format!("a folder's counter would go from {count} by {by}"))
            })
        };
        Ok(FolderCounts {
            total: moved(counts.total, self.total)?,
            processed: moved(counts.processed, self.processed)?,
            failed: moved(counts.failed, self.failed)?,
            cancelled: moved(counts.cancelled, self.cancelled)?,
        })
    }
}

/// What a caller changes of a batch; `None` leaves it.
#[derive(Clone, Debug)]
pub(super) struct Renamed {
    pub(super) name: Option<String>,
    pub(super) priority: Option<u32>,
    pub(super) metadata: Option<Option<String>>,
}

/// An answer that is complete only when the counters of its batch are.
pub(super) struct BatchAnswer {
    pub(super) act: usize,
    pub(super) key: BatchKey,
    pub(super) request: RequestKey,
}

/// Files that a group adds.
#[derive(Default)]
pub(super) struct NewFiles {
    pub(super) files: Vec<FileRow>,
    pub(super) rows: Vec<WorkRow>,
}

impl NewFiles {
    async fn insert(&self, session: &Session<'_, DatabaseTransaction>) -> Result<(), DbErr> {
        manifest::insert_files(session, &self.files).await?;
        work::insert(session, &self.rows).await
    }
}

/// What a committed group leaves to be done.
#[derive(Default)]
pub(crate) struct Committed {
    pub(crate) answers: Vec<Result<Answer, Refusal>>,
    pub(crate) published: Vec<OutboxRow>,
    pub(crate) hints: Vec<(BatchKey, u64)>,
    /// What was recorded of files, and what became of each, for those who carry it on.
    pub(crate) results: Vec<ResultRow>,
    pub(crate) carried: Vec<Carried>,
}

/// A group under way.
pub(crate) struct Group<'a> {
    pub(super) session: Session<'a, DatabaseTransaction>,
    pub(super) now: Micros,
    pub(super) state: &'a mut WriterState,
    pub(super) files: FxHashMap<FileRef, Worked>,
    pub(super) batches: FxHashMap<BatchKey, Batched>,
    pub(super) tenants: FxHashMap<TenantId, TenantRow>,
    /// Files that are not inserted yet.
    pub(super) new: NewFiles,
    /// New files that have not arrived.
    pub(super) added: Vec<Pending>,
    /// What the requests of its acts were answered, before or in this group.
    answered: HashMap<RequestName, AnsweredRequest>,
    /// Those of them that were answered in this group.
    answered_now: Vec<RequestName>,
    pub(super) results: Vec<ResultRow>,
    pub(super) attempts: Vec<AttemptRow>,
    pub(super) dead_letters: Vec<AttemptRow>,
    /// Files that left FAILED: their dead letters go.
    pub(super) buried: Vec<FileRef>,
    /// Files whose dead letters leave lists and alarms.
    pub(super) dismissed: Vec<FileRef>,
    /// Stages of which this group saw a newer version than any before.
    pub(super) newest_versions: HashMap<Stage, u32>,
    pub(super) new_versions: Vec<(u32, StageVersion)>,
    pub(super) batch_answers: Vec<BatchAnswer>,
    /// Files of these batches wait from a time on.
    pub(super) waits: Vec<(Stage, BatchKey, Micros)>,
    /// What is to be said again when the group has ended: a group that decides meanwhile does not see these rows.
    said_again: Vec<Waiting>,
    /// Who took turns: if the group is undone they wait as before.
    turns: Vec<Waiting>,
    dispatches: HashMap<Stage, Vec<(FileRef, Token)>>,
    entered: Vec<(FileRef, Token)>,
    left: Vec<(FileRef, Token)>,
    use_remembered_rows: bool,
    /// The position of the act that is being decided.
    deciding: Option<usize>,
}

/// All that a decided group still writes.
pub(crate) struct Decided {
    now: Micros,
    answers: Vec<Result<Answer, Refusal>>,
    batch_answers: Vec<BatchAnswer>,
    results: Vec<ResultRow>,
    attempts: Vec<AttemptRow>,
    dead_letters: Vec<AttemptRow>,
    dismissed: Vec<FileRef>,
    folders: Vec<(BatchKey, u32, FolderCounts)>,
    made: Vec<(ProgressRow, BatchRow)>,
    batches: Vec<ProgressRow>,
    paused: Vec<ProgressRow>,
    renamed: Vec<(BatchKey, Renamed)>,
    times: Vec<(BatchKey, Option<Micros>, Option<Micros>)>,
    /// With the revision that the database holds.
    tenants: Vec<(u64, TenantRow)>,
    changes: Vec<ChangeRow>,
    outbox: Vec<OutboxRow>,
    pub(crate) relayed: Vec<u64>,
    hints: Vec<(BatchKey, u64)>,
    carried: Vec<Carried>,
    new: NewFiles,
    /// Rows of new files that have arrived, with the token that the database holds.
    arrived: Vec<(Token, WorkRow)>,
    answered: Vec<(RequestName, AnsweredRequest)>,
}

/// The first half: everything that is decided, with the rows of most files written. `relayed` are outbox rows that Redis
/// has accepted. When it fails nothing happened.
pub(crate) async fn decide(
    store: &Store,
    state: &mut WriterState,
    acts: &[&Act],
    relayed: Vec<u64>,
    use_remembered_rows: bool,
) -> Result<(Transaction, Decided, Aftermath), (GroupError, Vec<u64>)> {
    let transaction = match store.begin().await {
        Ok(transaction) => transaction,
        Err(error) => return Err((error.into(), relayed)),
    };
    match decide_in(&transaction, state, acts, use_remembered_rows).await {
        Ok((mut decided, aftermath)) => {
            decided.relayed = relayed;
            Ok((transaction, decided, aftermath))
        }
        Err(error) => {
            transaction.roll_back().await;
            Err((error, relayed))
        }
    }
}

async fn decide_in(
    transaction: &Transaction,
    state: &mut WriterState,
    acts: &[&Act],
    use_remembered_rows: bool,
) -> Result<(Decided, Aftermath), GroupError> {
    let session = transaction.session();
    let requests = acts.iter().filter_map(|act| act.request());
    let names: Vec<RequestName> = requests
        .map(|(tenant, request)| (tenant, request.id))
        .collect();
    let begun = changes::begin(&session, state.epoch, &names).await?;
    let Beginning { now, answered } = begun.ok_or(GroupError::NotLeading)?;
    state.clock.set(now);
    state.dispatcher.promote(now);
    let mut group = Group {
        session,
        now,
        state,
        files: FxHashMap::default(),
        batches: FxHashMap::default(),
        tenants: FxHashMap::default(),
        new: NewFiles::default(),
        added: Vec::new(),
        answered: answered.into_iter().collect(),
        answered_now: Vec::new(),
        results: Vec::new(),
        attempts: Vec::new(),
        dead_letters: Vec::new(),
        buried: Vec::new(),
        dismissed: Vec::new(),
        newest_versions: HashMap::new(),
        new_versions: Vec::new(),
        batch_answers: Vec::new(),
        waits: Vec::new(),
        said_again: Vec::new(),
        turns: Vec::new(),
        dispatches: HashMap::new(),
        entered: Vec::new(),
        left: Vec::new(),
        use_remembered_rows,
        deciding: None,
    };
    // What a group moved in memory is taken back below, also after a panic.
    let worked = AssertUnwindSafe(group.work(acts)).catch_unwind().await;
    match worked.unwrap_or_else(|panic| Err(GroupError::panicked(panic.as_ref()))) {
        Ok(decided) => Ok((decided, group.into_aftermath())),
        Err(error) => {
            let error = error.of_act(group.deciding);
            let (aftermath, state) = group.give_up();
            aftermath.undone(state);
            Err(error)
        }
    }
}

/// The second half: everything else, and COMMIT. `ahead` is told when the group ahead is committed, and dropped when it was
/// not; `None` where there is none.
pub(crate) async fn write(
    transaction: Transaction,
    decided: Decided,
    ahead: Option<oneshot::Receiver<()>>,
) -> Result<Committed, GroupError> {
    let session = transaction.session();
    let written = AssertUnwindSafe(decided.write(&session, ahead))
        .catch_unwind()
        .await;
    match written.unwrap_or_else(|panic| Err(GroupError::panicked(panic.as_ref()))) {
        Ok(committed) => match transaction.commit().await {
            Ok(()) => Ok(committed),
            Err(error) => Err(GroupError::Unknown(error)),
        },
        Err(error) => {
            transaction.roll_back().await;
            Err(error)
        }
    }
}

impl Decided {
    async fn write(
        self,
        session: &Session<'_, DatabaseTransaction>,
        ahead: Option<oneshot::Receiver<()>>,
    ) -> Result<Committed, GroupError> {
        self.write_files(session).await?;
        if let Some(ahead) = ahead {
            ahead.await.map_err(|_| GroupError::Adrift)?;
        }
        self.write_what_counts_them(session).await
    }

    async fn write_files(
        &self,
        session: &Session<'_, DatabaseTransaction>,
    ) -> Result<(), GroupError> {
        self.new.insert(session).await?;
        let arrived: Vec<(Token, &WorkRow)> = self
            .arrived
            .iter()
            .map(|(held, row)| (*held, row))
            .collect();
        if work::update(session, &arrived, Moved::BytesToo).await? != arrived.len() as u64 {
            return Err(GroupError::Stale);
        }
        results::insert(session, &self.results).await?;
        results::insert_attempts(session, &self.attempts).await?;
        results::insert_dead_letters(session, &self.dead_letters).await?;
        results::dismiss(session, &self.dismissed, self.now).await?;
        Ok(())
    }

    async fn write_what_counts_them(
        mut self,
        session: &Session<'_, DatabaseTransaction>,
    ) -> Result<Committed, GroupError> {
        manifest::update_folders(session, &self.folders).await?;
        progress::insert(session, &self.made).await?;
        if progress::update(session, &self.batches).await? != self.batches.len() as u64 {
            return Err(GroupError::Stale);
        }
        for row in &self.paused {
            progress::set_pause(session, row).await?;
        }
        for (key, renamed) in &self.renamed {
            progress::rename(
                session,
                *key,
                renamed.name.as_deref(),
                renamed.priority,
                renamed.metadata.as_ref(),
            )
            .await?;
        }
        progress::set_times(session, &self.times).await?;
        if progress::update_tenants(session, &self.tenants).await? != self.tenants.len() as u64 {
            return Err(GroupError::Stale);
        }
        changes::insert_changes(session, &self.changes, self.now).await?;
        changes::insert_outbox(session, &self.outbox, self.now).await?;
        changes::delete_outbox(session, &self.relayed).await?;
        for BatchAnswer { act, key, request } in std::mem::take(&mut self.batch_answers) {
            let message = self.batch(session, key).await?;
            let answered = request.answered(message.encode_to_vec());
            self.answered.push(((key.0, request.id), answered));
            self.answers[act] = Ok(Answer::Batch(Box::new(message)));
        }
        changes::remember(session, &self.answered, self.now).await?;
        Ok(Committed {
            answers: self.answers,
            published: self.outbox,
            hints: self.hints,
            results: self.results,
            carried: self.carried,
        })
    }

    /// A batch as this group leaves it.
    async fn batch(
        &self,
        session: &Session<'_, DatabaseTransaction>,
        key: BatchKey,
    ) -> Result<caudal_proto::v1::Batch, GroupError> {
        if let Some((progress, row)) = self.made.iter().find(|(row, _)| row.key() == key) {
            return Ok(messages::batch(progress, row));
        }
        let found = crate::store::reads::batch(session, key.0, key.1).await?;
        let (progress, row) = found.ok_or(GroupError::Stale)?;
        Ok(messages::batch(&progress, &row))
    }
}

/// What the writer's memory learns when a group ends.
pub(crate) struct Aftermath {
    rows: Vec<WorkRow>,
    added: Vec<Pending>,
    /// Batches whose manifests grew.
    manifests: HashSet<BatchKey>,
    entered: Vec<(FileRef, Token)>,
    left: Vec<(FileRef, Token)>,
    said_again: Vec<Waiting>,
    turns: Vec<Waiting>,
    new_versions: Vec<(u32, StageVersion)>,
    newest_versions: HashMap<Stage, u32>,
    priorities: Vec<(BatchKey, u32)>,
    now: Micros,
}

impl Aftermath {
    /// The files that the group touched: the next one must not, until it has ended.
    pub(crate) fn files(&self) -> FxHashSet<FileRef> {
        self.rows.iter().map(|row| row.file).collect()
    }

    /// The batches whose manifests the group grew.
    pub(crate) fn manifests(&self) -> HashSet<BatchKey> {
        self.manifests.clone()
    }

    pub(crate) fn committed(self, state: &mut WriterState) {
        for (file, token) in self.left {
            state.dispatcher.leave(file, token);
        }
        for row in self.rows {
            state.known.pending.remove(&row.file);
            state.dispatcher.remember(row);
        }
        state.known.added(self.added);
        for (number, version) in self.new_versions {
            state.versions.insert(version, number);
        }
        state.newest_versions.extend(self.newest_versions);
        for (key, weight) in self.priorities {
            state.dispatcher.reweigh(key, weight);
        }
        // A group that decided meanwhile may have taken their batch off the queue.
        for waiting in self.said_again {
            state.say(waiting, self.now);
        }
    }

    /// Neither the old pairs nor the new ones leave: the reconciler looks at the rows (protocol 2.1).
    pub(crate) fn unknown(self, state: &mut WriterState) {
        state.known.forget();
        state.ancestors.forget();
        state.briefs.forget(self.rows.iter().map(|row| row.file));
        for row in self.rows {
            state.dispatcher.forget(row.file);
        }
        for waiting in self.said_again.into_iter().chain(self.turns) {
            state.say(waiting, self.now);
        }
    }

    pub(crate) fn undone(self, state: &mut WriterState) {
        for (file, token) in &self.entered {
            state.dispatcher.leave(*file, *token);
        }
        self.unknown(state);
    }
}

impl Batched {
    fn conclude(
        &mut self,
        key: BatchKey,
        tenant_revision: u64,
        now: Micros,
        decided: &mut Decided,
    ) {
        let row = &mut self.row;
        let before = row.state;
        let counts = row.facts.counts;
        row.state = caudal_domain::BatchState::derive(&row.facts);
        row.run = caudal_domain::run_after(before, row.state, row.run);
        row.uploads_open = counts.pending + counts.uploading > 0;
        // Nothing is missing: what is asked for later has its time.
        row.missing_fails &= row.uploads_open;
        row.changed_at = now;
        row.revision += 1;
        let ended = row.state.is_ended().then_some(now);
        if self.completed || before.is_ended() != row.state.is_ended() {
            decided
                .times
                .push((key, self.completed.then_some(now), ended));
        }
        let mut body = std::mem::take(&mut self.changes);
        body.batch = Some(messages::progress(row));
        decided.changes.push(ChangeRow {
            key,
            revision: tenant_revision,
            batch_revision: row.revision,
            count: u32::try_from(body.ordinal.len()).unwrap_or(u32::MAX),
            body: body.encode_to_vec(),
        });
        decided.hints.push((key, row.revision));
        if self.pause_moved {
            decided.paused.push(row.clone());
        }
        if let Some(renamed) = self.renamed.take() {
            decided.renamed.push((key, renamed));
        }
        match self.made.take() {
            Some(made) => decided.made.push((row.clone(), made)),
            None => decided.batches.push(row.clone()),
        }
    }
}

impl<'a> Group<'a> {
    fn into_aftermath(self) -> Aftermath {
        self.give_up().0
    }

    fn give_up(self) -> (Aftermath, &'a mut WriterState) {
        let moved = |batched: &&Batched| batched.priority_moved;
        let weight = |batched: &Batched| (batched.row.key(), batched.row.priority);
        let grown = |batched: &&Batched| batched.grown;
        let aftermath = Aftermath {
            priorities: self.batches.values().filter(moved).map(weight).collect(),
            manifests: self
                .batches
                .values()
                .filter(grown)
                .map(|batched| batched.row.key())
                .collect(),
            newest_versions: self.newest_versions,
            rows: self.files.into_values().map(|worked| worked.row).collect(),
            added: self.added,
            entered: self.entered,
            left: self.left,
            said_again: self.said_again,
            turns: self.turns,
            new_versions: self.new_versions,
            now: self.now,
        };
        (aftermath, self.state)
    }

    async fn work(&mut self, acts: &[&Act]) -> Result<Decided, GroupError> {
        self.load_files(acts).await?;
        self.load_batches_of(acts).await?;
        let mut answers = Vec::with_capacity(acts.len());
        for (index, act) in acts.iter().enumerate() {
            self.deciding = Some(index);
            if self.may_miss_new_files(act) {
                self.insert_new_files().await?;
            }
            answers.push(self.apply(index, act).await?);
        }
        self.deciding = None;
        self.write_files(false).await?;
        for (stage, key, at) in std::mem::take(&mut self.waits) {
            let waiting = self.waiting(stage, key, at);
            self.state.say(waiting, self.now);
            self.said_again.push(waiting);
        }
        self.admit().await?;
        self.write_files(false).await?;
        let folders = self.count_folders().await?;
        self.conclude(answers, folders).await
    }

    /// Whether an act looks for rows of files that this group has not inserted yet.
    fn may_miss_new_files(&self, act: &Act) -> bool {
        match act {
            Act::AddEntries(act) => self
                .batches
                .get(&(act.tenant, act.batch))
                .is_some_and(|batched| batched.grown),
            _ => act.looks_for_rows(),
        }
    }

    async fn insert_new_files(&mut self) -> Result<(), DbErr> {
        std::mem::take(&mut self.new).insert(&self.session).await
    }

    async fn load_files(&mut self, acts: &[&Act]) -> Result<(), DbErr> {
        let mut wanted: Vec<FileRef> = acts.iter().flat_map(|act| act.files()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        self.files.reserve(wanted.len());
        let mut unknown = Vec::new();
        for file in wanted {
            let state = &self.state;
            let remembered = state.dispatcher.row(file);
            let pending = || Some(&state.known.pending.get(&file)?.row);
            match remembered.or_else(pending) {
                Some(row) if self.use_remembered_rows => {
                    let row = row.clone();
                    self.take_in(row);
                }
                _ => unknown.push(file),
            }
        }
        for row in work::lock(&self.session, &unknown).await? {
            self.take_in(row);
        }
        Ok(())
    }

    pub(super) fn take_in(&mut self, row: WorkRow) {
        let worked = Worked {
            first: row.token,
            held: row.token,
            touched: false,
            bytes_moved: false,
            new: matches!(row.state, FileState::Pending | FileState::Uploading)
                && row.generation == Generation::FIRST,
            row,
        };
        self.files.insert(worked.row.file, worked);
    }

    async fn load_batches_of(&mut self, acts: &[&Act]) -> Result<(), DbErr> {
        let of_files = self.files.keys().map(|file| (file.tenant, file.batch));
        let of_acts = acts.iter().filter_map(|act| act.batch());
        let keys: BTreeSet<BatchKey> = of_files.chain(of_acts).collect();
        let mut tenants: BTreeSet<TenantId> = keys.iter().map(|(tenant, _)| *tenant).collect();
        for act in acts {
            if let Act::CreateBatch(act) = act {
                tenants.insert(act.tenant);
            }
        }
        self.load_tenants(tenants).await?;
        self.load_batches(keys).await
    }

    async fn load_tenants(&mut self, tenants: BTreeSet<TenantId>) -> Result<(), DbErr> {
        let mut unknown = Vec::new();
        for tenant in tenants {
            if self.tenants.contains_key(&tenant) {
                continue;
            }
            match self.state.known.tenants.get(&tenant) {
                Some(row) => {
                    self.tenants.insert(tenant, row.clone());
                }
                None => unknown.push(tenant),
            }
        }
        for row in progress::tenants(&self.session, &unknown).await? {
            self.tenants.insert(row.tenant, row);
        }
        Ok(())
    }

    pub(super) async fn load_batches(&mut self, keys: BTreeSet<BatchKey>) -> Result<(), DbErr> {
        let mut unknown = Vec::new();
        for key in keys {
            if self.batches.contains_key(&key) {
                continue;
            }
            match self.state.known.batches.get(&key) {
                Some(row) => {
                    let row = row.clone();
                    self.take_in_batch(row, None);
                }
                None => unknown.push(key),
            }
        }
        for row in progress::read(&self.session, &unknown).await? {
            self.take_in_batch(row, None);
        }
        Ok(())
    }

    pub(super) fn take_in_batch(&mut self, row: ProgressRow, made: Option<BatchRow>) {
        let batched = Batched {
            made,
            touched: false,
            completed: false,
            grown: false,
            pause_moved: false,
            priority_moved: false,
            renamed: None,
            changes: ChangeSet::default(),
            folders: HashMap::new(),
            row,
        };
        self.batches.insert(batched.row.key(), batched);
    }

    async fn apply(
        &mut self,
        index: usize,
        act: &Act,
    ) -> Result<Result<Answer, Refusal>, GroupError> {
        #[cfg(debug_assertions)]
        planted::panic_where_asked(act);
        Ok(match act {
            Act::CreateBatch(act) => self.create_batch(index, act).await?,
            Act::AddEntries(act) => self.add_entries(act).await?,
            Act::CompleteBatch(act) => self.complete_batch(index, act).await?,
            Act::ConfirmUploads(act) => self.confirm_uploads(act).await?,
            Act::SetPause(act) => self.set_pause(index, act).await?,
            Act::CancelBatch(act) => self.cancel_batch(index, act).await?,
            Act::UpdateBatch(act) => self.update_batch(index, act).await?,
            Act::Lease { version, held } => Ok(self.lease(version, held).await?),
            Act::Renew { held } => Ok(self.renew(held)),
            Act::Release { held } => Ok(self.release(held)?),
            Act::Report(act) => Ok(self.report(act).await?),
            Act::LookUp { held } => Ok(self.look_up(held).await?),
            Act::Repair(repairs) => Ok(self.repair(repairs)?),
            Act::FailMissing {
                tenant,
                batch,
                from,
            } => Ok(self.fail_missing(*tenant, *batch, *from).await?),
            Act::CancelFiles {
                tenant,
                batch,
                from,
            } => Ok(self.cancel_files(*tenant, *batch, *from).await?),
            Act::CompleteIdle { tenant, batch } => Ok(self.complete_idle((*tenant, *batch))),
            Act::Prune => Ok(self.prune().await?),
            Act::StartOperation(act) => self.start_operation(act).await?,
            Act::Slice(act) => self.slice(act).await?,
            Act::EndOperation(act) => self.end_operation(act).await?,
            Act::PruneOperations => Ok(self.prune_operations().await?),
        })
    }

    /// The row of a file, if it exists and `token` is its current one.
    pub(super) fn current(&self, file: FileRef, token: Token) -> Option<&WorkRow> {
        self.files
            .get(&file)
            .map(|worked| &worked.row)
            .filter(|row| row.token == token)
    }

    /// The row of a file that is in the group, to be changed.
    pub(super) fn row_mut(&mut self, file: FileRef) -> Result<&mut WorkRow, GroupError> {
        let worked = self.files.get_mut(&file).ok_or(GroupError::Stale)?;
        worked.touched = true;
        Ok(&mut worked.row)
    }

    pub(super) fn mark_bytes_moved(&mut self, file: FileRef) {
        if let Some(worked) = self.files.get_mut(&file) {
            worked.bytes_moved = true;
        }
    }

    /// Raises the token: whoever held the old one holds nothing now.
    pub(super) fn raise_token(&mut self, file: FileRef) -> Result<(), GroupError> {
        let row = self.row_mut(file)?;
        let old = row.token;
        row.token = old.next();
        row.dispatched_at = None;
        row.lease_until = None;
        row.wait_stage = None;
        row.ready_at = None;
        self.left.push((file, old));
        Ok(())
    }

    /// Moves a file through the state machine and everything that counts it. What the machine refuses changes nothing.
    pub(super) fn step(&mut self, file: FileRef, event: FileEvent) -> Result<(), GroupError> {
        let state = self.row_mut(file)?.state;
        let steps = state.steps(event).map_err(|illegal| {
            self.state.metrics.illegal_transitions.inc();
            GroupError::defect(illegal.to_string())
        })?;
        for to in steps {
            self.move_to(file, *to)?;
        }
        Ok(())
    }

    /// Whether the state machine allows an event; counted when it does not.
    pub(super) fn allows(&self, file: FileRef, event: FileEvent) -> bool {
        let allowed = self
            .files
            .get(&file)
            .is_some_and(|worked| worked.row.state.next(event).is_ok());
        if !allowed {
            self.state.metrics.illegal_transitions.inc();
            tracing::warn!(%file, %event, "a transition that the state machine does not know was asked for");
        }
        allowed
    }

    fn move_to(&mut self, file: FileRef, to: FileState) -> Result<(), GroupError> {
        let now = self.now;
        let row = self.row_mut(file)?;
        let from = row.state;
        row.state = to;
        row.changed_at = now;
        let (stage, outcome, folder, size) = (row.stage, row.outcome, row.folder, row.size);
        let shown = row.detail();
        let batched = self
            .batches
            .get_mut(&(file.tenant, file.batch))
            .ok_or(GroupError::Stale)?;
        batched.touched = true;
        let counts = batched
            .row
            .facts
            .counts
            .moved(Some(from), Some(to))
            .map_err(drifted)?;
        batched.row.facts.counts = counts;
        if to == FileState::Processed {
            batched.row.facts.counts = counts.outcome_moved(None, outcome).map_err(drifted)?;
            batched.row.bytes_processed = batched.row.bytes_processed.saturating_add(size);
        }
        if to == FileState::Uploaded && !from.is_final() {
            batched.row.bytes_uploaded = batched.row.bytes_uploaded.saturating_add(size);
        }
        let delta = FolderDelta {
            total: 0,
            processed: i64::from(to == FileState::Processed)
                - i64::from(from == FileState::Processed),
            failed: i64::from(to == FileState::Failed) - i64::from(from == FileState::Failed),
            cancelled: i64::from(to == FileState::Cancelled)
                - i64::from(from == FileState::Cancelled),
        };
        if from.is_final() || to.is_final() {
            batched.folders.entry(folder).or_default().add(delta);
        }
        // PENDING -> UPLOADING on the way to UPLOADED shows no detail of its own.
        let shown = if to == FileState::Uploading {
            detail(to, stage, None, None)
        } else {
            shown
        };
        push_change(
            &mut batched.changes,
            file.ordinal,
            from.code(),
            to.code(),
            stage.code(),
            shown,
        );
        Ok(())
    }

    /// Records that a file went on to another stage and stays PROCESSING.
    pub(super) fn record_hop(&mut self, file: FileRef) -> Result<(), GroupError> {
        let now = self.now;
        let row = self.row_mut(file)?;
        row.changed_at = now;
        let (state, stage, shown) = (row.state.code(), row.stage.code(), row.detail());
        let batched = self
            .batches
            .get_mut(&(file.tenant, file.batch))
            .ok_or(GroupError::Stale)?;
        batched.touched = true;
        push_change(
            &mut batched.changes,
            file.ordinal,
            state,
            state,
            stage,
            shown,
        );
        Ok(())
    }

    /// Counts files that entered the manifest.
    pub(super) fn count_new_file(
        &mut self,
        key: BatchKey,
        ordinal: u32,
        folder: u32,
    ) -> Result<(), GroupError> {
        let batched = self.batches.get_mut(&key).ok_or(GroupError::Stale)?;
        batched.touched = true;
        batched.row.facts.counts = batched
            .row
            .facts
            .counts
            .moved(None, Some(FileState::Pending))
            .map_err(drifted)?;
        batched.folders.entry(folder).or_default().total += 1;
        let (state, stage) = (FileState::Pending.code(), Stage::Upload.code());
        push_change(&mut batched.changes, ordinal, 0, state, stage, 0);
        Ok(())
    }

    /// Whether anything of this batch may go out now.
    pub(super) fn may_go_out(&self, key: BatchKey) -> bool {
        let tenant_paused = self.tenants.get(&key.0).is_some_and(|tenant| tenant.paused);
        self.batches.get(&key).is_some_and(|batched| {
            let row = &batched.row;
            let started = !row.starts_when_completed || row.facts.manifest_complete;
            !tenant_paused && row.pause.is_none() && !row.facts.cancel_requested && started
        })
    }

    /// A file is ready for its stage: it goes out in this transaction when the stage has room and nobody waits before
    /// it; otherwise it waits in the database. Its token was raised by the caller, or is raised by the admission.
    pub(super) fn make_ready(&mut self, file: FileRef, ready_at: Micros) -> Result<(), GroupError> {
        let key = (file.tenant, file.batch);
        let stage = self.row_mut(file)?.stage;
        let goes_out = ready_at <= self.now
            && self.may_go_out(key)
            && !self.state.dispatcher.anyone_waits(stage)
            && self.state.dispatcher.room(stage, file.tenant) > 0;
        if goes_out {
            return self.dispatch(file);
        }
        let row = self.row_mut(file)?;
        row.wait_stage = Some(stage);
        row.ready_at = Some(ready_at);
        self.waits.push((stage, key, ready_at));
        Ok(())
    }

    /// Sends a file out under its present token. The place is taken before COMMIT is sent (protocol 2.1).
    pub(super) fn dispatch(&mut self, file: FileRef) -> Result<(), GroupError> {
        let now = self.now;
        self.step(file, FileEvent::Admitted)?;
        let row = self.row_mut(file)?;
        row.wait_stage = None;
        row.ready_at = None;
        row.lease_until = None;
        row.dispatched_at = Some(now);
        let (stage, token) = (row.stage, row.token);
        self.send(stage, file, token);
        Ok(())
    }

    /// Sends a file whose dispatch was lost out again, its state unchanged (protocol 8.2).
    pub(super) fn send_again(&mut self, file: FileRef) -> Result<(), GroupError> {
        let now = self.now;
        self.raise_token(file)?;
        let row = self.row_mut(file)?;
        row.dispatched_at = Some(now);
        let (stage, token) = (row.stage, row.token);
        self.send(stage, file, token);
        Ok(())
    }

    fn send(&mut self, stage: Stage, file: FileRef, token: Token) {
        self.state.dispatcher.enter(stage, file, token);
        self.entered.push((file, token));
        self.dispatches
            .entry(stage)
            .or_default()
            .push((file, token));
    }

    /// Takes turns at every stage that has room, for those who wait.
    async fn admit(&mut self) -> Result<(), GroupError> {
        for stage in Stage::ALL {
            let mut admitted = 0;
            for _ in 0..MAX_TURNS {
                if admitted >= MAX_ADMISSIONS {
                    break;
                }
                let Some(turn) = self
                    .state
                    .dispatcher
                    .next_turn(stage, MAX_ADMISSIONS - admitted)
                else {
                    break;
                };
                admitted += self.take_turn(turn).await?;
            }
        }
        Ok(())
    }

    async fn take_turn(&mut self, turn: crate::dispatcher::Turn) -> Result<u32, GroupError> {
        let key = (turn.tenant, turn.batch);
        self.load_tenants(BTreeSet::from([turn.tenant])).await?;
        self.load_batches(BTreeSet::from([key])).await?;
        let waiting = self.waiting(turn.stage, key, self.now);
        self.turns.push(waiting);
        if !self.may_go_out(key) {
            // Whatever lets it go on (completion, resume) says again that it waits.
            self.state.dispatcher.turn_taken(turn, 0, true);
            return Ok(0);
        }
        self.write_files(true).await?;
        let rows = work::waiting(
            &self.session,
            turn.stage,
            turn.tenant,
            turn.batch,
            self.now,
            turn.files,
        )
        .await?;
        let read = rows.len();
        let mut cost = 0_i64;
        let mut admitted = 0_u32;
        for row in rows {
            if cost >= turn.cost {
                break;
            }
            cost = cost.saturating_add(crate::dispatcher::cost_of(row.size));
            admitted += 1;
            let file = row.file;
            self.take_in(row);
            self.raise_token(file)?;
            self.dispatch(file)?;
        }
        let ran_dry = admitted as usize == read && read < turn.files as usize;
        self.state.dispatcher.turn_taken(turn, cost, ran_dry);
        if admitted > 0 {
            // Written at once, so that the next turn of this batch does not read the same rows.
            self.write_files(true).await?;
        }
        if ran_dry
            && let Some(at) =
                work::earliest_ready(&self.session, turn.stage, turn.tenant, turn.batch).await?
        {
            let waiting = self.waiting(turn.stage, key, at);
            if at <= self.now {
                // Ready, and yet not read: the group before this one holds those rows.
                self.said_again.push(waiting);
            } else {
                self.state.say(waiting, self.now);
            }
        }
        Ok(admitted)
    }

    fn waiting(&self, stage: Stage, key: BatchKey, at: Micros) -> Waiting {
        let weight = self
            .batches
            .get(&key)
            .map_or(0, |batched| batched.row.priority);
        Waiting {
            stage,
            key,
            weight,
            at,
        }
    }

    /// Writes the rows that changed. New files that have arrived are left to the second half, unless `all` are wanted because
    /// they are going to be read.
    async fn write_files(&mut self, all: bool) -> Result<(), GroupError> {
        if all {
            self.insert_new_files().await?;
        }
        let is_written =
            |worked: &Worked| worked.touched && (all || !worked.is_left_to_the_second_half());
        let mut pages: BTreeMap<Moved, Vec<(Token, &WorkRow)>> = BTreeMap::new();
        for worked in self.files.values().filter(|worked| is_written(worked)) {
            pages
                .entry(Moved::of(&worked.row, worked.bytes_moved))
                .or_default()
                .push((worked.held, &worked.row));
        }
        for (moved, mut rows) in pages {
            rows.sort_unstable_by_key(|(_, row)| row.file);
            let written = work::update(&self.session, &rows, moved).await?;
            if written != rows.len() as u64 {
                return Err(GroupError::Stale);
            }
        }
        for worked in self.files.values_mut().filter(|worked| is_written(worked)) {
            worked.touched = false;
            worked.bytes_moved = false;
            worked.held = worked.row.token;
        }
        if !self.buried.is_empty() {
            results::delete_dead_letters(&self.session, &std::mem::take(&mut self.buried)).await?;
        }
        Ok(())
    }

    /// The counters of every folder that moved, those above included.
    async fn count_folders(&mut self) -> Result<Vec<(BatchKey, u32, FolderCounts)>, GroupError> {
        let mut deltas: BTreeMap<(BatchKey, u32), FolderDelta> = BTreeMap::new();
        for (key, batched) in &mut self.batches {
            for (folder, delta) in std::mem::take(&mut batched.folders) {
                deltas.insert((*key, folder), delta);
            }
        }
        if deltas.is_empty() {
            return Ok(Vec::new());
        }
        let direct: Vec<(BatchKey, u32)> = deltas.keys().copied().collect();
        self.learn_ancestors(&direct).await?;
        for place in direct {
            let delta = deltas[&place];
            for ancestor in self.state.ancestors.of(place) {
                deltas.entry((place.0, *ancestor)).or_default().add(delta);
            }
        }
        let places: Vec<(BatchKey, u32)> = deltas.keys().copied().collect();
        let mut known: HashMap<(BatchKey, u32), FolderCounts> = HashMap::new();
        let mut unknown = Vec::new();
        for place in places {
            match self.state.known.folders.get(&place) {
                Some(counts) => {
                    known.insert(place, *counts);
                }
                None => unknown.push(place),
            }
        }
        for (key, folder) in manifest::folders(&self.session, &unknown).await? {
            known.insert((key, folder.folder), folder.counts);
        }
        let mut counted = Vec::with_capacity(deltas.len());
        for (place, delta) in deltas {
            let before = known.get(&place).ok_or(GroupError::Stale)?;
            counted.push((place.0, place.1, delta.apply(*before)?));
        }
        for (key, folder, counts) in &counted {
            if let Some(batched) = self.batches.get_mut(key) {
                let changes = &mut batched.changes;
                changes.folder.push(*folder);
                changes.folder_total.push(counts.total);
                changes.folder_processed.push(counts.processed);
                changes.folder_failed.push(counts.failed);
                changes.folder_cancelled.push(counts.cancelled);
                batched.touched = true;
            }
        }
        Ok(counted)
    }

    async fn learn_ancestors(&mut self, places: &[(BatchKey, u32)]) -> Result<(), DbErr> {
        self.state.ancestors.make_room();
        let unknown: Vec<_> = places
            .iter()
            .copied()
            .filter(|place| !self.state.ancestors.knows(*place))
            .collect();
        for (key, folder) in manifest::folders(&self.session, &unknown).await? {
            self.state
                .ancestors
                .learn((key, folder.folder), folder.ancestors);
        }
        Ok(())
    }

    /// Derives the states of batches and numbers the changes (protocol 14.1: the state is a function of the row, computed
    /// here and nowhere else). The writer's memory then stands where the group will leave the database.
    async fn conclude(
        &mut self,
        answers: Vec<Result<Answer, Refusal>>,
        folders: Vec<(BatchKey, u32, FolderCounts)>,
    ) -> Result<Decided, GroupError> {
        let mut keys: Vec<BatchKey> = self
            .batches
            .iter()
            .filter(|(_, batched)| batched.touched)
            .map(|(key, _)| *key)
            .collect();
        keys.sort_unstable();
        let tenants: BTreeSet<TenantId> = keys.iter().map(|(tenant, _)| *tenant).collect();
        self.load_tenants(tenants.clone()).await?;
        let held: HashMap<TenantId, u64> = tenants
            .iter()
            .filter_map(|tenant| Some((*tenant, self.tenants.get(tenant)?.revision)))
            .collect();
        let mut decided = Decided {
            now: self.now,
            answers,
            batch_answers: std::mem::take(&mut self.batch_answers),
            results: std::mem::take(&mut self.results),
            attempts: std::mem::take(&mut self.attempts),
            dead_letters: std::mem::take(&mut self.dead_letters),
            dismissed: std::mem::take(&mut self.dismissed),
            folders,
            made: Vec::new(),
            batches: Vec::with_capacity(keys.len()),
            paused: Vec::new(),
            renamed: Vec::new(),
            times: Vec::new(),
            tenants: Vec::new(),
            changes: Vec::with_capacity(keys.len()),
            outbox: Vec::new(),
            relayed: Vec::new(),
            hints: Vec::with_capacity(keys.len()),
            carried: self.carried(),
            new: std::mem::take(&mut self.new),
            arrived: self.arrived(),
            answered: self.answered(),
        };
        for key in keys {
            let Some(batched) = self.batches.get_mut(&key) else {
                continue;
            };
            let tenant = self.tenants.get_mut(&key.0).ok_or(GroupError::Stale)?;
            tenant.revision += 1;
            batched.conclude(key, tenant.revision, self.now, &mut decided);
        }
        for tenant in tenants {
            if let (Some(row), Some(held)) = (self.tenants.get(&tenant), held.get(&tenant)) {
                decided.tenants.push((*held, row.clone()));
            }
        }
        decided.outbox = self.outbox_rows();
        let known = &mut self.state.known;
        for (key, batched) in &self.batches {
            known.batches.insert(*key, batched.row.clone());
        }
        for (tenant, row) in &self.tenants {
            known.tenants.insert(*tenant, row.clone());
        }
        for (key, folder, counts) in &decided.folders {
            known.folders.insert((*key, *folder), *counts);
        }
        Ok(decided)
    }

    /// Rows that are not written yet, in the order of their keys.
    fn arrived(&self) -> Vec<(Token, WorkRow)> {
        let unwritten = self.files.values().filter(|worked| worked.touched);
        let mut arrived: Vec<(Token, WorkRow)> = unwritten
            .map(|worked| (worked.held, worked.row.clone()))
            .collect();
        arrived.sort_unstable_by_key(|(_, row)| row.file);
        arrived
    }

    fn answered(&mut self) -> Vec<(RequestName, AnsweredRequest)> {
        let names = std::mem::take(&mut self.answered_now);
        names
            .into_iter()
            .filter_map(|name| self.answered.remove_entry(&name))
            .collect()
    }

    fn carried(&self) -> Vec<Carried> {
        let mut carried = Vec::with_capacity(self.files.len());
        for (file, worked) in &self.files {
            let Worked { first, row, .. } = worked;
            let is_out = row.dispatched_at.is_some();
            if is_out && *first == row.token {
                continue;
            }
            let begun = self.state.known.pending.get(file);
            carried.push(Carried {
                file: *file,
                from: *first,
                to: row.token,
                out: is_out.then(|| self.granted(row)),
                begun: begun
                    .filter(|pending| is_out && pending.row.token == *first)
                    .map(|pending| pending.declared.clone()),
            });
        }
        carried
    }

    fn outbox_rows(&mut self) -> Vec<OutboxRow> {
        let mut rows = Vec::new();
        for (stage, files) in std::mem::take(&mut self.dispatches) {
            // A file sent twice in one group (released, then admitted) goes out under its last token alone.
            let current: Vec<(FileRef, Token)> = files
                .into_iter()
                .filter(|(file, token)| {
                    self.files.get(file).is_none_or(|worked| {
                        worked.row.token == *token && worked.row.dispatched_at.is_some()
                    })
                })
                .collect();
            if current.is_empty() {
                continue;
            }
            let body = messages::dispatches(current.into_iter(), self.now);
            let id = self.state.next_outbox_id();
            rows.push(OutboxRow { id, stage, body });
        }
        rows
    }

    /// The first answer to a repeated request; a refusal when the id came with another body.
    pub(super) fn repeated(
        &self,
        tenant: TenantId,
        request: &RequestKey,
    ) -> Option<Result<Vec<u8>, Refusal>> {
        let first = self.answered.get(&(tenant, request.id))?;
        if first.method == request.method && first.body_hash == request.body_hash {
            return Some(Ok(first.answer.clone()));
        }
        Some(Err(Refusal::request_id_reused()))
    }

    /// Remembers what a request was answered, for the next that comes with its id.
    pub(super) fn remember(&mut self, tenant: TenantId, request: &RequestKey, answer: Vec<u8>) {
        let name = (tenant, request.id);
        self.answered.insert(name, request.answered(answer));
        self.answered_now.push(name);
    }
}

fn push_change(changes: &mut ChangeSet, ordinal: u32, from: u8, to: u8, stage: u8, detail: u32) {
    changes.ordinal.push(ordinal);
    changes.from.push(u32::from(from));
    changes.to.push(u32::from(to));
    changes.stage.push(u32::from(stage));
    changes.detail.push(detail);
}

pub(super) fn drifted(error: caudal_domain::CountUnderflow) -> GroupError {
    GroupError::defect(format!("a counter would fall below zero: {error}"))
}
