//! The readable record of a tenant or of one batch, as the ledger lists it: at least once, from a cursor on.

use std::time::Duration;

use caudal_domain::limits::MAX_EVENTS_PER_MESSAGE;
use caudal_domain::{BatchId, Refusal, TenantId, parse_batch_name};
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::status::to_status;
use caudal_proto::v1;
use caudal_proto::v1::watch_events_request::From as Start;
use caudal_proto::v1::{ClosingReason, EventStart, WatchEventsResponse};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::auth::Caller;
use crate::ledger::{Ledger, passed_on};
use crate::live::{
    Live, LiveStream, Outlet, ReaderGone, RetryWindow, StreamPlace, is_about_the_caller, revoked,
};
use crate::wakeups::{Wakeup, Wakeups};

const DEFAULT_HEARTBEAT: Duration = Duration::from_secs(30);
const SHORTEST_HEARTBEAT: Duration = Duration::from_secs(1);

/// Asks where the end is.
const END: i64 = -1;
const BEGINNING: i64 = 0;

/// What a stream of events tells, as tonic takes it.
pub(crate) type EventStream = LiveStream<WatchEventsResponse>;

/// Opens streams of events.
#[derive(Clone)]
pub(crate) struct Events {
    ledger: Ledger,
    wakeups: Wakeups,
    live: Live,
}

impl Events {
    pub(crate) fn new(ledger: Ledger, wakeups: Wakeups, live: Live) -> Self {
        Self {
            ledger,
            wakeups,
            live,
        }
    }

    /// Opens one. What can be refused is refused here, before the stream begins.
    pub(crate) async fn open(
        &self,
        caller: Caller,
        tenant: TenantId,
        request: &v1::WatchEventsRequest,
    ) -> Result<EventStream, Status> {
        let heartbeat = heartbeat(request.heartbeat.as_ref())?;
        let batch = match request.batch.as_str() {
            "" => None,
            name => {
                Some(parse_batch_name(name).map_err(|error| to_status(&error.refusal("batch")))?)
            }
        };
        let cursor = cursor(request.from.as_ref())?;
        let place = self.live.place(tenant, &caller.scope)?;
        let (outlet, stream) = Outlet::new(&self.live.settings);
        let teller = Teller {
            wakeup: self.wakeups.listen(tenant, batch),
            ledger: self.ledger.clone(),
            live: self.live.clone(),
            caller,
            batch,
            cursor,
            heartbeat,
            outlet,
            _place: place,
        };
        let first = teller
            .page_after(cursor)
            .await
            .map_err(|status| passed_on(&status))?;
        self.live.tasks.spawn(teller.run(first));
        Ok(stream)
    }
}

fn heartbeat(asked: Option<&prost_types::Duration>) -> Result<Duration, Status> {
    let Some(asked) = asked else {
        return Ok(DEFAULT_HEARTBEAT);
    };
    Duration::try_from(*asked)
        .ok()
        .filter(|heartbeat| *heartbeat >= SHORTEST_HEARTBEAT)
        .ok_or_else(|| to_status(&Refusal::invalid("heartbeat", "must be 1 s or longer")))
}

fn cursor(from: Option<&Start>) -> Result<i64, Status> {
    match from {
        Some(Start::AfterCursor(cursor)) if *cursor >= 0 => Ok(*cursor),
        Some(Start::AfterCursor(_)) => Err(to_status(&Refusal::invalid(
            "after_cursor",
            "must be a cursor that you were told, or 0 for the oldest event that is kept",
        ))),
        Some(Start::Start(start)) if *start == EventStart::Earliest as i32 => Ok(BEGINNING),
        _ => Ok(END),
    }
}

struct Teller {
    ledger: Ledger,
    live: Live,
    caller: Caller,
    batch: Option<BatchId>,
    wakeup: Wakeup,
    /// Everything up to here was sent.
    cursor: i64,
    heartbeat: Duration,
    outlet: Outlet<WatchEventsResponse>,
    _place: StreamPlace,
}

enum End {
    /// As streams end.
    Quietly,
    Failed(Status),
    ReaderGone,
}

impl From<ReaderGone> for End {
    fn from(_: ReaderGone) -> Self {
        Self::ReaderGone
    }
}

impl Teller {
    async fn run(mut self, first: mesh::ListEventsResponse) {
        let (live, outlet) = (self.live.clone(), self.outlet.clone());
        let credential = self.caller.credential.clone();
        let end = tokio::select! {
            biased;
            reason = live.over(&credential) => match reason {
                ClosingReason::Revoked => End::Failed(revoked()),
                _ => End::Quietly,
            },
            () = outlet.closed() => End::ReaderGone,
            end = self.tell(first) => end,
        };
        if let End::Failed(status) = end {
            // The last message: nobody is left to tell.
            let _gone = self.outlet.send(Err(passed_on(&status))).await;
        }
    }

    async fn tell(&mut self, first: mesh::ListEventsResponse) -> End {
        // Whoever begins with what happens from now on is told where that is.
        let said = match self.cursor {
            END => self.send(Vec::new(), first.cursor).await,
            _ => Ok(()),
        };
        if said.is_err() {
            return End::ReaderGone;
        }
        match self.pages(first).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    async fn pages(
        &mut self,
        first: mesh::ListEventsResponse,
    ) -> Result<std::convert::Infallible, End> {
        let (min_interval, poll_interval, patience) = {
            let settings = &self.live.settings;
            (
                settings.min_interval,
                settings.poll_interval,
                settings.patience,
            )
        };
        let mut window = RetryWindow::default();
        let mut spoke_at = Instant::now();
        let mut page = Some(first);
        loop {
            let mut more = false;
            if let Some(page) = page.take() {
                // One that does not go on has nothing more now, whatever it says.
                more = page.more && page.cursor > self.cursor;
                if self.send_page(page).await? {
                    spoke_at = Instant::now();
                }
            }
            if spoke_at.elapsed() >= self.heartbeat {
                self.send(Vec::new(), self.cursor).await?;
                spoke_at = Instant::now();
            }
            if !more {
                tokio::time::sleep(min_interval).await;
                let heartbeat_in = self.heartbeat.saturating_sub(spoke_at.elapsed());
                // Nobody hinted: that is no proof that nothing happened.
                let hint = self.wakeup.anything();
                let _no_hint = tokio::time::timeout(poll_interval.min(heartbeat_in), hint).await;
            }
            match self.page_after(self.cursor).await {
                Ok(next) => {
                    window.close();
                    page = Some(next);
                }
                Err(status) if may_pass(&status) => {
                    window
                        .wait_after(status, patience)
                        .await
                        .map_err(End::Failed)?;
                }
                Err(status) => return Err(End::Failed(status)),
            }
        }
    }

    async fn page_after(&self, cursor: i64) -> Result<mesh::ListEventsResponse, Status> {
        let page = self.list(cursor).await?;
        if !page.too_old {
            return Ok(page);
        }
        let end = self.list(END).await?.cursor;
        if cursor > end {
            let words =
                format!("is beyond the last event, {end}: pass a cursor that you were told");
            return Err(to_status(&Refusal::invalid("after_cursor", words)));
        }
        Err(to_status(&Refusal::failed_precondition(
            "EVENTS_NOT_KEPT",
            "the events after this cursor are no longer kept: read the state with ListBatches and ListFiles, \
             and begin with EVENT_START_EARLIEST",
        )))
    }

    async fn list(&self, after_cursor: i64) -> Result<mesh::ListEventsResponse, Status> {
        let batch = self.batch.map(|batch| batch.as_bytes().to_vec());
        let request = mesh::ListEventsRequest {
            batch: batch.unwrap_or_default().into(),
            after_cursor,
        };
        let scope = &self.caller.scope;
        let page = self.ledger.call(scope, request, |ledger, request| {
            let mut mesh = ledger.mesh();
            async move { mesh.list_events(request).await }
        });
        page.await
    }

    /// Sends a page in messages of bounded length; only the last of them says that all up to the page's cursor was sent.
    /// Answers whether there was anything to send.
    async fn send_page(&mut self, page: mesh::ListEventsResponse) -> Result<bool, ReaderGone> {
        let mut events = page.events;
        let had_events = !events.is_empty();
        while events.len() > MAX_EVENTS_PER_MESSAGE {
            let rest = events.split_off(MAX_EVENTS_PER_MESSAGE);
            // The cursor before: a reader that breaks off here gets the whole page again.
            self.send(events, self.cursor.max(BEGINNING)).await?;
            events = rest;
        }
        if had_events {
            self.send(events, page.cursor).await?;
        }
        self.cursor = page.cursor;
        Ok(had_events)
    }

    async fn send(&self, events: Vec<v1::Event>, cursor: i64) -> Result<(), ReaderGone> {
        self.outlet
            .send(Ok(WatchEventsResponse { events, cursor }))
            .await
    }
}

/// Whether an error of the ledger is worth another try.
fn may_pass(status: &Status) -> bool {
    let is_final = matches!(
        status.code(),
        Code::NotFound | Code::InvalidArgument | Code::FailedPrecondition
    );
    !is_final && !is_about_the_caller(status)
}
