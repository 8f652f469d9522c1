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
                self.streams.acknowledge(stage, entry.id);
            }
        }
    }

    /// Whether there was anything to end.
    pub(super) fn end_batches(&mut self) -> bool {
        self.endings.retain_mut(|answer| answered(answer).is_none());
        if !self.endings.is_empty() {
            return false;
        }
        let ending: Vec<(BatchRef, bool)> = self.committed(|tables| {
            let rows = tables.batches.values().map(|row| &row.0);
            let live = rows.filter(|row| !row.state.is_ended());
            let ending = live.filter(|row| row.facts.cancel_requested || row.missing_fails);
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
        self.ended.retain_mut(|answer| answered(answer).is_none());
        for (batch, cancelled) in &ending {
            let (batch, from) = (*batch, 0);
            let answer = if *cancelled {
                self.leader.ask(CancelFiles { batch, from })
            } else {
                self.leader.ask(FailMissing { batch, from })
            };
            self.endings.push(answer);
        }
        !ending.is_empty()
    }
}
