//! Rust client of Caudal: create a batch, upload a folder, watch it, act on its files.
//!
//! [`Client`] makes typed calls and repeats them when no answer came; a mutation's `request_id` is made before the
//! first send and kept, so a repeat is answered as the first time. [`ingest::Ingest`] takes a folder in,
//! [`watch::Watch`] follows a batch across restarts of the gateway; [`Client::begin`] retries, cancels or reprocesses a
//! selection of files.

pub mod bulk;
pub mod client;
pub mod error;
mod http;
pub mod ingest;
pub mod retry;
pub mod rules;
pub mod tenancy;
mod tls;
pub mod walk;
pub mod watch;

pub use bulk::{Bulk, BulkProgress};
pub use caudal_proto::longrunning::Operation;
pub use caudal_proto::v1;
pub use client::{Client, ClientSettings};
pub use error::{ClientError, RemoteRefusal};
pub use ingest::{Ingest, IngestSettings};
pub use rules::{Rules, RulesError};
pub use tenancy::Whose;
pub use watch::{Update, Watch};
