//! Dispatch streams on Redis: two streams for each stage, and one consumer group on both ([`Lane`]). The database holds the
//! truth; what stands here may be lost, doubled or late, and no file with it.
//!
//! [`Streams`] is the handle of a process: publish, acknowledge, inspect, remove, measure. [`Reader`] reads a stage's
//! stream for one consumer on a connection of its own, because a blocking read holds everything behind it.

mod codec;
mod connection;
mod entry;
mod error;
mod inspect;
mod lane;
mod names;
mod publish;
mod reader;
mod timeouts;

pub use codec::{DecodeError, Dispatch, decode, encode};
pub use connection::Streams;
pub use entry::Entry;
pub use error::StreamsError;
pub use inspect::{INSPECT_LIMIT, Pending, Standing, StreamView};
pub use lane::Lane;
pub use names::{DEFAULT_PREFIX, Names};
pub use publish::Publisher;
pub use reader::{Read, Reader};
