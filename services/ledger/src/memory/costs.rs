//! What files cost at a stage: slot time, learned from what processes report.
//!
//! A file is expected to take what files of its kind and about its size lately took at the stage: those of its batch; before
//! the first of them, those of its tenant, or of all, or what is supposed of its size. An estimate that is wrong does no lasting
//! harm: what a file really took is settled with its tenant when it is reported.

use caudal_domain::{BatchRef, Stage, TenantId};
use rustc_hash::FxHashMap;

use crate::likeness::{FileKind, Likeness};

/// Slot time in microseconds.
pub(crate) type Cost = i64;

/// No file costs less: so much the ledger and the streams take for it.
pub(crate) const FLOOR: Cost = 500;
/// No file is estimated higher: after ten minutes a handler is ended.
pub(crate) const CEILING: Cost = 600_000_000;
/// What a file is supposed to take before anything is known of its tenant's files of that size: this and so much a byte.
/// Rather too much than too little: it keeps what is out small until the first reports, which come soon where work is quick.
const FIRST: Cost = 2_000;
const A_BYTE: Cost = 1;
/// The same where texts become vectors, for a model on one core. With less, the first large texts are not known for long work,
/// take every slot of the stage and keep short texts of others waiting for half a minute.
const A_BYTE_TO_EMBED: Cost = 20;
/// The part of a moving average that its newest value is.
const NEWEST: f64 = 0.125;
/// Classes in batches, of tenants and of all at stages that are remembered; beyond it they are learned anew.
const REMEMBERED: usize = 16_384;

/// What was learned. Only the ledger that leads knows it; the next one learns it within seconds.
#[derive(Default)]
pub(crate) struct Costs {
    of_sizes: FxHashMap<(Stage, Size), f64>,
    of_all: FxHashMap<(Stage, Class), f64>,
    of_tenants: FxHashMap<(Stage, TenantId, Class), f64>,
    of_batches: FxHashMap<(Stage, BatchRef, Class), f64>,
}

/// Sizes of one power of two.
type Size = u32;
/// Files of one kind and size.
type Class = (FileKind, Size);

impl Costs {
    /// What such a file of a batch will take.
    pub(crate) fn estimate(&self, stage: Stage, batch: BatchRef, like: Likeness) -> Cost {
        let class = class_of(like);
        let known = self.of_batches.get(&(stage, batch, class));
        let known = known.or_else(|| self.of_tenants.get(&(stage, batch.tenant, class)));
        if let Some(known) = known {
            return bounded(*known);
        }
        let supposed = suppose(stage, like.size);
        let of_all = self.of_all.get(&(stage, class));
        of_all.map_or(supposed, |known| bounded(*known).max(supposed))
    }

    /// Whether anything was learned of a stage.
    pub(crate) fn knows(&self, stage: Stage) -> bool {
        self.of_sizes.keys().any(|(known, _)| *known == stage)
    }

    /// What files lately took at a stage: bytes of the largest of a class, and their usual cost, by size.
    pub(crate) fn learned(&self, stage: Stage) -> Vec<(u64, Cost)> {
        let of_sizes = self.of_sizes.iter();
        let of_stage = of_sizes.filter(|((known, _), _)| *known == stage);
        let mut learned: Vec<(u64, Cost)> = of_stage
            .map(|((_, size), cost)| (largest_of(*size), bounded(*cost)))
            .collect();
        learned.sort_unstable();
        learned
    }

    /// What a file took.
    pub(crate) fn learn(&mut self, stage: Stage, batch: BatchRef, like: Likeness, took: Cost) {
        let (class, took) = (class_of(like), bounded_as_float(took));
        make_room(&mut self.of_batches);
        make_room(&mut self.of_tenants);
        make_room(&mut self.of_all);
        let of_batch = self.of_batches.entry((stage, batch, class));
        average(of_batch.or_insert(took), took);
        let of_tenant = self.of_tenants.entry((stage, batch.tenant, class));
        average(of_tenant.or_insert(took), took);
        average(self.of_all.entry((stage, class)).or_insert(took), took);
        let of_size = self.of_sizes.entry((stage, class.1));
        average(of_size.or_insert(took), took);
    }
}

/// What a file takes for all that is known before the first of its kind.
fn suppose(stage: Stage, size: u64) -> Cost {
    let a_byte = match stage {
        Stage::Embeddings => A_BYTE_TO_EMBED,
        _ => A_BYTE,
    };
    let bytes = Cost::try_from(size).unwrap_or(CEILING);
    bytes
        .saturating_mul(a_byte)
        .saturating_add(FIRST)
        .min(CEILING)
}

fn make_room<K>(learned: &mut FxHashMap<K, f64>) {
    if learned.len() >= REMEMBERED {
        learned.clear();
    }
}

fn average(known: &mut f64, newest: f64) {
    *known += (newest - *known) * NEWEST;
}

fn class_of(like: Likeness) -> Class {
    (like.kind, u64::BITS - like.size.leading_zeros())
}

fn largest_of(size: Size) -> u64 {
    u64::MAX.checked_shr(u64::BITS - size).unwrap_or(0)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "at most CEILING, which a float holds exactly"
)]
fn bounded_as_float(cost: Cost) -> f64 {
    cost.clamp(FLOOR, CEILING) as f64
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "clamped to what an integer holds; a fraction of a microsecond is nothing"
)]
fn bounded(cost: f64) -> Cost {
    cost.clamp(bounded_as_float(FLOOR), bounded_as_float(CEILING)) as Cost
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use caudal_domain::{BatchId, TenantId};
    use uuid::Uuid;

    use super::*;

    const STAGE: Stage = Stage::ExtractText;
    const SECOND: Cost = 1_000_000;

    fn batch(number: u128) -> BatchRef {
        BatchRef::new(
            TenantId::from_uuid(Uuid::from_u128(1)),
            BatchId::from_uuid(Uuid::from_u128(number)),
        )
    }

    fn is_near(cost: Cost, wanted: Cost) -> bool {
        (cost - wanted).abs() <= wanted / 10
    }

    #[test]
    fn a_file_costs_what_files_of_its_size_lately_took() {
        let mut costs = Costs::default();
        assert!(is_near(
            costs.estimate(STAGE, batch(1), Likeness::sized(1 << 20)),
            SECOND
        ));
        for _ in 0..100 {
            costs.learn(STAGE, batch(1), Likeness::sized(1 << 20), 30 * SECOND);
            costs.learn(STAGE, batch(1), Likeness::sized(100), 2_000);
        }
        // One that is new is as those before it.
        assert!(is_near(
            costs.estimate(STAGE, batch(2), Likeness::sized(1 << 20)),
            30 * SECOND
        ));
        assert!(is_near(
            costs.estimate(STAGE, batch(2), Likeness::sized(120)),
            2_000
        ));
        for _ in 0..100 {
            costs.learn(STAGE, batch(1), Likeness::sized(1 << 20), SECOND);
        }
        assert!(is_near(
            costs.estimate(STAGE, batch(1), Likeness::sized(1 << 20)),
            SECOND
        ));
    }

    #[test]
    fn files_of_a_batch_that_take_longer_than_others_of_their_size_are_known_by_their_batch() {
        let mut costs = Costs::default();
        for _ in 0..200 {
            costs.learn(STAGE, batch(1), Likeness::sized(150_000), 10_000);
            costs.learn(STAGE, batch(2), Likeness::sized(150_000), 400_000);
        }
        let (quick, slow) = (
            costs.estimate(STAGE, batch(1), Likeness::sized(150_000)),
            costs.estimate(STAGE, batch(2), Likeness::sized(150_000)),
        );
        assert!(
            is_near(quick, 10_000) && is_near(slow, 400_000),
            "{quick} and {slow}"
        );
    }

    #[test]
    fn files_of_a_kind_that_take_longer_than_others_of_their_size_are_known_by_their_kind() {
        let mut costs = Costs::default();
        let of = |name| Likeness {
            kind: FileKind::of_name(name),
            size: 150_000,
        };
        for _ in 0..200 {
            costs.learn(STAGE, batch(1), of("a.html"), 400_000);
            costs.learn(STAGE, batch(1), of("a.txt"), 4_000);
        }
        // Of a batch and tenant that nothing is known of, no less is supposed than of any file of that size.
        for number in [1, 2] {
            let slow = costs.estimate(STAGE, batch(number), of("B.HTML"));
            let quick = costs.estimate(STAGE, batch(number), of("b.txt"));
            assert!(
                is_near(slow, 400_000) && is_near(quick, 4_000),
                "{slow} and {quick}"
            );
        }
        // What is told of sizes is of all kinds.
        let told = costs.learned(STAGE);
        assert!(
            told.len() == 1 && told[0].1 > 4_000 && told[0].1 < 400_000,
            "{told:?}"
        );
    }

    #[test]
    fn what_was_learned_is_told_by_the_largest_size_of_each_class() {
        let mut costs = Costs::default();
        for size in [0, 1, 700, 1_000, 1_024, u64::MAX] {
            costs.learn(STAGE, batch(1), Likeness::sized(size), 5_000);
        }
        costs.learn(Stage::Upload, batch(1), Likeness::sized(9), 5_000);
        let sizes: Vec<u64> = costs.learned(STAGE).iter().map(|known| known.0).collect();
        assert_eq!(sizes, [0, 1, 1_023, 2_047, u64::MAX]);
        assert!(costs.learned(STAGE).iter().all(|known| known.1 == 5_000));
    }

    #[test]
    fn what_is_learned_costs_next_to_nothing() {
        const FILES: u32 = 200_000;
        let mut costs = Costs::default();
        let names = ["a.pdf", "b.html", "c.txt", "d.jpg"].map(FileKind::of_name);
        let begun = Instant::now();
        for number in 0..FILES {
            let batch = batch(u128::from(number) % 1_000);
            let like = Likeness {
                kind: names[number as usize % names.len()],
                size: u64::from(number),
            };
            let took = costs.estimate(STAGE, batch, like) + 1;
            costs.learn(STAGE, batch, like, took);
        }
        let each = begun.elapsed() / FILES;
        println!("{each:?} a file at a stage");
        // All that a file costs the ledger at a stage is some 40 µs in a release build.
        assert!(each < Duration::from_micros(20), "{each:?}");
    }

    #[test]
    fn an_estimate_is_bounded_whatever_is_reported() {
        let mut costs = Costs::default();
        for took in [Cost::MIN, 0, Cost::MAX] {
            costs.learn(STAGE, batch(1), Likeness::sized(u64::MAX), took);
            let estimate = costs.estimate(STAGE, batch(1), Likeness::sized(u64::MAX));
            assert!((FLOOR..=CEILING).contains(&estimate), "{estimate}");
        }
        for number in 0..2 * REMEMBERED as u128 {
            costs.learn(STAGE, batch(number), Likeness::sized(1), 1);
        }
        assert!(costs.of_batches.len() <= REMEMBERED);
    }
}
