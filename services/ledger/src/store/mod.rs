//! The database: connections, rows and every statement. Statements are written once for both databases; where they
//! differ is in [`dialect`] and [`page`].

pub(crate) mod attempts;
pub(crate) mod audit;
pub(crate) mod changes;
mod connections;
pub(crate) mod credentials;
pub(crate) mod dead_letters;
pub(crate) mod dialect;
pub(crate) mod failures;
#[cfg(test)]
pub(crate) mod faults;
pub(crate) mod history;
pub(crate) mod leadership;
pub(crate) mod manifest;
pub(crate) mod operations;
pub(crate) mod outbox;
pub(crate) mod page;
#[cfg(test)]
mod plans;
pub(crate) mod progress;
pub(crate) mod reads;
pub(crate) mod requests;
pub(crate) mod results;
pub(crate) mod selection;
pub(crate) mod stages;
pub(crate) mod tenancy;
pub(crate) mod tenants;
pub(crate) mod time;
pub(crate) mod trouble;
pub(crate) mod turns;
pub(crate) mod tus;
pub(crate) mod versions;
pub(crate) mod work;
pub(crate) mod write_transaction;

use std::time::Duration;

use caudal_domain::{BatchId, BatchRef, FileRef, TenantId, shown_address};
use caudal_migrations::Migrator;
use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::sqlite::SqliteConnectOptions;
use sea_orm::{
    ConnectOptions, ConnectionTrait, Database, DatabaseConnection, DbErr, QueryResult, RuntimeErr,
    Statement, TransactionSession, TransactionTrait, Value,
};
use sea_orm_migration::MigratorTrait;
use uuid::Uuid;

pub(crate) use self::connections::Transaction;
use self::connections::WriteConnections;
use self::dialect::Dialect;
use self::time::Micros;
use self::turns::{Turn, Turns};

/// Connections that readers share. SQLite's readers never wait for the writer (write-ahead log).
const READ_CONNECTIONS: u32 = 4;
/// Statements that are read for tenants at once: one connection is left to operators, services and the ledger itself.
const READS_OF_TENANTS: usize = 3;
/// The same of one tenant.
const READS_OF_A_TENANT: usize = 2;
/// Pages that SQLite keeps for a connection, as it is told: in KiB, below zero. The writer goes to the same pages again and
/// again; whoever reads a lot reads most of it once, and the system keeps it for all.
const WRITERS_PAGES: &str = "-65536";
const READERS_PAGES: &str = "-8192";
/// How long a connection may take to be made or to come free.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(8);
/// How long Postgres lets a transaction sit idle, in milliseconds; shorter than a term.
const IDLE_IN_TRANSACTION: &str = "3000";
/// What Postgres is told not to choose. Every statement here reads a page of keys or a range of an index, but a planner
/// that knows nothing yet of a table, or made its plan while the table was empty, takes it for small and walks it. With
/// these off whatever has no other way still goes, at a cost that must not be taken for a reason to compile it.
const BY_INDEX: [&str; 7] = [
    "enable_seqscan",
    "enable_bitmapscan",
    "enable_hashjoin",
    "enable_mergejoin",
    "enable_material",
    "enable_sort",
    "jit",
];
/// Postgres would plan a page anew each time, for it sees how long the page is, and that takes longer than to write a page of
/// one row. Each of the writer's statements has one right plan.
const PLANNED_ONCE: (&str, &str) = ("plan_cache_mode", "force_generic_plan");
/// What Postgres is told where a statement reads the whole range of a batch: by a bitmap of the key each page of the table
/// is read once, which takes half as long as row by row in the order of the key.
const BY_RANGE: &str = "SET LOCAL enable_bitmapscan = on; SET LOCAL enable_indexscan = off";
/// How long SQLite waits for a lock that another process (a verify, a backup) holds.
const SQLITE_BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// The database, open and migrated.
pub(crate) struct Store {
    reads: DatabaseConnection,
    /// Nobody waits to be known because others read a lot.
    credentials: DatabaseConnection,
    turns: Turns,
    writes: WriteConnections,
    dialect: Dialect,
}

impl Store {
    /// Opens `url` (`sqlite:FILE` or `postgres://…`) and brings its schema up to date.
    pub(crate) async fn open(url: &str) -> Result<Self, DbErr> {
        // The words of the driver would repeat the address, with the password in it.
        check_url(url).map_err(|error| DbErr::Conn(RuntimeErr::Internal(error.to_string())))?;
        let migrations = Database::connect(options(url, 1, &[], READERS_PAGES)).await?;
        migrate(&migrations).await?;
        let dialect = Dialect::of(migrations.get_database_backend());
        migrations.close().await?;
        let writers = if dialect.has_two_writers() { 2 } else { 1 };
        let writes = WriteConnections::open(
            options(url, writers, &[PLANNED_ONCE], WRITERS_PAGES),
            dialect,
        )
        .await?;
        let reads = Database::connect(options(url, READ_CONNECTIONS, &[], READERS_PAGES)).await?;
        let credentials = Database::connect(options(url, 1, &[], READERS_PAGES)).await?;
        Ok(Self {
            reads,
            credentials,
            turns: Turns::new(READS_OF_TENANTS, READS_OF_A_TENANT),
            writes,
            dialect,
        })
    }

    /// For reads outside the writer. They see what is committed.
    pub(crate) fn reader(&self) -> Session<'_, DatabaseConnection> {
        Session::new(&self.reads, self.dialect)
    }

    /// For what is read for a tenant: each statement waits for its turn.
    pub(crate) fn reader_of(&self, tenant: TenantId) -> Session<'_, DatabaseConnection> {
        Session {
            turns: Some((&self.turns, tenant)),
            ..self.reader()
        }
    }

    /// For the check of a credential, on a connection of its own.
    pub(crate) fn credentials(&self) -> Session<'_, DatabaseConnection> {
        Session::new(&self.credentials, self.dialect)
    }

    /// Begins a transaction of the writer.
    pub(crate) async fn begin(&self) -> Result<Transaction, DbErr> {
        self.writes.begin(&self.reads).await
    }

    pub(crate) fn dialect(&self) -> Dialect {
        self.dialect
    }

    /// Ends all connections.
    pub(crate) async fn close(&self) {
        self.writes.close().await;
        connections::close(&self.reads).await;
        connections::close(&self.credentials).await;
    }
}

/// Brings the schema up to date; on Postgres one ledger at a time, for several may start at once.
async fn migrate(connection: &DatabaseConnection) -> Result<(), DbErr> {
    // Any number that nothing else locks: the first bytes of the product's name.
    const LOCK: &str = "x'63617564'::int";
    let postgres = Dialect::of(connection.get_database_backend()) == Dialect::Postgres;
    if postgres {
        connection
            .execute_unprepared(&format!("SELECT pg_advisory_lock({LOCK})"))
            .await?;
    }
    let migrated = Migrator::up(connection, None).await;
    if postgres {
        connection
            .execute_unprepared(&format!("SELECT pg_advisory_unlock({LOCK})"))
            .await?;
    }
    migrated
}

/// An address that cannot be one of a database.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{shown}` is no address of a database, such as sqlite:FILE or postgres://USER:PASSWORD@HOST:PORT/NAME; \
     in a password write # / ? @ : and % as %23 %2F %3F %40 %3A and %25"
)]
pub struct BadDatabaseUrl {
    shown: String,
}

/// Whether `url` can be the address of a database. Nothing is opened.
///
/// # Errors
/// When it cannot, without what may be secret in it.
pub fn check_url(url: &str) -> Result<(), BadDatabaseUrl> {
    let can_be_one = match url.strip_prefix("postgres://") {
        _ if url.starts_with("sqlite:") => url.parse::<SqliteConnectOptions>().is_ok(),
        None if !url.starts_with("postgresql://") => false,
        _ => url.parse::<PgConnectOptions>().is_ok() && !is_cut_short(url),
    };
    if can_be_one {
        return Ok(());
    }
    Err(BadDatabaseUrl {
        shown: shown_address(url),
    })
}

/// Whether something is where no part of such an address can be: a password that holds `/`, `?` or `#` ends the place before
/// its time, and what follows would be taken for the name of a database, or for nothing.
fn is_cut_short(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    rest[end..].contains(['@', '#'])
}

fn options(
    url: &str,
    connections: u32,
    postgres_settings: &'static [(&str, &str)],
    sqlite_pages: &'static str,
) -> ConnectOptions {
    let mut options = ConnectOptions::new(url.to_owned());
    options
        .max_connections(connections)
        .min_connections(1)
        .connect_timeout(CONNECT_TIMEOUT)
        .acquire_timeout(CONNECT_TIMEOUT)
        .test_before_acquire(false)
        .sqlx_logging(false)
        .map_sqlx_postgres_opts(move |postgres| {
            postgres
                // A ledger stopped inside a transaction holds the leadership row shared, and whoever takes over waits for it.
                .options([("idle_in_transaction_session_timeout", IDLE_IN_TRANSACTION)])
                .options(BY_INDEX.map(|setting| (setting, "off")))
                .options(postgres_settings.iter().copied())
        })
        .map_sqlx_sqlite_opts(move |sqlite| {
            use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
            // FULL: an answered call is on disk, whatever happens to the machine next.
            sqlite
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(SQLITE_BUSY_TIMEOUT)
                .pragma("cache_size", sqlite_pages)
                .pragma("temp_store", "memory")
                .statement_cache_capacity(256)
        });
    options
}

/// A connection or transaction, with the dialect it speaks.
pub(crate) struct Session<'a, C> {
    connection: &'a C,
    pub(crate) dialect: Dialect,
    /// For whom it reads, where that goes in turn.
    turns: Option<(&'a Turns, TenantId)>,
    #[cfg(test)]
    faults: Option<&'a faults::Faults>,
}

impl<'a, C: ConnectionTrait> Session<'a, C> {
    pub(crate) fn new(connection: &'a C, dialect: Dialect) -> Self {
        Self {
            connection,
            dialect,
            turns: None,
            #[cfg(test)]
            faults: None,
        }
    }

    fn statement(&self, sql: impl Into<String>, values: Vec<Value>) -> Statement {
        let sql = sql.into();
        #[cfg(test)]
        plans::record(&sql, &values);
        Statement::from_sql_and_values(self.dialect.backend(), sql, values)
    }

    #[cfg(test)]
    async fn may_fail(&self) -> Result<(), DbErr> {
        match self.faults {
            Some(faults) => faults.within(faults::Point::Statement, self).await,
            None => Ok(()),
        }
    }

    async fn turn(&self) -> Option<Turn> {
        let (turns, tenant) = self.turns?;
        turns.of(tenant).await
    }

    /// Runs a statement; how many rows it touched.
    pub(crate) async fn execute(
        &self,
        sql: impl Into<String>,
        values: Vec<Value>,
    ) -> Result<u64, DbErr> {
        let statement = self.statement(sql, values);
        #[cfg(test)]
        self.may_fail().await?;
        let _turn = self.turn().await;
        Ok(self
            .connection
            .execute_raw(statement)
            .await?
            .rows_affected())
    }

    /// All rows of a query.
    pub(crate) async fn rows(
        &self,
        sql: impl Into<String>,
        values: Vec<Value>,
    ) -> Result<Vec<QueryResult>, DbErr> {
        let statement = self.statement(sql, values);
        #[cfg(test)]
        self.may_fail().await?;
        let _turn = self.turn().await;
        self.connection.query_all_raw(statement).await
    }

    /// All rows of a query of totals over whole ranges of a key. What it reads comes in no order.
    pub(crate) async fn rows_of_ranges(
        &self,
        sql: impl Into<String>,
        values: Vec<Value>,
    ) -> Result<Vec<QueryResult>, DbErr>
    where
        C: TransactionTrait,
    {
        let sql = sql.into();
        #[cfg(test)]
        plans::record_range();
        if self.dialect == Dialect::Sqlite {
            return self.rows(sql, values).await;
        }
        let _turn = self.turn().await;
        let transaction = self.connection.begin().await?;
        transaction.execute_unprepared(BY_RANGE).await?;
        let session = Session::new(&transaction, self.dialect);
        let rows = session.rows(sql, values).await;
        // Where it was begun inside another, the settings are taken back too.
        transaction.rollback().await?;
        rows
    }

    /// The first row of a query.
    pub(crate) async fn row(
        &self,
        sql: impl Into<String>,
        values: Vec<Value>,
    ) -> Result<Option<QueryResult>, DbErr> {
        let statement = self.statement(sql, values);
        #[cfg(test)]
        self.may_fail().await?;
        let _turn = self.turn().await;
        self.connection.query_one_raw(statement).await
    }

    /// The database's clock.
    pub(crate) async fn now(&self) -> Result<Micros, DbErr> {
        let row = self
            .row(format!("SELECT {} AS now", self.dialect.now()), Vec::new())
            .await?;
        let row = row.ok_or_else(|| DbErr::Custom("the database answered no time".into()))?;
        Ok(Micros(row.try_get("", "now")?))
    }
}

/// A column as a number that is never negative where it stands.
pub(crate) fn u32_of(row: &QueryResult, column: &str) -> Result<u32, DbErr> {
    let number: i32 = row.try_get("", column)?;
    u32::try_from(number).map_err(|_| damaged(column))
}

/// As [`u32_of`], 64 bits.
pub(crate) fn u64_of(row: &QueryResult, column: &str) -> Result<u64, DbErr> {
    let number: i64 = row.try_get("", column)?;
    u64::try_from(number).map_err(|_| damaged(column))
}

/// A column that names a member of one of the domain's closed sets.
pub(crate) fn code_of<T>(
    row: &QueryResult,
    column: &str,
    from_code: impl Fn(u8) -> Option<T>,
) -> Result<T, DbErr> {
    let number: i32 = row.try_get("", column)?;
    u8::try_from(number)
        .ok()
        .and_then(from_code)
        .ok_or_else(|| damaged(column))
}

/// A number as the databases keep it; what is stored stays far below the sign.
pub(crate) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// The columns that name a file.
pub(crate) fn file_of(row: &QueryResult) -> Result<FileRef, DbErr> {
    Ok(FileRef {
        tenant: tenant_of(row)?,
        batch: BatchId::from_uuid(uuid_of(row, "batch_id")?),
        ordinal: u32_of(row, "ordinal")?,
    })
}

/// The columns that name a batch.
pub(crate) fn batch_key_of(row: &QueryResult) -> Result<BatchRef, DbErr> {
    Ok(BatchRef::new(
        tenant_of(row)?,
        BatchId::from_uuid(uuid_of(row, "batch_id")?),
    ))
}

/// The column that names a tenant.
pub(crate) fn tenant_of(row: &QueryResult) -> Result<TenantId, DbErr> {
    Ok(TenantId::from_uuid(uuid_of(row, "tenant_id")?))
}

/// A column that holds an id.
pub(crate) fn uuid_of(row: &QueryResult, column: &str) -> Result<Uuid, DbErr> {
    row.try_get("", column)
}

/// The stored row breaks a rule that every writer keeps.
pub(crate) fn damaged(column: &str) -> DbErr {
    DbErr::Custom(format!(
        "column {column} holds a value that the ledger never writes"
    ))
}
