//! What makes a process a member of the mesh: its server (health, reflection, metrics, limits, drain), its channels to
//! others, telemetry with W3C trace context, the signed scope of a caller, hints over Redis, and the limiter's client.

pub mod api_key;
pub mod callers;
pub mod channels;
pub mod health;
pub mod hints;
pub mod leader;
pub mod limits;
pub mod metrics;
pub mod permission;
pub mod permits;
mod rarely;
mod reflection;
pub mod scope;
pub mod server;
pub mod slots;
pub mod telemetry;
pub mod tls;
pub mod trace;
mod used;

/// Goes with each request of a connection: whoever has found its credential good says so, and the connection stays.
pub use caudal_connections::Proof;
pub use channels::{Channels, with_deadline};
pub use health::Health;
pub use leader::LeaderChannel;
pub use limits::{MAX_DECODE_BYTES, MAX_ENCODE_BYTES, ServerLimits};
pub use metrics::Registry;
pub use rarely::Rarely;
pub use scope::{MeshChannel, MeshSecret, Role, Scope, ScopeGuard, ServiceIdentity};
pub use server::{ServeError, Server, ServerParts, Settings};
pub use tls::{BadCertificate, Certificate, MeshTls};
pub use trace::TraceContext;
