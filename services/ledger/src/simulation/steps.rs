//! What one commit may do: the rules of docs/protocol.md for a single step of a file or a batch, told by the rows before and
//! after it and by what was asked, not by the code that made it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use caudal_domain::{
    BatchState, FileRef, FileState, MAX_KILLS, Reason, RetryPolicy, Stage, TenantId, Token,
};
use rustc_hash::FxHashSet;

use super::database::Tables;
use super::streams::Pair;
use crate::settings::{DispatchWindows, OwnLimits};
use crate::store::attempts::AttemptRow;
use crate::store::credentials::KeyRow;
use crate::store::progress::ProgressRow;
use crate::store::results::ResultRow;
use crate::store::stages::StageRow;
use crate::store::time::Micros;
use crate::store::tus::TusRow;
use crate::store::work::{AT_FINAL_KEY, WorkRow};

/// No group of a history takes longer, with all its jumps of the clock.
const A_GROUP_TAKES: Duration = Duration::from_mins(10);

/// What has been asked of ledgers so far, by whoever may ask it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    /// Dispatches that processes gave back.
    pub(super) released: FxHashSet<Pair>,
    /// Dispatches that a reconciler found lost.
    pub(super) lost: FxHashSet<Pair>,
    /// Dispatches whose processes said that their handlers begin or have begun.
    pub(super) begun: FxHashSet<Pair>,
    /// Dispatches whose processes said what became of them.
    pub(super) reported: FxHashSet<Pair>,
}

/// How long a provider asks to be left alone when the work of a dispatch fails.
pub(super) fn provider_wait((file, token): Pair) -> Option<Duration> {
    let asks = (u64::from(file.ordinal) + token.get()).is_multiple_of(2);
    asks.then_some(Duration::from_secs(7))
}

/// How many files may be out at once.
pub(super) struct Windows<'a> {
    pub(super) usual: &'a DispatchWindows,
    /// What operators had set for stages before the commit before.
    pub(super) set_earlier: &'a BTreeMap<Stage, StageRow>,
}

impl Windows<'_> {
    fn of_stage(&self, set: &BTreeMap<Stage, StageRow>, stage: Stage) -> u32 {
        let set = set.get(&stage).and_then(|row| row.max_files);
        let usual = self.usual.of_stage.get(&stage).copied();
        set.or(usual).unwrap_or_default()
    }

    /// Of one that has no limit of its own: where operators widened a stage, so many more.
    fn of_tenant(&self, set: &BTreeMap<Stage, StageRow>) -> u32 {
        let wider = set.keys().map(|stage| {
            let usual = self.usual.of_stage.get(stage).copied();
            self.of_stage(set, *stage)
                .saturating_sub(usual.unwrap_or_default())
        });
        self.usual.of_tenant + wider.sum::<u32>()
    }
}

/// A commit: what was there before it and what it left.
struct Step<'a> {
    before: &'a Tables,
    after: &'a Tables,
    /// `None`: nobody keeps it.
    asked: Option<&'a Asked>,
    /// When it was committed.
    now: Micros,
    found: Vec<String>,
}

/// What one commit may not do.
pub(super) fn check_commit(
    before: &Tables,
    after: &Tables,
    asked: Option<&Asked>,
    windows: &Windows<'_>,
    now: Micros,
) -> Vec<String> {
    let mut step = Step {
        before,
        after,
        asked,
        now,
        found: after.broken.clone(),
    };
    if !after.files.is_same(&before.files) {
        for (file, row) in after.files.iter() {
            let old = before.files.get(file);
            if old.is_some_and(|old| Arc::ptr_eq(old, row)) {
                continue;
            }
            step.check_file(old.map(Arc::as_ref), row);
        }
        step.check_windows(windows);
    }
    for (key, row) in after.batches.iter() {
        let old = before.batches.get(key);
        match old {
            Some(old) if Arc::ptr_eq(old, row) => {}
            Some(old) => step.check_batch(&old.0, &row.0),
            None => step.check_taken_in(key.tenant, "a batch"),
        }
    }
    for (key, row) in after.tus.iter() {
        if let Some(old) = before.tus.get(key) {
            step.check_upload(old, row);
        }
    }
    step.check_tenants();
    if !after.keys.is_same(&before.keys) {
        step.check_keys();
    }
    step.check_written();
    if after.attempts.len() > before.attempts.len() {
        step.check_kills();
        step.check_reported();
    }
    if after.results.len() > before.results.len() {
        step.check_results();
        step.check_reported();
    }
    step.found
}

impl Step<'_> {
    fn breaks(&mut self, words: String) {
        self.found.push(words);
    }

    fn check_file(&mut self, old: Option<&WorkRow>, row: &WorkRow) {
        let file = row.file;
        let went_out = row.dispatched_at.is_some()
            && old.is_none_or(|old| old.dispatched_at.is_none() || old.stage != row.stage);
        // What was decided before a pause may be committed together with it, and with what let it go on before that.
        let [before, after] = [self.before, self.after].map(|tables| hindrances(tables, row));
        // Another pause than before: it went on in between.
        let hindered = before
            .iter()
            .zip(&after)
            .any(|(before, after)| before.is_some() && before == after);
        if went_out && hindered {
            self.breaks(format!("{file} went out while its batch may not"));
        }
        self.check_standing(row);
        let Some(old) = old else {
            self.check_taken_in(file.tenant, "a file");
            return;
        };
        if row.token < old.token {
            self.breaks(format!("{file}: its token fell to {}", row.token));
        }
        if old.token == row.token && old.dispatched_at != row.dispatched_at {
            let token = row.token;
            self.breaks(format!(
                "{file}: it went out or came back under one token, {token}"
            ));
        }
        if old.state.is_final() && row.state == FileState::Pending && old.target == row.target {
            self.breaks(format!(
                "{file}: new bytes are asked for under the old landing key"
            ));
        }
        if old.dispatched_at.is_some() && old.token != row.token {
            self.check_return(old, row);
        }
        self.check_budgets(old, row);
        self.check_backoff(old, row);
        if is_cancelled(self.before, row) {
            let begins_anew = old.state.is_final() && !row.state.is_final();
            let goes_on = !row.state.is_final() && old.stage != row.stage;
            if begins_anew || goes_on {
                self.breaks(format!("{file} goes on in a batch that is cancelled"));
            }
        }
    }

    /// What holds of every row, however it came to be so.
    fn check_standing(&mut self, row: &WorkRow) {
        let file = row.file;
        if row.state.is_final() {
            return;
        }
        // Protocol 7.1, 7.3: what has used up a budget, or cannot become good, is FAILED.
        if RetryPolicy::for_stage(row.stage).exhausted(row.fails) || row.kills >= MAX_KILLS {
            let (fails, kills) = (row.fails, row.kills);
            self.breaks(format!(
                "{file} goes on after {fails} failures and {kills} kills"
            ));
        }
        if let Some(reason) = row.reason.filter(|reason| !reason.retryable()) {
            self.breaks(format!("{file} goes on after {reason:?}"));
        }
        // Protocol 12.2: in these histories an ETag ends with the number of the landing key.
        let landed = row.etag.as_deref().filter(|etag| *etag != AT_FINAL_KEY);
        let landed = landed.filter(|_| self.asked.is_some());
        let target = landed.and_then(|etag| etag.rsplit('/').next()?.parse::<u32>().ok());
        if landed.is_some() && target != Some(row.target.get()) {
            self.breaks(format!(
                "{file} has bytes of another landing key: {landed:?}, it waits at {}",
                row.target.get()
            ));
        }
    }

    /// A dispatch ends by a report, a kill, a cancel, a release or its loss, and by nothing else.
    fn check_return(&mut self, old: &WorkRow, row: &WorkRow) {
        let Some(asked) = self.asked else { return };
        let pair = (old.file, old.token);
        let result = self
            .after
            .results
            .get(&(old.file, old.generation, old.stage));
        let reported = result.is_some_and(|result| result.token == old.token);
        let ended = reported
            || self.after.attempts.contains_key(&pair)
            || row.state == FileState::Cancelled
            || asked.released.contains(&pair)
            || asked.lost.contains(&pair)
            || self.was_only_held(old);
        if !ended {
            let (file, token) = pair;
            self.breaks(format!("{file} token {token} came back without a cause"));
        }
    }

    /// A file of which nobody had said that work on it began when its worker was lost (protocol 7.3).
    fn was_only_held(&self, old: &WorkRow) -> bool {
        // That somebody had begun is known to the ledger that was told alone, which may not lead any more.
        let is_out = old.state == FileState::Processing && old.dispatched_at.is_some();
        is_out && old.lease_until.is_none_or(|until| until < self.now)
    }

    /// Whether a file came back for no other cause than that its worker was lost.
    fn was_given_back(&self, old: &WorkRow) -> bool {
        let pair = (old.file, old.token);
        self.asked
            .is_none_or(|asked| asked.released.contains(&pair) || asked.lost.contains(&pair))
    }

    /// Protocol 6.2, 7, 11: a failure or a kill is charged once, and budgets are full where the file goes on or begins anew.
    fn check_budgets(&mut self, old: &WorkRow, row: &WorkRow) {
        if row.state.is_final() {
            return;
        }
        let had = (old.fails, old.kills);
        let has = (row.fails, row.kills);
        let anew =
            old.state.is_final() || (old.stage, old.generation) != (row.stage, row.generation);
        let full = has == (0, 0);
        let right = match self.charged(old) {
            _ if anew => full,
            // One that failed for good may be tried again in the same group.
            Some(Reason::WorkerLost) => full || has == (had.0, had.1 + 1),
            Some(_) => full || has == (had.0 + 1, had.1),
            // It is suspect from now on, and charged nothing.
            None if old.token != row.token && self.was_only_held(old) => {
                let is_suspect = has == (had.0, had.1.max(1));
                full || is_suspect || (has == had && self.was_given_back(old))
            }
            None => has == had,
        };
        if !right {
            self.breaks(format!(
                "{}: its failures and kills went from {had:?} to {has:?}",
                row.file
            ));
        }
    }

    /// What this commit charged for the dispatch that a file had.
    fn charged(&self, old: &WorkRow) -> Option<Reason> {
        self.attempt(old).map(|attempt| attempt.reason)
    }

    fn attempt(&self, old: &WorkRow) -> Option<&AttemptRow> {
        let key = (old.file, old.token);
        let attempt = self.after.attempts.get(&key)?;
        (!self.before.attempts.contains_key(&key)).then_some(attempt)
    }

    /// Protocol 7.1, 7.3: it waits as long as a provider asked, and no longer than its policy or the provider says.
    fn check_backoff(&mut self, old: &WorkRow, row: &WorkRow) {
        if self.asked.is_none() {
            return;
        }
        let untouched = row.state == FileState::Retrying && row.token == old.token.next();
        let Some(attempt) = self.attempt(old).filter(|_| untouched) else {
            return;
        };
        let Some(ready) = row.ready_at else {
            return self.breaks(format!("{} is RETRYING and waits for no time", row.file));
        };
        let (counted, asked) = match attempt.reason {
            Reason::WorkerLost => (row.kills, None),
            _ => (row.fails, provider_wait((old.file, old.token))),
        };
        let asked = asked.unwrap_or_default();
        let most = RetryPolicy::for_stage(row.stage)
            .ceiling(counted)
            .max(asked);
        let (earliest, latest) = (attempt.ended_at.plus(asked), attempt.ended_at.plus(most));
        if ready < earliest || ready > latest {
            self.breaks(format!(
                "{} is tried again at {ready:?}, not between {earliest:?} and {latest:?}",
                row.file
            ));
        }
    }

    fn check_batch(&mut self, old: &ProgressRow, row: &ProgressRow) {
        let key = row.key();
        let runs_again = old.state.is_ended() && row.state == BatchState::Running;
        if row.run != old.run + u32::from(runs_again) {
            self.breaks(format!(
                "{key}: its run went from {} to {} as it became {}",
                old.run, row.run, row.state
            ));
        }
        if row.missing_fails && !row.uploads_open {
            self.breaks(format!(
                "{key} gives up what is missing, and nothing was when it was asked to"
            ));
        }
    }

    /// An upload through gateways never goes back, and its fence never falls (protocol 12.2).
    fn check_upload(&mut self, old: &TusRow, row: &TusRow) {
        let back = row.received < old.received || row.state < old.state || row.lock < old.lock;
        let renamed = old.ordinal.is_some() && old.ordinal != row.ordinal;
        // In these histories nobody gives his right to write back before he is done.
        let held = old.locked_until.is_some_and(|until| until > self.now);
        let taken_away = self.asked.is_some() && row.lock > old.lock && held;
        if back || renamed || taken_away {
            self.breaks(format!("an upload went from {old:?} to {row:?}"));
        }
    }

    /// A lease that lives is taken from nobody (protocol 8.3), and a file is charged only where it was worked on (7.3).
    fn check_kills(&mut self) {
        let before = self.before;
        let is_new = |key: &(FileRef, Token)| !before.attempts.contains_key(key);
        let attempts = self.after.attempts.iter();
        let lost =
            attempts.filter(|(key, attempt)| attempt.reason == Reason::WorkerLost && is_new(key));
        let alive = lost.filter(|((file, _), attempt)| {
            let row = before.files.get(file);
            let until = row.and_then(|row| row.lease_until);
            until.is_some_and(|until| until >= attempt.ended_at)
        });
        let killed: Vec<_> = alive.map(|(key, _)| *key).collect();
        let attempts = self.after.attempts.iter();
        let lost =
            attempts.filter(|(key, attempt)| attempt.reason == Reason::WorkerLost && is_new(key));
        let held = lost.filter(|(key, _)| {
            let asked = self.asked;
            asked.is_some_and(|asked| !asked.begun.contains(key))
        });
        let held: Vec<_> = held.map(|(key, _)| *key).collect();
        for (file, token) in held {
            self.breaks(format!(
                "{file} token {token} is charged with the loss of a worker that only held it"
            ));
        }
        for (file, token) in killed {
            self.breaks(format!(
                "{file} token {token} was killed while its lease lived"
            ));
        }
    }

    /// What is recorded of a dispatch was reported under its token (protocol 6.3).
    fn check_reported(&mut self) {
        let Some(asked) = self.asked else { return };
        let (before, after) = (self.before, self.after);
        let attempts = after.attempts.iter().filter(|(key, attempt)| {
            attempt.reason != Reason::WorkerLost && !before.attempts.contains_key(key)
        });
        let results = after.results.iter().filter(|(key, row)| {
            let made_here = row.taken_from.is_none() && !row.skipped;
            made_here && !before.results.contains_key(key)
        });
        let pairs = attempts.map(|(key, _)| *key);
        let pairs = pairs.chain(results.map(|(_, row)| (row.file, row.token)));
        let words: Vec<String> = pairs
            .filter(|pair| !asked.reported.contains(pair))
            .map(|(file, token)| format!("{file} token {token}: what nobody reported is recorded"))
            .collect();
        self.found.extend(words);
    }

    /// What another file lends is of the newest version of its stage (protocol 13.3).
    fn check_results(&mut self) {
        let before = self.before;
        let results = self.after.results.iter();
        let new = results.filter(|(key, _)| !before.results.contains_key(key));
        let newest = |tables: &Tables, row: &ResultRow| {
            row.version.is_some() && tables.newest.get(&row.stage).copied() == row.version
        };
        let lent = new.filter(|(_, row)| {
            let maker = row.taken_from.as_ref();
            maker.is_some_and(|maker| maker.file != row.file)
                && row.stage != Stage::Upload
                && self.generations(row) == 1
        });
        let old = lent.filter(|(_, row)| !newest(before, row) && !newest(self.after, row));
        let words: Vec<String> = old
            .map(|(_, row)| {
                let (file, stage) = (row.file, row.stage);
                format!("{file} was lent what an old version of {stage} made")
            })
            .collect();
        self.found.extend(words);
    }

    /// How many generations of its file have a result of its stage: later ones take along what the first was lent.
    fn generations(&self, row: &ResultRow) -> usize {
        let results = self.after.results.values();
        let same = results.filter(|other| (other.file, other.stage) == (row.file, row.stage));
        same.count()
    }

    /// A tenant that is closed takes nothing in (protocol 15.1).
    fn check_taken_in(&mut self, tenant: TenantId, what: &str) {
        let account = self.before.accounts.get(&tenant);
        if account.is_some_and(|account| account.closed_at.is_some()) {
            self.breaks(format!("{tenant} is closed and took {what}"));
        }
    }

    /// What a tenant keeps grows within its limits, and one that was closed stays so (protocol 15.1, 15.2).
    fn check_tenants(&mut self) {
        for (tenant, row) in self.after.tenants.iter() {
            let Some(old) = self.before.tenants.get(tenant) else {
                continue;
            };
            if Arc::ptr_eq(old, row) {
                continue;
            }
            if old.closed && !row.closed {
                self.breaks(format!("{tenant} was closed and is open again"));
            }
            // What was decided before a limit was changed may be committed together with it.
            let limits = [old, row].map(|row| OwnLimits::from_json(&row.limits));
            let most =
                limits.map(|limits| limits.ok().and_then(|own| own.files).unwrap_or(u64::MAX));
            if row.used_files > old.used_files && most.iter().all(|most| row.used_files > *most) {
                let used = row.used_files;
                self.breaks(format!(
                    "{tenant} keeps {used} files, its limit is {most:?}"
                ));
            }
        }
    }

    /// A key that has ended stays so, and an upload token adds what it may (protocol 15.3).
    fn check_keys(&mut self) {
        for (id, key) in self.after.keys.iter() {
            if key.may_add.files.is_some_and(|most| key.added.files > most) {
                let (added, most) = (key.added.files, key.may_add.files);
                self.breaks(format!(
                    "{added} files were added with {id}, which may add {most:?}"
                ));
            }
            let Some(old) = self.before.keys.get(id) else {
                continue;
            };
            if old.revoked_at.is_some() && key.revoked_at != old.revoked_at {
                self.breaks(format!("the key {id} was revoked and is not any more"));
            }
            let longer = key.expires_at.is_none_or(|end| Some(end) > old.expires_at);
            if old.expires_at.is_some() && longer {
                self.breaks(format!("the key {id} lives longer than it was given"));
            }
        }
        let now = self.now;
        let of_operators = |tables: &Tables, since: Micros| -> Vec<String> {
            let good = |key: &&Arc<KeyRow>| {
                let lives = key.expires_at.is_none_or(|end| end > since);
                key.tenant.is_none() && key.revoked_at.is_none() && lives
            };
            let keys = tables.keys.values().filter(good);
            keys.map(|key| key.id.clone()).collect()
        };
        // The other may have ended since it was counted.
        let left = of_operators(self.after, now.minus(A_GROUP_TAKES));
        let good = of_operators(self.before, now);
        let revoked = |id: &String| {
            let key = self.after.keys.get(id);
            key.is_some_and(|key| key.revoked_at.is_some())
        };
        if left.is_empty() && good.iter().any(revoked) {
            self.breaks("operators have no key left".into());
        }
    }

    /// Whoever changes tenants or keys is written down with it (protocol 15.4).
    fn check_written(&mut self) {
        let changed = self.after.accounts.iter().filter(|(tenant, account)| {
            let old = self.before.accounts.get(tenant);
            old.is_none_or(|old| !Arc::ptr_eq(old, account))
        });
        let changed = changed.count();
        let made = self.after.keys.len().saturating_sub(self.before.keys.len());
        let revoked = |tables: &Tables| {
            let keys = tables.keys.values();
            keys.filter(|key| key.revoked_at.is_some()).count()
        };
        let ended = revoked(self.after).saturating_sub(revoked(self.before));
        let written = self
            .after
            .audit
            .len()
            .saturating_sub(self.before.audit.len());
        if written < changed + made + ended {
            let done = changed + made + ended;
            self.breaks(format!(
                "{done} acts on tenants and keys left {written} rows in the audit"
            ));
        }
    }

    /// Protocol 2.1: no window is exceeded, neither a stage's nor a tenant's.
    fn check_windows(&mut self, windows: &Windows<'_>) {
        let (stages, tenants) = out(self.after);
        let (stages_before, tenants_before) = out(self.before);
        // What was decided before a window was narrowed may be committed together with it, or next.
        let set = [
            windows.set_earlier,
            &*self.before.stages,
            &*self.after.stages,
        ];
        for (stage, count) in stages {
            let window = set.map(|set| windows.of_stage(set, stage));
            let window = window.into_iter().max().unwrap_or_default();
            let grew = count > stages_before.get(&stage).copied().unwrap_or_default();
            if count > window && grew {
                self.breaks(format!(
                    "{count} files are out at {stage}, its window is {window}"
                ));
            }
        }
        let usual = set.map(|set| windows.of_tenant(set));
        let usual = usual.into_iter().max().unwrap_or_default();
        for (tenant, count) in tenants {
            let own = [self.before, self.after].map(|tables| {
                let row = tables.tenants.get(&tenant);
                row.and_then(|row| row.dispatched_files())
            });
            let window = own.map(|own| own.unwrap_or(usual));
            let window = window.into_iter().max().unwrap_or_default();
            let grew = count > tenants_before.get(&tenant).copied().unwrap_or_default();
            if count > window && grew {
                self.breaks(format!(
                    "{count} files of {tenant} are out, its window is {window}"
                ));
            }
        }
    }
}

/// How many files are out, by stage and by tenant.
fn out(tables: &Tables) -> (BTreeMap<Stage, u32>, BTreeMap<TenantId, u32>) {
    let (mut stages, mut tenants) = (BTreeMap::new(), BTreeMap::new());
    let rows = tables.files.values();
    for row in rows.filter(|row| row.dispatched_at.is_some()) {
        *stages.entry(row.stage).or_default() += 1;
        *tenants.entry(row.file.tenant).or_default() += 1;
    }
    (stages, tenants)
}

/// What keeps the files of a batch from going out: its tenant, a pause with its note, a cancel, its manifest. All of it where
/// the batch is not there.
fn hindrances<'a>(tables: &'a Tables, row: &WorkRow) -> [Option<&'a str>; 4] {
    let Some(batch) = tables.batches.get(&row.file.batch_ref()) else {
        return [Some(""); 4];
    };
    let progress = &batch.0;
    let started = !progress.starts_when_completed || progress.facts.manifest_complete;
    let tenant = tables.tenants.get(&row.file.tenant);
    let held = tenant.is_some_and(|tenant| tenant.paused || tenant.closed);
    let cancelled = progress.facts.cancel_requested;
    [
        held.then_some(""),
        progress.pause.as_ref().map(|pause| pause.note.as_str()),
        cancelled.then_some(""),
        (!started).then_some(""),
    ]
}

fn is_cancelled(tables: &Tables, row: &WorkRow) -> bool {
    let batch = tables.batches.get(&row.file.batch_ref());
    batch.is_some_and(|batch| batch.0.facts.cancel_requested)
}
