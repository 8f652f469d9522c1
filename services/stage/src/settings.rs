use std::path::PathBuf;
use std::time::Duration;

use caudal_domain::limits::MAX_DISPATCHES_PER_ENTRY;

/// Dispatches that a fast stage reads ahead: its rate times the time from reading to a recorded report.
pub const FAST_PREFETCH: usize = 512;
/// What a slow stage reads ahead beyond its slots.
pub const SLOW_READ_AHEAD: usize = 2;
/// Most handlers at once in one process.
pub const MAX_SLOTS: usize = 1_024;
/// Most dispatches read ahead.
pub const MAX_PREFETCH: usize = 8_192;

/// How long a landing object is kept after its result was recorded, unless set otherwise.
pub const LANDING_DELAY: Duration = Duration::from_secs(5);
/// The longest such time: all that landed meanwhile is kept twice.
pub const MAX_LANDING_DELAY: Duration = Duration::from_secs(3_600);

/// How soon store or provider are looked at again, and how late at most.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// How one stage process works. Every queue in it is bounded by `prefetch`.
#[derive(Debug, Clone)]
pub struct StageSettings {
    /// Handlers at once, 1 to [`MAX_SLOTS`]; the limiter may grant fewer.
    pub slots: usize,
    /// Dispatches held at once, waiting, running or being reported; 1 to [`MAX_PREFETCH`]. The last entry read may exceed
    /// it by what one entry holds.
    pub prefetch: usize,
    /// Longest time of one handler.
    pub handler_timeout: Duration,
    /// Longest wait of one read of the stream.
    pub block: Duration,
    /// At shutdown: how long running handlers may take to end.
    pub drain: Duration,
    /// At shutdown, after that: how long reports, releases and acknowledgements may take.
    pub farewell: Duration,
    /// How long after its result was recorded a landing object may be freed; at most [`MAX_LANDING_DELAY`].
    pub landing_delay: Duration,
    /// How long the stage waits for store or provider before it looks again, at first; at least a millisecond. It doubles
    /// up to `longest_pause`, and is longer where a provider asks for more.
    pub first_pause: Duration,
    /// The longest such wait that nobody asked for.
    pub longest_pause: Duration,
    /// How a suspect file is run in a process of its own. None: it runs in this one.
    pub solo: Option<SoloSettings>,
}

/// How a process for one suspect file is started.
#[derive(Clone)]
pub struct SoloSettings {
    /// The executable, whose `main` calls [`crate::run_solo_if_asked`] first.
    pub executable: PathBuf,
    /// Given to what [`crate::run_solo_if_asked`] makes the handler and the object store with. It may hold secrets: it
    /// travels through a pipe and is never shown.
    pub config: serde_json::Value,
}

impl std::fmt::Debug for SoloSettings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("SoloSettings")
            .field("executable", &self.executable)
            .finish_non_exhaustive()
    }
}

impl StageSettings {
    /// For a stage whose files take milliseconds.
    pub fn fast(slots: usize) -> Self {
        Self {
            slots,
            prefetch: FAST_PREFETCH.max(slots),
            handler_timeout: Duration::from_secs(600),
            block: Duration::from_secs(2),
            drain: Duration::from_secs(20),
            farewell: Duration::from_secs(5),
            landing_delay: LANDING_DELAY,
            first_pause: FIRST_PAUSE,
            longest_pause: LONGEST_PAUSE,
            solo: None,
        }
    }

    /// For a stage whose files take a tenth of a second or more: it reads ahead little, so that other processes get work.
    pub fn slow(slots: usize) -> Self {
        Self {
            prefetch: slots + SLOW_READ_AHEAD,
            ..Self::fast(slots)
        }
    }

    /// # Errors
    /// A value is out of its range; the text says which.
    pub(crate) fn check(&self) -> Result<(), InvalidSettings> {
        if self.slots == 0 || self.slots > MAX_SLOTS {
            return Err(InvalidSettings::Slots(self.slots));
        }
        if self.prefetch == 0 || self.prefetch > MAX_PREFETCH {
            return Err(InvalidSettings::Prefetch(self.prefetch));
        }
        if self.first_pause < Duration::from_millis(1) || self.longest_pause < self.first_pause {
            return Err(InvalidSettings::Pauses);
        }
        if self.landing_delay > MAX_LANDING_DELAY {
            return Err(InvalidSettings::LandingDelay(self.landing_delay));
        }
        Ok(())
    }

    /// Room of each queue between two tasks: all that can be held at once.
    pub(crate) fn queue(&self) -> usize {
        self.prefetch + MAX_DISPATCHES_PER_ENTRY
    }
}

/// A setting out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSettings {
    /// Number of handlers.
    #[error("slots is {0}, but must be from 1 to {MAX_SLOTS}")]
    Slots(usize),
    /// Number of dispatches held.
    #[error("prefetch is {0}, but must be from 1 to {MAX_PREFETCH}")]
    Prefetch(usize),
    /// How long store and provider are waited for.
    #[error("first_pause must be at least a millisecond, and longest_pause no shorter than it")]
    Pauses,
    /// How long landing objects are kept.
    #[error(
        "landing_delay is {} s, but must be at most {} s", .0.as_secs(), MAX_LANDING_DELAY.as_secs()
    )]
    LandingDelay(Duration),
}
