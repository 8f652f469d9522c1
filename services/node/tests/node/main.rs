//! The mesh over real gRPC on free ports: what a server serves, bears and how it ends; scope, trace, slots, permits and
//! hints between two processes' worth of parts.
#![expect(clippy::unwrap_used)]

mod fakes;
mod hints;
mod limiter_clients;
mod server;
mod tls;
mod traces;
