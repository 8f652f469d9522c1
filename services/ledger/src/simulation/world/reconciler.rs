//! The passes of the reconciler, step by step.

use super::*;

impl World {
    pub(super) fn reconcile_step(&mut self) {
        self.finish_late_reports();
        match self.dice.random_range(0..6_u32) {
            0 => self.sweep(),
            1 => self.remove_superseded(),
            2 => {
                self.end_batches();
            }
            3 if self.one_in(8) => {
                let first = self.leader.ask(Prune);
                let second = self.leader.ask(PruneOperations);
                self.ended.extend([first, second]);
            }
            _ => {
                self.pass_step();
            }
        }
    }

    pub(super) fn sweep(&mut self) {
        let own = crate::store::outbox::outbox_id(self.leader.memory.epoch, 0);
        let before = self.now().minus(self.settings.reconcile_age);
        let left = self.committed(|tables| {
            let rows = tables.outbox.values();
            let left = rows.filter(|(row, at)| {
                let dead = row.id < own;
                (dead || *at <= before) && !(dead && planted!(DeadLedgersOutboxLeft))
            });
            left.map(|(row, _)| (**row).clone()).collect()
        });
        self.leader.relay.publish(left);
    }

    /// Rows first, streams second, write last (protocol 8.1); whether anything happened.
    pub(super) fn pass_step(&mut self) -> bool {
        match self.pass.take() {
            None => {
                let before = self.now().minus(self.settings.reconcile_age);
                let held = self.leader.old_pairs(before);
                if held.is_empty() {
                    return false;
                }
                let answer = self.leader.ask(LookUp { held });
                self.pass = Some(Pass::Looking(answer));
            }
            Some(Pass::Looking(mut answer)) => match answered(&mut answer) {
                None => {
                    self.pass = Some(Pass::Looking(answer));
                    return false;
                }
                Some(Some(Ok(looked))) => self.pass = Some(Pass::Judged(looked)),
                Some(_) => {}
            },
            Some(Pass::Judged(looked)) => {
                let candidates = rules::candidates(&looked, self.settings.reconcile_age);
                let now = self.now();
                let messages = Stage::ALL.into_iter();
                let messages = messages.map(|stage| (stage, self.streams.messages(stage, now)));
                let repairs = rules::judge(
                    &candidates,
                    &messages.collect(),
                    looked.now,
                    self.settings.lease,
                );
                self.check_repairs(&repairs, &looked);
                if !(repairs.redispatch.is_empty() && repairs.kill.is_empty()) {
                    self.note(|| {
                        let killed = repairs.kill.iter().map(|(file, token, _)| (*file, *token));
                        let killed: Vec<Pair> = killed.collect();
                        format!(
                            "sent again: {}; killed: {}",
                            short(&repairs.redispatch),
                            short(&killed)
                        )
                    });
                    if let Some(asked) = &mut self.shared.borrow_mut().asked {
                        asked.lost.extend(&repairs.redispatch);
                    }
                    let answer = self.leader.ask(repairs);
                    self.pass = Some(Pass::Repairing(answer));
                }
            }
            Some(Pass::Repairing(mut answer)) => {
                if answered(&mut answer).is_none() {
                    self.pass = Some(Pass::Repairing(answer));
                    return false;
                }
            }
        }
        true
    }

    /// Nothing is charged, and nothing sent out again, that was not lost.
    pub(super) fn check_repairs(&mut self, repairs: &Repair, looked: &LookedUp) {
        let now = self.now();
        let lease = self.settings.lease;
        let mut violations = Vec::new();
        for pair in &repairs.redispatch {
            let row = looked
                .rows
                .iter()
                .find(|row| (row.file, row.token) == *pair);
            // What moved on since it was looked at is left alone by the writer.
            let moved_on = self.committed(|tables| tables.files[&pair.0].token != pair.1);
            let Some(row) = row.filter(|_| !moved_on) else {
                continue;
            };
            let idle = self.streams.finds(row.stage, *pair, now);
            let unread = matches!(idle, Some(Some(idle)) if idle >= lease);
            let lost = self.streams.lost.contains(pair) && idle.is_none();
            let alive = self
                .signs
                .get(pair)
                .is_some_and(|sign| now.since(*sign) < lease);
            let leased = row.lease_until.is_some_and(|until| until >= looked.now);
            if leased && alive {
                violations.push(format!("{pair:?} is sent out again while its lease lives"));
            } else if !lost && !unread {
                violations.push(format!("{pair:?} is sent out again and was never lost"));
            }
        }
        let kills = repairs.kill.iter();
        for (file, token, cause) in kills.filter(|(.., cause)| *cause == KillCause::NeverRenewed) {
            // What moved on or was renewed since it was looked at is left alone by the writer.
            let moved_on = self.committed(|tables| {
                let row = &tables.files[file];
                row.token != *token || row.lease_until.is_some()
            });
            // Of two messages Redis may have lost the one that a living process holds, and kept a dead one's.
            let told_of = !moved_on && !self.streams.lost.contains(&(*file, *token));
            let sign = self.signs.get(&(*file, *token)).filter(|_| told_of);
            if sign.is_some_and(|sign| now.since(*sign) < lease) {
                violations.push(format!(
                    "{file} token {token} is killed ({cause:?}) and its process lives"
                ));
            }
        }
        self.violations.append(&mut violations);
    }

    pub(super) fn remove_superseded(&mut self) {
        for stage in Stage::ALL {
            let superseded: Vec<Entry> = self.committed(|tables| {
                let entries = self.streams.entries(stage).iter();
                let superseded = entries.filter(|entry| {
                    let files = entry
                        .files
                        .iter()
                        .filter_map(|(file, _)| tables.files.get(file));
                    let out = files.filter(|row| row.dispatched_at.is_some());
                    let current = out.map(|row| (row.file, row.token)).collect();
                    rules::is_superseded(&entry.files, &current) || planted!(CurrentMessageRemoved)
                });
                superseded.cloned().collect()
            });
            for entry in superseded {
                self.acknowledge(stage, entry.id);
            }
        }
    }

    /// Whether there was anything to end.
    pub(super) fn end_batches(&mut self) -> bool {
        self.endings.retain_mut(|answer| answered(answer).is_none());
        self.settlings
            .retain_mut(|answer| answered(answer).is_none());
        if !self.endings.is_empty() || !self.settlings.is_empty() {
            return false;
        }
        let looked_again = self.look_again();
        let now = self.now();
        let ending: Vec<(BatchRef, bool)> = self.committed(|tables| {
            let rows = tables.batches.values().map(|row| &row.0);
            let live = rows.filter(|row| !row.state.is_ended());
            let overdue = |row: &ProgressRow| row.uploads_open && row.upload_deadline <= now;
            let ending =
                live.filter(|row| row.facts.cancel_requested || row.missing_fails || overdue(row));
            ending
                .map(|row| (row.key(), row.facts.cancel_requested))
                .collect()
        });
        let idle: Vec<BatchRef> = self.committed(|tables| {
            let rows = tables.batches.values().map(|row| &row.0);
            let open = rows.filter(|row| row.state == BatchState::Open);
            open.map(crate::store::progress::ProgressRow::key).collect()
        });
        for batch in idle {
            let answer = self.leader.ask(CompleteIdle { batch });
            self.ended.push(answer);
        }
        let ended = self.committed(|tables| {
            let mut rows = tables.batches.values();
            rows.find_map(|row| Some((row.0.key(), row.1.ended_at?)))
        });
        if let Some((batch, ended_at)) = ended.filter(|_| self.faults) {
            let answer = self.leader.ask(MarkCollected { batch, ended_at });
            self.ended.push(answer);
        }
        self.ended.retain_mut(|answer| answered(answer).is_none());
        for (batch, cancelled) in &ending {
            let (batch, from) = (*batch, 0);
            if *cancelled {
                let answer = self.leader.ask(CancelFiles { batch, from });
                self.endings.push(answer);
            } else {
                let (asked, last) = (self.ask_store(batch, WorkRow::waits_for_bytes), true);
                self.settle(SettleMissing { batch, asked, last });
            }
        }
        !ending.is_empty() || looked_again
    }

    /// Acts on what the store said.
    fn settle(&mut self, settle: SettleMissing) {
        let answer = self.leader.ask(settle);
        self.settlings.push(answer);
    }

    /// What the store said of an old landing key comes late, when new bytes are awaited under the next (protocol 12.3).
    pub(super) fn settle_late(&mut self) {
        let row = self.committed(|tables| {
            let mut rows = tables.files.values();
            let waits = |row: &&Arc<WorkRow>| row.waits_for_bytes() && row.target > Target::FIRST;
            rows.find(waits).cloned()
        });
        let Some(row) = row else { return };
        let asked = vec![AskedUpload {
            file: row.file,
            target: Target::FIRST,
            etag: Some(format!("late/{}", Target::FIRST.get())),
        }];
        self.settle(SettleMissing {
            batch: row.file.batch_ref(),
            asked,
            last: false,
        });
    }

    /// What the store has of files of a batch, as the leader asks for it.
    fn ask_store(&self, batch: BatchRef, wanted: impl Fn(&WorkRow) -> bool) -> Vec<AskedUpload> {
        let span = batch.file(0)..=batch.file(u32::MAX);
        self.committed(|tables| {
            let rows = tables.files.range(span).map(|(_, row)| row);
            let asked = rows.filter(|row| wanted(row)).map(|row| {
                let object = self.landing.get(&(row.file, row.target));
                let whole = object.filter(|object| object.size == row.size);
                AskedUpload {
                    file: row.file,
                    target: row.target,
                    etag: whole.map(|object| object.etag.clone()),
                }
            });
            asked.collect()
        })
    }

    /// Takes what landed of files that were given up; whether there was any.
    fn look_again(&mut self) -> bool {
        let batches: Vec<BatchRef> = self.committed(|tables| {
            let rows = tables.batches.values().map(|row| &row.0);
            let standing = rows.filter(|row| !row.facts.cancel_requested);
            standing.map(ProgressRow::key).collect()
        });
        let mut found = false;
        for batch in batches {
            let mut asked = self.ask_store(batch, WorkRow::was_given_up);
            asked.retain(|upload| upload.etag.is_some());
            if !asked.is_empty() {
                found = true;
                let settle = SettleMissing {
                    batch,
                    asked,
                    last: false,
                };
                self.settle(settle);
            }
        }
        found
    }
}
