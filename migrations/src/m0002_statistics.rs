//! What Postgres is told of tables that are still empty.
//!
//! `files` and `folders` each have two indexes that begin with tenant and batch. A planner that knows nothing of a table
//! takes tenant and batch for so selective that the rest of the key does not matter: it reads all files of a batch for
//! each one, and a plan that was made while the table was empty stays. So rows of one batch are inserted, analysed and
//! truncated: the statistics stay until autovacuum makes better ones of real rows.

use sea_orm_migration::prelude::*;
use sea_orm_migration::sea_orm::{ConnectionTrait, DatabaseBackend};

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0002_statistics"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let connection = manager.get_connection();
        if connection.get_database_backend() == DatabaseBackend::Postgres {
            for statement in STATISTICS {
                connection.execute_unprepared(statement).await?;
            }
        }
        Ok(())
    }
}

/// A table that has rows is left alone.
const STATISTICS: [&str; 2] = [
    "DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM files) THEN \
     INSERT INTO files (tenant_id, batch_id, ordinal, folder, name, size, created_at) \
     SELECT '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', n, n % 50, 'file ' || n, 0, 0 \
     FROM generate_series(1, 2000) AS s(n); \
     ANALYZE files; TRUNCATE files; END IF; END $$",
    "DO $$ BEGIN IF NOT EXISTS (SELECT 1 FROM folders) THEN \
     INSERT INTO folders (tenant_id, batch_id, folder, ancestors, path, total, processed, failed, cancelled) \
     SELECT '00000000-0000-0000-0000-000000000000', '00000000-0000-0000-0000-000000000000', n, '', 'folder ' || n, 0, 0, 0, 0 \
     FROM generate_series(1, 2000) AS s(n); \
     ANALYZE folders; TRUNCATE folders; END IF; END $$",
];
