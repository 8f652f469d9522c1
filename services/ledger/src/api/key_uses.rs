//! When keys were last used, to within a while: each use would be a write, so few of them are.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use caudal_domain::limits::KEY_USE_EVERY;

use crate::active_writer::ActiveWriter;
use crate::store::credentials::KeyRow;
use crate::store::time::Micros;
use crate::writer::verbs::note_key_use::NoteKeyUse;

/// Keys of which is known that their use is being written; beyond it nothing is written until some are forgotten.
const MOST: usize = 10_000;

/// Uses that were handed to the writer a short while ago.
#[derive(Clone, Default)]
pub(crate) struct KeyUses {
    noted: Arc<Mutex<HashMap<String, Instant>>>,
}

impl KeyUses {
    /// Whether a use of a key is to be written now.
    fn is_due(&self, key: &KeyRow, now: Micros) -> bool {
        if let Some(last) = key.last_used_at
            && now.since(last) < KEY_USE_EVERY
        {
            return false;
        }
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |at: &Instant| at.elapsed() < KEY_USE_EVERY;
        if noted.get(&key.id).is_some_and(is_fresh) {
            return false;
        }
        if noted.len() >= MOST {
            noted.retain(|_, at| is_fresh(at));
        }
        let has_room = noted.len() < MOST;
        if has_room {
            noted.insert(key.id.clone(), Instant::now());
        }
        has_room
    }

    /// Lets the writer note that a key is used, when it has not been for a while. Nobody waits for it, and one that is lost
    /// is only a use that is not told.
    pub(crate) fn note(&self, writer: &ActiveWriter, key: &KeyRow, now: Micros) {
        if !self.is_due(key, now) {
            return;
        }
        let (writer, key) = (writer.clone(), key.id.clone());
        tokio::spawn(async move {
            let _unnoted = writer.ask(NoteKeyUse { key }).await;
        });
    }
}
