//! Tenants, their keys and the audit: `caudal.v1.TenantService`, and what OperatorService has of the same.

use std::time::Duration;

use caudal_domain::{Refusal, TenantId, limits, names};
use caudal_node::api_key::ApiKey;
use caudal_node::scope::{self, Role};
use caudal_proto::convert::duration_from_proto;
use caudal_proto::mesh::v1::KeyAnswer;
use caudal_proto::v1;
use caudal_proto::v1::tenant_service_server::TenantService;
use prost::Message;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::bounds::{self, Bounded};
use super::failure::{Failure, answer};
use super::{Ledger, TenantScope, page_token, request_key, words};
use crate::settings::{OwnLimits, TenantLimits};
use crate::store::credentials::{self, Allowance, KeyRow, Spent};
use crate::store::tenants::Account;
use crate::store::time::Micros;
use crate::store::{audit, operations, progress, tenants};
use crate::wire;
use crate::writer::audited::{Act, Actor};
use crate::writer::verbs::create_key::CreateKey;
use crate::writer::verbs::create_tenant::CreateTenant;
use crate::writer::verbs::revoke_key::RevokeKey;
use crate::writer::verbs::rotate_key::RotateKey;
use crate::writer::verbs::update_tenant::{LimitChange, TenantChanges, UpdateTenant};
use crate::writer::verbs::wake_batch::WakeBatch;

const DEFAULT_PAGE: usize = 50;
/// Characters of a key's id, as new ones are made; those of the first keys may be longer.
const MAX_KEY_ID_CHARS: usize = 32;

/// How often a batch of a tenant that goes on is asked for what waits, while the database does not answer.
const WAKE_TRIES: u32 = 60;
const WAKE_AGAIN: Duration = Duration::from_secs(1);

/// Who runs keys, and whose.
pub(super) struct Keeper {
    pub(super) actor: Actor,
    /// `None`: those of operators.
    pub(super) tenant: Option<TenantId>,
    /// Under whose name requests are remembered.
    asked_in: TenantId,
}

impl Keeper {
    /// An admin, with the keys of its tenant.
    fn admin<T: Bounded>(request: &Request<T>) -> Result<Self, Failure> {
        let scope = TenantScope::of(request)?;
        scope.require_whole_tenant()?;
        if scope.role != Role::Admin {
            let words = "this is for the admins of a tenant: use an admin's key for it";
            return Err(Refusal::permission_denied(words).into());
        }
        Ok(Self {
            actor: scope.actor.clone(),
            tenant: Some(scope.tenant),
            asked_in: scope.tenant,
        })
    }

    /// An operator, with the keys of a tenant or of operators.
    pub(super) fn operator(actor: Actor, tenant: Option<TenantId>) -> Self {
        Self {
            actor,
            tenant,
            asked_in: TenantId::OPERATORS,
        }
    }

    fn act(&self, call: &'static str, target: String, detail: String) -> Act {
        Act {
            id: Uuid::now_v7(),
            actor: self.actor.clone(),
            tenant: self.tenant,
            call,
            target,
            detail,
        }
    }
}

#[tonic::async_trait]
impl TenantService for Ledger {
    async fn get_usage(
        &self,
        request: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::TenantUsage>, Status> {
        answer(async {
            let scope = TenantScope::of(&request)?;
            scope.require_whole_tenant()?;
            let account =
                tenants::account(&self.store.reader_of(scope.tenant), scope.tenant).await?;
            let unknown = || Refusal::not_found(&names::tenant_name(scope.tenant));
            let account = account.ok_or_else(unknown)?;
            Ok(Response::new(self.usage(&account).await?))
        })
        .await
    }

    async fn create_api_key(
        &self,
        request: Request<v1::CreateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        answer(async {
            let keeper = Keeper::admin(&request)?;
            let message = request.get_ref();
            self.make_key(&keeper, "", message, message).await
        })
        .await
    }

    async fn list_api_keys(
        &self,
        request: Request<v1::ListApiKeysRequest>,
    ) -> Result<Response<v1::ListApiKeysResponse>, Status> {
        answer(async {
            let keeper = Keeper::admin(&request)?;
            self.keys(keeper.tenant, request.get_ref()).await
        })
        .await
    }

    async fn revoke_api_key(
        &self,
        request: Request<v1::RevokeApiKeyRequest>,
    ) -> Result<Response<v1::ApiKey>, Status> {
        answer(async {
            let keeper = Keeper::admin(&request)?;
            let message = request.get_ref();
            self.revoke(&keeper, "", message, message).await
        })
        .await
    }

    async fn rotate_api_key(
        &self,
        request: Request<v1::RotateApiKeyRequest>,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Status> {
        answer(async {
            let keeper = Keeper::admin(&request)?;
            let message = request.get_ref();
            self.rotate(&keeper, "", message, message).await
        })
        .await
    }

    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        answer(async {
            let keeper = Keeper::admin(&request)?;
            self.audit(keeper.tenant, request.get_ref()).await
        })
        .await
    }
}

impl Ledger {
    /// Makes a key as `asked` says, a part of `whole` that stands in the field `above` (with its dot, or empty).
    pub(super) async fn make_key(
        &self,
        keeper: &Keeper,
        above: &str,
        asked: &v1::CreateApiKeyRequest,
        whole: &impl Message,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Failure> {
        let field = |name: &str| format!("{above}{name}");
        let name = words::some_name(&field("display_name"), &asked.display_name)?;
        let role = role_of(&field("role"), asked.role, keeper.tenant)?;
        let lifetime = match &asked.lifetime {
            None => None,
            Some(lifetime) => Some(key_lifetime(&field("lifetime"), lifetime)?),
        };
        let detail = serde_json::json!({
            "display_name": name,
            "role": credentials::role_name(role),
            "lifetime_seconds": lifetime.map(|lifetime| lifetime.as_secs()),
        });
        let made = self.new_secret();
        let create = CreateKey {
            asked_in: keeper.asked_in,
            request: request_key("CreateApiKey", &asked.request_id, whole)?,
            key: made.row(keeper.tenant, role, name),
            nonce: made.nonce,
            lifetime,
            act: keeper.act("CreateApiKey", made.name(), detail.to_string()),
        };
        let answer = self.writer.ask(create).await?;
        Ok(Response::new(self.shown(answer)?))
    }

    /// A key's text, made of what was remembered.
    pub(super) fn shown(&self, answer: KeyAnswer) -> Result<v1::CreateApiKeyResponse, Refusal> {
        let key = answer.key.ok_or_else(Refusal::internal)?;
        let id = key.name.strip_prefix(wire::KEYS);
        let id = id.ok_or_else(Refusal::internal)?;
        let secret = self.mesh_secret.key_secret(id, &answer.nonce);
        let secret = ApiKey::of(id, &secret).text();
        Ok(v1::CreateApiKeyResponse {
            key: Some(key),
            secret,
        })
    }

    pub(super) fn new_secret(&self) -> NewSecret {
        let id = ApiKey::new_id();
        let nonce: [u8; 16] = rand::random();
        let secret = self.mesh_secret.key_secret(&id, &nonce);
        let secret_sha256 = ApiKey::of(&id, &secret).secret_sha256();
        NewSecret {
            id,
            nonce,
            secret_sha256,
        }
    }

    pub(super) async fn keys(
        &self,
        whose: Option<TenantId>,
        message: &v1::ListApiKeysRequest,
    ) -> Result<Response<v1::ListApiKeysResponse>, Failure> {
        let size = page_token::size(message.page_size, DEFAULT_PAGE)?;
        let pages = self.pages(whose, message);
        let after = key_position(pages.place_of_any_length()?)?;
        let after = after.as_ref().map(|(at, id)| (*at, id.as_str()));
        let limit = u32::try_from(size + 1).unwrap_or(u32::MAX);
        let rows = credentials::keys(&self.store.reader(), whose, after, limit).await?;
        let next_page_token = match rows.get(size.saturating_sub(1)) {
            Some(last) if rows.len() > size => {
                let mut position = last.created_at.0.to_be_bytes().to_vec();
                position.extend(last.id.bytes());
                pages.token_of(&position)
            }
            _ => String::new(),
        };
        Ok(Response::new(v1::ListApiKeysResponse {
            keys: rows.iter().take(size).map(wire::api_key).collect(),
            next_page_token,
        }))
    }

    pub(super) async fn revoke(
        &self,
        keeper: &Keeper,
        above: &str,
        asked: &v1::RevokeApiKeyRequest,
        whole: &impl Message,
    ) -> Result<Response<v1::ApiKey>, Failure> {
        let key = key_id(&format!("{above}name"), &asked.name)?;
        let revoke = RevokeKey {
            asked_in: keeper.asked_in,
            request: request_key("RevokeApiKey", &asked.request_id, whole)?,
            tenant: keeper.tenant,
            key,
            act: keeper.act("RevokeApiKey", asked.name.clone(), String::new()),
        };
        Ok(Response::new(self.writer.ask(revoke).await?))
    }

    pub(super) async fn rotate(
        &self,
        keeper: &Keeper,
        above: &str,
        asked: &v1::RotateApiKeyRequest,
        whole: &impl Message,
    ) -> Result<Response<v1::CreateApiKeyResponse>, Failure> {
        let field = |name: &str| format!("{above}{name}");
        let key = key_id(&field("name"), &asked.name)?;
        let overlap = match &asked.overlap {
            None => limits::KEY_OVERLAP,
            Some(overlap) => duration_from_proto(overlap)
                .map_err(|error| Refusal::invalid(field("overlap"), error.to_string()))?,
        };
        if overlap > limits::MAX_KEY_OVERLAP {
            let words = format!("is longer than {} days", days(limits::MAX_KEY_OVERLAP));
            return Err(Refusal::invalid(field("overlap"), words).into());
        }
        let made = self.new_secret();
        let detail = serde_json::json!({
            "replaced_by": made.name(),
            "overlap_seconds": overlap.as_secs(),
        });
        let rotate = RotateKey {
            asked_in: keeper.asked_in,
            request: request_key("RotateApiKey", &asked.request_id, whole)?,
            tenant: keeper.tenant,
            key,
            overlap,
            new_id: made.id.clone(),
            new_secret_sha256: made.secret_sha256.to_vec(),
            nonce: made.nonce,
            act: keeper.act("RotateApiKey", asked.name.clone(), detail.to_string()),
        };
        let answer = self.writer.ask(rotate).await?;
        Ok(Response::new(self.shown(answer)?))
    }

    pub(super) async fn audit(
        &self,
        tenant: Option<TenantId>,
        message: &v1::ListAuditRequest,
    ) -> Result<Response<v1::ListAuditResponse>, Failure> {
        let size = page_token::size(message.page_size, DEFAULT_PAGE)?;
        let pages = self.pages(tenant, message);
        let before = pages.place::<16>()?.map(Uuid::from_bytes);
        let limit = u32::try_from(size + 1).unwrap_or(u32::MAX);
        let rows = audit::before(&self.store.reader(), tenant, before, limit).await?;
        let mut room = page_token::Room::default();
        let entries: Vec<v1::AuditEntry> = rows
            .iter()
            .take(size)
            .map(wire::audit_entry)
            .take_while(|entry| room.takes(entry))
            .collect();
        let last = entries.len().checked_sub(1).and_then(|last| rows.get(last));
        let next_page_token = match last {
            Some(last) if entries.len() < rows.len() => pages.token_of(last.id.as_bytes()),
            _ => String::new(),
        };
        Ok(Response::new(v1::ListAuditResponse {
            entries,
            next_page_token,
        }))
    }

    /// Makes a tenant.
    pub(super) async fn make_tenant(
        &self,
        actor: Actor,
        message: &v1::CreateTenantRequest,
    ) -> Result<v1::Tenant, Failure> {
        let asked = message.tenant.clone().unwrap_or_default();
        let name = words::some_name("tenant.display_name", &asked.display_name)?;
        let tenant = TenantId::from_uuid(Uuid::now_v7());
        let limits = asked.limits.unwrap_or_default();
        let every_limit = every_limit(&limits);
        every_limit.iter().try_for_each(lets_something_through)?;
        let limits = wire::limits_from_proto(&limits);
        let weight = weight("tenant.weight", asked.weight)?;
        let detail = serde_json::json!({
            "display_name": name,
            "limits": limits,
            "weight": weight,
        });
        let create = CreateTenant {
            tenant,
            request: request_key("CreateTenant", &message.request_id, message)?,
            name: name.to_owned(),
            limits,
            weight,
            act: Act {
                id: Uuid::now_v7(),
                actor,
                tenant: Some(tenant),
                call: "CreateTenant",
                target: names::tenant_name(tenant),
                detail: detail.to_string(),
            },
        };
        let made = self.writer.ask(create).await?;
        Ok(made)
    }

    /// Changes or closes a tenant. `call` is the name of the RPC.
    pub(super) async fn change_tenant(
        &self,
        actor: Actor,
        call: &'static str,
        tenant: TenantId,
        changes: TenantChanges,
        request: crate::writer::request_key::RequestKey,
    ) -> Result<v1::Tenant, Failure> {
        let goes_on = changes.pause == Some(None);
        let update = UpdateTenant {
            tenant,
            request,
            changes,
            act: Act {
                id: Uuid::now_v7(),
                actor,
                tenant: Some(tenant),
                call,
                target: names::tenant_name(tenant),
                detail: String::new(),
            },
        };
        let answer = self.writer.ask(update).await?;
        if goes_on {
            // Whether or not the caller waits for it: it is recorded that the tenant goes on.
            tokio::spawn(self.clone().wake(tenant));
        }
        Ok(answer)
    }

    /// What waits of a tenant that goes on is asked for again. What was missed goes out when the ledger starts anew.
    async fn wake(self, tenant: TenantId) {
        let batches = progress::live_batches(&self.store.reader(), tenant).await;
        let batches = match batches {
            Ok(batches) => batches,
            Err(error) => {
                tracing::error!(%error, %tenant, "what waits of a tenant that goes on cannot be read: resume it again");
                return;
            }
        };
        for batch in batches {
            for tries in 1.. {
                let Err(error) = self.writer.ask(WakeBatch { batch }).await else {
                    break;
                };
                if tries == WAKE_TRIES {
                    tracing::error!(%error, %batch, "a batch of a tenant that goes on was not woken: resume the tenant again");
                    break;
                }
                tokio::time::sleep(WAKE_AGAIN).await;
            }
        }
    }

    pub(super) async fn tenant_with_usage(
        &self,
        tenant: TenantId,
        name: &str,
    ) -> Result<v1::Tenant, Failure> {
        let account = tenants::account(&self.store.reader(), tenant).await?;
        let account = account.ok_or_else(|| Refusal::not_found(name))?;
        Ok(v1::Tenant {
            usage: Some(self.usage(&account).await?),
            ..wire::tenant(&account)
        })
    }

    pub(super) async fn tenants(
        &self,
        message: &v1::ListTenantsRequest,
    ) -> Result<v1::ListTenantsResponse, Failure> {
        let size = page_token::size(message.page_size, DEFAULT_PAGE)?;
        let pages = self.pages(None, message);
        let before = pages.place::<16>()?.map(Uuid::from_bytes);
        let limit = u32::try_from(size + 1).unwrap_or(u32::MAX);
        let rows = tenants::accounts(&self.store.reader(), before, limit).await?;
        let next_page_token = match rows.get(size.saturating_sub(1)) {
            Some(last) if rows.len() > size => pages.token_of(last.row.tenant.as_bytes()),
            _ => String::new(),
        };
        Ok(v1::ListTenantsResponse {
            tenants: rows.iter().take(size).map(wire::tenant).collect(),
            next_page_token,
        })
    }

    async fn usage(&self, account: &Account) -> Result<v1::TenantUsage, Failure> {
        let session = self.store.reader();
        let tenant = account.row.tenant;
        let limits = TenantLimits::from_json(&account.row.limits, &self.tenant_limits);
        let limits = limits.map_err(|_| Refusal::internal())?;
        let row = &account.row;
        let open = progress::open_batches(&session, tenant).await?;
        let running = operations::running(&session, tenant).await?;
        let door = limits.door;
        let dispatched = row
            .dispatched_files()
            .unwrap_or(self.windows.of_tenant)
            .into();
        let limit = |name: &str, limit: Option<u64>, used: Option<u64>| v1::UsedLimit {
            name: name.to_owned(),
            limit,
            used,
        };
        Ok(v1::TenantUsage {
            limits: vec![
                limit(
                    "stored_bytes",
                    Some(limits.stored_bytes),
                    Some(row.used_bytes),
                ),
                limit("files", Some(limits.files), Some(row.used_files)),
                limit("folders", Some(limits.folders), Some(row.used_folders)),
                limit("files_per_batch", Some(limits.files_per_batch), None),
                limit("file_bytes", Some(limits.file_bytes), None),
                limit("entries_per_second", door.entries_per_second, None),
                limit("calls_per_second", door.calls_per_second, None),
                limit("open_batches", Some(limits.open_batches), Some(open)),
                limit(
                    "streams",
                    Some(door.streams.unwrap_or(limits::STREAMS_AT_ONCE.into())),
                    None,
                ),
                limit("operations", Some(limits.operations), Some(running)),
                limit(
                    "expensive_reads",
                    Some(
                        door.expensive_reads
                            .unwrap_or(limits::EXPENSIVE_READS_AT_ONCE.into()),
                    ),
                    None,
                ),
                limit("dispatched_files", Some(dispatched), None),
            ],
            pause: wire::tenant_pause(account),
        })
    }
}

/// A key before it is stored.
pub(super) struct NewSecret {
    pub(super) id: String,
    pub(super) nonce: [u8; 16],
    pub(super) secret_sha256: [u8; 32],
}

impl NewSecret {
    pub(super) fn name(&self) -> String {
        format!("{}{}", wire::KEYS, self.id)
    }

    pub(super) fn row(&self, tenant: Option<TenantId>, role: Role, name: &str) -> KeyRow {
        KeyRow {
            id: self.id.clone(),
            tenant,
            role: Some(role),
            batch: None,
            secret_sha256: self.secret_sha256.to_vec(),
            name: name.to_owned(),
            created_at: Micros(0),
            expires_at: None,
            lifetime: None,
            revoked_at: None,
            last_used_at: None,
            may_add: Allowance::default(),
            added: Spent::default(),
        }
    }
}

fn days(time: Duration) -> u64 {
    time.as_secs() / (24 * 60 * 60)
}

pub(super) fn key_lifetime(
    field: &str,
    lifetime: &prost_types::Duration,
) -> Result<Duration, Refusal> {
    let lifetime = duration_from_proto(lifetime)
        .map_err(|error| Refusal::invalid(field, error.to_string()))?;
    if lifetime < limits::MIN_KEY_LIFETIME {
        let words = format!("is shorter than {} s", limits::MIN_KEY_LIFETIME.as_secs());
        return Err(Refusal::invalid(field, words));
    }
    if lifetime > limits::MAX_KEY_LIFETIME {
        let words = format!(
            "is longer than {} days: leave it out for a key that is good until it is revoked",
            days(limits::MAX_KEY_LIFETIME)
        );
        return Err(Refusal::invalid(field, words));
    }
    Ok(lifetime)
}

/// The role of a new key of a tenant, or of operators.
fn role_of(field: &str, number: i32, tenant: Option<TenantId>) -> Result<Role, Refusal> {
    let role = v1::KeyRole::try_from(number)
        .map_err(|_| Refusal::invalid(field, "is not a value of KeyRole"))?;
    let role = match (role, tenant) {
        (v1::KeyRole::Uploader, _) => {
            let words = "is not given with a key: CreateUploadToken makes upload tokens";
            return Err(Refusal::invalid(field, words));
        }
        (v1::KeyRole::Operator | v1::KeyRole::Unspecified, None) => Role::Operator,
        (_, None) => {
            let words = "works inside a tenant: name the tenant, or leave OPERATOR";
            return Err(Refusal::invalid(field, words));
        }
        (v1::KeyRole::Operator, Some(_)) => {
            let words =
                "OPERATOR works in no tenant: an operator makes such a key, and names no tenant";
            return Err(Refusal::invalid(field, words));
        }
        (v1::KeyRole::Viewer, Some(_)) => Role::Viewer,
        (v1::KeyRole::Member | v1::KeyRole::Unspecified, Some(_)) => Role::Member,
        (v1::KeyRole::Admin, Some(_)) => Role::Admin,
    };
    Ok(role)
}

/// The id in a key's name.
fn key_id(field: &str, name: &str) -> Result<String, Refusal> {
    let id = name.strip_prefix(wire::KEYS).filter(|id| {
        (1..=MAX_KEY_ID_CHARS).contains(&id.len())
            && id
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    });
    id.map(str::to_owned).ok_or_else(|| {
        let words = "must be `apiKeys/` and the id of a key, which stands in its text between the first two `_`";
        Refusal::invalid(field, words)
    })
}

/// Where a page of keys ended.
fn key_position(place: Option<Vec<u8>>) -> Result<Option<(Micros, String)>, Refusal> {
    const TIME: usize = size_of::<i64>();
    let Some(bytes) = place else {
        return Ok(None);
    };
    let position = bytes.split_at_checked(TIME).and_then(|(at, id)| {
        let at = i64::from_be_bytes(at.try_into().ok()?);
        let id = String::from_utf8(id.to_vec()).ok()?;
        key_id("", &format!("{}{id}", wire::KEYS)).ok()?;
        Some((Micros(at), id))
    });
    position.map(Some).ok_or_else(page_token::foreign)
}

fn weight(field: &str, weight: u32) -> Result<u32, Refusal> {
    if weight > limits::MAX_TENANT_WEIGHT {
        let words = format!("is more than {}", limits::MAX_TENANT_WEIGHT);
        return Err(Refusal::invalid(field, words));
    }
    Ok(weight.max(1))
}

/// Name, value and place of a limit, for each member of TenantLimits.
macro_rules! limit_changes {
    ($limits:expr, [$($name:ident),* $(,)?]) => {
        [$(LimitChange {
            name: stringify!($name),
            value: $limits.$name,
            set: |own: &mut OwnLimits, value| own.$name = value,
        }),*]
    };
}

/// A rate or a number of places of nothing would shut a tenant out, from its own limits too, or keep its files for ever.
fn lets_something_through(limit: &LimitChange) -> Result<(), Refusal> {
    let never_none = [
        "entries_per_second",
        "calls_per_second",
        "streams",
        "expensive_reads",
        "dispatched_files",
    ];
    if limit.value == Some(0) && never_none.contains(&limit.name) {
        let field = format!("tenant.limits.{}", limit.name);
        let words = "must be 1 at least: a tenant that is to do nothing is paused or closed";
        return Err(Refusal::invalid(field, words));
    }
    Ok(())
}

/// All limits, as they are asked for.
fn every_limit(limits: &v1::TenantLimits) -> [LimitChange; 12] {
    limit_changes!(
        limits,
        [
            stored_bytes,
            files,
            folders,
            files_per_batch,
            file_bytes,
            entries_per_second,
            calls_per_second,
            open_batches,
            streams,
            operations,
            expensive_reads,
            dispatched_files,
        ]
    )
}

/// What an update asks for.
pub(super) fn tenant_changes(message: &v1::UpdateTenantRequest) -> Result<TenantChanges, Refusal> {
    let tenant = message.tenant.clone().unwrap_or_default();
    let limits = tenant.limits.unwrap_or_default();
    let every_limit = every_limit(&limits);
    let paths = words::update_paths(
        message.update_mask.as_ref(),
        "`display_name`, `weight`, `pause`, `limits` or such as `limits.files`",
    )?;
    let mut changes = TenantChanges::default();
    for (index, path) in paths.iter().enumerate() {
        match path.as_str() {
            "display_name" => {
                let name = words::some_name("tenant.display_name", &tenant.display_name)?;
                changes.name = Some(name.to_owned());
            }
            "weight" => changes.weight = Some(weight("tenant.weight", tenant.weight)?),
            "pause" => {
                let pause = match &tenant.pause {
                    Some(pause) => Some(words::note("tenant.pause.note", &pause.note)?.to_owned()),
                    None => None,
                };
                changes.pause = Some(pause);
            }
            "limits" => changes.limits.extend(every_limit),
            path => {
                let named = path.strip_prefix("limits.");
                let change = named.and_then(|name| every_limit.iter().find(|one| one.name == name));
                let Some(change) = change else {
                    let field = format!("update_mask.paths[{index}]");
                    return Err(Refusal::invalid(field, "cannot be changed"));
                };
                changes.limits.push(*change);
            }
        }
    }
    changes.limits.iter().try_for_each(lets_something_through)?;
    Ok(changes)
}

/// Whoever calls, as the audit tells it.
pub(super) fn actor_of<T>(request: &Request<T>) -> Result<Actor, Refusal> {
    let scope = scope::of(request)?;
    Ok(Actor {
        words: scope.principal.clone(),
        key_id: scope.key_id.clone(),
    })
}

/// Checks a request of an operator, before anything is done for it.
pub(super) fn operators_act<T: Bounded>(request: &Request<T>) -> Result<Actor, Failure> {
    if scope::of(request)?.role != Role::Operator {
        let words = "this is for operators: use an operator's key for it";
        return Err(Refusal::permission_denied(words).into());
    }
    bounds::check(request.get_ref())?;
    Ok(actor_of(request)?)
}
