//! The tables of a first installation.

use sea_orm_migration::prelude::*;

use crate::dialect::run_script;

pub(crate) struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0001_initial"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        run_script(manager, UP).await
    }
}

/// Which query each index serves stands beside it. No index may name a column that a hop changes: on Postgres it
/// would make every hop write all indexes anew (no HOT update). What waits is therefore indexed by `wait_stage`,
/// a column of its own that is null while nothing waits.
const UP: &str = r#"
CREATE TABLE leadership (
    id {int} NOT NULL PRIMARY KEY,
    epoch {big} NOT NULL,
    holder {text} NOT NULL,
    address {text} NOT NULL,
    until {time} NOT NULL
) {strict};
INSERT INTO leadership (id, epoch, holder, address, until) VALUES (1, 0, '', '', 0);

CREATE TABLE tenants (
    tenant_id {uuid} NOT NULL PRIMARY KEY,
    name {exact} NOT NULL,
    limits {text} NOT NULL, -- JSON, absent members mean the default
    weight {int} NOT NULL DEFAULT 1, -- its share where several tenants wait
    paused_by {text},
    pause_note {text},
    paused_at {time},
    used_bytes {big} NOT NULL,
    used_files {big} NOT NULL,
    used_folders {big} NOT NULL DEFAULT 0,
    revision {big} NOT NULL,
    created_at {time} NOT NULL,
    closed_at {time} -- no key is good any more
) {fill 50};
CREATE UNIQUE INDEX tenants_name ON tenants (name); -- made once, found by name

CREATE TABLE api_keys (
    id {exact} NOT NULL PRIMARY KEY, -- stands in the key's text
    tenant_id {uuid}, -- null: an operator's
    role {text} NOT NULL,
    batch_id {uuid},
    secret_sha256 {bytes} NOT NULL,
    name {text} NOT NULL,
    created_at {time} NOT NULL,
    expires_at {time},
    revoked_at {time},
    last_used_at {time}, -- moves at most every ten minutes
    max_files {big}, -- an upload token's; null: no bound
    max_bytes {big},
    used_files {big} NOT NULL DEFAULT 0,
    used_bytes {big} NOT NULL DEFAULT 0
) {clustered};
CREATE INDEX api_keys_of_tenant ON api_keys (tenant_id, created_at, id); -- lists
CREATE INDEX api_keys_of_operators ON api_keys (created_at, id) WHERE tenant_id IS NULL; -- the same for operators

CREATE TABLE batches (
    tenant_id {uuid} NOT NULL,
    batch_id {uuid} NOT NULL, -- version 7: ListBatches reads the key backwards
    name {text} NOT NULL,
    options {text} NOT NULL, -- JSON
    metadata {json}, -- the caller's
    priority {int} NOT NULL,
    created_by {text} NOT NULL,
    created_at {time} NOT NULL,
    completed_at {time},
    ended_at {time},
    collected_at {time}, -- looked through for objects that nothing reaches, since it ended
    PRIMARY KEY (tenant_id, batch_id)
) {clustered};
CREATE INDEX batches_uncollected ON batches (ended_at) WHERE collected_at IS NULL AND ended_at IS NOT NULL;

CREATE TABLE batch_progress (
    tenant_id {uuid} NOT NULL,
    batch_id {uuid} NOT NULL,
    state {int} NOT NULL,
    manifest_complete {bool} NOT NULL,
    cancel_requested {bool} NOT NULL,
    missing_fails {bool} NOT NULL, -- completed with missing = FAIL: what has not arrived becomes FAILED
    starts_when_completed {bool} NOT NULL,
    stages {int} NOT NULL, -- bit set of the stages asked for
    priority {int} NOT NULL,
    run {int} NOT NULL,
    pause_by {int} NOT NULL, -- 0: not paused
    pause_who {text},
    pause_note {text},
    pause_at {time},
    completed_by_system {bool} NOT NULL,
    revision {big} NOT NULL,
    next_ordinal {int} NOT NULL,
    next_folder {int} NOT NULL, -- the root is 0
    n_pending {int} NOT NULL,
    n_uploading {int} NOT NULL,
    n_uploaded {int} NOT NULL,
    n_queued {int} NOT NULL,
    n_processing {int} NOT NULL,
    n_processed {int} NOT NULL,
    n_retrying {int} NOT NULL,
    n_failed {int} NOT NULL,
    n_cancelled {int} NOT NULL,
    n_complete {int} NOT NULL,
    n_partial {int} NOT NULL,
    n_stored_only {int} NOT NULL,
    bytes_declared {big} NOT NULL,
    bytes_uploaded {big} NOT NULL,
    bytes_processed {big} NOT NULL,
    changed_at {time} NOT NULL,
    touched_at {time} NOT NULL, -- by a client; moves at most once a minute
    upload_deadline {time} NOT NULL, -- moves at most once a minute
    uploads_open {bool} NOT NULL,
    PRIMARY KEY (tenant_id, batch_id)
) {fill 50};
CREATE INDEX batch_progress_idle ON batch_progress (touched_at) WHERE state = 1; -- idle OPEN batches
CREATE INDEX batch_progress_open ON batch_progress (tenant_id) WHERE state = 1; -- how many a tenant has open
CREATE INDEX batch_progress_live ON batch_progress (state) WHERE state IN (1, 2); -- start of the dispatcher

CREATE TABLE folders (
    tenant_id {uuid} NOT NULL,
    batch_id {uuid} NOT NULL,
    folder {int} NOT NULL,
    ancestors {bytes} NOT NULL, -- little-endian u32 each, root first, without itself
    path {exact} NOT NULL, -- '' for the root
    total {int} NOT NULL,
    processed {int} NOT NULL,
    failed {int} NOT NULL,
    cancelled {int} NOT NULL,
    PRIMARY KEY (tenant_id, batch_id, folder)
) {fill 60};
CREATE UNIQUE INDEX folders_path ON folders (tenant_id, batch_id, path); -- AddEntries, subtree as a range

CREATE TABLE files (
    tenant_id {uuid} NOT NULL,
    batch_id {uuid} NOT NULL,
    ordinal {int} NOT NULL,
    folder {int} NOT NULL,
    name {exact} NOT NULL,
    size {big} NOT NULL,
    declared_sha256 {bytes},
    metadata {json}, -- the caller's
    modified_at {time},
    created_at {time} NOT NULL,
    PRIMARY KEY (tenant_id, batch_id, ordinal)
) {clustered};
CREATE UNIQUE INDEX files_name ON files (tenant_id, batch_id, folder, name); -- duplicate path, list of a folder

CREATE TABLE file_work (
    tenant_id {uuid} NOT NULL,
    batch_id {uuid} NOT NULL,
    ordinal {int} NOT NULL,
    state {int} NOT NULL,
    stage {int} NOT NULL, -- it is in, waits for or failed in
    folder {int} NOT NULL,
    token {big} NOT NULL, -- the only fence: rises in every write that changes who may act, never reset
    changed_at {time} NOT NULL,
    size {big} NOT NULL,
    generation {int} NOT NULL,
    fails {int} NOT NULL,
    kills {int} NOT NULL,
    target {int} NOT NULL, -- number of the landing key, only rises
    outcome {int} NOT NULL, -- 0: none
    reason {int} NOT NULL, -- 0: none
    wait_stage {int}, -- null: not waiting
    ready_at {time},
    dispatched_at {time}, -- set: a dispatch with the current token is out
    lease_until {time}, -- null until the first renewal
    etag {text},
    PRIMARY KEY (tenant_id, batch_id, ordinal)
) {fill 35};
CREATE INDEX file_work_ready ON file_work (wait_stage, tenant_id, batch_id, ready_at) WHERE wait_stage IS NOT NULL; -- dispatcher

CREATE TABLE stage_versions (
    version_id {int} NOT NULL PRIMARY KEY,
    stage {int} NOT NULL,
    code {text} NOT NULL,
    model {text} NOT NULL,
    options {text} NOT NULL,
    dimensions {int}, -- length of the vectors that it was first recorded with
    first_seen {time} NOT NULL
) {strict};
CREATE UNIQUE INDEX stage_versions_content ON stage_versions (stage, code, model, options); -- found by what it is

CREATE TABLE stage_results (
    tenant_id {uuid} NOT NULL,
    batch_id {uuid} NOT NULL,
    ordinal {int} NOT NULL,
    generation {int} NOT NULL,
    stage {int} NOT NULL,
    version_id {int}, -- null: skipped
    content {bytes}, -- sha256; upload stage only
    media_type {text}, -- upload stage only
    token {big} NOT NULL,
    nonce {text} NOT NULL,
    artifacts {text} NOT NULL, -- JSON: names, sizes, media types
    facts {json} NOT NULL, -- metadata stage: the final record
    warnings {text} NOT NULL, -- JSON
    used_bytes {big} NOT NULL,
    used_pages {big} NOT NULL,
    used_tokens {big} NOT NULL,
    used_calls {big} NOT NULL,
    source_batch {uuid}, -- set when reused: always the original maker
    source_ordinal {int},
    source_generation {int},
    source_token {big},
    source_nonce {text},
    skipped {bool} NOT NULL,
    has_text {bool} NOT NULL, -- the stage made text that can be embedded: decides the next hop when it is reused
    at {time} NOT NULL,
    PRIMARY KEY (tenant_id, batch_id, ordinal, generation, stage)
) {clustered};
CREATE INDEX stage_results_held ON stage_results (tenant_id, content) WHERE stage = 1; -- already held, shared artifacts

CREATE TABLE attempts (
    tenant_id {uuid} NOT NULL,
    batch_id {uuid} NOT NULL,
    ordinal {int} NOT NULL,
    token {big} NOT NULL,
    stage {int} NOT NULL,
    reason {int} NOT NULL,
    detail {text} NOT NULL,
    trace_id {text} NOT NULL,
    ended_at {time} NOT NULL,
    PRIMARY KEY (tenant_id, batch_id, ordinal, token)
) {clustered};

CREATE TABLE dead_letters (
    tenant_id {uuid} NOT NULL,
    batch_id {uuid} NOT NULL,
    ordinal {int} NOT NULL,
    stage {int} NOT NULL,
    reason {int} NOT NULL,
    token {big} NOT NULL,
    detail {text} NOT NULL,
    at {time} NOT NULL,
    dismissed_at {time},
    PRIMARY KEY (tenant_id, batch_id, ordinal)
) {clustered};
CREATE INDEX dead_letters_groups ON dead_letters (tenant_id, reason, stage) WHERE dismissed_at IS NULL; -- a tenant's groups
CREATE INDEX dead_letters_all ON dead_letters (reason, stage) WHERE dismissed_at IS NULL; -- the operator's groups
CREATE INDEX dead_letters_without_bytes ON dead_letters (at, tenant_id, batch_id, ordinal) WHERE reason IN (101, 106); -- looked for again

CREATE TABLE changes (
    tenant_id {uuid} NOT NULL,
    revision {big} NOT NULL,
    batch_id {uuid} NOT NULL,
    batch_revision {big} NOT NULL,
    at {time} NOT NULL,
    n {int} NOT NULL,
    body {bytes} NOT NULL,
    PRIMARY KEY (tenant_id, revision)
) {clustered};
CREATE UNIQUE INDEX changes_of_batch ON changes (tenant_id, batch_id, batch_revision); -- ListChanges
CREATE INDEX changes_age ON changes (at); -- pruning
--postgres ALTER TABLE changes ALTER COLUMN body SET STORAGE EXTERNAL;

CREATE TABLE outbox (
    id {big} NOT NULL PRIMARY KEY, -- epoch and a counter: unique without asking the database back
    stage {int} NOT NULL,
    at {time} NOT NULL,
    body {bytes} NOT NULL
) {strict};
--postgres ALTER TABLE outbox ALTER COLUMN body SET STORAGE EXTERNAL;
--postgres ALTER TABLE outbox SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

CREATE TABLE requests (
    tenant_id {uuid} NOT NULL,
    request_id {uuid} NOT NULL,
    method {text} NOT NULL,
    body_hash {bytes} NOT NULL,
    answer {bytes} NOT NULL,
    at {time} NOT NULL,
    PRIMARY KEY (tenant_id, request_id)
) {clustered};
CREATE INDEX requests_age ON requests (at); -- pruning

CREATE TABLE operations (
    tenant_id {uuid} NOT NULL,
    operation_id {uuid} NOT NULL,
    kind {text} NOT NULL,
    options {text} NOT NULL, -- JSON: what the kind is told
    selector {bytes} NOT NULL, -- an encoded FileSelector
    state {text} NOT NULL,
    cursor_batch {uuid}, -- the first key that was not looked at; null: at the beginning
    cursor_ordinal {int},
    matched {big} NOT NULL,
    max_count {big} NOT NULL, -- 0: no bound
    done {big} NOT NULL,
    refused {text} NOT NULL, -- JSON: how many by reason
    requested_by {text} NOT NULL,
    by_operator {bool} NOT NULL,
    next_at {time} NOT NULL,
    created_at {time} NOT NULL,
    updated_at {time} NOT NULL,
    ended_at {time},
    PRIMARY KEY (tenant_id, operation_id)
) {clustered};
CREATE UNIQUE INDEX operations_id ON operations (operation_id); -- an operator's get and list
CREATE INDEX operations_running ON operations (tenant_id) WHERE state = 'RUNNING'; -- how many a tenant has under way
CREATE INDEX operations_due ON operations (next_at) WHERE state = 'RUNNING'; -- the slice runner
CREATE INDEX operations_ended ON operations (ended_at) WHERE ended_at IS NOT NULL; -- pruning

CREATE TABLE stages (
    name {exact} NOT NULL PRIMARY KEY,
    version_id {int}, -- the newest that a process of it was seen to run
    pause_who {text}, -- null: not paused
    pause_note {text},
    pause_at {time},
    max_slots {int}, -- handlers at once in all its processes; null: as they were started
    max_files {int} -- files out at once; null: as the ledger was started
) {strict};
"#;
