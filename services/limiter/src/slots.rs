//! Tier 2: worker slots, leased by stage processes and given back by silence. The sum of what is granted never exceeds
//! a stage's limit nor the total, at any moment and in any order of calls; who wants more than there is gets a fair part.

use std::collections::BTreeMap;
use std::time::Duration;

use caudal_domain::{Refusal, Stage};
use tokio::time::Instant;

use crate::settings::SlotLimits;

/// Processes that may hold slots at once.
const MAX_PROCESSES: usize = 10_000;

#[derive(Debug)]
pub(crate) struct Slots {
    limits: SlotLimits,
    /// Until then processes of before our start may hold slots we do not know of.
    recovered_at: Instant,
    /// When anybody was heard of last, if anybody held slots then.
    heard_at: Option<Instant>,
    /// Limits of stages that operators set, as holders tell them.
    told: BTreeMap<Stage, u32>,
    stages: BTreeMap<Stage, BTreeMap<String, Holder>>,
}

#[derive(Debug, Clone, Copy)]
struct Holder {
    held: u32,
    want: u32,
    until: Instant,
}

/// What a process may use, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) slots: u32,
    pub(crate) valid_for: Duration,
    /// Nothing was granted beyond what was announced, for want of knowledge.
    pub(crate) recovering: bool,
}

/// What a stage has and gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StageSum {
    pub(crate) stage: Stage,
    pub(crate) limit: u32,
    pub(crate) held: u32,
    pub(crate) processes: u32,
}

impl Slots {
    pub(crate) fn new(limits: SlotLimits, now: Instant) -> Self {
        let recovered_at = now + limits.recovery();
        let stages = Stage::ALL
            .into_iter()
            .map(|stage| (stage, BTreeMap::new()))
            .collect();
        Self {
            limits,
            recovered_at,
            heard_at: None,
            told: BTreeMap::new(),
            stages,
        }
    }

    /// A holder says how many slots a stage has in all, as operators set it; 0: as it was started.
    pub(crate) fn limit(&mut self, stage: Stage, slots: u32) {
        if slots == 0 {
            self.told.remove(&stage);
        } else {
            self.told.insert(stage, slots);
        }
    }

    fn limit_of(&self, stage: Stage) -> u32 {
        let told = self.told.get(&stage).copied();
        told.unwrap_or_else(|| self.limits.of(stage))
    }

    /// One heartbeat of a process: what it could use, and what it uses now.
    ///
    /// # Errors
    /// When there are too many processes.
    pub(crate) fn hold(
        &mut self,
        stage: Stage,
        process: &str,
        want: u32,
        have: u32,
        now: Instant,
    ) -> Result<Held, Refusal> {
        let validity = self.limits.validity();
        let silent_for = |heard_at| now.saturating_duration_since(heard_at);
        if self.heard_at.map(silent_for) >= Some(validity) {
            // Not one heartbeat came while all leases ended: it was us who did not hear. Their holders work on.
            self.recovered_at = now + self.limits.recovery();
        }
        let held = self.hold_now(stage, process, want, have, now);
        self.heard_at = (self.processes() > 0).then_some(now);
        held
    }

    fn hold_now(
        &mut self,
        stage: Stage,
        process: &str,
        want: u32,
        have: u32,
        now: Instant,
    ) -> Result<Held, Refusal> {
        let validity = self.limits.validity();
        self.expire(now);
        if want == 0 {
            self.holders(stage).remove(process);
            return Ok(Held {
                slots: 0,
                valid_for: validity,
                recovering: false,
            });
        }
        let held_before = self.holders(stage).get(process).map(|holder| holder.held);
        if held_before.is_none() && self.processes() >= MAX_PROCESSES {
            let message = format!("{MAX_PROCESSES} processes hold slots, no more can");
            return Err(
                Refusal::exhausted("TOO_MANY_PROCESSES", message).with_retry_after(validity)
            );
        }
        // What the others hold, the limiter can take back only at their next heartbeat.
        self.holders(stage)
            .entry(process.to_owned())
            .and_modify(|holder| holder.want = want)
            .or_insert(Holder {
                held: 0,
                want,
                until: now,
            });
        let mut slots = self
            .fair_part(stage, process)
            .min(self.free_for(stage, process));
        let mut valid_for = validity;
        let recovering = now < self.recovered_at;
        if recovering {
            slots = slots.min(have);
            // Asked again soon: others may turn out to be gone.
            valid_for = valid_for.min((self.recovered_at - now).max(validity / 3));
        }
        self.holders(stage).insert(
            process.to_owned(),
            Holder {
                // Of fewer than it has it may not hear: they are another's once it says that it has them no more.
                held: slots.max(have.min(held_before.unwrap_or(0))),
                want,
                until: now + validity,
            },
        );
        Ok(Held {
            slots,
            valid_for,
            recovering,
        })
    }

    /// Each stage with what it gives now.
    pub(crate) fn sums(&mut self, now: Instant) -> Vec<StageSum> {
        self.expire(now);
        self.stages
            .iter()
            .map(|(stage, holders)| StageSum {
                stage: *stage,
                limit: self.limit_of(*stage),
                held: sum(holders.values().map(|holder| holder.held)),
                processes: u32::try_from(holders.len()).unwrap_or(u32::MAX),
            })
            .collect()
    }

    pub(crate) fn total(&self) -> u32 {
        self.limits.total()
    }

    fn holders(&mut self, stage: Stage) -> &mut BTreeMap<String, Holder> {
        self.stages.entry(stage).or_default()
    }

    fn processes(&self) -> usize {
        self.stages.values().map(BTreeMap::len).sum()
    }

    fn expire(&mut self, now: Instant) {
        for holders in self.stages.values_mut() {
            holders.retain(|_, holder| holder.until > now);
        }
    }

    /// What is not held by anybody else, in the stage and in all.
    fn free_for(&self, stage: Stage, process: &str) -> u32 {
        let mut held_in_stage = 0_u32;
        let mut held_in_all = 0_u32;
        for (its_stage, holders) in &self.stages {
            for (name, holder) in holders {
                if *its_stage == stage && name == process {
                    continue;
                }
                held_in_all = held_in_all.saturating_add(holder.held);
                if *its_stage == stage {
                    held_in_stage = held_in_stage.saturating_add(holder.held);
                }
            }
        }
        let free_in_stage = self.limit_of(stage).saturating_sub(held_in_stage);
        free_in_stage.min(self.limits.total().saturating_sub(held_in_all))
    }

    /// Its part if all were dealt out anew: first the total among stages, then the stage's among its processes.
    fn fair_part(&self, stage: Stage, process: &str) -> u32 {
        let demands: Vec<u32> = self
            .stages
            .iter()
            .map(|(stage, holders)| {
                sum(holders.values().map(|holder| holder.want)).min(self.limit_of(*stage))
            })
            .collect();
        let parts = deal(self.limits.total(), &demands);
        let part_of_stage = self
            .stages
            .keys()
            .zip(parts)
            .find(|(its, _)| **its == stage)
            .map_or(0, |(_, part)| part);
        let Some(holders) = self.stages.get(&stage) else {
            return 0;
        };
        let wants: Vec<u32> = holders.values().map(|holder| holder.want).collect();
        let parts = deal(part_of_stage, &wants);
        holders
            .keys()
            .zip(parts)
            .find(|(name, _)| *name == process)
            .map_or(0, |(_, part)| part)
    }
}

fn sum(numbers: impl Iterator<Item = u32>) -> u32 {
    numbers.fold(0, u32::saturating_add)
}

/// Deals `total` so that nobody gets more than it wants, and nobody less than another who is not content (max-min
/// fair). What does not divide goes to the first, so that the parts stay the same from one heartbeat to the next.
fn deal(total: u32, wants: &[u32]) -> Vec<u32> {
    let mut parts = vec![0; wants.len()];
    let mut by_want: Vec<usize> = (0..wants.len()).collect();
    by_want.sort_by_key(|index| wants[*index]);
    let mut left = total;
    for (position, index) in by_want.iter().enumerate() {
        let still_to_serve = u32::try_from(by_want.len() - position).unwrap_or(u32::MAX);
        // From here on all get the same or all they want: rounding up serves the first with what does not divide.
        let part = wants[*index].min(left.div_ceil(still_to_serve));
        parts[*index] = part;
        left -= part;
    }
    parts
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const VALIDITY: Duration = Duration::from_secs(6);

    fn limits(upload: u32, metadata: u32, total: u32, recovery: Duration) -> SlotLimits {
        SlotLimits::try_new(
            [(Stage::Upload, upload), (Stage::Metadata, metadata)],
            total,
            VALIDITY,
            recovery,
        )
        .unwrap()
    }

    fn slots(slots: &mut Slots, process: &str, want: u32, have: u32, now: Instant) -> u32 {
        slots
            .hold(Stage::Upload, process, want, have, now)
            .unwrap()
            .slots
    }

    #[test]
    fn processes_that_want_more_than_there_is_come_to_equal_parts() {
        let now = Instant::now();
        let mut all = Slots::new(limits(10, 5, 50, Duration::ZERO), now);
        assert_eq!(slots(&mut all, "a", 8, 0, now), 8);
        // Only what is free, until the first comes again and is told to use less.
        assert_eq!(slots(&mut all, "b", 8, 0, now), 2);
        assert_eq!(slots(&mut all, "a", 8, 8, now), 5);
        assert_eq!(slots(&mut all, "b", 8, 2, now), 2);
        assert_eq!(slots(&mut all, "a", 8, 5, now), 5);
        assert_eq!(slots(&mut all, "b", 8, 2, now), 5);
        // One that wants little leaves the rest to the others.
        assert_eq!(slots(&mut all, "b", 1, 5, now), 1);
        assert_eq!(slots(&mut all, "b", 1, 1, now), 1);
        assert_eq!(slots(&mut all, "a", 12, 5, now), 9);
    }

    #[test]
    fn a_limit_that_operators_set_holds_as_soon_as_it_is_told_and_until_it_is_taken_back() {
        let now = Instant::now();
        let mut all = Slots::new(limits(10, 5, 50, Duration::ZERO), now);
        assert_eq!(slots(&mut all, "a", 8, 0, now), 8);
        all.limit(Stage::Upload, 4);
        assert_eq!(slots(&mut all, "b", 8, 0, now), 0);
        assert_eq!(slots(&mut all, "a", 8, 8, now), 2);
        assert_eq!(slots(&mut all, "b", 8, 0, now), 0);
        assert_eq!(slots(&mut all, "a", 8, 2, now), 2);
        assert_eq!(slots(&mut all, "b", 8, 0, now), 2);
        all.limit(Stage::Upload, 20);
        assert_eq!(slots(&mut all, "a", 16, 2, now), 12);
        all.limit(Stage::Upload, 0);
        assert_eq!(slots(&mut all, "a", 16, 12, now), 5);
        assert_eq!(slots(&mut all, "a", 16, 5, now), 5);
        assert_eq!(slots(&mut all, "b", 8, 2, now), 5);
    }

    #[test]
    fn a_silent_process_gives_its_slots_back_and_a_leaving_one_at_once() {
        let now = Instant::now();
        let mut all = Slots::new(limits(10, 5, 50, Duration::ZERO), now);
        slots(&mut all, "a", 10, 0, now);
        let later = now + VALIDITY - Duration::from_millis(1);
        assert_eq!(slots(&mut all, "b", 10, 0, later), 0);
        assert_eq!(slots(&mut all, "b", 10, 0, now + VALIDITY), 10);
        slots(&mut all, "b", 0, 10, now + VALIDITY);
        assert_eq!(slots(&mut all, "c", 10, 0, now + VALIDITY), 10);
    }

    #[test]
    fn a_stage_is_not_starved_by_others_under_a_small_total() {
        let now = Instant::now();
        let mut all = Slots::new(limits(10, 10, 12, Duration::ZERO), now);
        assert_eq!(slots(&mut all, "a", 10, 0, now), 10);
        assert_eq!(all.hold(Stage::Metadata, "m", 10, 0, now).unwrap().slots, 2);
        assert_eq!(slots(&mut all, "a", 10, 10, now), 6);
        assert_eq!(slots(&mut all, "a", 10, 6, now), 6);
        assert_eq!(all.hold(Stage::Metadata, "m", 10, 2, now).unwrap().slots, 6);
    }

    #[test]
    fn a_limiter_that_heard_nobody_for_a_while_grants_nothing_new_until_it_has() {
        let now = Instant::now();
        let mut all = Slots::new(limits(10, 5, 50, VALIDITY), now);
        let recovered = now + VALIDITY;
        assert_eq!(slots(&mut all, "a", 6, 0, recovered), 6);
        assert_eq!(slots(&mut all, "b", 4, 0, recovered), 4);
        // Both work on with what they had.
        let woken = recovered + 2 * VALIDITY;
        assert_eq!(slots(&mut all, "b", 10, 4, woken), 4);
        assert_eq!(slots(&mut all, "a", 6, 6, woken), 5, "its fair part");
        let heard = woken + VALIDITY / 2;
        assert_eq!(slots(&mut all, "b", 10, 4, heard), 4);
        assert_eq!(slots(&mut all, "a", 6, 5, heard), 5);
        assert_eq!(slots(&mut all, "b", 10, 4, woken + VALIDITY), 5);
    }

    #[test]
    fn a_restarted_limiter_confirms_what_is_announced_and_gives_new_slots_later() {
        let now = Instant::now();
        let mut all = Slots::new(limits(10, 5, 50, VALIDITY), now);
        assert_eq!(slots(&mut all, "new", 10, 0, now), 0);
        assert_eq!(
            slots(&mut all, "old", 10, 7, now),
            5,
            "its fair part of what it has"
        );
        let held = all
            .hold(Stage::Upload, "other", 4, 3, now + VALIDITY / 2)
            .unwrap();
        assert_eq!(held.slots, 3);
        assert!(held.valid_for < VALIDITY);
        let recovered = now + VALIDITY;
        assert_eq!(
            slots(&mut all, "old", 10, 5, recovered),
            6,
            "the new one was silent, the other wants four"
        );
    }

    #[test]
    fn dealing_is_max_min_fair() {
        assert_eq!(deal(10, &[8, 8]), [5, 5]);
        assert_eq!(deal(10, &[1, 8, 8]), [1, 5, 4]);
        assert_eq!(deal(10, &[2, 3]), [2, 3]);
        assert_eq!(deal(2, &[5, 5, 5]), [1, 1, 0]);
        assert_eq!(deal(0, &[5]), [0]);
        assert_eq!(deal(5, &[]), [0_u32; 0]);
        assert_eq!(
            deal(u32::MAX, &[u32::MAX, u32::MAX])
                .iter()
                .map(|part| u64::from(*part))
                .sum::<u64>(),
            u64::from(u32::MAX)
        );
    }

    #[derive(Debug, Clone)]
    enum Step {
        Hold {
            stage: Stage,
            process: u8,
            want: u32,
        },
        Pass {
            millis: u64,
        },
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let stage = prop_oneof![Just(Stage::Upload), Just(Stage::Metadata)];
        let step = prop_oneof![
            8 => (stage, 0_u8..5, 0_u32..20).prop_map(|(stage, process, want)| Step::Hold { stage, process, want }),
            3 => (0_u64..4000).prop_map(|millis| Step::Pass { millis }),
            1 => Just(Step::Restart),
        ];
        prop::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn the_sum_of_what_processes_may_use_never_exceeds_a_limit(
            upload in 1_u32..15,
            metadata in 1_u32..15,
            total in 5_u32..25,
            steps in steps(),
        ) {
            let limits = limits(upload, metadata, total, VALIDITY);
            let mut now = Instant::now();
            let mut all = Slots::new(limits.clone(), now);
            // What each process believes it may use, and until when: also across restarts of the limiter.
            let mut believed: HashMap<(Stage, u8), (u32, Instant)> = HashMap::new();
            for step in steps {
                match step {
                    Step::Pass { millis } => now += Duration::from_millis(millis),
                    Step::Restart => all = Slots::new(limits.clone(), now),
                    Step::Hold { stage, process, want } => {
                        let have = believed.get(&(stage, process)).filter(|(_, until)| *until > now).map_or(0, |(slots, _)| *slots);
                        let held = all.hold(stage, &process.to_string(), want, have, now).unwrap();
                        prop_assert!(held.slots <= want);
                        believed.insert((stage, process), (held.slots, now + held.valid_for));
                    }
                }
                let live = |of: Stage| believed.iter().filter(|((stage, _), (_, until))| *stage == of && *until > now).map(|(_, (slots, _))| slots).sum::<u32>();
                prop_assert!(live(Stage::Upload) <= upload);
                prop_assert!(live(Stage::Metadata) <= metadata);
                prop_assert!(live(Stage::Upload) + live(Stage::Metadata) <= total);
            }
        }

        #[test]
        fn three_rounds_of_heartbeats_use_all_there_is_in_fair_parts(
            limit in 1_u32..30,
            before in prop::collection::vec(1_u32..20, 1..6),
            wants in prop::collection::vec(1_u32..20, 1..6),
        ) {
            let now = Instant::now();
            let mut all = Slots::new(limits(limit, 5, 100, Duration::ZERO), now);
            for (process, want) in before.iter().enumerate().take(wants.len()) {
                slots(&mut all, &process.to_string(), *want, 0, now);
            }
            let mut last = Vec::new();
            // Wants are known after the first, nobody holds more than its part after the second.
            for _ in 0..3 {
                last = wants.iter().enumerate().map(|(process, want)| slots(&mut all, &process.to_string(), *want, 0, now)).collect();
            }
            let used: u32 = last.iter().sum();
            prop_assert_eq!(used, limit.min(wants.iter().sum()));
            for (index, part) in last.iter().enumerate() {
                for (other_index, other) in last.iter().enumerate() {
                    let content = *part == wants[index];
                    prop_assert!(content || part + 1 >= *other, "{} has {}, {} has {}", index, part, other_index, other);
                }
            }
        }
    }
}
