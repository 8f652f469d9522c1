//! Clients: each brings a batch, and repeats what is not answered.

use std::collections::HashSet;

use super::*;

impl World {
    pub(super) fn client_step(&mut self) {
        let at = self.dice.random_range(0..self.clients.len());
        self.step_client(at);
    }

    /// Moves a client on; whether anything happened.
    pub(super) fn step_client(&mut self, at: usize) -> bool {
        if self.finish_call_of(at) {
            return true;
        }
        if self.clients[at].call.is_some() {
            return false;
        }
        let client = &self.clients[at];
        let Some(batch) = client.created else {
            // A closed tenant refuses what was not done before it was closed.
            if client.gives_up && self.is_closed(client.batch.tenant) {
                return false;
            }
            let create = CreateBatch {
                batch: client.batch,
                request: client.create.clone(),
                name: String::new(),
                options: "{}".into(),
                metadata: None,
                priority: 2,
                stages: StageSet::all(),
                starts_when_completed: client.starts_when_completed,
                created_by: String::new(),
            };
            // The server names each batch that is made anew.
            let named = BatchRef::new(client.batch.tenant, BatchId::from_uuid(self.id()));
            let answer = self.leader.ask(CreateBatch {
                batch: named,
                ..create
            });
            self.clients[at].call = Some(Call::Create(answer));
            return true;
        };
        if self.faults && self.one_in(10) {
            let answer = self.leader.ask(KeepUploading { batch });
            self.ended.push(answer);
        }
        let repeats = self.faults && self.one_in(8);
        let client = &self.clients[at];
        let missing = client.added.iter().position(Option::is_none);
        let page = missing.or_else(|| repeats.then_some(0));
        if let Some(page) = page.filter(|_| !client.gives_up) {
            // A page may come with an upload token, and not be taken.
            let token = self.any_token(batch);
            let (request, planned) = &self.clients[at].pages[page];
            let entries = planned.iter().map(|planned| {
                NewEntry::File(NewFile {
                    path: planned.path.clone(),
                    size: planned.size,
                    sha256: planned.declared.then(|| sha(planned.content)),
                    metadata: None,
                    modified_at: None,
                })
            });
            let add = AddEntries {
                batch,
                request: request.clone(),
                knows_one_batch: false,
                token,
                page: Arc::new(ManifestPage::new(entries.collect())),
                folders: 1,
                path_bytes: 10,
            };
            let answer = self.leader.ask(add);
            self.clients[at].call = Some(Call::Add(page, answer));
            return true;
        }
        if self.upload_some(at, batch) {
            return true;
        }
        // Who has no bytes for what is asked of him gives it up again.
        let waits = !self.faults && self.clients[at].completed && self.waits_for_bytes(batch);
        if waits {
            self.clients[at].complete = self.key("CompleteBatch");
        }
        let client = &self.clients[at];
        if (!client.completed || repeats || waits) && !client.gives_up {
            let complete = CompleteBatch {
                batch,
                request: client.complete.clone(),
                missing_fails: client.missing_fails,
                expected_entries: 0,
            };
            let answer = self.leader.ask(complete);
            self.clients[at].call = Some(Call::Batch("complete", answer));
            return true;
        }
        false
    }

    pub(super) fn waits_for_bytes(&self, batch: BatchRef) -> bool {
        self.committed(|tables| {
            let row = tables.batches.get(&batch);
            row.is_some_and(|row| row.0.uploads_open && !row.0.missing_fails)
        })
    }

    /// Puts and confirms the bytes of some files that wait for them; now and then such as were put before.
    pub(super) fn upload_some(&mut self, at: usize, batch: BatchRef) -> bool {
        let span = batch.file(0)..=batch.file(u32::MAX);
        let waiting: Vec<(u32, Target, u64, FileState)> = self.committed(|tables| {
            let rows = tables.files.range(span).map(|(_, row)| row);
            let waiting = rows.filter(|row| row.waits_for_bytes());
            waiting
                .map(|row| (row.file.ordinal, row.target, row.size, row.state))
                .collect()
        });
        let cancelled = self.committed(|tables| {
            tables
                .batches
                .get(&batch)
                .is_none_or(|row| row.0.facts.cancel_requested)
        });
        let mut uploads = Vec::new();
        let mut left_out = Vec::new();
        if !cancelled {
            for (ordinal, target, size, state) in waiting {
                if self.is_coming(batch.file(ordinal)) {
                    continue;
                }
                let Some(planned) = self.clients[at].planned(ordinal).cloned() else {
                    continue;
                };
                if planned.nature == Nature::Missing {
                    left_out.push(ordinal);
                    continue;
                }
                if self.faults && self.one_in(3) {
                    continue;
                }
                let wrong = planned.nature == Nature::WrongSize && target == Target::FIRST;
                let object = Object {
                    content: planned.content,
                    size: size + u64::from(wrong),
                    etag: format!("{}-{wrong}/{}", planned.content, target.get()),
                };
                if state == FileState::Pending && self.one_in(5) {
                    self.send_by_tus(batch.file(ordinal), target, object);
                    continue;
                }
                if planned.nature == Nature::Unconfirmed {
                    self.landing.insert((batch.file(ordinal), target), object);
                    continue;
                }
                self.clients[at]
                    .puts
                    .push((ordinal, target, object.etag.clone()));
                self.landing.insert((batch.file(ordinal), target), object);
                // It may die before it confirms.
                if !(self.faults && self.one_in(6)) {
                    uploads.push(self.clients[at].puts.last().cloned());
                }
            }
        }
        let puts = &self.clients[at].puts;
        // Who repeats what was taken before holds the deadline off for ever.
        if self.faults && !puts.is_empty() && self.dice.random_ratio(1, 6) {
            let number = self.dice.random_range(0..puts.len());
            uploads.push(puts.get(number).cloned());
        }
        let mut named = BTreeSet::new();
        let uploads: Vec<ConfirmedUpload> = uploads
            .into_iter()
            .flatten()
            .filter(|(ordinal, ..)| named.insert(*ordinal))
            .map(|(ordinal, target, etag)| ConfirmedUpload {
                ordinal,
                target,
                etag,
            })
            .collect();
        // Of some that will not come the client says so; the others are given up.
        if uploads.is_empty() && !left_out.is_empty() && self.dice.random_ratio(1, 8) {
            let files = left_out.into_iter().map(|ordinal| LeftOut {
                ordinal,
                cause: "gone".into(),
            });
            let leave = LeaveOut {
                foreign: HashSet::new(),
                batch,
                request: self.key("LeaveOutFiles"),
                files: files.collect(),
            };
            let answer = self.leader.ask(leave);
            self.clients[at].call = Some(Call::LeaveOut(answer));
            return true;
        }
        if uploads.is_empty() {
            return false;
        }
        let confirm = ConfirmUploads {
            foreign: HashSet::new(),
            batch,
            request: self.key("ConfirmUploads"),
            uploads,
        };
        let answer = self.leader.ask(confirm);
        self.clients[at].call = Some(Call::Confirm(answer));
        true
    }

    pub(super) fn finish_call_of(&mut self, at: usize) -> bool {
        let Some(call) = self.clients[at].call.take() else {
            return false;
        };
        let mut violation = None;
        let client = &mut self.clients[at];
        let (finished, refusal) = match call {
            Call::Create(mut answer) => match answered(&mut answer) {
                None => {
                    client.call = Some(Call::Create(answer));
                    return false;
                }
                Some(Some(Ok(batch))) => {
                    let id = caudal_domain::names::parse_batch_name(&batch.name).ok();
                    let named = id.map(|id| BatchRef::new(client.batch.tenant, id));
                    if client.created.is_some() && client.created != named {
                        violation = Some(format!("a repeated CreateBatch was answered {named:?}"));
                    }
                    client.created = named;
                    (true, None)
                }
                Some(Some(Err(refusal))) => (true, Some(refusal)),
                Some(None) => (true, None),
            },
            Call::Add(page, mut answer) => match answered(&mut answer) {
                None => {
                    client.call = Some(Call::Add(page, answer));
                    return false;
                }
                Some(Some(Ok(added))) => {
                    let before = client.added[page].replace(added.clone());
                    if before.is_some_and(|before| before != added) {
                        violation = Some("a repeated page was answered otherwise".to_owned());
                    }
                    (true, None)
                }
                Some(Some(Err(refusal))) => (true, Some(refusal)),
                Some(None) => (true, None),
            },
            Call::Confirm(mut answer) => match answered(&mut answer) {
                None => {
                    client.call = Some(Call::Confirm(answer));
                    return false;
                }
                Some(Some(Err(refusal))) => (true, Some(refusal)),
                Some(_) => (true, None),
            },
            Call::LeaveOut(mut answer) => match answered(&mut answer) {
                None => {
                    client.call = Some(Call::LeaveOut(answer));
                    return false;
                }
                Some(Some(Err(refusal))) => (true, Some(refusal)),
                Some(_) => (true, None),
            },
            Call::Batch(what, mut answer) => match answered(&mut answer) {
                None => {
                    client.call = Some(Call::Batch(what, answer));
                    return false;
                }
                Some(Some(Ok(_))) => {
                    client.completed |= what == "complete";
                    (true, None)
                }
                Some(Some(Err(refusal))) => (true, Some(refusal)),
                Some(None) => (true, None),
            },
        };
        if refusal.is_some() {
            // Cancelled, completed or full: there is nothing more to bring.
            client.gives_up = true;
        }
        self.violations.extend(violation);
        finished
    }
}
