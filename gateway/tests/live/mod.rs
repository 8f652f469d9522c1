//! Streams: what watchers fold is what the ledger has, whatever happens on the way; and the record of events.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use caudal_harness::{Redis, eventually};
use caudal_node::hints::Publisher;
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::status::from_status;
use caudal_proto::v1;
use caudal_proto::v1::batch_service_client::BatchServiceClient;
use caudal_proto::v1::event_service_client::EventServiceClient;
use caudal_proto::v1::watch_batch_response::Message;
use caudal_proto::v1::watch_events_request::From as Start;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Streaming};

use crate::batch_name;
use crate::fake::{BATCH, Progress, TENANT, World};

const LONG_ENOUGH: Duration = Duration::from_secs(20);

/// What a client knows.
#[derive(Default)]
struct Seen {
    progress: Progress,
    snapshots: usize,
    messages: usize,
}

impl Seen {
    fn apply(&mut self, message: Message) {
        self.messages += 1;
        let (revision, batch, files, folders) = match message {
            Message::Snapshot(part) => {
                if part.batch.is_some() {
                    self.snapshots += 1;
                    self.progress = Progress::default();
                }
                // In the middle of a snapshot nothing is known yet.
                let revision = if part.last { part.revision } else { 0 };
                (revision, part.batch, part.files, part.folders)
            }
            Message::Changes(changes) => {
                assert!(self.progress.revision > 0 && changes.revision > self.progress.revision);
                (
                    changes.revision,
                    changes.batch,
                    changes.files,
                    changes.folders,
                )
            }
            Message::Closing(closing) => panic!("{closing:?}"),
            Message::Alive(_) => return,
        };
        self.progress.revision = revision;
        if let Some(batch) = batch {
            self.progress.counts = batch.counts;
        }
        if let Some(files) = files {
            let mut ordinal = files.first_ordinal;
            for (row, delta) in files.ordinal_delta.iter().enumerate() {
                ordinal += delta;
                let value = (files.state[row], files.detail[row]);
                self.progress.files.insert(ordinal, value);
            }
        }
        if let Some(folders) = folders {
            let mut ordinal = 0;
            for (row, delta) in folders.ordinal_delta.iter().enumerate() {
                ordinal += delta;
                let counters = [
                    folders.total[row],
                    folders.processed[row],
                    folders.failed[row],
                    folders.cancelled[row],
                ];
                self.progress.folders.insert(ordinal, counters);
            }
        }
    }
}

async fn watch(
    world: &World,
    channel: Channel,
    after_revision: i64,
) -> Streaming<v1::WatchBatchResponse> {
    let request = v1::WatchBatchRequest {
        name: batch_name(),
        after_revision,
    };
    BatchServiceClient::new(channel)
        .watch_batch(world.request(request))
        .await
        .unwrap()
        .into_inner()
}

async fn next(stream: &mut Streaming<v1::WatchBatchResponse>) -> Message {
    let message = timeout(LONG_ENOUGH, stream.message()).await.unwrap();
    message.unwrap().unwrap().message.unwrap()
}

fn quick(settings: &mut caudal_gateway::Settings) {
    settings.watch.min_interval = Duration::from_millis(2);
    settings.watch.poll_interval = Duration::from_millis(5);
    settings.watch.backlog = 2;
    settings.limits.send_buffer_bytes = 1024;
}

/// Reads, dawdles and leaves at random until it knows all of a batch that rests.
async fn reader(world: Arc<World>, rests: Arc<AtomicBool>, mut random: StdRng) -> Seen {
    let mut seen = Seen::default();
    let channel = world.narrow_channel();
    loop {
        if random.random_bool(0.2) {
            seen.progress = Progress::default();
        }
        let mut stream = watch(&world, channel.clone(), seen.progress.revision).await;
        for _ in 0..random.random_range(1..30) {
            let is_done = rests.load(Ordering::Acquire)
                && seen.progress.revision == world.ledger.progress().revision;
            if is_done {
                return seen;
            }
            // It rests for good perhaps, and nothing more comes to somebody who knows all.
            let Ok(message) = timeout(Duration::from_millis(300), stream.message()).await else {
                continue;
            };
            seen.apply(message.unwrap().unwrap().message.unwrap());
            if seen.progress.revision > 0 {
                assert_eq!(world.ledger.outdated(&seen.progress), None);
            }
            if random.random_bool(0.1) {
                tokio::time::sleep(Duration::from_millis(random.random_range(0..200))).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_and_the_messages_after_it_fold_to_what_the_ledger_has_whatever_happens() {
    const READERS: u64 = 6;
    for seed in 0..3 {
        let tune = |settings: &mut caudal_gateway::Settings| {
            quick(settings);
            settings.watch.backlog = 1;
        };
        let world = Arc::new(World::tuned(tune).await);
        let rests = Arc::new(AtomicBool::new(false));
        let mut readers = tokio::task::JoinSet::new();
        for one in 0..READERS {
            let random = StdRng::seed_from_u64(seed * READERS + one);
            readers.spawn(reader(Arc::clone(&world), Arc::clone(&rests), random));
        }
        let mut random = StdRng::seed_from_u64(seed + 1000);
        for _ in 0..250 {
            let moves: Vec<_> = (0..random.random_range(1..400))
                .map(|_| {
                    (
                        random.random_range(0..2000),
                        random.random_range(1..10),
                        random.random(),
                    )
                })
                .collect();
            world.ledger.commit_all(&moves);
            if random.random_bool(0.05) {
                let revision = world.ledger.progress().revision;
                world
                    .ledger
                    .forget_changes_before(revision - random.random_range(0..10));
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(0..6))).await;
        }
        rests.store(true, Ordering::Release);
        while let Some(seen) = timeout(LONG_ENOUGH, readers.join_next()).await.unwrap() {
            assert_eq!(
                seen.unwrap().progress,
                world.ledger.progress(),
                "seed {seed}"
            );
        }
        Arc::into_inner(world).unwrap().stop().await;
    }
}

#[tokio::test]
async fn a_reader_that_is_too_slow_gets_a_fresh_snapshot_and_nobody_waits_for_it() {
    const COMMITS: u32 = 80;
    let world = World::tuned(quick).await;
    let mut slow = watch(&world, world.narrow_channel(), 0).await;
    let mut brisk = watch(&world, world.channel(), 0).await;
    let (mut seen_slowly, mut seen) = (Seen::default(), Seen::default());
    while seen.progress.revision == 0 {
        seen.apply(next(&mut brisk).await);
    }
    for commit in 0..COMMITS {
        let moves: Vec<_> = (0..2_000)
            .map(|ordinal| (ordinal, 1 + commit % 9, commit * 1_000_003 + ordinal))
            .collect();
        world.ledger.commit_all(&moves);
        while seen.progress.revision < world.ledger.progress().revision {
            seen.apply(next(&mut brisk).await);
        }
    }
    assert_eq!(seen.snapshots, 1);
    assert_eq!(seen.progress, world.ledger.progress());

    while seen_slowly.progress.revision < world.ledger.progress().revision {
        seen_slowly.apply(next(&mut slow).await);
    }
    assert_eq!(seen_slowly.progress, world.ledger.progress());
    assert!(
        seen_slowly.snapshots > 1,
        "{} snapshots",
        seen_slowly.snapshots
    );
    assert!(
        seen_slowly.messages < 40,
        "{} messages were kept",
        seen_slowly.messages
    );
    world.stop().await;
}

#[tokio::test]
async fn the_watchers_of_a_batch_cost_the_ledger_what_one_costs() {
    const WATCHERS: usize = 60;
    let world = World::start().await;
    let channel = world.channel();
    let mut watchers = Vec::new();
    for _ in 0..WATCHERS {
        watchers.push((watch(&world, channel.clone(), 0).await, Seen::default()));
    }
    for revision in 2..=4 {
        world.ledger.commit(revision, 7, v1::FileState::Queued);
        for (stream, seen) in &mut watchers {
            while seen.progress.revision < revision {
                seen.apply(next(stream).await);
            }
        }
    }
    let (reads, snapshots) = world.ledger.reads();
    // One feed asks every 50 ms; what a watcher asks of its own is where it has to catch up.
    assert!(reads < WATCHERS, "changes were read {reads} times");
    assert!(snapshots <= 3, "{snapshots} snapshots were read");
    world.stop().await;
}

/// Some work for the gateway, in whose course it could do much else.
async fn a_hundred_calls(world: &World) {
    let mut batches = BatchServiceClient::new(world.channel());
    for _ in 0..100 {
        let get = v1::GetBatchRequest { name: batch_name() };
        batches.get_batch(world.request(get)).await.unwrap();
    }
}

async fn hint(hints: &Publisher, batch_revision: i64) {
    let changed = mesh::ChangedBatch {
        tenant: TENANT.as_bytes().to_vec().into(),
        batch: BATCH.as_bytes().to_vec().into(),
        batch_revision,
    };
    hints.publish(vec![changed]).await.unwrap();
}

/// Nothing is asked of its own accord here: each read of changes has its cause.
#[tokio::test]
async fn a_hint_of_what_the_ledger_does_not_have_makes_one_question_and_deafens_to_no_other() {
    let redis = Redis::start().await.unwrap();
    let hints = Publisher::new(&redis.url()).unwrap();
    let world = World::hinted(redis.url(), |settings| {
        settings.watch.min_interval = Duration::from_millis(2);
        settings.watch.poll_interval = Duration::from_secs(3600);
    })
    .await;
    let mut stream = watch(&world, world.channel(), 0).await;
    let mut seen = Seen::default();
    let mut until = async |revision| {
        while seen.progress.revision < revision {
            seen.apply(next(&mut stream).await);
        }
    };
    until(1).await;
    world.ledger.commit(2, 7, v1::FileState::Queued);
    hint(&hints, 2).await;
    until(2).await;

    let (before, _) = world.ledger.reads();
    hint(&hints, 9).await;
    let asked = async {
        while world.ledger.reads().0 == before {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG_ENOUGH, asked).await.unwrap();
    a_hundred_calls(&world).await;
    let (after, _) = world.ledger.reads();
    assert!(
        after <= before + 2,
        "one hint, and one that may have come late, made {} questions",
        after - before
    );

    world.ledger.commit(3, 7, v1::FileState::Processed);
    hint(&hints, 3).await;
    until(3).await;
    world.stop().await;
}

#[tokio::test]
async fn a_ledger_that_has_gone_back_is_told_anew_to_all_when_somebody_joins() {
    let world = World::tuned(quick).await;
    let mut old = watch(&world, world.channel(), 0).await;
    let (mut seen, mut seen_late) = (Seen::default(), Seen::default());
    while seen.progress.revision == 0 {
        seen.apply(next(&mut old).await);
    }
    world.ledger.commit(2, 7, v1::FileState::Queued);
    let kept = world.ledger.progress();
    for revision in 3..=5 {
        world.ledger.commit(revision, 8, v1::FileState::Queued);
    }
    while seen.progress.revision < 5 {
        seen.apply(next(&mut old).await);
    }

    world.ledger.go_back_to(kept);
    let mut late = watch(&world, world.channel(), 0).await;
    while seen.snapshots < 2 {
        seen.apply(next(&mut old).await);
    }
    world.ledger.commit(3, 9, v1::FileState::Processed);
    for (stream, seen) in [(&mut old, &mut seen), (&mut late, &mut seen_late)] {
        while seen.progress.revision != 3 {
            seen.apply(next(stream).await);
        }
        assert_eq!(seen.progress, world.ledger.progress());
    }
    assert!(
        seen_late.snapshots <= 3,
        "{} snapshots were sent",
        seen_late.snapshots
    );
    world.stop().await;
}

#[tokio::test]
async fn a_stream_that_is_too_old_says_where_to_go_on() {
    let world = World::tuned(|settings| {
        settings.watch.max_age = Duration::from_millis(300);
    })
    .await;
    world.ledger.commit(2, 7, v1::FileState::Queued);
    let mut stream = watch(&world, world.channel(), 1).await;
    let mut seen = Vec::new();
    let closing = loop {
        match next(&mut stream).await {
            Message::Changes(changes) => seen.push(changes.revision),
            Message::Closing(closing) => break closing,
            Message::Snapshot(_) => panic!("the changes are kept"),
            Message::Alive(_) => {}
        }
    };
    assert_eq!(seen, [2]);
    assert_eq!(
        (closing.reason(), closing.after_revision),
        (v1::ClosingReason::MaxAge, 2)
    );
    assert!(stream.message().await.unwrap().is_none());
    world.stop().await;
}

#[tokio::test]
async fn a_stream_of_which_nothing_is_told_says_that_it_is_alive() {
    let world = World::tuned(|settings| {
        settings.watch.sign_of_life = Duration::from_millis(50);
    })
    .await;
    world.ledger.commit(2, 7, v1::FileState::Queued);
    let mut stream = watch(&world, world.channel(), 1).await;
    // A busy machine may be slower than the first sign.
    loop {
        match next(&mut stream).await {
            Message::Changes(_) => break,
            Message::Alive(_) => {}
            other => panic!("the changes are kept: {other:?}"),
        }
    }
    let begun = std::time::Instant::now();
    for sign in 1..=3 {
        let message = next(&mut stream).await;
        assert!(matches!(message, Message::Alive(_)), "{message:?}");
        assert!(begun.elapsed() >= Duration::from_millis(50 * sign));
    }
    world.stop().await;
}

#[tokio::test]
async fn a_call_finds_the_ledger_that_leads_and_outlives_a_takeover() {
    let world = World::tuned(|settings| settings.takeover_patience = LONG_ENOUGH).await;
    let mut batches = BatchServiceClient::new(world.channel());
    let get = || world.request(v1::GetBatchRequest { name: batch_name() });
    // The first address stands by.
    batches.get_batch(get()).await.unwrap();
    let mut stream = watch(&world, world.channel(), 0).await;
    let mut seen = Seen::default();
    while seen.progress.revision == 0 {
        seen.apply(next(&mut stream).await);
    }

    let asked = world.ledger.forwarded().len();
    world.stop_ledger().await;
    let turned_away = world.standby.turned_away();
    world.standby.set_progress(world.ledger.progress());
    let takeover = async {
        // Nobody leads when the call comes.
        eventually("the call to be turned away", async || {
            world.standby.turned_away() > turned_away
        })
        .await;
        world.standby.stand_by_for(None);
        world.standby.commit(2, 7, v1::FileState::Queued);
    };
    let (answer, ()) = tokio::join!(batches.get_batch(get()), takeover);
    answer.unwrap();
    assert_eq!(world.ledger.forwarded().len(), asked);
    while seen.progress.revision < 2 {
        seen.apply(next(&mut stream).await);
    }
    assert_eq!(seen.progress, world.standby.progress());
    world.stop().await;
}

#[tokio::test]
async fn a_ledger_that_gives_up_the_lead_is_left_for_the_one_it_names() {
    let world = World::start().await;
    let mut batches = BatchServiceClient::new(world.channel());
    let get = || world.request(v1::GetBatchRequest { name: batch_name() });
    batches.get_batch(get()).await.unwrap();
    world.standby.stand_by_for(None);
    let named = world.standby_address.clone();
    world.ledger.stand_by_for(Some(named));
    batches.get_batch(get()).await.unwrap();
    assert!(!world.standby.forwarded().is_empty());
    world.stop().await;
}

async fn events(
    world: &World,
    from: Option<Start>,
    batch: &str,
) -> Result<Streaming<v1::WatchEventsResponse>, tonic::Status> {
    let request = v1::WatchEventsRequest {
        from,
        batch: batch.to_owned(),
        heartbeat: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
    };
    let mut client = EventServiceClient::new(world.channel());
    Ok(client
        .watch_events(world.request(request))
        .await?
        .into_inner())
}

async fn page(stream: &mut Streaming<v1::WatchEventsResponse>) -> (usize, i64) {
    let message = timeout(LONG_ENOUGH, stream.message()).await.unwrap();
    let message = message.unwrap().unwrap();
    (message.events.len(), message.cursor)
}

#[tokio::test]
async fn events_come_from_a_cursor_from_the_beginning_or_from_now_on() {
    let world = World::start().await;
    world.ledger.tell(1, 2);
    world.ledger.tell(2, 1);
    let earliest = Some(Start::Start(v1::EventStart::Earliest.into()));
    let mut earliest = events(&world, earliest, "").await.unwrap();
    assert_eq!(page(&mut earliest).await, (3, 2));
    let mut after = events(&world, Some(Start::AfterCursor(1)), &batch_name())
        .await
        .unwrap();
    assert_eq!(page(&mut after).await, (1, 2));
    let mut now = events(&world, None, "").await.unwrap();
    assert_eq!(
        page(&mut now).await,
        (0, 2),
        "whoever begins now is told where that is"
    );

    world.ledger.tell(5, 700);
    for stream in [&mut earliest, &mut after, &mut now] {
        assert_eq!(
            page(stream).await,
            (500, 2),
            "not all of the cursor is sent"
        );
        assert_eq!(page(stream).await, (200, 5));
        assert_eq!(page(stream).await, (0, 5), "a heartbeat");
    }
    world.shutdown.cancel();
    for stream in [&mut earliest, &mut after, &mut now] {
        assert!(stream.message().await.unwrap().is_none());
    }
    world.stop().await;
}

#[tokio::test]
async fn a_ledger_that_promises_events_and_tells_none_is_asked_now_and_then() {
    let world = World::tuned(|settings| {
        settings.watch.poll_interval = Duration::from_secs(3600);
    })
    .await;
    world.ledger.tell(1, 1);
    world.ledger.promise_events();
    let begun = std::time::Instant::now();
    let earliest = Some(Start::Start(v1::EventStart::Earliest.into()));
    let mut stream = events(&world, earliest, "").await.unwrap();
    assert_eq!(page(&mut stream).await, (1, 1));
    a_hundred_calls(&world).await;
    // One that tells, one that does not, and one for each heartbeat.
    let reads = world.ledger.reads_of_events();
    let most = 3 + usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!(reads <= most, "{reads} of at most {most}");
    world.stop().await;
}

#[tokio::test]
async fn events_that_are_gone_and_cursors_that_never_were_are_told_apart() {
    let world = World::start().await;
    for cursor in 1..=9 {
        world.ledger.tell(cursor, 1);
    }
    world.ledger.forget_events_before(5);
    let refused =
        async |from, batch: &str| from_status(&events(&world, from, batch).await.unwrap_err());
    let gone = refused(Some(Start::AfterCursor(2)), "").await;
    assert_eq!(
        (gone.code, gone.reason.as_str()),
        (Code::FailedPrecondition, "EVENTS_NOT_KEPT")
    );
    for never in [10, -1] {
        let never = refused(Some(Start::AfterCursor(never)), "").await;
        assert_eq!(never.code, Code::InvalidArgument);
        assert_eq!(never.violations[0].field, "after_cursor");
    }
    let nowhere = refused(None, "batches/x").await;
    assert_eq!(nowhere.violations[0].field, "batch");
    world.ledger.erase_batch();
    let erased = refused(None, &batch_name()).await;
    assert_eq!(erased.code, Code::NotFound);
    world.stop().await;
}

#[tokio::test]
async fn a_stream_of_events_ends_when_its_key_is_revoked() {
    let world = World::start().await;
    let mut stream = events(&world, None, "").await.unwrap();
    assert_eq!(page(&mut stream).await, (0, 0));
    world.ledger.revoke_keys();
    let refused = loop {
        match timeout(LONG_ENOUGH, stream.message()).await.unwrap() {
            Ok(message) => assert!(message.unwrap().events.is_empty()),
            Err(status) => break status,
        }
    };
    assert_eq!(refused.code(), Code::Unauthenticated);
    world.stop().await;
}
