//! How an object is cut into parts: equal ones but the last, as every S3 takes them.

use std::ops::Range;

/// The most parts an upload has.
pub const MAX_PARTS: u64 = 10_000;
/// The least size of every part but the last, in bytes.
pub const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;

/// A cut of `size` bytes into equal parts but the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartPlan {
    size: u64,
    part_bytes: u64,
}

impl PartPlan {
    /// Parts of about `wanted_part_bytes`: more where the store's bounds ask for it ([`MIN_PART_BYTES`], [`MAX_PARTS`]).
    pub fn new(size: u64, wanted_part_bytes: u64) -> PartPlan {
        let part_bytes = wanted_part_bytes
            .max(MIN_PART_BYTES)
            .max(size.div_ceil(MAX_PARTS));
        PartPlan { size, part_bytes }
    }

    /// The size of every part but the last.
    pub fn part_bytes(&self) -> u64 {
        self.part_bytes
    }

    /// How many parts; an empty object has one empty part.
    pub fn count(&self) -> u32 {
        let count = self.size.div_ceil(self.part_bytes).max(1);
        // MAX_PARTS fits.
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// The bytes of the part of that number (1 is the first), or none when there is no such part.
    pub fn range(&self, number: u32) -> Option<Range<u64>> {
        if number == 0 || number > self.count() {
            return None;
        }
        let start = u64::from(number - 1) * self.part_bytes;
        Some(start..self.size.min(start + self.part_bytes))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;
    const TIB: u64 = 1024 * 1024 * MIB;

    #[test]
    fn parts_cover_every_byte_once_and_are_equal_but_the_last() {
        for size in [0, 1, 5 * MIB, 5 * MIB + 1, 17 * MIB, 5 * TIB, 5 * TIB - 1] {
            for wanted in [1, 8 * MIB, 512 * MIB] {
                let plan = PartPlan::new(size, wanted);
                assert!(u64::from(plan.count()) <= MAX_PARTS);
                let mut next = 0;
                for number in 1..=plan.count() {
                    let range = plan.range(number).unwrap();
                    assert_eq!(range.start, next);
                    if number < plan.count() {
                        assert_eq!(range.end - range.start, plan.part_bytes());
                    }
                    next = range.end;
                }
                assert_eq!(next, size);
                assert!(plan.part_bytes() >= MIN_PART_BYTES);
            }
        }
    }

    #[test]
    fn a_hundred_gib_and_the_largest_object_of_s3_go_in_parts_that_every_store_takes() {
        const GIB: u64 = 1024 * MIB;
        // As clients are told to cut them.
        let cut = |size| {
            let plan = PartPlan::new(size, 16 * MIB);
            let last = plan.range(plan.count()).unwrap();
            (plan.count(), plan.part_bytes(), last.end - last.start)
        };
        assert_eq!(cut(16 * MIB + 1), (2, 16 * MIB, 1));
        assert_eq!(cut(6 * GIB), (384, 16 * MIB, 16 * MIB));
        assert_eq!(cut(100 * GIB), (6_400, 16 * MIB, 16 * MIB));
        // From 156 GiB on they grow, so that there are never more than 10,000.
        assert_eq!(cut(160_000 * MIB), (10_000, 16 * MIB, 16 * MIB));
        assert_eq!(
            cut(160_000 * MIB + 1),
            (10_000, 16 * MIB + 1, 16 * MIB - 9_998)
        );
        let (count, part, last) = cut(5 * TIB);
        assert_eq!((count, part), (10_000, 549_755_814));
        assert!(last <= part && part <= 5 * GIB, "{last} {part}");
    }

    #[test]
    fn there_is_no_part_zero_and_none_after_the_last() {
        let plan = PartPlan::new(11 * MIB, 5 * MIB);
        assert_eq!(plan.count(), 3);
        assert_eq!(plan.range(0), None);
        assert_eq!(plan.range(3), Some(10 * MIB..11 * MIB));
        assert_eq!(plan.range(4), None);
    }
}
