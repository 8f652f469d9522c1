//! The connections that write. A transaction on one of them ends in COMMIT or ROLLBACK, and both may fail: SQLite, for one,
//! has undone a transaction by itself when the disk is full, and a driver that still believes in it turns every later
//! transaction into a savepoint that nothing ever commits. So a connection whose BEGIN, COMMIT or ROLLBACK failed is never
//! used again, and the first transactions after it are proven: what they committed must be seen by another connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sea_orm::sqlx::Connection;
use sea_orm::{
    ConnectOptions, DatabaseConnection, DatabaseTransaction, DbErr, SqliteTransactionMode,
    TransactionOptions, TransactionTrait,
};
use tokio::sync::Mutex;

use super::dialect::Dialect;
use super::{Session, u64_of};

#[cfg(test)]
use super::faults::{Faults, Point};

/// How long connections that are given up may take to close. Whatever they still hold then, they lose when they come back.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// The writer's connections.
pub(super) struct WriteConnections {
    options: ConnectOptions,
    dialect: Dialect,
    open: Mutex<Open>,
    #[cfg(test)]
    faults: Option<Arc<Faults>>,
}

/// The connections in use; those before them are closed.
struct Open {
    connections: DatabaseConnection,
    trust: Arc<Trust>,
}

/// What is known of a set of connections.
#[derive(Default)]
struct Trust {
    /// A BEGIN, COMMIT or ROLLBACK failed on one of them.
    broken: AtomicBool,
    /// They were opened after trouble, and no commit of theirs has been seen by another connection yet.
    unproven: AtomicBool,
}

impl WriteConnections {
    pub(super) async fn open(mut options: ConnectOptions, dialect: Dialect) -> Result<Self, DbErr> {
        #[cfg(test)]
        let faults = Faults::planned(options.get_url());
        // At depth 0 or not at all: what would only be a savepoint of something older is refused here.
        options
            .map_sqlx_sqlite_before_acquire(|connection, _| {
                let idle = !connection.is_in_transaction();
                Box::pin(async move { Ok(idle) })
            })
            .map_sqlx_postgres_before_acquire(|connection, _| {
                let idle = !connection.is_in_transaction();
                Box::pin(async move { Ok(idle) })
            });
        Ok(Self {
            open: Mutex::new(Open {
                connections: sea_orm::Database::connect(options.clone()).await?,
                trust: Arc::default(),
            }),
            options,
            dialect,
            #[cfg(test)]
            faults,
        })
    }

    /// Begins a transaction; on connections of another set when the last one is broken.
    pub(super) async fn begin(&self, reader: &DatabaseConnection) -> Result<Transaction, DbErr> {
        let (connections, trust) = self.usable().await?;
        let ending = Ending {
            trust,
            ended: false,
        };
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.at(Point::Begin, self.dialect)?;
        }
        let immediate = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let inner = connections.begin_with_options(immediate).await?;
        let mut transaction = Transaction {
            inner,
            ending,
            dialect: self.dialect,
            proof: None,
            #[cfg(test)]
            faults: self.faults.clone(),
        };
        if transaction.ending.trust.unproven.load(Ordering::Acquire) {
            let number = stamp(&transaction.session()).await?;
            transaction.proof = Some(Proof {
                reader: reader.clone(),
                number,
            });
        }
        Ok(transaction)
    }

    async fn usable(&self) -> Result<(DatabaseConnection, Arc<Trust>), DbErr> {
        let mut open = self.open.lock().await;
        if open.trust.broken.load(Ordering::Acquire) {
            tracing::debug!("the writer's connections are given up, and others are opened");
            // SQLite lets nobody else write before the old one is gone.
            close(&open.connections).await;
            open.connections = sea_orm::Database::connect(self.options.clone()).await?;
            open.trust = Arc::new(Trust {
                broken: AtomicBool::new(false),
                unproven: AtomicBool::new(true),
            });
        }
        Ok((open.connections.clone(), open.trust.clone()))
    }

    /// The connections themselves, for what stands in no transaction.
    #[cfg(test)]
    pub(super) async fn current(&self) -> DatabaseConnection {
        self.open.lock().await.connections.clone()
    }

    pub(super) async fn close(&self) {
        close(&self.open.lock().await.connections).await;
    }
}

/// Closes connections, without waiting for long: one of them may hang on a disk or a network that does not answer.
pub(super) async fn close(connections: &DatabaseConnection) {
    match tokio::time::timeout(CLOSE_PATIENCE, connections.clone().close()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "closing the database's connections failed"),
        Err(_) => tracing::debug!("the database's connections take long to close"),
    }
}

/// Leaves a number that only this transaction can have committed. It is also what keeps the next transaction waiting at its
/// beginning, for that one locks the same row: until a set of connections is proven, groups are not written side by side.
async fn stamp(session: &Session<'_, DatabaseTransaction>) -> Result<u64, DbErr> {
    let sql = "UPDATE leadership SET proof = proof + 1 WHERE id = 1 RETURNING proof";
    let row = session.row(sql, Vec::new()).await?;
    let row = row.ok_or_else(|| DbErr::Custom("the leadership row is missing".to_owned()))?;
    u64_of(&row, "proof")
}

/// A transaction of the writer. One that is dropped without an end is an end that failed.
pub(crate) struct Transaction {
    inner: DatabaseTransaction,
    ending: Ending,
    dialect: Dialect,
    proof: Option<Proof>,
    #[cfg(test)]
    faults: Option<Arc<Faults>>,
}

/// What another connection must see after COMMIT.
struct Proof {
    reader: DatabaseConnection,
    number: u64,
}

/// Breaks the trust in a transaction's connections, unless the transaction ends well.
struct Ending {
    trust: Arc<Trust>,
    ended: bool,
}

impl Drop for Ending {
    fn drop(&mut self) {
        if !self.ended {
            self.trust.broken.store(true, Ordering::Release);
        }
    }
}

impl Transaction {
    /// For the statements of this transaction.
    pub(crate) fn session(&self) -> Session<'_, DatabaseTransaction> {
        Session {
            connection: &self.inner,
            dialect: self.dialect,
            turns: None,
            #[cfg(test)]
            faults: self.faults.as_deref(),
        }
    }

    /// Commits.
    ///
    /// # Errors
    /// It may have been committed all the same. A COMMIT that the database affirms, and that another connection does not see,
    /// is an error too.
    pub(crate) async fn commit(mut self) -> Result<(), DbErr> {
        #[cfg(test)]
        if let Some(faults) = &self.faults {
            faults.within(Point::Commit, &self.session()).await?;
        }
        self.inner.commit().await?;
        if let Some(Proof { reader, number }) = self.proof {
            let reader = Session::new(&reader, self.dialect);
            if proof_seen(&reader).await? < number {
                let words = "COMMIT was affirmed, and another connection does not see its change";
                return Err(DbErr::Conn(sea_orm::RuntimeErr::Internal(words.to_owned())));
            }
            self.ending.trust.unproven.store(false, Ordering::Release);
        }
        self.ending.ended = true;
        Ok(())
    }

    /// Gives the transaction up: nothing of it happened. Where that fails its connection is given up with it.
    pub(crate) async fn roll_back(mut self) {
        #[cfg(test)]
        if let Some(faults) = &self.faults
            && let Err(error) = faults.within(Point::Rollback, &self.session()).await
        {
            tracing::debug!(%error, "rolling back failed; the connection is given up");
            return;
        }
        match self.inner.rollback().await {
            Ok(()) => self.ending.ended = true,
            Err(error) => {
                tracing::debug!(%error, "rolling back failed; the connection is given up");
            }
        }
    }
}

async fn proof_seen(reader: &Session<'_, DatabaseConnection>) -> Result<u64, DbErr> {
    let sql = "SELECT proof FROM leadership WHERE id = 1";
    let row = reader.row(sql, Vec::new()).await?;
    row.map_or(Ok(0), |row| u64_of(&row, "proof"))
}
