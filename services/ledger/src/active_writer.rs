//! The way from the API to the writer: there is one only while this ledger leads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use caudal_domain::Refusal;
use caudal_node::leader::LEADER_METADATA;
use caudal_node::scope::ScopeGuard;
use tonic::metadata::MetadataValue;
use tonic::service::Interceptor;
use tonic::{Request, Status};

use crate::writer::WriterHandle;
use crate::writer::verb::Verb;

/// Callers of a ledger that stands by may try again after this.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Whether this ledger leads.
#[derive(Clone)]
pub(crate) enum Role {
    Leads(WriterHandle),
    StandsBy { leader: String },
}

/// Where the API finds the writer, while this ledger leads.
#[derive(Clone)]
pub(crate) struct ActiveWriter {
    role: Arc<RwLock<Role>>,
}

impl ActiveWriter {
    pub(crate) fn new() -> Self {
        let role = Role::StandsBy {
            leader: String::new(),
        };
        Self {
            role: Arc::new(RwLock::new(role)),
        }
    }

    fn role(&self) -> Role {
        self.role
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set(&self, role: Role) {
        *self.role.write().unwrap_or_else(PoisonError::into_inner) = role;
    }

    /// Asks the writer.
    ///
    /// # Errors
    /// What the verb is refused with; UNAVAILABLE while another ledger leads.
    pub(crate) async fn ask<V: Verb>(&self, verb: V) -> Result<V::Answer, Refusal> {
        match self.role() {
            Role::Leads(writer) => writer.ask(verb).await,
            Role::StandsBy { leader } => Err(standing_by(&leader)),
        }
    }
}

fn standing_by(leader: &str) -> Refusal {
    let words =
        "this ledger stands by; the active one answers: repeat the call with the same request_id";
    Refusal::unavailable(words, RETRY_AFTER)
        .with_reason("STANDBY")
        .with_metadata("leader", leader)
}

/// Lets calls in while this ledger leads, and sends them to the active one otherwise.
#[derive(Clone)]
pub(crate) struct LeaderGuard {
    scope: ScopeGuard,
    writer: ActiveWriter,
    led: Arc<AtomicBool>,
}

impl LeaderGuard {
    pub(crate) fn new(scope: ScopeGuard, writer: ActiveWriter) -> Self {
        Self {
            scope,
            writer,
            led: Arc::default(),
        }
    }
}

impl Interceptor for LeaderGuard {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let role = self.writer.role();
        let leads = matches!(role, Role::Leads(_));
        if self.led.swap(leads, Ordering::AcqRel) != leads && leads {
            // Another took calls before.
            self.scope.take_over();
        }
        let request = self.scope.call(request)?;
        match role {
            Role::Leads(_) => Ok(request),
            Role::StandsBy { leader } => {
                let mut status = caudal_proto::status::to_status(&standing_by(&leader));
                if let Ok(address) = MetadataValue::try_from(leader) {
                    status.metadata_mut().insert(LEADER_METADATA, address);
                }
                Err(status)
            }
        }
    }
}
