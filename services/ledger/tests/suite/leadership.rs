//! Two ledgers on one Postgres (protocol 9). SQLite has one ledger: its data folder is locked.

use std::time::Duration;

use caudal_domain::Stage;
use caudal_harness::{Database, PATIENCE, until};
use caudal_proto::mesh::v1::{ReportVerdict, RequestReconcileRequest};
use caudal_proto::v1::Batch;
use tonic::Code;
use tonic_types::StatusExt;

use super::support::{TestLedger, uploaded};

fn short_term(settings: &mut caudal_ledger::LedgerSettings) {
    settings.term = Duration::from_millis(900);
}

fn any_call() -> RequestReconcileRequest {
    RequestReconcileRequest {
        stage: "upload".into(),
    }
}

async fn a_ledger_that_stands_by_names_the_active_one_and_takes_over_when_it_dies(
    database: Database,
) {
    let mut ledger = TestLedger::start_with(database, short_term).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.bin", "b.bin"]).await;
    ledger.confirm(batch, 0..2).await;
    ledger.complete(batch).await;
    let held = ledger
        .take(&mut ledger.reader(Stage::Upload), Stage::Upload, 2)
        .await;
    ledger.lease(Stage::Upload, &held).await;

    let (running, shutdown, mut mesh) = ledger.second().await;
    let refused = mesh.request_reconcile(any_call()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(refused.get_details_error_info().unwrap().reason, "STANDBY");
    assert_eq!(
        refused
            .metadata()
            .get("caudal-leader")
            .unwrap()
            .to_str()
            .unwrap(),
        ledger.address()
    );

    ledger.crash_over_to((running, shutdown)).await;
    until("the second ledger to lead", PATIENCE, async || {
        mesh.clone()
            .request_reconcile(any_call())
            .await
            .ok()
            .map(|_| ())
    })
    .await
    .unwrap();
    // Its places were rebuilt by one scan: what was leased from the first is recorded by the second.
    let verdicts = ledger
        .report(Stage::Upload, &held, &uploaded("application/x-unknown"))
        .await;
    assert_eq!(verdicts, [ReportVerdict::Recorded; 2]);
    ledger.store(batch, 2).await;
    ledger.verify().await;
}

// Protocol 1.1, 9.2: every group stands under its epoch, so a leader that slept through a takeover writes nothing.
async fn a_deposed_leader_writes_nothing_and_stands_by(database: Database) {
    let ledger = TestLedger::start_with(database, short_term).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.bin"]).await;
    ledger.depose().await;
    let refused = ledger.try_confirm(batch, [0]).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    // The usurper never renews: when its term ends the first ledger leads again, and finds everything as it was.
    until("the ledger to lead again", PATIENCE, async || {
        ledger.try_confirm(batch, [0]).await.ok()
    })
    .await
    .unwrap();
    ledger.complete(batch).await;
    ledger.finish(batch, 1).await;
    ledger.verify().await;
}

async fn a_leader_that_ends_cleanly_is_followed_at_once(database: Database) {
    let mut ledger =
        TestLedger::start_with(database, |settings| settings.term = Duration::from_secs(60)).await;
    let (running, shutdown, mesh) = ledger.second().await;
    ledger.stop().await;
    until(
        "the second ledger to lead",
        Duration::from_secs(10),
        async || {
            mesh.clone()
                .request_reconcile(any_call())
                .await
                .ok()
                .map(|_| ())
        },
    )
    .await
    .unwrap();
    shutdown.cancel();
    running.join().await.unwrap();
}

on_postgres![
    a_ledger_that_stands_by_names_the_active_one_and_takes_over_when_it_dies,
    a_deposed_leader_writes_nothing_and_stands_by,
    a_leader_that_ends_cleanly_is_followed_at_once,
];
