//! How much a stage can do at once: the slots of the processes that were heard of lately.

use std::time::Duration;

use caudal_domain::Stage;
use rustc_hash::FxHashMap;
use uuid::Uuid;

use crate::store::time::Micros;

/// A process that has reported nothing for so long is gone, or works on nothing: as long as a handler may take. Of most it is
/// known earlier.
const HEARD_FOR: Duration = Duration::from_secs(600);
/// Processes remembered; others count for nothing until there is room.
const PROCESSES: usize = 1_024;

struct Heard {
    slots: u32,
    at: Micros,
    /// It is known to be gone, and counts while nobody else of its stage does: then the next one is awaited.
    gone: bool,
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
        if let Some(known) = self.heard.get_mut(&(stage, process)) {
            let is_news = known.slots != slots || known.gone;
            *known = Heard {
                slots,
                at: now,
                gone: false,
            };
            if is_news {
                self.count();
            }
            return;
        }
        let is_silent = |heard: &Heard| now.since(heard.at) >= HEARD_FOR;
        self.heard.retain(|_, heard| !is_silent(heard));
        if self.heard.len() < PROCESSES && slots > 0 {
            let heard = Heard {
                slots,
                at: now,
                gone: false,
            };
            self.heard.insert((stage, process), heard);
        }
        self.count();
    }

    /// A process of a stage is gone.
    pub(crate) fn lose(&mut self, stage: Stage, process: Uuid) {
        if let Some(heard) = self.heard.get_mut(&(stage, process)) {
            heard.gone = true;
            self.count();
        }
    }

    /// Slots of a stage; none while no process of it was heard of.
    pub(crate) fn slots(&self, stage: Stage) -> Option<u32> {
        self.slots.get(&stage).copied().filter(|slots| *slots > 0)
    }

    fn count(&mut self) {
        let mut gone: FxHashMap<Stage, u32> = FxHashMap::default();
        self.slots.clear();
        for ((stage, _), heard) in &self.heard {
            let sums = if heard.gone {
                &mut gone
            } else {
                &mut self.slots
            };
            let sum = sums.entry(*stage).or_default();
            *sum = sum.saturating_add(heard.slots);
        }
        for (stage, slots) in gone {
            self.slots.entry(stage).or_insert(slots);
        }
    }
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
        crew.lose(STAGE, process(2));
        assert_eq!(crew.slots(STAGE), Some(6));
        // While nobody is there, the stage will have about as many again.
        crew.lose(STAGE, process(1));
        assert_eq!(crew.slots(STAGE), Some(10));
        crew.hear(STAGE, process(5), 7, begun);
        assert_eq!(crew.slots(STAGE), Some(7));
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
