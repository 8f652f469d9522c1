//! Asks the object store for uploads that nobody confirmed, and looks again for files that were given up (protocol 12.3).

use std::time::Duration;

use caudal_domain::keys::{final_key, landing_key};
use caudal_domain::{BatchId, BatchRef, FileRef, Target, TenantId};
use caudal_objects::{ObjectError, ObjectStore};
use futures::{StreamExt, TryStreamExt};
use uuid::Uuid;

use crate::store::time::Micros;
use crate::store::work::WorkRow;
use crate::store::{Store, dead_letters, reads};
use crate::writer::verbs::settle_missing::AskedUpload;

/// Objects that the store is asked for at once.
const ASKED_AT_ONCE: usize = 16;
/// Files that were given up and are looked for again in one pass.
const LETTERS_A_PASS: u32 = 500;
/// A new leader looks again for what was given up so long ago: its predecessor may not have come to it.
const LOOKS_BACK: Duration = Duration::from_secs(24 * 60 * 60);

/// The object store, asked for what clients sent. Where none is configured nothing has landed.
#[derive(Clone)]
pub(super) struct Landed {
    pub(super) objects: Option<ObjectStore>,
}

impl Landed {
    /// What the store has under the current target of each file, or at the final key of its declared checksum
    /// (protocol 12.5), if it is as large as the file was declared.
    pub(super) async fn ask(
        &self,
        store: &Store,
        rows: impl Iterator<Item = &WorkRow> + Clone,
    ) -> Result<Vec<AskedUpload>, LookError> {
        let files = rows.clone().map(|row| row.file);
        let declared = reads::declared_checksums(&store.reader(), files).await?;
        let mut asked = Vec::new();
        for row in rows {
            let sha256 = declared.get(&row.file);
            let keys = [
                sha256.map(|sha256| final_key(row.file, sha256)),
                Some(landing_key(row.file, row.target)),
            ];
            let keys = keys.into_iter().flatten().collect();
            asked.push(landed(
                self.objects.clone(),
                row.file,
                row.target,
                row.size,
                keys,
            ));
        }
        let answers = futures::stream::iter(asked).buffered(ASKED_AT_ONCE);
        Ok(answers.try_collect().await?)
    }
}

async fn landed(
    objects: Option<ObjectStore>,
    file: FileRef,
    target: Target,
    size: u64,
    keys: Vec<String>,
) -> Result<AskedUpload, ObjectError> {
    let mut etag = None;
    if let Some(objects) = objects {
        for key in keys {
            let head = objects.head(&key).await?;
            etag = head.filter(|head| head.size == size).map(|head| head.etag);
            if etag.is_some() {
                break;
            }
        }
    }
    Ok(AskedUpload { file, target, etag })
}

/// How far files that were given up have been looked for once more.
#[derive(Default)]
pub(super) struct LookingAgain {
    /// The last that was looked for: when it was given up, and which it is.
    last: Option<(Micros, FileRef)>,
}

/// Files of one pass that landed although they were given up, by batch, and whether more are due.
pub(super) struct Late {
    pub(super) found: Vec<(BatchRef, Vec<AskedUpload>)>,
    pub(super) more: bool,
    reached: Option<(Micros, FileRef)>,
}

impl LookingAgain {
    /// Looks for those that were given up so long ago.
    pub(super) async fn look(
        &self,
        store: &Store,
        landed: &Landed,
        after: Duration,
    ) -> Result<Late, LookError> {
        let session = store.reader();
        let due = session.now().await?.minus(after);
        let nil = Uuid::nil();
        let nobody = FileRef::new(TenantId::from_uuid(nil), BatchId::from_uuid(nil), 0);
        let from = self.last.unwrap_or_else(|| (due.minus(LOOKS_BACK), nobody));
        let given_up = dead_letters::without_bytes(&session, from, due, LETTERS_A_PASS).await?;
        let rows = given_up.iter().map(|(_, row)| row);
        let asked = landed
            .ask(store, rows.filter(|row| row.was_given_up()))
            .await?;
        let mut found: Vec<(BatchRef, Vec<AskedUpload>)> = Vec::new();
        for upload in asked.into_iter().filter(|upload| upload.etag.is_some()) {
            let batch = upload.file.batch_ref();
            match found.iter_mut().find(|(known, _)| *known == batch) {
                Some((_, uploads)) => uploads.push(upload),
                None => found.push((batch, vec![upload])),
            }
        }
        Ok(Late {
            found,
            more: given_up.len() == LETTERS_A_PASS as usize,
            reached: given_up.last().map(|(at, row)| (*at, row.file)),
        })
    }

    /// What was found is recorded: the next pass goes on after it.
    pub(super) fn took(&mut self, late: &Late) {
        self.last = late.reached.or(self.last);
    }
}

/// Files could not be looked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookError {
    #[error("the database failed: {0}")]
    Database(#[from] sea_orm::DbErr),
    #[error("the object store failed: {0}")]
    Objects(#[from] ObjectError),
}
