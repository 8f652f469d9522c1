//! A stand-in until the verbs are here.

use caudal_domain::{FileEvent, FileRef, Reason};

use super::acts::Verb;
use super::group::{Group, GroupError};

impl Group<'_> {
    pub(super) async fn apply_verb(
        &mut self,
        verb: &Verb,
        files: &[FileRef],
    ) -> Result<Vec<Result<(), &'static str>>, GroupError> {
        let mut results = Vec::with_capacity(files.len());
        for file in files {
            let Some(state) = self.files.get(file).map(|worked| worked.row.state) else {
                results.push(Err("NOT_FOUND"));
                continue;
            };
            let result = match verb {
                Verb::Cancel => {
                    if state.is_final() {
                        Err("FINAL")
                    } else {
                        self.raise_token(*file)?;
                        self.step(*file, FileEvent::Cancel)?;
                        Ok(())
                    }
                }
                Verb::Retry { .. } => {
                    if state == caudal_domain::FileState::Failed {
                        let needs_bytes = self
                            .files
                            .get(file)
                            .and_then(|worked| worked.row.reason)
                            .is_some_and(|reason| reason == Reason::NeverArrived);
                        self.raise_token(*file)?;
                        self.buried.push(*file);
                        self.step(*file, FileEvent::Replay { needs_bytes })?;
                        if !needs_bytes {
                            self.make_ready(*file, self.now)?;
                        }
                        Ok(())
                    } else {
                        Err("NOT_FAILED")
                    }
                }
                Verb::Reprocess { .. } | Verb::Dismiss => Err("NOT_YET"),
            };
            results.push(result);
        }
        Ok(results)
    }
}
