//! Adds a page of the manifest: folders are numbered, files are numbered and counted, and those whose content the tenant
//! holds need no upload (protocol 12.2, 13.3, 14.2).

use std::collections::BTreeSet;
use std::sync::Arc;

use caudal_domain::{
    BatchRef, FileEvent, FileRef, FolderCounts, Generation, Recorded, Refusal, RefusalKind, Stage,
    Token, Violations, names,
};
use caudal_proto::v1::AddEntriesResponse;
use prost::Message;
use rustc_hash::FxHashMap;

use crate::memory::known::Pending;
use crate::memory::lease_cache::Declared;
use crate::store::credentials::Spent;
use crate::store::manifest::{FileRow, FolderRow};
use crate::store::results::{ResultRow, TenantContent};
use crate::store::tenancy::TenancyNeeds;
use crate::store::time::Micros;
use crate::store::work::{AT_FINAL_KEY, WorkRow};
use crate::wire;
use crate::writer::error::{GroupError, Stop};
use crate::writer::group::Group;
use crate::writer::loaded::{Loaded, LoadedEntries};
use crate::writer::manifest_page::{ManifestPage, lineage, split};
use crate::writer::needs::Needs;
use crate::writer::quotas::{InBatch, within_quotas};
use crate::writer::request_key::RequestKey;
use crate::writer::reuse::Onward;
use crate::writer::verb::{Reply, Verb};

/// Bytes of paths that weigh as much as a row.
const PATH_BYTES_A_ROW: usize = 1_024;

/// A page of the manifest.
#[derive(Clone, Debug)]
pub(crate) struct AddEntries {
    pub(crate) batch: BatchRef,
    pub(crate) request: RequestKey,
    /// The caller may know this batch only: it does not learn what the tenant holds.
    pub(crate) knows_one_batch: bool,
    /// The id of the upload token it came with, which may add so much and no more.
    pub(crate) token: Option<String>,
    pub(crate) page: Arc<ManifestPage>,
    /// How many folders it implies.
    pub(crate) folders: usize,
    /// Bytes of its paths and of those of the folders.
    pub(crate) path_bytes: usize,
}

/// What became of a manifest page.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AddedEntries {
    pub(crate) first_ordinal: u32,
    pub(crate) new_count: u32,
    /// One for each file of the page, in order.
    pub(crate) ordinals: Vec<u32>,
    /// (path, number) of the folders of the page.
    pub(crate) folders: Vec<(String, u32)>,
    /// Positions in the page of the files whose content the tenant holds: they need no upload.
    pub(crate) already_held: Vec<u32>,
}

impl AddedEntries {
    /// On the wire. Ordinals are left out when all its files are new.
    pub(crate) fn message(&self) -> AddEntriesResponse {
        let dense = self.ordinals.len() == self.new_count as usize;
        let folders = self.folders.iter();
        AddEntriesResponse {
            first_ordinal: self.first_ordinal,
            new_count: self.new_count,
            ordinals: if dense {
                Vec::new()
            } else {
                self.ordinals.clone()
            },
            folders: folders
                .map(|(path, folder)| wire::added_folder(path, *folder))
                .collect(),
            already_held: self.already_held.clone(),
        }
    }
}

impl Verb for AddEntries {
    type Answer = AddedEntries;
    const NAME: &'static str = "AddEntries";

    /// A folder is about as much work as a file, and long paths are work of their own.
    fn rows(&self) -> usize {
        let paths = self.path_bytes / PATH_BYTES_A_ROW;
        self.page
            .entries()
            .len()
            .max(self.folders.saturating_add(paths))
    }

    fn needs(&self) -> Needs {
        let files = self.page.files();
        let contents = files.filter_map(|(_, file)| Some((self.batch.tenant, file.sha256?)));
        Needs {
            page: Some(self.page.clone()),
            contents: contents.filter(|_| !self.knows_one_batch).collect(),
            tenancy: self.token.as_ref().map(|token| about_token(token)),
            ..Needs::of_batch(self.batch, self.request.of(self.batch.tenant))
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<AddedEntries>, Stop> {
        let loaded = group.loaded.clone();
        let known = group.known_of(self.batch, &loaded);
        if let Some(first) = group.first_answer(self.batch.tenant, &self.request)? {
            return Ok(Reply::Now(self.repeat(first, &known)?));
        }
        let row = group.batch_in_force(self.batch)?;
        if row.facts.manifest_complete && !planted!(CompletedTakesEntries) {
            let message = format!(
                "{} is completed: its manifest takes no more entries; create another batch",
                names::batch_name(self.batch.batch)
            );
            return Err(Refusal::failed_precondition("MANIFEST_COMPLETE", message).into());
        }
        let (first_ordinal, next_folder) = (row.next_ordinal, row.next_folder);
        let mut tree = self.plan_folders(&known, next_folder)?;
        let mut plan = self.plan_files(&known, &tree, first_ordinal, group.now);
        tree.wrong.append(std::mem::take(&mut plan.wrong));
        if !tree.wrong.is_empty() {
            return Err(refuse_page(tree.wrong).into());
        }
        let spent = match &self.token {
            Some(token) => {
                let spent = group.may_spend(token, &plan.new_files, tree.new.len())?;
                Some((token, spent))
            }
            None => None,
        };
        group.reserve(self.batch, &plan.new_files, tree.new.len())?;
        if let Some((token, spent)) = spent {
            let spends = &mut group.effects.tenancy.spent;
            spends.push((token.clone(), spent));
        }
        let new_count = u32::try_from(plan.new_files.len()).unwrap_or(u32::MAX);
        let already_held = group.add(self, &mut plan, &mut tree)?;
        let added = AddedEntries {
            first_ordinal,
            new_count,
            ordinals: plan.ordinals,
            folders: tree.of_page,
            already_held,
        };
        // The folders are not kept with the answer: they can be looked up again, and would make it large.
        let kept = AddEntriesResponse {
            folders: Vec::new(),
            ..added.message()
        };
        group.remember(self.batch.tenant, &self.request, kept.encode_to_vec());
        Ok(Reply::Now(added))
    }
}

/// What is asked of an upload token.
fn about_token(id: &str) -> TenancyNeeds {
    TenancyNeeds {
        key: Some(id.to_owned()),
        ..TenancyNeeds::default()
    }
}

/// The folders of a page.
#[derive(Default)]
struct Tree<'p> {
    by_path: FxHashMap<&'p str, FolderRow>,
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

/// What the batch holds of what a page names: what was loaded, and what its group has added before.
struct KnownEntries<'g> {
    loaded: Option<&'g LoadedEntries>,
    grown_folders: FxHashMap<&'g str, &'g FolderRow>,
    grown_files: FxHashMap<(u32, &'g str), &'g FileRow>,
}

/// A file that is in the manifest.
struct KnownEntry<'g> {
    ordinal: u32,
    size: u64,
    declared_sha256: Option<&'g [u8]>,
    added_by: Option<&'g str>,
}

impl KnownEntries<'_> {
    fn folder(&self, path: &str) -> Option<&FolderRow> {
        let grown = self.grown_folders.get(path).copied();
        grown.or_else(|| self.loaded?.folders.get(path))
    }

    fn file(&self, folder: u32, name: &str) -> Option<KnownEntry<'_>> {
        if let Some(row) = self.grown_files.get(&(folder, name)) {
            return Some(KnownEntry {
                ordinal: row.file.ordinal,
                size: row.size,
                declared_sha256: row.declared_sha256.as_deref(),
                added_by: row.added_by.as_deref(),
            });
        }
        let known = self.loaded?.files.get(&folder)?.get(name)?;
        Some(KnownEntry {
            ordinal: known.ordinal,
            size: known.size,
            declared_sha256: known.declared_sha256.as_deref(),
            added_by: known.added_by.as_deref(),
        })
    }

    fn holds_files(&self) -> bool {
        let loaded = self.loaded.is_some_and(|loaded| !loaded.files.is_empty());
        loaded || !self.grown_files.is_empty()
    }
}

impl AddEntries {
    /// Numbers the folders that the page names or implies.
    fn plan_folders(
        &self,
        known: &KnownEntries<'_>,
        mut next: u32,
    ) -> Result<Tree<'_>, GroupError> {
        let mut tree = Tree::default();
        for (index, file) in self.page.files() {
            let path = file.path.as_str();
            if known.folder(path).is_some() && !self.page.has_folder(path) {
                let description = format!(
                    "`{path}` is a folder of this batch already: a path is a file or a folder"
                );
                let field = format!("entries[{index}].path");
                tree.wrong.add(field, description);
            }
        }
        for path in self.page.folders() {
            let folder = match known.folder(path) {
                Some(folder) => folder.clone(),
                None => {
                    let parent = tree.by_path.get(split(path).0).ok_or(GroupError::Stale)?;
                    let above = parent.ancestors.iter().copied();
                    let folder = FolderRow {
                        folder: next,
                        ancestors: above.chain([parent.folder]).collect(),
                        path: path.to_owned(),
                        counts: FolderCounts::default(),
                    };
                    next = next.saturating_add(1);
                    tree.new.push(folder.clone());
                    folder
                }
            };
            tree.of_page.push((path.to_owned(), folder.folder));
            tree.by_path.insert(path, folder);
        }
        self.refuse_folders_over_files(known, &mut tree);
        Ok(tree)
    }

    /// A new folder must not have the path of a file that is in the manifest.
    fn refuse_folders_over_files(&self, known: &KnownEntries<'_>, tree: &mut Tree<'_>) {
        let is_file = |path: &&str| {
            let (parent, name) = split(path);
            let parent = known.folder(parent);
            parent.is_some_and(|parent| known.file(parent.folder, name).is_some())
        };
        let new = tree.new.iter().map(|folder| folder.path.as_str());
        let taken: BTreeSet<String> = new.filter(is_file).map(str::to_owned).collect();
        if taken.is_empty() {
            return;
        }
        for (index, entry) in self.page.entries().iter().enumerate() {
            for path in lineage(entry.folder()).filter(|path| taken.contains(*path)) {
                if tree.wrong.is_full() {
                    return;
                }
                let description = format!(
                    "`{path}` is a file of this batch already: a path is a file or a folder"
                );
                let field = format!("entries[{index}].path");
                tree.wrong.add(field, description);
            }
        }
    }

    /// Numbers the files of the page that are new, and finds those that are in the manifest already.
    fn plan_files(
        &self,
        known: &KnownEntries<'_>,
        tree: &Tree<'_>,
        first_ordinal: u32,
        now: Micros,
    ) -> FilePlan {
        let mut plan = FilePlan::default();
        let mut next_ordinal = first_ordinal;
        let holds_files = known.holds_files();
        for (index, file) in self.page.files() {
            let (parent, name) = split(&file.path);
            let folder = tree.by_path.get(parent).map_or(0, |folder| folder.folder);
            let before = holds_files.then(|| known.file(folder, name)).flatten();
            if let Some(before) = before {
                // Whoever comes with a token learns nothing of files that others added.
                if self.token.is_some() && before.added_by != self.token.as_deref() {
                    let description = format!(
                        "`{}` is in this batch already, and was not added with this upload token: leave it out, or give it another path",
                        file.path
                    );
                    plan.wrong
                        .add(format!("entries[{index}].path"), description);
                    continue;
                }
                let same_sha256 =
                    before.declared_sha256 == file.sha256.as_ref().map(<[u8; 32]>::as_slice);
                if before.size == file.size && same_sha256 {
                    plan.ordinals.push(before.ordinal);
                    continue;
                }
                let description = format!(
                    "`{}` is in this batch already as {} with {} bytes; this entry has {} bytes or another checksum: \
                     leave it out, or give it another path",
                    file.path,
                    names::file_name(self.batch.batch, before.ordinal),
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
                file: self.batch.file(next_ordinal),
                folder,
                name: name.to_owned(),
                size: file.size,
                declared_sha256: file.sha256.map(|sha256| sha256.to_vec()),
                metadata: file.metadata.clone(),
                modified_at: file.modified_at,
                created_at: now,
                added_by: self.token.clone(),
            });
            next_ordinal = next_ordinal.saturating_add(1);
        }
        plan
    }

    /// The first answer again, with the folders that were not kept with it.
    fn repeat(
        &self,
        first: AddEntriesResponse,
        known: &KnownEntries<'_>,
    ) -> Result<AddedEntries, GroupError> {
        let tree = self.plan_folders(known, u32::MAX)?;
        let files = self.page.files().count();
        let ordinals = if first.ordinals.is_empty() {
            (first.first_ordinal..).take(files).collect()
        } else {
            first.ordinals
        };
        Ok(AddedEntries {
            first_ordinal: first.first_ordinal,
            new_count: first.new_count,
            ordinals,
            folders: tree.of_page,
            already_held: first.already_held,
        })
    }
}

impl Group<'_> {
    /// What is known of a batch's entries.
    fn known_of<'g>(&'g self, batch: BatchRef, loaded: &'g Loaded) -> KnownEntries<'g> {
        let mut known = KnownEntries {
            loaded: loaded.entries.get(&batch),
            grown_folders: FxHashMap::default(),
            grown_files: FxHashMap::default(),
        };
        if self.rows.is_grown(batch) {
            let new = &self.effects.new;
            let folders = new.folders.iter().filter(|(of, _)| *of == batch);
            let folders = folders.map(|(_, folder)| (folder.path.as_str(), folder));
            known.grown_folders.extend(folders);
            let files = new.files.iter().filter(|row| row.file.batch_ref() == batch);
            let files = files.map(|row| ((row.folder, row.name.as_str()), row));
            known.grown_files.extend(files);
        }
        known
    }

    /// What new files and folders take of what an upload token may add. A folder counts as a file: it is kept like one.
    fn may_spend(
        &self,
        token: &str,
        new_files: &[FileRow],
        new_folders: usize,
    ) -> Result<Spent, Refusal> {
        let key = self.loaded.tenancy_of(&about_token(token)).key;
        let key = key.filter(|key| key.is_good(self.now)).ok_or_else(|| {
            Refusal::unauthenticated("the upload token was revoked or has expired: ask for another")
        })?;
        let in_group = self.effects.tenancy.spent.iter();
        let in_group = in_group.filter(|(id, _)| id == token);
        let added = in_group.fold(key.added, |sum, (_, spent)| Spent {
            files: sum.files.saturating_add(spent.files),
            bytes: sum.bytes.saturating_add(spent.bytes),
        });
        let folders = Spent {
            files: new_folders as u64,
            bytes: 0,
        };
        let asked = new_files.iter().fold(folders, |sum, file| Spent {
            files: sum.files.saturating_add(1),
            bytes: sum.bytes.saturating_add(file.size),
        });
        for (subject, limit, used, more) in [
            (
                "upload_token_files",
                key.may_add.files,
                added.files,
                asked.files,
            ),
            (
                "upload_token_bytes",
                key.may_add.bytes,
                added.bytes,
                asked.bytes,
            ),
        ] {
            let fits = |limit: u64| used.saturating_add(more) <= limit;
            let full = limit.filter(|limit| more > 0 && !fits(*limit));
            if let Some(limit) = full.filter(|_| !planted!(TokenUnlimited)) {
                return Err(Refusal::quota_exceeded(subject, limit, used, more));
            }
        }
        Ok(asked)
    }

    /// Takes the quotas of the tenant, or says which is full.
    fn reserve(
        &mut self,
        batch: BatchRef,
        new_files: &[FileRow],
        new_folders: usize,
    ) -> Result<(), Stop> {
        let in_batch = self.rows.batch(batch);
        let in_batch = in_batch.map_or_else(InBatch::default, |row| InBatch {
            files: row.next_ordinal.into(),
            folders: row.next_folder.into(),
        });
        let tenant = self.open_tenant(batch.tenant)?;
        let limits = self.limits_of(batch.tenant)?;
        let sizes = new_files.iter().map(|file| file.size);
        let asked = within_quotas(&limits, tenant, in_batch, sizes, new_folders as u64)?;
        // They fit their quotas, so they do not overflow.
        let tenant = self.rows.tenant_mut(batch.tenant)?;
        tenant.used_files = tenant.used_files.saturating_add(asked.files);
        tenant.used_bytes = tenant.used_bytes.saturating_add(asked.bytes);
        tenant.used_folders = tenant.used_folders.saturating_add(asked.folders);
        Ok(())
    }

    /// Adds what is new of a page; the positions of the files that need no upload.
    fn add(
        &mut self,
        page: &AddEntries,
        plan: &mut FilePlan,
        tree: &mut Tree<'_>,
    ) -> Result<Vec<u32>, GroupError> {
        let batch = page.batch;
        for folder in &tree.new {
            self.memory
                .ancestors
                .learn((batch, folder.folder), folder.ancestors.clone());
        }
        for file in &plan.new_files {
            self.rows.count_new_file(file.file, file.folder)?;
        }
        let pending =
            |file: &FileRow| WorkRow::pending(file.file, file.folder, file.likeness(), self.now);
        let rows: Vec<WorkRow> = plan.new_files.iter().map(pending).collect();
        let mut already_held = Vec::new();
        for ((new, row), position) in plan.new_files.iter().zip(&rows).zip(&plan.positions) {
            if self.take_over_held(page, new, row)? {
                already_held.push(*position);
            } else if let Some(entry) = page.page.file_at(*position as usize) {
                // It is soon confirmed.
                self.effects.added.push(Pending {
                    row: row.clone(),
                    declared: Arc::new(Declared {
                        path: entry.path.clone(),
                        sha256: new.declared_sha256.clone(),
                        metadata: new.metadata.clone(),
                    }),
                });
            }
        }
        self.touch(batch)?;
        let added = self.rows.batch_mut(batch)?;
        added.grown = true;
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let row = &mut added.row;
        row.next_ordinal = row.next_ordinal.saturating_add(number(rows.len()));
        row.next_folder = row.next_folder.saturating_add(number(tree.new.len()));
        for file in &plan.new_files {
            row.bytes_declared = row.bytes_declared.saturating_add(file.size);
        }
        for folder in &tree.new {
            added.show_folder(folder.folder, FolderCounts::default());
        }
        let new = &mut self.effects.new;
        let folders = tree.new.drain(..);
        new.folders.extend(folders.map(|folder| (batch, folder)));
        new.files.append(&mut plan.new_files);
        new.rows.extend(rows);
        Ok(already_held)
    }

    /// A new file whose content the tenant holds needs no upload: it has arrived, takes over what is recorded for that
    /// content, and enters the route at the first stage without a result (protocol 13.3). Whether it is so.
    fn take_over_held(
        &mut self,
        page: &AddEntries,
        new: &FileRow,
        row: &WorkRow,
    ) -> Result<bool, GroupError> {
        let content = declared_content(new).filter(|_| !page.knows_one_batch);
        let loaded = self.loaded.clone();
        let offered = self.offered(&loaded, content);
        let of_upload = |result: &&ResultRow| result.stage == Stage::Upload;
        let Some(upload) = offered.iter().find(of_upload) else {
            return Ok(false);
        };
        // One that declares another size than the content has is told so by the upload stage.
        let mut originals = upload.artifacts.iter();
        if originals.all(|original| original.size != new.size) {
            return Ok(false);
        }
        let file: FileRef = new.file;
        self.rows.take_in(row.clone());
        let arrived = upload.taken_over(file, Generation::FIRST, Token::FIRST, self.now);
        self.effects.results.push(arrived);
        let recorded = Recorded {
            stage: Stage::Upload,
            media_type: upload.media_type.as_deref(),
            has_text: false,
        };
        let asked = self.rows.batch(page.batch).map(|batch| batch.stages);
        let onward = Onward {
            file,
            generation: Generation::FIRST,
            token: Token::FIRST,
            asked: asked.unwrap_or_default(),
            has: &[],
            offered,
        };
        let next = self.go_on(recorded, &onward);
        self.raise_token(file)?;
        let row = self.rows.bytes_mut(file)?;
        row.etag = Some(AT_FINAL_KEY.to_owned());
        row.stage = next.unwrap_or(Stage::Metadata);
        self.step(file, FileEvent::Arrived)?;
        self.make_ready(file, self.now)?;
        Ok(true)
    }
}

/// The content that an entry says it has.
fn declared_content(file: &FileRow) -> Option<TenantContent> {
    let sha256 = file.declared_sha256.as_ref()?;
    Some((file.file.tenant, sha256.as_slice().try_into().ok()?))
}

fn refuse_page(wrong: Violations) -> Refusal {
    let mut refusal = wrong.into_refusal();
    refusal.kind = RefusalKind::AlreadyExists;
    refusal.with_reason("PATH_TAKEN")
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use caudal_domain::{BatchId, FileState, TenantId, limits};
    use uuid::Uuid;

    use super::*;
    use crate::store::tenants::TenantRow;
    use crate::writer::manifest_page::NewEntry;
    use crate::writer::trial::{SIZE, Trial, content_of};

    #[test]
    fn a_page_weighs_as_many_rows_as_it_has_entries_or_folders_or_long_paths() {
        let nobody = TenantId::from_uuid(Uuid::nil());
        let rows = |folders, path_bytes| {
            let entry = NewEntry::Folder {
                path: String::new(),
            };
            let page = AddEntries {
                batch: BatchRef::new(nobody, BatchId::from_uuid(Uuid::nil())),
                request: RequestKey {
                    id: Uuid::nil(),
                    method: "AddEntries",
                    body_hash: [0; 32],
                },
                knows_one_batch: false,
                token: None,
                page: Arc::new(ManifestPage::new(vec![entry; 1_000])),
                folders,
                path_bytes,
            };
            page.rows()
        };
        // An ordinary page: two of them share a group as before.
        assert_eq!(rows(120, 60_000), 1_000);
        assert!(rows(limits::MAX_FOLDERS_PER_PAGE, 0) >= limits::MAX_FOLDERS_PER_PAGE);
        assert!(rows(1_000, limits::MAX_PATH_BYTES_PER_PAGE) > 2_000);
    }

    // Protocol 14.2: counted on the batch's row.
    #[test]
    fn a_page_is_numbered_after_what_is_there_and_a_repeat_adds_nothing() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        trial.add(batch, 2);
        // `f0` is in the manifest already, just so.
        let page = trial.page(batch, &["a/x", "a/b/y", "f0"]);
        let first = trial.ask(page.clone()).unwrap();
        assert_eq!((first.first_ordinal, first.new_count), (2, 2));
        assert_eq!(first.ordinals, [2, 3, 0]);
        let row = trial.progress(batch);
        assert_eq!((row.next_ordinal, row.next_folder), (4, 3));
        assert_eq!(
            (row.facts.counts.pending, row.bytes_declared),
            (4, 4 * SIZE)
        );
        let root = trial.read(|tables| tables.folders[&(batch, 0)].counts);
        assert_eq!(root.total, 4);
        let before = trial.everything();
        assert_eq!(trial.ask(page.clone()).unwrap(), first);
        let mut other = page;
        other.request.body_hash = [1; 32];
        assert_eq!(trial.ask(other).unwrap_err().reason, "REQUEST_ID_REUSED");
        assert_eq!(trial.everything(), before);
    }

    // Protocol 14.2: else an entry enters a completed manifest.
    #[test]
    fn a_completed_manifest_takes_no_more_entries() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        trial.add(batch, 1);
        trial.complete(batch, false);
        let before = trial.everything();
        let page = trial.page(batch, &["late"]);
        assert_eq!(trial.ask(page).unwrap_err().reason, "MANIFEST_COMPLETE");
        assert_eq!(trial.everything(), before);
    }

    #[test]
    fn a_path_is_a_file_or_a_folder_and_a_page_is_taken_whole_or_not_at_all() {
        let mut trial = Trial::new();
        let batch = trial.batch();
        let page = trial.page(batch, &["a/x", "b"]);
        trial.ask(page).unwrap();
        let before = trial.everything();
        for path in ["a", "b/y"] {
            let page = trial.page(batch, &["new", path]);
            let refusal = trial.ask(page).unwrap_err();
            assert_eq!(refusal.reason, "PATH_TAKEN");
            assert_eq!(refusal.violations[0].field, "entries[1].path");
        }
        assert_eq!(trial.everything(), before);
    }

    #[test]
    fn a_page_that_would_pass_a_quota_takes_nothing_of_it() {
        let mut trial = Trial::new();
        trial.limit(r#"{"files": 2}"#);
        let batch = trial.batch();
        let before = trial.everything();
        let page = trial.page(batch, &["a", "b", "c"]);
        assert_eq!(trial.ask(page).unwrap_err().quota[0].subject, "files");
        assert_eq!(trial.everything(), before);
        trial.add(batch, 2);
        let row = trial.read(|tables| TenantRow::clone(&tables.tenants[&batch.tenant]));
        assert_eq!((row.used_files, row.used_bytes), (2, 2 * SIZE));
    }

    // Protocol 13.3: at the entry of a file whose sha256 is held.
    #[test]
    fn content_that_is_held_needs_no_upload_but_whoever_knows_one_batch_does_not_learn_it() {
        let mut trial = Trial::new();
        let held = trial.processed();
        let batch = trial.batch();
        let page = trial.page_declaring(batch, content_of(held));
        let added = trial.ask(page).unwrap();
        assert_eq!(added.already_held, [0]);
        let file = batch.file(0);
        let row = trial.row(file);
        assert_eq!((row.state, row.stage), (FileState::Queued, Stage::Metadata));
        let results = trial.results(file).into_iter();
        let makers = results.map(|result| result.taken_from.unwrap().file);
        assert_eq!(makers.collect::<Vec<FileRef>>(), [held; 3]);
        let batch = trial.batch();
        let page = AddEntries {
            knows_one_batch: true,
            token: None,
            ..trial.page_declaring(batch, content_of(held))
        };
        let added = trial.ask(page).unwrap();
        assert_eq!(added.already_held, [0_u32; 0]);
        assert_eq!(trial.row(batch.file(0)).state, FileState::Pending);
    }
}
