//! The load phase: what the verbs of a group need is read in a few statements, whatever their number, and stands in memory
//! before the first of them is decided.

use std::collections::BTreeSet;

use caudal_domain::{BatchRef, FileRef, FileState, Generation, Stage, TenantId, Token};
use rustc_hash::FxHashMap;
use sea_orm::DbErr;

use super::group::Group;
use super::loaded::{Loaded, Source};
use super::needs::Needs;
use crate::store::results::Trace;
use crate::store::work::WorkRow;
use crate::store::write_transaction::WriteTransaction;

impl Group<'_> {
    /// Reads what is needed and not remembered.
    pub(super) async fn load<T: WriteTransaction>(
        &mut self,
        transaction: &T,
        needs: &[&Needs],
    ) -> Result<Loaded, DbErr> {
        self.load_files(transaction, needs).await?;
        let mut loaded = Loaded::default();
        for range in needs.iter().filter_map(|needs| needs.range) {
            let rows = transaction.lock_files_from(range.batch, range.from, range.limit);
            loaded.ranges.insert(range, rows.await?);
        }
        self.load_batches_and_tenants(transaction, needs).await?;
        load_pages(transaction, needs, &mut loaded).await?;
        self.load_sources(transaction, needs, &mut loaded).await?;
        self.load_reported(transaction, needs, &mut loaded).await?;
        if self.memory.newest_versions.is_none() {
            let newest = transaction.newest_versions().await?;
            self.memory.newest_versions = Some(newest.into_iter().collect());
        }
        if self.memory.stages_unread {
            for row in transaction.stages().await? {
                self.memory.learn_stage(row);
            }
            for (number, dimensions) in transaction.dimensions().await? {
                self.memory.learn_dimensions(number, dimensions);
            }
            self.memory.stages_unread = false;
        }
        let versions = needs.iter().filter_map(|needs| needs.version.as_ref());
        let mut unknown = versions.filter(|version| !self.memory.versions.contains_key(version));
        if unknown.next().is_some() {
            // Read, not remembered: a group whose COMMIT got no answer may have recorded this version, or another.
            loaded.versions = Some(transaction.versions().await?);
        }
        for (tenant, id) in needs.iter().filter_map(|needs| needs.operation) {
            if let Some(row) = transaction.lock_operation(tenant, id).await? {
                loaded.operations.insert((tenant, id), row);
            }
        }
        // In the order of their keys, so that two groups never lock crosswise.
        for (tenant, id) in sorted(needs.iter().filter_map(|needs| needs.tus)) {
            if let Some(row) = transaction.lock_tus(tenant, id).await? {
                loaded.tus.insert((tenant, id), row);
            }
        }
        for needs in needs.iter().filter_map(|needs| needs.tenancy.as_ref()) {
            let known = transaction.tenancy(needs, self.now).await?;
            loaded.tenancy.insert(needs.clone(), known);
        }
        for (tenant, open) in sorted(needs.iter().filter_map(|needs| needs.open_of)) {
            let count = transaction.open(tenant, open).await?;
            loaded.open.insert((tenant, open), count);
        }
        let looked_up: Vec<&Vec<FileRef>> = needs
            .iter()
            .filter_map(|needs| needs.looked_up.as_ref())
            .collect();
        if !looked_up.is_empty() {
            let files = sorted(looked_up.into_iter().flatten().copied());
            for row in transaction.files(&files).await? {
                loaded.looked_up.insert(row.file, row);
            }
            loaded.oldest_outbox = transaction.oldest_outbox().await?;
        }
        Ok(loaded)
    }

    async fn load_files<T: WriteTransaction>(
        &mut self,
        transaction: &T,
        needs: &[&Needs],
    ) -> Result<(), DbErr> {
        let wanted = sorted(needs.iter().flat_map(|needs| needs.files.iter().copied()));
        self.rows.reserve(wanted.len());
        let mut unknown = Vec::new();
        for file in wanted {
            match self.remembered(file) {
                Some(row) => self.rows.take_in(row),
                None => unknown.push(file),
            }
        }
        for row in transaction.lock_files(&unknown).await? {
            self.rows.take_in(row);
        }
        Ok(())
    }

    /// The row of a file that is out, or new, as the last group left it.
    fn remembered(&self, file: FileRef) -> Option<WorkRow> {
        if !self.use_remembered_rows {
            return None;
        }
        let row = self.memory.dispatcher.row(file);
        let pending = || Some(&self.memory.known.pending.get(&file)?.row);
        row.or_else(pending).cloned()
    }

    async fn load_batches_and_tenants<T: WriteTransaction>(
        &mut self,
        transaction: &T,
        needs: &[&Needs],
    ) -> Result<(), DbErr> {
        let of_files = self.rows.files().map(FileRef::batch_ref);
        let of_verbs = needs.iter().filter_map(|needs| needs.batch);
        let batches: BTreeSet<BatchRef> = of_files.chain(of_verbs).collect();
        let of_batches = batches.iter().map(|batch| batch.tenant);
        let of_verbs = needs.iter().filter_map(|needs| needs.tenant);
        let tenants: BTreeSet<TenantId> = of_batches.chain(of_verbs).collect();
        self.load_tenants(transaction, tenants).await?;
        self.load_batches(transaction, batches).await
    }

    pub(super) async fn load_tenants<T: WriteTransaction>(
        &mut self,
        transaction: &T,
        tenants: BTreeSet<TenantId>,
    ) -> Result<(), DbErr> {
        let mut unknown = Vec::new();
        for tenant in tenants {
            if self.rows.tenant(tenant).is_some() {
                continue;
            }
            match self.memory.known.tenants.get(&tenant) {
                Some(row) => self.rows.take_in_tenant(row.clone()),
                None => unknown.push(tenant),
            }
        }
        for row in transaction.tenants(&unknown).await? {
            // A new leader hears of it now, and so does one whose last change of it was undone.
            if !planted!(BoundsForgotten) {
                self.memory.dispatcher.set_tenant(&row);
            }
            self.rows.take_in_tenant(row);
        }
        Ok(())
    }

    pub(super) async fn load_batches<T: WriteTransaction>(
        &mut self,
        transaction: &T,
        batches: BTreeSet<BatchRef>,
    ) -> Result<(), DbErr> {
        let mut unknown = Vec::new();
        for batch in batches {
            if self.rows.batch(batch).is_some() {
                continue;
            }
            match self.memory.known.batches.get(&batch) {
                Some(row) => self.rows.take_in_batch(row.clone(), None),
                None => unknown.push(batch),
            }
        }
        for row in transaction.batches(&unknown).await? {
            self.rows.take_in_batch(row, None);
        }
        Ok(())
    }

    /// A source cannot be erased between the look and the reference: its row is locked until the group ends (protocol 13.3).
    async fn load_sources<T: WriteTransaction>(
        &mut self,
        transaction: &T,
        needs: &[&Needs],
        loaded: &mut Loaded,
    ) -> Result<(), DbErr> {
        let contents = sorted(
            needs
                .iter()
                .flat_map(|needs| needs.contents.iter().copied()),
        );
        let holders = transaction.holders(&contents).await?;
        if holders.is_empty() {
            return Ok(());
        }
        let unknown = holders.values().copied();
        let unknown = sorted(unknown.filter(|file| self.rows.file(*file).is_none()));
        let mut generations: FxHashMap<FileRef, Generation> = transaction
            .lock_files(&unknown)
            .await?
            .into_iter()
            .map(|row| (row.file, row.generation))
            .collect();
        for holder in holders.values() {
            if let Some(row) = self.rows.file(*holder) {
                generations.insert(*holder, row.generation);
            }
        }
        let wanted = sorted(
            generations
                .iter()
                .map(|(file, generation)| (*file, *generation)),
        );
        let results = transaction.results_of(&wanted).await?;
        for (content, file) in holders {
            let Some(generation) = generations.get(&file).copied() else {
                continue;
            };
            let of_file = results.get(&file).cloned().unwrap_or_default();
            // Only what its current generation holds: a reprocess may have begun since.
            let holds = of_file
                .iter()
                .any(|result| result.stage == Stage::Upload && result.content == Some(content.1));
            if holds {
                let source = Source {
                    file,
                    generation,
                    results: of_file,
                };
                loaded.sources.insert(content, source);
            }
        }
        Ok(())
    }

    /// A pair that is current now has left no trace yet: whatever takes it later in this group is known from the group.
    async fn load_reported<T: WriteTransaction>(
        &mut self,
        transaction: &T,
        needs: &[&Needs],
        loaded: &mut Loaded,
    ) -> Result<(), DbErr> {
        let mut late: [Vec<(FileRef, Token)>; 2] = Default::default();
        let mut generations = Vec::new();
        for needs in needs {
            for (file, token, trace) in &needs.reported {
                match self.rows.current(*file, *token) {
                    None => late[usize::from(*trace == Trace::Attempt)].push((*file, *token)),
                    Some(row) if row.generation > Generation::FIRST => {
                        generations.push((*file, row.generation));
                    }
                    Some(_) => {}
                }
            }
            if needs.results_of_processed {
                for row in needs.files.iter().filter_map(|file| self.rows.file(*file)) {
                    if row.state == FileState::Processed {
                        generations.push((row.file, row.generation));
                    }
                }
            }
        }
        for (trace, pairs) in [Trace::Result, Trace::Attempt].into_iter().zip(late) {
            for (file, token) in transaction.recorded(trace, &sorted(pairs)).await? {
                loaded.recorded.insert((trace, file, token));
            }
        }
        let generations = sorted(generations);
        let mut found = transaction.results_of(&generations).await?;
        for (file, generation) in generations {
            let results = found.remove(&file).unwrap_or_default();
            loaded.results.insert((file, generation), results);
        }
        Ok(())
    }
}

/// What is known of the entries of pages: folders first, then the files that stand in them.
async fn load_pages<T: WriteTransaction>(
    transaction: &T,
    needs: &[&Needs],
    loaded: &mut Loaded,
) -> Result<(), DbErr> {
    let pages = needs
        .iter()
        .filter_map(|needs| Some((needs.batch?, needs.page.as_ref()?)));
    for (batch, page) in pages {
        let paths: Vec<&str> = page.paths().collect();
        let folders = transaction.folders_by_path(batch, &paths).await?;
        let in_folder = |(folder, name)| Some((folders.get(folder)?.folder, name));
        let places: Vec<(u32, &str)> = page.places().filter_map(in_folder).collect();
        let known = transaction.known_files(batch, &places).await?;
        let entries = loaded.entries.entry(batch).or_default();
        entries.folders.extend(folders);
        for file in known {
            let of_folder = entries.files.entry(file.folder).or_default();
            of_folder.insert(file.name.clone(), file);
        }
    }
    Ok(())
}

/// Each once, in order: so that two groups never lock crosswise, and a simulated history is the same each time.
fn sorted<T: Ord>(items: impl IntoIterator<Item = T>) -> Vec<T> {
    let mut items: Vec<T> = items.into_iter().collect();
    items.sort_unstable();
    items.dedup();
    items
}
