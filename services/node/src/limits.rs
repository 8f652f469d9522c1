//! What a server of the mesh bears, each limit explicit: the defaults of the libraries below are open.

use std::time::Duration;

/// Bytes of one gRPC message that a service decodes. Every page of the API fits; set it on each service wrapper with
/// `max_decoding_message_size`. A bigger message is OUT_OF_RANGE with its size and this limit in words.
pub const MAX_DECODE_BYTES: usize = 4 * 1024 * 1024;

/// Bytes of one gRPC message that a service encodes: a lease page carries facts of earlier stages. Set it on each
/// service wrapper with `max_encoding_message_size`, and as decoding limit on clients of the mesh.
pub const MAX_ENCODE_BYTES: usize = 16 * 1024 * 1024;

/// Limits of one listening server.
#[derive(Debug, Clone)]
pub struct ServerLimits {
    /// Connections open at once; where all have shown a credential, further ones wait in the listener's queue.
    pub connections: usize,
    /// Of one address, but for those of this machine.
    pub connections_of_one_peer: usize,
    /// How long a connection may take until a request with a good credential has come.
    pub credential_timeout: Duration,
    /// HTTP/2 streams open at once on one connection.
    pub streams_per_connection: u32,
    /// Streams a peer may have reset before they were accepted (the "rapid reset" attack); more ends the connection.
    pub pending_accept_resets: usize,
    /// Streams we may have reset because of a peer's errors (RUSTSEC-2024-0003); more ends the connection.
    pub local_error_resets: usize,
    /// Bytes of all headers of a request.
    pub header_list_bytes: u32,
    /// Bytes a peer may send on one stream before we have read them.
    pub stream_window_bytes: u32,
    /// Bytes a peer may send on one connection before we have read them.
    pub connection_window_bytes: u32,
    /// Bytes of answers buffered for one stream whose reader is slow.
    pub send_buffer_bytes: usize,
    /// How often an idle HTTP/2 connection is probed.
    pub keepalive_interval: Duration,
    /// How long a probe may stay unanswered before the connection is cut.
    pub keepalive_timeout: Duration,
    /// How long a new connection may take until the head of its first request is there, handshakes and the preface of
    /// HTTP/2 included, and how long the headers of an HTTP/1.1 request may take.
    pub header_timeout: Duration,
    /// How long a gRPC call may take until its answer begins, the reading of its request included. A shorter
    /// `grpc-timeout` of the caller wins.
    pub call_timeout: Duration,
    /// How long calls in flight may take to finish at shutdown; then they are cut.
    pub drain_deadline: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_of_one_peer: 2_500,
            credential_timeout: Duration::from_secs(30),
            streams_per_connection: 100,
            pending_accept_resets: 20,
            local_error_resets: 1024,
            header_list_bytes: 16 * 1024,
            stream_window_bytes: 1024 * 1024,
            connection_window_bytes: 4 * 1024 * 1024,
            send_buffer_bytes: 256 * 1024,
            keepalive_interval: Duration::from_secs(30),
            keepalive_timeout: Duration::from_secs(20),
            header_timeout: Duration::from_secs(10),
            call_timeout: Duration::from_secs(60),
            drain_deadline: Duration::from_secs(25),
        }
    }
}
