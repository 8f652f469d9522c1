use caudal_domain::Stage;

use crate::lane::Lane;

/// Prefix of every key when nothing else is configured.
pub const DEFAULT_PREFIX: &str = "caudal";

/// Builds the names of streams and groups, below one prefix: several systems may share a Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// Names below `prefix`, which stands before the first colon of every key.
    pub fn new(prefix: impl Into<String>) -> Self {
        Self {
            prefix: prefix.into(),
        }
    }

    /// Key of a stream of the stage, `{prefix}:dispatch:{stage}`, and the express one's with `:express` behind it.
    pub fn stream(&self, stage: Stage, lane: Lane) -> String {
        let behind = match lane {
            Lane::Express => ":express",
            Lane::Regular => "",
        };
        format!("{}:dispatch:{}{behind}", self.prefix, stage.name())
    }

    /// The stage's one consumer group, `{stage}`.
    pub fn group(stage: Stage) -> &'static str {
        stage.name()
    }
}

impl Default for Names {
    fn default() -> Self {
        Self::new(DEFAULT_PREFIX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_prefix() {
        // protocol 3.4: names of stream and group.
        assert_eq!(
            Names::default().stream(Stage::ExtractText, Lane::Regular),
            "caudal:dispatch:extract-text"
        );
        assert_eq!(
            Names::new("blue").stream(Stage::Upload, Lane::Express),
            "blue:dispatch:upload:express"
        );
        assert_eq!(Names::group(Stage::ImageProcessing), "image-processing");
    }
}
