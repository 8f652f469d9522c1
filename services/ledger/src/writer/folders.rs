//! The counters of folders: a file counts in its folder and in all that stand above it.

use std::collections::BTreeMap;

use caudal_domain::{BatchRef, FolderCounts};
use rustc_hash::FxHashMap;
use sea_orm::DbErr;

use super::error::GroupError;
use super::group::Group;
use super::rows::FolderDelta;
use crate::store::write_transaction::WriteTransaction;

/// A folder of a batch.
type Place = (BatchRef, u32);

impl Group<'_> {
    /// The counters of every folder that moved, those above included.
    pub(super) async fn count_folders<T: WriteTransaction>(
        &mut self,
        transaction: &T,
    ) -> Result<Vec<(BatchRef, u32, FolderCounts)>, GroupError> {
        let mut deltas: BTreeMap<Place, FolderDelta> = self.rows.take_folder_deltas();
        if deltas.is_empty() {
            return Ok(Vec::new());
        }
        let direct: Vec<Place> = deltas.keys().copied().collect();
        self.learn_ancestors(transaction, &direct).await?;
        for place in direct {
            let delta = deltas[&place];
            let above = self.memory.ancestors.of(place);
            for ancestor in above.iter().filter(|_| !planted!(FoldersAboveNotCounted)) {
                deltas.entry((place.0, *ancestor)).or_default().add(delta);
            }
        }
        let known = self
            .counts_before(transaction, deltas.keys().copied())
            .await?;
        let mut counted = Vec::with_capacity(deltas.len());
        for (place, delta) in deltas {
            let before = known.get(&place).ok_or(GroupError::Stale)?;
            let counts = delta.apply(*before)?;
            self.rows.batch_mut(place.0)?.show_folder(place.1, counts);
            counted.push((place.0, place.1, counts));
        }
        Ok(counted)
    }

    async fn counts_before<T: WriteTransaction>(
        &self,
        transaction: &T,
        places: impl Iterator<Item = Place>,
    ) -> Result<FxHashMap<Place, FolderCounts>, GroupError> {
        // Added by this very group, and perhaps not inserted yet.
        let new = self.effects.new.folders.iter();
        let new = new.map(|(batch, folder)| ((*batch, folder.folder), folder.counts));
        let mut known: FxHashMap<Place, FolderCounts> = new.collect();
        let mut unknown = Vec::new();
        for place in places {
            match self.memory.known.folders.get(&place) {
                Some(counts) => {
                    known.insert(place, *counts);
                }
                None if known.contains_key(&place) => {}
                None => unknown.push(place),
            }
        }
        for (batch, folder) in transaction.folders(&unknown).await? {
            known.insert((batch, folder.folder), folder.counts);
        }
        Ok(known)
    }

    async fn learn_ancestors<T: WriteTransaction>(
        &mut self,
        transaction: &T,
        places: &[Place],
    ) -> Result<(), DbErr> {
        let unknown: Vec<Place> = places
            .iter()
            .copied()
            .filter(|place| !self.memory.ancestors.knows(*place))
            .collect();
        for (batch, folder) in transaction.folders(&unknown).await? {
            self.memory
                .ancestors
                .learn((batch, folder.folder), folder.ancestors);
        }
        Ok(())
    }
}
