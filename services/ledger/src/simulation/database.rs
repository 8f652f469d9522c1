//! A model of the database: tables in memory, transactions that see what is committed and what they wrote themselves, locks
//! on rows of files, and a COMMIT that may fail on either side.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::Arc;

use caudal_domain::plain_text::called;
use caudal_domain::{
    BatchRef, BatchState, FileRef, FolderCounts, Generation, Stage, StageVersion, TenantId, Token,
};
use rustc_hash::{FxHashMap, FxHashSet};
use sea_orm::{DbErr, RuntimeErr};
use uuid::Uuid;

use super::steps::{Asked, Windows, check_commit};
use crate::settings::DispatchWindows;
use crate::store::attempts::AttemptRow;
use crate::store::audit::AuditRow;
use crate::store::changes::ChangeRow;
use crate::store::credentials::{GoodKeys, KeyRow};
use crate::store::leadership::Beginning;
use crate::store::manifest::{FileRow, FolderRow, KnownFile};
use crate::store::operations::{OperationRow, OperationState};
use crate::store::outbox::OutboxRow;
use crate::store::progress::{BatchRow, ProgressRow, Renamed, Times};
use crate::store::requests::{AnsweredRequest, RequestName};
use crate::store::results::{ResultRow, TenantContent, Trace};
use crate::store::stages::StageRow;
use crate::store::tenancy::{Open, Tenancy, TenancyNeeds, TenancyWrites};
use crate::store::tenants::{Account, TenantRow};
use crate::store::time::Micros;
use crate::store::tus::TusRow;
use crate::store::work::{Moved, WorkRow};
use crate::store::write_transaction::WriteTransaction;

/// A file's dead letter, and whether it was dismissed.
#[derive(Clone, Debug)]
pub(crate) struct Letter {
    pub(crate) row: AttemptRow,
    pub(crate) dismissed: bool,
}

/// A recorded change.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) batch: BatchRef,
    pub(crate) revision: u64,
    pub(crate) batch_revision: u64,
    pub(crate) body: Vec<u8>,
}

/// One table. A copy costs nothing until one of the two is written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table<T>(Arc<T>);

impl<T> Table<T> {
    /// Whether nobody has written to either since one was copied from the other.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl<T> Deref for Table<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Table<T> {
    fn deref_mut(&mut self) -> &mut T {
        Arc::make_mut(&mut self.0)
    }
}

/// All tables.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tables {
    pub(crate) files: Table<BTreeMap<FileRef, Arc<WorkRow>>>,
    pub(crate) manifest: Table<BTreeMap<FileRef, Arc<FileRow>>>,
    pub(crate) folders: Table<BTreeMap<(BatchRef, u32), Arc<FolderRow>>>,
    pub(crate) batches: Table<BTreeMap<BatchRef, Arc<(ProgressRow, BatchRow)>>>,
    pub(crate) tenants: Table<BTreeMap<TenantId, Arc<TenantRow>>>,
    pub(crate) results: Table<BTreeMap<(FileRef, Generation, Stage), Arc<ResultRow>>>,
    pub(crate) attempts: Table<BTreeMap<(FileRef, Token), Arc<AttemptRow>>>,
    pub(crate) letters: Table<BTreeMap<FileRef, Arc<Letter>>>,
    pub(crate) changes: Table<Vec<Arc<Change>>>,
    pub(crate) outbox: Table<BTreeMap<u64, (Arc<OutboxRow>, Micros)>>,
    pub(crate) requests: Table<BTreeMap<RequestName, Arc<AnsweredRequest>>>,
    pub(crate) versions: Table<Vec<(u32, StageVersion)>>,
    pub(crate) newest: Table<BTreeMap<Stage, u32>>,
    pub(crate) stages: Table<BTreeMap<Stage, StageRow>>,
    pub(crate) dimensions: Table<BTreeMap<u32, u32>>,
    pub(crate) operations: Table<BTreeMap<(TenantId, Uuid), Arc<OperationRow>>>,
    pub(crate) tus: Table<BTreeMap<(TenantId, Uuid), Arc<TusRow>>>,
    pub(crate) accounts: Table<BTreeMap<TenantId, Arc<Account>>>,
    pub(crate) keys: Table<BTreeMap<String, Arc<KeyRow>>>,
    pub(crate) audit: Table<Vec<Arc<AuditRow>>>,
    pub(crate) epoch: u64,
    /// What no database would have taken.
    pub(crate) broken: Vec<String>,
}

type Write = Rc<dyn Fn(&mut Tables)>;

/// The database, and who has transactions open on it.
#[derive(Default)]
pub(crate) struct Database {
    pub(crate) committed: Tables,
    /// Rises with each commit.
    version: u64,
    next_transaction: u64,
    locks: FxHashMap<FileRef, u64>,
    /// Transactions that the database has ended by itself.
    killed: FxHashSet<u64>,
    open: FxHashSet<u64>,
    pub(crate) now: Micros,
    /// Statements until one fails.
    pub(crate) fails_after: Option<u32>,
    /// How the next COMMIT ends.
    pub(crate) next_commit: CommitFate,
    pub(crate) windows: DispatchWindows,
    /// What operators had set before the last commit: the group after it may not have known of it.
    set_earlier: Table<BTreeMap<Stage, StageRow>>,
    /// What commits may answer to.
    pub(crate) asked: Option<Asked>,
    /// What commits did that none may do.
    pub(crate) found: Vec<String>,
    /// The rows that commits changed, where somebody wants to read them.
    pub(crate) told: Option<Vec<String>>,
}

/// How a COMMIT ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum CommitFate {
    #[default]
    Committed,
    /// The connection is lost before the database hears of it.
    LostBefore,
    /// The connection is lost before its answer comes.
    LostAfter,
}

pub(crate) type Shared = Rc<RefCell<Database>>;

fn away() -> DbErr {
    DbErr::Conn(RuntimeErr::Internal("the connection is lost".into()))
}

impl Database {
    /// Begins a transaction.
    pub(crate) fn begin(shared: &Shared) -> ModelTransaction {
        let mut database = shared.borrow_mut();
        database.next_transaction += 1;
        let id = database.next_transaction;
        database.open.insert(id);
        ModelTransaction {
            id,
            shared: shared.clone(),
            view: RefCell::new(View {
                version: database.version,
                tables: database.committed.clone(),
                log: Vec::new(),
            }),
        }
    }

    /// Ends all open transactions, as the database does when their sessions are idle for too long.
    pub(crate) fn kill_all(&mut self) {
        let open = std::mem::take(&mut self.open);
        self.killed.extend(open);
        self.locks.clear();
    }

    /// Changes committed tables from outside the writer.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut Tables)) {
        change(&mut self.committed);
        self.version += 1;
    }

    fn tell(&mut self, before: &Tables, fate: CommitFate) {
        let Some(told) = &mut self.told else { return };
        told.push(format!("COMMIT ({fate:?})"));
        for (file, row) in self.committed.files.iter() {
            if before
                .files
                .get(file)
                .is_some_and(|old| Arc::ptr_eq(old, row))
            {
                continue;
            }
            let batch = file.batch.as_uuid().as_u128();
            let out = row.dispatched_at.is_some();
            told.push(format!(
                "  {batch:x}/{}@{} {} at {}, out: {out}, waits: {:?}",
                file.ordinal, row.token, row.state, row.stage, row.wait_stage
            ));
        }
    }

    fn end(&mut self, id: u64) {
        self.open.remove(&id);
        self.locks.retain(|_, owner| *owner != id);
    }
}

/// What a transaction sees.
struct View {
    /// Of the committed tables that it was made from.
    version: u64,
    tables: Tables,
    log: Vec<Write>,
}

/// A transaction of the model. One that is dropped is rolled back.
pub(crate) struct ModelTransaction {
    id: u64,
    shared: Shared,
    view: RefCell<View>,
}

impl Drop for ModelTransaction {
    fn drop(&mut self) {
        self.shared.borrow_mut().end(self.id);
    }
}

/// Lets others go on once.
async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|_| {
        if paused {
            return std::task::Poll::Ready(());
        }
        paused = true;
        std::task::Poll::Pending
    })
    .await;
}

impl ModelTransaction {
    /// A statement is sent: others go on meanwhile, and it may fail.
    async fn statement(&self) -> Result<(), DbErr> {
        pause().await;
        let mut database = self.shared.borrow_mut();
        if database.killed.contains(&self.id) {
            return Err(away());
        }
        match &mut database.fails_after {
            Some(0) => {
                database.fails_after = None;
                Err(away())
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    async fn read<R>(&self, read: impl FnOnce(&Tables) -> R) -> Result<R, DbErr> {
        self.statement().await?;
        self.refresh();
        Ok(read(&self.view.borrow().tables))
    }

    /// What others have committed is seen from now on, below what this one has written.
    fn refresh(&self) {
        let database = self.shared.borrow();
        let mut view = self.view.borrow_mut();
        if view.version != database.version {
            let mut tables = database.committed.clone();
            for write in &view.log {
                write(&mut tables);
            }
            view.tables = tables;
            view.version = database.version;
        }
    }

    async fn write(&self, write: impl Fn(&mut Tables) + 'static) -> Result<(), DbErr> {
        self.statement().await?;
        self.refresh();
        let mut view = self.view.borrow_mut();
        write(&mut view.tables);
        view.log.push(Rc::new(write));
        Ok(())
    }

    /// Locks rows; waits while another transaction holds one of them.
    async fn lock(&self, files: impl Iterator<Item = FileRef> + Clone) -> Result<(), DbErr> {
        loop {
            {
                let mut database = self.shared.borrow_mut();
                let other = |file: &FileRef| {
                    database
                        .locks
                        .get(file)
                        .is_some_and(|owner| *owner != self.id)
                };
                if !files.clone().any(|file| other(&file)) {
                    for file in files.clone() {
                        database.locks.insert(file, self.id);
                    }
                    return Ok(());
                }
            }
            self.statement().await?;
        }
    }

    fn by_key(tables: &Tables, files: &[FileRef]) -> Vec<WorkRow> {
        let rows = files.iter().filter_map(|file| tables.files.get(file));
        rows.map(|row| WorkRow::clone(row)).collect()
    }
}

fn unique(tables: &mut Tables, is_new: bool, what: impl FnOnce() -> String) {
    if !is_new {
        tables.broken.push(format!("{} is there already", what()));
    }
}

impl WriteTransaction for ModelTransaction {
    async fn begin_group(
        &self,
        epoch: u64,
        requests: &[RequestName],
    ) -> Result<Option<Beginning>, DbErr> {
        let leads = self.read(|tables| tables.epoch == epoch).await?;
        if !leads && !planted!(EpochIgnored) {
            return Ok(None);
        }
        let view = self.view.borrow();
        let answered = requests.iter().filter_map(|name| {
            let answered = view.tables.requests.get(name)?;
            Some((*name, AnsweredRequest::clone(answered)))
        });
        Ok(Some(Beginning {
            now: self.shared.borrow().now,
            answered: answered.collect(),
        }))
    }

    async fn lock_files(&self, files: &[FileRef]) -> Result<Vec<WorkRow>, DbErr> {
        if files.is_empty() {
            return Ok(Vec::new());
        }
        self.lock(files.iter().copied()).await?;
        self.files(files).await
    }

    async fn files(&self, files: &[FileRef]) -> Result<Vec<WorkRow>, DbErr> {
        self.read(|tables| Self::by_key(tables, files)).await
    }

    async fn lock_files_from(
        &self,
        batch: BatchRef,
        from: u32,
        limit: u32,
    ) -> Result<Vec<WorkRow>, DbErr> {
        let span = batch.file(from)..=batch.file(u32::MAX);
        let files: Vec<FileRef> = self
            .read(|tables| {
                let rows = tables.files.range(span).take(limit as usize);
                rows.map(|(file, _)| *file).collect()
            })
            .await?;
        self.lock_files(&files).await
    }

    async fn waiting(
        &self,
        stage: Stage,
        batch: BatchRef,
        now: Micros,
        limit: u32,
    ) -> Result<Vec<WorkRow>, DbErr> {
        let span = batch.file(0)..=batch.file(u32::MAX);
        let mut rows: Vec<WorkRow> = self
            .read(|tables| {
                let waiting = |row: &&Arc<WorkRow>| {
                    row.wait_stage == Some(stage) && row.ready_at.is_some_and(|at| at <= now)
                };
                let rows = tables.files.range(span).map(|(_, row)| row);
                rows.filter(waiting)
                    .map(|row| WorkRow::clone(row))
                    .collect()
            })
            .await?;
        // Rows that another transaction holds are left out.
        let mut database = self.shared.borrow_mut();
        rows.retain(|row| {
            let owner = database.locks.get(&row.file);
            owner.is_none_or(|owner| *owner == self.id)
        });
        rows.sort_by_key(|row| row.ready_at);
        rows.truncate(limit as usize);
        for row in &rows {
            database.locks.insert(row.file, self.id);
        }
        Ok(rows)
    }

    async fn earliest_ready(&self, stage: Stage, batch: BatchRef) -> Result<Option<Micros>, DbErr> {
        let span = batch.file(0)..=batch.file(u32::MAX);
        self.read(|tables| {
            let rows = tables.files.range(span).map(|(_, row)| row);
            let waiting = rows.filter(|row| row.wait_stage == Some(stage));
            waiting.filter_map(|row| row.ready_at).min()
        })
        .await
    }

    async fn batches(&self, batches: &[BatchRef]) -> Result<Vec<ProgressRow>, DbErr> {
        self.read(|tables| {
            let rows = batches.iter().filter_map(|batch| tables.batches.get(batch));
            rows.map(|row| row.0.clone()).collect()
        })
        .await
    }

    async fn batch(&self, batch: BatchRef) -> Result<Option<(ProgressRow, BatchRow)>, DbErr> {
        self.read(|tables| {
            tables
                .batches
                .get(&batch)
                .map(|row| (row.0.clone(), row.1.clone()))
        })
        .await
    }

    async fn tenants(&self, tenants: &[TenantId]) -> Result<Vec<TenantRow>, DbErr> {
        self.read(|tables| {
            let rows = tenants
                .iter()
                .filter_map(|tenant| tables.tenants.get(tenant));
            rows.map(|row| TenantRow::clone(row)).collect()
        })
        .await
    }

    async fn folders_by_path(
        &self,
        batch: BatchRef,
        paths: &[&str],
    ) -> Result<HashMap<String, FolderRow>, DbErr> {
        self.read(|tables| {
            let folders = tables.folders.range((batch, 0)..=(batch, u32::MAX));
            let wanted = folders.filter(|(_, folder)| paths.contains(&folder.path.as_str()));
            wanted
                .map(|(_, folder)| (folder.path.clone(), FolderRow::clone(folder)))
                .collect()
        })
        .await
    }

    async fn folders(
        &self,
        folders: &[(BatchRef, u32)],
    ) -> Result<Vec<(BatchRef, FolderRow)>, DbErr> {
        self.read(|tables| {
            let rows = folders.iter().filter_map(|place| {
                let folder = tables.folders.get(place)?;
                Some((place.0, FolderRow::clone(folder)))
            });
            rows.collect()
        })
        .await
    }

    async fn known_files(
        &self,
        batch: BatchRef,
        places: &[(u32, &str)],
    ) -> Result<Vec<KnownFile>, DbErr> {
        let span = batch.file(0)..=batch.file(u32::MAX);
        self.read(|tables| {
            let rows = tables.manifest.range(span).map(|(_, row)| row);
            let known = rows.filter(|row| places.contains(&(row.folder, row.name.as_str())));
            known
                .map(|row| KnownFile {
                    folder: row.folder,
                    name: row.name.clone(),
                    ordinal: row.file.ordinal,
                    size: row.size,
                    declared_sha256: row.declared_sha256.clone(),
                    added_by: row.added_by.clone(),
                })
                .collect()
        })
        .await
    }

    async fn results_of(
        &self,
        files: &[(FileRef, Generation)],
    ) -> Result<HashMap<FileRef, Vec<ResultRow>>, DbErr> {
        self.read(|tables| {
            let mut found: HashMap<FileRef, Vec<ResultRow>> = HashMap::new();
            for (file, generation) in files {
                let first = (*file, *generation, Stage::Upload);
                let results = tables.results.range(first..);
                let results = results.take_while(|(key, _)| (key.0, key.1) == (*file, *generation));
                for (_, result) in results {
                    found
                        .entry(*file)
                        .or_default()
                        .push(ResultRow::clone(result));
                }
            }
            for results in found.values_mut() {
                results.sort_by_key(|result| (result.token, result.stage.code()));
            }
            found
        })
        .await
    }

    async fn holders(
        &self,
        contents: &[TenantContent],
    ) -> Result<HashMap<TenantContent, FileRef>, DbErr> {
        if contents.is_empty() {
            return Ok(HashMap::new());
        }
        self.read(|tables| {
            let mut found = HashMap::new();
            for result in tables.results.values() {
                let Some(content) = result.content else {
                    continue;
                };
                let mut content = (result.file.tenant, content);
                if planted!(TakenAcrossTenants) {
                    let mut asked = contents.iter();
                    content = *asked.find(|asked| asked.1 == content.1).unwrap_or(&content);
                }
                let row = tables.files.get(&result.file);
                let current = row.is_some_and(|row| row.generation == result.generation);
                if current && result.stage == Stage::Upload && contents.contains(&content) {
                    found.entry(content).or_insert(result.file);
                }
            }
            found
        })
        .await
    }

    async fn recorded(
        &self,
        trace: Trace,
        pairs: &[(FileRef, Token)],
    ) -> Result<HashSet<(FileRef, Token)>, DbErr> {
        if pairs.is_empty() {
            return Ok(HashSet::new());
        }
        self.read(|tables| {
            let left = |pair: &&(FileRef, Token)| match trace {
                Trace::Result => {
                    let mut results = tables.results.values();
                    results.any(|result| (result.file, result.token) == **pair)
                }
                Trace::Attempt => tables.attempts.contains_key(*pair),
            };
            pairs.iter().filter(left).copied().collect()
        })
        .await
    }

    async fn versions(&self) -> Result<Vec<(u32, StageVersion)>, DbErr> {
        self.read(|tables| tables.versions.to_vec()).await
    }

    async fn newest_versions(&self) -> Result<HashMap<Stage, u32>, DbErr> {
        self.read(|tables| {
            let newest = tables.newest.iter();
            newest.map(|(stage, number)| (*stage, *number)).collect()
        })
        .await
    }

    async fn dimensions(&self) -> Result<Vec<(u32, u32)>, DbErr> {
        self.read(|tables| {
            tables
                .dimensions
                .iter()
                .map(|(at, of)| (*at, *of))
                .collect()
        })
        .await
    }

    async fn stages(&self) -> Result<Vec<StageRow>, DbErr> {
        self.read(|tables| tables.stages.values().cloned().collect())
            .await
    }

    async fn oldest_outbox(&self) -> Result<HashMap<Stage, Micros>, DbErr> {
        self.read(|tables| {
            let mut oldest = HashMap::new();
            for (row, at) in tables.outbox.values() {
                let known = oldest.entry(row.stage).or_insert(*at);
                *known = (*known).min(*at);
            }
            oldest
        })
        .await
    }

    async fn lock_operation(
        &self,
        tenant: TenantId,
        id: Uuid,
    ) -> Result<Option<OperationRow>, DbErr> {
        self.read(|tables| {
            let row = tables.operations.get(&(tenant, id));
            row.map(|row| OperationRow::clone(row))
        })
        .await
    }

    async fn lock_tus(&self, tenant: TenantId, id: Uuid) -> Result<Option<TusRow>, DbErr> {
        self.read(|tables| tables.tus.get(&(tenant, id)).map(|row| TusRow::clone(row)))
            .await
    }

    async fn update_files(&self, rows: &[(Token, &WorkRow)], moved: Moved) -> Result<u64, DbErr> {
        if rows.is_empty() {
            return Ok(0);
        }
        self.lock(rows.iter().map(|(_, row)| row.file)).await?;
        let rows: Vec<(Token, Arc<WorkRow>)> = rows
            .iter()
            .map(|(held, row)| (*held, Arc::new(WorkRow::clone(row))))
            .collect();
        let held = |(held, row): &&(Token, Arc<WorkRow>)| {
            let view = self.view.borrow();
            let stored = view.tables.files.get(&row.file);
            stored.is_some_and(|stored| stored.token == *held)
        };
        self.statement().await?;
        self.refresh();
        let fenced: Vec<_> = if planted!(StaleMemoryTrusted) {
            rows
        } else {
            rows.iter().filter(held).cloned().collect()
        };
        let count = fenced.len() as u64;
        self.write(move |tables| {
            for (_, row) in &fenced {
                update_row(tables, row, moved);
            }
        })
        .await?;
        Ok(count)
    }

    async fn insert_manifest(
        &self,
        folders: &[(BatchRef, FolderRow)],
        files: &[FileRow],
        rows: &[WorkRow],
    ) -> Result<(), DbErr> {
        if folders.is_empty() && files.is_empty() && rows.is_empty() {
            return Ok(());
        }
        let (folders, files, rows) = (folders.to_vec(), files.to_vec(), rows.to_vec());
        self.write(move |tables| {
            for (batch, folder) in &folders {
                let key = (*batch, folder.folder);
                let before = tables.folders.insert(key, Arc::new(folder.clone()));
                unique(tables, before.is_none(), || format!("folder {key:?}"));
            }
            for file in &files {
                let before = tables.manifest.insert(file.file, Arc::new(file.clone()));
                unique(tables, before.is_none(), || format!("file {}", file.file));
            }
            for row in &rows {
                let before = tables.files.insert(row.file, Arc::new(row.clone()));
                unique(tables, before.is_none(), || format!("row {}", row.file));
            }
        })
        .await
    }

    async fn insert_results(&self, rows: &[ResultRow]) -> Result<(), DbErr> {
        if rows.is_empty() {
            return Ok(());
        }
        let rows: Vec<Arc<ResultRow>> = rows.iter().cloned().map(Arc::new).collect();
        self.write(move |tables| {
            for row in &rows {
                let key = (row.file, row.generation, row.stage);
                let before = tables.results.insert(key, row.clone());
                unique(tables, before.is_none(), || format!("result {key:?}"));
            }
        })
        .await
    }

    async fn insert_attempts(&self, rows: &[AttemptRow]) -> Result<(), DbErr> {
        if rows.is_empty() {
            return Ok(());
        }
        let rows: Vec<Arc<AttemptRow>> = rows.iter().cloned().map(Arc::new).collect();
        self.write(move |tables| {
            for row in &rows {
                let key = (row.file, row.token);
                let before = tables.attempts.insert(key, row.clone());
                unique(tables, before.is_none(), || format!("attempt {key:?}"));
            }
        })
        .await
    }

    async fn insert_dead_letters(&self, rows: &[AttemptRow]) -> Result<(), DbErr> {
        if rows.is_empty() {
            return Ok(());
        }
        let rows = rows.to_vec();
        self.write(move |tables| {
            for row in &rows {
                let letter = Letter {
                    row: row.clone(),
                    dismissed: false,
                };
                let before = tables.letters.insert(row.file, Arc::new(letter));
                unique(tables, before.is_none(), || {
                    format!("dead letter {}", row.file)
                });
            }
        })
        .await
    }

    async fn delete_dead_letters(&self, files: &[FileRef]) -> Result<(), DbErr> {
        if files.is_empty() {
            return Ok(());
        }
        let files = files.to_vec();
        self.write(move |tables| {
            for file in &files {
                tables.letters.remove(file);
            }
        })
        .await
    }

    async fn dismiss(&self, files: &[FileRef], _now: Micros) -> Result<(), DbErr> {
        if files.is_empty() {
            return Ok(());
        }
        let files = files.to_vec();
        self.write(move |tables| {
            for file in &files {
                if let Some(letter) = tables.letters.get_mut(file) {
                    Arc::make_mut(letter).dismissed = true;
                }
            }
        })
        .await
    }

    async fn update_folders(&self, folders: &[(BatchRef, u32, FolderCounts)]) -> Result<(), DbErr> {
        if folders.is_empty() {
            return Ok(());
        }
        let folders = folders.to_vec();
        self.write(move |tables| {
            for (batch, folder, counts) in &folders {
                if let Some(folder) = tables.folders.get_mut(&(*batch, *folder)) {
                    Arc::make_mut(folder).counts = *counts;
                }
            }
        })
        .await
    }

    async fn insert_batches(&self, batches: &[(ProgressRow, BatchRow)]) -> Result<(), DbErr> {
        if batches.is_empty() {
            return Ok(());
        }
        let batches = batches.to_vec();
        self.write(move |tables| {
            for row in &batches {
                let key = row.0.key();
                let before = tables.batches.insert(key, Arc::new(row.clone()));
                unique(tables, before.is_none(), || format!("batch {key}"));
                let root = FolderRow {
                    folder: 0,
                    ancestors: Vec::new(),
                    path: String::new(),
                    counts: FolderCounts::default(),
                };
                tables.folders.insert((key, 0), Arc::new(root));
            }
        })
        .await
    }

    async fn update_batches(&self, rows: &[ProgressRow]) -> Result<u64, DbErr> {
        if rows.is_empty() {
            return Ok(0);
        }
        self.statement().await?;
        self.refresh();
        let fits = |row: &&ProgressRow| {
            let view = self.view.borrow();
            let stored = view.tables.batches.get(&row.key());
            stored.is_some_and(|stored| stored.0.revision + 1 == row.revision)
        };
        let rows: Vec<ProgressRow> = if planted!(StaleMemoryTrusted) {
            rows.to_vec()
        } else {
            rows.iter().filter(fits).cloned().collect()
        };
        let count = rows.len() as u64;
        self.write(move |tables| {
            for row in &rows {
                if let Some(stored) = tables.batches.get_mut(&row.key()) {
                    let stored = Arc::make_mut(stored);
                    // A pause is written by a statement of its own.
                    let pause = stored.0.pause.clone();
                    stored.0 = row.clone();
                    stored.0.pause = pause;
                }
            }
        })
        .await?;
        Ok(count)
    }

    async fn set_pause(&self, row: &ProgressRow) -> Result<(), DbErr> {
        let row = row.clone();
        self.write(move |tables| {
            if let Some(stored) = tables.batches.get_mut(&row.key()) {
                Arc::make_mut(stored).0.pause.clone_from(&row.pause);
            }
        })
        .await
    }

    async fn rename(&self, batch: BatchRef, renamed: &Renamed) -> Result<(), DbErr> {
        let renamed = renamed.clone();
        self.write(move |tables| {
            if let Some(stored) = tables.batches.get_mut(&batch) {
                let cold = &mut Arc::make_mut(stored).1;
                if let Some(name) = &renamed.name {
                    cold.name.clone_from(name);
                }
                if let Some(priority) = renamed.priority {
                    cold.priority = priority;
                }
                if let Some(metadata) = &renamed.metadata {
                    cold.metadata.clone_from(metadata);
                }
            }
        })
        .await
    }

    async fn set_times(&self, times: &[Times]) -> Result<(), DbErr> {
        if times.is_empty() {
            return Ok(());
        }
        let times = times.to_vec();
        self.write(move |tables| {
            for times in &times {
                if let Some(stored) = tables.batches.get_mut(&times.batch) {
                    let cold = &mut Arc::make_mut(stored).1;
                    cold.completed_at = cold.completed_at.or(times.completed_at);
                    cold.ended_at = times.ended_at;
                }
            }
        })
        .await
    }

    async fn update_tenants(&self, rows: &[(u64, TenantRow)]) -> Result<u64, DbErr> {
        if rows.is_empty() {
            return Ok(0);
        }
        self.statement().await?;
        self.refresh();
        let fits = |(held, row): &&(u64, TenantRow)| {
            let view = self.view.borrow();
            let stored = view.tables.tenants.get(&row.tenant);
            stored.is_some_and(|stored| stored.revision == *held)
        };
        let rows: Vec<(u64, TenantRow)> = if planted!(StaleMemoryTrusted) {
            rows.to_vec()
        } else {
            rows.iter().filter(fits).cloned().collect()
        };
        let count = rows.len() as u64;
        self.write(move |tables| {
            for (_, row) in &rows {
                tables.tenants.insert(row.tenant, Arc::new(row.clone()));
            }
        })
        .await?;
        Ok(count)
    }

    async fn insert_changes(&self, rows: &[ChangeRow], _now: Micros) -> Result<(), DbErr> {
        if rows.is_empty() {
            return Ok(());
        }
        let changes = rows.iter().map(|row| {
            Arc::new(Change {
                batch: row.key,
                revision: row.revision,
                batch_revision: row.batch_revision,
                body: row.body.clone(),
            })
        });
        let changes: Vec<Arc<Change>> = changes.collect();
        self.write(move |tables| tables.changes.extend(changes.iter().cloned()))
            .await
    }

    async fn insert_outbox(&self, rows: &[OutboxRow], now: Micros) -> Result<(), DbErr> {
        if rows.is_empty() {
            return Ok(());
        }
        let rows: Vec<Arc<OutboxRow>> = rows.iter().cloned().map(Arc::new).collect();
        self.write(move |tables| {
            for row in &rows {
                let before = tables.outbox.insert(row.id, (row.clone(), now));
                unique(tables, before.is_none(), || {
                    format!("outbox row {}", row.id)
                });
            }
        })
        .await
    }

    async fn delete_outbox(&self, ids: &[u64]) -> Result<(), DbErr> {
        if ids.is_empty() {
            return Ok(());
        }
        let ids = ids.to_vec();
        self.write(move |tables| {
            for id in &ids {
                tables.outbox.remove(id);
            }
        })
        .await
    }

    async fn remember(
        &self,
        requests: &[(RequestName, AnsweredRequest)],
        _now: Micros,
    ) -> Result<(), DbErr> {
        if requests.is_empty() {
            return Ok(());
        }
        let requests = requests.to_vec();
        self.write(move |tables| {
            for (name, answered) in &requests {
                let before = tables.requests.insert(*name, Arc::new(answered.clone()));
                unique(tables, before.is_none(), || format!("request {name:?}"));
            }
        })
        .await
    }

    async fn insert_version(
        &self,
        number: u32,
        version: &StageVersion,
        _now: Micros,
    ) -> Result<(), DbErr> {
        let version = version.clone();
        self.write(move |tables| {
            let known = tables.versions.iter().any(|(known, _)| *known == number);
            unique(tables, !known, || format!("version {number}"));
            tables.versions.push((number, version.clone()));
        })
        .await
    }

    async fn set_newest_version(&self, stage: Stage, version: u32) -> Result<(), DbErr> {
        self.write(move |tables| {
            tables.newest.insert(stage, version);
        })
        .await
    }

    async fn set_dimensions(&self, number: u32, dimensions: u32) -> Result<(), DbErr> {
        self.write(move |tables| {
            tables.dimensions.insert(number, dimensions);
        })
        .await
    }

    async fn set_stage(&self, row: &StageRow) -> Result<(), DbErr> {
        let row = row.clone();
        self.write(move |tables| {
            tables.stages.insert(row.stage, row.clone());
        })
        .await
    }

    async fn insert_operation(&self, row: &OperationRow) -> Result<(), DbErr> {
        let row = Arc::new(row.clone());
        self.write(move |tables| {
            let key = (row.tenant, row.id);
            let before = tables.operations.insert(key, row.clone());
            unique(tables, before.is_none(), || format!("operation {key:?}"));
        })
        .await
    }

    async fn update_operation(&self, row: &OperationRow) -> Result<(), DbErr> {
        let row = Arc::new(row.clone());
        self.write(move |tables| {
            tables.operations.insert((row.tenant, row.id), row.clone());
        })
        .await
    }

    async fn put_tus(&self, row: &TusRow) -> Result<(), DbErr> {
        let row = Arc::new(row.clone());
        self.write(move |tables| {
            tables.tus.insert((row.tenant, row.id), row.clone());
        })
        .await
    }

    async fn delete_tus(&self, tenant: TenantId, id: Uuid) -> Result<(), DbErr> {
        self.write(move |tables| {
            tables.tus.remove(&(tenant, id));
        })
        .await
    }

    async fn tenancy(&self, needs: &TenancyNeeds, now: Micros) -> Result<Tenancy, DbErr> {
        self.statement().await?;
        self.refresh();
        let view = self.view.borrow();
        let tables = &view.tables;
        let named = |name: &String| {
            let mut accounts = tables.accounts.iter();
            accounts.find_map(|(tenant, account)| {
                (called(&account.name) == called(name)).then_some(*tenant)
            })
        };
        let account = |tenant| {
            Some(Account {
                row: TenantRow::clone(tables.tenants.get(&tenant)?),
                ..Account::clone(tables.accounts.get(&tenant)?)
            })
        };
        let good = |whose: Option<TenantId>| {
            let keys = tables.keys.values();
            let keys = keys.filter(|key| key.tenant == whose && key.is_good(now));
            let mut good = GoodKeys::default();
            keys.for_each(|key| good.add(key));
            good
        };
        Ok(Tenancy {
            tenant: needs.tenant.and_then(account),
            named: needs.name.as_ref().and_then(named),
            key: needs
                .key
                .as_ref()
                .and_then(|id| Some(KeyRow::clone(tables.keys.get(id)?))),
            good_keys: needs.keys_of.map(good).unwrap_or_default(),
        })
    }

    async fn open(&self, tenant: TenantId, open: Open) -> Result<u64, DbErr> {
        self.statement().await?;
        self.refresh();
        let view = self.view.borrow();
        let count = match open {
            Open::Batches => {
                let batches = view.tables.batches.iter();
                let open = batches.filter(|(key, batch)| {
                    key.tenant == tenant && batch.0.state == BatchState::Open
                });
                open.count()
            }
            Open::Operations => {
                let operations = view.tables.operations.values();
                let running = operations
                    .filter(|row| row.tenant == tenant && row.state == OperationState::Running);
                running.count()
            }
        };
        Ok(count as u64)
    }

    async fn write_tenancy(&self, writes: &TenancyWrites) -> Result<(), DbErr> {
        if writes.is_empty() {
            return Ok(());
        }
        let writes = writes.clone();
        self.write(move |tables| {
            for account in &writes.new_tenants {
                let row = Arc::new(account.row.clone());
                let is_new = tables.tenants.insert(account.row.tenant, row).is_none();
                unique(tables, is_new, || account.row.tenant.to_string());
            }
            for account in writes.new_tenants.iter().chain(&writes.tenants) {
                let tenant = account.row.tenant;
                let mut others = tables.accounts.iter();
                let is_alone =
                    others.all(|(other, known)| *other == tenant || known.name != account.name);
                unique(tables, is_alone, || {
                    format!("a tenant called {}", account.name)
                });
                tables.accounts.insert(tenant, Arc::new(account.clone()));
                if let Some(row) = tables.tenants.get_mut(&tenant) {
                    let row = Arc::make_mut(row);
                    row.limits.clone_from(&account.row.limits);
                    row.paused = account.row.paused;
                    row.closed = account.row.closed;
                    row.weight = account.row.weight;
                }
            }
            for key in &writes.new_keys {
                let old = tables.keys.insert(key.id.clone(), Arc::new(key.clone()));
                unique(tables, old.is_none(), || format!("the key {}", key.id));
            }
            for key in &writes.ended_keys {
                if let Some(row) = tables.keys.get_mut(&key.id) {
                    let row = Arc::make_mut(row);
                    (row.expires_at, row.revoked_at) = (key.expires_at, key.revoked_at);
                }
            }
            for (id, at) in &writes.used_keys {
                if let Some(key) = tables.keys.get_mut(id) {
                    Arc::make_mut(key).last_used_at = Some(*at);
                }
            }
            for (id, spent) in &writes.spent {
                if let Some(key) = tables.keys.get_mut(id) {
                    let added = &mut Arc::make_mut(key).added;
                    added.files += spent.files;
                    added.bytes += spent.bytes;
                }
            }
            let rows = writes.audit.iter().cloned().map(Arc::new);
            tables.audit.extend(rows);
        })
        .await
    }

    async fn prune(&self, _changes: Micros, _requests: Micros, _limit: u32) -> Result<(), DbErr> {
        // Histories are shorter than anything is kept.
        self.statement().await
    }

    async fn mark_collected(
        &self,
        batches: &[(BatchRef, Micros)],
        _now: Micros,
    ) -> Result<(), DbErr> {
        if batches.is_empty() {
            return Ok(());
        }
        self.statement().await
    }

    async fn prune_operations(&self, _before: Micros, _limit: u32) -> Result<(), DbErr> {
        self.statement().await
    }

    async fn commit(self) -> Result<(), DbErr> {
        self.statement().await?;
        let mut database = self.shared.borrow_mut();
        let fate = std::mem::take(&mut database.next_commit);
        if fate == CommitFate::LostBefore {
            drop(database);
            return Err(away());
        }
        let mut view = self.view.borrow_mut();
        let log = std::mem::take(&mut view.log);
        let before = if view.version == database.version {
            // Nobody has committed since: what it sees is what it leaves.
            let after = std::mem::take(&mut view.tables);
            std::mem::replace(&mut database.committed, after)
        } else {
            let before = database.committed.clone();
            for write in log {
                write(&mut database.committed);
            }
            before
        };
        drop(view);
        database.version += 1;
        let found = check_commit(
            &before,
            &database.committed,
            database.asked.as_ref(),
            &Windows {
                usual: &database.windows,
                set_earlier: &database.set_earlier,
            },
            database.now,
        );
        database.set_earlier = before.stages.clone();
        database.found.extend(found);
        database.tell(&before, fate);
        drop(database);
        if fate == CommitFate::LostAfter {
            return Err(away());
        }
        Ok(())
    }

    async fn roll_back(self) {}
}

/// Writes the columns that the statement of `moved` writes.
fn update_row(tables: &mut Tables, row: &Arc<WorkRow>, moved: Moved) {
    let Some(stored) = tables.files.get_mut(&row.file) else {
        return;
    };
    let mut written = WorkRow::clone(row);
    if moved < Moved::BytesToo {
        written.generation = stored.generation;
        written.target = stored.target;
        written.etag.clone_from(&stored.etag);
    }
    if moved == Moved::Onward {
        written.wait_stage = None;
        written.ready_at = None;
        written.lease_until = None;
        written.fails = 0;
        written.kills = 0;
        written.reason = None;
    }
    if written.token < stored.token {
        let words = format!(
            "{}: its token went from {} to {}",
            row.file, stored.token, written.token
        );
        tables.broken.push(words);
    }
    tables.files.insert(row.file, Arc::new(written));
}
