//! Tenants, their keys, their limits, and who did what.

use bytes::Bytes;
use caudal_domain::{Stage, TenantId, names};
use caudal_harness::{Database, eventually};
use caudal_node::api_key::ApiKey;
use caudal_node::scope::{Role, Scope};
use caudal_proto::convert::duration_to_proto;
use caudal_proto::mesh::v1::CheckCredentialRequest;
use caudal_proto::status::from_status;
use caudal_proto::v1::{
    self, AddEntriesRequest, Batch, CancelBatchRequest, CreateApiKeyRequest, CreateApiKeyResponse,
    CreateBatchRequest, KeyRole, Tenant, TenantLimits,
};
use sea_orm::{ConnectionTrait as _, Statement};
use std::time::Duration;
use tonic::{Code, Status};

use super::support::{TestLedger, file, request_id};

impl TestLedger {
    /// What the ledger says of a key that somebody comes with.
    pub(crate) async fn shows(&self, text: &str) -> Result<Scope, Status> {
        let key: ApiKey = text.parse().unwrap();
        let request = CheckCredentialRequest {
            key_id: key.id().to_owned(),
            secret_sha256: Bytes::copy_from_slice(&key.secret_sha256()),
            only_asked: false,
        };
        let answer = self.mesh().check_credential(request).await?.into_inner();
        Ok(Scope::from_proto(&answer.scope.unwrap()).unwrap())
    }

    async fn make_tenant(&self, name: &str, limits: TenantLimits) -> Tenant {
        let request = v1::CreateTenantRequest {
            tenant: Some(Tenant {
                display_name: name.to_owned(),
                limits: Some(limits),
                ..Tenant::default()
            }),
            request_id: request_id(),
        };
        let made = self.operator().create_tenant(request).await.unwrap();
        made.into_inner()
    }

    async fn make_key(&self, tenant: &str, role: KeyRole) -> CreateApiKeyResponse {
        let request = v1::OperatorServiceCreateApiKeyRequest {
            tenant: tenant.to_owned(),
            key: Some(new_key(role)),
        };
        let made = self.operator().create_api_key(request).await.unwrap();
        made.into_inner()
    }

    pub(crate) async fn change_tenant(
        &self,
        tenant: Tenant,
        paths: &[&str],
    ) -> Result<Tenant, Status> {
        let request = v1::UpdateTenantRequest {
            tenant: Some(tenant),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            }),
            request_id: request_id(),
        };
        let changed = self.operator().update_tenant(request).await?;
        Ok(changed.into_inner())
    }

    /// A column as it is stored, all rows after each other.
    async fn bytes_of(&self, table: &str, column: &str) -> String {
        let database = self.database().await;
        let sql = match self.on {
            Database::Sqlite => format!("SELECT CAST({column} AS BLOB) AS it FROM {table}"),
            Database::Postgres if column == "detail" => {
                format!("SELECT convert_to({column}, 'UTF8') AS it FROM {table}")
            }
            Database::Postgres => format!("SELECT {column} AS it FROM {table}"),
        };
        let statement = Statement::from_string(database.get_database_backend(), sql);
        let rows = database.query_all_raw(statement).await.unwrap();
        let mut all = String::new();
        for row in rows {
            let bytes: Vec<u8> = row.try_get("", "it").unwrap();
            // Letter by letter, so that what is text stays what it is.
            all.extend(bytes.into_iter().map(char::from));
        }
        database.close().await.unwrap();
        all
    }

    /// Files that wait for a stage.
    async fn waiting(&self, stage: Stage) -> u32 {
        let listed = self.operator().list_stages(v1::ListStagesRequest {}).await;
        let mut stages = listed.unwrap().into_inner().stages.into_iter();
        stages.find(|one| one.name == stage.name()).unwrap().waiting
    }

    async fn acts(&self, tenant: &str) -> Vec<(String, String)> {
        let request = v1::OperatorServiceListAuditRequest {
            tenant: tenant.to_owned(),
            audit: None,
        };
        let listed = self.operator().list_audit(request).await.unwrap();
        let entries = listed.into_inner().entries.into_iter();
        entries.map(|entry| (entry.act, entry.target)).collect()
    }
}

fn new_key(role: KeyRole) -> CreateApiKeyRequest {
    CreateApiKeyRequest {
        display_name: "laptop".into(),
        role: role.into(),
        lifetime: None,
        request_id: request_id(),
    }
}

fn id_of(tenant: &Tenant) -> TenantId {
    names::parse_tenant_name(&tenant.name).unwrap()
}

fn name_of(key: &CreateApiKeyResponse) -> String {
    key.key.clone().unwrap().name
}

async fn a_tenant_is_made_with_its_keys_and_each_key_is_good_in_its_own_tenant(database: Database) {
    let ledger = TestLedger::start(database).await;
    let acme = ledger
        .make_tenant("Acme, S.A.", TenantLimits::default())
        .await;
    let umbra = ledger.make_tenant("Umbra", TenantLimits::default()).await;
    for (tenant, role, scope_role) in [
        (&acme, KeyRole::Viewer, Role::Viewer),
        (&acme, KeyRole::Admin, Role::Admin),
        (&umbra, KeyRole::Member, Role::Member),
    ] {
        let key = ledger.make_key(&tenant.name, role).await;
        let scope = ledger.shows(&key.secret).await.unwrap();
        assert_eq!(
            (scope.tenant, scope.role),
            (Some(id_of(tenant)), scope_role)
        );
        assert_eq!(format!("apiKeys/{}", scope.key_id), name_of(&key));
        // A wrong secret under a right id is as good as none.
        let other = ledger.make_key(&tenant.name, role).await.secret;
        let (id, secret) = (scope.key_id, other.rsplit_once('_').unwrap().1);
        let request = CheckCredentialRequest {
            key_id: id,
            secret_sha256: Bytes::from(vec![1; 32]),
            only_asked: false,
        };
        let refused = ledger.mesh().check_credential(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{secret}");
    }
    let operator = ledger.make_key("", KeyRole::Operator).await;
    let scope = ledger.shows(&operator.secret).await.unwrap();
    assert_eq!((scope.tenant, scope.role), (None, Role::Operator));
    // Two are not called alike, and none steers a screen.
    let long = "x".repeat(101);
    for (name, code) in [
        ("Umbra", Code::AlreadyExists),
        (" umbra\u{A0}", Code::AlreadyExists),
        ("Um\u{200B}BRA", Code::AlreadyExists),
        (long.as_str(), Code::InvalidArgument),
        ("a\u{1b}[31m", Code::InvalidArgument),
        ("", Code::InvalidArgument),
    ] {
        let request = v1::CreateTenantRequest {
            tenant: Some(Tenant {
                display_name: name.into(),
                ..Tenant::default()
            }),
            request_id: request_id(),
        };
        let refused = ledger.operator().create_tenant(request).await.unwrap_err();
        assert_eq!(refused.code(), code, "{name:?}");
    }
    let listed = ledger
        .operator()
        .list_tenants(v1::ListTenantsRequest {
            page_size: 2,
            ..v1::ListTenantsRequest::default()
        })
        .await;
    let listed = listed.unwrap().into_inner();
    let listed_names: Vec<&str> = listed.tenants.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(listed_names, [umbra.name.as_str(), acme.name.as_str()]);
    assert!(!listed.next_page_token.is_empty());
}

async fn a_repeated_creation_shows_the_same_secret_and_no_database_holds_it(database: Database) {
    let ledger = TestLedger::start(database).await;
    let request = v1::OperatorServiceCreateApiKeyRequest {
        tenant: names::tenant_name(ledger.tenant),
        key: Some(new_key(KeyRole::Member)),
    };
    let first = ledger.operator().create_api_key(request.clone()).await;
    let first = first.unwrap().into_inner();
    let again = ledger.operator().create_api_key(request).await.unwrap();
    assert_eq!(again.into_inner(), first);
    let secret = first.secret.rsplit_once('_').unwrap().1;
    let secret = &secret[..secret.len() - 8];
    for (table, column) in [
        ("requests", "answer"),
        ("api_keys", "secret_sha256"),
        ("audit", "detail"),
    ] {
        let rows = ledger.bytes_of(table, column).await;
        assert!(!rows.is_empty(), "{table}");
        assert!(!rows.contains(secret), "{table}");
        let raw = hex::decode(secret).unwrap();
        let raw: String = raw.into_iter().map(char::from).collect();
        assert!(!rows.contains(&raw), "{table}");
    }
    let whole = ledger.acts(&names::tenant_name(ledger.tenant)).await;
    assert_eq!(whole, [("CreateApiKey".to_owned(), name_of(&first))]);
}

async fn a_revoked_key_is_refused_and_stays_so_over_restarts_the_first_keys_too(
    database: Database,
) {
    let mut ledger = TestLedger::start(database).await;
    let tenant = names::tenant_name(ledger.tenant);
    let revoke = |tenant: &str, name: &str| v1::OperatorServiceRevokeApiKeyRequest {
        tenant: tenant.to_owned(),
        key: Some(v1::RevokeApiKeyRequest {
            name: name.to_owned(),
            request_id: request_id(),
        }),
    };
    let key = ledger.make_key(&tenant, KeyRole::Member).await;
    let other = ledger.make_key(&tenant, KeyRole::Member).await;
    // Another tenant's key, one of operators and none answer alike.
    let foreign = ledger.make_tenant("Umbra", TenantLimits::default()).await;
    for whose in [foreign.name.as_str(), ""] {
        let refused = ledger
            .operator()
            .revoke_api_key(revoke(whose, &name_of(&key)))
            .await;
        let refused = refused.unwrap_err();
        let none = ledger
            .operator()
            .revoke_api_key(revoke(whose, "apiKeys/nobody"))
            .await;
        let none = none.unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
        let words = refused.message().replace(&name_of(&key), "apiKeys/nobody");
        assert_eq!(words, none.message());
    }
    let revoked = ledger
        .operator()
        .revoke_api_key(revoke(&tenant, &name_of(&key)))
        .await;
    assert!(revoked.unwrap().into_inner().revoke_time.is_some());
    assert_eq!(
        ledger.shows(&key.secret).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    assert!(ledger.shows(&other.secret).await.is_ok());

    // The first keys: the last of operators is kept, whoever asks.
    let last = ledger
        .operator()
        .revoke_api_key(revoke("", "apiKeys/operator"))
        .await;
    let last = from_status(&last.unwrap_err());
    assert_eq!(last.reason, "LAST_OPERATOR_KEY");
    ledger.make_key("", KeyRole::Operator).await;
    for (whose, id) in [("", "operator"), (tenant.as_str(), "member")] {
        let revoked = ledger
            .operator()
            .revoke_api_key(revoke(whose, &format!("apiKeys/{id}")))
            .await;
        revoked.unwrap();
    }
    ledger.restart().await;
    for id in ["operator", "member"] {
        let request = CheckCredentialRequest {
            key_id: id.into(),
            secret_sha256: Bytes::from_static(&[7; 32]),
            only_asked: false,
        };
        let refused = ledger.mesh().check_credential(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{id}");
    }
    assert_eq!(
        ledger.shows(&key.secret).await.unwrap_err().code(),
        Code::Unauthenticated
    );
}

async fn a_rotated_key_works_beside_its_successor_for_the_overlap_and_no_longer(
    database: Database,
) {
    let ledger = TestLedger::start(database).await;
    let tenant = names::tenant_name(ledger.tenant);
    let rotate = |key: &CreateApiKeyResponse, overlap| v1::OperatorServiceRotateApiKeyRequest {
        tenant: tenant.clone(),
        key: Some(v1::RotateApiKeyRequest {
            name: name_of(key),
            overlap: Some(duration_to_proto(overlap)),
            request_id: request_id(),
        }),
    };
    let old = ledger.make_key(&tenant, KeyRole::Viewer).await;
    let day = Duration::from_secs(24 * 60 * 60);
    let new = ledger.operator().rotate_api_key(rotate(&old, day)).await;
    let new = new.unwrap().into_inner();
    for secret in [&old.secret, &new.secret] {
        let scope = ledger.shows(secret).await.unwrap();
        assert_eq!(
            (scope.tenant, scope.role),
            (Some(ledger.tenant), Role::Viewer)
        );
    }
    let newest = ledger
        .operator()
        .rotate_api_key(rotate(&new, Duration::ZERO))
        .await;
    let newest = newest.unwrap().into_inner();
    assert!(ledger.shows(&newest.secret).await.is_ok());
    let ended = ledger.shows(&new.secret).await.unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated);
    let again = ledger.operator().rotate_api_key(rotate(&new, day)).await;
    assert_eq!(from_status(&again.unwrap_err()).reason, "KEY_ENDED");

    // A key that ends by itself is followed by one that was given as long, also while it is on its way out.
    let year = 365 * 24 * 60 * 60;
    let request = v1::OperatorServiceCreateApiKeyRequest {
        tenant: tenant.clone(),
        key: Some(CreateApiKeyRequest {
            lifetime: Some(duration_to_proto(Duration::from_secs(year))),
            ..new_key(KeyRole::Member)
        }),
    };
    let made = ledger.operator().create_api_key(request).await;
    let made = made.unwrap().into_inner();
    for _ in 0..2 {
        let next = ledger.operator().rotate_api_key(rotate(&made, day)).await;
        let next = next.unwrap().into_inner().key.unwrap();
        let seconds = |time: Option<prost_types::Timestamp>| time.unwrap().seconds;
        let given = seconds(next.expire_time) - seconds(next.create_time);
        assert_eq!(given.unsigned_abs(), year);
    }
}

async fn a_key_lives_ten_years_at_most_and_no_limit_shuts_a_tenant_out(database: Database) {
    let ledger = TestLedger::start(database).await;
    let tenant = names::tenant_name(ledger.tenant);
    for seconds in [1, 1 << 62, 11 * 366 * 24 * 60 * 60] {
        let request = v1::OperatorServiceCreateApiKeyRequest {
            tenant: tenant.clone(),
            key: Some(CreateApiKeyRequest {
                lifetime: Some(prost_types::Duration { seconds, nanos: 0 }),
                ..new_key(KeyRole::Member)
            }),
        };
        let refused = ledger.operator().create_api_key(request).await.unwrap_err();
        let refused = from_status(&refused);
        assert_eq!(refused.violations[0].field, "key.lifetime", "{seconds}");
    }
    let nothing = |limits: TenantLimits| Tenant {
        name: tenant.clone(),
        limits: Some(limits),
        ..Tenant::default()
    };
    let refused = ledger
        .change_tenant(
            nothing(TenantLimits {
                calls_per_second: Some(0),
                ..TenantLimits::default()
            }),
            &["limits.calls_per_second"],
        )
        .await;
    let refused = from_status(&refused.unwrap_err());
    assert_eq!(
        refused.violations[0].field,
        "tenant.limits.calls_per_second"
    );
    // Of what is counted nothing may be there.
    let none = TenantLimits {
        files: Some(0),
        ..TenantLimits::default()
    };
    ledger
        .change_tenant(nothing(none), &["limits.files"])
        .await
        .unwrap();
    let batch = ledger.create(Batch::default()).await;
    let request = AddEntriesRequest {
        batch: names::batch_name(batch),
        entries: vec![file("a.txt", 1)],
        request_id: request_id(),
    };
    let full = ledger.batches().add_entries(request).await.unwrap_err();
    assert_eq!(from_status(&full).quota[0].subject, "files");
}

async fn the_last_key_of_operators_that_does_not_end_by_itself_stays(database: Database) {
    let ledger = TestLedger::start(database).await;
    let request = v1::OperatorServiceCreateApiKeyRequest {
        tenant: String::new(),
        key: Some(CreateApiKeyRequest {
            lifetime: Some(duration_to_proto(Duration::from_secs(60))),
            ..new_key(KeyRole::Operator)
        }),
    };
    let short = ledger.operator().create_api_key(request).await.unwrap();
    let revoke = async |name: &str| {
        let request = v1::OperatorServiceRevokeApiKeyRequest {
            tenant: String::new(),
            key: Some(v1::RevokeApiKeyRequest {
                name: name.to_owned(),
                request_id: request_id(),
            }),
        };
        let revoked = ledger.operator().revoke_api_key(request).await;
        revoked
            .map(drop)
            .map_err(|status| from_status(&status).reason)
    };
    let first = "apiKeys/operator";
    assert_eq!(revoke(first).await.unwrap_err(), "LAST_OPERATOR_KEY");
    let lasting = ledger.make_key("", KeyRole::Operator).await;
    revoke(first).await.unwrap();
    revoke(&name_of(&short.into_inner())).await.unwrap();
    let last = revoke(&name_of(&lasting)).await;
    assert_eq!(last.unwrap_err(), "LAST_OPERATOR_KEY");
}

async fn the_last_use_of_a_key_is_told_and_costs_few_writes(database: Database) {
    let ledger = TestLedger::start(database).await;
    let tenant = names::tenant_name(ledger.tenant);
    let key = ledger.make_key(&tenant, KeyRole::Member).await;
    let listed = async || {
        let request = v1::OperatorServiceListApiKeysRequest {
            tenant: tenant.clone(),
            keys: None,
        };
        let listed = ledger.operator().list_api_keys(request).await.unwrap();
        let mut keys = listed.into_inner().keys.into_iter();
        keys.find(|one| one.name == name_of(&key))
            .unwrap()
            .last_use_time
    };
    assert_eq!(listed().await, None);
    for _ in 0..20 {
        ledger.shows(&key.secret).await.unwrap();
    }
    eventually("the use is told", async || listed().await.is_some()).await;
    let told = listed().await;
    for _ in 0..20 {
        ledger.shows(&key.secret).await.unwrap();
    }
    assert_eq!(listed().await, told);
}

async fn an_admin_runs_the_keys_of_its_tenant_and_nobody_elses(database: Database) {
    let ledger = TestLedger::start(database).await;
    let umbra = ledger.make_tenant("Umbra", TenantLimits::default()).await;
    let mut admin = ledger.tenancy(id_of(&umbra), Role::Admin);
    let made = admin.create_api_key(new_key(KeyRole::Admin)).await;
    let made = made.unwrap().into_inner();
    assert_eq!(
        ledger.shows(&made.secret).await.unwrap().tenant,
        Some(id_of(&umbra))
    );
    for role in [KeyRole::Operator, KeyRole::Uploader] {
        let refused = admin.create_api_key(new_key(role)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{role:?}");
    }
    for role in [Role::Viewer, Role::Member] {
        let mut other = ledger.tenancy(id_of(&umbra), role);
        let refused = other.create_api_key(new_key(KeyRole::Member)).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
        let refused = other.list_audit(v1::ListAuditRequest::default()).await;
        assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    }
    let request = v1::RevokeApiKeyRequest {
        name: name_of(&made),
        request_id: request_id(),
    };
    let mut foreign = ledger.tenancy(ledger.tenant, Role::Admin);
    let refused = foreign.revoke_api_key(request.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(ledger.shows(&made.secret).await.is_ok());
    let listed = foreign
        .list_api_keys(v1::ListApiKeysRequest::default())
        .await;
    let listed = listed.unwrap().into_inner().keys;
    assert!(listed.iter().all(|key| key.name != name_of(&made)));
    admin.revoke_api_key(request).await.unwrap();
    assert!(ledger.shows(&made.secret).await.is_err());
    let told = admin
        .list_audit(v1::ListAuditRequest::default())
        .await
        .unwrap();
    let told = told.into_inner().entries;
    let acts: Vec<(&str, &str)> = told
        .iter()
        .map(|entry| (entry.act.as_str(), entry.key.as_str()))
        .collect();
    // An operator made the tenant, with a key that has no id here.
    assert_eq!(
        acts,
        [
            ("RevokeApiKey", "apiKeys/k1"),
            ("CreateApiKey", "apiKeys/k1"),
            ("CreateTenant", "")
        ]
    );
}

async fn what_admins_do_and_what_members_cancel_is_written_down_once(database: Database) {
    let ledger = TestLedger::start(database).await;
    let whole = names::tenant_name(ledger.tenant);
    let created = async |role| {
        let request = CreateBatchRequest {
            batch: Some(Batch::default()),
            request_id: request_id(),
        };
        let made = ledger.batches_as(role).create_batch(request).await.unwrap();
        made.into_inner().name
    };
    let by_member = created(Role::Member).await;
    assert_eq!(ledger.acts(&whole).await, []);
    let by_admin = created(Role::Admin).await;
    let cancel = CancelBatchRequest {
        name: by_member.clone(),
        request_id: request_id(),
    };
    // A repeat is no other act; one that is refused is none.
    for _ in 0..2 {
        let mut batches = ledger.batches_as(Role::Member);
        batches.cancel_batch(cancel.clone()).await.unwrap();
    }
    let nowhere = CancelBatchRequest {
        name: "batches/0190b5a2-0000-7000-8000-000000000001".into(),
        request_id: request_id(),
    };
    let mut batches = ledger.batches_as(Role::Member);
    assert!(batches.cancel_batch(nowhere).await.is_err());
    let operator = v1::OperatorServiceRetryFilesRequest {
        tenant: whole.clone(),
        files: Some(v1::RetryFilesRequest {
            selector: Some(v1::FileSelector {
                batch: by_admin.clone(),
                ..v1::FileSelector::default()
            }),
            request_id: request_id(),
            ..v1::RetryFilesRequest::default()
        }),
    };
    let begun = ledger.operator().retry_files(operator).await.unwrap();
    let expected = [
        ("RetryFiles".to_owned(), begun.into_inner().name),
        ("CancelBatch".to_owned(), by_member),
        ("CreateBatch".to_owned(), by_admin),
    ];
    assert_eq!(ledger.acts(&whole).await, expected);
    assert_eq!(ledger.acts("").await, expected);
    // Page by page they are the same.
    let mut tokens = vec![String::new()];
    let mut paged = Vec::new();
    while let Some(token) = tokens.pop() {
        let request = v1::OperatorServiceListAuditRequest {
            tenant: whole.clone(),
            audit: Some(v1::ListAuditRequest {
                page_size: 1,
                page_token: token,
            }),
        };
        let page = ledger
            .operator()
            .list_audit(request)
            .await
            .unwrap()
            .into_inner();
        paged.extend(
            page.entries
                .into_iter()
                .map(|entry| (entry.act, entry.target)),
        );
        tokens.extend(Some(page.next_page_token).filter(|token| !token.is_empty()));
    }
    assert_eq!(paged, expected);
}

async fn who_holds_a_batch_up_or_prefers_it_is_written_down_with_what_was_said(database: Database) {
    let ledger = TestLedger::start(database).await;
    let name = names::batch_name(ledger.create(Batch::default()).await);
    let mut batches = ledger.batches_as(Role::Member);
    let pause = v1::PauseBatchRequest {
        name: name.clone(),
        note: "the wrong folder".into(),
        request_id: request_id(),
    };
    batches.pause_batch(pause).await.unwrap();
    let resume = v1::ResumeBatchRequest {
        name: name.clone(),
        request_id: request_id(),
    };
    batches.resume_batch(resume).await.unwrap();
    let prefer = v1::UpdateBatchRequest {
        batch: Some(Batch {
            name: name.clone(),
            priority: v1::Priority::High.into(),
            ..Batch::default()
        }),
        update_mask: Some(prost_types::FieldMask {
            paths: vec!["priority".into()],
        }),
        request_id: request_id(),
    };
    batches.update_batch(prefer).await.unwrap();
    let request = v1::OperatorServiceListAuditRequest {
        tenant: names::tenant_name(ledger.tenant),
        audit: Some(v1::ListAuditRequest::default()),
    };
    let listed = ledger.operator().list_audit(request).await.unwrap();
    let mut entries = listed.into_inner().entries;
    entries.retain(|entry| entry.target == name && entry.act != "CreateBatch");
    let written: Vec<(&str, &str)> = entries
        .iter()
        .map(|entry| (entry.act.as_str(), entry.detail.as_str()))
        .collect();
    assert_eq!(
        written,
        [
            ("UpdateBatch", r#"{"priority":3}"#),
            ("ResumeBatch", ""),
            ("PauseBatch", r#"{"note":"the wrong folder"}"#),
        ]
    );
    let actor = &entries[0].actor;
    assert!(
        entries
            .iter()
            .all(|entry| entry.time.is_some() && entry.actor == *actor)
    );
    assert!(!actor.is_empty());
}

async fn limits_are_in_force_as_soon_as_they_are_changed_and_over_restarts(database: Database) {
    let mut ledger = TestLedger::start(database).await;
    let tenant = Tenant {
        name: names::tenant_name(ledger.tenant),
        limits: Some(TenantLimits {
            files: Some(2),
            folders: Some(1),
            open_batches: Some(1),
            ..TenantLimits::default()
        }),
        ..Tenant::default()
    };
    let batch = ledger.create(Batch::default()).await;
    let add = async |ledger: &TestLedger, paths: &[&str]| {
        let request = AddEntriesRequest {
            batch: names::batch_name(batch),
            entries: paths.iter().map(|path| file(path, 10)).collect(),
            request_id: request_id(),
        };
        let added = ledger.batches().add_entries(request).await;
        added.map_err(|status| from_status(&status).quota[0].clone())
    };
    add(&ledger, &["before.txt"]).await.unwrap();
    ledger
        .change_tenant(tenant.clone(), &["limits"])
        .await
        .unwrap();
    add(&ledger, &["a/second.txt"]).await.unwrap();
    let full = add(&ledger, &["third.txt"]).await.unwrap_err();
    assert_eq!(full.subject, "files");
    assert_eq!(
        full.description,
        "the limit is 2, 2 are used, 1 more were asked"
    );
    let full = ledger
        .batches()
        .create_batch(CreateBatchRequest {
            batch: Some(Batch::default()),
            request_id: request_id(),
        })
        .await;
    let full = from_status(&full.unwrap_err());
    assert_eq!(full.quota[0].subject, "open_batches");
    ledger.restart().await;
    assert_eq!(
        add(&ledger, &["third.txt"]).await.unwrap_err().subject,
        "files"
    );
    // One limit by itself, back to the default.
    let none = Tenant {
        limits: None,
        ..tenant.clone()
    };
    ledger.change_tenant(none, &["limits.files"]).await.unwrap();
    let full = add(&ledger, &["b/third.txt"]).await.unwrap_err();
    assert_eq!(full.subject, "folders");
    add(&ledger, &["third.txt"]).await.unwrap();

    let used = ledger
        .tenancy(ledger.tenant, Role::Viewer)
        .get_usage(v1::GetUsageRequest {})
        .await;
    let used = used.unwrap().into_inner();
    let row = |name: &str| {
        let row = used.limits.iter().find(|row| row.name == name).unwrap();
        (row.used, row.limit)
    };
    assert_eq!(row("files").0, Some(3));
    assert_eq!(row("stored_bytes").0, Some(30));
    assert_eq!(row("folders"), (Some(1), Some(1)));
    assert_eq!(row("open_batches"), (Some(1), Some(1)));
    assert_eq!(row("calls_per_second"), (None, None));
}

async fn operations_that_run_at_once_are_bounded(database: Database) {
    let ledger = TestLedger::start(database).await;
    let tenant = Tenant {
        name: names::tenant_name(ledger.tenant),
        limits: Some(TenantLimits {
            operations: Some(0),
            ..TenantLimits::default()
        }),
        ..Tenant::default()
    };
    let batch = ledger.create(Batch::default()).await;
    let dismiss = || v1::DismissFailuresRequest {
        selector: Some(v1::FileSelector {
            batch: names::batch_name(batch),
            ..v1::FileSelector::default()
        }),
        request_id: request_id(),
        ..v1::DismissFailuresRequest::default()
    };
    ledger.files().dismiss_failures(dismiss()).await.unwrap();
    ledger
        .change_tenant(tenant, &["limits.operations"])
        .await
        .unwrap();
    let full = ledger
        .files()
        .dismiss_failures(dismiss())
        .await
        .unwrap_err();
    let full = from_status(&full);
    assert_eq!(full.quota[0].subject, "operations");
    assert!(full.is_retryable() && full.retry_after.is_some());
    // Operators are not held up by what a tenant has under way.
    let request = v1::OperatorServiceDismissFailuresRequest {
        tenant: names::tenant_name(ledger.tenant),
        files: Some(dismiss()),
    };
    ledger.operator().dismiss_failures(request).await.unwrap();
}

async fn the_files_of_a_paused_tenant_wait_until_it_goes_on(database: Database) {
    let ledger = TestLedger::start(database).await;
    let tenant = |note: Option<&str>| Tenant {
        name: names::tenant_name(ledger.tenant),
        pause: note.map(|note| v1::TenantPause {
            note: note.to_owned(),
            ..v1::TenantPause::default()
        }),
        ..Tenant::default()
    };
    let paused = ledger
        .change_tenant(tenant(Some("unpaid")), &["pause"])
        .await;
    let pause = paused.unwrap().pause.unwrap();
    assert_eq!(
        (pause.note.as_str(), pause.who.as_str()),
        ("unpaid", "operator")
    );
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["1.txt", "2.txt", "3.txt"]).await;
    ledger.confirm(batch, 0..3).await;
    assert_eq!(ledger.waiting(Stage::Upload).await, 3);
    // Whoever follows the batch is told why.
    let waits = ledger.batch(batch).await.waits;
    assert_eq!(waits.len(), 1, "{waits:?}");
    assert_eq!(waits[0].words, "the tenant is paused: unpaid");
    assert_eq!(waits[0].since_time, pause.since);
    // Said again without a word, what was said stays.
    let again = ledger.change_tenant(tenant(Some("")), &["pause"]).await;
    assert_eq!(again.unwrap().pause, Some(pause));
    ledger
        .change_tenant(tenant(None), &["pause"])
        .await
        .unwrap();
    eventually("they go out", async || {
        ledger.waiting(Stage::Upload).await == 0
    })
    .await;
    let found = ledger.batch(batch).await;
    assert_eq!(found.counts.unwrap().queued, 3);
}

async fn a_closed_tenant_lets_nobody_in_and_nothing_of_it_goes_out(database: Database) {
    let ledger = TestLedger::start(database).await;
    let umbra = ledger.make_tenant("Umbra", TenantLimits::default()).await;
    let key = ledger.make_key(&umbra.name, KeyRole::Admin).await;
    let scope = ledger.shows(&key.secret).await.unwrap();
    let request = v1::CloseTenantRequest {
        name: umbra.name.clone(),
        request_id: request_id(),
    };
    let closed = ledger.operator().close_tenant(request).await.unwrap();
    assert!(closed.into_inner().close_time.is_some());
    let refused = ledger.shows(&key.secret).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let renamed = Tenant {
        name: umbra.name.clone(),
        display_name: "Lux".into(),
        ..Tenant::default()
    };
    let refused = ledger.change_tenant(renamed, &["display_name"]).await;
    assert_eq!(from_status(&refused.unwrap_err()).reason, "TENANT_CLOSED");
    // Also where a gateway does not know of it yet.
    let late = CreateBatchRequest {
        batch: Some(Batch::default()),
        request_id: request_id(),
    };
    let refused = ledger.batches_of_scope(&scope).create_batch(late).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let acts = ledger.acts(&umbra.name).await;
    let acts: Vec<&str> = acts.iter().map(|(act, _)| act.as_str()).collect();
    assert_eq!(acts, ["CloseTenant", "CreateApiKey", "CreateTenant"]);
}

async fn an_upload_token_fills_its_batch_as_far_as_it_may_and_no_further(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    let other = ledger.create(Batch::default()).await;
    let request = v1::CreateUploadTokenRequest {
        batch: names::batch_name(batch),
        max_files: Some(3),
        max_bytes: Some(25),
        request_id: request_id(),
        ..v1::CreateUploadTokenRequest::default()
    };
    let made = ledger.batches().create_upload_token(request.clone()).await;
    let made = made.unwrap().into_inner();
    let again = ledger.batches().create_upload_token(request).await.unwrap();
    assert_eq!(again.into_inner(), made);
    let scope = ledger.shows(&made.secret).await.unwrap();
    assert_eq!(
        (scope.tenant, scope.role, scope.batch),
        (Some(ledger.tenant), Role::Uploader, Some(batch))
    );
    let add = async |batch, paths: &[&str]| {
        let request = AddEntriesRequest {
            batch: names::batch_name(batch),
            entries: paths.iter().map(|path| file(path, 10)).collect(),
            request_id: request_id(),
        };
        let added = ledger.batches_of_scope(&scope).add_entries(request).await;
        added.map_err(|status| from_status(&status))
    };
    assert_eq!(
        add(other, &["a.txt"]).await.unwrap_err().reason,
        "NOT_FOUND"
    );
    add(batch, &["a.txt"]).await.unwrap();
    // What is there already costs nothing.
    add(batch, &["a.txt", "b.txt"]).await.unwrap();
    let full = add(batch, &["c.txt"]).await.unwrap_err();
    assert_eq!(full.quota[0].subject, "upload_token_bytes");
    assert_eq!(
        full.quota[0].description,
        "the limit is 25, 20 are used, 10 more were asked"
    );
    let revoke = v1::RevokeApiKeyRequest {
        name: name_of(&made),
        request_id: request_id(),
    };
    let mut admin = ledger.tenancy(ledger.tenant, Role::Admin);
    admin.revoke_api_key(revoke).await.unwrap();
    // Also where a gateway does not know of it yet.
    assert_eq!(
        add(batch, &["d.txt"]).await.unwrap_err().reason,
        "UNAUTHENTICATED"
    );
    assert!(ledger.shows(&made.secret).await.is_err());
    let acts = ledger.acts(&names::tenant_name(ledger.tenant)).await;
    let acts: Vec<&str> = acts.iter().map(|(act, _)| act.as_str()).collect();
    assert_eq!(acts, ["RevokeApiKey", "CreateUploadToken"]);
}

on_each_database![
    a_key_lives_ten_years_at_most_and_no_limit_shuts_a_tenant_out,
    the_last_key_of_operators_that_does_not_end_by_itself_stays,
    an_upload_token_fills_its_batch_as_far_as_it_may_and_no_further,
    a_tenant_is_made_with_its_keys_and_each_key_is_good_in_its_own_tenant,
    a_repeated_creation_shows_the_same_secret_and_no_database_holds_it,
    a_revoked_key_is_refused_and_stays_so_over_restarts_the_first_keys_too,
    a_rotated_key_works_beside_its_successor_for_the_overlap_and_no_longer,
    the_last_use_of_a_key_is_told_and_costs_few_writes,
    an_admin_runs_the_keys_of_its_tenant_and_nobody_elses,
    what_admins_do_and_what_members_cancel_is_written_down_once,
    who_holds_a_batch_up_or_prefers_it_is_written_down_with_what_was_said,
    limits_are_in_force_as_soon_as_they_are_changed_and_over_restarts,
    operations_that_run_at_once_are_bounded,
    the_files_of_a_paused_tenant_wait_until_it_goes_on,
    a_closed_tenant_lets_nobody_in_and_nothing_of_it_goes_out,
];
