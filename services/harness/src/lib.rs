//! Test support: starts real parts on free ports and ends them with the test. Never published.

pub mod database;
pub mod mesh;
pub mod port;
pub mod postgres;
pub mod postgres_proxy;
pub mod provider;
pub mod redis;
pub mod s3;
pub mod small_disk;
pub mod store_proxy;
pub mod system;
pub mod until;

pub use database::Database;
pub use mesh::{Mesh, MeshOptions};
pub use port::Port;
pub use postgres::{Postgres, PostgresOnDisk};
pub use postgres_proxy::{Loss, PostgresProxy};
pub use provider::{Asked, Mood, Provider};
pub use redis::{Redis, RedisAt};
pub use s3::S3;
pub use small_disk::SmallDisk;
pub use store_proxy::StoreProxy;
pub use system::System;
pub use until::{PATIENCE, eventually, until, until_now};
