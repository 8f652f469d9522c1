//! What must hold of the tables: the rules that `caudal verify` holds a database to, and those of each single commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use caudal_domain::{FileRef, FileState, Reason, Stage, Token};
use caudal_proto::mesh::v1::ChangeSet;
use prost::Message;

use super::database::Tables;
use crate::settings::DispatchWindows;
use crate::store::changes::KeptRevisions;
use crate::store::results::ResultRow;
use crate::store::work::WorkRow;
use crate::verify::chain::Chain;
use crate::verify::counters::{self, Recount};
use crate::verify::report::VerifyReport;
use crate::verify::shown::{self, Last, Shown};
use crate::verify::{live, once, outbox, terminal};

/// Everything that `caudal verify` checks of a database; what it breaks.
pub(crate) fn check(tables: &Tables) -> Vec<String> {
    let mut report = VerifyReport::default();
    let mut in_work = false;
    for batch in tables.batches.values() {
        let progress = &batch.0;
        in_work |= !progress.state.is_ended();
        let key = progress.key();
        let span = key.file(0)..=key.file(u32::MAX);
        let rows: Vec<WorkRow> = tables
            .files
            .range(span.clone())
            .map(|(_, row)| (**row).clone())
            .collect();
        let mut recount = Recount::default();
        let mut chain = Chain::default();
        let mut last = Last::default();
        let mut changes: Vec<_> = tables
            .changes
            .iter()
            .filter(|change| change.batch == key)
            .collect();
        changes.sort_by_key(|change| change.batch_revision);
        for change in changes {
            let body = ChangeSet::decode(change.body.as_slice()).ok();
            chain.take(progress, change.batch_revision, body.as_ref(), &mut report);
            if let Some(body) = body {
                last.take(change.batch_revision, body);
            }
        }
        for row in &rows {
            recount.add(row);
            terminal::check_row(progress, row, &mut report);
            live::check(row, &mut report);
            let letter = tables.letters.get(&row.file);
            let letter = letter.map(|letter| (letter.row.token, letter.row.reason));
            terminal::check_letter(row, letter, &mut report);
            once::check(row, &results_of(tables, row), &mut report);
            chain.check(row.file, row.state, &mut report);
            let shown = Shown {
                state: row.state,
                detail: row.detail(),
            };
            last.check_file(row.file, shown, &mut report);
        }
        terminal::check_batch(progress, &mut report);
        shown::check_batch(progress, &last, &mut report);
        let folders = tables.folders.range((key, 0)..=(key, u32::MAX));
        let folders: Vec<_> = folders.map(|(_, folder)| (**folder).clone()).collect();
        for folder in &folders {
            last.check_folder(progress, folder, &mut report);
        }
        let listed = tables.manifest.range(span).map(|(_, file)| file);
        let listed = listed.map(|file| (file.file.ordinal, file.folder, file.size));
        counters::check_manifest(progress, &rows, listed.collect(), &mut report);
        counters::check(progress, &recount, &folders, &mut report);
    }
    for tenant in tables.tenants.values() {
        let of_tenant = tables
            .changes
            .iter()
            .filter(|change| change.batch.tenant == tenant.tenant);
        let revisions: Vec<u64> = of_tenant.map(|change| change.revision).collect();
        let (Some(oldest), Some(newest)) = (revisions.iter().min(), revisions.iter().max()) else {
            continue;
        };
        let kept = KeptRevisions {
            tenant: tenant.tenant,
            oldest: *oldest,
            newest: *newest,
            count: revisions.len() as u64,
            recorded: tenant.revision,
        };
        shown::check_tenant(&kept, &mut report);
    }
    let waiting: Vec<Stage> = tables.outbox.values().map(|(row, _)| row.stage).collect();
    outbox::check_published(in_work, waiting.iter(), &mut report);
    for (row, _) in tables.outbox.values() {
        if let Ok(dispatch) = caudal_streams::decode(&row.body) {
            let files = dispatch
                .files
                .iter()
                .filter_map(|(file, _)| tables.files.get(file));
            let current: HashMap<FileRef, Token> = files.map(|row| (row.file, row.token)).collect();
            outbox::check_message("an outbox row", &dispatch.files, &current, &mut report);
        }
    }
    let found = report.violations.iter();
    found.map(|violation| format!("{violation:?}")).collect()
}

fn results_of(tables: &Tables, row: &WorkRow) -> Vec<ResultRow> {
    let first = (row.file, row.generation, Stage::Upload);
    let results = tables.results.range(first..);
    let own = results.take_while(|(key, _)| (key.0, key.1) == (row.file, row.generation));
    own.map(|(_, result)| (**result).clone()).collect()
}

/// What one commit may not do.
pub(super) fn check_commit(
    before: &Tables,
    after: &Tables,
    windows: &DispatchWindows,
) -> Vec<String> {
    let mut found = after.broken.clone();
    for (file, row) in &after.files {
        let old = before.files.get(file);
        if old.is_some_and(|old| Arc::ptr_eq(old, row)) {
            continue;
        }
        check_step(old, row, before, after, &mut found);
    }
    if after.attempts.len() > before.attempts.len() {
        check_kills(before, after, &mut found);
    }
    let mut out: BTreeMap<Stage, u32> = BTreeMap::new();
    let mut out_before: BTreeMap<Stage, u32> = BTreeMap::new();
    for (tables, out) in [(before, &mut out_before), (after, &mut out)] {
        for row in tables
            .files
            .values()
            .filter(|row| row.dispatched_at.is_some())
        {
            *out.entry(row.stage).or_default() += 1;
        }
    }
    for (stage, count) in out {
        let window = windows.of_stage.get(&stage).copied().unwrap_or_default();
        if count > window && count > out_before.get(&stage).copied().unwrap_or_default() {
            found.push(format!(
                "{count} files are out at {stage}, its window is {window}"
            ));
        }
    }
    found
}

fn check_step(
    old: Option<&Arc<WorkRow>>,
    row: &WorkRow,
    before: &Tables,
    after: &Tables,
    found: &mut Vec<String>,
) {
    let file = row.file;
    if old.is_some_and(|old| row.token < old.token) {
        found.push(format!("{file}: its token fell to {}", row.token));
    }
    let went_out = row.dispatched_at.is_some()
        && old.is_none_or(|old| old.dispatched_at.is_none() || old.stage != row.stage);
    // What was decided before a pause may be committed together with it.
    if went_out && !may_go_out(before, row) && !may_go_out(after, row) {
        found.push(format!("{file} went out while its batch may not"));
    }
    if let Some(old) = old
        && old.token == row.token
        && old.dispatched_at != row.dispatched_at
    {
        found.push(format!(
            "{file}: it went out or came back under one token, {}",
            row.token
        ));
    }
    let asks_again = row.state == FileState::Pending && old.is_some_and(|old| old.state.is_final());
    if asks_again && old.is_some_and(|old| old.target == row.target) {
        found.push(format!(
            "{file}: new bytes are asked for under the old landing key"
        ));
    }
    let failures = after
        .attempts
        .range((file, Token::FIRST)..=(file, Token::new(u64::MAX)));
    let failures = failures
        .filter(|(_, attempt)| attempt.stage == row.stage && attempt.reason != Reason::WorkerLost);
    if row.fails as usize > failures.count() {
        found.push(format!(
            "{file}: {} failures are charged and fewer recorded",
            row.fails
        ));
    }
}

/// A lease that lives is taken from nobody (protocol 8.3).
fn check_kills(before: &Tables, after: &Tables, found: &mut Vec<String>) {
    let is_new = |key: &(FileRef, Token)| !before.attempts.contains_key(key);
    let lost = after
        .attempts
        .iter()
        .filter(|(key, attempt)| attempt.reason == Reason::WorkerLost && is_new(key));
    for ((file, token), attempt) in lost {
        let row = before.files.get(file);
        let until = row.and_then(|row| row.lease_until);
        if until.is_some_and(|until| until >= attempt.ended_at) {
            found.push(format!(
                "{file} token {token} was killed while its lease lived"
            ));
        }
    }
}

fn may_go_out(tables: &Tables, row: &WorkRow) -> bool {
    let batch = tables.batches.get(&row.file.batch_ref());
    batch.is_some_and(|batch| {
        let progress = &batch.0;
        let started = !progress.starts_when_completed || progress.facts.manifest_complete;
        progress.pause.is_none() && !progress.facts.cancel_requested && started
    })
}
