//! What of `caudal.v1.OperatorService` is about stages, what stage processes are told, and what a batch is told of both.

use std::time::{Duration, Instant, SystemTime};

use caudal_domain::{BatchRef, Refusal, Stage, StageSet};
use caudal_proto::convert::{duration_to_proto, timestamp_from_micros};
use caudal_proto::mesh::v1::{AttendRequest, AttendResponse};
use caudal_proto::v1;
use tonic::Request;
use uuid::Uuid;

use super::Ledger;
use super::failure::Failure;
use super::mesh::{process_of, require_service_of};
use super::tenancy::operators_act;
use super::{request_key, words};
use crate::memory::queues::{Place, Queues};
use crate::store::stages::StageRow;
use crate::store::work;
use crate::wire::{self, saturated};
use crate::writer::audited::Act;
use crate::writer::verbs::update_stage::{StageChanges, UpdateStage};

/// Most handlers, and files out, that operators may set for a stage.
const MOST_SLOTS: u32 = 100_000;
const MOST_FILES: u32 = 1_000_000;
/// A wait that is told is given in steps of a second at least.
const STEP: Duration = Duration::from_secs(1);

impl Ledger {
    /// All stages as they are now.
    pub(super) async fn stages_now(&self) -> Result<Vec<v1::Stage>, Failure> {
        let waiting = work::waiting_by_stage(&self.store.reader()).await?;
        let now = Instant::now();
        let waits = self.waits.now(now);
        let queues = self.stages.queues();
        let stages = Stage::ALL.into_iter().map(|stage| {
            let (count, oldest) = waiting.get(&stage).copied().unwrap_or_default();
            let of_stage = waits.iter().filter(|wait| wait.stage == stage);
            let told = of_stage.map(|wait| v1::StageWait {
                wait: Some(wire::wait(wait)),
                processes: wait.processes,
                detail: wait.waiting.detail.clone(),
            });
            let row = self.stages.row(stage);
            let crew = self.stages.crew(stage, now);
            let dispatched = u32::try_from(self.metrics.outstanding.with([stage.name()]).get())
                .unwrap_or_default();
            let paused = paused(&row).map(|wait| v1::StageWait {
                wait: Some(wait),
                processes: crew.processes,
                detail: String::new(),
            });
            let is_wanted = count > 0 || dispatched > 0;
            let deserted =
                self.deserted(stage, now)
                    .filter(|_| is_wanted)
                    .map(|wait| v1::StageWait {
                        wait: Some(wait),
                        ..v1::StageWait::default()
                    });
            v1::Stage {
                waiting: saturated(count),
                oldest_ready_time: (count > 0).then(|| timestamp_from_micros(oldest.0)),
                dispatched,
                window: row.max_files.unwrap_or_else(|| self.windows.of(stage)),
                waits: paused.into_iter().chain(deserted).chain(told).collect(),
                processes: crew.processes,
                slots: crew.slots,
                window_time: queues.window(stage).map(duration_to_proto),
                dispatched_time: Some(duration_to_proto(queues.out_time(stage))),
                costs: costs_of(&queues, stage),
                ..wire::stage(&row)
            }
        });
        Ok(stages.collect())
    }

    /// Changes what is set for a stage.
    pub(super) async fn change_stage(
        &self,
        request: &Request<v1::UpdateStageRequest>,
    ) -> Result<v1::Stage, Failure> {
        let actor = operators_act(request)?;
        let message = request.get_ref();
        let asked = message.stage.clone().unwrap_or_default();
        let stage = asked.name.parse::<Stage>().map_err(|_| {
            let names = Stage::ALL.map(Stage::name).join(", ");
            Refusal::invalid("stage.name", format!("must be one of {names}"))
        })?;
        let update = UpdateStage {
            stage,
            request: request_key("UpdateStage", &message.request_id, message)?,
            changes: changes_of(message, &asked)?,
            act: Act {
                id: Uuid::now_v7(),
                actor,
                tenant: None,
                call: "UpdateStage",
                target: stage.name().to_owned(),
                detail: String::new(),
            },
        };
        let set = self.writer.ask(update).await?;
        let now = self.stages_now().await?.into_iter();
        let now = now.into_iter().find(|now| now.name == set.name);
        // A repeat is answered as the first time.
        Ok(v1::Stage {
            pause: set.pause,
            max_slots: set.max_slots,
            max_files: set.max_files,
            ..now.unwrap_or_default()
        })
    }

    /// A process of a stage lives, or ends.
    pub(super) fn attended(
        &self,
        request: &Request<AttendRequest>,
    ) -> Result<AttendResponse, Failure> {
        let stage = require_service_of(request, |message| &message.stage)?;
        let message = request.get_ref();
        let process = process_of(&message.process)?;
        if message.leaves {
            self.stages.leave(stage, process);
            return Ok(AttendResponse::default());
        }
        let row = self
            .stages
            .attend(stage, process, message.slots, Instant::now());
        Ok(AttendResponse {
            paused: row.pause.is_some(),
            max_slots: row.max_slots.unwrap_or_default(),
        })
    }

    /// What stages wait for that files of a batch are at, as their processes told, and that there is none; and which stages
    /// that it asked for are paused.
    pub(super) fn waits_of(&self, batch: BatchRef, asked_for: StageSet) -> Vec<v1::Wait> {
        let now = Instant::now();
        let queues = self.stages.queues();
        let told = self.waits.now(now).into_iter();
        let told = told.filter(|wait| queues.has_files(wait.stage, batch));
        let told = told.map(|wait| wire::wait(&wait));
        let stages = Stage::ALL.into_iter();
        let of_stages = stages.filter(|stage| asked_for.contains(*stage));
        let of_stages = of_stages.flat_map(|stage| {
            let deserted = self.deserted(stage, now);
            let deserted = deserted.filter(|_| queues.has_files(stage, batch));
            paused(&self.stages.row(stage)).into_iter().chain(deserted)
        });
        of_stages.chain(told).collect()
    }

    /// Whose turn comes before that of a batch.
    pub(super) fn queue_of(&self, batch: BatchRef) -> Option<v1::QueuePlace> {
        let (stage, place) = self.stages.queues().place(batch)?;
        let row = self.stages.row(stage);
        let alive = self.stages.crew(stage, Instant::now()).processes > 0;
        // How long it takes is not known of what stands still.
        let place = Place {
            about: place.about.filter(|_| row.pause.is_none() && alive),
            ..place
        };
        if place.others == 0 && place.own == 0 {
            return None;
        }
        let about = place
            .about
            .map(|about| Duration::from_secs(about.as_secs()).max(STEP));
        let words = words_of(place, about);
        Some(v1::QueuePlace {
            stage: stage.name().to_owned(),
            batches_of_others: place.others,
            own_batches: place.own,
            about: about.map(duration_to_proto),
            words,
        })
    }

    /// That no process of a stage lives.
    fn deserted(&self, stage: Stage, now: Instant) -> Option<v1::Wait> {
        let since = self.stages.deserted(stage, now)?;
        let since = since.duration_since(SystemTime::UNIX_EPOCH);
        let since = i64::try_from(since.unwrap_or_default().as_micros()).unwrap_or(i64::MAX);
        Some(v1::Wait {
            stage: stage.name().to_owned(),
            r#for: "process".to_owned(),
            reason: "NO_WORKER".to_owned(),
            words: "no worker for this stage".to_owned(),
            since_time: Some(timestamp_from_micros(since)),
        })
    }
}

/// That a stage is paused, as tenants may know it: without who did it.
fn paused(row: &StageRow) -> Option<v1::Wait> {
    let pause = row.pause.as_ref()?;
    let words = match pause.note.as_str() {
        "" => "the stage is paused".to_owned(),
        note => format!("the stage is paused: {note}"),
    };
    Some(v1::Wait {
        stage: row.stage.name().to_owned(),
        r#for: "operator".to_owned(),
        reason: "STAGE_PAUSED".to_owned(),
        words,
        since_time: Some(timestamp_from_micros(pause.at.0)),
    })
}

fn costs_of(queues: &Queues, stage: Stage) -> Vec<v1::StageCost> {
    let known = queues.stages.get(&stage).into_iter();
    let costs = known.flat_map(|queue| queue.costs.iter());
    costs
        .map(|(max_size, usual)| v1::StageCost {
            max_size: wire::signed(*max_size),
            usual: Some(duration_to_proto(Duration::from_micros(
                usual.unsigned_abs(),
            ))),
        })
        .collect()
}

fn words_of(place: Place, about: Option<Duration>) -> String {
    let batches = |count: u32| match count {
        1 => "1 batch".to_owned(),
        count => format!("{count} batches"),
    };
    let before = match (place.others, place.own) {
        (others, 0) => format!("{} of others", batches(others)),
        (0, own) => format!("{} of your own", batches(own)),
        (others, own) => format!("{} of others and {own} of your own", batches(others)),
    };
    match about {
        Some(about) => format!("behind {before}, about {} s", about.as_secs()),
        None => format!("behind {before}"),
    }
}

fn changes_of(
    message: &v1::UpdateStageRequest,
    asked: &v1::Stage,
) -> Result<StageChanges, Refusal> {
    let paths = words::update_paths(
        message.update_mask.as_ref(),
        "`pause`, `max_slots`, `max_files`",
    )?;
    let bounded = |field: &str, number: u32, most: u32| match number {
        0 => Ok(None),
        number if number <= most => Ok(Some(number)),
        _ => Err(Refusal::invalid(field, format!("must be at most {most}"))),
    };
    let mut changes = StageChanges::default();
    for (index, path) in paths.iter().enumerate() {
        match path.as_str() {
            "pause" => {
                let pause = asked.pause.as_ref();
                let note = pause.map(|pause| words::note("stage.pause.note", &pause.note));
                changes.pause = Some(note.transpose()?.map(str::to_owned));
            }
            "max_slots" => {
                let slots = bounded("stage.max_slots", asked.max_slots, MOST_SLOTS)?;
                changes.max_slots = Some(slots);
            }
            "max_files" => {
                let files = bounded("stage.max_files", asked.max_files, MOST_FILES)?;
                changes.max_files = Some(files);
            }
            _ => {
                let field = format!("update_mask.paths[{index}]");
                return Err(Refusal::invalid(field, "cannot be changed"));
            }
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_in_words_without_a_time_where_none_is_known() {
        let place = |others, own| Place {
            others,
            own,
            about: None,
        };
        let about = Some(Duration::from_secs(40));
        assert_eq!(
            words_of(place(3, 0), about),
            "behind 3 batches of others, about 40 s"
        );
        assert_eq!(
            words_of(place(1, 2), None),
            "behind 1 batch of others and 2 of your own"
        );
        assert_eq!(words_of(place(0, 1), None), "behind 1 batch of your own");
    }
}
