//! The stages that a batch asks for.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::stage::{STAGES, Stage, UnknownStage};

/// The stages a batch asks for; upload and metadata are always among them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct StageSet(u8);

impl StageSet {
    const ALWAYS: u8 = bit(Stage::Upload) | bit(Stage::Metadata);

    /// Every stage.
    #[must_use]
    pub const fn all() -> Self {
        const EVERY: u8 = {
            let (mut bits, mut at) = (0, 0);
            while at < STAGES {
                bits |= bit(Stage::ALL[at]);
                at += 1;
            }
            bits
        };
        Self(EVERY)
    }

    /// Reads a list of names. An empty list asks for all (a proto list cannot tell "none" from "not said"); to have
    /// nothing but storing, name `metadata` alone. An unknown name is an error.
    pub fn parse<I>(names: I) -> Result<Self, UnknownStage>
    where
        I: IntoIterator,
        I::Item: AsRef<str>,
    {
        let mut bits = 0;
        for name in names {
            let stage: Stage = name.as_ref().parse()?;
            bits |= bit(stage);
        }
        if bits == 0 {
            return Ok(Self::all());
        }
        Ok(Self(bits | Self::ALWAYS))
    }

    /// Reads the number of [`StageSet::bits`]; unknown bits are dropped, upload and metadata are put in.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        Self((bits & Self::all().0) | Self::ALWAYS)
    }

    /// One bit a stage, the lowest for code 1.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether `stage` is asked for.
    #[must_use]
    pub const fn contains(self, stage: Stage) -> bool {
        self.0 & bit(stage) != 0
    }

    /// The stages asked for, in the order of their codes.
    pub fn stages(self) -> impl Iterator<Item = Stage> {
        Stage::ALL
            .into_iter()
            .filter(move |stage| self.contains(*stage))
    }

    /// Their names, in the order of their codes.
    #[must_use]
    pub fn names(self) -> Vec<&'static str> {
        self.stages().map(Stage::name).collect()
    }
}

/// A set is eight bits wide, so no code is greater than 8: the ninth stage needs a wider column.
const fn bit(stage: Stage) -> u8 {
    1 << (stage.code() - 1)
}

impl Default for StageSet {
    fn default() -> Self {
        Self::all()
    }
}

impl fmt::Debug for StageSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.stages()).finish()
    }
}

impl TryFrom<Vec<String>> for StageSet {
    type Error = UnknownStage;

    fn try_from(names: Vec<String>) -> Result<Self, UnknownStage> {
        Self::parse(names)
    }
}

impl From<StageSet> for Vec<String> {
    fn from(set: StageSet) -> Self {
        set.stages().map(|stage| stage.name().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn upload_and_metadata_are_always_asked_for() {
        let set = StageSet::parse(["extract-text"]).unwrap();
        assert_eq!(set.names(), ["upload", "extract-text", "metadata"]);
        let none_but_storing = StageSet::parse(["metadata"]).unwrap();
        assert_eq!(none_but_storing.names(), ["upload", "metadata"]);
        for bits in 0..=u8::MAX {
            let set = StageSet::from_bits(bits);
            assert!(set.contains(Stage::Upload) && set.contains(Stage::Metadata));
            assert_eq!(StageSet::parse(set.names()), Ok(set));
            assert_eq!(StageSet::from_bits(set.bits()), set);
            let json = serde_json::to_string(&set).unwrap();
            assert_eq!(serde_json::from_str::<StageSet>(&json).unwrap(), set);
        }
    }

    #[test]
    fn no_names_ask_for_all_stages() {
        assert_eq!(StageSet::parse(Vec::<String>::new()), Ok(StageSet::all()));
        assert_eq!(StageSet::default().names().len(), Stage::ALL.len());
    }

    #[test]
    fn an_unknown_name_is_told_with_the_names_that_there_are() {
        let error = StageSet::parse(["upload", "Extract-Text"]).unwrap_err();
        assert_eq!(error.name, "Extract-Text");
        for stage in Stage::ALL {
            assert!(error.to_string().contains(stage.name()));
        }
    }
}
