//! One selector: what it lists, counts and refuses; a file's history; what operators ask.

use std::time::{Duration, Instant};

use caudal_domain::{BatchId, Stage, TenantId, names};
use caudal_harness::Database;
use caudal_proto::v1::file_history_entry::What;
use caudal_proto::v1::{
    AgedGrouping, Batch, CancelFilesRequest, CountAgedRequest, CountFilesRequest, CountGrouping,
    FileHistoryEntry, FileSelector, FileState, ListFailuresRequest, ListFileHistoryRequest,
    ListFilesRequest, ListStagesRequest, OperatorServiceCancelFilesRequest,
    OperatorServiceListFailuresRequest, Outcome,
};
use tonic::Code;
use uuid::Uuid;

use super::support::{TestLedger, bulk_metadata, failed, file, request_id, uploaded, wrong_fields};

const PATHS: [&str; 6] = [
    "a.txt",
    "reports/b.pdf",
    "reports/2026/c.pdf",
    "reports/2026/d.txt",
    "reports-old/e.pdf",
    "f.pdf",
];

/// Six files: 0 and 1 processed, 2 and 3 FAILED for two reasons, 4 and 5 pending.
async fn varied(ledger: &TestLedger) -> BatchId {
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &PATHS).await;
    ledger.confirm(batch, 0..4).await;
    let mut reader = ledger.reader(Stage::Upload);
    let held = ledger.take(&mut reader, Stage::Upload, 4).await;
    ledger.lease(Stage::Upload, &held).await;
    for (held_file, token) in held {
        let report = match held_file.ordinal {
            2 => failed("SIZE_MISMATCH"),
            3 => failed("CHECKSUM_MISMATCH"),
            _ => uploaded("application/x-unknown"),
        };
        ledger
            .report(Stage::Upload, &[(held_file, token)], &report)
            .await;
    }
    ledger.keep(2).await;
    batch
}

fn of(batch: BatchId) -> FileSelector {
    FileSelector {
        batch: names::batch_name(batch),
        ..FileSelector::default()
    }
}

async fn count(
    ledger: &TestLedger,
    selector: FileSelector,
    group_by: CountGrouping,
) -> (u32, Vec<(String, u32)>) {
    let request = CountFilesRequest {
        selector: Some(selector),
        group_by: group_by.into(),
    };
    let answer = ledger.files().count_files(request).await.unwrap();
    let answer = answer.into_inner();
    let mut counts: Vec<(String, u32)> = answer
        .counts
        .into_iter()
        .map(|counted| (counted.key, counted.count))
        .collect();
    counts.sort();
    (answer.total, counts)
}

async fn list(ledger: &TestLedger, selector: FileSelector, page_size: i32) -> Vec<u32> {
    let mut found = Vec::new();
    let mut request = ListFilesRequest {
        selector: Some(selector),
        page_size,
        ..ListFilesRequest::default()
    };
    loop {
        let page = ledger.files().list_files(request.clone()).await.unwrap();
        let page = page.into_inner();
        found.extend(page.files.iter().map(|file| file.ordinal));
        if page.next_page_token.is_empty() {
            return found;
        }
        request.page_token = page.next_page_token;
    }
}

async fn list_and_count_choose_the_same_files(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = varied(&ledger).await;
    let folder = |number: u32| names::folder_name(batch, number);
    // Folders are numbered in the order of their paths: reports, reports-old, reports/2026.
    let reports = 1;
    let selectors: Vec<(FileSelector, &[u32])> = vec![
        (of(batch), &[0, 1, 2, 3, 4, 5]),
        (
            FileSelector {
                states: vec![FileState::Failed.into(), FileState::Pending.into()],
                ..of(batch)
            },
            &[2, 3, 4, 5],
        ),
        (
            FileSelector {
                outcomes: vec![Outcome::StoredOnly.into()],
                ..of(batch)
            },
            &[0, 1],
        ),
        (
            FileSelector {
                reasons: vec!["CHECKSUM_MISMATCH".into()],
                ..of(batch)
            },
            &[3],
        ),
        (
            FileSelector {
                stages: vec!["metadata".into()],
                ..of(batch)
            },
            &[0, 1],
        ),
        (
            FileSelector {
                folder: folder(0),
                ..of(batch)
            },
            &[0, 5],
        ),
        (
            FileSelector {
                folder: folder(reports),
                ..of(batch)
            },
            &[1],
        ),
        (
            FileSelector {
                folder: folder(reports),
                recursive: true,
                ..of(batch)
            },
            &[1, 2, 3],
        ),
        (
            FileSelector {
                path_glob: "*.pdf".into(),
                ..of(batch)
            },
            &[5],
        ),
        (
            FileSelector {
                path_glob: "reports/**/*.pdf".into(),
                ..of(batch)
            },
            &[1, 2],
        ),
        (
            FileSelector {
                ordinals: vec![5, 1, 1, 99],
                ..of(batch)
            },
            &[1, 5],
        ),
        (
            FileSelector {
                ordinals: vec![1, 2, 3],
                path_glob: "**/*.pdf".into(),
                states: vec![FileState::Failed.into()],
                ..of(batch)
            },
            &[2],
        ),
        (
            FileSelector {
                in_state_for: Some(prost_types::Duration {
                    seconds: 3_600,
                    nanos: 0,
                }),
                ..of(batch)
            },
            &[],
        ),
    ];
    for (selector, expected) in selectors {
        for page_size in [1, 2, 100] {
            let listed = list(&ledger, selector.clone(), page_size).await;
            assert_eq!(listed, expected, "{selector:?} in pages of {page_size}");
        }
        let (total, _) = count(&ledger, selector.clone(), CountGrouping::None).await;
        assert_eq!(total as usize, expected.len(), "{selector:?}");
        // From rows where it was from counters, and the other way round.
        let (total, _) = count(&ledger, selector.clone(), CountGrouping::Stage).await;
        assert_eq!(total as usize, expected.len(), "{selector:?}");
    }
    let named = |counts: &[(&str, u32)]| {
        let mut counts: Vec<(String, u32)> = counts
            .iter()
            .map(|(key, count)| ((*key).to_owned(), *count))
            .collect();
        counts.sort();
        counts
    };
    let states = named(&[("PROCESSED", 2), ("FAILED", 2), ("PENDING", 2)]);
    assert_eq!(
        count(&ledger, of(batch), CountGrouping::State).await,
        (6, states)
    );
    let reasons = named(&[("", 4), ("SIZE_MISMATCH", 1), ("CHECKSUM_MISMATCH", 1)]);
    assert_eq!(
        count(&ledger, of(batch), CountGrouping::Reason).await,
        (6, reasons)
    );
    let outcomes = named(&[("", 4), ("STORED_ONLY", 2)]);
    assert_eq!(
        count(&ledger, of(batch), CountGrouping::Outcome).await,
        (6, outcomes)
    );
    let stages = named(&[("upload", 4), ("metadata", 2)]);
    assert_eq!(
        count(&ledger, of(batch), CountGrouping::Stage).await,
        (6, stages)
    );
    ledger.verify().await;
}

async fn a_selector_over_the_tenant_goes_through_the_counters_of_its_batches(database: Database) {
    let ledger = TestLedger::start(database).await;
    let first = varied(&ledger).await;
    let second = ledger.create(Batch::default()).await;
    ledger.add(second, &["x.txt", "y.txt"]).await;
    let tenant_wide = |states: &[FileState]| FileSelector {
        states: states.iter().map(|state| (*state).into()).collect(),
        ..FileSelector::default()
    };
    let pending = tenant_wide(&[FileState::Pending]);
    assert_eq!(
        count(&ledger, pending.clone(), CountGrouping::None).await.0,
        4
    );
    let by_stage = count(&ledger, pending.clone(), CountGrouping::Stage).await;
    assert_eq!(by_stage, (4, vec![("upload".to_owned(), 4)]));
    let failed = tenant_wide(&[FileState::Failed]);
    let by_reason = count(&ledger, failed, CountGrouping::Reason).await;
    assert_eq!(by_reason.0, 2);
    let by_reason_alone = FileSelector {
        reasons: vec!["SIZE_MISMATCH".into()],
        ..FileSelector::default()
    };
    assert_eq!(
        count(&ledger, by_reason_alone, CountGrouping::State).await,
        (1, vec![("FAILED".to_owned(), 1)])
    );
    // Another tenant counts nothing of it, and its batch is not there.
    let mut stranger = ledger.files_of(TenantId::from_uuid(Uuid::from_u128(1)));
    let request = CountFilesRequest {
        selector: Some(pending.clone()),
        ..CountFilesRequest::default()
    };
    let counted = stranger.count_files(request).await.unwrap().into_inner();
    assert_eq!(counted.total, 0);
    let request = CountFilesRequest {
        selector: Some(of(first)),
        ..CountFilesRequest::default()
    };
    let refused = stranger.count_files(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    // A credential for one batch counts there and nowhere else.
    let mut token = ledger.files_of_token(second);
    let request = |selector| CountFilesRequest {
        selector: Some(selector),
        ..CountFilesRequest::default()
    };
    let own = token.count_files(request(of(second))).await.unwrap();
    assert_eq!(own.into_inner().total, 2);
    let foreign = token.count_files(request(of(first))).await.unwrap_err();
    assert_eq!(foreign.code(), Code::NotFound);
    let wide = token.count_files(request(pending)).await.unwrap_err();
    assert_eq!(wide.code(), Code::PermissionDenied);
    let cancel = CancelFilesRequest {
        selector: Some(of(second)),
        request_id: request_id(),
        ..CancelFilesRequest::default()
    };
    let refused = token.cancel_files(cancel).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    ledger.verify().await;
}

async fn what_a_selector_cannot_choose_is_refused_by_field_and_changes_nothing(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.txt"]).await;
    let cancel = |selector| CancelFilesRequest {
        selector: Some(selector),
        request_id: request_id(),
        ..CancelFilesRequest::default()
    };
    for (selector, field) in [
        (FileSelector::default(), "selector"),
        (
            FileSelector {
                states: vec![77],
                ..of(batch)
            },
            "selector.states[0]",
        ),
        (
            FileSelector {
                states: vec![FileState::Processed.into()],
                ..of(batch)
            },
            "selector.states[0]",
        ),
        (
            FileSelector {
                stages: vec!["ocr".into()],
                ..of(batch)
            },
            "selector.stages[0]",
        ),
        (
            FileSelector {
                reasons: vec!["BAD_LUCK".into()],
                ..of(batch)
            },
            "selector.reasons[0]",
        ),
        (
            FileSelector {
                path_glob: "*.txt".into(),
                ..FileSelector::default()
            },
            "selector.path_glob",
        ),
        (
            FileSelector {
                recursive: true,
                ..of(batch)
            },
            "selector.recursive",
        ),
        (
            FileSelector {
                ordinals: (0..1_001).collect(),
                ..of(batch)
            },
            "selector.ordinals",
        ),
    ] {
        let refused = ledger
            .files()
            .cancel_files(cancel(selector.clone()))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{selector:?}");
        assert_eq!(wrong_fields(&refused), [field], "{selector:?}");
    }
    let elsewhere = FileSelector {
        folder: names::folder_name(batch, 9),
        ..of(batch)
    };
    let refused = ledger.files().cancel_files(cancel(elsewhere)).await;
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    assert_eq!(ledger.file(batch, 0).await.state(), FileState::Pending);
    ledger.verify().await;
}

async fn failures_are_grouped_by_reason_and_stage(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = varied(&ledger).await;
    let groups = async |selector: FileSelector, page_size: i32| {
        let mut found = Vec::new();
        let mut request = ListFailuresRequest {
            selector: Some(selector),
            page_size,
            ..ListFailuresRequest::default()
        };
        loop {
            let page = ledger.files().list_failures(request.clone()).await;
            let page = page.unwrap().into_inner();
            found.extend(page.groups);
            if page.next_page_token.is_empty() {
                return found;
            }
            request.page_token = page.next_page_token;
        }
    };
    let by_path = FileSelector {
        path_glob: "**/*".into(),
        ..of(batch)
    };
    for selector in [FileSelector::default(), of(batch), by_path] {
        for page_size in [1, 100] {
            let found = groups(selector.clone(), page_size).await;
            let codes: Vec<(String, u32, Vec<String>)> = found
                .iter()
                .map(|group| {
                    let code = group.reason.as_ref().unwrap().code.clone();
                    (code, group.count, group.samples.clone())
                })
                .collect();
            assert_eq!(
                codes,
                [
                    (
                        "SIZE_MISMATCH".to_owned(),
                        1,
                        vec![names::file_name(batch, 2)]
                    ),
                    (
                        "CHECKSUM_MISMATCH".to_owned(),
                        1,
                        vec![names::file_name(batch, 3)]
                    ),
                ]
            );
            let reason = found[0].reason.as_ref().unwrap();
            assert_eq!(reason.stage, "upload");
            assert!(!reason.words.is_empty() && !reason.remedy.is_empty());
            assert!(found[0].first_time.is_some());
        }
    }
    let request = OperatorServiceListFailuresRequest::default();
    let all = ledger.operator().list_failures(request).await.unwrap();
    assert_eq!(all.into_inner().groups.len(), 2);
    let request = OperatorServiceListFailuresRequest {
        tenant: names::tenant_name(ledger.tenant),
        failures: None,
    };
    let own = ledger.operator().list_failures(request).await.unwrap();
    assert_eq!(own.into_inner().groups.len(), 2);
    ledger.verify().await;
}

async fn history(ledger: &TestLedger, name: &str, page_size: i32) -> (Vec<FileHistoryEntry>, bool) {
    let mut found = Vec::new();
    let mut request = ListFileHistoryRequest {
        name: name.to_owned(),
        page_size,
        page_token: String::new(),
    };
    loop {
        let page = ledger
            .files()
            .list_file_history(request.clone())
            .await
            .unwrap()
            .into_inner();
        found.extend(page.entries);
        if page.next_page_token.is_empty() {
            return (found, page.pruned);
        }
        request.page_token = page.next_page_token;
    }
}

fn told(entries: &[FileHistoryEntry]) -> Vec<String> {
    entries
        .iter()
        .map(|entry| match entry.what.as_ref().unwrap() {
            What::Transition(moved) => {
                let name = |state: FileState| {
                    state.as_str_name().trim_start_matches("FILE_STATE_")[..4].to_owned()
                };
                format!("{}>{}", name(moved.from()), name(moved.to()))
            }
            What::Result(recorded) => {
                format!("result {}", recorded.result.as_ref().unwrap().stage)
            }
            What::Attempt(attempt) => format!("attempt {}", attempt.reason.as_ref().unwrap().code),
            What::DeadLetter(letter) => format!("dead {}", letter.reason.as_ref().unwrap().code),
        })
        .collect()
}

async fn a_files_history_tells_what_happened_in_order_of_time(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = varied(&ledger).await;
    let failed_file = names::file_name(batch, 2);
    let expected = [
        "UNSP>PEND",
        "PEND>UPLO",
        "UPLO>UPLO",
        "UPLO>QUEU",
        "QUEU>PROC",
        "attempt SIZE_MISMATCH",
        "PROC>FAIL",
        "dead SIZE_MISMATCH",
    ];
    for page_size in [1, 2, 3, 5, 100] {
        let (entries, pruned) = history(&ledger, &failed_file, page_size).await;
        assert_eq!(told(&entries), expected, "in pages of {page_size}");
        assert!(!pruned);
        let times: Vec<_> = entries.iter().map(|entry| entry.time).collect();
        assert!(times.is_sorted_by_key(|time| time.map(|time| (time.seconds, time.nanos))));
    }
    let (good, _) = history(&ledger, &names::file_name(batch, 0), 100).await;
    let good = told(&good);
    assert!(good.contains(&"result upload".to_owned()), "{good:?}");
    assert_eq!(good.last().map(String::as_str), Some("PROC>PROC"));
    assert_eq!(good[good.len() - 2], "result metadata");

    // What is not a change stays when the changes are pruned.
    ledger.sql("DELETE FROM changes").await;
    let (left, pruned) = history(&ledger, &failed_file, 2).await;
    assert_eq!(
        told(&left),
        ["UNSP>PEND", "attempt SIZE_MISMATCH", "dead SIZE_MISMATCH"]
    );
    assert!(pruned);
    let unknown = ListFileHistoryRequest {
        name: names::file_name(batch, 99),
        ..ListFileHistoryRequest::default()
    };
    let refused = ledger.files().list_file_history(unknown).await;
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
}

async fn what_waits_for_several_stages_is_counted_for_each(database: Database) {
    let ledger = TestLedger::start_with(database, |settings| {
        settings.windows.of_stage.insert(Stage::Upload, 1);
    })
    .await;
    let waiting = |group_by: AgedGrouping| CountAgedRequest {
        state: FileState::Uploaded.into(),
        group_by: group_by.into(),
        ..CountAgedRequest::default()
    };
    // One batch whose files wait for one stage, and one whose files wait for two.
    for _ in 0..2 {
        let batch = ledger.create(Batch::default()).await;
        ledger.add(batch, &["a", "b", "c", "d"]).await;
        ledger.confirm(batch, 0..4).await;
    }
    let mut operator = ledger.operator();
    let counted = operator.count_aged(waiting(AgedGrouping::Tenant)).await;
    let all = counted.unwrap().into_inner();
    let other_stage = format!(
        "UPDATE file_work SET stage = {} WHERE ordinal = 3 \
         AND batch_id = (SELECT batch_id FROM batches ORDER BY batch_id DESC LIMIT 1)",
        Stage::Embeddings.code()
    );
    ledger.sql(&other_stage).await;
    let counted = operator.count_aged(waiting(AgedGrouping::Stage)).await;
    let by_stage = counted.unwrap().into_inner();
    assert_eq!((all.total, by_stage.total), (7, 7));
    let rows = by_stage.rows.iter();
    let stages: Vec<(&str, u32)> = rows.map(|row| (row.stage.as_str(), row.count)).collect();
    assert_eq!(stages, [("upload", 6), ("embeddings", 1)]);
    assert_eq!(by_stage.rows[0].oldest_time, all.rows[0].oldest_time);
}

async fn an_operator_sees_what_is_stuck_and_cancels_it(database: Database) {
    // No room at the upload stage: what is confirmed waits.
    let ledger = TestLedger::start_with(database, |settings| {
        settings.windows.of_stage.insert(Stage::Upload, 1);
    })
    .await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a", "b", "c", "d"]).await;
    ledger.confirm(batch, 0..4).await;
    let tenant = names::tenant_name(ledger.tenant);
    let ask = |min_age: u64, group_by: AgedGrouping| CountAgedRequest {
        state: FileState::Uploaded.into(),
        min_age: Some(prost_types::Duration {
            seconds: i64::try_from(min_age).unwrap(),
            nanos: 0,
        }),
        tenant: String::new(),
        group_by: group_by.into(),
    };
    let mut operator = ledger.operator();
    let young = operator.count_aged(ask(600, AgedGrouping::Tenant)).await;
    assert_eq!(young.unwrap().into_inner().total, 0);
    let stuck = operator.count_aged(ask(0, AgedGrouping::Tenant)).await;
    let stuck = stuck.unwrap().into_inner();
    assert_eq!((stuck.total, stuck.rows.len()), (3, 1));
    assert_eq!(stuck.rows[0].tenant, tenant);
    assert_eq!(stuck.rows[0].tenant_display_name, "default");
    assert!(stuck.rows[0].oldest_time.is_some());
    let stages = operator.count_aged(ask(0, AgedGrouping::Stage)).await;
    assert_eq!(stages.unwrap().into_inner().rows[0].stage, "upload");
    let stages = operator.list_stages(ListStagesRequest {}).await.unwrap();
    let upload = &stages.into_inner().stages[0];
    assert_eq!((upload.name.as_str(), upload.waiting), ("upload", 3));
    assert_eq!(upload.window, 1);

    let mut command = OperatorServiceCancelFilesRequest {
        tenant: tenant.clone(),
        files: Some(CancelFilesRequest {
            selector: Some(FileSelector {
                states: vec![FileState::Uploaded.into()],
                in_state_for: Some(prost_types::Duration::default()),
                ..FileSelector::default()
            }),
            validate_only: true,
            ..CancelFilesRequest::default()
        }),
    };
    let counted = operator.cancel_files(command.clone()).await.unwrap();
    assert_eq!(bulk_metadata(&counted.into_inner()).matched, 3);
    let files = command.files.as_mut().unwrap();
    files.validate_only = false;
    files.request_id = request_id();
    let begun = operator.cancel_files(command.clone()).await.unwrap();
    let name = begun.into_inner().name;
    let (_, did) = ledger.ended(&name).await;
    assert_eq!((did.matched, did.done), (3, 3));
    assert_eq!(ledger.batch(batch).await.counts.unwrap().cancelled, 3);
    // The tenant does not see the operator's hand, nor do members ask such questions.
    let request = caudal_proto::longrunning::GetOperationRequest { name };
    let unseen = ledger.operations().get_operation(request).await;
    assert_eq!(unseen.unwrap_err().code(), Code::NotFound);
    let member = ledger
        .operator_as_member()
        .count_aged(ask(0, AgedGrouping::Tenant))
        .await;
    assert_eq!(member.unwrap_err().code(), Code::PermissionDenied);
    let member = ledger.operator_as_member().cancel_files(command).await;
    assert_eq!(member.unwrap_err().code(), Code::PermissionDenied);
    let nobody = CountAgedRequest {
        tenant: names::tenant_name(TenantId::from_uuid(Uuid::from_u128(5))),
        ..ask(0, AgedGrouping::Tenant)
    };
    let unknown = operator.count_aged(nobody).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let final_state = CountAgedRequest {
        state: FileState::Processed.into(),
        ..ask(0, AgedGrouping::Tenant)
    };
    let refused = operator.count_aged(final_state).await.unwrap_err();
    assert_eq!(wrong_fields(&refused), ["state"]);
    ledger.verify().await;
}

/// Rows of waiting files as a large backlog holds them, put there behind the ledger's back.
fn backlog(on: Database, tenant: TenantId, batches: u32, files: u32) -> Vec<String> {
    let literal = |id: Uuid| match on {
        Database::Postgres => format!("'{id}'::uuid"),
        Database::Sqlite => format!("x'{}'", id.simple()),
    };
    let no = match on {
        Database::Postgres => "false",
        Database::Sqlite => "0",
    };
    let numbers = match on {
        Database::Postgres => format!("generate_series(0, {}) AS s(n)", files - 1),
        Database::Sqlite => format!(
            "(WITH RECURSIVE s(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM s WHERE n < {}) SELECT n FROM s) AS s",
            files - 1
        ),
    };
    let tenant = literal(tenant.as_uuid());
    let mut statements = Vec::new();
    for number in 0..batches {
        let batch = literal(Uuid::from_u128(u128::from(number) + 1));
        statements.push(format!(
            "INSERT INTO batch_progress (tenant_id, batch_id, state, manifest_complete, cancel_requested, missing_fails, \
             starts_when_completed, stages, priority, run, pause_by, completed_by_system, revision, next_ordinal, next_folder, \
             n_pending, n_uploading, n_uploaded, n_queued, n_processing, n_processed, n_retrying, n_failed, n_cancelled, \
             n_complete, n_partial, n_stored_only, bytes_declared, bytes_uploaded, bytes_processed, changed_at, touched_at, \
             upload_deadline, uploads_open) VALUES ({tenant}, {batch}, 1, {no}, {no}, {no}, {no}, 31, 2, 1, 0, {no}, 1, {files}, 1, \
             0, 0, {files}, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 9000000000000000, {no})"
        ));
        statements.push(format!(
            "INSERT INTO file_work (tenant_id, batch_id, ordinal, state, stage, token, generation, fails, kills, target, \
             changed_at, outcome, reason, folder, size, wait_stage, ready_at) SELECT {tenant}, {batch}, s.n, 3, 1, 1, 1, 0, 0, 1, \
             1000, 0, 0, 0, 10, 1, 9000000000000000 FROM {numbers}"
        ));
    }
    statements
}

async fn a_hundred_thousand_waiting_files_are_counted_by_age_at_once(database: Database) {
    // Built without optimization and on a busy machine; docs/performance.md tells what it takes.
    const LIMIT: Duration = Duration::from_secs(1);
    let ledger = TestLedger::start(database).await;
    for statement in backlog(ledger.on, ledger.tenant, 10, 10_000) {
        ledger.sql(&statement).await;
    }
    let ask = |tenant: String, group_by: AgedGrouping| CountAgedRequest {
        state: FileState::Uploaded.into(),
        min_age: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        tenant,
        group_by: group_by.into(),
    };
    let mut operator = ledger.operator();
    let mut took = Vec::new();
    for _ in 0..5 {
        for (tenant, group_by) in [
            (String::new(), AgedGrouping::Tenant),
            (names::tenant_name(ledger.tenant), AgedGrouping::Stage),
        ] {
            let begun = Instant::now();
            let counted = operator.count_aged(ask(tenant, group_by)).await.unwrap();
            took.push(begun.elapsed());
            assert_eq!(counted.into_inner().total, 100_000);
        }
    }
    took.sort_unstable();
    eprintln!(
        "100,000 waiting files counted in {:?} (median), {:?} (worst)",
        took[took.len() / 2],
        took[took.len() - 1]
    );
    assert!(took[took.len() / 2] < LIMIT, "{took:?}");
}

async fn a_page_holds_only_what_matches_however_long_the_way_to_it(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    let paths: Vec<String> = (0..1_500).map(|number| format!("f{number}")).collect();
    for page in paths.chunks(1_000) {
        let request = caudal_proto::v1::AddEntriesRequest {
            batch: names::batch_name(batch),
            entries: page.iter().map(|path| file(path, 1)).collect(),
            request_id: request_id(),
        };
        ledger.batches().add_entries(request).await.unwrap();
    }
    ledger.confirm(batch, [1_499]).await;
    ledger.until_state(batch, 1_499, FileState::Queued).await;
    let selector = FileSelector {
        states: vec![FileState::Queued.into()],
        ..of(batch)
    };
    assert_eq!(list(&ledger, selector, 10).await, [1_499]);
    ledger.verify().await;
}

async fn what_a_provider_said_is_for_operators_alone(database: Database) {
    let ledger = TestLedger::start(database).await;
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.txt"]).await;
    ledger.confirm(batch, 0..1).await;
    let mut reader = ledger.reader(Stage::Upload);
    let held = ledger.take(&mut reader, Stage::Upload, 1).await;
    ledger.lease(Stage::Upload, &held).await;
    ledger
        .report(Stage::Upload, &held, &failed("PROVIDER_REJECTED"))
        .await;
    let told = ledger.file(batch, 0).await.reason.unwrap();
    assert_eq!(
        (told.code.as_str(), told.detail.as_str()),
        ("PROVIDER_REJECTED", "")
    );
    assert!(!told.words.is_empty());
    let name = names::file_name(batch, 0);
    let (entries, _) = history(&ledger, &name, 0).await;
    for entry in entries {
        match entry.what.unwrap() {
            What::Attempt(attempt) => assert_eq!(attempt.reason.unwrap().detail, ""),
            What::DeadLetter(letter) => assert_eq!(letter.reason.unwrap().detail, ""),
            _ => {}
        }
    }
    let detail_of = |answer: caudal_proto::v1::ListFailuresResponse| {
        let mut groups = answer.groups.into_iter();
        groups.next().unwrap().reason.unwrap().detail
    };
    let request = ListFailuresRequest {
        selector: Some(of(batch)),
        ..ListFailuresRequest::default()
    };
    let own = ledger.files().list_failures(request).await.unwrap();
    assert_eq!(detail_of(own.into_inner()), "");
    let request = OperatorServiceListFailuresRequest::default();
    let operators = ledger.operator().list_failures(request).await.unwrap();
    assert_eq!(detail_of(operators.into_inner()), "because");
}

on_each_database![
    what_a_provider_said_is_for_operators_alone,
    list_and_count_choose_the_same_files,
    a_selector_over_the_tenant_goes_through_the_counters_of_its_batches,
    what_a_selector_cannot_choose_is_refused_by_field_and_changes_nothing,
    failures_are_grouped_by_reason_and_stage,
    a_files_history_tells_what_happened_in_order_of_time,
    what_waits_for_several_stages_is_counted_for_each,
    an_operator_sees_what_is_stuck_and_cancels_it,
    a_hundred_thousand_waiting_files_are_counted_by_age_at_once,
    a_page_holds_only_what_matches_however_long_the_way_to_it,
];
