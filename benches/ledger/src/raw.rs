//! The peer: one process and one connection that does the same writes as the mesh, in pages, with the product's schema and
//! nothing of its services. No file is read back, no state is decided, nothing waits for anybody.
//!
//! Every page takes seven transactions: manifest, confirmation with admission, lease, and four reports. Pages follow each
//! other through them as through an assembly line, so that rows rest between two of their moves as they do in the mesh.

use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::ensure;
use caudal_domain::{
    BatchId, BatchState, FileRef, FileState, Outcome, Stage, TenantId, Token, limits, names,
};
use caudal_migrations::Migrator;
use caudal_proto::convert::{batch_state_to_proto, timestamp_from_micros};
use caudal_proto::mesh::v1::ChangeSet;
use caudal_proto::v1;
use caudal_streams::Lane;
use prost::Message as _;
use sea_orm::sea_query::ArrayType;
use sea_orm::{
    ConnectionTrait as _, DatabaseConnection, DatabaseTransaction, Statement,
    TransactionTrait as _, Value,
};
use sea_orm_migration::MigratorTrait as _;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::cost;
use crate::database::{Database, Kind, connect};
use crate::way;

/// A run of the raw loop.
pub(crate) struct RawRun {
    pub(crate) files_per_second: f64,
    /// Microseconds of Postgres's processes a file, or of this process around SQLite.
    pub(crate) database_micros: f64,
    pub(crate) figures: serde_json::Value,
}

/// What moves a page on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Manifest,
    Confirm,
    Lease,
    Report(Stage),
}

const STEPS: [Step; 7] = [
    Step::Manifest,
    Step::Confirm,
    Step::Lease,
    Step::Report(Stage::Upload),
    Step::Report(Stage::ExtractText),
    Step::Report(Stage::Embeddings),
    Step::Report(Stage::Metadata),
];

/// The stage after each that reports.
fn after(stage: Stage) -> Option<Stage> {
    let mut reports = STEPS.into_iter().filter_map(|step| match step {
        Step::Report(stage) => Some(stage),
        _ => None,
    });
    reports.find(|reported| *reported == stage)?;
    reports.next()
}

/// A column of a page.
enum Cells {
    Uuid(Vec<Uuid>),
    Int(Vec<i32>),
    Big(Vec<i64>),
    Text(Vec<String>),
    Bytes(Vec<Vec<u8>>),
}

fn int(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The FROM item `u` of a page whose parameters begin with `first`, and the WITH before the statement that it needs.
fn bind(
    kind: Kind,
    columns: Vec<(&'static str, Cells)>,
    first: usize,
) -> (String, String, Vec<Value>) {
    match kind {
        Kind::Postgres => {
            let mut names = Vec::new();
            let mut parameters = Vec::new();
            let mut values = Vec::new();
            for (position, (name, cells)) in columns.into_iter().enumerate() {
                let (of, sql_type, cells): (_, _, Vec<Value>) = match cells {
                    Cells::Uuid(cells) => (ArrayType::Uuid, "uuid", into_values(cells)),
                    Cells::Int(cells) => (ArrayType::Int, "int", into_values(cells)),
                    Cells::Big(cells) => (ArrayType::BigInt, "bigint", into_values(cells)),
                    Cells::Text(cells) => (ArrayType::String, "text", into_values(cells)),
                    Cells::Bytes(cells) => (ArrayType::Bytes, "bytea", into_values(cells)),
                };
                names.push(name);
                parameters.push(format!("${}::{sql_type}[]", first + position));
                values.push(Value::Array(of, Some(Box::new(cells))));
            }
            let from = format!(
                "unnest({}) AS u({})",
                parameters.join(", "),
                names.join(", ")
            );
            (String::new(), from, values)
        }
        Kind::Sqlite => {
            let select = columns.iter().enumerate().map(|(position, (name, cells))| {
                let cell = format!("e.value ->> {position}");
                match cells {
                    Cells::Uuid(_) | Cells::Bytes(_) => format!("unhex({cell}) AS {name}"),
                    _ => format!("{cell} AS {name}"),
                }
            });
            let select = select.collect::<Vec<_>>().join(", ");
            let with =
                format!("WITH u AS MATERIALIZED (SELECT {select} FROM json_each(${first}) AS e) ");
            (with, "u".to_owned(), vec![json(&columns).into()])
        }
    }
}

fn into_values<T: Into<Value>>(cells: Vec<T>) -> Vec<Value> {
    cells.into_iter().map(Into::into).collect()
}

fn json(columns: &[(&'static str, Cells)]) -> String {
    use std::fmt::Write as _;
    let rows = columns.first().map_or(0, |(_, cells)| match cells {
        Cells::Uuid(cells) => cells.len(),
        Cells::Int(cells) => cells.len(),
        Cells::Big(cells) => cells.len(),
        Cells::Text(cells) => cells.len(),
        Cells::Bytes(cells) => cells.len(),
    });
    let mut text = String::from("[");
    for row in 0..rows {
        text.push_str(if row == 0 { "[" } else { ",[" });
        for (position, (_, cells)) in columns.iter().enumerate() {
            if position > 0 {
                text.push(',');
            }
            // Writing to a String never fails.
            let _ = match cells {
                Cells::Uuid(cells) => write!(text, "\"{}\"", cells[row].simple()),
                Cells::Int(cells) => write!(text, "{}", cells[row]),
                Cells::Big(cells) => write!(text, "{}", cells[row]),
                Cells::Text(cells) => {
                    write!(text, "{}", serde_json::Value::from(cells[row].as_str()))
                }
                Cells::Bytes(cells) => {
                    text.push('"');
                    for byte in &cells[row] {
                        let _ = write!(text, "{byte:02x}");
                    }
                    text.push('"');
                    Ok(())
                }
            };
        }
        text.push(']');
    }
    text.push(']');
    text
}

/// How many files are in each state.
#[derive(Default)]
struct Counts {
    pending: u32,
    queued: u32,
    processing: u32,
    processed: u32,
}

/// A batch that moves along.
pub(crate) struct Loop {
    kind: Kind,
    connection: DatabaseConnection,
    tenant: Uuid,
    batch: Uuid,
    files: u32,
    counts: Counts,
    bytes_declared: i64,
    bytes_uploaded: i64,
    bytes_processed: i64,
    revision: i64,
    tenant_revision: i64,
    folders: u32,
    outbox: i64,
    /// Outbox rows that Redis would have taken by now.
    relayed: Vec<i64>,
}

impl Loop {
    /// Brings the schema into an empty database, and a tenant with the versions of its stages.
    pub(crate) async fn prepare(database: &Database, files: u32) -> anyhow::Result<Self> {
        let connection = connect(&database.url).await?;
        Migrator::up(&connection, None).await?;
        let mut prepared = Self {
            kind: database.kind,
            connection,
            tenant: Uuid::new_v4(),
            batch: Uuid::now_v7(),
            files,
            counts: Counts::default(),
            bytes_declared: 0,
            bytes_uploaded: 0,
            bytes_processed: 0,
            revision: 0,
            tenant_revision: 0,
            folders: 0,
            outbox: 0,
            relayed: Vec::new(),
        };
        let transaction = prepared.connection.begin().await?;
        prepared
            .execute(
                &transaction,
                "UPDATE leadership SET epoch = 1, holder = 'raw' WHERE id = 1",
                vec![],
            )
            .await?;
        prepared
            .execute(
                &transaction,
                "INSERT INTO tenants (tenant_id, name, limits, used_bytes, used_files, revision, created_at) \
                 VALUES ($1, 'raw', '{}', 0, 0, 0, 0)",
                vec![prepared.tenant.into()],
            )
            .await?;
        for stage in Stage::ALL {
            let code = i32::from(stage.code());
            prepared
                .execute(
                    &transaction,
                    "INSERT INTO stage_versions (version_id, stage, code, model, options, first_seen) VALUES ($1, $1, 'raw', '', '', 0)",
                    vec![code.into()],
                )
                .await?;
        }
        transaction.commit().await?;
        prepared.create_batch().await?;
        Ok(prepared)
    }

    async fn execute(
        &self,
        transaction: &DatabaseTransaction,
        sql: impl Into<String>,
        values: Vec<Value>,
    ) -> anyhow::Result<u64> {
        let statement = Statement::from_sql_and_values(self.kind.backend(), sql, values);
        Ok(transaction.execute_raw(statement).await?.rows_affected())
    }

    /// Begins a transaction as a ledger does: under the leadership, with the database's time.
    async fn begin(&self) -> anyhow::Result<(DatabaseTransaction, i64)> {
        let transaction = self.connection.begin().await?;
        let sql = match self.kind {
            Kind::Postgres => {
                "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS now FROM leadership WHERE id = 1 AND epoch = $1 FOR SHARE"
            }
            Kind::Sqlite => {
                "SELECT CAST(unixepoch('subsec') * 1000000 AS INTEGER) AS now FROM leadership WHERE id = 1 AND epoch = $1"
            }
        };
        let statement = Statement::from_sql_and_values(self.kind.backend(), sql, [1_i64.into()]);
        let row = transaction.query_one_raw(statement).await?;
        let now = match row {
            Some(row) => row.try_get("", "now")?,
            None => anyhow::bail!("somebody else leads"),
        };
        Ok((transaction, now))
    }

    fn key(&self) -> Vec<Value> {
        vec![self.tenant.into(), self.batch.into()]
    }

    /// What CreateBatch writes. From then on the loop works on this batch.
    pub(crate) async fn create_batch(&mut self) -> anyhow::Result<()> {
        self.batch = Uuid::now_v7();
        self.revision = 0;
        self.folders = 0;
        let (transaction, now) = self.begin().await?;
        let request = self.look_up_request(&transaction).await?;
        let mut values = self.key();
        values.push(now.into());
        self.execute(
            &transaction,
            "INSERT INTO batches (tenant_id, batch_id, name, options, priority, created_by, created_at) VALUES ($1, $2, '', '{}', 2, 'raw', $3)",
            values.clone(),
        )
        .await?;
        self.execute(
            &transaction,
            "INSERT INTO batch_progress (tenant_id, batch_id, state, manifest_complete, cancel_requested, \
             missing_fails, starts_when_completed, stages, priority, run, pause_by, completed_by_system, revision, \
             next_ordinal, next_folder, n_pending, n_uploading, n_uploaded, n_queued, n_processing, n_processed, \
             n_retrying, n_failed, n_cancelled, n_complete, n_partial, n_stored_only, bytes_declared, \
             bytes_uploaded, bytes_processed, changed_at, touched_at, upload_deadline, uploads_open) \
             VALUES ($1, $2, 1, false, false, false, false, 31, 2, 1, 0, false, 0, 0, 1, \
             0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, $3, $3, $3, false)",
            values,
        )
        .await?;
        self.execute(
            &transaction,
            "INSERT INTO folders (tenant_id, batch_id, folder, ancestors, path, total, processed, failed, cancelled) \
             VALUES ($1, $2, 0, $3, '', 0, 0, 0, 0)",
            vec![self.tenant.into(), self.batch.into(), Vec::<u8>::new().into()],
        )
        .await?;
        self.counts = Counts::default();
        (
            self.bytes_declared,
            self.bytes_uploaded,
            self.bytes_processed,
        ) = (0, 0, 0);
        self.finish_group(&transaction, now, ChangeSet::default())
            .await?;
        let answer = self.progress(now).encode_to_vec();
        self.remember_request(&transaction, request, "CreateBatch", answer, now)
            .await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn look_up_request(&self, transaction: &DatabaseTransaction) -> anyhow::Result<Uuid> {
        let request = Uuid::new_v4();
        let statement = Statement::from_sql_and_values(
            self.kind.backend(),
            "SELECT method, body_hash, answer FROM requests WHERE tenant_id = $1 AND request_id = $2",
            [self.tenant.into(), request.into()],
        );
        ensure!(transaction.query_one_raw(statement).await?.is_none());
        Ok(request)
    }

    async fn remember_request(
        &self,
        transaction: &DatabaseTransaction,
        request: Uuid,
        method: &str,
        answer: Vec<u8>,
        now: i64,
    ) -> anyhow::Result<()> {
        self.execute(
            transaction,
            "INSERT INTO requests (tenant_id, request_id, method, body_hash, answer, at) VALUES ($1, $2, $3, $4, $5, $6)",
            vec![
                self.tenant.into(),
                request.into(),
                method.into(),
                vec![0_u8; 32].into(),
                answer.into(),
                now.into(),
            ],
        )
        .await?;
        Ok(())
    }

    fn file(&self, ordinal: u32) -> FileRef {
        FileRef::new(
            TenantId::from_uuid(self.tenant),
            BatchId::from_uuid(self.batch),
            ordinal,
        )
    }

    fn files_of(&self, page: &Range<u32>) -> Vec<(&'static str, Cells)> {
        let rows = page.len();
        vec![
            ("t", Cells::Uuid(vec![self.tenant; rows])),
            ("b", Cells::Uuid(vec![self.batch; rows])),
            ("o", Cells::Int(page.clone().map(int).collect())),
        ]
    }

    fn folder_of(&self, ordinal: u32) -> u32 {
        let at = u64::from(ordinal) * u64::from(way::FOLDERS) / u64::from(self.files);
        // The root is 0.
        u32::try_from(at).unwrap_or_default() + 1
    }

    /// The batch as the change of a group carries it.
    fn progress(&self, now: i64) -> v1::Batch {
        let counts = &self.counts;
        v1::Batch {
            name: names::batch_name(BatchId::from_uuid(self.batch)),
            state: batch_state_to_proto(self.state()).into(),
            run: 1,
            revision: self.revision,
            counts: Some(v1::FileCounts {
                total: counts.pending + counts.queued + counts.processing + counts.processed,
                pending: counts.pending,
                queued: counts.queued,
                processing: counts.processing,
                processed: counts.processed,
                complete: counts.processed,
                ..v1::FileCounts::default()
            }),
            bytes: Some(v1::ByteCounts {
                declared: self.bytes_declared,
                uploaded: self.bytes_uploaded,
                processed: self.bytes_processed,
            }),
            update_time: Some(timestamp_from_micros(now)),
            ..v1::Batch::default()
        }
    }

    fn state(&self) -> BatchState {
        if self.counts.processed == self.files {
            BatchState::Succeeded
        } else {
            BatchState::Open
        }
    }

    /// What every group ends with: tenant, batch, change, and the outbox rows that are out.
    async fn finish_group(
        &mut self,
        transaction: &DatabaseTransaction,
        now: i64,
        mut changes: ChangeSet,
    ) -> anyhow::Result<()> {
        self.revision += 1;
        self.tenant_revision += 1;
        let counts = &self.counts;
        let total = counts.pending + counts.queued + counts.processing + counts.processed;
        self.execute(
            transaction,
            "UPDATE tenants SET revision = $2, used_bytes = $3, used_files = $4 WHERE tenant_id = $1",
            vec![
                self.tenant.into(),
                self.tenant_revision.into(),
                self.bytes_declared.into(),
                i64::from(total).into(),
            ],
        )
        .await?;
        let mut values = self.key();
        let ended = self.state().is_ended();
        values.extend([
            i32::from(self.state().code()).into(),
            self.revision.into(),
            int(total).into(),
            int(self.folders + 1).into(),
            int(counts.pending).into(),
            int(counts.queued).into(),
            int(counts.processing).into(),
            int(counts.processed).into(),
            self.bytes_declared.into(),
            self.bytes_uploaded.into(),
            self.bytes_processed.into(),
            now.into(),
            (counts.pending > 0).into(),
            ended.into(),
        ]);
        self.execute(
            transaction,
            "UPDATE batch_progress SET state = $3, revision = $4, next_ordinal = $5, next_folder = $6, n_pending = $7, \
             n_queued = $8, n_processing = $9, n_processed = $10, n_complete = $10, bytes_declared = $11, \
             bytes_uploaded = $12, bytes_processed = $13, changed_at = $14, uploads_open = $15, manifest_complete = $16 \
             WHERE tenant_id = $1 AND batch_id = $2",
            values,
        )
        .await?;
        let count = i32::try_from(changes.ordinal.len())?;
        changes.batch = Some(self.progress(now));
        self.execute(
            transaction,
            "INSERT INTO changes (tenant_id, revision, batch_id, batch_revision, at, n, body) VALUES ($1, $2, $3, $4, $5, $6, $7)",
            vec![
                self.tenant.into(),
                self.tenant_revision.into(),
                self.batch.into(),
                self.revision.into(),
                now.into(),
                count.into(),
                changes.encode_to_vec().into(),
            ],
        )
        .await?;
        if !self.relayed.is_empty() {
            let ids = std::mem::take(&mut self.relayed);
            let (with, from, values) = bind(self.kind, vec![("id", Cells::Big(ids))], 1);
            let sql = format!("{with}DELETE FROM outbox WHERE id IN (SELECT id FROM {from})");
            self.execute(transaction, sql, values).await?;
        }
        Ok(())
    }

    async fn dispatch(
        &mut self,
        transaction: &DatabaseTransaction,
        stage: Stage,
        page: &Range<u32>,
        token: u64,
        now: i64,
    ) -> anyhow::Result<()> {
        self.outbox += 1;
        let files: Vec<(FileRef, Token)> = page
            .clone()
            .map(|ordinal| (self.file(ordinal), Token::new(token)))
            .collect();
        let body = caudal_streams::encode(&files, Lane::Regular, now / 1_000).to_vec();
        self.execute(
            transaction,
            "INSERT INTO outbox (id, stage, at, body) VALUES ($1, $2, $3, $4)",
            vec![
                self.outbox.into(),
                i32::from(stage.code()).into(),
                now.into(),
                body.into(),
            ],
        )
        .await?;
        Ok(())
    }

    /// Adds to a counter of the folders of a page and of the root.
    async fn count_in_folders(
        &self,
        transaction: &DatabaseTransaction,
        page: &Range<u32>,
        counter: &str,
    ) -> anyhow::Result<()> {
        let mut folders = vec![(0, int(u32::try_from(page.len())?))];
        for ordinal in page.clone() {
            let folder = int(self.folder_of(ordinal));
            match folders.last_mut() {
                Some((last, count)) if *last == folder => *count += 1,
                _ => folders.push((folder, 1)),
            }
        }
        let rows = folders.len();
        let columns = vec![
            ("t", Cells::Uuid(vec![self.tenant; rows])),
            ("b", Cells::Uuid(vec![self.batch; rows])),
            (
                "f",
                Cells::Int(folders.iter().map(|(folder, _)| *folder).collect()),
            ),
            (
                "n",
                Cells::Int(folders.iter().map(|(_, count)| *count).collect()),
            ),
        ];
        let (with, from, values) = bind(self.kind, columns, 1);
        let sql = format!(
            "{with}UPDATE folders AS d SET {counter} = d.{counter} + u.n FROM {from} \
             WHERE d.tenant_id = u.t AND d.batch_id = u.b AND d.folder = u.f"
        );
        ensure!(self.execute(transaction, sql, values).await? == rows as u64);
        Ok(())
    }

    async fn step(&mut self, step: Step, page: &Range<u32>) -> anyhow::Result<()> {
        match step {
            Step::Manifest => self.manifest(page).await,
            Step::Confirm => self.confirm(page).await,
            Step::Lease => self.lease(page).await,
            Step::Report(stage) => self.report(stage, page).await,
        }
    }

    /// What AddEntries writes.
    pub(crate) async fn manifest(&mut self, page: &Range<u32>) -> anyhow::Result<()> {
        let rows = page.len();
        let (transaction, now) = self.begin().await?;
        let request = self.look_up_request(&transaction).await?;
        let new_folders: Vec<u32> = {
            let mut folders: Vec<u32> = page
                .clone()
                .map(|ordinal| self.folder_of(ordinal))
                .filter(|folder| *folder > self.folders)
                .collect();
            folders.dedup();
            folders
        };
        if let Some(last) = new_folders.last() {
            self.folders = *last;
            let rows = new_folders.len();
            let path = |folder: &u32| format!("folder-{:03}", folder - 1);
            let columns = vec![
                ("t", Cells::Uuid(vec![self.tenant; rows])),
                ("b", Cells::Uuid(vec![self.batch; rows])),
                (
                    "f",
                    Cells::Int(new_folders.iter().copied().map(int).collect()),
                ),
                ("ancestors", Cells::Bytes(vec![vec![0; 4]; rows])),
                ("path", Cells::Text(new_folders.iter().map(path).collect())),
            ];
            let (with, from, values) = bind(self.kind, columns, 1);
            let sql = format!(
                "{with}INSERT INTO folders (tenant_id, batch_id, folder, ancestors, path, total, processed, failed, cancelled) \
                 SELECT u.t, u.b, u.f, u.ancestors, u.path, 0, 0, 0, 0 FROM {from}"
            );
            self.execute(&transaction, sql, values).await?;
        }
        let folders: Vec<i32> = page
            .clone()
            .map(|ordinal| int(self.folder_of(ordinal)))
            .collect();
        let mut columns = self.files_of(page);
        let name = |number: u32| format!("file-{number:07}.txt");
        columns.extend([
            ("f", Cells::Int(folders.clone())),
            ("name", Cells::Text(page.clone().map(name).collect())),
            ("size", Cells::Big(vec![way::FILE_BYTES; rows])),
        ]);
        let (with, from, values) = bind(self.kind, columns, 2);
        let sql = format!(
            "{with}INSERT INTO files (tenant_id, batch_id, ordinal, folder, name, size, created_at) \
             SELECT u.t, u.b, u.o, u.f, u.name, u.size, $1 FROM {from}"
        );
        self.execute(&transaction, sql, with_first(now, values))
            .await?;
        let mut columns = self.files_of(page);
        columns.extend([
            ("f", Cells::Int(folders)),
            ("size", Cells::Big(vec![way::FILE_BYTES; rows])),
        ]);
        let (with, from, values) = bind(self.kind, columns, 2);
        let sql = format!(
            "{with}INSERT INTO file_work (tenant_id, batch_id, ordinal, state, stage, token, generation, fails, \
             kills, target, changed_at, outcome, reason, folder, size) \
             SELECT u.t, u.b, u.o, {}, {}, 1, 1, 0, 0, 1, $1, 0, 0, u.f, u.size FROM {from}",
            FileState::Pending.code(),
            Stage::Upload.code()
        );
        self.execute(&transaction, sql, with_first(now, values))
            .await?;
        self.count_in_folders(&transaction, page, "total").await?;
        self.counts.pending += u32::try_from(rows)?;
        self.bytes_declared += way::FILE_BYTES * i64::try_from(rows)?;
        let mut changes = ChangeSet::default();
        for ordinal in page.clone() {
            push(
                &mut changes,
                ordinal,
                0,
                FileState::Pending.code(),
                Stage::Upload,
            );
        }
        self.finish_group(&transaction, now, changes).await?;
        let answer = v1::AddEntriesResponse {
            first_ordinal: page.start,
            new_count: u32::try_from(rows)?,
            ..v1::AddEntriesResponse::default()
        };
        self.remember_request(
            &transaction,
            request,
            "AddEntries",
            answer.encode_to_vec(),
            now,
        )
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    /// What ConfirmUploads writes where the upload stage has room.
    pub(crate) async fn confirm(&mut self, page: &Range<u32>) -> anyhow::Result<()> {
        let rows = page.len();
        let (transaction, now) = self.begin().await?;
        let request = self.look_up_request(&transaction).await?;
        let mut columns = self.files_of(page);
        let etag = |ordinal: u32| format!("{ordinal:032x}");
        columns.extend([
            ("token", Cells::Big(vec![1; rows])),
            ("etag", Cells::Text(page.clone().map(etag).collect())),
        ]);
        let (with, from, values) = bind(self.kind, columns, 2);
        let sql = format!(
            "{with}UPDATE file_work AS w SET token = w.token + 1, state = {}, etag = u.etag, dispatched_at = $1, \
             changed_at = $1 FROM {from} WHERE {BY_KEY}",
            FileState::Queued.code()
        );
        ensure!(
            self.execute(&transaction, sql, with_first(now, values))
                .await?
                == rows as u64
        );
        let count = u32::try_from(rows)?;
        self.counts.pending -= count;
        self.counts.queued += count;
        self.bytes_uploaded += way::FILE_BYTES * i64::from(count);
        let mut changes = ChangeSet::default();
        for ordinal in page.clone() {
            for (from, to) in [
                (FileState::Pending, FileState::Uploading),
                (FileState::Uploading, FileState::Uploaded),
                (FileState::Uploaded, FileState::Queued),
            ] {
                push(&mut changes, ordinal, from.code(), to.code(), Stage::Upload);
            }
        }
        self.dispatch(&transaction, Stage::Upload, page, 2, now)
            .await?;
        let sent = self.outbox;
        self.finish_group(&transaction, now, changes).await?;
        let confirmation = |ordinal| v1::Confirmation {
            ordinal,
            result: Some(v1::confirmation::Result::State(
                v1::FileState::Queued.into(),
            )),
        };
        let answer = v1::ConfirmUploadsResponse {
            confirmations: page.clone().map(confirmation).collect(),
        };
        self.remember_request(
            &transaction,
            request,
            "ConfirmUploads",
            answer.encode_to_vec(),
            now,
        )
        .await?;
        transaction.commit().await?;
        self.relayed.push(sent);
        Ok(())
    }

    async fn lease(&mut self, page: &Range<u32>) -> anyhow::Result<()> {
        let rows = page.len();
        let (transaction, now) = self.begin().await?;
        let mut columns = self.files_of(page);
        columns.push(("token", Cells::Big(vec![2; rows])));
        let (with, from, values) = bind(self.kind, columns, 2);
        let sql = format!(
            "{with}UPDATE file_work AS w SET state = {}, changed_at = $1 FROM {from} WHERE {BY_KEY}",
            FileState::Processing.code()
        );
        ensure!(
            self.execute(&transaction, sql, with_first(now, values))
                .await?
                == rows as u64
        );
        let count = u32::try_from(rows)?;
        self.counts.queued -= count;
        self.counts.processing += count;
        let mut changes = ChangeSet::default();
        let (queued, processing) = (FileState::Queued.code(), FileState::Processing.code());
        for ordinal in page.clone() {
            push(&mut changes, ordinal, queued, processing, Stage::Upload);
        }
        self.finish_group(&transaction, now, changes).await?;
        transaction.commit().await?;
        Ok(())
    }

    async fn report(&mut self, stage: Stage, page: &Range<u32>) -> anyhow::Result<()> {
        let rows = page.len();
        let token = STEPS
            .iter()
            .skip_while(|step| **step != Step::Lease)
            .position(|step| *step == Step::Report(stage));
        let token = 1 + i64::try_from(token.unwrap_or_default())?;
        let (transaction, now) = self.begin().await?;
        let next = after(stage);
        let moved = match next {
            Some(next) => format!("stage = {}, dispatched_at = $1", next.code()),
            None => format!(
                "state = {}, outcome = {}, dispatched_at = NULL",
                FileState::Processed.code(),
                Outcome::Complete.code()
            ),
        };
        let mut columns = self.files_of(page);
        columns.push(("token", Cells::Big(vec![token; rows])));
        let (with, from, values) = bind(self.kind, columns, 2);
        let sql = format!(
            "{with}UPDATE file_work AS w SET token = w.token + 1, {moved}, changed_at = $1 FROM {from} WHERE {BY_KEY}"
        );
        ensure!(
            self.execute(&transaction, sql, with_first(now, values))
                .await?
                == rows as u64
        );

        let mut columns = self.files_of(page);
        let nonce = |ordinal: u32| format!("{ordinal:08x}");
        columns.push(("nonce", Cells::Text(page.clone().map(nonce).collect())));
        let (mut content, mut media_type) = ("NULL", "NULL");
        if stage == Stage::Upload {
            (content, media_type) = ("u.content", "'text/plain'");
            let digests = page.clone().map(|ordinal| {
                let mut digest = Sha256::new();
                digest.update(self.batch.as_bytes());
                digest.update(ordinal.to_be_bytes());
                digest.finalize().to_vec()
            });
            columns.push(("content", Cells::Bytes(digests.collect())));
        }
        let (with, from, values) = bind(self.kind, columns, 2);
        let sql = format!(
            "{with}INSERT INTO stage_results (tenant_id, batch_id, ordinal, generation, stage, version_id, content, media_type, \
             token, nonce, artifacts, facts, has_text, warnings, used_bytes, used_pages, used_tokens, used_calls, skipped, at) \
             SELECT u.t, u.b, u.o, 1, {code}, {code}, {content}, {media_type}, {token}, u.nonce, '[]', '{{}}', {has_text}, '[]', \
             0, 0, 0, 0, false, $1 FROM {from}",
            code = stage.code(),
            has_text = stage == Stage::ExtractText
        );
        self.execute(&transaction, sql, with_first(now, values))
            .await?;

        let processing = FileState::Processing.code();
        let to = match next {
            Some(_) => processing,
            None => FileState::Processed.code(),
        };
        let mut changes = ChangeSet::default();
        for ordinal in page.clone() {
            push(&mut changes, ordinal, processing, to, next.unwrap_or(stage));
        }
        let mut sent = None;
        match next {
            Some(next) => {
                let token = u64::try_from(token)? + 1;
                self.dispatch(&transaction, next, page, token, now).await?;
                sent = Some(self.outbox);
            }
            None => {
                let count = u32::try_from(rows)?;
                self.counts.processing -= count;
                self.counts.processed += count;
                self.bytes_processed += way::FILE_BYTES * i64::from(count);
                self.count_in_folders(&transaction, page, "processed")
                    .await?;
            }
        }
        self.finish_group(&transaction, now, changes).await?;
        if self.state().is_ended() {
            let mut values = self.key();
            values.push(now.into());
            self.execute(
                &transaction,
                "UPDATE batches SET completed_at = $3, ended_at = $3 WHERE tenant_id = $1 AND batch_id = $2",
                values,
            )
            .await?;
        }
        transaction.commit().await?;
        self.relayed.extend(sent);
        Ok(())
    }
}

impl Loop {
    /// Makes all files of the batch at once, as they stand when they have arrived and wait for the upload stage. Their
    /// changes count as pruned.
    pub(crate) async fn insert_waiting(&mut self) -> anyhow::Result<()> {
        let files = self.files;
        let numbers = match self.kind {
            Kind::Postgres => format!("generate_series(0, {files} - 1) AS n(o)"),
            Kind::Sqlite => format!(
                "(WITH RECURSIVE r(o) AS (SELECT 0 UNION ALL SELECT o + 1 FROM r WHERE o + 1 < {files}) SELECT o FROM r) AS n"
            ),
        };
        let bytes = way::FILE_BYTES * i64::from(files);
        let (transaction, now) = self.begin().await?;
        let mut values = self.key();
        values.push(vec![0_u8; 4].into());
        let sql = format!(
            "INSERT INTO folders (tenant_id, batch_id, folder, ancestors, path, total, processed, failed, cancelled) \
             VALUES ($1, $2, 1, $3, 'waiting', {files}, 0, 0, 0)"
        );
        self.execute(&transaction, sql, values).await?;
        let sql = format!(
            "UPDATE folders SET total = {files} WHERE tenant_id = $1 AND batch_id = $2 AND folder = 0"
        );
        self.execute(&transaction, sql, self.key()).await?;
        let mut values = self.key();
        values.push(now.into());
        let sql = format!(
            "INSERT INTO files (tenant_id, batch_id, ordinal, folder, name, size, created_at) \
             SELECT $1, $2, n.o, 1, 'file-' || n.o || '.txt', {}, $3 FROM {numbers}",
            way::FILE_BYTES
        );
        self.execute(&transaction, sql, values.clone()).await?;
        let sql = format!(
            "INSERT INTO file_work (tenant_id, batch_id, ordinal, state, stage, token, generation, fails, kills, target, \
             etag, wait_stage, ready_at, changed_at, outcome, reason, folder, size) \
             SELECT $1, $2, n.o, {}, {stage}, 2, 1, 0, 0, 1, 'none', {stage}, $3, $3, 0, 0, 1, {} FROM {numbers}",
            FileState::Uploaded.code(),
            way::FILE_BYTES,
            stage = Stage::Upload.code()
        );
        self.execute(&transaction, sql, values).await?;
        self.execute(&transaction, "DELETE FROM changes", Vec::new())
            .await?;
        self.folders = 1;
        (self.bytes_declared, self.bytes_uploaded) = (bytes, bytes);
        self.finish_group(&transaction, now, ChangeSet::default())
            .await?;
        let sql = format!(
            "UPDATE batch_progress SET n_uploaded = {files}, next_ordinal = {files} WHERE tenant_id = $1 AND batch_id = $2"
        );
        self.execute(&transaction, sql, self.key()).await?;
        transaction.commit().await?;
        Ok(())
    }
}

/// The join of a page with the primary key, and the fence.
const BY_KEY: &str =
    "w.tenant_id = u.t AND w.batch_id = u.b AND w.ordinal = u.o AND w.token + 0 = u.token";

fn with_first(now: i64, values: Vec<Value>) -> Vec<Value> {
    let mut all = vec![now.into()];
    all.extend(values);
    all
}

fn push(changes: &mut ChangeSet, ordinal: u32, from: u8, to: u8, stage: Stage) {
    changes.ordinal.push(ordinal);
    changes.from.push(from.into());
    changes.to.push(to.into());
    changes.stage.push(stage.code().into());
    let in_stage = to == FileState::Queued.code() || to == FileState::Processing.code();
    let detail = if in_stage {
        stage.code()
    } else if to == FileState::Processed.code() {
        Outcome::Complete.code()
    } else {
        0
    };
    changes.detail.push(detail.into());
}

/// Runs the loop once on a new database, and has the product check what it wrote.
pub(crate) async fn run(
    caudal: Option<&std::path::Path>,
    kind: Kind,
    files: u32,
    page: u32,
) -> anyhow::Result<RawRun> {
    ensure!(page as usize <= limits::MAX_ENTRIES_PER_PAGE);
    let database = Database::start(kind, false).await?;
    let mut work = Loop::prepare(&database, files).await?;
    let pages: Vec<Range<u32>> = (0..files)
        .step_by(page as usize)
        .map(|from| from..files.min(from + page))
        .collect();
    let family = |database: &Database| match database.postmaster() {
        Some(postmaster) => cost::cpu_of_family(postmaster),
        None => Ok(Duration::ZERO),
    };
    let log_before = database.log_bytes().await?;
    let (database_before, own_before) = (family(&database)?, cost::cpu(std::process::id())?);
    let begun = Instant::now();
    for tick in 0..pages.len() + STEPS.len() - 1 {
        // The page that is farthest along first: what it frees is then free for those behind it.
        for (position, step) in STEPS.iter().enumerate().rev() {
            if let Some(page) = tick.checked_sub(position).and_then(|at| pages.get(at)) {
                work.step(*step, page).await?;
            }
        }
    }
    let took = begun.elapsed();
    let own = cost::cpu(std::process::id())?.saturating_sub(own_before);
    let of_database = family(&database)?.saturating_sub(database_before);
    let log_bytes = match (database.log_bytes().await?, log_before) {
        (Some(now), Some(before)) => Some((now - before) / u64::from(files)),
        _ => None,
    };
    let commits = pages.len() * STEPS.len();
    let done: i64 = database
        .value("SELECT count(*) AS v FROM file_work WHERE state = 6 AND outcome = 1")
        .await?;
    ensure!(
        done == i64::from(files),
        "{done} of {files} files ended well"
    );
    let bytes = database.bytes().await?;
    work.connection.clone().close().await?;
    crate::mesh::verify(caudal, &database.url, None, files).await?;

    let micros = |spent: Duration| (spent.as_secs_f64() * 1e7 / f64::from(files)).round() / 10.0;
    let database_micros = match kind {
        Kind::Postgres => micros(of_database),
        Kind::Sqlite => micros(own),
    };
    let files_per_second = f64::from(files) / took.as_secs_f64();
    Ok(RawRun {
        files_per_second,
        database_micros,
        figures: serde_json::json!({
            "files_per_second": files_per_second.round(),
            "seconds": took.as_secs_f64(),
            "cpu_micros_a_file": {"postgres": micros(of_database), "loop": micros(own)},
            "commits": commits,
            "database_bytes": bytes,
            "wal_bytes_a_file": log_bytes,
        }),
    })
}
