//! What people do to batches and files that are under way.

use std::collections::HashSet;

use super::*;

impl World {
    pub(super) fn any_batch(&mut self) -> Option<BatchRef> {
        let created: Vec<BatchRef> = self
            .clients
            .iter()
            .filter_map(|client| client.created)
            .collect();
        if created.is_empty() {
            return None;
        }
        Some(created[self.dice.random_range(0..created.len())])
    }

    pub(super) fn operator(&mut self) {
        let Some(batch) = self.any_batch() else {
            return;
        };
        let client = self
            .clients
            .iter()
            .position(|client| client.created == Some(batch));
        let Some(at) = client else { return };
        self.settle_late();
        match self.dice.random_range(0..13_u32) {
            11..=12 => self.come_too_late(at, batch),
            0 => {
                let request = self.key("CancelBatch");
                self.cancelled.insert(batch);
                self.note(|| format!("batch {:x} is cancelled", batch.batch.as_uuid().as_u128()));
                let answer = self.leader.ask(CancelBatch { batch, request });
                self.follow(at, "cancel", answer);
            }
            1..=2 => self.pause(at, batch, true),
            3 => self.pause(at, batch, false),
            4 => {
                let request = self.key("UpdateBatch");
                let changes = Renamed {
                    priority: Some(self.dice.random_range(1..4)),
                    ..Renamed::default()
                };
                let update = UpdateBatch {
                    batch,
                    request,
                    changes,
                };
                let answer = self.leader.ask(update);
                self.follow(at, "update", answer);
            }
            5 => {
                let running = self.committed(|tables| {
                    let mut running = tables.operations.values();
                    running
                        .find(|row| row.state == OperationState::Running)
                        .map(|row| (row.tenant, row.id))
                });
                if let Some((tenant, operation)) = running {
                    let state = OperationState::Cancelled;
                    let end = EndOperation {
                        tenant,
                        operation,
                        state,
                    };
                    let answer = self.leader.ask(end);
                    self.ended.push(answer);
                }
            }
            _ => self.start_operation(batch),
        }
    }

    /// Only one call of a client is followed at a time.
    pub(super) fn follow(&mut self, at: usize, what: &'static str, answer: Answered<Batch>) {
        if self.clients[at].call.is_none() {
            self.clients[at].call = Some(Call::Batch(what, answer));
        }
    }

    /// Brings entries to a completed manifest, and bytes to a cancelled batch.
    pub(super) fn come_too_late(&mut self, at: usize, batch: BatchRef) {
        let facts = self.committed(|tables| tables.batches.get(&batch).map(|row| row.0.facts));
        let Some(facts) = facts else { return };
        if facts.manifest_complete {
            let number = self.next_id;
            let entry = NewEntry::File(NewFile {
                path: format!("late{number}"),
                size: 1,
                sha256: None,
                metadata: None,
                modified_at: None,
            });
            let add = AddEntries {
                batch,
                request: self.key("AddEntries"),
                knows_one_batch: false,
                token: None,
                page: Arc::new(ManifestPage::new(vec![entry])),
                folders: 1,
                path_bytes: 10,
            };
            let answer = self.leader.ask(add);
            self.probes.push(Probe::Entries(answer));
        }
        let put = self.clients[at].puts.first().cloned();
        if let Some((ordinal, target, etag)) = put.filter(|_| facts.cancel_requested) {
            let confirm = ConfirmUploads {
                foreign: HashSet::new(),
                batch,
                request: self.key("ConfirmUploads"),
                uploads: vec![ConfirmedUpload {
                    ordinal,
                    target,
                    etag,
                }],
            };
            let answer = self.leader.ask(confirm);
            self.probes.push(Probe::Bytes(answer));
        }
    }

    pub(super) fn finish_probes(&mut self) {
        let mut taken = Vec::new();
        self.probes.retain_mut(|probe| match probe {
            Probe::Entries(answer) => match answered(answer) {
                Some(Some(Ok(_))) => {
                    taken.push("a completed manifest took entries".to_owned());
                    false
                }
                answer => answer.is_none(),
            },
            Probe::Bytes(answer) => match answered(answer) {
                Some(Some(Ok(_))) => {
                    taken.push("a cancelled batch took bytes".to_owned());
                    false
                }
                answer => answer.is_none(),
            },
        });
        self.violations.append(&mut taken);
    }

    pub(super) fn pause(&mut self, at: usize, batch: BatchRef, paused: bool) {
        let request = self.key("SetPause");
        let pause = paused.then(|| NewPause {
            who: "simulation".into(),
            // Each is known from the one before.
            note: request.id.to_string(),
        });
        self.note(|| {
            format!(
                "batch {:x} is paused: {paused}",
                batch.batch.as_uuid().as_u128()
            )
        });
        let answer = self.leader.ask(SetPause {
            batch,
            request,
            pause,
        });
        self.follow(at, "pause", answer);
    }

    pub(super) fn start_operation(&mut self, batch: BatchRef) {
        let from = self.any_stage();
        let verb = match self.dice.random_range(0..9_u32) {
            0 => FileVerb::Cancel,
            1..=4 => FileVerb::Retry {
                skip_backoff: self.one_in(2),
            },
            5..=7 => FileVerb::Reprocess {
                from,
                force: self.one_in(2),
            },
            _ => FileVerb::Dismiss,
        };
        if verb == FileVerb::Cancel {
            self.cancelled.insert(batch);
        }
        self.note(|| format!("{verb:?} of {:x}", batch.batch.as_uuid().as_u128()));
        let request = self.key("Bulk");
        let id = self.id();
        let start = StartOperation {
            tenant: batch.tenant,
            id,
            request: request.clone(),
            verb,
            selector: batch.batch.as_bytes().to_vec(),
            matched: 0,
            max_count: 0,
            requested_by: String::new(),
            by_operator: false,
        };
        let answer = self.leader.ask(start);
        self.started.push((request, answer));
    }

    /// The next slice of an operation that goes on; whether there was any.
    pub(super) fn operation_slice(&mut self) -> bool {
        if let Some(answer) = &mut self.sliced {
            if answered(answer).is_none() {
                return false;
            }
            self.sliced = None;
        }
        let most = self.dice.random_range(1..4);
        let slice = self.committed(|tables| {
            let mut running = tables.operations.values();
            let row = running.find(|row| row.state == OperationState::Running)?;
            let batch = BatchRef::new(row.tenant, BatchId::from_slice(&row.selector).ok()?);
            let from = row.cursor.map_or(0, |position| position.ordinal);
            let span = batch.file(from)..=batch.file(u32::MAX);
            let files: Vec<FileRef> = tables
                .files
                .range(span)
                .map(|(file, _)| *file)
                .take(most + 1)
                .collect();
            let next = files.get(most).copied();
            let files: Vec<FileRef> = files.into_iter().take(most).collect();
            let given_up = |file: &&FileRef| tables.files[*file].was_given_up();
            let retries = matches!(row.verb, FileVerb::Retry { .. });
            let arrived = files.iter().filter(given_up).filter_map(|file| {
                let row = &tables.files[file];
                let object = self.landing.get(&(*file, row.target))?;
                (retries && object.size == row.size).then(|| FoundBytes {
                    file: *file,
                    target: row.target,
                    etag: object.etag.clone(),
                })
            });
            Some(ApplySlice {
                tenant: row.tenant,
                operation: row.id,
                arrived: arrived.collect(),
                files,
                cursor: next.map(|file| Position {
                    batch: file.batch,
                    ordinal: file.ordinal,
                }),
                ended: next.is_none(),
            })
        });
        let Some(slice) = slice else { return false };
        let answer = self.leader.ask(slice);
        self.sliced = Some(answer);
        true
    }
}
