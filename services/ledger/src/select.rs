//! The one selector, as callers write it, made into what the store can choose by.

use std::time::Duration;

use caudal_domain::{
    BatchId, BatchRef, FileState, Outcome, Reason, Refusal, Stage, TenantId, Violations, names,
};
use caudal_proto::convert::{
    duration_from_proto, file_state_from_proto, json_number, outcome_from_proto,
};
use caudal_proto::v1::{self, FileSelector};
use globset::{GlobBuilder, GlobMatcher};
use sea_orm::ConnectionTrait;

use crate::failure::Failure;
use crate::store::Session;
use crate::store::failures::Letters;
use crate::store::operations::FileVerb;
use crate::store::reads;
use crate::store::selection::{MetadataMatch, Selection, Subtree};
use crate::store::time::Micros;

/// For what a selector is written.
#[derive(Clone, Copy)]
pub(crate) enum Purpose<'a> {
    /// To count.
    Count,
    /// To list the files of one batch.
    List,
    /// To group failures: empty means all of the tenant.
    Failures,
    /// To act on each.
    Act(&'a FileVerb),
}

/// A selector that is right in itself; what it names may still not be there.
#[derive(Debug)]
struct Parsed {
    batch: Option<BatchId>,
    ordinals: Vec<u32>,
    states: Vec<FileState>,
    outcomes: Vec<Outcome>,
    stages: Vec<Stage>,
    reasons: Vec<Reason>,
    in_state_for: Option<Duration>,
    folder: Option<(BatchId, u32)>,
    glob: Option<GlobMatcher>,
    metadata: Vec<MetadataMatch>,
}

/// What a selector chooses of a tenant's files, ages as of `now`. `field` is where the selector stands in the request.
pub(crate) async fn resolve<C: ConnectionTrait>(
    session: &Session<'_, C>,
    tenant: TenantId,
    field: &str,
    selector: &FileSelector,
    purpose: Purpose<'_>,
    now: Micros,
) -> Result<Selection, Failure> {
    let parsed = parse(field, selector, purpose)?;
    if let Some(batch) = parsed.batch
        && reads::batch(session, BatchRef::new(tenant, batch))
            .await?
            .is_none()
    {
        return Err(Refusal::not_found(&selector.batch).into());
    }
    let folder = match parsed.folder {
        Some((of, folder)) if Some(of) == parsed.batch => {
            let path = reads::folder_path(session, tenant, of, folder).await?;
            let path = path.ok_or_else(|| Refusal::not_found(&selector.folder))?;
            Some(if selector.recursive {
                Subtree::recursive(folder, &path)
            } else {
                Subtree {
                    folder,
                    below: None,
                }
            })
        }
        Some(_) => return Err(Refusal::not_found(&selector.folder).into()),
        None => None,
    };
    Ok(Selection {
        tenant,
        batch: parsed.batch,
        ordinals: parsed.ordinals,
        states: parsed.states,
        outcomes: parsed.outcomes,
        stages: parsed.stages,
        reasons: parsed.reasons,
        changed_before: parsed.in_state_for.map(|age| now.minus(age)),
        folder,
        glob: parsed.glob,
        metadata: parsed.metadata,
        undismissed: match purpose {
            Purpose::Failures => true,
            // Named one by one, what is not to be dismissed is told of.
            Purpose::Act(FileVerb::Dismiss) => selector.ordinals.is_empty(),
            Purpose::Count | Purpose::List | Purpose::Act(_) => false,
        },
    })
}

/// Which failures of all tenants a selector chooses: no batch is named, for its tenant is not.
pub(crate) fn resolve_letters(
    field: &str,
    selector: &FileSelector,
    now: Micros,
) -> Result<Letters, Refusal> {
    if !selector.batch.is_empty() {
        let words = "is of one tenant: name it in `tenant`";
        return Err(Refusal::invalid(format!("{field}.batch"), words));
    }
    let parsed = parse(field, selector, Purpose::Failures)?;
    Ok(Letters {
        tenant: None,
        batch: None,
        stages: parsed.stages,
        reasons: parsed.reasons,
        before: parsed.in_state_for.map(|age| now.minus(age)),
    })
}

fn parse(field: &str, selector: &FileSelector, purpose: Purpose<'_>) -> Result<Parsed, Refusal> {
    let mut wrong = Wrong {
        field,
        violations: Violations::default(),
    };
    let batch = match selector.batch.as_str() {
        "" if matches!(purpose, Purpose::List) => {
            wrong.at("batch", "names the one batch whose files are listed");
            None
        }
        "" => None,
        name => names::parse_batch_name(name)
            .map_err(|error| wrong.at("batch", error.to_string()))
            .ok(),
    };
    let folder = match selector.folder.as_str() {
        "" => {
            if selector.recursive {
                wrong.at("recursive", "says how far `folder` reaches: name one");
            }
            None
        }
        name => names::parse_folder_name(name)
            .map_err(|error| wrong.at("folder", error.to_string()))
            .ok(),
    };
    let mut parsed = Parsed {
        batch,
        ordinals: selector.ordinals.clone(),
        states: wrong.each("states", &selector.states, |state| {
            file_state_from_proto(*state).map_err(|error| error.to_string())
        }),
        outcomes: wrong.each(
            "outcomes",
            &selector.outcomes,
            |outcome| match outcome_from_proto(*outcome) {
                Ok(Some(outcome)) => Ok(outcome),
                Ok(None) => Err("must name an outcome".to_owned()),
                Err(error) => Err(error.to_string()),
            },
        ),
        stages: wrong.each("stages", &selector.stages, |stage| {
            stage.parse::<Stage>().map_err(|error| error.to_string())
        }),
        reasons: wrong.each("reasons", &selector.reasons, |code| {
            Reason::from_code(code)
                .ok_or_else(|| format!("`{code}` is not in the catalogue of reasons"))
        }),
        in_state_for: selector.in_state_for.as_ref().and_then(|age| {
            duration_from_proto(age)
                .map_err(|error| wrong.at("in_state_for", error.to_string()))
                .ok()
        }),
        folder,
        glob: wrong.glob(&selector.path_glob),
        metadata: wrong.each("metadata", &selector.metadata, metadata_match),
    };
    if selector.batch.is_empty() {
        for (name, is_set) in [
            ("folder", !selector.folder.is_empty()),
            ("path_glob", !selector.path_glob.is_empty()),
            ("ordinals", !selector.ordinals.is_empty()),
            ("metadata", !selector.metadata.is_empty()),
        ] {
            if is_set && !matches!(purpose, Purpose::List) {
                wrong.at(name, "is looked for in one batch: set `batch` too");
            }
        }
    }
    let is_empty = *selector == FileSelector::default();
    if is_empty && !matches!(purpose, Purpose::Failures | Purpose::List) {
        let words =
            "chooses every file of the tenant because it is empty: set at least one of its fields";
        wrong.violations.add(field, words);
    }
    match purpose {
        Purpose::Count | Purpose::List => wrong.narrow_by_reasons_and_outcomes(&mut parsed),
        Purpose::Failures => wrong.narrow_to(&mut parsed, "a failure", &[FileState::Failed]),
        Purpose::Act(verb) => {
            let (act, states) = acts_on(verb);
            wrong.narrow_to(&mut parsed, act, states);
        }
    }
    if wrong.violations.is_empty() && parsed.batch.is_none() {
        wrong.check_whole_tenant(&parsed);
    }
    wrong.violations.into_result()?;
    fold(&mut parsed.ordinals);
    fold(&mut parsed.states);
    fold(&mut parsed.outcomes);
    fold(&mut parsed.stages);
    fold(&mut parsed.reasons);
    Ok(parsed)
}

fn metadata_match(written: &v1::MetadataMatch) -> Result<MetadataMatch, String> {
    use v1::metadata_match::Value;
    if written.path.is_empty() {
        return Err("must name in `path` where in the metadata it looks".to_owned());
    }
    let ends_a_name = |letter: char| letter.is_control() || matches!(letter, '"' | '\\');
    let is_name = |name: &String| !name.is_empty() && !name.contains(ends_a_name);
    if !written.path.iter().all(is_name) {
        return Err(
            "must have names in `path` without control characters, `\"` and `\\`".to_owned(),
        );
    }
    let value = match &written.value {
        Some(Value::Text(text)) => text.as_str().into(),
        Some(Value::Number(number)) => {
            json_number(*number).map_err(|error| format!("`number` {error}"))?
        }
        Some(Value::Truth(truth)) => (*truth).into(),
        None => return Err("must say which value is looked for".to_owned()),
    };
    Ok(MetadataMatch {
        path: written.path.clone(),
        value,
    })
}

/// Leaves each once, in order.
fn fold<T: Ord>(members: &mut Vec<T>) {
    members.sort_unstable();
    members.dedup();
}

/// The same selector with each value once, as it is kept.
pub(crate) fn folded(selector: &FileSelector) -> FileSelector {
    let mut folded = selector.clone();
    fold(&mut folded.states);
    fold(&mut folded.outcomes);
    fold(&mut folded.stages);
    fold(&mut folded.reasons);
    fold(&mut folded.ordinals);
    folded
}

/// In which states files are for a verb to do anything to them, and how the verb is called.
fn acts_on(verb: &FileVerb) -> (&'static str, &'static [FileState]) {
    use FileState as S;
    match verb {
        FileVerb::Cancel => (
            "cancelling",
            &[
                S::Pending,
                S::Uploading,
                S::Uploaded,
                S::Queued,
                S::Processing,
                S::Retrying,
            ],
        ),
        FileVerb::Retry { skip_backoff: true } => ("a retry", &[S::Retrying, S::Failed]),
        FileVerb::Retry {
            skip_backoff: false,
        } => ("a retry without `skip_backoff`", &[S::Failed]),
        FileVerb::Reprocess { .. } => ("reprocessing", &[S::Processed]),
        FileVerb::Dismiss => ("dismissing", &[S::Failed]),
    }
}

/// What is wrong with a selector.
struct Wrong<'a> {
    field: &'a str,
    violations: Violations,
}

impl Wrong<'_> {
    fn at(&mut self, name: &str, description: impl Into<String>) {
        self.violations
            .add(format!("{}.{name}", self.field), description);
    }

    fn each<T, U>(
        &mut self,
        name: &str,
        members: &[T],
        read: impl Fn(&T) -> Result<U, String>,
    ) -> Vec<U> {
        let mut found = Vec::with_capacity(members.len());
        for (index, member) in members.iter().enumerate() {
            if self.violations.is_full() {
                break;
            }
            match read(member) {
                Ok(member) => found.push(member),
                Err(words) => self.at(&format!("{name}[{index}]"), words),
            }
        }
        found
    }

    fn glob(&mut self, pattern: &str) -> Option<GlobMatcher> {
        if pattern.is_empty() {
            return None;
        }
        let glob = GlobBuilder::new(pattern)
            .literal_separator(true)
            .backslash_escape(true)
            .build();
        match glob {
            Ok(glob) => Some(glob.compile_matcher()),
            Err(error) => {
                let words = format!(
                    "is no pattern of paths: {}; such as `reports/**/*.pdf`",
                    error.kind()
                );
                self.at("path_glob", words);
                None
            }
        }
    }

    /// Only FAILED and RETRYING files have a reason, only PROCESSED ones an outcome: so the states are known.
    fn narrow_by_reasons_and_outcomes(&mut self, parsed: &mut Parsed) {
        let implied: &[FileState] = match (parsed.reasons.is_empty(), parsed.outcomes.is_empty()) {
            (true, true) => return,
            (false, true) => &[FileState::Retrying, FileState::Failed],
            (true, false) => &[FileState::Processed],
            (false, false) => {
                self.at(
                    "outcomes",
                    "are of PROCESSED files, which have no reason: leave `reasons` or `outcomes` out",
                );
                return;
            }
        };
        if parsed.states.is_empty() {
            parsed.states = implied.to_vec();
            return;
        }
        parsed.states.retain(|state| implied.contains(state));
        if parsed.states.is_empty() {
            let names: Vec<&str> = implied.iter().map(|state| state.name()).collect();
            let words = format!(
                "hold none that the reasons or outcomes beside them are of: name {}, or leave them out",
                names.join(" or ")
            );
            self.at("states", words);
        }
    }

    /// Leaves the states in which `act` does anything. Ordinals are named one by one: what cannot be done to one of
    /// them is told, not passed over.
    fn narrow_to(&mut self, parsed: &mut Parsed, act: &str, states: &[FileState]) {
        let names: Vec<&str> = states.iter().map(|state| state.name()).collect();
        let names = names.join(", ");
        for (index, state) in parsed.states.iter().enumerate() {
            if !states.contains(state) {
                let words = format!("{act} is for files that are {names}, not {}", state.name());
                self.at(&format!("states[{index}]"), words);
            }
        }
        if !parsed.outcomes.is_empty() && !states.contains(&FileState::Processed) {
            let words = format!("are of PROCESSED files, and {act} is for files that are {names}");
            self.at("outcomes", words);
        }
        let with_reason = [FileState::Retrying, FileState::Failed];
        if !parsed.reasons.is_empty() && !states.iter().any(|state| with_reason.contains(state)) {
            let words = format!(
                "are of FAILED and RETRYING files, and {act} is for files that are {names}"
            );
            self.at("reasons", words);
        }
        if parsed.states.is_empty() && parsed.ordinals.is_empty() {
            parsed.states = states.to_vec();
        }
        if self.violations.is_empty() && parsed.ordinals.is_empty() {
            self.narrow_by_reasons_and_outcomes(parsed);
        }
    }

    /// Without a batch the counters must tell where to look, and files that are final for good may be too many to look at.
    fn check_whole_tenant(&mut self, parsed: &Parsed) {
        if parsed.states.is_empty() {
            let words = "without `batch` it must hold `states`, `outcomes` or `reasons`: they tell in which batches to look";
            self.violations.add(self.field, words);
            return;
        }
        let looked_at = [FileState::Processed, FileState::Cancelled];
        let kept: Vec<&str> = parsed
            .states
            .iter()
            .filter(|state| looked_at.contains(state))
            .map(|state| state.name())
            .collect();
        if kept.is_empty() {
            return;
        }
        let words = format!(
            "over {} files of the whole tenant is not served: set `batch`, or leave it out",
            kept.join(" and ")
        );
        if parsed.in_state_for.is_some() {
            self.at("in_state_for", words.clone());
        }
        if !parsed.stages.is_empty() {
            self.at("stages", words);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;

    const BATCH: &str = "batches/0190b5a2-0000-7000-8000-000000000001";

    fn refused(selector: &FileSelector, purpose: Purpose<'_>) -> Vec<(String, String)> {
        let refusal = parse("selector", selector, purpose).unwrap_err();
        let violations = refusal.violations.into_iter();
        violations
            .map(|violation| (violation.field, violation.description))
            .collect()
    }

    fn fields(selector: &FileSelector, purpose: Purpose<'_>) -> Vec<String> {
        let violations = refused(selector, purpose).into_iter();
        violations.map(|(field, _)| field).collect()
    }

    #[test]
    fn an_empty_selector_is_refused_except_for_failures() {
        let empty = FileSelector::default();
        assert_eq!(fields(&empty, Purpose::Count), ["selector"]);
        assert_eq!(
            fields(&empty, Purpose::Act(&FileVerb::Cancel)),
            ["selector"]
        );
        assert_eq!(fields(&empty, Purpose::List), ["selector.batch"]);
        let failures = parse("selector", &empty, Purpose::Failures).unwrap();
        assert_eq!(failures.states, [FileState::Failed]);
    }

    #[test]
    fn what_is_looked_for_in_one_batch_needs_it() {
        let selector = FileSelector {
            folder: format!("{BATCH}/folders/1"),
            path_glob: "*.pdf".into(),
            ordinals: vec![1],
            ..FileSelector::default()
        };
        assert_eq!(
            fields(&selector, Purpose::Count),
            ["selector.folder", "selector.path_glob", "selector.ordinals"]
        );
    }

    #[test]
    fn a_selector_over_the_tenant_must_say_in_which_states() {
        let selector = FileSelector {
            stages: vec!["embeddings".into()],
            ..FileSelector::default()
        };
        assert_eq!(fields(&selector, Purpose::Count), ["selector"]);
        // A verb says it by itself.
        let retry = FileVerb::Retry {
            skip_backoff: false,
        };
        let parsed = parse("selector", &selector, Purpose::Act(&retry)).unwrap();
        assert_eq!(parsed.states, [FileState::Failed]);
        let old = FileSelector {
            states: vec![v1::FileState::Processed.into()],
            in_state_for: Some(prost_types::Duration {
                seconds: 60,
                nanos: 0,
            }),
            ..FileSelector::default()
        };
        assert_eq!(fields(&old, Purpose::Count), ["selector.in_state_for"]);
    }

    #[test]
    fn a_verb_refuses_states_it_does_nothing_to() {
        let selector = FileSelector {
            batch: BATCH.into(),
            states: vec![v1::FileState::Failed.into(), v1::FileState::Uploaded.into()],
            ..FileSelector::default()
        };
        let refused = refused(&selector, Purpose::Act(&FileVerb::Cancel));
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].0, "selector.states[0]");
        assert!(refused[0].1.contains("not FAILED"), "{}", refused[0].1);
    }

    #[test]
    fn reasons_and_outcomes_imply_their_states() {
        let selector = FileSelector {
            reasons: vec!["CORRUPT_DOCUMENT".into()],
            ..FileSelector::default()
        };
        let parsed = parse("selector", &selector, Purpose::Count).unwrap();
        assert_eq!(parsed.states, [FileState::Retrying, FileState::Failed]);
        let contradiction = FileSelector {
            outcomes: vec![v1::Outcome::Partial.into()],
            ..selector
        };
        assert_eq!(
            fields(&contradiction, Purpose::Count),
            ["selector.outcomes"]
        );
    }

    #[test]
    fn a_glob_keeps_to_one_part_unless_it_says_otherwise() {
        let matches = |pattern: &str, path: &str| {
            let selector = FileSelector {
                batch: BATCH.into(),
                path_glob: pattern.into(),
                ..FileSelector::default()
            };
            let parsed = parse("selector", &selector, Purpose::Count).unwrap();
            parsed.glob.unwrap().is_match(path)
        };
        assert!(matches("*.pdf", "a.pdf"));
        assert!(!matches("*.pdf", "x/a.pdf"));
        assert!(matches("**/*.pdf", "x/y/a.pdf"));
        assert!(matches("**/*.pdf", "a.pdf"));
        assert!(matches("x/**", "x/y/a.pdf"));
        assert!(matches("{x,y}/[ab].*", "y/b.txt"));
        let broken = FileSelector {
            batch: BATCH.into(),
            path_glob: "a[".into(),
            ..FileSelector::default()
        };
        assert_eq!(fields(&broken, Purpose::Count), ["selector.path_glob"]);
    }
}
