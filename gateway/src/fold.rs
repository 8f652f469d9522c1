//! Folds recorded changes into one message: the latest value of each file and folder they touch.

use std::collections::BTreeMap;

use caudal_proto::mesh::v1 as mesh;
use caudal_proto::v1;
use prost::Message as _;

/// Rows in one message; at eight bytes a row it stays far below the largest message.
const MAX_ROWS: usize = 100_000;

#[derive(Clone, Copy)]
struct Folder {
    total: u32,
    processed: u32,
    failed: u32,
    cancelled: u32,
}

/// Changes on their way to watchers.
#[derive(Default)]
pub(crate) struct Fold {
    revision: i64,
    batch: Option<v1::Batch>,
    files: BTreeMap<u32, (i32, u32)>,
    folders: BTreeMap<u32, Folder>,
}

/// The ledger sent a change that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("the change of revision {revision} cannot be read: {why}")]
pub(crate) struct Unreadable {
    revision: i64,
    why: String,
}

impl Fold {
    /// Everything up to this revision is folded in; 0 when nothing is.
    pub(crate) fn revision(&self) -> i64 {
        self.revision
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.revision == 0
    }

    /// Whether a message of it is large enough.
    pub(crate) fn is_full(&self) -> bool {
        self.files.len() + self.folders.len() >= MAX_ROWS
    }

    /// Adds the change that follows.
    pub(crate) fn add(&mut self, change: &mesh::PackedChanges) -> Result<(), Unreadable> {
        let unreadable = |why: String| Unreadable {
            revision: change.batch_revision,
            why,
        };
        let set = mesh::ChangeSet::decode(change.body.clone())
            .map_err(|error| unreadable(error.to_string()))?;
        let files = set.ordinal.len();
        let folders = set.folder.len();
        let whole = set.to.len() == files
            && set.detail.len() == files
            && [
                &set.folder_total,
                &set.folder_processed,
                &set.folder_failed,
                &set.folder_cancelled,
            ]
            .iter()
            .all(|column| column.len() == folders);
        if !whole {
            return Err(unreadable("its columns differ in length".to_owned()));
        }
        for (row, ordinal) in set.ordinal.iter().enumerate() {
            let state = i32::try_from(set.to[row]).unwrap_or_default();
            self.files.insert(*ordinal, (state, set.detail[row]));
        }
        for (row, ordinal) in set.folder.iter().enumerate() {
            let folder = Folder {
                total: set.folder_total[row],
                processed: set.folder_processed[row],
                failed: set.folder_failed[row],
                cancelled: set.folder_cancelled[row],
            };
            self.folders.insert(*ordinal, folder);
        }
        if let Some(batch) = set.batch {
            self.batch = Some(v1::Batch {
                state: batch.state,
                run: batch.run,
                revision: change.batch_revision,
                pause: batch.pause,
                counts: batch.counts,
                bytes: batch.bytes,
                ..v1::Batch::default()
            });
        }
        self.revision = change.batch_revision;
        Ok(())
    }

    /// Adds a folded message that follows.
    pub(crate) fn merge(&mut self, changes: &v1::Changes) {
        if let Some(columns) = &changes.files {
            let mut ordinal = columns.first_ordinal;
            for ((delta, state), detail) in columns
                .ordinal_delta
                .iter()
                .zip(&columns.state)
                .zip(&columns.detail)
            {
                ordinal += delta;
                self.files.insert(ordinal, (*state, *detail));
            }
        }
        if let Some(columns) = &changes.folders {
            let mut ordinal = 0;
            for (row, delta) in columns.ordinal_delta.iter().enumerate() {
                ordinal += delta;
                let folder = Folder {
                    total: columns.total[row],
                    processed: columns.processed[row],
                    failed: columns.failed[row],
                    cancelled: columns.cancelled[row],
                };
                self.folders.insert(ordinal, folder);
            }
        }
        if changes.batch.is_some() {
            self.batch.clone_from(&changes.batch);
        }
        self.revision = changes.revision;
    }

    /// The message.
    pub(crate) fn into_changes(self) -> v1::Changes {
        v1::Changes {
            revision: self.revision,
            batch: self.batch,
            files: file_columns(&self.files),
            folders: folder_columns(&self.folders),
        }
    }
}

fn file_columns(files: &BTreeMap<u32, (i32, u32)>) -> Option<v1::FileColumns> {
    let first_ordinal = *files.keys().next()?;
    let mut columns = v1::FileColumns {
        first_ordinal,
        ..v1::FileColumns::default()
    };
    let mut before = first_ordinal;
    for (ordinal, (state, detail)) in files {
        columns.ordinal_delta.push(ordinal - before);
        columns.state.push(*state);
        columns.detail.push(*detail);
        before = *ordinal;
    }
    Some(columns)
}

fn folder_columns(folders: &BTreeMap<u32, Folder>) -> Option<v1::FolderColumns> {
    if folders.is_empty() {
        return None;
    }
    let mut columns = v1::FolderColumns::default();
    let mut before = 0;
    for (ordinal, folder) in folders {
        columns.ordinal_delta.push(ordinal - before);
        columns.total.push(folder.total);
        columns.processed.push(folder.processed);
        columns.failed.push(folder.failed);
        columns.cancelled.push(folder.cancelled);
        before = *ordinal;
    }
    Some(columns)
}

#[cfg(test)]
mod tests {
    #![expect(
        clippy::unwrap_used,
        reason = "a test says what went wrong by panicking"
    )]
    use super::*;
    use proptest::prelude::*;

    fn packed(revision: i64, set: &mesh::ChangeSet) -> mesh::PackedChanges {
        mesh::PackedChanges {
            batch_revision: revision,
            body: set.encode_to_vec().into(),
        }
    }

    fn files(moves: &[(u32, v1::FileState)]) -> mesh::ChangeSet {
        mesh::ChangeSet {
            ordinal: moves.iter().map(|(ordinal, _)| *ordinal).collect(),
            from: vec![1; moves.len()],
            to: moves.iter().map(|(_, state)| *state as u32).collect(),
            stage: vec![1; moves.len()],
            detail: moves.iter().map(|(ordinal, _)| ordinal + 100).collect(),
            batch: Some(v1::Batch {
                run: 1,
                display_name: "left out".into(),
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn only_the_latest_value_of_each_row_is_told() {
        use v1::FileState::{Processed, Processing, Queued, Uploaded};
        let mut fold = Fold::default();
        fold.add(&packed(
            4,
            &files(&[(9, Uploaded), (2, Uploaded), (9, Queued)]),
        ))
        .unwrap();
        fold.add(&packed(5, &files(&[(2, Processing), (2, Processed)])))
            .unwrap();
        let changes = fold.into_changes();
        assert_eq!(changes.revision, 5);
        let columns = changes.files.unwrap();
        assert_eq!(
            (columns.first_ordinal, &columns.ordinal_delta[..]),
            (2, &[0, 7][..])
        );
        assert_eq!(columns.state, [Processed as i32, Queued as i32]);
        assert_eq!(columns.detail, [102, 109]);
        let batch = changes.batch.unwrap();
        assert_eq!(
            (batch.run, batch.revision, batch.display_name.as_str()),
            (1, 5, "")
        );
        assert_eq!(changes.folders, None);
    }

    #[test]
    fn folders_carry_absolute_counters() {
        let set = mesh::ChangeSet {
            folder: vec![3, 0],
            folder_total: vec![5, 9],
            folder_processed: vec![1, 2],
            folder_failed: vec![0, 1],
            folder_cancelled: vec![0, 0],
            ..Default::default()
        };
        let mut fold = Fold::default();
        fold.add(&packed(2, &set)).unwrap();
        let columns = fold.into_changes().folders.unwrap();
        assert_eq!(
            (columns.ordinal_delta, columns.total),
            (vec![0, 3], vec![9, 5])
        );
    }

    #[test]
    fn columns_of_unequal_length_are_refused() {
        let mut set = files(&[(1, v1::FileState::Queued)]);
        set.detail.clear();
        assert!(Fold::default().add(&packed(2, &set)).is_err());
    }

    fn any_change_set() -> impl Strategy<Value = mesh::ChangeSet> {
        let file = (0..20_u32, 1..10_u32, any::<u32>());
        let folder = (0..5_u32, any::<[u32; 4]>());
        let files = prop::collection::vec(file, 0..8);
        let folders = prop::collection::vec(folder, 0..4);
        (files, folders, any::<Option<u32>>()).prop_map(|(files, folders, run)| mesh::ChangeSet {
            ordinal: files.iter().map(|file| file.0).collect(),
            to: files.iter().map(|file| file.1).collect(),
            detail: files.iter().map(|file| file.2).collect(),
            folder: folders.iter().map(|folder| folder.0).collect(),
            folder_total: folders.iter().map(|folder| folder.1[0]).collect(),
            folder_processed: folders.iter().map(|folder| folder.1[1]).collect(),
            folder_failed: folders.iter().map(|folder| folder.1[2]).collect(),
            folder_cancelled: folders.iter().map(|folder| folder.1[3]).collect(),
            batch: run.map(|run| v1::Batch {
                run,
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    proptest! {
        #[test]
        fn messages_cut_anywhere_and_merged_again_tell_what_one_message_tells(
            commits in prop::collection::vec((any_change_set(), any::<bool>()), 1..12),
        ) {
            let (mut whole, mut merged, mut part) = (Fold::default(), Fold::default(), Fold::default());
            for (index, (set, is_cut)) in commits.iter().enumerate() {
                let change = packed(i64::try_from(index).unwrap() + 1, set);
                whole.add(&change).unwrap();
                part.add(&change).unwrap();
                if *is_cut || index + 1 == commits.len() {
                    merged.merge(&std::mem::take(&mut part).into_changes());
                }
            }
            prop_assert_eq!(merged.into_changes(), whole.into_changes());
        }
    }
}
