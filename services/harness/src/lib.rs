//! Test support: starts real parts on free ports and ends them with the test. Never published.

pub mod redis;
pub mod until;

pub use redis::Redis;
pub use until::until;
