//! A model of the dispatch streams: entries that are delivered once and stand until they are acknowledged, and a Redis that
//! may forget everything, or its tail, or bring something twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use caudal_domain::{FileRef, Stage, Token};

use crate::leader::rules::Messages;
use crate::store::time::Micros;

/// A dispatch.
pub(super) type Pair = (FileRef, Token);

/// One entry of a stream.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) id: u64,
    pub(super) files: Vec<Pair>,
    /// Which process it was delivered to, and when.
    delivered: Option<(u64, Micros)>,
}

#[derive(Debug, Default)]
struct Stream {
    entries: Vec<Entry>,
    /// The group exists. Where it is made anew everything is delivered again (protocol 4.1).
    group: bool,
}

/// The streams of all stages.
#[derive(Debug, Default)]
pub(super) struct Streams {
    of: BTreeMap<Stage, Stream>,
    next_id: u64,
    /// Dispatches whose messages this Redis has lost, or that somebody acknowledged and died.
    pub(super) lost: BTreeSet<Pair>,
    /// All that was ever published.
    history: Vec<(Stage, Vec<Pair>)>,
}

impl Streams {
    fn stream(&mut self, stage: Stage) -> &mut Stream {
        self.of.entry(stage).or_default()
    }

    pub(super) fn publish(&mut self, stage: Stage, files: Vec<Pair>) {
        self.next_id += 1;
        let id = self.next_id;
        self.history.push((stage, files.clone()));
        self.stream(stage).entries.push(Entry {
            id,
            files,
            delivered: None,
        });
    }

    /// The next entry that nobody has read.
    pub(super) fn read(&mut self, stage: Stage, process: u64, now: Micros) -> Option<Entry> {
        let newest = self.next_id;
        let mut passed = Vec::new();
        let stream = self.stream(stage);
        if !stream.group {
            stream.group = true;
            if planted!(ReadFromTheEnd) && newest > 0 {
                for entry in &mut stream.entries {
                    passed.extend(entry.files.iter().copied());
                }
                stream.entries.clear();
            }
        }
        let entry = stream
            .entries
            .iter_mut()
            .find(|entry| entry.delivered.is_none())?;
        entry.delivered = Some((process, now));
        Some(entry.clone())
    }

    pub(super) fn acknowledge(&mut self, stage: Stage, id: u64) {
        self.stream(stage).entries.retain(|entry| entry.id != id);
    }

    /// The acknowledgement of an entry is lost with a failover, and who it was delivered to: it is delivered again.
    pub(super) fn deliver_again(&mut self, stage: Stage, id: u64) {
        let mut entries = self.stream(stage).entries.iter_mut();
        if let Some(entry) = entries.find(|entry| entry.id == id) {
            entry.delivered = None;
        }
    }

    /// Everything is forgotten.
    pub(super) fn flush(&mut self) {
        for stream in self.of.values_mut() {
            stream.group = false;
            for entry in stream.entries.drain(..) {
                self.lost.extend(entry.files);
            }
        }
    }

    /// The last entries of a stream are forgotten.
    pub(super) fn lose_tail(&mut self, stage: Stage, count: usize) {
        let stream = self.of.entry(stage).or_default();
        for _ in 0..count {
            if let Some(entry) = stream.entries.pop() {
                self.lost.extend(entry.files);
            }
        }
    }

    /// An entry of long ago comes once more, as after a failover that lost its acknowledgement.
    /// One of `wanted`, or any.
    pub(super) fn bring_back(&mut self, wanted: &[usize], number: usize) {
        if self.history.is_empty() {
            return;
        }
        let at = match wanted {
            [] => number % self.history.len(),
            wanted => wanted[number % wanted.len()],
        };
        let (stage, files) = self.history[at].clone();
        self.publish(stage, files);
    }

    /// Where in the history the entries stand that are looked for.
    pub(super) fn published(&self, is_wanted: impl Fn(Stage, &[Pair]) -> bool) -> Vec<usize> {
        let history = self.history.iter().enumerate();
        let wanted = history.filter(|(_, (stage, files))| is_wanted(*stage, files));
        wanted.map(|(at, _)| at).collect()
    }

    /// What the reconciler sees.
    pub(super) fn messages(&self, stage: Stage, now: Micros) -> Messages {
        let mut messages = Messages::default();
        for entry in self.entries(stage) {
            let idle = entry.delivered.map(|(_, at)| now.since(at));
            messages.add(&entry.files, idle);
        }
        messages
    }

    /// How many entries hold a dispatch.
    pub(super) fn copies(&self, stage: Stage, pair: Pair) -> usize {
        let entries = self.entries(stage).iter();
        entries.filter(|entry| entry.files.contains(&pair)).count()
    }

    pub(super) fn entries(&self, stage: Stage) -> &[Entry] {
        self.of.get(&stage).map_or(&[], |stream| &stream.entries)
    }

    /// Whether a dispatch stands in a stream, and for how long it has been with a process.
    pub(super) fn finds(&self, stage: Stage, pair: Pair, now: Micros) -> Option<Option<Duration>> {
        let mut entries = self.entries(stage).iter();
        let entry = entries.find(|entry| entry.files.contains(&pair))?;
        Some(entry.delivered.map(|(_, at)| now.since(at)))
    }
}
