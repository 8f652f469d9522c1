//! The parser host: this executable, started once, which forks a child for each file.
//!
//! To start this executable takes longer than to read most files: its hundreds of pages of addresses are relocated, its
//! libraries are found and loaded. A host has that behind it, and what is forked from it shares its pages. It is as
//! bare as a child that is started anew: no environment, no files, no sockets but the one on which it is asked, nothing
//! of its parent's memory. It never looks at a file itself. What neither it nor a child needs it gives up before the first
//! of them; the rest a child gives up by the same lines as one that is started anew.
//!
//! It has a single thread: what is forked from a process with more may find locks taken for ever.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use fork::{Fork, fork};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, getpid, pidfd_open, pidfd_send_signal, waitpid,
};

use super::child::{Abilities, run_forked};
use super::confine::confine_host;
use super::passing::{ENDED, REFUSED, Received, STARTED};

/// Children at once. What is asked beyond waits in the control socket, and its asker looks for another way when that is
/// full or takes too long.
pub(super) const MAX_CHILDREN: usize = 128;

struct Host<'a> {
    abilities: &'a Abilities<'a>,
    received: Received,
    children: Vec<Child>,
}

struct Child {
    pid: Pid,
    /// Readable once it has ended.
    life: OwnedFd,
    answers: UnixStream,
    is_wanted: bool,
}

/// Serves until nobody is at the other end of the control socket, which is standard input.
pub(super) fn serve(abilities: &Abilities<'_>) -> io::Result<()> {
    // Without these it could not learn of the end of a child.
    pidfd_open(getpid(), PidfdFlags::empty())?;
    confine_host()?;
    // To ask the processor what it can is dear in a virtual machine, and the answer is kept: once for all children.
    #[cfg(target_arch = "x86_64")]
    let _ = std::arch::is_x86_feature_detected!("avx2");
    let mut host = Host {
        abilities,
        received: Received::new(),
        children: Vec::new(),
    };
    while host.turn()? {}
    Ok(())
}

/// What there is to do after waiting.
struct Due {
    order: bool,
    /// By index.
    ended: Vec<usize>,
    unwanted: Vec<usize>,
}

impl Host<'_> {
    /// Waits until there is something to do and does it; `false` when nobody asks any more.
    fn turn(&mut self) -> io::Result<bool> {
        let due = self.wait()?;
        for index in due.unwanted {
            let child = &mut self.children[index];
            child.is_wanted = false;
            // It may have ended meanwhile.
            let _ = pidfd_send_signal(&child.life, Signal::KILL);
        }
        // From the last to the first, since those behind one that is removed move.
        for index in due.ended.into_iter().rev() {
            self.reap(index)?;
        }
        if due.order { self.start() } else { Ok(true) }
    }

    fn wait(&self) -> io::Result<Due> {
        let control = io::stdin();
        let takes_orders = self.children.len() < MAX_CHILDREN;
        let mut watched = Vec::with_capacity(1 + 2 * self.children.len());
        let events = |wanted| {
            if wanted {
                PollFlags::IN
            } else {
                PollFlags::empty()
            }
        };
        watched.push(PollFd::new(&control, events(takes_orders)));
        for child in &self.children {
            watched.push(PollFd::new(&child.life, PollFlags::IN));
        }
        let wanted: Vec<usize> = (0..self.children.len())
            .filter(|index| self.children[*index].is_wanted)
            .collect();
        for index in &wanted {
            watched.push(PollFd::new(&self.children[*index].answers, PollFlags::IN));
        }
        match poll(&mut watched, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_due = |index: usize| !watched[index].revents().is_empty();
        let children = 1 + self.children.len();
        Ok(Due {
            order: is_due(0),
            ended: (0..self.children.len())
                .filter(|index| is_due(1 + index))
                .collect(),
            unwanted: wanted
                .iter()
                .enumerate()
                .filter(|(position, _)| is_due(children + position))
                .map(|(_, index)| *index)
                .collect(),
        })
    }

    fn reap(&mut self, index: usize) -> io::Result<()> {
        let Some((_, status)) = waitpid(Some(self.children[index].pid), WaitOptions::NOHANG)?
        else {
            return Ok(());
        };
        let mut child = self.children.swap_remove(index);
        let status = status.as_raw().to_be_bytes();
        // Nobody may be there to hear it.
        let _ = child
            .answers
            .write_all(&[ENDED, status[0], status[1], status[2], status[3]]);
        Ok(())
    }

    /// Takes an order and forks the child for it.
    fn start(&mut self) -> io::Result<bool> {
        let Some((order, descriptors, answers)) = self.received.next(io::stdin())? else {
            return Ok(false);
        };
        let mut answers = UnixStream::from(answers);
        let prepared = self.abilities.prepare(&order.parser, &order.spec.request);
        let host = std::process::id();
        match fork() {
            Ok(Fork::Child) => {
                // What belongs to the others, and the word with the stage.
                self.children.clear();
                drop(answers);
                run_forked(
                    self.abilities,
                    host,
                    &order.parser,
                    order.spec,
                    prepared,
                    descriptors,
                )
            }
            Ok(Fork::Parent(pid)) => {
                let pid =
                    Pid::from_raw(pid).ok_or_else(|| io::Error::other("a child without id"))?;
                let life = pidfd_open(pid, PidfdFlags::empty())?;
                let _ = answers.write_all(&[STARTED]);
                self.children.push(Child {
                    pid,
                    life,
                    answers,
                    is_wanted: true,
                });
            }
            Err(_) => {
                let _ = answers.write_all(&[REFUSED]);
            }
        }
        Ok(true)
    }
}
