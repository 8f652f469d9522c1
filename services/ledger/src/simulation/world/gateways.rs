//! Gateways that take uploads in pieces (tus): two may write to one in turn, and one may die with the right to write.

use std::collections::HashSet;

use super::*;

/// How long a gateway has the right to write.
const HOLD: Duration = Duration::from_secs(8);
/// How long an upload is kept.
const LIFETIME: Duration = Duration::from_secs(24 * 60 * 60);

/// An upload that comes in pieces.
pub(super) struct TusUpload {
    id: Uuid,
    file: FileRef,
    target: Target,
    /// What it will be when all pieces are there.
    object: Object,
    gateways: [Gateway; 2],
}

/// One of the gateways that serve an upload.
#[derive(Default)]
struct Gateway {
    /// The right to write, with what the ledger knew when it was given.
    held: Option<TusRow>,
    call: Option<TusCall>,
    /// It was told that another writes, and asks again from then on.
    waits_until: Option<Micros>,
}

enum TusCall {
    Create(Answered<TusRow>),
    Lock(Answered<TusRow>),
    /// Whether the right to write had gone to another when it was asked.
    Advance(bool, Answered<TusRow>),
    Confirm(Answered<caudal_proto::v1::ConfirmUploadsResponse>),
    End(Answered<()>),
}

/// What becomes of an upload after a step.
enum Next {
    Waits,
    GoesOn,
    Ends,
}

impl World {
    /// Whether a file comes through gateways.
    pub(super) fn is_coming(&self, file: FileRef) -> bool {
        self.uploads.iter().any(|upload| upload.file == file)
    }

    pub(super) fn send_by_tus(&mut self, file: FileRef, target: Target, object: Object) {
        let id = self.id();
        self.uploads.push(TusUpload {
            id,
            file,
            target,
            object,
            gateways: Default::default(),
        });
    }

    /// Moves one gateway on with one upload.
    pub(super) fn upload_step(&mut self) {
        if self.uploads.is_empty() {
            return;
        }
        let at = self.dice.random_range(0..self.uploads.len());
        let which = self.dice.random_range(0..2);
        if self.faults && self.one_in(12) {
            // It dies, and its right to write stands until it runs out.
            self.uploads[at].gateways[which] = Gateway::default();
            return;
        }
        let now = self.now();
        let gateway = &mut self.uploads[at].gateways[which];
        if gateway.waits_until.is_some_and(|until| until > now) {
            return;
        }
        let next = match gateway.call.take() {
            Some(call) => self.finish_tus_call(at, which, call),
            None => self.ask_tus(at, which),
        };
        if matches!(next, Next::Ends) {
            self.uploads.remove(at);
        }
    }

    fn ask_tus(&mut self, at: usize, which: usize) -> Next {
        let upload = &self.uploads[at];
        let (tenant, id, file) = (upload.file.tenant, upload.id, upload.file);
        let row = self.committed(|tables| tables.tus.get(&(tenant, id)).cloned());
        let call = match (&upload.gateways[which].held, row) {
            (None, None) => TusCall::Create(self.leader.ask(CreateTus {
                tenant,
                id,
                batch: Some(file.batch),
                ordinal: Some(file.ordinal),
                length: Some(upload.object.size),
                facts: Vec::new(),
                lifetime: LIFETIME,
                under_way: UnderWay::default(),
            })),
            (None, Some(_)) => {
                let hold = HOLD;
                TusCall::Lock(self.leader.ask(LockTus { tenant, id, hold }))
            }
            (Some(held), row) => match held.state {
                TusState::Done => {
                    let lock = held.lock;
                    TusCall::End(self.leader.ask(EndTus { tenant, id, lock }))
                }
                TusState::Whole => {
                    // The pieces are made one object, which lands before anybody hears of it.
                    let (target, object) = (upload.target, upload.object.clone());
                    let etag = object.etag.clone();
                    self.landing.insert((file, target), object);
                    let request = self.key("ConfirmUploads");
                    let uploads = vec![ConfirmedUpload {
                        ordinal: file.ordinal,
                        target,
                        etag,
                    }];
                    TusCall::Confirm(self.leader.ask(ConfirmUploads {
                        foreign: HashSet::new(),
                        batch: file.batch_ref(),
                        request,
                        uploads,
                    }))
                }
                TusState::Open => {
                    let more = self.dice.random_range(0..=upload.object.size);
                    let received = (held.received + more).min(upload.object.size);
                    let whole = received == upload.object.size;
                    let state = [TusState::Open, TusState::Whole][usize::from(whole)];
                    let advance = advance(held, received, state, Some(HOLD));
                    let stale = row.is_none_or(|row| row.lock > held.lock);
                    TusCall::Advance(stale, self.leader.ask(advance))
                }
            },
        };
        self.uploads[at].gateways[which].call = Some(call);
        Next::GoesOn
    }

    fn finish_tus_call(&mut self, at: usize, which: usize, call: TusCall) -> Next {
        let mut violation = None;
        let now = self.now();
        let gateway = &mut self.uploads[at].gateways[which];
        macro_rules! answer {
            ($answer:ident, $again:expr) => {
                match answered(&mut $answer) {
                    None => {
                        gateway.call = Some($again);
                        return Next::Waits;
                    }
                    // Nobody answered: it is asked again.
                    Some(None) => return Next::GoesOn,
                    Some(Some(answer)) => answer,
                }
            };
        }
        let next = match call {
            TusCall::Create(mut answer) => match answer!(answer, TusCall::Create(answer)) {
                Ok(_) => Next::GoesOn,
                Err(_) => Next::Ends,
            },
            TusCall::Lock(mut answer) => match answer!(answer, TusCall::Lock(answer)) {
                Ok(row) if row.state == TusState::Done => Next::Ends,
                Ok(row) => {
                    gateway.held = Some(row);
                    Next::GoesOn
                }
                Err(refusal) if refusal.reason == "NOT_FOUND" => Next::Ends,
                Err(_) => {
                    gateway.waits_until = Some(now.plus(HOLD / 4));
                    Next::Waits
                }
            },
            TusCall::Advance(stale, mut answer) => {
                match answer!(answer, TusCall::Advance(stale, answer)) {
                    Ok(row) => {
                        if stale {
                            violation = Some(format!(
                                "a gateway wrote whose right had gone to another: {row:?}"
                            ));
                        }
                        gateway.held = Some(row);
                        Next::GoesOn
                    }
                    Err(_) => {
                        gateway.held = None;
                        Next::Waits
                    }
                }
            }
            TusCall::Confirm(mut answer) => match answer!(answer, TusCall::Confirm(answer)) {
                // Confirmed, or refused because the file waits for it no more.
                Ok(_) => {
                    let held = gateway.held.as_mut();
                    let done = held.map(|held| {
                        held.state = TusState::Done;
                        advance(held, held.received, TusState::Done, Some(HOLD))
                    });
                    if let Some(done) = done {
                        let answer = self.leader.ask(done);
                        gateway.call = Some(TusCall::Advance(false, answer));
                    }
                    Next::GoesOn
                }
                Err(_) => Next::Ends,
            },
            TusCall::End(mut answer) => match answer!(answer, TusCall::End(answer)) {
                Ok(()) | Err(_) => Next::Ends,
            },
        };
        self.violations.extend(violation);
        next
    }
}

fn advance(held: &TusRow, received: u64, state: TusState, hold: Option<Duration>) -> AdvanceTus {
    AdvanceTus {
        tenant: held.tenant,
        id: held.id,
        batch: held.batch,
        lock: held.lock,
        ordinal: held.ordinal,
        length: held.length,
        received,
        state,
        facts: held.facts.clone(),
        lifetime: LIFETIME,
        hold,
    }
}
