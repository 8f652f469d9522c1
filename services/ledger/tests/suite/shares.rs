//! What tenants and batches get of a stage, as those see it who set windows, weights and priorities.

use std::collections::HashMap;
use std::time::Duration;

use caudal_domain::{BatchRef, FileRef, Stage, TenantId, Token, names};
use caudal_harness::{Database, until};
use caudal_proto::convert::file_tokens_to_proto;
use caudal_proto::mesh::v1::{Report, ReportRequest, ReportVerdict};
use caudal_proto::v1::{
    self, AddEntriesRequest, Batch, ConfirmUploadsRequest, CreateBatchRequest, Priority, Tenant,
    TenantLimits, UpdateBatchRequest, Uploaded,
};
use caudal_streams::Reader;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

use super::support::{TestLedger, file, request_id, uploaded, version};

const PATIENCE: Duration = Duration::from_secs(20);
const STAGE: Stage = Stage::Upload;
/// Files of a batch, more than any test lets out.
const FILES: u32 = 160;
/// What a file of these tests takes: with it the turns are of one file each.
const TOOK: Duration = Duration::from_millis(200);

impl TestLedger {
    /// A batch of a tenant all of whose files wait for the first stage, or are out.
    async fn full_batch(&self, tenant: TenantId, priority: Priority) -> BatchRef {
        let request = CreateBatchRequest {
            batch: Some(Batch {
                priority: priority.into(),
                ..Batch::default()
            }),
            request_id: request_id(),
        };
        let made = self.batches_of(tenant).create_batch(request).await;
        let name = made.unwrap().into_inner().name;
        let paths = (0..FILES).map(|number| file(&format!("{number}.bin"), 10));
        let request = AddEntriesRequest {
            batch: name.clone(),
            entries: paths.collect(),
            request_id: request_id(),
        };
        self.batches_of(tenant).add_entries(request).await.unwrap();
        let uploads = (0..FILES).map(|ordinal| Uploaded {
            ordinal,
            target: 1,
            etag: "e".into(),
        });
        let request = ConfirmUploadsRequest {
            batch: name.clone(),
            uploads: uploads.collect(),
            request_id: request_id(),
        };
        let mut uploads_of = self.uploads_of(tenant);
        uploads_of.confirm_uploads(request).await.unwrap();
        BatchRef::new(tenant, names::parse_batch_name(&name).unwrap())
    }

    async fn set_weight(&self, tenant: TenantId, weight: u32) {
        let tenant = Tenant {
            name: names::tenant_name(tenant),
            weight,
            ..Tenant::default()
        };
        self.change_tenant(tenant, &["weight"]).await.unwrap();
    }

    async fn set_priority(&self, batch: BatchRef, priority: Priority) {
        let request = UpdateBatchRequest {
            batch: Some(Batch {
                name: names::batch_name(batch.batch),
                priority: priority.into(),
                ..Batch::default()
            }),
            update_mask: Some(prost_types::FieldMask {
                paths: vec!["priority".to_owned()],
            }),
            request_id: request_id(),
        };
        let mut batches = self.batches_of(batch.tenant);
        batches.update_batch(request).await.unwrap();
    }

    /// Files of a batch that are out at the first stage and not in work.
    async fn out(&self, batch: BatchRef) -> u32 {
        let request = v1::GetBatchRequest {
            name: names::batch_name(batch.batch),
        };
        let read = self.batches_of(batch.tenant).get_batch(request).await;
        let counts = read.unwrap().into_inner().counts.unwrap();
        counts.queued
    }

    async fn until_out(&self, batch: BatchRef, files: u32) {
        let what = format!("{files} files are out");
        let is_so = async || (self.out(batch).await == files).then_some(());
        if until(&what, PATIENCE, is_so).await.is_err() {
            panic!("{} files are out, not {files}", self.out(batch).await);
        }
    }

    /// The stage does what comes first, one file after another; how many of each batch were done.
    async fn work_off(&self, reader: &mut Reader, count: usize) -> HashMap<BatchRef, usize> {
        let mut done: HashMap<BatchRef, usize> = HashMap::new();
        while done.values().sum::<usize>() < count {
            for held in self.take(reader, STAGE, 1).await {
                self.lease(STAGE, &[held]).await;
                self.report_took(held).await;
                *done.entry(held.0.batch_ref()).or_default() += 1;
            }
        }
        done
    }

    async fn report_took(&self, held: (FileRef, Token)) {
        let report = Report {
            took_us: u32::try_from(TOOK.as_micros()).unwrap(),
            ..uploaded("application/x-unknown")
        };
        let request = ReportRequest {
            slots: 1,
            stage: STAGE.name().into(),
            process: Uuid::from_u128(1).to_string(),
            stage_version: Some(version()),
            files: Some(file_tokens_to_proto([held])),
            reports: vec![report],
        };
        let answer = self.mesh_of(STAGE).report(request).await.unwrap();
        let verdicts: Vec<ReportVerdict> = answer.into_inner().verdicts().collect();
        assert_eq!(verdicts, [ReportVerdict::Recorded]);
    }
}

/// A ledger of whose first stage two files may be out at once.
async fn narrow(database: Database) -> TestLedger {
    TestLedger::start_with(database, |settings| settings.windows.set([(STAGE, 2)])).await
}

/// Whether a count is what it should be, but for what was out when it began and the turn that was cut off.
fn is_about(count: usize, wanted: usize) -> bool {
    count.abs_diff(wanted) <= 4
}

// Protocol 2.5: the first tier.
async fn a_tenant_has_as_many_files_out_as_its_limit_and_the_others_wait(database: Database) {
    let ledger = TestLedger::start_with(database, |settings| {
        settings.windows.set([(STAGE, 64)]);
        settings.windows.of_tenant = 5;
    })
    .await;
    let (bound, free) = (ledger.tenant, ledger.another_tenant().await);
    let limited = |files| Tenant {
        name: names::tenant_name(free),
        limits: Some(TenantLimits {
            dispatched_files: files,
            ..TenantLimits::default()
        }),
        ..Tenant::default()
    };
    ledger
        .change_tenant(limited(Some(11)), &["limits.dispatched_files"])
        .await
        .unwrap();
    let of_bound = ledger.full_batch(bound, Priority::Unspecified).await;
    let of_free = ledger.full_batch(free, Priority::Unspecified).await;
    ledger.until_out(of_bound, 5).await;
    ledger.until_out(of_free, 11).await;
    // One that has gone its way makes room for another.
    let held = ledger.take(&mut ledger.reader(STAGE), STAGE, 16).await;
    let mut held = held.into_iter();
    let one = held.find(|(file, _)| file.batch_ref() == of_bound).unwrap();
    ledger.lease(STAGE, &[one]).await;
    let report = uploaded("application/x-unknown");
    ledger.report(STAGE, &[one], &report).await;
    ledger.keep(1).await;
    ledger.until_out(of_bound, 5).await;
    // In force as soon as it is changed, up and down, and the installation's where it is taken back.
    ledger
        .change_tenant(limited(Some(20)), &["limits.dispatched_files"])
        .await
        .unwrap();
    ledger.until_out(of_free, 20).await;
    ledger
        .change_tenant(limited(None), &["limits.dispatched_files"])
        .await
        .unwrap();
    let used = ledger
        .tenancy(free, caudal_node::scope::Role::Viewer)
        .get_usage(v1::GetUsageRequest {})
        .await;
    let limits = used.unwrap().into_inner().limits.into_iter();
    let mut limits = limits.filter(|limit| limit.name == "dispatched_files");
    assert_eq!(limits.next().unwrap().limit, Some(5));
    // What is out is out; nothing more goes there until it is less than the limit.
    assert_eq!(ledger.out(of_free).await, 20);
}

/// What `/metrics` of a ledger say, by name and labels.
async fn metrics_of(ledger: &TestLedger) -> HashMap<String, f64> {
    let address = ledger.address();
    let host = address.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).await.unwrap();
    let lines = page.lines().filter(|line| line.starts_with("caudal_"));
    let values = lines.filter_map(|line| {
        let (name, value) = line.rsplit_once(' ')?;
        Some((name.to_owned(), value.parse().ok()?))
    });
    values.collect()
}

async fn metrics_say_what_is_out_what_waits_for_how_long_and_what_work_took(database: Database) {
    let ledger = narrow(database).await;
    let heavy = ledger.another_tenant().await;
    ledger.set_weight(heavy, 4).await;
    for tenant in [ledger.tenant, heavy] {
        ledger.full_batch(tenant, Priority::Unspecified).await;
    }
    let done = 9;
    let mut reader = ledger.reader(STAGE);
    ledger.work_off(&mut reader, done).await;
    let of_stage = |metrics: &HashMap<String, f64>, name: &str, weight: &str| {
        let weight = match weight {
            "" => String::new(),
            weight => format!(",weight={weight:?}"),
        };
        let labels = format!("service=\"ledger\",stage=\"upload\"{weight}");
        metrics.get(&format!("caudal_{name}{{{labels}}}")).copied()
    };
    // Both wait for ever from here on; gauges are drawn once a second.
    let told = async || {
        let metrics = metrics_of(&ledger).await;
        let waited = |weight| of_stage(&metrics, "longest_wait_seconds", weight).unwrap_or(0.0);
        (waited("1") >= 2.0 && waited("2-9") >= 2.0).then_some(metrics)
    };
    let metrics = until("that it is told for how long they wait", PATIENCE, told).await;
    let metrics = metrics.unwrap();
    let one = |name: &str| of_stage(&metrics, name, "").unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(of_stage(&metrics, "waiting_batches", "1"), Some(1.0));
    assert_eq!(of_stage(&metrics, "waiting_batches", "2-9"), Some(1.0));
    assert_eq!(of_stage(&metrics, "waiting_batches", "10-100"), Some(0.0));
    assert_eq!(one("window_files"), 2.0);
    assert_eq!(one("outstanding_files"), 2.0);
    // The last read may have found two files.
    let ended = one("admissions_total") - one("outstanding_files");
    assert!((9.0..=10.0).contains(&ended), "{ended} have come back");
    assert_eq!(
        one("taken_microseconds_total"),
        ended * TOOK.as_micros() as f64
    );
    let (expected, missed) = (
        one("expected_microseconds_total"),
        one("missed_microseconds_total"),
    );
    // The first were expected to take far less.
    assert!(expected > 0.0 && missed > 0.0, "{expected} and {missed}");
    assert!(expected + missed >= one("taken_microseconds_total"));
    assert_eq!(one("window_microseconds"), 2_000_000.0);
    assert!(one("outstanding_microseconds") > 0.0);
}

async fn a_tenant_of_twice_the_weight_gets_twice_as_much_as_soon_as_it_is_set(database: Database) {
    let ledger = narrow(database).await;
    let (one, other) = (ledger.tenant, ledger.another_tenant().await);
    ledger.set_weight(one, 2).await;
    let of_one = ledger.full_batch(one, Priority::Unspecified).await;
    let of_other = ledger.full_batch(other, Priority::Unspecified).await;
    let mut reader = ledger.reader(STAGE);
    // What is known of the files' cost is learned first.
    ledger.work_off(&mut reader, 6).await;
    let done = ledger.work_off(&mut reader, 60).await;
    assert!(
        is_about(done[&of_one], 40) && is_about(done[&of_other], 20),
        "{done:?}"
    );
    ledger.set_weight(one, 1).await;
    ledger.set_weight(other, 3).await;
    let done = ledger.work_off(&mut reader, 60).await;
    assert!(
        is_about(done[&of_one], 15) && is_about(done[&of_other], 45),
        "{done:?}"
    );
}

async fn a_batchs_priority_moves_its_share_of_its_tenants_as_soon_as_it_is_set(database: Database) {
    let ledger = narrow(database).await;
    let low = ledger.full_batch(ledger.tenant, Priority::Low).await;
    let normal = ledger.full_batch(ledger.tenant, Priority::Normal).await;
    let mut reader = ledger.reader(STAGE);
    ledger.work_off(&mut reader, 6).await;
    let done = ledger.work_off(&mut reader, 50).await;
    assert!(
        is_about(done[&low], 10) && is_about(done[&normal], 40),
        "{done:?}"
    );
    ledger.set_priority(low, Priority::High).await;
    let done = ledger.work_off(&mut reader, 50).await;
    assert!(
        is_about(done[&low], 40) && is_about(done[&normal], 10),
        "{done:?}"
    );
}

on_each_database![
    a_tenant_has_as_many_files_out_as_its_limit_and_the_others_wait,
    a_tenant_of_twice_the_weight_gets_twice_as_much_as_soon_as_it_is_set,
    a_batchs_priority_moves_its_share_of_its_tenants_as_soon_as_it_is_set,
    metrics_say_what_is_out_what_waits_for_how_long_and_what_work_took,
];
