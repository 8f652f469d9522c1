//! With which upload token a file was added: it is that token's alone. And how long a key was given, whatever shortened its life
//! since: a key that replaces it is given as long. And
//! what a tenant is called for whoever reads it.

use sea_orm_migration::prelude::*;

use crate::dialect::run_script;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0006_given"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run_script(manager, UP).await
    }
}

const UP: &str = r#"
ALTER TABLE files ADD COLUMN added_by {text}; -- the id of an upload token; null: added with a key
ALTER TABLE api_keys ADD COLUMN lifetime {big}; -- microseconds from its creation; null: until it is revoked
ALTER TABLE tenants ADD COLUMN called {exact}; -- what is seen of the name: no two are called alike
UPDATE tenants SET called = lower(trim(name)) WHERE NOT EXISTS (SELECT 1 FROM tenants AS o
    WHERE o.tenant_id <> tenants.tenant_id AND lower(trim(o.name)) = lower(trim(tenants.name)));
UPDATE tenants SET called = name WHERE called IS NULL; -- those that were called alike before
CREATE UNIQUE INDEX tenants_called ON tenants (called);
UPDATE api_keys SET lifetime = expires_at - created_at WHERE expires_at IS NOT NULL;
"#;
