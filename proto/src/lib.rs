//! The contract: generated code of `caudal.v1` (public) and `caudal.mesh.v1` (between services), the descriptors for
//! server reflection, `google.longrunning` as bulk acts answer with it, conversions to and from the domain, and the one mapping of a [`caudal_domain::Refusal`] to
//! gRPC status with google.rpc details.

pub mod convert;
pub mod status;

/// The encoded `FileDescriptorSet` of every proto here, for server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/caudal.bin"));

/// The same of what errors carry, `google/rpc`.
pub const DETAILS_DESCRIPTOR_SET: &[u8] = tonic_types::pb::FILE_DESCRIPTOR_SET;

/// The public API.
#[allow(missing_docs, reason = "generated: the protos carry the comments")]
#[allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::needless_pass_by_value,
    unreachable_pub
)]
pub mod v1 {
    tonic::include_proto!("caudal.v1");
}

/// `google.longrunning`: the operations that bulk acts are.
#[allow(missing_docs, reason = "generated: the protos carry the comments")]
#[allow(
    clippy::all,
    clippy::cast_lossless,
    clippy::needless_pass_by_value,
    unreachable_pub
)]
pub mod longrunning {
    tonic::include_proto!("google.longrunning");
}

/// The API between services.
pub mod mesh {
    /// Version 1.
    #[allow(missing_docs, reason = "generated: the protos carry the comments")]
    #[allow(
        clippy::all,
        clippy::cast_lossless,
        clippy::needless_pass_by_value,
        unreachable_pub
    )]
    pub mod v1 {
        tonic::include_proto!("caudal.mesh.v1");
    }
}
