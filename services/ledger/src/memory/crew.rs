//! How much a stage can do at once: the slots of the processes that were heard of lately.

use std::time::Duration;

use caudal_domain::Stage;
use rustc_hash::FxHashMap;
use uuid::Uuid;

use crate::store::time::Micros;

/// A process that has reported nothing for so long is gone, or works on nothing: as long as a handler may take.
const HEARD_FOR: Duration = Duration::from_secs(600);
/// Processes remembered; others count for nothing until there is room.
const PROCESSES: usize = 1_024;

struct Heard {
    slots: u32,
    at: Micros,
}

/// The processes of each stage.
#[derive(Default)]
pub(crate) struct Crew {
    heard: FxHashMap<(Stage, Uuid), Heard>,
    slots: FxHashMap<Stage, u32>,
}

impl Crew {
    /// A process of a stage says with how many slots it works.
    pub(crate) fn hear(&mut self, stage: Stage, process: Uuid, slots: u32, now: Micros) {
        let before = self.heard.get(&(stage, process)).map(|heard| heard.slots);
        if before.is_none() {
            let old = self.heard.len();
            self.heard
                .retain(|_, heard| now.since(heard.at) < HEARD_FOR);
            if self.heard.len() >= PROCESSES || slots == 0 {
                return;
            }
            if self.heard.len() < old {
                self.slots.clear();
                for ((stage, _), heard) in &self.heard {
                    add(self.slots.entry(*stage).or_default(), heard.slots);
                }
            }
        }
        let of_stage = self.slots.entry(stage).or_default();
        *of_stage = of_stage.saturating_sub(before.unwrap_or(0));
        add(of_stage, slots);
        self.heard
            .insert((stage, process), Heard { slots, at: now });
    }

    /// Slots of a stage; none while no process of it was heard of.
    pub(crate) fn slots(&self, stage: Stage) -> Option<u32> {
        self.slots.get(&stage).copied().filter(|slots| *slots > 0)
    }
}

fn add(sum: &mut u32, slots: u32) {
    *sum = sum.saturating_add(slots);
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAGE: Stage = Stage::Upload;

    fn process(number: u128) -> Uuid {
        Uuid::from_u128(number)
    }

    #[test]
    fn a_stage_has_the_slots_of_all_its_processes_and_forgets_those_that_are_silent() {
        let mut crew = Crew::default();
        let begun = Micros(0);
        assert_eq!(crew.slots(STAGE), None);
        crew.hear(STAGE, process(1), 8, begun);
        crew.hear(STAGE, process(2), 4, begun);
        crew.hear(Stage::Embeddings, process(3), 2, begun);
        crew.hear(STAGE, process(1), 6, begun);
        assert_eq!(crew.slots(STAGE), Some(10));
        let later = begun.plus(HEARD_FOR);
        crew.hear(STAGE, process(4), 3, later);
        assert_eq!(crew.slots(STAGE), Some(3));
        assert_eq!(crew.slots(Stage::Embeddings), None);
    }

    #[test]
    fn no_more_processes_are_remembered_than_the_bound() {
        let mut crew = Crew::default();
        for number in 0..2 * PROCESSES as u128 {
            crew.hear(STAGE, process(number), 1, Micros(0));
        }
        assert_eq!(crew.slots(STAGE), Some(1_024));
    }
}
