//! The end of a history: no more faults, and everything must come to rest.

use super::*;

impl World {
    /// No more faults: everything that waits is done, in turns, until nothing happens any more.
    pub(super) fn come_to_rest(&mut self) {
        self.note(|| "no more faults".into());
        self.faults = false;
        {
            let mut database = self.shared.borrow_mut();
            database.next_commit = CommitFate::Committed;
            database.fails_after = None;
        }
        self.deposed = None;
        for process in &mut self.processes {
            process.rests = 0;
        }
        // The next version is rolled out to some stages.
        for at in 0..self.processes.len() {
            if self.one_in(3) {
                self.kill(at);
            }
        }
        for round in 0..ROUNDS {
            if self.is_at_rest() {
                break;
            }
            if round % 60 == 0 {
                self.resume_all();
            }
            let before = self.progress();
            self.round();
            self.check_commits();
            if !self.violations.is_empty() {
                return;
            }
            let idle = self.leader.is_idle();
            // Nothing but long work that is renewed, or leases that run out.
            let calm = self.uploads.is_empty() && self.progress() == before;
            let due = self.leader.memory.dispatcher.next_promotion();
            let far = due.filter(|_| idle).map(|at| at.since(self.now()));
            let by = far.unwrap_or_default().min(Duration::from_secs(400));
            // What nobody brings any more, because its client gave up, waits for its upload deadline.
            let hours = round > ROUNDS / 2 && idle;
            let least = match (hours, calm) {
                (true, _) => Duration::from_hours(1),
                (false, true) => self.settings.lease / 4,
                (false, false) => Duration::from_secs(1),
            };
            self.tick(by.max(least));
        }
        self.check_rest();
    }

    /// Differs where files have moved on, or handlers have run.
    fn progress(&self) -> (usize, u64) {
        let changes = self.committed(|tables| tables.changes.len());
        (changes, self.executions)
    }

    pub(super) fn resume_all(&mut self) {
        if self.has_no_acts() {
            self.let_tenants_go_on();
            self.let_stages_go_on();
        }
        for at in 0..self.clients.len() {
            if let Some(batch) = self.clients[at].created {
                let paused = self.committed(|tables| {
                    tables
                        .batches
                        .get(&batch)
                        .is_some_and(|row| row.0.pause.is_some())
                });
                if paused {
                    self.pause(at, batch, false);
                }
            }
        }
    }

    pub(super) fn round(&mut self) {
        if self.leader.lost {
            self.lead_anew(false);
        }
        for at in 0..self.clients.len() {
            self.step_client(at);
        }
        for _ in 0..self.uploads.len() * 2 {
            self.upload_step();
        }
        self.finish_acts();
        self.operation_slice();
        self.started
            .retain_mut(|(_, answer)| answered(answer).is_none());
        self.finish_late_reports();
        self.sweep();
        self.pass_step();
        self.end_batches();
        self.remove_superseded();
        for _ in 0..4 {
            self.leader
                .group(&self.shared, self.verbs_a_group, &mut self.dice);
            if self.leader.is_idle() {
                break;
            }
        }
        self.leader.settle_all(&self.shared, &mut self.dice);
        self.relay();
        self.rounds += 1;
        // A lease is renewed long before it ends, and not at every turn.
        let renews = self.rounds.is_multiple_of(2);
        let mut at = 0;
        while at < self.processes.len() {
            for _ in 0..6 {
                if !self.step_process(at) {
                    break;
                }
            }
            if renews {
                self.renew(at);
            }
            at += 1;
        }
        // The delete of what landed is delayed, and may come late.
        for _ in 0..self.deletes.len() {
            if self.one_in(4) {
                self.delete_landing();
            }
        }
    }

    pub(super) fn is_at_rest(&self) -> bool {
        let ended = self.committed(|tables| {
            // What is left in a tenant that is closed stays as it is.
            let closed = |tenant| {
                let account = tables.accounts.get(&tenant);
                account.is_some_and(|account| account.closed_at.is_some())
            };
            let batches = tables
                .batches
                .iter()
                .all(|(key, row)| row.0.state.is_ended() || closed(key.tenant));
            let mut operations = tables.operations.values();
            batches
                && tables.outbox.is_empty()
                && operations.all(|row| row.state != OperationState::Running)
        });
        let clients = self.clients.iter().all(|client| {
            let brought = client.completed || client.gives_up;
            let made = client.created.is_some() || self.is_closed(client.batch.tenant);
            made && brought && client.call.is_none()
        });
        let places = Stage::ALL
            .into_iter()
            .map(|stage| self.leader.places(stage));
        let late = self.committed(|tables| {
            let given_up = tables.files.values().filter(|row| row.was_given_up());
            given_up.cloned().collect::<Vec<Arc<WorkRow>>>()
        });
        let late = late.iter().any(|row| self.has_landed(row));
        ended
            && !late
            && clients
            && self.uploads.is_empty()
            && self.acts.is_empty()
            && self.wakings.is_empty()
            && places.sum::<u32>() == 0
            && self.leader.is_idle()
    }

    pub(super) fn check_commits(&mut self) {
        self.tell_commits();
        let mut found = std::mem::take(&mut self.shared.borrow_mut().found);
        found.append(&mut self.leader.defects);
        self.violations.append(&mut found);
        self.check_memory();
    }

    /// Between two groups memory grants nothing that the database would not (protocol 5.1).
    pub(super) fn check_memory(&mut self) {
        if self.leader.lost || self.leader.has_flight() {
            return;
        }
        let misread = self.leader.misread_stages(&self.shared.borrow());
        self.violations.extend(misread);
        let mut grantable = self.leader.leases.grantable();
        let instant = self.begun + self.steady;
        for (file, token) in grantable.iter().filter(|(_, token)| *token > Token::FIRST) {
            let old = (*file, Token::new(token.get() - 1));
            let stage = self.committed(|tables| tables.files[file].stage);
            if self.leader.would_grant(stage, old, instant) {
                let pair = short(&[old]);
                self.violations
                    .push(format!("memory grants {pair} in place of {token}"));
            }
        }
        grantable.retain(|pair| self.has_moved_on(*pair));
        if !grantable.is_empty() {
            let pairs = short(&grantable);
            self.breaks(format!("memory would grant {pairs}, which moved on"));
        }
    }

    pub(super) fn check_rest(&mut self) {
        if !self.is_at_rest() {
            let words = self.committed(|tables| {
                let live = tables
                    .batches
                    .values()
                    .filter(|row| !row.0.state.is_ended());
                let live = live.map(|row| {
                    format!(
                        "{} is {}: {:?}",
                        row.0.key(),
                        row.0.state,
                        row.0.facts.counts
                    )
                });
                let files = tables.files.values().filter(|row| !row.state.is_final());
                let files = files.map(|row| format!("{row:?}"));
                live.chain(files).collect::<Vec<String>>().join("\n  ")
            });
            let places: Vec<u32> = Stage::ALL.map(|stage| self.leader.places(stage)).into();
            let clients = self.clients.iter().map(|client| {
                let calls = client.call.is_some();
                let made = client.created.is_some();
                format!(
                    "({made}, {}, {}, {calls})",
                    client.completed, client.gives_up
                )
            });
            let clients: Vec<String> = clients.collect();
            let running = self.committed(|tables| {
                let mut rows = tables.operations.values();
                rows.find(|row| row.state == OperationState::Running)
                    .map(|row| format!("{row:?}"))
            });
            self.breaks(format!(
                "it never comes to rest: outbox {}, idle {}, places {places:?}, clients {clients:?}, \
                 running {running:?}\n  {words}",
                self.committed(|tables| tables.outbox.len()),
                self.leader.is_idle()
            ));
            return;
        }
        let (report, made) = self.committed(|tables| {
            (
                crate::simulation::invariants::check(tables),
                tables.batches.len(),
            )
        });
        self.violations.extend(report);
        let creators = self.clients.iter();
        let creators = creators.filter(|client| client.created.is_some()).count();
        if made != creators {
            self.breaks(format!("{creators} clients made {made} batches"));
        }
        let mut violations = Vec::new();
        let ends: Vec<Arc<WorkRow>> =
            self.committed(|tables| tables.files.values().cloned().collect());
        for row in ends {
            self.check_end(&row, &mut violations);
        }
        self.violations.append(&mut violations);
    }

    /// Whether the store has a file's bytes, and its batch takes them.
    fn has_landed(&self, row: &WorkRow) -> bool {
        let object = self.landing.get(&(row.file, row.target));
        let whole = object.is_some_and(|object| object.size == row.size);
        let stands = self.committed(|tables| {
            let batch = tables.batches.get(&row.file.batch_ref());
            batch.is_some_and(|batch| !batch.0.facts.cancel_requested)
        });
        whole && stands
    }

    /// Whether a file may have ended so.
    pub(super) fn check_end(&self, row: &WorkRow, violations: &mut Vec<String>) {
        let nature = self.nature(row.file);
        match row.state {
            FileState::Cancelled if !self.cancelled.contains(&row.file.batch_ref()) => {
                violations.push(format!("{} is CANCELLED and nobody asked for it", row.file));
            }
            FileState::Failed => {
                let right = match row.reason {
                    // What landed is taken, however late (protocol 12.3).
                    Some(Reason::NeverArrived | Reason::LeftOutByClient) => !self.has_landed(row),
                    Some(Reason::TooManyKills) => true,
                    Some(Reason::StageTimeout) => nature == Nature::Hopeless,
                    Some(Reason::CorruptDocument) => nature == Nature::Broken,
                    Some(Reason::ParserCrashed) => nature == Nature::Poison,
                    Some(Reason::SizeMismatch) => nature == Nature::WrongSize,
                    Some(Reason::ChecksumMismatch) => nature == Nature::Spoilt,
                    _ => false,
                };
                if !right {
                    violations.push(format!(
                        "{} ({nature:?}) is FAILED: {:?}",
                        row.file, row.reason
                    ));
                }
            }
            FileState::Processed => self.check_processed(row, violations),
            _ => {}
        }
    }

    /// What a PROCESSED file refers to is what its recorded executions made.
    pub(super) fn check_processed(&self, row: &WorkRow, violations: &mut Vec<String>) {
        let results = self.results_of(row.file, row.generation);
        for stage in [Stage::Upload, Stage::Metadata] {
            if !results.iter().any(|result| result.stage == stage) {
                violations.push(format!(
                    "{} is PROCESSED without a result of {stage}",
                    row.file
                ));
            }
        }
        for result in results.iter().filter(|result| !result.skipped) {
            let maker = result.maker();
            let key = format!(
                "{}/{}/{}/{}-{}",
                maker.file,
                maker.generation.get(),
                result.stage,
                maker.token,
                maker.nonce
            );
            if maker.file.tenant != row.file.tenant {
                violations.push(format!("{} has what another tenant made", row.file));
            }
            let made = self.artifacts.get(&key).map(u64::to_string);
            if made.as_ref() != Some(&result.facts) {
                violations.push(format!(
                    "{}: {key} holds what execution {made:?} made, recorded is {}",
                    row.file, result.facts
                ));
            }
        }
    }
}
