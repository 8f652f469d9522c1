//! A connection that is cut between COMMIT and its answer: the ledger cannot know what happened, and nobody else ever
//! notices. On Postgres; SQLite is a file, and its COMMIT always answers.

use std::collections::HashMap;
use std::time::Duration;

use caudal_domain::{FileRef, Stage, Token, names};
use caudal_harness::{Database, Loss, PATIENCE, PostgresProxy, until};
use caudal_proto::mesh::v1::ReportVerdict;
use caudal_proto::v1::{
    AddEntriesRequest, Batch, BatchState, ConfirmUploadsRequest, CreateBatchRequest, FileState,
    ListBatchesRequest, Outcome, Uploaded, confirmation,
};
use tonic::{Code, Response, Status};
use uuid::Uuid;

use super::support::{TestLedger, file, finished, uploaded};

/// Files of a stage that may be out at once.
const WINDOW: usize = 4;

/// A ledger whose database is reached through a proxy.
async fn behind_a_proxy(database: Database) -> (TestLedger, PostgresProxy) {
    let mut proxy = None;
    let ledger = TestLedger::start_with(database, |settings| {
        let before = PostgresProxy::start(&settings.database_url).unwrap();
        settings.database_url = before.url();
        // A look at the rows is a COMMIT too: it must not come before the one that is to be lost.
        settings.reconcile_age = Duration::from_secs(3);
        let window = u32::try_from(WINDOW).unwrap();
        settings.windows.of_stage =
            HashMap::from([(Stage::Upload, window), (Stage::Metadata, window)]);
        proxy = Some(before);
    })
    .await;
    (ledger, proxy.unwrap())
}

/// Makes a call whose COMMIT is lost, and repeats it until it is answered.
async fn lose<T, F>(proxy: &PostgresProxy, loss: Loss, request_id: Uuid, call: impl Fn() -> F) -> T
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let lost = proxy.lose_commit(loss, request_id.as_bytes(), 0);
    let refused = call().await.err().map(|status| status.code());
    assert_eq!(refused, Some(Code::Unavailable));
    lost.await.unwrap();
    until("the repeated call to be answered", PATIENCE, || {
        let answered = call();
        async { answered.await.ok().map(Response::into_inner) }
    })
    .await
    .unwrap()
}

async fn nothing_is_doubled(database: Database, loss: Loss) {
    let (ledger, proxy) = behind_a_proxy(database).await;

    let id = Uuid::new_v4();
    let request = CreateBatchRequest {
        batch: Some(Batch::default()),
        request_id: id.to_string(),
    };
    let call = || {
        let (mut client, request) = (ledger.batches(), request.clone());
        async move { client.create_batch(request).await }
    };
    let made = lose(&proxy, loss, id, call).await;
    assert_eq!(made.state(), BatchState::Open);
    let batch = names::parse_batch_name(&made.name).unwrap();
    let list = ListBatchesRequest::default();
    let list = ledger.batches().list_batches(list).await.unwrap();
    let listed = list.into_inner().batches.into_iter();
    let listed: Vec<String> = listed.map(|batch| batch.name).collect();
    assert_eq!(listed, std::slice::from_ref(&made.name));

    let id = Uuid::new_v4();
    let request = AddEntriesRequest {
        batch: made.name.clone(),
        entries: (0..6)
            .map(|number| file(&format!("in/f{number}.bin"), 10))
            .collect(),
        request_id: id.to_string(),
    };
    let call = || {
        let (mut client, request) = (ledger.batches(), request.clone());
        async move { client.add_entries(request).await }
    };
    let added = lose(&proxy, loss, id, call).await;
    assert_eq!((added.first_ordinal, added.new_count), (0, 6));
    let folders: Vec<&str> = added
        .folders
        .iter()
        .map(|folder| folder.path.as_str())
        .collect();
    assert_eq!(folders, ["", "in"]);
    assert_eq!(ledger.batch(batch).await.counts.unwrap().total, 6);

    let id = Uuid::new_v4();
    let request = ConfirmUploadsRequest {
        batch: made.name.clone(),
        uploads: (0..6)
            .map(|ordinal| Uploaded {
                ordinal,
                target: 1,
                etag: "e".into(),
            })
            .collect(),
        request_id: id.to_string(),
    };
    let call = || {
        let (mut client, request) = (ledger.uploads(), request.clone());
        async move { client.confirm_uploads(request).await }
    };
    let confirmed = lose(&proxy, loss, id, call).await;
    let states: Vec<_> = confirmed
        .confirmations
        .into_iter()
        .map(|confirmation| confirmation.result.unwrap())
        .collect();
    assert_eq!(states.len(), 6);
    let went_on = |state: &confirmation::Result| {
        *state == confirmation::Result::State(FileState::Queued.into())
            || *state == confirmation::Result::State(FileState::Uploaded.into())
    };
    assert!(states.iter().all(went_on), "{states:?}");

    // Protocol 2.1: its places are right. Never more than the window is out, and none is lost.
    for (stage, report) in [
        (Stage::Upload, uploaded("application/x-unknown")),
        (Stage::Metadata, finished(Outcome::StoredOnly)),
    ] {
        work_off(&ledger, stage, &report, 6).await;
    }
    assert_eq!(ledger.complete(batch).await.state(), BatchState::Succeeded);
    // All the places are free again: a whole window goes out at once.
    let next = ledger.create(Batch::default()).await;
    let paths = ["a", "b", "c", "d", "e"];
    ledger.add(next, &paths).await;
    until("the places to be free", PATIENCE, async || {
        ledger.confirm(next, 0..5).await;
        (out(&ledger, Stage::Upload).await == WINDOW).then_some(())
    })
    .await
    .unwrap();
    ledger.verify().await;
}

/// Those of the pairs that the ledger grants.
async fn current(
    ledger: &TestLedger,
    stage: Stage,
    held: &[(FileRef, Token)],
) -> Vec<(FileRef, Token)> {
    let answer = ledger.lease(stage, held).await;
    let granted = held.iter().zip(answer.verdicts);
    granted
        .filter(|(_, verdict)| *verdict == 1)
        .map(|(pair, _)| *pair)
        .collect()
}

async fn out(ledger: &TestLedger, stage: Stage) -> usize {
    let rows = format!(
        "file_work WHERE dispatched_at IS NOT NULL AND stage = {}",
        stage.code()
    );
    usize::try_from(ledger.count(&rows).await).unwrap()
}

async fn a_commit_whose_answer_is_lost_has_happened_once(database: Database) {
    nothing_is_doubled(database, Loss::Answer).await;
}

async fn a_commit_that_never_reached_the_database_happens_when_it_is_repeated(database: Database) {
    nothing_is_doubled(database, Loss::Command).await;
}

/// Six files, of which four are leased and two wait.
async fn four_of_six(ledger: &TestLedger) -> (caudal_domain::BatchId, Vec<(FileRef, Token)>) {
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a", "b", "c", "d", "e", "f"]).await;
    ledger.confirm(batch, 0..6).await;
    ledger.complete(batch).await;
    let mut reader = ledger.reader(Stage::Upload);
    let mut held = Vec::new();
    while held.len() < WINDOW {
        held.extend(ledger.take(&mut reader, Stage::Upload, 1).await);
        // A message may come twice, and under a later token.
        held.sort_unstable();
        held.dedup();
        held = current(ledger, Stage::Upload, &held).await;
    }
    (batch, held)
}

async fn end(ledger: TestLedger, batch: caudal_domain::BatchId) {
    let stored = finished(Outcome::StoredOnly);
    for (stage, report, count) in [
        (Stage::Upload, uploaded("application/x-unknown"), 2),
        (Stage::Metadata, stored, 6),
    ] {
        work_off(&ledger, stage, &report, count).await;
    }
    assert_eq!(ledger.batch(batch).await.state(), BatchState::Succeeded);
    ledger.verify().await;
}

/// Works on a stage until so many results are recorded; never more than the window is out, and none of its places lost.
async fn work_off(
    ledger: &TestLedger,
    stage: Stage,
    report: &caudal_proto::mesh::v1::Report,
    count: usize,
) {
    let mut reader = ledger.reader(stage);
    let mut recorded = 0;
    while recorded < count {
        assert!(out(ledger, stage).await <= WINDOW);
        let held = ledger.take(&mut reader, stage, 1).await;
        let granted = current(ledger, stage, &held).await;
        if granted.is_empty() {
            continue;
        }
        let verdicts = ledger.report(stage, &granted, report).await;
        let all = verdicts
            .iter()
            .all(|verdict| *verdict == ReportVerdict::Recorded);
        assert!(all, "{verdicts:?}");
        recorded += granted.len();
    }
}

// Protocol 6.3: the repeated report is answered RECORDED, and the version that came with it is known.
async fn a_report_is_taken_once(database: Database, loss: Loss) {
    let (ledger, proxy) = behind_a_proxy(database).await;
    let (batch, held) = four_of_six(&ledger).await;
    let mark = Uuid::new_v4().to_string();
    let lost = proxy.lose_commit(loss, mark.as_bytes(), 0);
    let mut report = uploaded("application/x-unknown");
    if let Some(caudal_proto::mesh::v1::report::Outcome::Done(done)) = &mut report.outcome {
        done.nonce.clone_from(&mark);
    }
    assert!(
        ledger
            .try_report(Stage::Upload, &held, &report)
            .await
            .is_err()
    );
    lost.await.unwrap();
    let verdicts = until("the repeated report to be answered", PATIENCE, async || {
        ledger.try_report(Stage::Upload, &held, &report).await.ok()
    });
    assert_eq!(verdicts.await.unwrap(), [ReportVerdict::Recorded; WINDOW]);
    end(ledger, batch).await;
}

async fn a_report_whose_commit_got_no_answer_is_taken_once(database: Database) {
    a_report_is_taken_once(database, Loss::Answer).await;
}

async fn a_report_whose_commit_never_arrived_is_taken_once(database: Database) {
    a_report_is_taken_once(database, Loss::Command).await;
}

// Protocol 2.4: what waits is admitted even when the group that was to admit it is lost.
async fn an_admission_is_lost(database: Database, loss: Loss) {
    let (ledger, proxy) = behind_a_proxy(database).await;
    let (batch, held) = four_of_six(&ledger).await;
    // The group of the report makes room; the next one admits.
    let lost = proxy.lose_commit(loss, batch.as_bytes(), 1);
    let verdicts = ledger
        .report(Stage::Upload, &held, &uploaded("application/x-unknown"))
        .await;
    assert_eq!(verdicts, [ReportVerdict::Recorded; WINDOW]);
    tokio::time::timeout(Duration::from_secs(10), lost)
        .await
        .unwrap()
        .unwrap();
    end(ledger, batch).await;
}

async fn an_admission_whose_commit_got_no_answer_is_not_forgotten(database: Database) {
    an_admission_is_lost(database, Loss::Answer).await;
}

async fn an_admission_whose_commit_never_arrived_is_made_again(database: Database) {
    an_admission_is_lost(database, Loss::Command).await;
}

on_postgres![
    a_commit_whose_answer_is_lost_has_happened_once,
    a_commit_that_never_reached_the_database_happens_when_it_is_repeated,
    a_report_whose_commit_got_no_answer_is_taken_once,
    a_report_whose_commit_never_arrived_is_taken_once,
    an_admission_whose_commit_got_no_answer_is_not_forgotten,
    an_admission_whose_commit_never_arrived_is_made_again,
];
