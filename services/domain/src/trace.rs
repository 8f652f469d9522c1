//! The trace of a file, derived from what it is: nothing is stored or carried while it waits.

use sha2::{Digest, Sha256};

use crate::ids::{FileRef, Generation};

/// The trace id of a file: the first 16 bytes of sha256 over tenant, batch, ordinal and generation, numbers big-endian.
#[must_use]
pub fn file_trace_id(file: FileRef, generation: Generation) -> [u8; 16] {
    let mut hasher = Sha256::new();
    hasher.update(file.tenant.as_bytes());
    hasher.update(file.batch.as_bytes());
    hasher.update(file.ordinal.to_be_bytes());
    hasher.update(generation.get().to_be_bytes());
    let digest = hasher.finalize();
    let mut trace_id = [0; 16];
    trace_id.copy_from_slice(&digest[..16]);
    trace_id
}

/// Whether a trace is sampled: decided by its last 8 bytes alone, so that every service decides the same. A ratio of 0
/// or less samples none, 1 or more samples all.
#[must_use]
pub fn sampled(trace_id: [u8; 16], ratio: f64) -> bool {
    if ratio >= 1.0 {
        return true;
    }
    if ratio.is_nan() || ratio <= 0.0 {
        return false;
    }
    let mut low = [0; 8];
    low.copy_from_slice(&trace_id[8..]);
    // The upper 63 bits, as OpenTelemetry's ratio sampler takes them.
    let position = u64::from_be_bytes(low) >> 1;
    let bound = (ratio * (1_u64 << 63) as f64) as u64;
    position < bound
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::ids::{BatchId, TenantId};

    fn trace_of(ordinal: u32, generation: u32) -> [u8; 16] {
        let file = FileRef::new(
            TenantId::from_uuid(Uuid::from_u128(1)),
            BatchId::from_uuid(Uuid::from_u128(2)),
            ordinal,
        );
        file_trace_id(file, Generation(generation))
    }

    #[test]
    fn a_file_has_one_trace_a_generation_and_it_never_changes() {
        // Written down, so that a change of the derivation, which would cut traces in two, is seen.
        assert_eq!(
            hex::encode(trace_of(13, 1)),
            "2a0a54b471b1cfbc19c9f2e265296b7e"
        );
        assert_ne!(trace_of(13, 1), trace_of(13, 2));
        assert_ne!(trace_of(13, 1), trace_of(14, 1));
    }

    #[test]
    fn about_as_many_traces_are_sampled_as_the_ratio_says() {
        let files = 20_000;
        let sampled_files = (0..files)
            .filter(|ordinal| sampled(trace_of(*ordinal, 1), 0.1))
            .count();
        assert!((1800..2200).contains(&sampled_files), "{sampled_files}");
    }

    proptest! {
        #[test]
        fn a_trace_sampled_at_a_ratio_is_sampled_at_every_higher_one(
            trace_id in any::<[u8; 16]>(), one in 0.0..=1.0_f64, other in 0.0..=1.0_f64
        ) {
            let (low, high) = if one < other { (one, other) } else { (other, one) };
            prop_assert!(!sampled(trace_id, low) || sampled(trace_id, high));
            prop_assert!(!sampled(trace_id, 0.0));
            prop_assert!(sampled(trace_id, 1.0));
            prop_assert!(!sampled(trace_id, f64::NAN));
        }
    }
}
