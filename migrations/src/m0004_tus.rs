//! Uploads that come in pieces through gateways, by the tus protocol.

use sea_orm_migration::prelude::*;

use crate::dialect::run_script;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0004_tus"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run_script(manager, UP).await
    }
}

const UP: &str = r#"
CREATE TABLE tus_uploads (
    tenant_id {uuid} NOT NULL,
    upload_id {uuid} NOT NULL,
    batch_id {uuid}, -- null: a part that is to be concatenated
    ordinal {int}, -- null while it is not known that, or how large, it is a file
    length {big}, -- null while the client does not know it
    received {big} NOT NULL, -- bytes that are in the store for good
    state {int} NOT NULL, -- 1 open, 2 whole, 3 done
    lock_number {big} NOT NULL, -- rises with each right to write that is given: the fence
    locked_until {time}, -- null: nobody writes
    expires_at {time} NOT NULL,
    due_at {time} NOT NULL, -- when somebody must look after it
    facts {bytes} NOT NULL, -- an encoded TusFacts: what gateways must know
    PRIMARY KEY (tenant_id, upload_id)
) {fill 50};
CREATE INDEX tus_uploads_open ON tus_uploads (tenant_id, state); -- what a tenant has under way
CREATE INDEX tus_uploads_due ON tus_uploads (due_at); -- the gateways' collector
"#;
