//! All that one transaction of the writer asks of the database, in one trait: the database answers it here, and the
//! simulation's model of one in `writer/simulation`.

use std::collections::{HashMap, HashSet};

use caudal_domain::{
    BatchRef, FileRef, FolderCounts, Generation, Stage, StageVersion, TenantId, Token,
};
use sea_orm::DbErr;
use uuid::Uuid;

use super::attempts::{self, AttemptRow};
use super::changes::{self, ChangeRow};
use super::connections::Transaction;
use super::leadership::{self, Beginning};
use super::manifest::{self, FileRow, FolderRow, KnownFile};
use super::operations::{self, OperationRow};
use super::outbox::{self, OutboxRow};
use super::progress::{self, BatchRow, ProgressRow, Renamed, Times};
use super::requests::{self, AnsweredRequest, RequestName};
use super::results::{self, ResultRow, TenantContent, Trace};
use super::stages::{self, StageRow};
use super::tenancy::{self, Open, Tenancy, TenancyNeeds, TenancyWrites};
use super::tenants::{self, TenantRow};
use super::time::Micros;
use super::tus::{self, TusRow};
use super::work::{self, Moved, WorkRow};
use super::{dead_letters, reads, versions};

/// A transaction that may change the ledger. What its statements mean stands with the statements.
pub(crate) trait WriteTransaction {
    /// Begins a group under an epoch; `None`: another ledger leads (protocol 1.1).
    async fn begin_group(
        &self,
        epoch: u64,
        requests: &[RequestName],
    ) -> Result<Option<Beginning>, DbErr>;

    /// Rows by key, locked until the end. `files` in the order of keys.
    async fn lock_files(&self, files: &[FileRef]) -> Result<Vec<WorkRow>, DbErr>;
    /// Rows by key, as committed.
    async fn files(&self, files: &[FileRef]) -> Result<Vec<WorkRow>, DbErr>;
    /// Rows of a batch from an ordinal on, in order, locked until the end.
    async fn lock_files_from(
        &self,
        batch: BatchRef,
        from: u32,
        limit: u32,
    ) -> Result<Vec<WorkRow>, DbErr>;
    /// The next rows of a batch that wait for a stage and whose time has come, locked until the end.
    async fn waiting(
        &self,
        stage: Stage,
        batch: BatchRef,
        now: Micros,
        limit: u32,
    ) -> Result<Vec<WorkRow>, DbErr>;
    /// When the earliest file of a batch that waits for a stage is ready.
    async fn earliest_ready(&self, stage: Stage, batch: BatchRef) -> Result<Option<Micros>, DbErr>;
    /// Batches by key.
    async fn batches(&self, batches: &[BatchRef]) -> Result<Vec<ProgressRow>, DbErr>;
    /// One batch with what is cold of it.
    async fn batch(&self, batch: BatchRef) -> Result<Option<(ProgressRow, BatchRow)>, DbErr>;
    /// Tenants by key.
    async fn tenants(&self, tenants: &[TenantId]) -> Result<Vec<TenantRow>, DbErr>;
    /// Folders of a batch by path.
    async fn folders_by_path(
        &self,
        batch: BatchRef,
        paths: &[&str],
    ) -> Result<HashMap<String, FolderRow>, DbErr>;
    /// Folders by number.
    async fn folders(
        &self,
        folders: &[(BatchRef, u32)],
    ) -> Result<Vec<(BatchRef, FolderRow)>, DbErr>;
    /// Files of a batch by folder and name.
    async fn known_files(
        &self,
        batch: BatchRef,
        places: &[(u32, &str)],
    ) -> Result<Vec<KnownFile>, DbErr>;
    /// Results by file and generation.
    async fn results_of(
        &self,
        files: &[(FileRef, Generation)],
    ) -> Result<HashMap<FileRef, Vec<ResultRow>>, DbErr>;
    /// For each content a file that holds it.
    async fn holders(
        &self,
        contents: &[TenantContent],
    ) -> Result<HashMap<TenantContent, FileRef>, DbErr>;
    /// Which of these pairs left a trace.
    async fn recorded(
        &self,
        trace: Trace,
        pairs: &[(FileRef, Token)],
    ) -> Result<HashSet<(FileRef, Token)>, DbErr>;
    /// All stage versions.
    async fn versions(&self) -> Result<Vec<(u32, StageVersion)>, DbErr>;
    /// The newest version of each stage that has one.
    async fn newest_versions(&self) -> Result<HashMap<Stage, u32>, DbErr>;
    /// The length of the vectors of each stage version that was recorded with some, by its number.
    async fn dimensions(&self) -> Result<Vec<(u32, u32)>, DbErr>;
    /// What operators set for stages.
    async fn stages(&self) -> Result<Vec<StageRow>, DbErr>;
    /// When the oldest unpublished dispatch of each stage was written (protocol 8.1).
    async fn oldest_outbox(&self) -> Result<HashMap<Stage, Micros>, DbErr>;
    /// One operation, locked until the end.
    async fn lock_operation(
        &self,
        tenant: TenantId,
        id: Uuid,
    ) -> Result<Option<OperationRow>, DbErr>;
    /// One upload through gateways, locked until the end.
    async fn lock_tus(&self, tenant: TenantId, id: Uuid) -> Result<Option<TusRow>, DbErr>;

    /// What is known of tenants and keys.
    async fn tenancy(&self, needs: &TenancyNeeds, now: Micros) -> Result<Tenancy, DbErr>;
    /// How many batches a tenant has open, or operations under way.
    async fn open(&self, tenant: TenantId, open: Open) -> Result<u64, DbErr>;

    /// Writes rows whose token is still the one beside them; how many were.
    async fn update_files(&self, rows: &[(Token, &WorkRow)], moved: Moved) -> Result<u64, DbErr>;
    /// Inserts what manifest pages add.
    async fn insert_manifest(
        &self,
        folders: &[(BatchRef, FolderRow)],
        files: &[FileRow],
        rows: &[WorkRow],
    ) -> Result<(), DbErr>;
    /// Inserts results.
    async fn insert_results(&self, rows: &[ResultRow]) -> Result<(), DbErr>;
    /// Inserts failures and kills.
    async fn insert_attempts(&self, rows: &[AttemptRow]) -> Result<(), DbErr>;
    /// Inserts dead letters.
    async fn insert_dead_letters(&self, rows: &[AttemptRow]) -> Result<(), DbErr>;
    /// Deletes dead letters of files that left FAILED.
    async fn delete_dead_letters(&self, files: &[FileRef]) -> Result<(), DbErr>;
    /// Takes dead letters off lists and alarms.
    async fn dismiss(&self, files: &[FileRef], now: Micros) -> Result<(), DbErr>;
    /// Writes counters of folders.
    async fn update_folders(&self, folders: &[(BatchRef, u32, FolderCounts)]) -> Result<(), DbErr>;
    /// Inserts batches with their root folders.
    async fn insert_batches(&self, batches: &[(ProgressRow, BatchRow)]) -> Result<(), DbErr>;
    /// Writes batches whose revision is still the one before; how many were.
    async fn update_batches(&self, rows: &[ProgressRow]) -> Result<u64, DbErr>;
    /// Writes whether a batch is paused.
    async fn set_pause(&self, row: &ProgressRow) -> Result<(), DbErr>;
    /// Changes what callers may change of a batch.
    async fn rename(&self, batch: BatchRef, renamed: &Renamed) -> Result<(), DbErr>;
    /// Writes when batches were completed and ended.
    async fn set_times(&self, times: &[Times]) -> Result<(), DbErr>;
    /// Writes tenants whose revision is still the one beside them; how many were.
    async fn update_tenants(&self, rows: &[(u64, TenantRow)]) -> Result<u64, DbErr>;
    /// Appends changes.
    async fn insert_changes(&self, rows: &[ChangeRow], now: Micros) -> Result<(), DbErr>;
    /// Appends dispatches that are to be published.
    async fn insert_outbox(&self, rows: &[OutboxRow], now: Micros) -> Result<(), DbErr>;
    /// Deletes dispatches that Redis has accepted.
    async fn delete_outbox(&self, ids: &[u64]) -> Result<(), DbErr>;
    /// Remembers what requests were answered.
    async fn remember(
        &self,
        requests: &[(RequestName, AnsweredRequest)],
        now: Micros,
    ) -> Result<(), DbErr>;
    /// Inserts a stage version.
    async fn insert_version(
        &self,
        number: u32,
        version: &StageVersion,
        now: Micros,
    ) -> Result<(), DbErr>;
    /// Notes the newest version of a stage.
    async fn set_newest_version(&self, stage: Stage, version: u32) -> Result<(), DbErr>;
    /// Notes the length of the vectors of a stage version.
    async fn set_dimensions(&self, number: u32, dimensions: u32) -> Result<(), DbErr>;
    /// Writes what operators set for a stage.
    async fn set_stage(&self, row: &StageRow) -> Result<(), DbErr>;
    /// Inserts an operation.
    async fn insert_operation(&self, row: &OperationRow) -> Result<(), DbErr>;
    /// Writes how far a locked operation is.
    async fn update_operation(&self, row: &OperationRow) -> Result<(), DbErr>;
    /// Writes an upload through gateways, new or locked.
    async fn put_tus(&self, row: &TusRow) -> Result<(), DbErr>;
    /// Forgets an upload through gateways.
    async fn delete_tus(&self, tenant: TenantId, id: Uuid) -> Result<(), DbErr>;
    /// Writes what becomes of tenants and keys, and who did what.
    async fn write_tenancy(&self, writes: &TenancyWrites) -> Result<(), DbErr>;
    /// Deletes old changes and answers, so many of each at most.
    async fn prune(&self, changes: Micros, requests: Micros, limit: u32) -> Result<(), DbErr>;
    /// Deletes operations that ended long ago, so many at most.
    async fn prune_operations(&self, before: Micros, limit: u32) -> Result<(), DbErr>;
    /// Notes that batches were looked through after these ends, unless they ran again since.
    async fn mark_collected(
        &self,
        batches: &[(BatchRef, Micros)],
        now: Micros,
    ) -> Result<(), DbErr>;

    /// Commits; after an error it may have been committed all the same.
    async fn commit(self) -> Result<(), DbErr>;
    /// Gives the transaction up: nothing of it happened.
    async fn roll_back(self);
}

impl WriteTransaction for Transaction {
    async fn begin_group(
        &self,
        epoch: u64,
        requests: &[RequestName],
    ) -> Result<Option<Beginning>, DbErr> {
        leadership::begin(&self.session(), epoch, requests).await
    }

    async fn lock_files(&self, files: &[FileRef]) -> Result<Vec<WorkRow>, DbErr> {
        work::lock(&self.session(), files).await
    }

    async fn files(&self, files: &[FileRef]) -> Result<Vec<WorkRow>, DbErr> {
        work::read(&self.session(), files).await
    }

    async fn lock_files_from(
        &self,
        batch: BatchRef,
        from: u32,
        limit: u32,
    ) -> Result<Vec<WorkRow>, DbErr> {
        work::lock_range(&self.session(), batch, from, limit).await
    }

    async fn waiting(
        &self,
        stage: Stage,
        batch: BatchRef,
        now: Micros,
        limit: u32,
    ) -> Result<Vec<WorkRow>, DbErr> {
        work::waiting(&self.session(), stage, batch, now, limit).await
    }

    async fn earliest_ready(&self, stage: Stage, batch: BatchRef) -> Result<Option<Micros>, DbErr> {
        work::earliest_ready(&self.session(), stage, batch).await
    }

    async fn batches(&self, batches: &[BatchRef]) -> Result<Vec<ProgressRow>, DbErr> {
        progress::read(&self.session(), batches).await
    }

    async fn batch(&self, batch: BatchRef) -> Result<Option<(ProgressRow, BatchRow)>, DbErr> {
        reads::batch(&self.session(), batch).await
    }

    async fn tenants(&self, tenants: &[TenantId]) -> Result<Vec<TenantRow>, DbErr> {
        tenants::read(&self.session(), tenants).await
    }

    async fn folders_by_path(
        &self,
        batch: BatchRef,
        paths: &[&str],
    ) -> Result<HashMap<String, FolderRow>, DbErr> {
        manifest::folders_by_path(&self.session(), batch, paths).await
    }

    async fn folders(
        &self,
        folders: &[(BatchRef, u32)],
    ) -> Result<Vec<(BatchRef, FolderRow)>, DbErr> {
        manifest::folders(&self.session(), folders).await
    }

    async fn known_files(
        &self,
        batch: BatchRef,
        places: &[(u32, &str)],
    ) -> Result<Vec<KnownFile>, DbErr> {
        manifest::known_files(&self.session(), batch, places).await
    }

    async fn results_of(
        &self,
        files: &[(FileRef, Generation)],
    ) -> Result<HashMap<FileRef, Vec<ResultRow>>, DbErr> {
        results::of_generations(&self.session(), files).await
    }

    async fn holders(
        &self,
        contents: &[TenantContent],
    ) -> Result<HashMap<TenantContent, FileRef>, DbErr> {
        results::holders(&self.session(), contents).await
    }

    async fn recorded(
        &self,
        trace: Trace,
        pairs: &[(FileRef, Token)],
    ) -> Result<HashSet<(FileRef, Token)>, DbErr> {
        results::already_recorded(&self.session(), trace, pairs).await
    }

    async fn versions(&self) -> Result<Vec<(u32, StageVersion)>, DbErr> {
        versions::all(&self.session()).await
    }

    async fn newest_versions(&self) -> Result<HashMap<Stage, u32>, DbErr> {
        versions::newest(&self.session()).await
    }

    async fn dimensions(&self) -> Result<Vec<(u32, u32)>, DbErr> {
        versions::dimensions(&self.session()).await
    }

    async fn stages(&self) -> Result<Vec<StageRow>, DbErr> {
        stages::all(&self.session()).await
    }

    async fn oldest_outbox(&self) -> Result<HashMap<Stage, Micros>, DbErr> {
        outbox::oldest(&self.session()).await
    }

    async fn lock_operation(
        &self,
        tenant: TenantId,
        id: Uuid,
    ) -> Result<Option<OperationRow>, DbErr> {
        operations::lock(&self.session(), tenant, id).await
    }

    async fn lock_tus(&self, tenant: TenantId, id: Uuid) -> Result<Option<TusRow>, DbErr> {
        tus::lock(&self.session(), tenant, id).await
    }

    async fn tenancy(&self, needs: &TenancyNeeds, now: Micros) -> Result<Tenancy, DbErr> {
        tenancy::read(&self.session(), needs, now).await
    }

    async fn open(&self, tenant: TenantId, open: Open) -> Result<u64, DbErr> {
        match open {
            Open::Batches => progress::open_batches(&self.session(), tenant).await,
            Open::Operations => operations::running(&self.session(), tenant).await,
        }
    }

    async fn write_tenancy(&self, writes: &TenancyWrites) -> Result<(), DbErr> {
        tenancy::write(&self.session(), writes).await
    }

    async fn update_files(&self, rows: &[(Token, &WorkRow)], moved: Moved) -> Result<u64, DbErr> {
        work::update(&self.session(), rows, moved).await
    }

    async fn insert_manifest(
        &self,
        folders: &[(BatchRef, FolderRow)],
        files: &[FileRow],
        rows: &[WorkRow],
    ) -> Result<(), DbErr> {
        let session = self.session();
        manifest::insert_folders(&session, folders).await?;
        manifest::insert_files(&session, files).await?;
        work::insert(&session, rows).await
    }

    async fn insert_results(&self, rows: &[ResultRow]) -> Result<(), DbErr> {
        results::insert(&self.session(), rows).await
    }

    async fn insert_attempts(&self, rows: &[AttemptRow]) -> Result<(), DbErr> {
        attempts::insert(&self.session(), rows).await
    }

    async fn insert_dead_letters(&self, rows: &[AttemptRow]) -> Result<(), DbErr> {
        dead_letters::insert(&self.session(), rows).await
    }

    async fn delete_dead_letters(&self, files: &[FileRef]) -> Result<(), DbErr> {
        dead_letters::delete(&self.session(), files).await
    }

    async fn dismiss(&self, files: &[FileRef], now: Micros) -> Result<(), DbErr> {
        dead_letters::dismiss(&self.session(), files, now).await
    }

    async fn update_folders(&self, folders: &[(BatchRef, u32, FolderCounts)]) -> Result<(), DbErr> {
        manifest::update_folders(&self.session(), folders).await
    }

    async fn insert_batches(&self, batches: &[(ProgressRow, BatchRow)]) -> Result<(), DbErr> {
        progress::insert(&self.session(), batches).await
    }

    async fn update_batches(&self, rows: &[ProgressRow]) -> Result<u64, DbErr> {
        progress::update(&self.session(), rows).await
    }

    async fn set_pause(&self, row: &ProgressRow) -> Result<(), DbErr> {
        progress::set_pause(&self.session(), row).await
    }

    async fn rename(&self, batch: BatchRef, renamed: &Renamed) -> Result<(), DbErr> {
        progress::rename(&self.session(), batch, renamed).await
    }

    async fn set_times(&self, times: &[Times]) -> Result<(), DbErr> {
        progress::set_times(&self.session(), times).await
    }

    async fn update_tenants(&self, rows: &[(u64, TenantRow)]) -> Result<u64, DbErr> {
        tenants::update(&self.session(), rows).await
    }

    async fn insert_changes(&self, rows: &[ChangeRow], now: Micros) -> Result<(), DbErr> {
        changes::insert(&self.session(), rows, now).await
    }

    async fn insert_outbox(&self, rows: &[OutboxRow], now: Micros) -> Result<(), DbErr> {
        outbox::insert(&self.session(), rows, now).await
    }

    async fn delete_outbox(&self, ids: &[u64]) -> Result<(), DbErr> {
        outbox::delete(&self.session(), ids).await
    }

    async fn remember(
        &self,
        answered: &[(RequestName, AnsweredRequest)],
        now: Micros,
    ) -> Result<(), DbErr> {
        requests::remember(&self.session(), answered, now).await
    }

    async fn insert_version(
        &self,
        number: u32,
        version: &StageVersion,
        now: Micros,
    ) -> Result<(), DbErr> {
        versions::insert(&self.session(), number, version, now).await
    }

    async fn set_newest_version(&self, stage: Stage, version: u32) -> Result<(), DbErr> {
        versions::set_newest(&self.session(), stage, version).await
    }

    async fn set_dimensions(&self, number: u32, dimensions: u32) -> Result<(), DbErr> {
        versions::set_dimensions(&self.session(), number, dimensions).await
    }

    async fn set_stage(&self, row: &StageRow) -> Result<(), DbErr> {
        stages::set(&self.session(), row).await
    }

    async fn insert_operation(&self, row: &OperationRow) -> Result<(), DbErr> {
        operations::insert(&self.session(), row).await
    }

    async fn update_operation(&self, row: &OperationRow) -> Result<(), DbErr> {
        operations::update(&self.session(), row).await
    }

    async fn put_tus(&self, row: &TusRow) -> Result<(), DbErr> {
        tus::put(&self.session(), row).await
    }

    async fn delete_tus(&self, tenant: TenantId, id: Uuid) -> Result<(), DbErr> {
        tus::delete(&self.session(), tenant, id).await
    }

    async fn prune(
        &self,
        before_changes: Micros,
        before_requests: Micros,
        limit: u32,
    ) -> Result<(), DbErr> {
        let session = self.session();
        changes::prune(&session, before_changes, limit).await?;
        requests::prune(&session, before_requests, limit).await
    }

    async fn mark_collected(
        &self,
        batches: &[(BatchRef, Micros)],
        now: Micros,
    ) -> Result<(), DbErr> {
        progress::mark_collected(&self.session(), batches, now).await
    }

    async fn prune_operations(&self, before: Micros, limit: u32) -> Result<(), DbErr> {
        operations::prune(&self.session(), before, limit).await
    }

    async fn commit(self) -> Result<(), DbErr> {
        Self::commit(self).await
    }

    async fn roll_back(self) {
        Self::roll_back(self).await;
    }
}
