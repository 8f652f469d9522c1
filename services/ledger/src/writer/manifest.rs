//! What clients ask: create, add entries, confirm, complete (protocol 12.1, 12.2, 14.2).

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use caudal_domain::{
    BatchId, FileEvent, FileRef, FileState, FolderCounts, Generation, Reason, Recorded, Refusal,
    Stage, TenantId, Token, Violations, limits, names,
};
use caudal_proto::v1::{AddEntriesResponse, ConfirmUploadsResponse};
use prost::Message;

use super::acts::{
    AddEntries, AddedEntries, Answer, CompleteBatch, ConfirmUploads, ConfirmedFile,
    ConfirmedUpload, CreateBatch, KEPT, NewEntry, NewFile, SLICE,
};
use super::group::{BatchAnswer, Group, GroupError};
use super::known::Pending;
use super::reuse::{Onward, TenantContent};
use crate::api::messages;
use crate::briefs::Declared;
use crate::settings::TenantLimits;
use crate::store::changes;
use crate::store::manifest::{self, FileRow, FolderRow};
use crate::store::progress::{BatchKey, BatchRow, ProgressRow, TenantRow};
use crate::store::results::{AttemptRow, ResultRow};
use crate::store::work::{self, WorkRow};

/// How often a batch's `touched_at`, which is indexed, and `upload_deadline` move at most.
const TOUCH_EVERY: std::time::Duration = std::time::Duration::from_secs(60);
/// Rows that one prune deletes at most, of each table.
const PRUNE_SLICE: u32 = 1_000;

pub(super) type Answered = Result<Result<Answer, Refusal>, GroupError>;

impl Group<'_> {
    pub(super) async fn create_batch(&mut self, index: usize, act: &CreateBatch) -> Answered {
        if let Some(first) = self.repeated(act.tenant, &act.request) {
            return Ok(first.and_then(|answer| decode_batch(&answer)));
        }
        if !self.tenants.contains_key(&act.tenant) {
            return Ok(Err(Refusal::unauthenticated(
                "the tenant of this credential does not exist any more",
            )));
        }
        let mut row = ProgressRow::new(act.tenant, act.batch, self.now);
        row.stages = act.stages;
        row.starts_when_completed = act.starts_when_completed;
        row.priority = act.priority;
        let made = BatchRow {
            name: act.name.clone(),
            options: act.options.clone(),
            metadata: act.metadata.clone(),
            priority: act.priority,
            created_by: act.created_by.clone(),
            created_at: self.now,
            completed_at: None,
            ended_at: None,
        };
        let key = row.key();
        self.take_in_batch(row, Some(made));
        self.touch(key);
        self.batch_answers.push(BatchAnswer {
            act: index,
            key,
            request: act.request.clone(),
        });
        Ok(Ok(Answer::Nothing))
    }

    /// Says that a client did something to a batch; the row is written at the end of the group.
    pub(super) fn touch(&mut self, key: BatchKey) {
        let now = self.now;
        let Some(batched) = self.batches.get_mut(&key) else {
            return;
        };
        batched.touched = true;
        if now.since(batched.row.touched_at) >= TOUCH_EVERY {
            batched.row.touched_at = now;
        }
        let deadline = now.plus(limits::UPLOAD_DEADLINE);
        if deadline.since(batched.row.upload_deadline) >= TOUCH_EVERY {
            batched.row.upload_deadline = deadline;
        }
    }

    /// The batch, or the refusal that a batch of another tenant gets too.
    fn batch_of(&self, tenant: TenantId, batch: BatchId) -> Result<&ProgressRow, Refusal> {
        let found = self.batches.get(&(tenant, batch));
        found
            .map(|batched| &batched.row)
            .ok_or_else(|| Refusal::not_found(&names::batch_name(batch)))
    }

    fn open_batch_of(&self, tenant: TenantId, batch: BatchId) -> Result<&ProgressRow, Refusal> {
        let row = self.batch_of(tenant, batch)?;
        if row.facts.cancel_requested {
            return Err(cancelled(batch));
        }
        if row.facts.manifest_complete {
            let message = format!(
                "{} is completed: its manifest takes no more entries; create another batch",
                names::batch_name(batch)
            );
            return Err(Refusal::failed_precondition("MANIFEST_COMPLETE", message));
        }
        Ok(row)
    }

    pub(super) async fn add_entries(&mut self, act: &AddEntries) -> Answered {
        if let Some(first) = self.repeated(act.tenant, &act.request) {
            let first = match first {
                Ok(answer) => answer,
                Err(refusal) => return Ok(Err(refusal)),
            };
            return self.repeat_added(act, &first).await;
        }
        let row = match self.open_batch_of(act.tenant, act.batch) {
            Ok(row) => row,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let (first_ordinal, next_folder) = (row.next_ordinal, row.next_folder);
        let key = (act.tenant, act.batch);

        let tree = self.plan_folders(key, &act.entries, next_folder).await?;
        let mut plan = self.plan_files(key, act, &tree, first_ordinal).await?;
        let mut wrong = tree.wrong;
        wrong.append(std::mem::take(&mut plan.wrong));
        if !wrong.is_empty() {
            return Ok(Err(refuse_page(wrong)));
        }
        let lenders = self.lenders_of_page(act, &plan).await?;
        if let Err(refusal) = self.reserve(key, &plan.new_files, tree.new.len()) {
            return Ok(Err(refusal));
        }
        manifest::insert_folders(&self.session, key, &tree.new).await?;
        for folder in &tree.new {
            self.state
                .ancestors
                .learn((key, folder.folder), folder.ancestors.clone());
        }
        let works: Vec<WorkRow> = plan
            .new_files
            .iter()
            .map(|file| WorkRow::pending(file.file, file.folder, file.size, self.now))
            .collect();
        for file in &plan.new_files {
            self.count_new_file(key, file.file.ordinal, file.folder)?;
        }
        let already_held = self.take_over_held(&plan, &works, &lenders)?;
        self.remember_added(&act.entries, &plan, &works);
        self.new.rows.extend(works);
        self.touch(key);
        let new_count = u32::try_from(plan.new_files.len()).unwrap_or(u32::MAX);
        if let Some(batched) = self.batches.get_mut(&key) {
            batched.grown = true;
            batched.row.next_ordinal = first_ordinal.saturating_add(new_count);
            batched.row.next_folder =
                next_folder.saturating_add(u32::try_from(tree.new.len()).unwrap_or(u32::MAX));
            for file in &plan.new_files {
                batched.row.bytes_declared = batched.row.bytes_declared.saturating_add(file.size);
            }
            for folder in &tree.new {
                batched.changes.folder.push(folder.folder);
                batched.changes.folder_total.push(0);
                batched.changes.folder_processed.push(0);
                batched.changes.folder_failed.push(0);
                batched.changes.folder_cancelled.push(0);
            }
        }
        self.new.files.extend(plan.new_files);
        let added = AddedEntries {
            first_ordinal,
            new_count,
            ordinals: plan.ordinals,
            folders: tree.of_page,
            already_held,
        };
        // The folders are not kept with the answer: they can be looked up again, and would make it large.
        let answer = AddEntriesResponse {
            folders: Vec::new(),
            ..messages::added(&added)
        }
        .encode_to_vec();
        let request = &act.request;
        self.remember(act.tenant, request, answer);
        Ok(Ok(Answer::Added(added)))
    }

    async fn repeat_added(&mut self, act: &AddEntries, answer: &[u8]) -> Answered {
        let Ok(first) = AddEntriesResponse::decode(answer) else {
            return Ok(Err(Refusal::internal()));
        };
        let tree = self
            .plan_folders((act.tenant, act.batch), &act.entries, u32::MAX)
            .await?;
        let files = act
            .entries
            .iter()
            .filter(|entry| matches!(entry, NewEntry::File(_)))
            .count();
        let dense = (first.first_ordinal..).take(files).collect();
        let ordinals = if first.ordinals.is_empty() {
            dense
        } else {
            first.ordinals
        };
        let added = AddedEntries {
            first_ordinal: first.first_ordinal,
            new_count: first.new_count,
            ordinals,
            folders: tree.of_page,
            already_held: first.already_held,
        };
        Ok(Ok(Answer::Added(added)))
    }

    /// Results of files that hold the content which entries of the page declare, their rows locked (protocol 13.3).
    async fn lenders_of_page(
        &self,
        act: &AddEntries,
        plan: &FilePlan,
    ) -> Result<HashMap<TenantContent, Vec<ResultRow>>, GroupError> {
        let declared = plan.new_files.iter().filter_map(declared_content);
        let contents: BTreeSet<TenantContent> = declared.collect();
        if contents.is_empty() || act.knows_one_batch {
            return Ok(HashMap::new());
        }
        self.lenders(&contents).await
    }

    /// New files whose content the tenant holds need no upload: they have arrived, take over what is recorded for that
    /// content, and enter the route at the first stage without a result. Their positions in the page.
    fn take_over_held(
        &mut self,
        plan: &FilePlan,
        works: &[WorkRow],
        lenders: &HashMap<TenantContent, Vec<ResultRow>>,
    ) -> Result<Vec<u32>, GroupError> {
        let mut already_held = Vec::new();
        for ((new, work), position) in plan.new_files.iter().zip(works).zip(&plan.positions) {
            let lent = declared_content(new).and_then(|content| lenders.get(&content));
            let Some((lent, upload)) = lent.and_then(|lent| {
                let of_upload = |result: &&ResultRow| result.stage == Stage::Upload;
                Some((lent, lent.iter().find(of_upload)?))
            }) else {
                continue;
            };
            // One that declares another size than the content has is told so by the upload stage.
            if upload
                .artifacts
                .iter()
                .all(|original| original.size != new.size)
            {
                continue;
            }
            let file = new.file;
            let key = (file.tenant, file.batch);
            self.take_in(work.clone());
            let arrived = upload.taken_over(file, Generation::FIRST, Token::FIRST, self.now);
            self.results.push(arrived);
            let recorded = Recorded {
                stage: Stage::Upload,
                media_type: upload.media_type.as_deref(),
                has_text: false,
            };
            let asked = self
                .batches
                .get(&key)
                .map(|batched| batched.row.stages)
                .unwrap_or_default();
            let next = self.go_on(
                recorded,
                &Onward {
                    file,
                    generation: Generation::FIRST,
                    token: Token::FIRST,
                    asked,
                    has: &[],
                    lent,
                },
            );
            self.raise_token(file)?;
            self.mark_bytes_moved(file);
            let row = self.row_mut(file)?;
            row.etag = Some(KEPT.to_owned());
            row.stage = next.unwrap_or(Stage::Metadata);
            self.step(file, FileEvent::Arrived)?;
            self.make_ready(file, self.now)?;
            already_held.push(*position);
        }
        Ok(already_held)
    }

    /// New files that have not arrived with their page are soon confirmed.
    fn remember_added(&mut self, entries: &[NewEntry], plan: &FilePlan, works: &[WorkRow]) {
        for ((row, new), position) in works.iter().zip(&plan.new_files).zip(&plan.positions) {
            let entry = entries.get(*position as usize);
            let Some(NewEntry::File(entry)) = entry else {
                continue;
            };
            if self.files.contains_key(&row.file) {
                continue;
            }
            let declared = Arc::new(Declared {
                path: join(&entry.parent, &entry.name),
                sha256: new.declared_sha256.clone(),
                metadata: new.metadata.clone(),
            });
            self.added.push(Pending {
                row: row.clone(),
                declared,
            });
        }
    }

    /// Numbers the folders that the page names or implies.
    async fn plan_folders(
        &mut self,
        key: BatchKey,
        entries: &[NewEntry],
        mut next_folder: u32,
    ) -> Result<Tree, GroupError> {
        let mut needed: BTreeSet<&str> = BTreeSet::from([""]);
        for entry in entries {
            let folder = match entry {
                NewEntry::File(file) => file.parent.as_str(),
                NewEntry::Folder { path } => path.as_str(),
            };
            needed.extend(lineage(folder));
        }
        let file_paths: Vec<String> = entries
            .iter()
            .filter_map(|entry| match entry {
                NewEntry::File(file) => Some(join(&file.parent, &file.name)),
                NewEntry::Folder { .. } => None,
            })
            .collect();
        let mut asked: Vec<&str> = needed.iter().copied().collect();
        asked.extend(file_paths.iter().map(String::as_str));
        let mut known = manifest::folders_by_path(&self.session, key, &asked).await?;

        let mut tree = Tree::default();
        for (index, entry) in entries.iter().enumerate() {
            let NewEntry::File(file) = entry else {
                continue;
            };
            let path = join(&file.parent, &file.name);
            if known.contains_key(&path) && !needed.contains(path.as_str()) {
                let description = format!(
                    "`{path}` is a folder of this batch already: a path is a file or a folder"
                );
                tree.wrong
                    .add(format!("entries[{index}].path"), description);
            }
        }
        // In order of their paths a parent comes before its children.
        for path in needed {
            let folder = match known.remove(path) {
                Some(folder) => folder,
                None => {
                    let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                    let ancestors = match tree.by_path.get(parent) {
                        Some(parent) => parent
                            .ancestors
                            .iter()
                            .copied()
                            .chain([parent.folder])
                            .collect(),
                        None => return Err(GroupError::Stale),
                    };
                    let folder = FolderRow {
                        folder: next_folder,
                        ancestors,
                        path: path.to_owned(),
                        counts: FolderCounts::default(),
                    };
                    next_folder = next_folder.saturating_add(1);
                    tree.new.push(folder.clone());
                    folder
                }
            };
            tree.of_page.push((path.to_owned(), folder.folder));
            tree.by_path.insert(path.to_owned(), folder);
        }
        self.refuse_folders_over_files(key, entries, &mut tree)
            .await?;
        Ok(tree)
    }

    /// A new folder must not have the path of a file that is in the manifest.
    async fn refuse_folders_over_files(
        &self,
        key: BatchKey,
        entries: &[NewEntry],
        tree: &mut Tree,
    ) -> Result<(), GroupError> {
        let mut places = Vec::new();
        for folder in &tree.new {
            let (parent, name) = folder.path.rsplit_once('/').unwrap_or(("", &folder.path));
            if let Some(parent) = tree.by_path.get(parent) {
                places.push((parent.folder, name));
            }
        }
        let taken = manifest::known_files(&self.session, key, &places).await?;
        if taken.is_empty() {
            return Ok(());
        }
        let taken: BTreeSet<(u32, String)> = taken
            .into_iter()
            .map(|file| (file.folder, file.name))
            .collect();
        for (index, entry) in entries.iter().enumerate() {
            let folder = match entry {
                NewEntry::File(file) => file.parent.as_str(),
                NewEntry::Folder { path } => path.as_str(),
            };
            for path in lineage(folder) {
                if tree.wrong.is_full() {
                    return Ok(());
                }
                let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
                let Some(parent) = tree.by_path.get(parent) else {
                    continue;
                };
                if taken.contains(&(parent.folder, name.to_owned())) {
                    let description = format!(
                        "`{path}` is a file of this batch already: a path is a file or a folder"
                    );
                    tree.wrong
                        .add(format!("entries[{index}].path"), description);
                }
            }
        }
        Ok(())
    }

    /// Numbers the files of the page that are new, and finds those that are in the manifest already.
    async fn plan_files(
        &self,
        key: BatchKey,
        act: &AddEntries,
        tree: &Tree,
        first_ordinal: u32,
    ) -> Result<FilePlan, GroupError> {
        let folder_of = |file: &NewFile| {
            tree.by_path
                .get(&file.parent)
                .map_or(0, |folder| folder.folder)
        };
        let mut places = Vec::new();
        for entry in &act.entries {
            if let NewEntry::File(file) = entry {
                places.push((folder_of(file), file.name.as_str()));
            }
        }
        let known = manifest::known_files(&self.session, key, &places).await?;
        let known: HashMap<(u32, &str), &manifest::KnownFile> = known
            .iter()
            .map(|file| ((file.folder, file.name.as_str()), file))
            .collect();
        let mut plan = FilePlan::default();
        let mut next_ordinal = first_ordinal;
        for (index, entry) in act.entries.iter().enumerate() {
            let NewEntry::File(file) = entry else {
                continue;
            };
            let folder = folder_of(file);
            if let Some(before) = known.get(&(folder, file.name.as_str())) {
                let same_sha256 = before.declared_sha256.as_deref()
                    == file.sha256.as_ref().map(<[u8; 32]>::as_slice);
                if before.size == file.size && same_sha256 {
                    plan.ordinals.push(before.ordinal);
                    continue;
                }
                let description = format!(
                    "`{}` is in this batch already as {} with {} bytes; this entry has {} bytes or another checksum: \
                     leave it out, or give it another path",
                    join(&file.parent, &file.name),
                    names::file_name(act.batch, before.ordinal),
                    before.size,
                    file.size
                );
                plan.wrong
                    .add(format!("entries[{index}].path"), description);
                continue;
            }
            plan.ordinals.push(next_ordinal);
            plan.positions
                .push(u32::try_from(index).unwrap_or(u32::MAX));
            plan.new_files.push(FileRow {
                file: FileRef::new(act.tenant, act.batch, next_ordinal),
                folder,
                name: file.name.clone(),
                size: file.size,
                declared_sha256: file.sha256.map(|sha256| sha256.to_vec()),
                media_type_hint: file.media_type_hint.clone(),
                metadata: file.metadata.clone(),
                modified_at: file.modified_at,
                created_at: self.now,
            });
            next_ordinal = next_ordinal.saturating_add(1);
        }
        Ok(plan)
    }

    /// Takes the quotas of the tenant, or says which is full.
    fn reserve(
        &mut self,
        key: BatchKey,
        new_files: &[FileRow],
        new_folders: usize,
    ) -> Result<(), Refusal> {
        let in_batch = self
            .batches
            .get(&key)
            .map_or_else(InBatch::default, |batched| InBatch {
                files: batched.row.next_ordinal.into(),
                folders: batched.row.next_folder.into(),
            });
        let Some(tenant) = self.tenants.get_mut(&key.0) else {
            return Err(Refusal::not_found(&names::batch_name(key.1)));
        };
        let defaults = &self.state.settings.tenant_limits;
        let limits = TenantLimits::from_json(&tenant.limits, defaults).map_err(|error| {
            tracing::error!(%error, tenant = %key.0, "the limits of a tenant cannot be read: it gets no files until they are mended");
            self.state.metrics.defects.inc();
            Refusal::internal()
        })?;
        let sizes = new_files.iter().map(|file| file.size);
        let asked = within_quotas(&limits, tenant, in_batch, sizes, new_folders as u64)?;
        // They fit their quotas, so they do not overflow.
        tenant.used_files = tenant.used_files.saturating_add(asked.files);
        tenant.used_bytes = tenant.used_bytes.saturating_add(asked.bytes);
        Ok(())
    }

    pub(super) async fn complete_batch(&mut self, index: usize, act: &CompleteBatch) -> Answered {
        if let Some(first) = self.repeated(act.tenant, &act.request) {
            return Ok(first.and_then(|answer| decode_batch(&answer)));
        }
        let row = match self.batch_of(act.tenant, act.batch) {
            Ok(row) => row,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if row.facts.cancel_requested {
            return Ok(Err(cancelled(act.batch)));
        }
        let total = row.facts.counts.total();
        if act.expected_entries != 0 && act.expected_entries != total {
            let message = format!(
                "the manifest of {} holds {total} files, not {}: send the missing pages, then complete it",
                names::batch_name(act.batch),
                act.expected_entries
            );
            let refusal = Refusal::failed_precondition("ENTRIES_MISSING", message)
                .with_metadata("expected_entries", act.expected_entries.to_string())
                .with_metadata("entries", total.to_string());
            return Ok(Err(refusal));
        }
        let key = (act.tenant, act.batch);
        let first_completion = !row.facts.manifest_complete;
        let held_back = row.starts_when_completed;
        self.touch(key);
        if let Some(batched) = self.batches.get_mut(&key) {
            batched.completed |= first_completion;
            batched.row.facts.manifest_complete = true;
            // Who waited for what is missing may give it up later.
            batched.row.missing_fails |= act.missing_fails;
        }
        if first_completion && held_back {
            self.waits.push((Stage::Upload, key, self.now));
        }
        self.batch_answers.push(BatchAnswer {
            act: index,
            key,
            request: act.request.clone(),
        });
        Ok(Ok(Answer::Nothing))
    }

    pub(super) async fn confirm_uploads(&mut self, act: &ConfirmUploads) -> Answered {
        if let Some(first) = self.repeated(act.tenant, &act.request) {
            return Ok(first.and_then(|answer| decode_confirmed(&answer)));
        }
        let row = match self.batch_of(act.tenant, act.batch) {
            Ok(row) => row,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if row.facts.cancel_requested {
            return Ok(Err(cancelled(act.batch)));
        }
        let mut confirmed = Vec::with_capacity(act.uploads.len());
        for upload in &act.uploads {
            let file = FileRef::new(act.tenant, act.batch, upload.ordinal);
            confirmed.push(self.confirm(file, upload)?);
        }
        self.touch((act.tenant, act.batch));
        let request = &act.request;
        let response =
            messages::confirmations(act.uploads.iter().map(|upload| upload.ordinal), &confirmed);
        let answer = response.encode_to_vec();
        self.remember(act.tenant, request, answer);
        Ok(Ok(Answer::Confirmed(Box::new(response))))
    }

    /// Takes one confirmation (protocol 12.2). One that was taken before changes nothing; one for a file that was given
    /// up as never arrived brings it back (protocol 12.3).
    fn confirm(
        &mut self,
        file: FileRef,
        upload: &ConfirmedUpload,
    ) -> Result<Result<FileState, Refusal>, GroupError> {
        let Some(worked) = self.files.get(&file) else {
            return Ok(Err(Refusal::not_found(&names::file_name(
                file.batch,
                file.ordinal,
            ))));
        };
        let row = &worked.row;
        if row.target != upload.target {
            let message = format!(
                "{} is waiting for target {}, not {}: ask for a new target and upload again",
                names::file_name(file.batch, file.ordinal),
                row.target.get(),
                upload.target.get()
            );
            return Ok(Err(Refusal::failed_precondition(
                "TARGET_SUPERSEDED",
                message,
            )));
        }
        let given_up = row.state == FileState::Failed && row.reason == Some(Reason::NeverArrived);
        if !matches!(row.state, FileState::Pending | FileState::Uploading) && !given_up {
            return Ok(Ok(row.state));
        }
        self.take_bytes(file, &upload.etag)?;
        Ok(Ok(self
            .files
            .get(&file)
            .map_or(FileState::Uploaded, |worked| worked.row.state)))
    }

    /// The bytes of a file are there; of one that was given up, after all.
    fn take_bytes(&mut self, file: FileRef, etag: &str) -> Result<(), GroupError> {
        if self.row_mut(file)?.state == FileState::Failed {
            self.step(file, FileEvent::Adopted)?;
            self.take_back_letter(file);
        }
        self.raise_token(file)?;
        self.mark_bytes_moved(file);
        let row = self.row_mut(file)?;
        row.etag = Some(etag.to_owned());
        row.reason = None;
        self.step(file, FileEvent::Arrived)?;
        self.make_ready(file, self.now)
    }

    /// Adopts files that were given up as never arrived and whose bytes the store has under their current target
    /// (protocol 11.2, 12.3); which were.
    pub(super) fn adopt(&mut self, found: &[ConfirmedFile]) -> Result<Vec<FileRef>, GroupError> {
        let mut adopted = Vec::new();
        for ConfirmedFile { file, target, etag } in found {
            let waits_for_it = self.files.get(file).is_some_and(|worked| {
                let row = &worked.row;
                row.state == FileState::Failed
                    && row.reason == Some(Reason::NeverArrived)
                    && row.target == *target
            });
            let cancelled = self
                .batches
                .get(&(file.tenant, file.batch))
                .is_none_or(|batched| batched.row.facts.cancel_requested);
            if waits_for_it && !cancelled {
                self.take_bytes(*file, etag)?;
                adopted.push(*file);
            }
        }
        Ok(adopted)
    }

    /// Fails what has not arrived of a slice of a batch, after a completion that asked for it; where the next slice begins.
    /// With the last one that is done: what is asked for again later, by a retry, has its time to arrive.
    pub(super) async fn fail_missing(
        &mut self,
        tenant: TenantId,
        batch: BatchId,
        from: u32,
    ) -> Result<Answer, GroupError> {
        let key = (tenant, batch);
        if !self
            .batches
            .get(&key)
            .is_some_and(|batched| batched.row.missing_fails)
        {
            return Ok(Answer::GoesOnAt(None));
        }
        let rows = work::lock_range(&self.session, tenant, batch, from, SLICE).await?;
        let next = rows
            .last()
            .filter(|_| rows.len() == SLICE as usize)
            .map(|row| row.file.ordinal.saturating_add(1));
        let is_missing = |state| matches!(state, FileState::Pending | FileState::Uploading);
        for row in rows {
            let file = row.file;
            // What this group has moved is newer than what was read.
            if !self.files.contains_key(&file) && is_missing(row.state) {
                self.take_in(row);
            }
            let Some(row) = self.files.get(&file).map(|worked| &worked.row) else {
                continue;
            };
            if !is_missing(row.state) {
                continue;
            }
            let (token, stage) = (row.token, row.stage);
            self.raise_token(file)?;
            self.row_mut(file)?.reason = Some(Reason::NeverArrived);
            self.dead_letters.push(AttemptRow {
                file,
                token,
                stage,
                reason: Reason::NeverArrived,
                detail: String::new(),
                trace_id: String::new(),
                ended_at: self.now,
            });
            self.step(file, FileEvent::NeverArrived)?;
        }
        if next.is_none()
            && let Some(batched) = self.batches.get_mut(&key)
        {
            batched.row.missing_fails = false;
            batched.touched = true;
        }
        Ok(Answer::GoesOnAt(next))
    }

    pub(super) async fn prune(&mut self) -> Result<Answer, GroupError> {
        let changes_before = self.now.minus(self.state.settings.keep_changes);
        let requests_before = self.now.minus(limits::REQUEST_ID_RETENTION);
        changes::prune(&self.session, changes_before, requests_before, PRUNE_SLICE).await?;
        Ok(Answer::Nothing)
    }
}

/// What a batch holds.
#[derive(Clone, Copy, Default)]
struct InBatch {
    files: u64,
    folders: u64,
}

/// What a page asks of the quotas.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    files: u64,
    bytes: u64,
}

/// Whether the tenant may keep files of these sizes too. The sizes are a client's: each is looked at before it is added, and
/// no sum passes what the database can keep.
fn within_quotas(
    limits: &TenantLimits,
    tenant: &TenantRow,
    in_batch: InBatch,
    sizes: impl Iterator<Item = u64>,
    new_folders: u64,
) -> Result<Asked, Refusal> {
    const MOST_KEPT: u64 = i64::MAX as u64;
    let mut asked = Asked { files: 0, bytes: 0 };
    for size in sizes {
        if size > limits.file_bytes {
            return Err(Refusal::quota_exceeded(
                "file_bytes",
                limits.file_bytes,
                0,
                size,
            ));
        }
        asked.files = asked.files.saturating_add(1);
        asked.bytes = asked.bytes.saturating_add(size);
    }
    let files_per_batch = limits
        .files_per_batch
        .min(limits::MAX_FILES_PER_BATCH.into());
    let folders_per_batch = limits::MAX_FOLDERS_PER_BATCH.into();
    for (subject, limit, used, more) in [
        (
            "files_per_batch",
            files_per_batch,
            in_batch.files,
            asked.files,
        ),
        (
            "folders_per_batch",
            folders_per_batch,
            in_batch.folders,
            new_folders,
        ),
        ("files", limits.files, tenant.used_files, asked.files),
        (
            "stored_bytes",
            limits.stored_bytes,
            tenant.used_bytes,
            asked.bytes,
        ),
    ] {
        let fits = used
            .checked_add(more)
            .is_some_and(|sum| sum <= limit.min(MOST_KEPT));
        if more > 0 && !fits {
            return Err(Refusal::quota_exceeded(subject, limit, used, more));
        }
    }
    Ok(asked)
}

/// The content that an entry says it has.
fn declared_content(file: &FileRow) -> Option<TenantContent> {
    let sha256 = file.declared_sha256.as_ref()?;
    Some((file.file.tenant, sha256.as_slice().try_into().ok()?))
}

/// The folders of a page.
#[derive(Default)]
struct Tree {
    by_path: HashMap<String, FolderRow>,
    of_page: Vec<(String, u32)>,
    new: Vec<FolderRow>,
    wrong: Violations,
}

/// The files of a page.
#[derive(Default)]
struct FilePlan {
    new_files: Vec<FileRow>,
    /// Where each new file stands in the page.
    positions: Vec<u32>,
    ordinals: Vec<u32>,
    wrong: Violations,
}

/// A folder's path and those of all folders above it, without the root.
fn lineage(folder: &str) -> impl Iterator<Item = &str> {
    let ends = folder
        .match_indices('/')
        .map(|(at, _)| at)
        .chain((!folder.is_empty()).then_some(folder.len()));
    ends.map(|end| &folder[..end])
}

fn join(parent: &str, name: &str) -> String {
    if parent.is_empty() {
        name.to_owned()
    } else {
        format!("{parent}/{name}")
    }
}

fn refuse_page(wrong: Violations) -> Refusal {
    let mut refusal = wrong.into_refusal();
    refusal.kind = caudal_domain::RefusalKind::AlreadyExists;
    refusal.with_reason("PATH_TAKEN")
}

pub(super) fn cancelled(batch: BatchId) -> Refusal {
    let message = format!(
        "{} is cancelled; create another batch",
        names::batch_name(batch)
    );
    Refusal::failed_precondition("BATCH_CANCELLED", message)
}

pub(super) fn decode_batch(answer: &[u8]) -> Result<Answer, Refusal> {
    let batch = caudal_proto::v1::Batch::decode(answer).map_err(|_| Refusal::internal())?;
    Ok(Answer::Batch(Box::new(batch)))
}

fn decode_confirmed(answer: &[u8]) -> Result<Answer, Refusal> {
    let response = ConfirmUploadsResponse::decode(answer).map_err(|_| Refusal::internal())?;
    Ok(Answer::Confirmed(Box::new(response)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    fn tenant(used_files: u64, used_bytes: u64) -> TenantRow {
        TenantRow {
            tenant: TenantId::from_uuid(uuid::Uuid::nil()),
            limits: String::new(),
            paused: false,
            used_bytes,
            used_files,
            revision: 1,
        }
    }

    fn full(limits: &TenantLimits, tenant: &TenantRow, sizes: &[u64]) -> String {
        let in_batch = InBatch::default();
        let refusal =
            within_quotas(limits, tenant, in_batch, sizes.iter().copied(), 0).unwrap_err();
        refusal.quota[0].subject.clone()
    }

    #[test]
    fn no_size_that_a_client_names_overflows_a_quota() {
        let limits = TenantLimits::default();
        let none = tenant(0, 0);
        assert_eq!(full(&limits, &none, &[i64::MAX as u64; 3]), "file_bytes");
        assert_eq!(full(&limits, &none, &[u64::MAX; 3]), "file_bytes");
        let boundless = TenantLimits {
            stored_bytes: u64::MAX,
            files: u64::MAX,
            files_per_batch: u64::MAX,
            file_bytes: u64::MAX,
        };
        assert_eq!(full(&boundless, &none, &[u64::MAX; 3]), "stored_bytes");
        let nearly = tenant(0, i64::MAX as u64 - 1);
        assert_eq!(full(&boundless, &nearly, &[2]), "stored_bytes");
        let most = tenant(u64::MAX, 0);
        assert_eq!(full(&boundless, &most, &[0]), "files");
        let fits = within_quotas(&boundless, &nearly, InBatch::default(), [1].into_iter(), 0);
        assert_eq!(fits.unwrap(), Asked { files: 1, bytes: 1 });
    }

    #[test]
    fn a_batch_has_so_many_files_and_folders_and_no_more_whatever_a_tenant_may_keep() {
        let boundless = TenantLimits {
            files_per_batch: u64::MAX,
            ..TenantLimits::default()
        };
        let none = tenant(0, 0);
        let subject = |in_batch: InBatch, sizes: &[u64], folders: u64| {
            let sizes = sizes.iter().copied();
            let refusal = within_quotas(&boundless, &none, in_batch, sizes, folders);
            refusal
                .err()
                .map(|refusal| refusal.quota[0].subject.clone())
        };
        let filled = InBatch {
            files: limits::MAX_FILES_PER_BATCH.into(),
            folders: limits::MAX_FOLDERS_PER_BATCH.into(),
        };
        assert_eq!(subject(filled, &[1], 0).as_deref(), Some("files_per_batch"));
        assert_eq!(
            subject(filled, &[], 1).as_deref(),
            Some("folders_per_batch")
        );
        // A page of what is known already asks for nothing.
        assert_eq!(subject(filled, &[], 0), None);
    }
}
