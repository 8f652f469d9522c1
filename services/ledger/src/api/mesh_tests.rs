#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use caudal_harness::Postgres;
use caudal_node::Registry;
use caudal_node::scope::Scope;
use caudal_proto::convert::file_tokens_to_proto;
use tempfile::TempDir;
use uuid::Uuid;

use super::*;
use crate::active_writer::ActiveWriter;
use crate::memory::lease_cache::LeaseCache;
use crate::metrics::LedgerMetrics;
use crate::signals::Signals;
use crate::store::Store;
use crate::store::time::Micros;

/// Far less than it takes to give up waiting for a connection.
const SOON: Duration = Duration::from_secs(4);

/// A ledger that nobody leads: its faces over a database.
async fn ledger(url: &str) -> Ledger {
    Ledger {
        store: Arc::new(Store::open(url).await.unwrap()),
        writer: ActiveWriter::new(),
        reconcile: Arc::default(),
        lease: limits::LEASE,
        upload_deadline: caudal_domain::limits::UPLOAD_DEADLINE,
        leases: LeaseCache::default(),
        waits: crate::waits::Waits::new(limits::LEASE),
        stages: crate::memory::stages::Stages::default(),
        versions: super::super::versions::Versions::default(),
        operations: Signals::default(),
        windows: crate::settings::DispatchWindows::default(),
        metrics: LedgerMetrics::new(&Registry::new("ledger")),
        mesh_secret: caudal_node::scope::MeshSecret::generate(),
        tenant_limits: crate::settings::TenantLimits::default(),
        key_uses: crate::api::key_uses::KeyUses::default(),
    }
}

fn file(ordinal: u32) -> FileRef {
    let tenant = TenantId::from_uuid(Uuid::from_u128(1));
    FileRef::new(tenant, BatchId::from_uuid(Uuid::from_u128(2)), ordinal)
}

fn upload(file: FileRef) -> ResultRow {
    let skipped = ResultRow::skipped(
        file,
        Generation::FIRST,
        Stage::Upload,
        Token::new(3),
        Micros(0),
    );
    ResultRow {
        nonce: "n".into(),
        skipped: false,
        ..skipped
    }
}

async fn seen(ledger: &Ledger, files: &[FileRef]) -> Vec<bool> {
    let named = files.iter().map(|file| (*file, Token::new(3)));
    let mut request = Request::new(CheckRecordedRequest {
        stage: Stage::Upload.name().into(),
        files: Some(file_tokens_to_proto(named)),
        generation: vec![1; files.len()],
    });
    request.extensions_mut().insert(Scope::service("upload"));
    let answer = tokio::time::timeout(SOON, ledger.check_recorded(request)).await;
    answer.unwrap().unwrap().into_inner().recorded
}

// Protocol 12.4: the writer may believe in what is never committed.
async fn what_the_writer_has_open_is_not_seen(url: &str) {
    let ledger = ledger(url).await;
    let files = [file(1), file(2)];
    let all_writers = if ledger.store.dialect().has_two_writers() {
        2
    } else {
        1
    };
    let mut open = Vec::new();
    for _ in 0..all_writers {
        open.push(ledger.store.begin().await.unwrap());
    }
    let session = open[0].session();
    results::insert(&session, &[upload(files[0])])
        .await
        .unwrap();
    let asked: Vec<_> = files
        .map(|file| (file, Generation::FIRST, Token::new(3)))
        .into();
    let within = results::recorded(&session, Stage::Upload, &asked).await;
    assert_eq!(within.unwrap().len(), 1);
    assert_eq!(seen(&ledger, &files).await, [false, false]);

    for open in open {
        open.commit().await.unwrap();
    }
    assert_eq!(seen(&ledger, &files).await, [true, false]);
    ledger.store.close().await;
}

#[tokio::test]
async fn what_the_writer_has_not_committed_is_not_recorded_on_sqlite() {
    let folder = TempDir::new().unwrap();
    let url = format!("sqlite:{}", folder.path().join("ledger.sqlite").display());
    what_the_writer_has_open_is_not_seen(&url).await;
}

#[tokio::test]
async fn what_the_writer_has_not_committed_is_not_recorded_on_postgres() {
    what_the_writer_has_open_is_not_seen(&Postgres::new_database().unwrap()).await;
}
