//! What must hold of the tables: the rules that `caudal verify` holds a database to.

use std::collections::HashMap;

use caudal_domain::{FileRef, Stage, Token};
use caudal_proto::mesh::v1::ChangeSet;
use prost::Message;

use super::database::Tables;
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
