//! What stage processes are told of the files that are out, kept while they are: the lease of a later hop reads nothing
//! and asks nobody. What is kept is good for one token only, so that what missed a result is never handed out. All of it can be
//! read from the database again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use caudal_domain::{FileRef, FileState, Stage, StageSet, StageVersion, Token};
use rustc_hash::FxHashMap;

use super::costs::Cost;
use crate::store::results::ResultRow;
use crate::store::work::WorkRow;

/// Files remembered; the windows bound how many files are out, so that it is reached only by what left unseen. Beyond it all
/// are dropped and read anew.
const MOST_FILES: usize = 65_536;

/// A file granted to a stage process.
#[derive(Clone, Debug)]
pub(crate) struct Granted {
    pub(crate) row: WorkRow,
    pub(crate) stages: StageSet,
    /// What it is expected to take of a slot's time.
    pub(crate) expected: Cost,
}

impl Granted {
    /// Whether the upload stage reads the object that was verified before: a reprocess has no landing object
    /// (protocol 11.3).
    pub(crate) fn reads_final_object(&self) -> bool {
        self.row.stage == Stage::Upload && self.row.is_at_final_key()
    }
}

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
pub(crate) struct Inputs {
    pub(crate) declared: Arc<Declared>,
    /// Results of its generation, in the order of their recording.
    pub(crate) results: Arc<Vec<Arc<ResultRow>>>,
}

/// What a committed group did to a file.
#[derive(Debug)]
pub(crate) struct FileMoved {
    pub(crate) file: FileRef,
    /// The tokens before and after.
    pub(crate) from: Token,
    pub(crate) to: Token,
    /// As it is out now; `None`: it is not.
    pub(crate) out: Option<Arc<Granted>>,
    /// It went out for the first time, and this is what was declared.
    pub(crate) begun: Option<Arc<Declared>>,
}

struct CachedLease {
    token: Token,
    inputs: Inputs,
    /// The row under that token, once the writer has committed it as PROCESSING.
    out: Option<Arc<Granted>>,
}

#[derive(Default)]
struct Cached {
    files: FxHashMap<FileRef, CachedLease>,
    /// Versions under which the writer has granted leases: it has noted them.
    versions: HashSet<StageVersion>,
    /// Until when no other ledger can lead: what is kept here is then what the database holds.
    leads_until: Option<Instant>,
}

impl Cached {
    fn make_room(&mut self) {
        if self.files.len() >= MOST_FILES {
            self.files.clear();
        }
    }

    fn advance(&mut self, moved: FileMoved, recorded: Vec<ResultRow>) {
        let FileMoved {
            file,
            from,
            to,
            out,
            begun,
        } = moved;
        let Some(row) = out else {
            self.files.remove(&file);
            return;
        };
        let generation = row.row.generation;
        let of_generation = |result: &ResultRow| result.generation == generation;
        let recorded = recorded.into_iter().filter(of_generation);
        let out = (row.row.state == FileState::Processing).then_some(row);
        if let Some(declared) = begun {
            self.make_room();
            let inputs = Inputs {
                declared,
                results: Arc::new(recorded.map(Arc::new).collect()),
            };
            let token = to;
            self.files.insert(file, CachedLease { token, inputs, out });
            return;
        }
        let Some(known) = self.files.get_mut(&file) else {
            return;
        };
        if known.token != from {
            if known.token < to {
                self.files.remove(&file);
            }
            return;
        }
        known.token = to;
        known.out = out;
        // A group may have ended one generation and sent out the next.
        let results = Arc::make_mut(&mut known.inputs.results);
        results.retain(|result| of_generation(result));
        // A reader may have seen a result between its commit and this call.
        for result in recorded {
            let same = |held: &Arc<ResultRow>| {
                (held.generation, held.stage) == (result.generation, result.stage)
            };
            if !results.iter().any(same) {
                results.push(Arc::new(result));
            }
        }
    }
}

/// What is told of the files that are out.
#[derive(Clone, Default)]
pub(crate) struct LeaseCache {
    of: Arc<Mutex<Cached>>,
}

impl LeaseCache {
    fn locked(&self) -> MutexGuard<'_, Cached> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The inputs of each file, if the one that is kept is good for its token.
    pub(crate) fn get(&self, files: &[(FileRef, Token)]) -> Vec<Option<Inputs>> {
        let kept = self.locked();
        let good = |(file, token): &(FileRef, Token)| {
            let known = kept.files.get(file)?;
            (known.token == *token).then(|| known.inputs.clone())
        };
        files.iter().map(good).collect()
    }

    /// Grants later hops by what was committed, for they write nothing (protocol 5.1): those that are out to the stage
    /// under this very token. Whoever is not granted here is to be looked at in the database. Nobody is, once another
    /// ledger may lead, or where the version has not been noted.
    pub(crate) fn grant(
        &self,
        version: &StageVersion,
        held: &[(FileRef, Token)],
        now: Instant,
    ) -> Vec<Option<(Arc<Granted>, Inputs)>> {
        let kept = self.locked();
        let leads = kept.leads_until.is_some_and(|until| now < until) || planted!(GrantedAfterTerm);
        if !leads || !kept.versions.contains(version) {
            return vec![None; held.len()];
        }
        let grant = |(file, token): &(FileRef, Token)| {
            let known = kept.files.get(file)?;
            let out = known.out.as_ref()?;
            let current = known.token == *token || planted!(StaleLeaseFromMemory);
            let granted = current && out.row.stage == version.stage;
            granted.then(|| (out.clone(), known.inputs.clone()))
        };
        held.iter().map(grant).collect()
    }

    /// The dispatches that would be granted to a process of a version that has been noted.
    #[cfg(test)]
    pub(crate) fn grantable(&self) -> Vec<(FileRef, Token)> {
        let kept = self.locked();
        let out = kept.files.iter().filter(|(_, known)| known.out.is_some());
        out.map(|(file, known)| (*file, known.token)).collect()
    }

    /// The writer has noted a version.
    pub(crate) fn noted(&self, version: &StageVersion) {
        let mut kept = self.locked();
        if !kept.versions.contains(version) {
            kept.versions.insert(version.clone());
        }
    }

    /// The leadership was taken or renewed.
    pub(crate) fn leads_until(&self, until: Instant) {
        self.locked().leads_until = Some(until);
    }

    /// Keeps what was read under a token; never over one of a later token.
    pub(crate) fn learn(&self, inputs: impl IntoIterator<Item = (FileRef, Token, Inputs)>) {
        let mut kept = self.locked();
        for (file, token, inputs) in inputs {
            kept.make_room();
            match kept.files.get(&file) {
                Some(known) if known.token >= token => {}
                _ => {
                    let out = None;
                    kept.files.insert(file, CachedLease { token, inputs, out });
                }
            }
        }
    }

    /// A group was committed; `recorded` are the results that it recorded, of any files. To be called in the order of the
    /// commits, and before the next stages hear of it.
    pub(crate) fn advance(&self, files: Vec<FileMoved>, recorded: Vec<ResultRow>) {
        let mut of_files: FxHashMap<FileRef, Vec<ResultRow>> = FxHashMap::default();
        for result in recorded {
            of_files.entry(result.file).or_default().push(result);
        }
        let mut kept = self.locked();
        for moved in files {
            let recorded = of_files.remove(&moved.file).unwrap_or_default();
            kept.advance(moved, recorded);
        }
    }

    /// Nothing is known of these files any more.
    pub(crate) fn forget(&self, files: impl IntoIterator<Item = FileRef>) {
        let mut kept = self.locked();
        for file in files {
            kept.files.remove(&file);
        }
    }

    /// Another ledger may lead.
    pub(crate) fn forget_all(&self) {
        *self.locked() = Cached::default();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::time::Duration;

    use caudal_domain::{BatchId, Generation, Stage, StageSet, TenantId};
    use uuid::Uuid;

    use super::*;
    use crate::likeness::Likeness;
    use crate::store::results::Used;
    use crate::store::time::Micros;
    use crate::store::work::WorkRow;

    fn declared() -> Arc<Declared> {
        Arc::new(Declared {
            path: "a".into(),
            sha256: None,
            metadata: None,
        })
    }

    fn inputs() -> Inputs {
        Inputs {
            declared: declared(),
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

    fn row(state: FileState, stage: Stage, token: u64) -> Arc<Granted> {
        let row = WorkRow {
            state,
            stage,
            token: Token::new(token),
            dispatched_at: Some(Micros(1)),
            ..WorkRow::pending(file(), 0, Likeness::sized(1), Micros(1))
        };
        let stages = StageSet::default();
        Arc::new(Granted {
            row,
            stages,
            expected: 0,
        })
    }

    fn moved(from: u64, out: Option<Arc<Granted>>) -> FileMoved {
        let to = out.as_ref().map_or(from + 1, |out| out.row.token.get());
        FileMoved {
            file: file(),
            from: Token::new(from),
            to: Token::new(to),
            out,
            begun: None,
        }
    }

    fn went_on(cache: &LeaseCache, from: u64, to: u64) {
        let out = row(FileState::Processing, Stage::ExtractText, to);
        cache.advance(vec![moved(from, Some(out))], Vec::new());
    }

    fn is_kept(cache: &LeaseCache, token: u64) -> bool {
        cache.get(&[(file(), Token::new(token))])[0].is_some()
    }

    fn is_granted(cache: &LeaseCache, stage: Stage, token: u64) -> bool {
        let version = StageVersion::new(stage, "1");
        cache.grant(&version, &[(file(), Token::new(token))], Instant::now())[0].is_some()
    }

    fn result(generation: Generation) -> ResultRow {
        ResultRow {
            file: file(),
            generation,
            stage: Stage::Upload,
            version: None,
            content: None,
            media_type: None,
            token: Token::FIRST,
            nonce: String::new(),
            artifacts: Vec::new(),
            facts: String::new(),
            warnings: Vec::new(),
            used: Used::default(),
            skipped: false,
            has_text: false,
            taken_from: None,
            at: Micros(1),
        }
    }

    fn leading() -> LeaseCache {
        let cache = LeaseCache::default();
        cache.leads_until(Instant::now() + Duration::from_secs(60));
        for stage in Stage::ALL {
            cache.noted(&StageVersion::new(stage, "1"));
        }
        cache
    }

    #[test]
    fn what_is_kept_is_good_for_its_token_only() {
        let cache = LeaseCache::default();
        cache.learn([(file(), Token::new(3), inputs())]);
        assert!(is_kept(&cache, 3));
        assert!(!is_kept(&cache, 4));
        went_on(&cache, 3, 4);
        assert!(is_kept(&cache, 4));
        assert!(!is_kept(&cache, 3));
    }

    // Protocol 11.3: a group may hold the last report of a file and the reprocess after it.
    #[test]
    fn results_of_another_generation_do_not_stand_beside_those_of_the_present_one() {
        let cache = LeaseCache::default();
        cache.learn([(file(), Token::new(3), inputs())]);
        let next = Generation::FIRST.next();
        let out = |token, generation| {
            let mut granted = row(FileState::Processing, Stage::ExtractText, token);
            Arc::make_mut(&mut granted).row.generation = generation;
            Some(granted)
        };
        let first = out(4, Generation::FIRST);
        cache.advance(vec![moved(3, first)], vec![result(Generation::FIRST)]);
        let both = vec![result(Generation::FIRST), result(next)];
        cache.advance(vec![moved(4, out(5, next))], both);
        let kept = cache.get(&[(file(), Token::new(5))]);
        let results = &kept[0].as_ref().unwrap().results;
        let generations: Vec<Generation> = results.iter().map(|result| result.generation).collect();
        assert_eq!(generations, [next]);
    }

    // What was read before a result was recorded must not stand for what there is after it.
    #[test]
    fn what_was_read_under_an_older_token_does_not_replace_what_is_kept() {
        let cache = LeaseCache::default();
        cache.learn([(file(), Token::new(5), inputs())]);
        cache.learn([(file(), Token::new(3), inputs())]);
        assert!(is_kept(&cache, 5));
    }

    #[test]
    fn a_inputs_that_missed_a_step_is_dropped() {
        let cache = LeaseCache::default();
        cache.learn([(file(), Token::new(3), inputs())]);
        went_on(&cache, 4, 5);
        assert!(!is_kept(&cache, 3) && !is_kept(&cache, 5));
    }

    // Protocol 5.1: the row's own token, at the stage that it is out to; a QUEUED row is written, so the writer grants it.
    #[test]
    fn only_what_is_out_under_this_token_at_this_stage_is_granted() {
        let cache = leading();
        cache.learn([(file(), Token::new(3), inputs())]);
        assert!(
            !is_granted(&cache, Stage::Upload, 3),
            "only read, not committed"
        );
        went_on(&cache, 3, 4);
        assert!(is_granted(&cache, Stage::ExtractText, 4));
        assert!(!is_granted(&cache, Stage::ExtractText, 3));
        assert!(!is_granted(&cache, Stage::ExtractText, 5));
        assert!(!is_granted(&cache, Stage::Embeddings, 4));
        let queued = row(FileState::Queued, Stage::ExtractText, 5);
        cache.advance(vec![moved(4, Some(queued))], Vec::new());
        assert!(!is_granted(&cache, Stage::ExtractText, 5));
    }

    // Protocol 10.1: whatever takes a file away raises its token, and nobody gets it any more.
    #[test]
    fn a_file_that_is_not_out_any_more_is_not_granted() {
        let cache = leading();
        cache.learn([(file(), Token::new(3), inputs())]);
        went_on(&cache, 3, 4);
        cache.advance(vec![moved(4, None)], Vec::new());
        assert!(!is_granted(&cache, Stage::ExtractText, 4));
        assert!(!is_granted(&cache, Stage::ExtractText, 5));
    }

    #[test]
    fn nothing_is_granted_once_another_ledger_may_lead() {
        let cache = leading();
        cache.learn([(file(), Token::new(3), inputs())]);
        went_on(&cache, 3, 4);
        let past = Instant::now()
            .checked_sub(Duration::from_millis(1))
            .unwrap();
        cache.leads_until(past);
        assert!(!is_granted(&cache, Stage::ExtractText, 4));
        cache.forget_all();
        assert!(!is_kept(&cache, 4));
    }

    // The writer takes results over from the newest version only, so it must hear of each version first.
    #[test]
    fn a_version_that_the_writer_has_not_noted_is_not_served() {
        let cache = leading();
        cache.learn([(file(), Token::new(3), inputs())]);
        went_on(&cache, 3, 4);
        let other = StageVersion::new(Stage::ExtractText, "2");
        assert!(cache.grant(&other, &[(file(), Token::new(4))], Instant::now())[0].is_none());
        cache.noted(&other);
        assert!(cache.grant(&other, &[(file(), Token::new(4))], Instant::now())[0].is_some());
    }

    #[test]
    fn a_file_that_goes_out_for_the_first_time_is_read_by_nobody() {
        let cache = leading();
        let queued = row(FileState::Queued, Stage::Upload, 2);
        let begun = FileMoved {
            begun: Some(declared()),
            ..moved(1, Some(queued))
        };
        cache.advance(vec![begun], Vec::new());
        assert!(is_kept(&cache, 2));
        assert!(!is_granted(&cache, Stage::Upload, 2));
    }
}
