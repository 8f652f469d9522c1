//! Everything that can be asked of the writer, a file each.

// What clients ask.
pub(crate) mod add_entries;
pub(crate) mod cancel_batch;
pub(crate) mod complete_batch;
pub(crate) mod confirm_uploads;
pub(crate) mod create_batch;
pub(crate) mod keep_uploading;
pub(crate) mod leave_out;
pub(crate) mod set_pause;
pub(crate) mod update_batch;

// What is done to tenants, keys and stages.
pub(crate) mod create_key;
pub(crate) mod create_tenant;
pub(crate) mod note_key_use;
pub(crate) mod revoke_key;
pub(crate) mod rotate_key;
pub(crate) mod update_stage;
pub(crate) mod update_tenant;
pub(crate) mod wake_batch;

// What is done to chosen files, in slices.
pub(crate) mod apply_slice;
mod cancel;
pub(crate) mod end_operation;
mod reprocess;
mod retry;
pub(crate) mod settle_missing;
pub(crate) mod start_operation;

// What stage processes ask.
pub(crate) mod lease;
pub(crate) mod release;
pub(crate) mod renew;
pub(crate) mod report;

// What gateways ask, of uploads that come in pieces.
pub(crate) mod advance_tus;
pub(crate) mod create_tus;
pub(crate) mod end_tus;
pub(crate) mod lock_tus;

// What the reconciler asks.
pub(crate) mod cancel_files;
pub(crate) mod complete_idle;
pub(crate) mod look_up;
pub(crate) mod mark_collected;
pub(crate) mod prune;
pub(crate) mod prune_operations;
pub(crate) mod repair;

use caudal_domain::{FileRef, Token};

/// Files and the tokens a stage process holds.
pub(crate) type Held = Vec<(FileRef, Token)>;

/// Why a file was left as it is; a code for people and programs. `None`: the verb was applied.
type FileRefused = Option<&'static str>;

fn files_of(held: &Held) -> Vec<FileRef> {
    held.iter().map(|(file, _)| *file).collect()
}
