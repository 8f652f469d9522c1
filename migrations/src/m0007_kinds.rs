//! Of which kind a file is by its name: files of one kind and size take about as long.

use sea_orm_migration::prelude::*;

use crate::dialect::run_script;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0007_kinds"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run_script(manager, UP).await
    }
}

const UP: &str = r#"
ALTER TABLE file_work ADD COLUMN kind {int} NOT NULL DEFAULT 0; -- 0: of a name without an ending, or from before
"#;
