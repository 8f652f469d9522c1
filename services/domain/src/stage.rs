//! The table of stages: all that the rest of the system must know of one stands in its row. What a stage does to a file is
//! its handler's, which is registered in `services/caudal/src/service/stages.rs`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::media_kind::MediaKind;
use crate::retry::RetryPolicy;

/// What a stage is to those around it: a row of the table, without the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageProfile {
    /// The name in options, streams, keys and metrics: `extract-text`. Never changed: it stands in keys of objects.
    pub name: &'static str,
    /// The kinds of file that go through it.
    pub route: &'static [MediaKind],
    /// The stages without whose result it has nothing to do: it is left out where one of them was. They stand above it.
    pub needs: &'static [Stage],
    /// Whether it works on text: a file is passed on without it where the stage before it found none.
    pub needs_text: bool,
    /// How often a failure is tried again, and after which time.
    pub retry: RetryPolicy,
    /// How many of its files may be out at once: about two seconds of its work, so that its stream stays short whatever
    /// the backlog.
    pub window: u32,
    /// How many dispatches an entry of its stream carries: one where a file takes long, so that it never waits behind
    /// another in a process while a process beside it is idle; more where a process has many slots.
    pub pack: usize,
    /// How many files may be in work at once, over all its processes: what the limiter grants.
    pub slots: u32,
    /// Where a process of it listens unless told otherwise.
    pub port: u16,
}

macro_rules! stages {
    ($($(#[$doc:meta])* $variant:ident = $code:literal: $profile:expr;)+) => {
        /// A stage of the pipeline, each its own service. Codes are stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        #[repr(u8)]
        pub enum Stage {
            $($(#[$doc])* $variant = $code,)+
        }

        /// How many stages there are.
        pub(crate) const STAGES: usize = [$(Stage::$variant),+].len();

        impl Stage {
            /// Every stage, in the order of the table: that in which a file goes through those of its route.
            pub(crate) const IN_ORDER: [Self; STAGES] = [$(Self::$variant),+];

            /// The row of this stage.
            #[must_use]
            pub const fn profile(self) -> &'static StageProfile {
                match self {
                    $(Self::$variant => {
                        const PROFILE: StageProfile = $profile;
                        &PROFILE
                    })+
                }
            }
        }
    };
}

// The order of the rows is the order of the work. A code is stored: it is never given to another stage. Ports follow it.
stages! {
    /// Verifies the landed object and moves it to its final key.
    Upload = 1: StageProfile {
        name: "upload",
        route: &MediaKind::ALL,
        needs: &[],
        needs_text: false,
        retry: RetryPolicy::fixed(6, seconds(1), seconds(120)),
        window: 2_048,
        pack: 16,
        slots: 128,
        port: 7413,
    };
    /// Reads the text of a document.
    ExtractText = 2: StageProfile {
        name: "extract-text",
        route: &[MediaKind::Document],
        needs: &[Stage::Upload],
        needs_text: false,
        retry: RetryPolicy::fixed(3, seconds(1), seconds(30)),
        window: 1_024,
        pack: 4,
        slots: 32,
        port: 7414,
    };
    /// Decodes an image: thumbnail, orientation, hash, caption.
    ImageProcessing = 4: StageProfile {
        name: "image-processing",
        route: &[MediaKind::Image],
        needs: &[Stage::Upload],
        needs_text: false,
        retry: RetryPolicy::fixed(4, seconds(1), seconds(60)),
        window: 256,
        pack: 1,
        // Most of them wait for a provider; how many pictures are decoded at once each process bounds by its cores.
        slots: 256,
        port: 7416,
    };
    /// Turns text into vectors.
    Embeddings = 3: StageProfile {
        name: "embeddings",
        route: &[MediaKind::Document, MediaKind::Image],
        needs: &[Stage::ExtractText, Stage::ImageProcessing],
        needs_text: true,
        // It depends on the world outside, and is more patient than one that parses.
        retry: RetryPolicy::fixed(8, seconds(2), seconds(300)),
        window: 256,
        pack: 1,
        slots: 256,
        port: 7415,
    };
    /// Gathers all results into the final record and closes the file.
    Metadata = 5: StageProfile {
        name: "metadata",
        route: &MediaKind::ALL,
        // It gathers what there is, whatever was left out.
        needs: &[],
        needs_text: false,
        retry: RetryPolicy::fixed(6, seconds(1), seconds(60)),
        window: 2_048,
        pack: 32,
        slots: 256,
        port: 7417,
    };
}

const fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

impl Stage {
    /// Every stage, in the order of the codes.
    pub const ALL: [Self; STAGES] = {
        let mut sorted = Self::IN_ORDER;
        let mut unsorted = 1;
        while unsorted < STAGES {
            let mut at = unsorted;
            while at > 0 && sorted[at].code() < sorted[at - 1].code() {
                (sorted[at], sorted[at - 1]) = (sorted[at - 1], sorted[at]);
                at -= 1;
            }
            unsorted += 1;
        }
        sorted
    };

    /// The stable number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The stage with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.code() == code)
    }

    /// The name in options, streams, keys and metrics: `extract-text`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.profile().name
    }

    /// The stage with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }
}

impl RetryPolicy {
    /// The default of a stage.
    #[must_use]
    pub const fn for_stage(stage: Stage) -> Self {
        stage.profile().retry
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Stage {
    type Err = UnknownStage;

    fn from_str(name: &str) -> Result<Self, UnknownStage> {
        Self::from_name(name).ok_or_else(|| UnknownStage::new(name))
    }
}

/// A name that no stage has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("there is no stage {name:?}: the stages are {}", all_names())]
pub struct UnknownStage {
    /// The beginning of the name that was given.
    pub name: String,
}

impl UnknownStage {
    fn new(name: &str) -> Self {
        const SHOWN_CHARACTERS: usize = 40;
        Self {
            name: name.chars().take(SHOWN_CHARACTERS).collect(),
        }
    }
}

/// `upload, extract-text and metadata`
fn all_names() -> String {
    let names = Stage::ALL.map(Stage::name);
    let [others @ .., last] = &names;
    format!("{} and {last}", others.join(", "))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;
    use crate::limits;

    #[test]
    fn names_and_codes_read_back() {
        for (index, stage) in Stage::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(stage.code()), index + 1);
            assert_eq!(Stage::from_code(stage.code()), Some(stage));
            assert_eq!(stage.name().parse(), Ok(stage));
            let json = serde_json::to_string(&stage).unwrap();
            assert_eq!(json, format!("\"{stage}\""));
            assert_eq!(serde_json::from_str::<Stage>(&json).unwrap(), stage);
        }
        assert_eq!(Stage::from_code(0), None);
        assert_eq!(Stage::from_code(u8::MAX), None);
    }

    // They stand in databases, keys of objects, streams and files of settings.
    #[test]
    fn a_stage_keeps_its_code_its_name_and_its_port_for_ever() {
        for (code, name, port) in [
            (1, "upload", 7413),
            (2, "extract-text", 7414),
            (3, "embeddings", 7415),
            (4, "image-processing", 7416),
            (5, "metadata", 7417),
        ] {
            let stage = Stage::from_code(code).unwrap();
            assert_eq!((stage.name(), stage.profile().port), (name, port));
        }
    }

    #[test]
    fn the_rows_of_the_table_fit_together() {
        let mut above: Vec<Stage> = Vec::new();
        let mut ports = BTreeSet::new();
        for stage in Stage::IN_ORDER {
            let profile = stage.profile();
            let waits_for_what_comes_first = profile.needs.iter().all(|need| {
                let kinds = need.profile().route;
                above.contains(need) && kinds.iter().any(|kind| profile.route.contains(kind))
            });
            assert!(waits_for_what_comes_first, "{stage}");
            assert!(!profile.route.is_empty(), "{stage} never gets a file");
            assert!(profile.window > 0, "{stage} never gets a file");
            assert!(profile.slots > 0, "{stage} never works");
            assert!(
                (1..=limits::MAX_DISPATCHES_PER_ENTRY).contains(&profile.pack),
                "{stage}"
            );
            assert!(
                ports.insert(profile.port),
                "{stage} listens where another does"
            );
            above.push(stage);
        }
        assert_eq!(above.first(), Some(&Stage::Upload));
        assert_eq!(above.last(), Some(&Stage::Metadata));
        let names = Stage::ALL.map(Stage::name);
        assert_eq!(BTreeSet::from(names).len(), names.len());
    }
}
