//! Which files a command is about: the options that `count`, `retry`, `cancel`, `reprocess` and `dismiss` share.

use std::time::Duration;

use caudal_domain::{FileState, Outcome, Reason, Stage};
use caudal_proto::convert::{duration_to_proto, file_state_to_proto, outcome_to_proto};
use caudal_sdk::v1;
use clap::Args;

use crate::arguments::batch_name;

#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SelectorArguments {
    /// The batch: its id, or `batches/ID`; the whole tenant when left out
    #[arg(value_name = "BATCH", value_parser = batch_name)]
    pub(crate) batch: Option<String>,
    /// Files in any of these states, e.g. FAILED
    #[arg(long = "state", env = "CAUDAL_SELECT_STATES", value_name = "STATES", value_delimiter = ',', value_parser = state)]
    pub(crate) states: Vec<v1::FileState>,
    /// PROCESSED files of any of these outcomes: COMPLETE, PARTIAL, STORED_ONLY
    #[arg(long = "outcome", env = "CAUDAL_SELECT_OUTCOMES", value_name = "OUTCOMES", value_delimiter = ',', value_parser = outcome)]
    pub(crate) outcomes: Vec<v1::Outcome>,
    /// Files in, waiting for or failed in any of these stages, e.g. embeddings
    #[arg(long = "stage", env = "CAUDAL_SELECT_STAGES", value_name = "STAGES", value_delimiter = ',', value_parser = stage)]
    pub(crate) stages: Vec<String>,
    /// Files with any of these reasons, e.g. `CORRUPT_DOCUMENT`
    #[arg(long = "reason", env = "CAUDAL_SELECT_REASONS", value_name = "REASONS", value_delimiter = ',', value_parser = reason)]
    pub(crate) reasons: Vec<String>,
    /// Files that have been in their state for at least this long, e.g. 90s, 10m, 2h, 1d
    #[arg(long = "for", env = "CAUDAL_SELECT_FOR", value_name = "TIME", value_parser = duration)]
    pub(crate) in_state_for: Option<Duration>,
    /// Files below this folder of the batch
    #[arg(
        long,
        env = "CAUDAL_SELECT_FOLDER",
        value_name = "PATH",
        conflicts_with = "path",
        requires = "batch"
    )]
    pub(crate) folder: Option<String>,
    /// Files whose path in the batch matches, e.g. '**/*.pdf'; `*` keeps within a folder
    #[arg(
        long,
        env = "CAUDAL_SELECT_PATH",
        value_name = "GLOB",
        requires = "batch"
    )]
    pub(crate) path: Option<String>,
    /// Files with these numbers in the batch
    #[arg(
        long = "ordinal",
        env = "CAUDAL_SELECT_ORDINALS",
        value_name = "NUMBERS",
        value_delimiter = ',',
        requires = "batch"
    )]
    pub(crate) ordinals: Vec<u32>,
    #[command(flatten)]
    pub(crate) metadata: MetadataArguments,
}

/// Files chosen by what their sender said of them.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct MetadataArguments {
    /// Files whose metadata hold this, e.g. river=Paraná or site.level=3.5; given several times, all of it
    #[arg(
        long = "where",
        env = "CAUDAL_SELECT_WHERE",
        value_name = "NAME=VALUE",
        requires = "batch",
        value_parser = metadata_match
    )]
    pub(crate) matches: Vec<v1::MetadataMatch>,
}

impl SelectorArguments {
    /// As the API takes it.
    pub(crate) fn selector(&self) -> v1::FileSelector {
        let below = |folder: &String| format!("{}/**", escaped(folder.trim_matches('/')));
        v1::FileSelector {
            batch: self.batch.clone().unwrap_or_default(),
            states: self.states.iter().map(|state| (*state).into()).collect(),
            outcomes: self
                .outcomes
                .iter()
                .map(|outcome| (*outcome).into())
                .collect(),
            stages: self.stages.clone(),
            reasons: self.reasons.clone(),
            in_state_for: self.in_state_for.map(duration_to_proto),
            path_glob: self
                .folder
                .as_ref()
                .map(below)
                .or_else(|| self.path.clone())
                .unwrap_or_default(),
            ordinals: self.ordinals.clone(),
            metadata: self.metadata.matches.clone(),
            ..v1::FileSelector::default()
        }
    }

    /// Whether nothing but a batch is named.
    pub(crate) fn is_whole_batch(&self) -> bool {
        let selector = v1::FileSelector {
            batch: String::new(),
            ..self.selector()
        };
        self.batch.is_some() && selector == v1::FileSelector::default()
    }
}

/// A path as a pattern that matches nothing else.
fn escaped(path: &str) -> String {
    let mut pattern = String::with_capacity(path.len());
    for character in path.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '{' | '}' | '!' | '\\') {
            pattern.push('\\');
        }
        pattern.push(character);
    }
    pattern
}

/// A state by its name, in any case.
pub(crate) fn state(text: &str) -> Result<v1::FileState, String> {
    FileState::from_name(&text.trim().to_uppercase())
        .map(file_state_to_proto)
        .ok_or_else(|| {
            let names: Vec<&str> = FileState::ALL.into_iter().map(FileState::name).collect();
            format!("a state is one of {}", names.join(", "))
        })
}

fn outcome(text: &str) -> Result<v1::Outcome, String> {
    Outcome::from_name(&text.trim().to_uppercase().replace('-', "_"))
        .map(|outcome| outcome_to_proto(Some(outcome)))
        .ok_or_else(|| {
            let names: Vec<&str> = Outcome::ALL.into_iter().map(Outcome::name).collect();
            format!("an outcome is one of {}", names.join(", "))
        })
}

/// A stage by its name.
pub(crate) fn stage(text: &str) -> Result<String, String> {
    let stage: Stage = text
        .trim()
        .parse()
        .map_err(|error: caudal_domain::UnknownStage| error.to_string())?;
    Ok(stage.name().to_owned())
}

fn reason(text: &str) -> Result<String, String> {
    let code = text.trim().to_uppercase();
    if Reason::from_code(&code).is_some() {
        Ok(code)
    } else {
        Err("is no code of the catalogue of reasons; `caudal count --state FAILED --by reason` shows those that occur".to_owned())
    }
}

/// Names from the outside in, parted by dots, and the value that stands there: true, false, a number, or else a text. What
/// stands in quotes is a text.
fn metadata_match(text: &str) -> Result<v1::MetadataMatch, String> {
    use v1::metadata_match::Value;
    let wrong = "is names and a value: river=Paraná, site.level=3.5, checked=true or code=\"12\"";
    let (names, value) = text.split_once('=').ok_or(wrong)?;
    let path: Vec<String> = names.split('.').map(str::to_owned).collect();
    if path.iter().any(String::is_empty) {
        return Err(wrong.to_owned());
    }
    let value = match serde_json::from_str(value) {
        Ok(serde_json::Value::Bool(truth)) => Value::Truth(truth),
        Ok(serde_json::Value::String(text)) => Value::Text(text),
        Ok(serde_json::Value::Number(number)) => number.as_f64().map(Value::Number).ok_or(wrong)?,
        _ => Value::Text(value.to_owned()),
    };
    Ok(v1::MetadataMatch {
        path,
        value: Some(value),
    })
}

/// A number with a unit: s, m, h or d.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let unit = text.chars().last().unwrap_or_default();
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => 0,
    };
    let number: Option<u64> = text
        .strip_suffix(unit)
        .and_then(|number| number.parse().ok());
    match number.and_then(|number: u64| number.checked_mul(seconds)) {
        Some(total) if seconds > 0 => Ok(Duration::from_secs(total)),
        _ => Err("a time is a number and a unit: 90s, 10m, 2h or 1d".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("10m"), Ok(Duration::from_secs(600)));
        assert_eq!(duration("1d"), Ok(Duration::from_secs(86_400)));
        for wrong in [
            "",
            "10",
            "m",
            "1.5h",
            "-1s",
            "10 m",
            "99999999999999999999d",
        ] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_folder_is_taken_literally() {
        let arguments = SelectorArguments {
            batch: Some("batches/x".into()),
            folder: Some("a [1]/b*/".into()),
            ..SelectorArguments::default()
        };
        assert_eq!(arguments.selector().path_glob, r"a \[1\]/b\*/**");
        assert!(!arguments.is_whole_batch());
    }

    #[test]
    fn metadata_are_named_from_the_outside_in_and_a_value_is_what_it_looks_like() {
        use v1::metadata_match::Value;
        for (written, path, value) in [
            ("river=Paraná", vec!["river"], Value::Text("Paraná".into())),
            (
                "where.site.level=3.5",
                vec!["where", "site", "level"],
                Value::Number(3.5),
            ),
            ("checked=true", vec!["checked"], Value::Truth(true)),
            ("code=\"12\"", vec!["code"], Value::Text("12".into())),
            ("formula=a=b", vec!["formula"], Value::Text("a=b".into())),
            ("code=00012", vec!["code"], Value::Text("00012".into())),
            ("note=", vec!["note"], Value::Text(String::new())),
            ("list=[1]", vec!["list"], Value::Text("[1]".into())),
        ] {
            let found = metadata_match(written).unwrap();
            assert_eq!(
                (found.path, found.value),
                (
                    path.iter().map(|&name| name.to_owned()).collect(),
                    Some(value)
                ),
                "{written}"
            );
        }
        for wrong in ["river", "=Paraná", "a..b=1", ""] {
            assert!(metadata_match(wrong).is_err(), "{wrong}");
        }
        let arguments = SelectorArguments {
            batch: Some("batches/x".into()),
            metadata: MetadataArguments {
                matches: vec![metadata_match("river=Paraná").unwrap()],
            },
            ..SelectorArguments::default()
        };
        assert!(!arguments.is_whole_batch() && arguments.selector().metadata.len() == 1);
    }

    #[test]
    fn names_are_checked_before_anything_is_sent() {
        assert_eq!(state("failed"), Ok(v1::FileState::Failed));
        assert!(state("LOST").unwrap_err().contains("RETRYING"));
        assert_eq!(outcome("stored-only"), Ok(v1::Outcome::StoredOnly));
        assert!(stage("ocr").is_err());
        assert!(reason("BAD_LUCK").is_err());
    }
}
