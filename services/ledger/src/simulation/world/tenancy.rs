//! Those who run tenants and keys: they limit, pause and close tenants, make others, and make, rotate and revoke keys, and
//! repeat what is not answered.

use caudal_node::scope::Role;
use caudal_proto::mesh::v1::KeyAnswer;
use caudal_proto::v1;
use prost::Message;

use super::*;
use crate::settings::OwnLimits;
use crate::store::credentials::{Allowance, KeyRow, Spent};
use crate::store::tenants::Account;
use crate::writer::audited::{Act, Actor};
use crate::writer::verbs::create_key::CreateKey;
use crate::writer::verbs::create_tenant::CreateTenant;
use crate::writer::verbs::note_key_use::NoteKeyUse;
use crate::writer::verbs::revoke_key::RevokeKey;
use crate::writer::verbs::rotate_key::RotateKey;
use crate::writer::verbs::update_stage::UpdateStage;
use crate::writer::verbs::update_tenant::{LimitChange, TenantChanges, UpdateTenant};
use crate::writer::verbs::wake_batch::WakeBatch;

/// Tenants of a history at most.
const MOST_TENANTS: usize = 4;
/// The operator's key that every history begins with.
const FIRST_KEY: &str = "first";

/// An act on tenants or keys.
#[derive(Clone)]
pub(super) enum Ask {
    Create(CreateTenant),
    Update(UpdateTenant),
    Make(CreateKey),
    Revoke(RevokeKey),
    Rotate(RotateKey),
    Stage(UpdateStage),
}

enum Asked {
    Tenant(Answered<v1::Tenant>),
    NewKey(Answered<KeyAnswer>),
    Key(Answered<v1::ApiKey>),
    Stage(Answered<v1::Stage>),
}

fn encoded<A: Message + Default>(
    answer: &mut Answered<A>,
) -> Option<Option<Result<Vec<u8>, Refusal>>> {
    let answer = answered(answer)?;
    Some(answer.map(|answer| answer.map(|message| message.encode_to_vec())))
}

impl Asked {
    fn answer(&mut self) -> Option<Option<Result<Vec<u8>, Refusal>>> {
        match self {
            Self::Tenant(answer) => encoded(answer),
            Self::NewKey(answer) => encoded(answer),
            Self::Key(answer) => encoded(answer),
            Self::Stage(answer) => encoded(answer),
        }
    }
}

/// An act under way.
pub(super) struct TenancyAct {
    ask: Ask,
    asked: Asked,
    /// What it was answered before it was repeated.
    first: Option<Vec<u8>>,
}

/// A batch that is to be woken, until somebody has done so.
pub(super) type Waking = (BatchRef, Answered<()>);

/// Files of a tenant that may be out at once.
const DISPATCHED_FILES: &str = "dispatched_files";

/// The limits that are changed in histories.
const LIMITS: [LimitChange; 4] = [
    LimitChange {
        name: DISPATCHED_FILES,
        value: None,
        set: |limits, value| limits.dispatched_files = value,
    },
    LimitChange {
        name: "files",
        value: None,
        set: |limits, value| limits.files = value,
    },
    LimitChange {
        name: "open_batches",
        value: None,
        set: |limits, value| limits.open_batches = value,
    },
    LimitChange {
        name: "operations",
        value: None,
        set: |limits, value| limits.operations = value,
    },
];

/// What is there before anybody comes.
pub(super) fn begin(tables: &mut Tables, tenants: impl IntoIterator<Item = TenantId>, now: Micros) {
    for tenant in tenants {
        let row = TenantRow::new(tenant, "{}".into(), 1);
        let account = Account {
            row: row.clone(),
            name: tenant.to_string(),
            pause: None,
            created_at: now,
            closed_at: None,
        };
        tables.tenants.insert(tenant, Arc::new(row));
        tables.accounts.insert(tenant, Arc::new(account));
    }
    let key = KeyRow {
        created_at: now,
        ..new_key(FIRST_KEY.into(), None, Role::Operator)
    };
    tables.keys.insert(FIRST_KEY.into(), Arc::new(key));
}

fn new_key(id: String, tenant: Option<TenantId>, role: Role) -> KeyRow {
    KeyRow {
        id,
        tenant,
        role: Some(role),
        batch: None,
        secret_sha256: vec![0; 32],
        name: String::new(),
        created_at: Micros::default(),
        expires_at: None,
        lifetime: None,
        revoked_at: None,
        last_used_at: None,
        may_add: Allowance::default(),
        added: Spent::default(),
    }
}

impl World {
    /// Whether a tenant is closed: what is left of it stays as it is.
    pub(super) fn is_closed(&self, tenant: TenantId) -> bool {
        self.committed(|tables| {
            let account = tables.accounts.get(&tenant);
            account.is_some_and(|account| account.closed_at.is_some())
        })
    }

    pub(super) fn act(&mut self, call: &'static str, tenant: Option<TenantId>) -> Act {
        Act {
            id: self.id(),
            actor: Actor {
                words: "simulation".into(),
                key_id: FIRST_KEY.into(),
            },
            tenant,
            call,
            target: String::new(),
            detail: String::new(),
        }
    }

    fn any_tenant(&mut self) -> TenantId {
        let tenants: Vec<TenantId> =
            self.committed(|tables| tables.accounts.keys().copied().collect());
        tenants[self.dice.random_range(0..tenants.len())]
    }

    fn any_key(&mut self) -> KeyRow {
        let keys: Vec<Arc<KeyRow>> =
            self.committed(|tables| tables.keys.values().cloned().collect());
        KeyRow::clone(&keys[self.dice.random_range(0..keys.len())])
    }

    /// Somebody does something to tenants or keys.
    pub(super) fn run_tenants(&mut self) {
        self.finish_acts();
        let ask = match self.dice.random_range(0..15_u32) {
            0 => {
                let tenants = self.committed(|tables| tables.accounts.len());
                if tenants >= MOST_TENANTS {
                    return;
                }
                let tenant = TenantId::from_uuid(self.id());
                Ask::Create(CreateTenant {
                    tenant,
                    request: self.key("CreateTenant"),
                    // Now and then another is called so, or is about to be.
                    name: format!("tenant {}", self.dice.random_range(0..MOST_TENANTS)),
                    limits: OwnLimits::default(),
                    weight: self.dice.random_range(1..4),
                    act: self.act("CreateTenant", Some(tenant)),
                })
            }
            1..=7 => {
                let tenant = self.any_tenant();
                let changes = self.tenant_changes(tenant);
                self.update_of(tenant, changes)
            }
            8..=11 => self.make_key(),
            12 => {
                let key = self.any_key().id;
                let answer = self.leader.ask(NoteKeyUse { key });
                return self.ended.push(answer);
            }
            13 => {
                let key = self.any_key();
                Ask::Revoke(RevokeKey {
                    asked_in: key.tenant.unwrap_or(TenantId::OPERATORS),
                    request: self.key("RevokeKey"),
                    tenant: key.tenant,
                    key: key.id,
                    act: self.act("RevokeKey", key.tenant),
                })
            }
            _ => {
                let key = self.any_key();
                Ask::Rotate(RotateKey {
                    asked_in: key.tenant.unwrap_or(TenantId::OPERATORS),
                    request: self.key("RotateKey"),
                    tenant: key.tenant,
                    key: key.id,
                    overlap: Duration::from_secs(self.dice.random_range(0..60)),
                    new_id: self.id().to_string(),
                    new_secret_sha256: vec![1; 32],
                    nonce: [0; 16],
                    act: self.act("RotateKey", key.tenant),
                })
            }
        };
        self.ask_for(ask, None);
    }

    fn make_key(&mut self) -> Ask {
        let roles = [Role::Viewer, Role::Member, Role::Admin, Role::Operator];
        let role = roles[self.dice.random_range(0..roles.len())];
        let id = self.id().to_string();
        let key = match self.unfilled_batch() {
            Some(batch) if !self.one_in(4) => KeyRow {
                batch: Some(batch.batch),
                may_add: Allowance {
                    files: Some(self.dice.random_range(0..4)),
                    bytes: None,
                },
                ..new_key(id, Some(batch.tenant), Role::Uploader)
            },
            _ => {
                let tenant = self.any_tenant();
                new_key(id, (role != Role::Operator).then_some(tenant), role)
            }
        };
        Ask::Make(CreateKey {
            asked_in: key.tenant.unwrap_or(TenantId::OPERATORS),
            request: self.key("CreateKey"),
            nonce: [0; 16],
            lifetime: self.one_in(3).then_some(Duration::from_secs(30)),
            act: self.act("CreateKey", key.tenant),
            key,
        })
    }

    /// A batch whose client has pages to add, or any.
    fn unfilled_batch(&mut self) -> Option<BatchRef> {
        let clients = self.clients.iter();
        let unfilled = clients.filter(|client| !client.gives_up && client.added.contains(&None));
        let unfilled: Vec<BatchRef> = unfilled.filter_map(|client| client.created).collect();
        if unfilled.is_empty() {
            return self.any_batch();
        }
        Some(unfilled[self.dice.random_range(0..unfilled.len())])
    }

    fn tenant_changes(&mut self, tenant: TenantId) -> TenantChanges {
        let used = self.committed(|tables| tables.tenants[&tenant].used_files);
        let mut changes = TenantChanges::default();
        match self.dice.random_range(0..10_u32) {
            0..=2 => changes.pause = Some(Some(String::new())),
            3..=4 => changes.pause = Some(None),
            5..=7 => {
                let limit = LIMITS[self.dice.random_range(0..LIMITS.len())];
                let least = match limit.name {
                    "files" => used,
                    DISPATCHED_FILES => 1,
                    _ => 0,
                };
                let value = Some(least + self.dice.random_range(0..6));
                changes.limits = vec![LimitChange { value, ..limit }];
            }
            8 => changes.weight = Some(self.dice.random_range(1..4)),
            _ => changes.close = true,
        }
        changes
    }

    fn update_of(&mut self, tenant: TenantId, changes: TenantChanges) -> Ask {
        self.note(|| format!("tenant {tenant} is changed: {changes:?}"));
        Ask::Update(UpdateTenant {
            tenant,
            request: self.key("UpdateTenant"),
            changes,
            act: self.act("UpdateTenant", Some(tenant)),
        })
    }

    pub(super) fn ask_for(&mut self, mut ask: Ask, first: Option<Vec<u8>>) {
        // The server names what is made anew each time.
        match &mut ask {
            Ask::Create(create) => create.tenant = TenantId::from_uuid(self.id()),
            Ask::Make(make) => make.key.id = self.id().to_string(),
            Ask::Rotate(rotate) => rotate.new_id = self.id().to_string(),
            Ask::Update(_) | Ask::Revoke(_) | Ask::Stage(_) => {}
        }
        let asked = match ask.clone() {
            Ask::Create(verb) => Asked::Tenant(self.leader.ask(verb)),
            Ask::Update(verb) => Asked::Tenant(self.leader.ask(verb)),
            Ask::Make(verb) => Asked::NewKey(self.leader.ask(verb)),
            Ask::Rotate(verb) => Asked::NewKey(self.leader.ask(verb)),
            Ask::Revoke(verb) => Asked::Key(self.leader.ask(verb)),
            Ask::Stage(verb) => Asked::Stage(self.leader.ask(verb)),
        };
        self.acts.push(TenancyAct { ask, asked, first });
    }

    /// What was answered is looked at, and what was not is asked again.
    pub(super) fn finish_acts(&mut self) {
        for mut act in std::mem::take(&mut self.acts) {
            match act.asked.answer() {
                None => self.acts.push(act),
                Some(None) => self.ask_for(act.ask, act.first),
                // It may have been done all the same.
                Some(Some(Err(refusal)))
                    if refusal.kind == caudal_domain::RefusalKind::Unavailable =>
                {
                    self.ask_for(act.ask, act.first);
                }
                Some(Some(Err(_))) if act.first.is_none() => {}
                Some(Some(Err(refusal))) => {
                    self.breaks(format!("a repeated act was refused: {refusal:?}"));
                }
                Some(Some(Ok(answer))) => self.finish_act(&act.ask, answer, act.first.as_ref()),
            }
        }
        for (batch, mut answer) in std::mem::take(&mut self.wakings) {
            match answered(&mut answer) {
                None => self.wakings.push((batch, answer)),
                Some(Some(Ok(()))) => {}
                Some(_) => self.wake(batch),
            }
        }
    }

    fn finish_act(&mut self, ask: &Ask, answer: Vec<u8>, first: Option<&Vec<u8>>) {
        if let Ask::Update(update) = ask
            && update.changes.pause == Some(None)
        {
            let tenant = update.tenant;
            let live: Vec<BatchRef> = self.committed(|tables| {
                let live = tables.batches.iter();
                let live =
                    live.filter(|(key, row)| key.tenant == tenant && !row.0.state.is_ended());
                live.map(|(key, _)| *key).collect()
            });
            for batch in live {
                self.wake(batch);
            }
        }
        match first {
            Some(first) if *first != answer => {
                self.breaks("a repeated act of operators was answered otherwise".into());
            }
            Some(_) => {}
            None => {
                if let Ask::Create(_) = ask {
                    self.take_in(&answer);
                }
                if self.faults && self.one_in(3) {
                    self.ask_for(ask.clone(), Some(answer));
                }
            }
        }
    }

    /// A new tenant brings a batch.
    fn take_in(&mut self, answer: &[u8]) {
        let name = v1::Tenant::decode(answer).map(|tenant| tenant.name);
        let name = name.unwrap_or_default();
        let made = self.committed(|tables| {
            let mut made = tables.accounts.keys();
            made.find(|tenant| caudal_domain::names::tenant_name(**tenant) == name)
                .copied()
        });
        match made {
            Some(tenant) => {
                let client = self.new_client(tenant);
                self.clients.push(client);
            }
            None => self.breaks(format!("{name} was answered, and there is none")),
        }
    }

    fn wake(&mut self, batch: BatchRef) {
        let answer = self.leader.ask(WakeBatch { batch });
        self.wakings.push((batch, answer));
    }

    /// An upload token of a batch, for one of its pages.
    pub(super) fn any_token(&mut self, batch: BatchRef) -> Option<String> {
        let tokens: Vec<String> = self.committed(|tables| {
            let keys = tables.keys.values();
            let tokens = keys
                .filter(|key| (key.tenant, key.batch) == (Some(batch.tenant), Some(batch.batch)));
            tokens.map(|key| key.id.clone()).collect()
        });
        if tokens.is_empty() || self.one_in(4) {
            return None;
        }
        Some(tokens[self.dice.random_range(0..tokens.len())].clone())
    }

    /// Whether nothing is under way that is done to tenants, keys and stages.
    pub(super) fn has_no_acts(&self) -> bool {
        self.acts.is_empty()
    }

    /// Tenants that are not closed go on, and may keep what they like.
    pub(super) fn let_tenants_go_on(&mut self) {
        let held: Vec<TenantId> = self.committed(|tables| {
            let accounts = tables.accounts.values();
            let held = accounts.filter(|account| {
                let limited = account.row.limits != "{}";
                account.closed_at.is_none() && (account.pause.is_some() || limited)
            });
            held.map(|account| account.row.tenant).collect()
        });
        for tenant in held {
            let changes = TenantChanges {
                pause: Some(None),
                limits: LIMITS.to_vec(),
                ..TenantChanges::default()
            };
            let ask = self.update_of(tenant, changes);
            self.ask_for(ask, None);
        }
    }
}
