//! Who did what.

use sea_orm_migration::prelude::*;

use crate::dialect::run_script;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0005_audit"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run_script(manager, UP).await
    }
}

const UP: &str = r#"
CREATE TABLE audit (
    id {uuid} NOT NULL PRIMARY KEY, -- version 7: lists read the key backwards
    tenant_id {uuid}, -- null: of the installation itself
    at {time} NOT NULL,
    actor {text} NOT NULL, -- the words of the key
    key_id {text} NOT NULL,
    act {text} NOT NULL, -- the name of the call
    target {text} NOT NULL,
    detail {text} NOT NULL -- JSON
) {strict};
CREATE INDEX audit_of_tenant ON audit (tenant_id, id); -- a tenant's list
"#;
