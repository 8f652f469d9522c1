//! The database of a run: new, durable, and with nothing else in it.

use std::path::PathBuf;

use anyhow::Context;
use caudal_harness::Postgres;
use clap::ValueEnum;
use sea_orm::{
    ConnectOptions, ConnectionTrait, DatabaseBackend, DatabaseConnection, Statement, Value,
};
use serde_json::json;
use tempfile::TempDir;
use uuid::Uuid;

use crate::cost;

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Postgres,
    Sqlite,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Sqlite => "sqlite",
        }
    }

    pub(crate) fn backend(self) -> DatabaseBackend {
        match self {
            Self::Postgres => DatabaseBackend::Postgres,
            Self::Sqlite => DatabaseBackend::Sqlite,
        }
    }
}

/// A database, and a connection to look into it.
pub(crate) struct Database {
    pub(crate) kind: Kind,
    pub(crate) url: String,
    pub(crate) connection: DatabaseConnection,
    folder: TempDir,
    /// The process whose children serve Postgres's connections.
    postmaster: Option<u32>,
    _postgres: Option<Postgres>,
}

impl Database {
    /// Makes one. Postgres has its own defaults (every commit waits for the disk); with `counted`, it counts its statements.
    pub(crate) async fn start(kind: Kind, counted: bool) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("caudal-bench-database-")?;
        let postgres = match kind {
            Kind::Postgres if counted => Some(Postgres::start_with(&[
                "shared_preload_libraries=pg_stat_statements",
            ])?),
            Kind::Postgres => Some(Postgres::start_with(&[])?),
            Kind::Sqlite => None,
        };
        let url = match &postgres {
            Some(postgres) => postgres.url(),
            None => format!("sqlite:{}", folder.path().join("ledger.sqlite").display()),
        };
        let connection = connect(&url).await?;
        let mut database = Self {
            kind,
            url,
            connection,
            folder,
            postmaster: None,
            _postgres: postgres,
        };
        if kind == Kind::Postgres {
            let backend: i32 = database.value("SELECT pg_backend_pid() AS v").await?;
            database.postmaster = Some(cost::parent(u32::try_from(backend)?)?);
            if counted {
                database
                    .execute("CREATE EXTENSION pg_stat_statements", Vec::new())
                    .await?;
            }
        }
        Ok(database)
    }

    /// Runs a statement on the connection; how many rows it touched.
    pub(crate) async fn execute(&self, sql: &str, values: Vec<Value>) -> anyhow::Result<u64> {
        let statement = Statement::from_sql_and_values(self.kind.backend(), sql, values);
        Ok(self
            .connection
            .execute_raw(statement)
            .await?
            .rows_affected())
    }

    /// The column `v` of the one row of a query.
    pub(crate) async fn value<T: sea_orm::TryGetable>(&self, sql: &str) -> anyhow::Result<T> {
        let statement = Statement::from_string(self.kind.backend(), sql);
        let row = self.connection.query_one_raw(statement).await?;
        Ok(row.context("no row")?.try_get("", "v")?)
    }

    /// The columns `k` and `v` of a query's rows.
    pub(crate) async fn numbers(&self, sql: &str) -> anyhow::Result<Vec<(Uuid, i64)>> {
        let statement = Statement::from_string(self.kind.backend(), sql);
        let rows = self.connection.query_all_raw(statement).await?;
        let pair = |row: &sea_orm::QueryResult| Ok((row.try_get("", "k")?, row.try_get("", "v")?));
        rows.iter().map(pair).collect()
    }

    /// The process whose family is the database; none where it lives inside its user.
    pub(crate) fn postmaster(&self) -> Option<u32> {
        self.postmaster
    }

    /// Bytes on disk.
    pub(crate) async fn bytes(&self) -> anyhow::Result<u64> {
        match self.kind {
            Kind::Postgres => {
                let bytes: i64 = self
                    .value("SELECT pg_database_size(current_database()) AS v")
                    .await?;
                Ok(u64::try_from(bytes)?)
            }
            Kind::Sqlite => {
                let file = |name| -> PathBuf { self.folder.path().join(name) };
                Ok(cost::bytes_of(&[
                    file("ledger.sqlite"),
                    file("ledger.sqlite-wal"),
                ]))
            }
        }
    }

    /// Bytes written to Postgres's log so far.
    pub(crate) async fn log_bytes(&self) -> anyhow::Result<Option<u64>> {
        if self.kind == Kind::Sqlite {
            return Ok(None);
        }
        let sql = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint AS v";
        let bytes: i64 = self.value(sql).await?;
        Ok(Some(u64::try_from(bytes)?))
    }

    /// What the statements of Postgres cost, the dearest first.
    pub(crate) async fn statements(&self) -> anyhow::Result<Vec<serde_json::Value>> {
        let sql = "SELECT calls, rows, total_exec_time, wal_bytes::bigint AS wal, query FROM pg_stat_statements \
                   WHERE query NOT LIKE '%pg_stat_statements%' AND total_exec_time > 0.5 ORDER BY total_exec_time DESC LIMIT 60";
        let statement = Statement::from_string(self.kind.backend(), sql);
        let mut found = Vec::new();
        for row in self.connection.query_all_raw(statement).await? {
            let calls: i64 = row.try_get("", "calls")?;
            let rows: i64 = row.try_get("", "rows")?;
            let milliseconds: f64 = row.try_get("", "total_exec_time")?;
            let wal: i64 = row.try_get("", "wal")?;
            let query: String = row.try_get("", "query")?;
            let query = query.split_whitespace().collect::<Vec<_>>().join(" ");
            found.push(json!({"calls": calls, "rows": rows, "ms": (milliseconds * 10.0).round() / 10.0, "wal": wal, "query": query}));
        }
        Ok(found)
    }

    /// Makes Postgres forget what its statements cost.
    pub(crate) async fn forget_statements(&self) -> anyhow::Result<()> {
        self.execute("SELECT pg_stat_statements_reset()", Vec::new())
            .await?;
        Ok(())
    }
}

/// One connection, set as the ledger's own writer is.
pub(crate) async fn connect(url: &str) -> anyhow::Result<DatabaseConnection> {
    let mut options = ConnectOptions::new(url.to_owned());
    options
        .max_connections(1)
        .min_connections(1)
        .test_before_acquire(false)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(|sqlite| {
            use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
            sqlite
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .pragma("cache_size", "-65536")
                .pragma("temp_store", "memory")
                .statement_cache_capacity(256)
        });
    Ok(sea_orm::Database::connect(options).await?)
}
