//! A number that the writer leaves after trouble, so that another connection can prove that a COMMIT was one.

use sea_orm_migration::prelude::*;

use crate::dialect::run_script;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0003_proof"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run_script(
            manager,
            "ALTER TABLE leadership ADD COLUMN proof {big} NOT NULL DEFAULT 0",
        )
        .await
    }
}
