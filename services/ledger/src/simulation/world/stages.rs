//! Operators pause stages, let them go on and size them, and repeat what is not answered.

use super::tenancy::Ask;
use super::*;
use crate::store::stages::StageRow;
use crate::writer::verbs::update_stage::{StageChanges, UpdateStage};

/// Files and slots that operators give a stage at most.
const MOST_FILES: u32 = 8;
const MOST_SLOTS: u32 = 4;

impl World {
    /// Somebody does something to a stage.
    pub(super) fn run_stages(&mut self) {
        self.finish_acts();
        let paused = self.committed(|tables| {
            let rows = tables.stages.values();
            let paused = rows.filter(|row| row.pause.is_some());
            paused.map(|row| row.stage).next()
        });
        let mut stage = self.any_stage();
        let mut changes = StageChanges::default();
        match self.dice.random_range(0..10_u32) {
            0..=2 => changes.pause = Some(Some(String::new())),
            3..=5 => {
                stage = paused.unwrap_or(stage);
                changes.pause = Some(None);
            }
            6..=7 => {
                let files = self.dice.random_range(1..=MOST_FILES);
                changes.max_files = Some((!self.one_in(4)).then_some(files));
            }
            _ => {
                let slots = self.dice.random_range(1..=MOST_SLOTS);
                changes.max_slots = Some((!self.one_in(4)).then_some(slots));
            }
        }
        self.update_stage(stage, changes);
    }

    fn update_stage(&mut self, stage: Stage, changes: StageChanges) {
        self.note(|| format!("{stage} is changed: {changes:?}"));
        let ask = Ask::Stage(UpdateStage {
            stage,
            request: self.key("UpdateStage"),
            changes,
            act: self.act("UpdateStage", None),
        });
        self.ask_for(ask, None);
    }

    /// All stages go on, as they were at first.
    pub(super) fn let_stages_go_on(&mut self) {
        let set: Vec<Stage> = self.committed(|tables| {
            let rows = tables.stages.values();
            let set = rows.filter(|row| **row != StageRow::unset(row.stage));
            set.map(|row| row.stage).collect()
        });
        for stage in set {
            let changes = StageChanges {
                pause: Some(None),
                max_slots: Some(None),
                max_files: Some(None),
            };
            self.update_stage(stage, changes);
        }
    }
}
