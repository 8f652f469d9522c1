//! The database schema, for SQLite and Postgres, as ordered migrations.
//!
//! Each migration is written once, in the SQL both databases share, with the few types that differ as words in
//! braces (see [`dialect`]). A file is `(tenant_id, batch_id, ordinal)`: every table clusters by batch, so that
//! snapshots, lists, recounts and erasure are range reads of the primary key.

mod dialect;
mod m0001_initial;
mod m0002_statistics;
mod m0003_proof;
mod m0004_tus;
mod m0005_audit;
mod m0006_given;
mod m0007_kinds;

use sea_orm_migration::prelude::*;

/// Runs the migrations in order. Use [`MigratorTrait::up`] with a connection of either database.
pub struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_initial::Migration),
            Box::new(m0002_statistics::Migration),
            Box::new(m0003_proof::Migration),
            Box::new(m0004_tus::Migration),
            Box::new(m0005_audit::Migration),
            Box::new(m0006_given::Migration),
            Box::new(m0007_kinds::Migration),
        ]
    }
}
