//! The words of stage versions by their numbers. A number never changes its meaning, so each is read once.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use caudal_domain::StageVersion;
use sea_orm::DbErr;

use crate::store::Store;
use crate::store::versions;

/// Versions by number: a few dozen in the life of an installation.
pub(crate) type Numbered = Arc<HashMap<u32, StageVersion>>;

#[derive(Clone, Default)]
pub(crate) struct Versions {
    of: Arc<RwLock<Numbered>>,
}

impl Versions {
    /// The versions, among them all of `wanted`.
    pub(crate) async fn with(
        &self,
        store: &Store,
        mut wanted: impl Iterator<Item = u32>,
    ) -> Result<Numbered, DbErr> {
        let known = self
            .of
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if wanted.all(|number| known.contains_key(&number)) {
            return Ok(known);
        }
        let read: HashMap<u32, StageVersion> =
            versions::all(&store.reader()).await?.into_iter().collect();
        let read = Arc::new(read);
        *self.of.write().unwrap_or_else(PoisonError::into_inner) = read.clone();
        Ok(read)
    }
}
