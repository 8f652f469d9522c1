//! The public face of the providers: the local model where it is installed, and a remote one against a small server here.

mod local;
mod openai;
mod pictures;
mod server;

/// Who asks, where that makes no difference.
const TENANT: u128 = 1;
