//! Where the store is and who may use it.

use std::fmt;
use std::time::Duration;

use crate::transport::InProcess;

/// The largest object S3 copies in one request; larger ones are copied in parts.
const MAX_SINGLE_COPY_BYTES: u64 = 5 * 1024 * 1024 * 1024;
/// How long a store is waited for.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// The size of a copied part: few enough requests, short enough to be repeated.
const COPY_PART_BYTES: u64 = 512 * 1024 * 1024;

/// How to reach an S3 store. `Debug` hides the keys.
#[derive(Clone)]
pub struct Settings {
    /// `http(s)://HOST[:PORT]`, as our own services reach it.
    pub endpoint: String,
    /// The same store as browsers and other clients reach it, where that differs: presigned URLs name this one.
    pub public_endpoint: Option<String>,
    /// The region that signatures name (`us-east-1`; R2 wants `auto`).
    pub region: String,
    /// The bucket of everything.
    pub bucket: String,
    /// Certificates to trust beside those of the system, as PEM: for a store whose authority is your own.
    pub ca_pem: Option<Vec<u8>>,
    /// The access key.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// Whether nobody on the way to the store could change what is sent, as on one machine: bodies over plain http are then
    /// not hashed for their signatures. Over https they never are.
    pub trusts_network: bool,
    /// The store itself, where it is in this process: what is done with every file is a call of it. All else goes to the
    /// endpoint, as do those whom URLs are signed for.
    pub in_process: Option<InProcess>,
    /// Whether the bucket is in the path (`HOST/BUCKET/KEY`, everywhere but on AWS) or in the host name.
    pub force_path_style: bool,
    /// How long the store may be silent (30 s), before its answer and in it; twenty times as long before a copy is done.
    pub answer_within: Duration,
    /// Objects larger than this many bytes are copied in parts (5 GiB, S3's bound). For tests.
    pub copy_in_parts_above: u64,
    /// The size of a copied part in bytes (512 MiB), 5 MiB at least.
    pub copy_part_bytes: u64,
}

impl Settings {
    /// A path-style store in region `us-east-1`, with the default sizes.
    pub fn new(
        endpoint: impl Into<String>,
        bucket: impl Into<String>,
        access_key: impl Into<String>,
        secret_key: impl Into<String>,
    ) -> Settings {
        Settings {
            endpoint: endpoint.into(),
            public_endpoint: None,
            region: "us-east-1".to_owned(),
            bucket: bucket.into(),
            ca_pem: None,
            access_key: access_key.into(),
            secret_key: secret_key.into(),
            trusts_network: false,
            in_process: None,
            force_path_style: true,
            answer_within: ANSWER_WITHIN,
            copy_in_parts_above: MAX_SINGLE_COPY_BYTES,
            copy_part_bytes: COPY_PART_BYTES,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Settings")
            .field("endpoint", &self.endpoint)
            .field("public_endpoint", &self.public_endpoint)
            .field("region", &self.region)
            .field("bucket", &self.bucket)
            .finish_non_exhaustive()
    }
}
