//! Slots and permits, with the limiter there, away, and back.

use std::time::Duration;

use caudal_domain::Stage;
use caudal_harness::{PATIENCE, eventually};
use caudal_node::permits::{Permit, PermitBlocks, PermitSettings};
use caudal_node::slots::{SlotHolder, SlotSettings};
use caudal_node::{MeshSecret, ServerLimits};
use caudal_proto::mesh::v1::PermitKind;
use tokio_util::sync::CancellationToken;

use crate::fakes::{FakeLimiter, Running};

fn slot_settings() -> SlotSettings {
    SlotSettings {
        stage: Stage::Upload,
        process: "p1".to_owned(),
        want: 8,
        local_share: 2,
    }
}

async fn granted(holder: &SlotHolder, slots: u32) {
    let mut granted = holder.granted();
    let waited = tokio::time::timeout(PATIENCE, granted.wait_for(|now| *now == slots)).await;
    assert!(
        waited.is_ok(),
        "{slots} slots were not granted, but {}",
        *holder.granted().borrow()
    );
}

#[tokio::test]
async fn slots_come_from_the_limiter_fall_back_to_the_local_share_and_are_announced_again() {
    let limits = ServerLimits {
        drain_deadline: Duration::from_millis(50),
        ..ServerLimits::default()
    };
    let limiter = FakeLimiter::default();
    {
        let mut state = limiter.state.lock().unwrap();
        state.slots = 5;
        state.valid_for = Duration::from_millis(300);
    }
    let secret = MeshSecret::generate();
    let mut running = Running::start_with(
        limits.clone(),
        limiter.clone(),
        secret.clone(),
        "127.0.0.1:0",
    )
    .await;
    let holder = SlotHolder::start(
        running.limiter(),
        slot_settings(),
        &CancellationToken::new(),
    );
    granted(&holder, 5).await;
    holder.set_want(3);
    granted(&holder, 3).await;
    holder.set_want(8);
    granted(&holder, 5).await;

    running.shutdown.cancel();
    (&mut running.task).await.unwrap();
    granted(&holder, 2).await;

    limiter.state.lock().unwrap().asked_slots.clear();
    let running = Running::start_with(limits, limiter.clone(), secret, &running.address).await;
    granted(&holder, 5).await;
    assert_eq!(limiter.state.lock().unwrap().asked_slots[0].have, 2);

    holder.stop().await;
    let last = limiter
        .state
        .lock()
        .unwrap()
        .asked_slots
        .last()
        .cloned()
        .unwrap();
    assert_eq!((last.want, last.have), (0, 0));
    drop(running);
}

#[tokio::test]
async fn permits_are_taken_in_blocks_and_spent_without_a_call() {
    let limiter = FakeLimiter::default();
    limiter.state.lock().unwrap().permits = 120;
    let running = Running::start_with(
        ServerLimits::default(),
        limiter.clone(),
        MeshSecret::generate(),
        "127.0.0.1:0",
    )
    .await;
    let settings = PermitSettings {
        kind: PermitKind::Calls,
        block: 50,
        local_share_per_second: 5.0,
        process: "p1".to_owned(),
    };
    let permits = PermitBlocks::new(running.limiter(), settings);
    for _ in 0..100 {
        assert_eq!(permits.try_acquire("tenant", 1).await, Permit::Granted);
    }
    assert_eq!(limiter.state.lock().unwrap().asked_permits.len(), 2);
    // 20 are left: a demand for 30 waits until there is more, and keeps what it was granted.
    assert!(matches!(
        permits.try_acquire("tenant", 30).await,
        Permit::NotYet(_)
    ));
    let refusal = permits.require("tenant", 30, "calls").await.unwrap_err();
    assert_eq!(refusal.reason, "RATE_LIMITED");
    limiter.state.lock().unwrap().permits = 10;
    let never = CancellationToken::new();
    let waited = permits.acquire("tenant", 30, &never);
    assert!(tokio::time::timeout(PATIENCE, waited).await.unwrap());
    let cancelled = CancellationToken::new();
    cancelled.cancel();
    assert!(!permits.acquire("tenant", 30, &cancelled).await);
}

#[tokio::test]
async fn permits_go_on_with_the_local_share_when_the_limiter_is_away() {
    let running = Running::start(ServerLimits::default()).await;
    let settings = PermitSettings {
        kind: PermitKind::ProviderTokens,
        block: 50,
        local_share_per_second: 5.0,
        process: "p1".to_owned(),
    };
    let permits = PermitBlocks::new(running.limiter(), settings);
    running.task.abort();
    eventually("the server is gone", async || running.task.is_finished()).await;
    // Nothing is granted before its time, and what is asked for above the share waits until enough is saved.
    let Permit::NotYet(wait) = permits.try_acquire("provider", 1).await else {
        panic!("granted before its time")
    };
    assert!(wait <= Duration::from_millis(200), "{wait:?}");
    let Permit::NotYet(wait) = permits.try_acquire("other", 15).await else {
        panic!("over the share")
    };
    assert!(
        wait > Duration::from_secs(2) && wait <= Duration::from_secs(3),
        "{wait:?}"
    );
    let begun = std::time::Instant::now();
    let never = CancellationToken::new();
    for _ in 0..8 {
        let waited = permits.acquire("provider", 1, &never);
        assert!(tokio::time::timeout(PATIENCE, waited).await.unwrap());
    }
    assert!(begun.elapsed() >= Duration::from_millis(1300));
}

#[tokio::test]
async fn a_penalty_holds_here_at_once_and_is_told_to_the_limiter() {
    let limiter = FakeLimiter::default();
    limiter.state.lock().unwrap().permits = 1000;
    let running = Running::start_with(
        ServerLimits::default(),
        limiter.clone(),
        MeshSecret::generate(),
        "127.0.0.1:0",
    )
    .await;
    let settings = PermitSettings {
        kind: PermitKind::ProviderRequests,
        block: 50,
        local_share_per_second: 5.0,
        process: "p1".to_owned(),
    };
    let permits = PermitBlocks::new(running.limiter(), settings);
    assert_eq!(permits.try_acquire("openai", 1).await, Permit::Granted);
    permits.penalize("openai", Duration::from_secs(30)).await;
    let Permit::NotYet(wait) = permits.try_acquire("openai", 1).await else {
        panic!("granted in a penalty")
    };
    assert!(wait > Duration::from_secs(25));
    assert_eq!(limiter.state.lock().unwrap().penalties, ["openai"]);
}
