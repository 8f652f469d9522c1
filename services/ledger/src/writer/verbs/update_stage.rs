//! Changes what operators set for a stage: its pause and its size, in all its processes.

use caudal_domain::{Stage, TenantId};
use caudal_proto::v1;
use prost::Message;
use serde_json::{Value as Json, json};

use crate::store::stages::{StagePaused, StageRow};
use crate::wire;
use crate::writer::audited::Act;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::request_key::RequestKey;
use crate::writer::verb::{Reply, Verb};

/// What is changed; what is `None` stays.
#[derive(Clone, Debug, Default)]
pub(crate) struct StageChanges {
    /// The words of a pause; inside `None`: it is over.
    pub(crate) pause: Option<Option<String>>,
    /// Inside `None`: as the processes were started.
    pub(crate) max_slots: Option<Option<u32>>,
    /// Inside `None`: as the ledger was started.
    pub(crate) max_files: Option<Option<u32>>,
}

/// The changes to a stage.
#[derive(Clone, Debug)]
pub(crate) struct UpdateStage {
    pub(crate) stage: Stage,
    pub(crate) request: RequestKey,
    pub(crate) changes: StageChanges,
    pub(crate) act: Act,
}

/// What the audit tells of a stage before and after.
fn shown(row: &StageRow) -> Json {
    json!({
        "pause": row.pause.as_ref().map(|pause| &pause.note),
        "max_slots": row.max_slots,
        "max_files": row.max_files,
    })
}

impl Verb for UpdateStage {
    type Answer = v1::Stage;
    const NAME: &'static str = "UpdateStage";

    fn needs(&self) -> Needs {
        Needs {
            request: Some(self.request.of(TenantId::OPERATORS)),
            stage: Some(self.stage),
            ..Needs::default()
        }
    }

    /// It is in force, here and for the processes, when it is committed.
    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<v1::Stage>, Stop> {
        if let Some(first) = group.first_answer(TenantId::OPERATORS, &self.request)? {
            return Ok(Reply::Now(first));
        }
        let mut in_group = group.effects.stages.iter().rev();
        let in_group = in_group.find(|row| row.stage == self.stage).cloned();
        let before = in_group.unwrap_or_else(|| group.memory.stages.row(self.stage));
        let mut row = before.clone();
        if let Some(pause) = &self.changes.pause {
            row.pause = pause.as_ref().map(|note| StagePaused {
                who: self.act.actor.words.clone(),
                note: note.clone(),
                at: group.now,
            });
        }
        row.max_slots = self.changes.max_slots.unwrap_or(row.max_slots);
        row.max_files = self.changes.max_files.unwrap_or(row.max_files);
        let answer = wire::stage(&row);
        let detail = json!({"before": shown(&before), "after": shown(&row)});
        group.audit(&Act {
            detail: detail.to_string(),
            ..self.act.clone()
        });
        group.effects.stages.push(row);
        let kept = answer.encode_to_vec();
        group.remember(TenantId::OPERATORS, &self.request, kept);
        Ok(Reply::Now(answer))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use uuid::Uuid;

    use super::*;
    use crate::writer::audited::Actor;
    use crate::writer::trial::Trial;

    fn update(trial: &mut Trial, changes: StageChanges) -> UpdateStage {
        UpdateStage {
            stage: Stage::Upload,
            request: trial.request(),
            changes,
            act: Act {
                id: Uuid::from_u128(7),
                actor: Actor {
                    words: "the night shift".into(),
                    key_id: "k1".into(),
                },
                tenant: None,
                call: "UpdateStage",
                target: "upload".into(),
                detail: String::new(),
            },
        }
    }

    fn pause(note: Option<&str>) -> StageChanges {
        StageChanges {
            pause: Some(note.map(str::to_owned)),
            ..StageChanges::default()
        }
    }

    // Protocol 1.1, 10.3.
    #[test]
    fn at_a_paused_stage_nothing_more_goes_out_until_it_goes_on() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let files = trial.add(batch, 2);
        trial.confirm(&files[..1]);
        let paused = update(&mut trial, pause(Some("the disk is changed")));
        let first = trial.ask(paused.clone()).unwrap();
        let told = first.pause.clone().unwrap();
        assert_eq!(
            (told.who.as_str(), told.note.as_str()),
            ("the night shift", "the disk is changed")
        );
        trial.confirm(&files[1..]);
        trial.tick();
        assert_eq!(trial.row(files[1]).dispatched_at, None);
        assert!(!trial.memory.dispatcher.can_admit());
        // What is out ends, and goes on at other stages.
        trial.succeed(files[0]);
        assert!(trial.row(files[0]).dispatched_at.is_some());
        let resumed = update(&mut trial, pause(None));
        trial.ask(resumed).unwrap();
        trial.tick();
        assert!(trial.row(files[1]).dispatched_at.is_some());
        // A repeat is answered as the first time, and pauses nothing again.
        assert_eq!(trial.ask(paused).unwrap(), first);
        assert!(trial.memory.stages.row(Stage::Upload).pause.is_none());
    }

    // Protocol 2.1: what operators set is what the database holds, also where a COMMIT got no answer.
    #[test]
    fn what_is_set_is_read_again_where_the_commit_that_set_it_got_no_answer() {
        let mut trial = Trial::new();
        let paused = update(&mut trial, pause(Some("")));
        trial.lose_answer(paused);
        trial.tick();
        assert!(trial.memory.stages.row(Stage::Upload).pause.is_some());
        let batch = trial.batch();
        let files = trial.add(batch, 1);
        trial.confirm(&files);
        assert_eq!(trial.row(files[0]).dispatched_at, None);
    }

    #[test]
    fn no_more_files_are_out_than_operators_set() {
        let mut trial = Trial::new();
        let few = StageChanges {
            max_files: Some(Some(3)),
            ..StageChanges::default()
        };
        let few = update(&mut trial, few);
        assert_eq!(trial.ask(few).unwrap().max_files, 3);
        let batch = trial.batch();
        let files = trial.add(batch, 9);
        trial.confirm(&files);
        trial.tick();
        assert_eq!(trial.places(Stage::Upload), 3);
    }
}
