//! Looks rows up while no dispatch is in flight, and frees the places of pairs that moved on (protocol 2.3, 8.1).

use std::collections::HashMap;

use caudal_domain::Stage;

use super::{Held, files_of};
use crate::store::time::Micros;
use crate::store::work::WorkRow;
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// Pairs that have been out for long.
#[derive(Clone, Debug)]
pub(crate) struct LookUp {
    pub(crate) held: Held,
}

/// Rows as the writer found them, with what the reconciler compares them to.
#[derive(Debug)]
pub(crate) struct LookedUp {
    pub(crate) now: Micros,
    pub(crate) rows: Vec<WorkRow>,
    /// When the oldest unpublished dispatch of each stage was written.
    pub(crate) oldest_outbox: HashMap<Stage, Micros>,
}

impl Verb for LookUp {
    type Answer = LookedUp;
    const NAME: &'static str = "LookUp";

    fn rows(&self) -> usize {
        self.held.len()
    }

    fn needs(&self) -> Needs {
        Needs {
            looked_up: Some(files_of(&self.held)),
            ..Needs::default()
        }
    }

    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<LookedUp>, Stop> {
        let loaded = group.loaded.clone();
        let mut rows = Vec::with_capacity(self.held.len());
        for (file, token) in &self.held {
            let row = loaded.looked_up.get(file);
            // What this group sends out under a token that an undone one had sent out is out, whatever was read.
            let moved = group.rows.file(*file);
            let is_out = |row: &WorkRow| row.token == *token && row.dispatched_at.is_some();
            let current = moved.or(row).is_some_and(is_out);
            let moved_on_in_this_group = moved.is_some_and(|row| row.token != *token);
            if !current && !moved_on_in_this_group && !planted!(PlacesNeverCompared) {
                group.memory.dispatcher.leave(*file, *token);
                group.memory.dispatcher.forget(*file);
            }
            rows.extend(row.cloned());
        }
        Ok(Reply::Now(LookedUp {
            now: group.now,
            rows,
            oldest_outbox: loaded.oldest_outbox.clone(),
        }))
    }
}
