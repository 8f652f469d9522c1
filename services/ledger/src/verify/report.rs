//! What must hold, and what was found of it.

use std::collections::BTreeMap;
use std::fmt;

/// Violations reported of each invariant; more are only counted.
const SHOWN: usize = 20;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Each accepted file is in exactly one final state when its batch has ended, and the batch's state follows from
    /// its counters.
    Terminal,
    /// The recorded changes of a file form a path of the state table, and the last equals its row.
    Chain,
    /// One result for each file, generation and stage; a PROCESSED file has its record.
    Once,
    /// The counters of batches and folders equal a recount.
    Counters,
    /// Nothing is left to publish when nothing is in work, and no message names a file or token that never was.
    Outbox,
    /// The bytes at a file's final key have the recorded checksum.
    Bytes,
    /// What watchers were shown last is what the rows say, and revisions have no gap.
    Shown,
    /// What is ready waits or is out, never both and never neither: nobody else would ever find it.
    Live,
}

impl Invariant {
    /// All, in order.
    pub const ALL: [Self; 8] = [
        Self::Terminal,
        Self::Chain,
        Self::Once,
        Self::Counters,
        Self::Outbox,
        Self::Bytes,
        Self::Shown,
        Self::Live,
    ];

    /// Its short name, as `docs/guarantees.md` has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Terminal => "I1 terminal",
            Self::Chain => "I2 chain",
            Self::Once => "I3 once",
            Self::Counters => "I4 counters",
            Self::Outbox => "I5 outbox",
            Self::Bytes => "I6 bytes",
            Self::Shown => "I8 shown",
            Self::Live => "I11 live",
        }
    }
}

impl fmt::Display for Invariant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Something that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What is broken.
    pub invariant: Invariant,
    /// Where and how.
    pub words: String,
}

/// What was checked and found.
#[derive(Clone, Debug, Default)]
pub struct VerifyReport {
    /// Batches looked at.
    pub batches: u64,
    /// Files looked at.
    pub files: u64,
    /// How many things each invariant was checked on; absent: it was not checked (no Redis or no object store given).
    pub checked: BTreeMap<Invariant, u64>,
    /// How many violations of each.
    pub broken: BTreeMap<Invariant, u64>,
    /// The first of each.
    pub violations: Vec<Violation>,
}

impl VerifyReport {
    /// Whether everything that was checked holds.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.broken.is_empty()
    }

    pub(crate) fn check(&mut self, invariant: Invariant) {
        *self.checked.entry(invariant).or_default() += 1;
    }

    pub(crate) fn breaks(&mut self, invariant: Invariant, words: String) {
        let broken = self.broken.entry(invariant).or_default();
        *broken += 1;
        if *broken <= SHOWN as u64 {
            self.violations.push(Violation { invariant, words });
        }
    }
}
