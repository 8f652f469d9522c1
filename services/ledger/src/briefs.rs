//! What stage processes are told of the files that are out, kept while they are: the lease of a later hop reads nothing.
//! A brief is good for one token only, so one that missed a result is never handed out. All of it can be read from the
//! database again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use caudal_domain::{FileRef, Token};
use rustc_hash::FxHashMap;

use crate::store::results::ResultRow;

/// Briefs kept; the windows bound how many files are out, so that it is reached only by what left unseen. Beyond it all
/// are dropped and read anew.
const KEPT: usize = 65_536;

/// What the manifest says of a file.
#[derive(Clone, Debug)]
pub(crate) struct Declared {
    pub(crate) path: String,
    pub(crate) sha256: Option<Vec<u8>>,
    /// JSON, the caller's.
    pub(crate) metadata: Option<String>,
}

/// What a handler needs of a file beside its row.
#[derive(Clone, Debug)]
pub(crate) struct Brief {
    pub(crate) declared: Arc<Declared>,
    /// Results of its generation, in the order of their recording.
    pub(crate) results: Arc<Vec<ResultRow>>,
}

type Kept = FxHashMap<FileRef, (Token, Brief)>;

/// Briefs of the files that are out.
#[derive(Clone, Default)]
pub(crate) struct Briefs {
    of: Arc<Mutex<Kept>>,
}

impl Briefs {
    fn locked(&self) -> MutexGuard<'_, Kept> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The brief of each file, if the one that is kept is good for its token.
    pub(crate) fn get(&self, files: &[(FileRef, Token)]) -> Vec<Option<Brief>> {
        let kept = self.locked();
        let good = |(file, token): &(FileRef, Token)| {
            let (of, brief) = kept.get(file)?;
            (of == token).then(|| brief.clone())
        };
        files.iter().map(good).collect()
    }

    /// Keeps what was read under a token; never over one of a later token.
    pub(crate) fn learn(&self, briefs: impl IntoIterator<Item = (FileRef, Token, Brief)>) {
        let mut kept = self.locked();
        for (file, token, brief) in briefs {
            if kept.len() >= KEPT {
                kept.clear();
            }
            match kept.get(&file) {
                Some((of, _)) if *of >= token => {}
                _ => {
                    kept.insert(file, (token, brief));
                }
            }
        }
    }

    /// A file went on from one token to another and is out again; `recorded` is what was recorded on the way.
    pub(crate) fn went_on(&self, file: FileRef, from: Token, to: Token, recorded: Vec<ResultRow>) {
        let mut kept = self.locked();
        let Some((of, brief)) = kept.get_mut(&file) else {
            return;
        };
        if *of == from {
            *of = to;
            // A reader may have seen a result between its commit and this call.
            let results = Arc::make_mut(&mut brief.results);
            for result in recorded {
                let same = |known: &ResultRow| {
                    (known.generation, known.stage) == (result.generation, result.stage)
                };
                if !results.iter().any(same) {
                    results.push(result);
                }
            }
        } else if *of < to {
            kept.remove(&file);
        }
    }

    /// The file is not out any more.
    pub(crate) fn forget(&self, file: FileRef) {
        self.locked().remove(&file);
    }
}

#[cfg(test)]
mod tests {
    use caudal_domain::{BatchId, TenantId};
    use uuid::Uuid;

    use super::*;

    fn brief() -> Brief {
        Brief {
            declared: Arc::new(Declared {
                path: "a".into(),
                sha256: None,
                metadata: None,
            }),
            results: Arc::default(),
        }
    }

    fn file() -> FileRef {
        FileRef::new(
            TenantId::from_uuid(Uuid::nil()),
            BatchId::from_uuid(Uuid::nil()),
            7,
        )
    }

    fn is_kept(briefs: &Briefs, token: u64) -> bool {
        briefs.get(&[(file(), Token::new(token))])[0].is_some()
    }

    #[test]
    fn a_brief_is_good_for_its_token_only() {
        let briefs = Briefs::default();
        briefs.learn([(file(), Token::new(3), brief())]);
        assert!(is_kept(&briefs, 3));
        assert!(!is_kept(&briefs, 4));
        briefs.went_on(file(), Token::new(3), Token::new(4), Vec::new());
        assert!(is_kept(&briefs, 4));
        assert!(!is_kept(&briefs, 3));
    }

    // What was read before a result was recorded must not stand for what there is after it.
    #[test]
    fn what_was_read_under_an_older_token_does_not_replace_what_is_kept() {
        let briefs = Briefs::default();
        briefs.learn([(file(), Token::new(5), brief())]);
        briefs.learn([(file(), Token::new(3), brief())]);
        assert!(is_kept(&briefs, 5));
    }

    #[test]
    fn a_brief_that_missed_a_step_is_dropped() {
        let briefs = Briefs::default();
        briefs.learn([(file(), Token::new(3), brief())]);
        briefs.went_on(file(), Token::new(4), Token::new(5), Vec::new());
        assert!(!is_kept(&briefs, 3) && !is_kept(&briefs, 5));
    }
}
