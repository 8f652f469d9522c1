//! What the one-process system brings along, so that a person needs nothing but the program: an S3 server on a folder
//! ([`S3Server`]), a private redis that dies with its parent ([`RedisChild`]) and the folder both live in, locked for
//! one user at a time ([`DataFolder`]).

mod data_folder;
mod redis_child;
mod redis_program;
mod s3;

pub use data_folder::{DataFolder, DataFolderError, Secrets};
pub use redis_child::{RedisChild, RedisError, RedisSettings};
pub use redis_program::{
    CHILD_ARGUMENT, Launcher, NoRedisServer, find_redis_server, run_redis_child_if_asked,
};
pub use s3::{
    DoorBody, DoorError, Durability, MAX_KEY_BYTES, OnRequest, S3Door, S3Server, S3ServerError,
    S3Settings,
};

/// Random bytes as lower-case hex: `bytes` of them, so twice as many characters.
pub(crate) fn random_hex(bytes: usize) -> String {
    let mut raw = vec![0_u8; bytes];
    rand::RngExt::fill(&mut rand::rng(), raw.as_mut_slice());
    hex::encode(raw)
}
