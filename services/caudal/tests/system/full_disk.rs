//! A disk that is full for a while, under the whole system.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use caudal_harness::{SmallDisk, System};
use caudal_sdk::v1;
use tokio::sync::watch;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use uuid::Uuid;

use crate::{QUICK, binary, json, raw};

/// Room for what the tests bring, and little more.
const DISK_BYTES: u64 = 192 << 20;
const FILES: usize = 1_200;
const ROUNDS: usize = 5;
const PATIENCE: Duration = Duration::from_secs(90);

fn start() -> Option<System> {
    let disk = SmallDisk::new(DISK_BYTES).unwrap()?;
    Some(System::start_on(disk, binary(), &[]).unwrap())
}

/// What a member who makes one batch after another was told.
#[derive(Default)]
struct Told {
    /// Names of the batches that were made.
    made: BTreeSet<String>,
    /// How often the database's disk was full.
    full: usize,
}

/// Makes batches one after another, until told to stop.
async fn keep_making(system: &System, mut stop: watch::Receiver<bool>, told: watch::Sender<Told>) {
    let mut batches = raw::batches(system);
    // Large enough that the disk soon has no room for it.
    let padding = "p".repeat(8 << 10);
    while !*stop.borrow_and_update() {
        let metadata = raw::metadata(&[("padding", &padding)]);
        let request = v1::CreateBatchRequest {
            batch: Some(v1::Batch {
                metadata: Some(metadata),
                ..v1::Batch::default()
            }),
            request_id: Uuid::new_v4().to_string(),
        };
        match batches.create_batch(request).await {
            Ok(made) => told.send_modify(|told| {
                told.made.insert(made.into_inner().name);
            }),
            Err(status) => {
                assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
                let is_full = status.message().contains("disk is full");
                told.send_modify(|told| told.full += usize::from(is_full));
            }
        }
    }
}

async fn until_told(told: &mut watch::Receiver<Told>, enough: impl Fn(&Told) -> bool) {
    tokio::time::timeout(PATIENCE, told.wait_for(|told| enough(told)))
        .await
        .expect("the member waits in vain")
        .unwrap();
}

async fn counts(system: &System, batch: &str) -> v1::FileCounts {
    let request = v1::GetBatchRequest {
        name: format!("batches/{batch}"),
    };
    let batch = raw::batches(system).get_batch(request).await.unwrap();
    batch.into_inner().counts.unwrap()
}

/// All batches that are listed.
async fn listed(system: &System) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListBatchesRequest {
            page_size: 100,
            page_token,
            ..v1::ListBatchesRequest::default()
        };
        let page = raw::batches(system).list_batches(request).await.unwrap();
        let page = page.into_inner();
        names.extend(page.batches.into_iter().map(|batch| batch.name));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return names;
        }
    }
}

// Protocol 12.4: whatever was answered is committed, and stays when the process is killed.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_five_times_in_mid_batch_loses_nothing_that_was_answered() {
    let Some(mut system) = start() else { return };
    let texts = tempfile::TempDir::new().unwrap();
    let texts = crate::texts_in(texts.path(), FILES);
    let ingest = system
        .command(&["ingest", texts.to_str().unwrap(), "--stages", QUICK])
        .args(["--output", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();

    let (stop, stopped) = watch::channel(false);
    let (tell, mut told) = watch::channel(Told::default());
    let ((), ()) = tokio::join!(keep_making(&system, stopped, tell), async {
        for round in 1..=ROUNDS {
            let disk = system.disk().unwrap();
            disk.fill().unwrap();
            until_told(&mut told, |told| told.full >= 3 * round).await;
            disk.free().unwrap();
            let before = told.borrow().made.len();
            until_told(&mut told, |told| told.made.len() > before).await;
        }
        stop.send_replace(true);
    });

    let ended = json(&ingest.wait_with_output().unwrap());
    println!("{ended}");
    let batch = ended["batch_id"].as_str().unwrap().to_owned();
    let before = counts(&system, &batch).await;
    // No file is charged for the room that the store did not have.
    assert_eq!(before.total, u32::try_from(FILES).unwrap());
    assert_eq!(before.processed, before.total, "{before:?}");
    assert_eq!(ended["outcomes"]["COMPLETE"], FILES, "{ended}");
    let made = told.borrow().made.clone();
    system.kill().unwrap();
    system.restart().unwrap();
    let listed = listed(&system).await;
    let lost: Vec<_> = made.difference(&listed).collect();
    assert!(lost.is_empty(), "answered, and lost: {lost:?}");
    assert_eq!(counts(&system, &batch).await, before);
    let lines = system.logged();
    let said = lines.matches("the database takes nothing").count();
    assert!(
        (1..=ROUNDS).contains(&said),
        "said {said} times in {ROUNDS} rounds"
    );
    system.verify().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_by_the_health_and_keeps_nobody_from_ending() {
    let Some(mut system) = start() else { return };
    let (stop, stopped) = watch::channel(false);
    let (tell, mut told) = watch::channel(Told::default());
    let ((), ()) = tokio::join!(keep_making(&system, stopped, tell), async {
        until_told(&mut told, |told| !told.made.is_empty()).await;
        let mut health = raw::health(&system);
        let watching = health.watch(HealthCheckRequest::default()).await.unwrap();
        let mut watching = watching.into_inner();
        let mut next = async || {
            let next = tokio::time::timeout(PATIENCE, watching.message());
            next.await.unwrap().unwrap().unwrap().status()
        };
        assert_eq!(next().await, ServingStatus::Serving);
        let disk = system.disk().unwrap();
        disk.fill().unwrap();
        assert_eq!(next().await, ServingStatus::NotServing);
        disk.free().unwrap();
        assert_eq!(next().await, ServingStatus::Serving);
        let before = told.borrow().made.len();
        until_told(&mut told, |told| told.made.len() > before).await;
        disk.fill().unwrap();
        let before = told.borrow().full;
        until_told(&mut told, |told| told.full > before).await;
        stop.send_replace(true);
    });
    let begun = Instant::now();
    let status = system.stop().unwrap();
    assert!(status.success(), "{status}");
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    system.disk().unwrap().free().unwrap();
    system.restart().unwrap();
    let listed = listed(&system).await;
    assert!(told.borrow().made.is_subset(&listed));
}
