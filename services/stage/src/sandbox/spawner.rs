//! The thread that starts parser hosts, and children without one.
//!
//! Both ask the kernel to be killed when their parent dies, and for the kernel the parent is the *thread* that started
//! them. A runtime's worker threads may end while the process lives on, so one thread that lives as long as the sandbox
//! starts them all.

use std::io;
use std::thread::{self, JoinHandle};

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

/// Starts that may wait at once; a caller beyond that waits with its request.
const MAX_WAITING_STARTS: usize = 64;

struct Start {
    command: Command,
    runtime: Handle,
    answer: oneshot::Sender<io::Result<Child>>,
}

#[derive(Debug)]
pub(super) struct Spawner {
    starts: Option<mpsc::Sender<Start>>,
    thread: Option<JoinHandle<()>>,
}

impl Spawner {
    pub(super) fn start() -> io::Result<Self> {
        let (starts, mut requests) = mpsc::channel::<Start>(MAX_WAITING_STARTS);
        let thread = thread::Builder::new()
            .name("sandbox-spawner".to_owned())
            .spawn(move || {
                while let Some(mut start) = requests.blocking_recv() {
                    let _runtime = start.runtime.enter();
                    let child = start.command.spawn();
                    // It holds the child's ends of the pipes, and the other ends are read until these are closed.
                    drop(start.command);
                    // Nobody waits any more: the child is dropped, which kills it.
                    let _ = start.answer.send(child);
                }
            })?;
        Ok(Self {
            starts: Some(starts),
            thread: Some(thread),
        })
    }

    pub(super) async fn spawn(&self, command: Command) -> io::Result<Child> {
        let gone = || io::Error::other("the thread that starts children has ended");
        let (answer, child) = oneshot::channel();
        let starts = self.starts.as_ref().ok_or_else(gone)?;
        starts
            .send(Start {
                command,
                runtime: Handle::current(),
                answer,
            })
            .await
            .map_err(|_| gone())?;
        child.await.map_err(|_| gone())?
    }
}

impl Drop for Spawner {
    fn drop(&mut self) {
        self.starts = None;
        if let Some(thread) = self.thread.take() {
            // It holds nothing but a start under way, which takes a millisecond.
            let _ = thread.join();
        }
    }
}
