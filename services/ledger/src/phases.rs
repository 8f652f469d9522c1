//! Where the time of a group goes.

use std::time::{Duration, Instant};

/// A part of a group, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// BEGIN, the leadership, and answers to repeated requests.
    Begin,
    /// What the verbs need is read.
    Load,
    /// The verbs are decided.
    Decide,
    /// Rows of files are written, and whoever waits is admitted.
    Admit,
    /// What was decided becomes rows of folders, batches, tenants, changes and outbox.
    Conclude,
    /// It waits for a thread, then rows that nobody else wants are written.
    WriteOwn,
    /// It waits until the group ahead is committed.
    WaitAhead,
    /// Rows that the group ahead may have changed too are written.
    WriteShared,
    Commit,
}

impl Phase {
    /// All of them; each is the position of its own.
    pub(crate) const ALL: [Self; 9] = [
        Self::Begin,
        Self::Load,
        Self::Decide,
        Self::Admit,
        Self::Conclude,
        Self::WriteOwn,
        Self::WaitAhead,
        Self::WriteShared,
        Self::Commit,
    ];

    /// As metrics name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Begin => "begin",
            Self::Load => "load",
            Self::Decide => "decide",
            Self::Admit => "admit",
            Self::Conclude => "conclude",
            Self::WriteOwn => "write_own",
            Self::WaitAhead => "wait_ahead",
            Self::WriteShared => "write_shared",
            Self::Commit => "commit",
        }
    }
}

/// How long each phase of a group took so far.
#[derive(Debug)]
pub(crate) struct Phases {
    took: [Duration; Phase::ALL.len()],
    since: Instant,
}

impl Phases {
    /// A group begins.
    pub(crate) fn begin() -> Self {
        Self {
            took: [Duration::ZERO; Phase::ALL.len()],
            since: Instant::now(),
        }
    }

    /// A phase has ended, and the next begins.
    pub(crate) fn ended(&mut self, phase: Phase) {
        let now = Instant::now();
        if let Some(took) = self.took.get_mut(phase as usize) {
            *took += now - self.since;
        }
        self.since = now;
    }

    /// How long each phase took, in their order.
    pub(crate) fn took(&self) -> [Duration; Phase::ALL.len()] {
        self.took
    }
}
