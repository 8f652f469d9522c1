//! Takes files back from a process that drains; nothing is charged (protocol 7.4).

use caudal_domain::FileState;

use super::{Held, files_of};
use crate::writer::error::Stop;
use crate::writer::group::Group;
use crate::writer::needs::Needs;
use crate::writer::verb::{Reply, Verb};

/// Files that a process gives back.
#[derive(Clone, Debug)]
pub(crate) struct Release {
    pub(crate) held: Held,
}

impl Verb for Release {
    type Answer = ();
    const NAME: &'static str = "Release";

    fn rows(&self) -> usize {
        self.held.len()
    }

    fn needs(&self) -> Needs {
        Needs::of_files(files_of(&self.held))
    }

    /// One that was never leased keeps its place and goes out again.
    fn decide(&self, group: &mut Group<'_>) -> Result<Reply<()>, Stop> {
        for (file, token) in &self.held {
            let Some(row) = group.current(*file, *token) else {
                continue;
            };
            match row.state {
                FileState::Queued => group.send_again(*file)?,
                FileState::Processing => {
                    if planted!(TokenKeptAtRelease) {
                        group.rows.file_mut(*file)?.dispatched_at = None;
                    } else {
                        group.raise_token(*file)?;
                    }
                    if planted!(ReleaseCharged) {
                        group.rows.file_mut(*file)?.fails += 1;
                    }
                    group.make_ready(*file, group.now)?;
                }
                _ => {}
            }
        }
        Ok(Reply::Now(()))
    }
}
