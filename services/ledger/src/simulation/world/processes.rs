//! Stage processes: they read, lease, run, report and acknowledge, renew, drain, and die.

use super::*;

/// Handlers that a process says it runs at once.
const SLOTS: u32 = 2;
/// Of what handlers take, in microseconds.
const MILLISECOND: u128 = 1_000;
/// Where they take seconds: those of small files, of which a slot has two out, and of others, which are long work.
const SHORT: u128 = 1_500 * MILLISECOND;
const LONG: u128 = 3_000 * MILLISECOND;
/// Bytes of a small file at most.
const SMALL: u64 = 10;
/// Steps for which a provider asks to be left alone, at most.
const MOST_RESTS: u32 = 20;

impl World {
    pub(super) fn process_step(&mut self) {
        let at = self.dice.random_range(0..self.processes.len());
        for _ in 0..self.dice.random_range(1..4) {
            self.step_process(at);
        }
    }

    /// Moves one process on; whether anything happened.
    pub(super) fn step_process(&mut self, at: usize) -> bool {
        self.finish_calls_of(at);
        let process = &mut self.processes[at];
        if process.releasing.is_some() {
            return false;
        }
        if self.rests(at) {
            return self.give_back(at);
        }
        if self.processes[at].held.len() < 2 && self.read(at) {
            return true;
        }
        if self.one_in(5) && self.renew(at) {
            return true;
        }
        for held in 0..self.processes[at].held.len() {
            if self.step_held(at, held) {
                return true;
            }
        }
        false
    }

    /// Reads an entry, where one waits.
    fn read(&mut self, at: usize) -> bool {
        let (stage, id) = (self.processes[at].stage, self.processes[at].id);
        let now = self.now();
        let Some(entry) = self.streams.read(stage, id, now) else {
            return false;
        };
        for pair in &entry.files {
            self.signs.insert(*pair, now);
        }
        let works = entry.files.iter().map(|pair| (*pair, Work::Read)).collect();
        self.processes[at].held.push(Held {
            entry,
            works,
            leasing: None,
            reporting: None,
            acknowledged: false,
        });
        true
    }

    /// Whether it reads and begins nothing now: its provider asked for it, or it has heard that its stage is paused (protocol
    /// 7.4, 10.3).
    fn rests(&mut self, at: usize) -> bool {
        let process = &mut self.processes[at];
        let stage = process.stage;
        let waits = process.rests > 0;
        process.rests = process.rests.saturating_sub(1);
        waits || (self.leader.memory.stages.row(stage).pause.is_some() && self.one_in(2))
    }

    /// Gives back what it has in hand, also what was delivered to it unseen; whether there was any.
    fn give_back(&mut self, at: usize) -> bool {
        let able = self.can_release(at);
        if able {
            self.release_of(at);
        }
        able
    }

    pub(super) fn step_held(&mut self, at: usize, held: usize) -> bool {
        let stage = self.processes[at].stage;
        let version = self.processes[at].version.clone();
        let instant = self.begun + self.steady;
        let now = self.now();
        let entry = &mut self.processes[at].held[held];
        if entry.leasing.is_some() || entry.reporting.is_some() {
            return false;
        }
        let positions = |entry: &Held, wanted: fn(&Work) -> bool| -> Vec<usize> {
            let works = entry.works.iter().enumerate();
            let found = works.filter(|(_, (_, work))| wanted(work));
            found.map(|(position, _)| position).collect()
        };
        let read = positions(entry, |work| matches!(work, Work::Read));
        if !read.is_empty() {
            let pairs: Vec<Pair> = read
                .iter()
                .map(|position| entry.works[*position].0)
                .collect();
            let known = self.leader.leases.grant(&version, &pairs, instant);
            let mut asked = Vec::new();
            let mut granted_now = Vec::new();
            for ((position, pair), known) in read.into_iter().zip(pairs).zip(known) {
                match known {
                    Some((granted, inputs)) => {
                        granted_now.push((pair, granted.row.generation, inputs));
                        entry.works[position].1 = Work::Granted(granted, now);
                    }
                    None => asked.push(position),
                }
            }
            for (pair, generation, inputs) in granted_now {
                if self.leader.lost || self.leader.has_flight() {
                    continue;
                }
                let current = self.committed(|tables| {
                    let row = tables.files.get(&pair.0);
                    row.is_some_and(|row| row.token == pair.1)
                });
                let results = self.results_of(pair.0, generation);
                let same = inputs.results.len() == results.len()
                    && results.iter().all(|row| inputs.results.contains(row));
                if !current {
                    self.breaks(format!(
                        "{pair:?} was granted from memory and is not current"
                    ));
                } else if !same {
                    self.breaks(format!(
                        "{pair:?} was granted from memory with {:?}, recorded are {results:?}",
                        inputs.results
                    ));
                }
            }
            if !asked.is_empty() {
                let entry = &self.processes[at].held[held];
                let pairs = asked.iter().map(|position| entry.works[*position].0);
                let lease = Lease {
                    version,
                    held: pairs.collect(),
                };
                let answer = self.leader.ask(lease);
                self.processes[at].held[held].leasing = Some((asked, answer));
            }
            return true;
        }
        let granted = positions(entry, |work| matches!(work, Work::Granted(..)));
        for position in granted {
            if self.execute(at, held, position) {
                return true;
            }
        }
        let process = Uuid::from_u128(self.processes[at].id.into());
        let entry = &mut self.processes[at].held[held];
        let ran = positions(entry, |work| matches!(work, Work::Ran(_)));
        if !ran.is_empty() {
            let reported = ran
                .iter()
                .filter_map(|position| match &entry.works[*position].1 {
                    Work::Ran(ran) => Some(ran.as_ref().clone()),
                    _ => None,
                });
            let report = Report {
                stage,
                version,
                slots: Some((process, SLOTS)),
                reported: reported.collect(),
            };
            if planted!(AcknowledgedBeforeRecorded) {
                let id = entry.entry.id;
                entry.acknowledged = true;
                self.acknowledge(stage, id);
            }
            if planted!(FreedBeforeRecorded) && stage == Stage::Upload {
                for one in &report.reported {
                    let target = self.committed(|tables| tables.files[&one.file].target);
                    self.landing.remove(&(one.file, target));
                }
            }
            if let Some(asked) = &mut self.shared.borrow_mut().asked {
                let pairs = report.reported.iter();
                asked
                    .reported
                    .extend(pairs.map(|one| (one.file, one.token)));
            }
            let answer = self.leader.ask(report.clone());
            self.old_reports.push(report.clone());
            self.processes[at].held[held].reporting = Some((ran, report, answer));
            return true;
        }
        let undone = |(_, work): &(Pair, Work)| !matches!(work, Work::Done);
        if entry.works.iter().any(undone) {
            return false;
        }
        // Every dispatch has a final answer.
        let entry = self.processes[at].held.remove(held);
        if !entry.acknowledged {
            self.acknowledge(stage, entry.entry.id);
        }
        true
    }

    /// Takes an entry out of its stream: nobody may have to act on it any more (protocol 4.3, 6.5).
    pub(super) fn acknowledge(&mut self, stage: Stage, id: u64) {
        let mut entries = self.streams.entries(stage).iter();
        let entry = entries.find(|entry| entry.id == id).cloned();
        let stands = |pair: &Pair| {
            entry.is_some()
                && !self.streams.lost.contains(pair)
                && self.streams.copies(stage, *pair) < 2
        };
        let current = self.committed(|tables| {
            let files = entry.iter().flat_map(|entry| &entry.files);
            let mut current = files.filter(|(file, token)| {
                let row = tables.files.get(file);
                row.is_some_and(|row| row.token == *token && row.dispatched_at.is_some())
            });
            current.find(|pair| stands(pair)).copied()
        });
        if let Some(pair) = current {
            self.breaks(format!("{} is acknowledged and current", short(&[pair])));
        }
        self.streams.acknowledge(stage, id);
    }

    /// Runs the handler of one dispatch; whether it has come to anything.
    pub(super) fn execute(&mut self, at: usize, held: usize, position: usize) -> bool {
        let stage = self.processes[at].stage;
        let (pair, work) = &self.processes[at].held[held].works[position];
        let (pair, Work::Granted(granted, since)) = (*pair, work) else {
            return false;
        };
        let (granted, since) = (granted.clone(), *since);
        if granted.row.token != pair.1 {
            self.breaks(format!("{pair:?} was granted as {}", granted.row.token));
            return true;
        }
        if granted.row.kills > 0 && !self.processes[at].begun.contains(&pair) {
            return self.begin(at, pair);
        }
        let nature = self.nature(pair.0);
        let second = stage != Stage::Upload && stage != Stage::Metadata;
        let deadly = nature == Nature::Deadly || granted.row.kills == 0;
        if matches!(nature, Nature::Poison | Nature::Deadly) && second && deadly {
            self.note(|| format!("{} takes its process with it", short(&[pair])));
            self.kill(at);
            return true;
        }
        let takes = self.settings.lease * 2;
        if nature == Nature::Slow && second && self.now().since(since) < takes {
            return false;
        }
        let outcome = self.outcome(stage, &granted, nature);
        self.note(|| {
            format!(
                "{stage} ran {}: {:?}",
                short(&[pair]),
                outcome.as_ref().map(|_| "good").map_err(|bad| bad.reason)
            )
        });
        let took = match nature {
            Nature::Slow => takes.as_micros(),
            _ if self.is_heavy && granted.row.size > SMALL => LONG,
            _ if self.is_heavy => SHORT,
            _ => u128::from(granted.row.size % 7 + 1) * MILLISECOND,
        };
        let ran = Work::Ran(Box::new(Reported {
            file: pair.0,
            token: pair.1,
            outcome,
            took: Cost::try_from(took).ok(),
        }));
        self.processes[at].held[held].works[position].1 = ran;
        true
    }

    /// Says that the handler of a suspect begins; it does when that is answered (protocol 7.3).
    fn begin(&mut self, at: usize, pair: Pair) -> bool {
        if self.processes[at].renewing.is_some() {
            return false;
        }
        let moved_on = self.has_moved_on(pair);
        if let Some(asked) = &mut self.shared.borrow_mut().asked {
            asked.begun.insert(pair);
        }
        let answer = self.leader.ask(Renew {
            held: vec![pair],
            begun: vec![pair],
        });
        let process = &mut self.processes[at];
        process.renewing = Some((vec![(pair, moved_on)], answer));
        process.beginning = Some(pair);
        true
    }

    pub(super) fn nature(&self, file: FileRef) -> Nature {
        let mut clients = self.clients.iter();
        let client = clients.find(|client| client.created == Some(file.batch_ref()));
        let planned = client.and_then(|client| client.planned(file.ordinal));
        planned.map_or(Nature::Good, |planned| planned.nature)
    }

    pub(super) fn outcome(
        &mut self,
        stage: Stage,
        granted: &Granted,
        nature: Nature,
    ) -> StageOutcome {
        let row = &granted.row;
        let bad = |reason| {
            Err(BadResult {
                reason,
                detail: String::new(),
                trace_id: String::new(),
                retry_after: provider_wait((row.file, row.token)),
            })
        };
        let second = stage != Stage::Upload && stage != Stage::Metadata;
        match nature {
            Nature::Flaky if row.fails == 0 => return bad(Reason::StageTimeout),
            Nature::Hopeless if second => return bad(Reason::StageTimeout),
            Nature::Broken if second => return bad(Reason::CorruptDocument),
            // It runs alone, and its parent reports what became of it.
            Nature::Poison if second => return bad(Reason::ParserCrashed),
            Nature::Spoilt if second && self.spoilt.insert(row.file) => {
                return bad(Reason::ChecksumMismatch);
            }
            _ => {}
        }
        let mut content = None;
        if stage == Stage::Upload {
            let found = if granted.reads_final_object() {
                let mut finals = self.finals.range((row.file, 0)..=(row.file, u8::MAX));
                finals.next_back().map(|(_, object)| object.clone())
            } else {
                self.landing.get(&(row.file, row.target)).cloned()
            };
            let Some(found) = found.or_else(|| self.held_object(row.file)) else {
                return bad(Reason::ObjectMissing);
            };
            let landed = !granted.reads_final_object();
            if landed && row.etag.as_ref() != Some(&found.etag) {
                return bad(Reason::ObjectChanged);
            }
            if found.size != row.size {
                return bad(Reason::SizeMismatch);
            }
            content = Some(found.content);
            self.sources.insert((row.file, row.token), row.target);
            self.finals.insert((row.file, found.content), found);
        }
        self.executions += 1;
        let execution = self.executions;
        let nonce = if planted!(NonceReused) { 0 } else { execution };
        let key = format!(
            "{}/{}/{stage}/{}-{nonce}",
            row.file,
            row.generation.get(),
            row.token
        );
        self.artifacts.insert(key, execution);
        let last = stage == Stage::Metadata;
        Ok(GoodResult {
            dimensions: None,
            artifacts: vec![StoredArtifact {
                name: "original".into(),
                size: row.size,
                media_type: String::new(),
            }],
            nonce: nonce.to_string(),
            facts: execution.to_string(),
            content: content.map(sha),
            media_type: content.map(|content| media_type(content).to_owned()),
            has_text: true,
            warnings: Vec::new(),
            used: Used::default(),
            outcome: last.then_some(Outcome::Complete),
        })
    }

    /// The object that a file holds by reference.
    pub(super) fn held_object(&self, file: FileRef) -> Option<Object> {
        self.committed(|tables| {
            let results = tables.results.values().rev();
            let mut uploads = results.filter(|row| row.file == file && row.stage == Stage::Upload);
            let maker = uploads.next()?.maker();
            let mut finals = self.finals.range((maker.file, 0)..=(maker.file, u8::MAX));
            finals.next_back().map(|(_, object)| object.clone())
        })
    }

    pub(super) fn finish_calls_of(&mut self, at: usize) {
        let version = self.processes[at].version.clone();
        let mut recorded = Vec::new();
        let mut violations = Vec::new();
        let mut noted = false;
        let mut granted_now: Vec<Arc<Granted>> = Vec::new();
        let mut dropped = Vec::new();
        let now = self.now();
        let process = &mut self.processes[at];
        for held in &mut process.held {
            if let Some((positions, answer)) = &mut held.leasing
                && let Some(answer) = answered(answer)
            {
                if let Some(Ok(granted)) = answer {
                    noted = true;
                    granted_now.extend(granted.iter().flatten().cloned());
                    for (position, granted) in positions.iter().zip(granted) {
                        held.works[*position].1 =
                            granted.map_or(Work::Done, |granted| Work::Granted(granted, now));
                    }
                    let finished = |(_, work): &(Pair, Work)| matches!(work, Work::Done);
                    if planted!(MessageDroppedUnfinished) && held.works.iter().any(finished) {
                        held.acknowledged = true;
                        dropped.push(held.entry.id);
                    }
                }
                held.leasing = None;
            }
            if let Some((positions, report, answer)) = &mut held.reporting
                && let Some(answer) = answered(answer)
            {
                if let Some(Ok(verdicts)) = answer {
                    let pairs = report.reported.iter();
                    self.old_releases
                        .extend(pairs.map(|one| (one.file, one.token)));
                    for ((position, verdict), outcome) in
                        positions.iter().zip(verdicts).zip(&report.reported)
                    {
                        held.works[*position].1 = Work::Done;
                        recorded.push((outcome.clone(), verdict));
                    }
                    if planted!(MessageDroppedUnfinished) && held.works.len() > positions.len() {
                        held.acknowledged = true;
                        dropped.push(held.entry.id);
                    }
                }
                held.reporting = None;
            }
        }
        if let Some((pairs, answer)) = &mut process.renewing
            && let Some(answer) = answered(answer)
        {
            if let Some(Ok(kept)) = answer {
                for ((pair, moved_on), kept) in pairs.iter().zip(kept) {
                    if kept && *moved_on {
                        let pair = short(&[*pair]);
                        violations.push(format!("{pair} is renewed and had moved on"));
                    }
                    if kept {
                        self.signs.insert(*pair, now);
                        if process.beginning == Some(*pair) {
                            process.begun.insert(*pair);
                        }
                        continue;
                    }
                    // Superseded: its handler is stopped.
                    for held in &mut process.held {
                        for (held, work) in &mut held.works {
                            if held == pair && matches!(work, Work::Granted(..)) {
                                *work = Work::Done;
                            }
                        }
                    }
                }
            }
            process.renewing = None;
            process.beginning = None;
        }
        if let Some(answer) = &mut process.releasing
            && let Some(answer) = answered(answer)
        {
            if let Some(Ok(())) = answer {
                let stage = process.stage;
                for held in process.held.drain(..) {
                    dropped.push(held.entry.id);
                }
                for id in dropped.drain(..) {
                    if self.faults && self.dice.random_ratio(1, 4) {
                        self.streams.deliver_again(stage, id);
                    } else {
                        self.acknowledge(stage, id);
                    }
                }
                // Delivered to it unseen while it said so.
                if self.processes[at].rests > 0 && self.one_in(3) {
                    self.read(at);
                }
            }
            self.processes[at].releasing = None;
        }
        let stage = self.processes[at].stage;
        for id in dropped {
            self.acknowledge(stage, id);
        }
        if noted {
            self.leader.leases.noted(&version);
        }
        // What a stage is told of a file is read once, and kept for the next hops.
        let read = granted_now.iter().map(|granted| {
            let row = &granted.row;
            (row.file, row.token, self.inputs(row))
        });
        let read: Vec<_> = read.collect();
        self.leader.leases.learn(read);
        for (one, verdict) in recorded {
            let Reported {
                file,
                token,
                outcome,
                ..
            } = one;
            self.told(stage, file, token, &outcome, verdict, &mut violations);
        }
        self.violations.append(&mut violations);
    }

    /// What the database holds of a file for a handler.
    fn inputs(&self, row: &WorkRow) -> Inputs {
        let declared = self.committed(|tables| {
            let entry = &tables.manifest[&row.file];
            Declared {
                path: entry.name.clone(),
                sha256: entry.declared_sha256.clone(),
                metadata: entry.metadata.clone(),
            }
        });
        Inputs {
            declared: Arc::new(declared),
            results: Arc::new(self.results_of(row.file, row.generation)),
        }
    }

    /// The results of a generation of a file.
    pub(super) fn results_of(&self, file: FileRef, generation: Generation) -> Vec<Arc<ResultRow>> {
        self.committed(|tables| {
            let own = |(key, _): &(&(FileRef, Generation, Stage), _)| {
                (key.0, key.1) == (file, generation)
            };
            let results = tables.results.range((file, generation, Stage::Upload)..);
            let results = results.take_while(own);
            results.map(|(_, result)| result.clone()).collect()
        })
    }

    /// A process was told whether its outcome is recorded.
    pub(super) fn told(
        &mut self,
        stage: Stage,
        file: FileRef,
        token: Token,
        outcome: &StageOutcome,
        verdict: bool,
        violations: &mut Vec<String>,
    ) {
        if !verdict {
            return;
        }
        let is_there = self.committed(|tables| match outcome {
            Ok(_) => {
                let mut results = tables.results.values();
                results.any(|row| (row.file, row.token) == (file, token))
            }
            Err(_) => tables.attempts.contains_key(&(file, token)),
        });
        if !is_there {
            violations.push(format!(
                "{file} token {token} was answered RECORDED and is not"
            ));
        }
        if stage == Stage::Upload && outcome.is_ok() {
            // The bytes that this execution has read, never newer ones.
            if let Some(target) = self.sources.get(&(file, token)) {
                self.deletes.push((file, *target));
            }
        }
    }

    /// Whether nobody may act under this token any more: tokens never fall.
    pub(super) fn has_moved_on(&self, (file, token): Pair) -> bool {
        self.committed(|tables| tables.files.get(&file).is_none_or(|row| row.token > token))
    }

    pub(super) fn renew(&mut self, at: usize) -> bool {
        let process = &self.processes[at];
        let held: Vec<Pair> = process.granted().collect();
        if held.is_empty() || process.renewing.is_some() {
            return false;
        }
        let asked = held.iter().map(|pair| (*pair, self.has_moved_on(*pair)));
        let asked = asked.collect();
        let begun = self.at_work(at);
        if let Some(asked) = &mut self.shared.borrow_mut().asked {
            asked.begun.extend(&begun);
        }
        let answer = self.leader.ask(Renew { held, begun });
        self.processes[at].renewing = Some((asked, answer));
        true
    }

    /// Some of what a process has slots for: a renewal finds their handlers at work.
    fn at_work(&mut self, at: usize) -> Vec<Pair> {
        let process = &self.processes[at];
        let works = process.held.iter().flat_map(|held| &held.works);
        let able = works.filter_map(|(pair, work)| match work {
            Work::Granted(granted, _) => {
                let may = granted.row.kills == 0 || process.begun.contains(pair);
                may.then_some(*pair)
            }
            Work::Read | Work::Ran(_) | Work::Done => None,
        });
        let able: Vec<Pair> = able.collect();
        able.into_iter().filter(|_| self.one_in(2)).collect()
    }

    pub(super) fn release(&mut self) {
        let able = (0..self.processes.len()).filter(|at| self.can_release(*at));
        let able: Vec<usize> = able.collect();
        if able.is_empty() {
            return;
        }
        let at = able[self.dice.random_range(0..able.len())];
        // It ends, and another comes in its place; or its provider asks to be left alone.
        if self.one_in(2) {
            self.processes[at].rests = self.dice.random_range(1..=MOST_RESTS);
        }
        self.release_of(at);
    }

    fn can_release(&self, at: usize) -> bool {
        let busy = |held: &Held| held.leasing.is_some() || held.reporting.is_some();
        let process = &self.processes[at];
        let idle = process.releasing.is_some() || process.held.is_empty();
        !idle && !process.held.iter().any(busy)
    }

    fn release_of(&mut self, at: usize) {
        let process = &self.processes[at];
        let works = process.held.iter().flat_map(|held| &held.works);
        let undone = works.filter(|(_, work)| !matches!(work, Work::Done));
        let held: Vec<Pair> = undone.map(|(pair, _)| *pair).collect();
        self.note(|| format!("a process gives back: {}", short(&held)));
        let current = held.iter().filter(|pair| !self.has_moved_on(**pair));
        let current: Vec<Pair> = current.copied().collect();
        if let Some(asked) = &mut self.shared.borrow_mut().asked {
            asked.released.extend(current);
        }
        self.old_releases.extend(&held);
        let answer = self.leader.ask(Release { held });
        self.processes[at].releasing = Some(answer);
    }

    /// A release comes again, or late: what moved on since is left alone (protocol 7.4).
    pub(super) fn release_late(&mut self) {
        let old = self.old_releases.iter();
        let held: Vec<Pair> = old
            .copied()
            .filter(|pair| self.has_moved_on(*pair))
            .collect();
        if !held.is_empty() {
            self.note(|| format!("a release comes late: {}", short(&held)));
            let answer = self.leader.ask(Release { held });
            self.ended.push(answer);
        }
    }

    pub(super) fn kill(&mut self, at: usize) {
        let process = self.processes.remove(at);
        self.note(|| format!("a process of {} is killed", process.stage));
        for held in &process.held {
            for (pair, _) in &held.works {
                // Nobody gives a sign for it any more.
                self.signs.remove(pair);
            }
        }
        self.start_process(process.stage);
        // At the same place, so that the dice choose among as many.
        let started = self.processes.len() - 1;
        self.processes.swap(at, started);
    }

    pub(super) fn late_report(&mut self) {
        if self.old_reports.is_empty() {
            return;
        }
        // Best of a file that is at work there again, under another token.
        let at_work_again = self.committed(|tables| {
            let reports = self.old_reports.iter().enumerate();
            let again = reports.filter(|(_, report)| {
                report.reported.iter().any(|one| {
                    let row = tables.files.get(&one.file);
                    row.is_some_and(|row| {
                        let at_work = row.state == FileState::Processing;
                        at_work && row.stage == report.stage && row.token != one.token
                    })
                })
            });
            again.map(|(at, _)| at).collect::<Vec<usize>>()
        });
        let at = match at_work_again.is_empty() {
            false if self.one_in(2) => {
                at_work_again[self.dice.random_range(0..at_work_again.len())]
            }
            _ => self.dice.random_range(0..self.old_reports.len()),
        };
        let report = self.old_reports[at].clone();
        let answer = self.leader.ask(report.clone());
        self.late.push((report, answer));
    }

    pub(super) fn finish_late_reports(&mut self) {
        self.finish_probes();
        let mut violations = Vec::new();
        for (report, mut answer) in std::mem::take(&mut self.late) {
            match answered(&mut answer) {
                None => self.late.push((report, answer)),
                Some(Some(Ok(verdicts))) => {
                    for (one, verdict) in report.reported.iter().zip(verdicts) {
                        let quiet = Stage::Metadata;
                        let (file, token) = (one.file, one.token);
                        self.told(quiet, file, token, &one.outcome, verdict, &mut violations);
                    }
                }
                Some(_) => {}
            }
        }
        self.violations.append(&mut violations);
    }

    pub(super) fn delete_landing(&mut self) {
        if !self.deletes.is_empty() {
            let at = self.dice.random_range(0..self.deletes.len());
            let key = self.deletes.swap_remove(at);
            self.note(|| {
                format!(
                    "landing {}/{} is freed",
                    short(&[(key.0, Token::FIRST)]),
                    key.1.get()
                )
            });
            self.landing.remove(&key);
        }
    }
}
