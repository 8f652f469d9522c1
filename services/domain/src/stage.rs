//! The stages, and the set of them that a batch asks for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A stage of the pipeline, each its own service. Codes are stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Stage {
    /// Verifies the landed object and moves it to its final key.
    Upload = 1,
    /// Reads the text of a document.
    ExtractText = 2,
    /// Turns text into vectors.
    Embeddings = 3,
    /// Decodes an image: thumbnail, orientation, hash, caption.
    ImageProcessing = 4,
    /// Gathers all results into the final record and closes the file.
    Metadata = 5,
}

impl Stage {
    /// Every stage, in the order of the codes.
    pub const ALL: [Self; 5] = [
        Self::Upload,
        Self::ExtractText,
        Self::Embeddings,
        Self::ImageProcessing,
        Self::Metadata,
    ];

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
        match self {
            Self::Upload => "upload",
            Self::ExtractText => "extract-text",
            Self::Embeddings => "embeddings",
            Self::ImageProcessing => "image-processing",
            Self::Metadata => "metadata",
        }
    }

    /// The stage with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|stage| stage.name() == name)
    }

    const fn bit(self) -> u8 {
        1 << (self.code() - 1)
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
#[error(
    "there is no stage {name:?}: the stages are upload, extract-text, embeddings, image-processing and metadata"
)]
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

/// The stages a batch asks for; upload and metadata are always among them.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct StageSet(u8);

impl StageSet {
    const ALWAYS: u8 = Stage::Upload.bit() | Stage::Metadata.bit();

    /// Every stage.
    #[must_use]
    pub const fn all() -> Self {
        Self(
            Stage::Upload.bit()
                | Stage::ExtractText.bit()
                | Stage::Embeddings.bit()
                | Stage::ImageProcessing.bit()
                | Stage::Metadata.bit(),
        )
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
            bits |= stage.bit();
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
        self.0 & stage.bit() != 0
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
        assert_eq!(Stage::from_code(6), None);
    }

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
