//! Worker slots of a stage (tier 2): held from the limiter by a heartbeat, with a local share while it is away.

use std::time::Duration;

use caudal_domain::Stage;
use caudal_proto::convert::duration_from_proto;
use caudal_proto::mesh::v1::HoldSlotsRequest;
use caudal_proto::mesh::v1::limiter_service_client::LimiterServiceClient;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::channels::with_deadline;
use crate::scope::MeshChannel;

/// How soon an unreachable limiter is asked again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// How long one heartbeat may take.
const CALL_DEADLINE: Duration = Duration::from_secs(2);

/// Bounds of the time between heartbeats, whatever the limiter says.
const SHORTEST_HEARTBEAT: Duration = Duration::from_millis(50);
const LONGEST_HEARTBEAT: Duration = Duration::from_secs(60);

/// How long giving the slots back may take at the end.
const RELEASE_DEADLINE: Duration = Duration::from_millis(500);

/// What a process of a stage holds slots with.
#[derive(Debug, Clone)]
pub struct SlotSettings {
    /// Which stage.
    pub stage: Stage,
    /// UUID of the process in text.
    pub process: String,
    /// How many slots it could use.
    pub want: u32,
    /// How many it may use while the limiter is unreachable, at most. Once the limiter granted any it is never more than
    /// that, so that all processes together stay within the stage's limit.
    pub local_share: u32,
}

/// Holds slots until it is stopped or dropped. What may be used now is in [`SlotHolder::granted`].
#[derive(Debug)]
pub struct SlotHolder {
    asked: watch::Sender<Asked>,
    granted: watch::Receiver<u32>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    want: u32,
    stage_limit: Option<u32>,
}

impl Drop for SlotHolder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl SlotHolder {
    /// Begins the heartbeat. No slot is granted before the first answer, or the first failure to get one.
    #[must_use]
    pub fn start(
        limiter: LimiterServiceClient<MeshChannel>,
        settings: SlotSettings,
        shutdown: &CancellationToken,
    ) -> Self {
        let (asked, asks) = watch::channel(Asked {
            want: settings.want,
            stage_limit: None,
        });
        let (grant, granted) = watch::channel(0);
        let stop = shutdown.child_token();
        let span = tracing::debug_span!("slots", stage = settings.stage.name());
        let heartbeat = Heartbeat {
            limiter,
            settings,
            asks,
            grant,
            valid_until: None,
            known: None,
        };
        let task = tokio::spawn(heartbeat.run(stop.clone()).instrument(span));
        Self {
            asked,
            granted,
            stop,
            task,
        }
    }

    /// How many slots may be used now; it changes with time.
    #[must_use]
    pub fn granted(&self) -> watch::Receiver<u32> {
        self.granted.clone()
    }

    /// Asks for another number of slots from now on.
    pub fn set_want(&self, want: u32) {
        self.asked.send_modify(|asked| asked.want = want);
    }

    /// How many the stage has in all, as operators set it; 0: as the limiter was started, none: not known.
    pub fn set_stage_limit(&self, stage_limit: Option<u32>) {
        self.asked
            .send_modify(|asked| asked.stage_limit = stage_limit);
    }

    /// Gives the slots back. Call it when nothing runs in them any more.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Err(error) = (&mut self.task).await {
            tracing::error!(%error, "the heartbeat for slots ended badly");
        }
    }
}

struct Heartbeat {
    limiter: LimiterServiceClient<MeshChannel>,
    settings: SlotSettings,
    asks: watch::Receiver<Asked>,
    grant: watch::Sender<u32>,
    /// Until when the last grant of the limiter is good; none in the local share.
    valid_until: Option<Instant>,
    /// What the limiter granted last; none before it knew who holds what.
    known: Option<u32>,
}

impl Heartbeat {
    async fn run(mut self, stop: CancellationToken) {
        loop {
            let pause = self.beat().await;
            let changed = async {
                // The sender lives as long as this task's owner.
                if self.asks.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
                () = changed => {}
            }
        }
        self.release().await;
    }

    /// One heartbeat; answers when the next is due.
    async fn beat(&mut self) -> Duration {
        let asked = *self.asks.borrow_and_update();
        let want = asked.want;
        let asked_at = Instant::now();
        match self.ask(asked).await {
            Ok((slots, valid_for, recovering)) => {
                if self.valid_until.is_none() {
                    tracing::debug!(slots, "the limiter grants slots");
                }
                self.valid_until = Some(asked_at + valid_for);
                if !recovering || slots > 0 {
                    self.known = Some(slots);
                }
                self.set(slots.min(want));
                (valid_for / 3).clamp(SHORTEST_HEARTBEAT, LONGEST_HEARTBEAT)
            }
            Err(error) => {
                self.fall_back(asked, &error);
                RETRY_INTERVAL.min(self.time_left().max(SHORTEST_HEARTBEAT))
            }
        }
    }

    async fn ask(&mut self, asked: Asked) -> Result<(u32, Duration, bool), String> {
        let request = HoldSlotsRequest {
            stage: self.settings.stage.name().to_owned(),
            process: self.settings.process.clone(),
            want: asked.want,
            have: *self.grant.borrow(),
            stage_limit: asked.stage_limit,
        };
        // Two limits: the deadline that the server learns, and our own for a server that hangs.
        let call = self
            .limiter
            .hold_slots(with_deadline(request, CALL_DEADLINE));
        let answer = tokio::time::timeout(CALL_DEADLINE, call)
            .await
            .map_err(|_| "no answer".to_owned())?
            .map_err(|status| status.to_string())?
            .into_inner();
        let valid_for = answer.valid_for.as_ref().ok_or("no validity")?;
        let valid_for = duration_from_proto(valid_for).map_err(|error| error.to_string())?;
        Ok((answer.slots, valid_for, answer.recovering))
    }

    /// A grant is good until its time is over; then the local share of it holds, slower and never stopped. A limiter that
    /// comes back learns what is held before it grants more, so what it granted stays within the limit meanwhile.
    fn fall_back(&mut self, asked: Asked, error: &str) {
        if !self.time_left().is_zero() {
            return;
        }
        let set = asked.stage_limit.filter(|limit| *limit > 0);
        let most = self.known.unwrap_or(u32::MAX).min(set.unwrap_or(u32::MAX));
        let share = self.settings.local_share.min(asked.want).min(most);
        if self.valid_until.take().is_some() || *self.grant.borrow() != share {
            tracing::warn!(
                error,
                share,
                "the limiter is unreachable, working with the local share"
            );
        }
        self.set(share);
    }

    fn time_left(&self) -> Duration {
        self.valid_until.map_or(Duration::ZERO, |until| {
            until.saturating_duration_since(Instant::now())
        })
    }

    fn set(&self, slots: u32) {
        self.grant.send_if_modified(|granted| {
            let changed = *granted != slots;
            *granted = slots;
            changed
        });
    }

    async fn release(&mut self) {
        self.set(0);
        let nothing = Asked {
            want: 0,
            stage_limit: None,
        };
        // Without it the limiter forgets us a little later.
        let _ = tokio::time::timeout(RELEASE_DEADLINE, self.ask(nothing)).await;
    }
}
