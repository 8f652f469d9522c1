//! Test support: starts real parts on free ports and ends them with the test. Never published.

pub mod mesh;
pub mod port;
pub mod postgres;
pub mod postgres_proxy;
pub mod redis;
pub mod small_disk;
pub mod system;
pub mod until;

pub use mesh::{Mesh, MeshOptions};
pub use port::Port;
pub use postgres::{Postgres, PostgresOnDisk};
pub use postgres_proxy::{Loss, PostgresProxy};
pub use redis::Redis;
pub use small_disk::SmallDisk;
pub use system::System;
pub use until::until;
