//! What operators set for stages, and what those whose files wait are told.

use caudal_domain::Stage;
use caudal_harness::{Database, PATIENCE, until};
use caudal_proto::mesh::v1::{AttendRequest, AttendResponse};
use caudal_proto::v1::{self, Batch, ListStagesRequest};
use tonic::Code;
use uuid::Uuid;

use super::support::{TestLedger, request_id, uploaded, wrong_fields};

impl TestLedger {
    async fn set_stage(
        &self,
        stage: v1::Stage,
        paths: &[&str],
    ) -> Result<v1::Stage, tonic::Status> {
        let request = v1::UpdateStageRequest {
            stage: Some(stage),
            update_mask: Some(prost_types::FieldMask {
                paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            }),
            request_id: request_id(),
        };
        let changed = self.operator().update_stage(request).await?;
        Ok(changed.into_inner())
    }

    async fn pause_stage(&self, stage: Stage, note: Option<&str>) -> v1::Stage {
        let pause = note.map(|note| v1::StagePause {
            note: note.to_owned(),
            ..v1::StagePause::default()
        });
        let stage = v1::Stage {
            pause,
            ..named(stage)
        };
        self.set_stage(stage, &["pause"]).await.unwrap()
    }

    async fn stage(&self, stage: Stage) -> v1::Stage {
        let listed = self.operator().list_stages(ListStagesRequest {}).await;
        let mut stages = listed.unwrap().into_inner().stages.into_iter();
        stages.find(|one| one.name == stage.name()).unwrap()
    }

    async fn attend(&self, stage: Stage, process: Uuid, slots: u32) -> AttendResponse {
        let request = AttendRequest {
            stage: stage.name().into(),
            process: process.to_string(),
            slots,
            leaves: false,
        };
        let answer = self.mesh_of(stage).attend(request).await;
        answer.unwrap().into_inner()
    }
}

fn named(stage: Stage) -> v1::Stage {
    v1::Stage {
        name: stage.name().to_owned(),
        ..v1::Stage::default()
    }
}

fn reasons(batch: &Batch) -> Vec<(&str, &str)> {
    let waits = batch.waits.iter();
    waits
        .map(|wait| (wait.reason.as_str(), wait.words.as_str()))
        .collect()
}

// Protocol 1.1, 10.3.
async fn a_stage_that_operators_paused_hands_nothing_out_says_why_and_stays_so_over_a_restart(
    database: Database,
) {
    let mut ledger = TestLedger::start(database).await;
    let process = Uuid::new_v4();
    let paused = ledger
        .pause_stage(Stage::Upload, Some("a disk is changed"))
        .await;
    let pause = paused.pause.unwrap();
    assert_eq!(
        (pause.who.as_str(), pause.note.as_str()),
        ("operator", "a disk is changed")
    );
    // Every process is told as soon as it asks, and it asks twice a second.
    assert!(ledger.attend(Stage::Upload, process, 4).await.paused);
    assert!(!ledger.attend(Stage::Metadata, process, 4).await.paused);

    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.txt", "b.txt"]).await;
    ledger.confirm(batch, 0..2).await;
    ledger.complete(batch).await;
    let told = ledger.batch(batch).await;
    assert_eq!(told.counts.unwrap().uploaded, 2);
    assert_eq!(
        reasons(&told)[0],
        ("STAGE_PAUSED", "the stage is paused: a disk is changed")
    );
    assert_eq!(told.waits[0].stage, "upload");
    let told = ledger.stage(Stage::Upload).await;
    assert_eq!(told.waits[0].wait.as_ref().unwrap().reason, "STAGE_PAUSED");
    assert_eq!((told.waiting, told.dispatched), (2, 0));
    assert_eq!(told.pause.unwrap().who, "operator");

    ledger.restart().await;
    assert!(ledger.attend(Stage::Upload, process, 4).await.paused);
    let depth = ledger.streams().depth(Stage::Upload).await.unwrap_or(0);
    assert_eq!(depth, 0);
    assert_eq!(ledger.batch(batch).await.counts.unwrap().uploaded, 2);

    ledger.pause_stage(Stage::Upload, None).await;
    assert!(!ledger.attend(Stage::Upload, process, 4).await.paused);
    let mut reader = ledger.reader(Stage::Upload);
    let report = uploaded("application/x-unknown");
    ledger.work(&mut reader, Stage::Upload, 2, &report).await;
    ledger.store(batch, 2).await;
    assert!(ledger.batch(batch).await.waits.is_empty());

    let request = v1::OperatorServiceListAuditRequest::default();
    let acts = ledger.operator().list_audit(request).await.unwrap();
    let acts = acts.into_inner().entries;
    let of_stage: Vec<&str> = acts
        .iter()
        .filter(|entry| entry.act == "UpdateStage")
        .map(|entry| entry.target.as_str())
        .collect();
    assert_eq!(of_stage, ["upload", "upload"]);
    ledger.verify().await;
}

async fn the_size_of_a_stage_is_told_to_all_its_processes_and_bounds_what_is_out(
    database: Database,
) {
    let mut ledger = TestLedger::start(database).await;
    let size = v1::Stage {
        max_slots: 3,
        max_files: 2,
        ..named(Stage::Upload)
    };
    let set = ledger
        .set_stage(size, &["max_slots", "max_files"])
        .await
        .unwrap();
    assert_eq!((set.max_slots, set.max_files, set.window), (3, 2, 2));
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a", "b", "c", "d", "e"]).await;
    ledger.confirm(batch, 0..5).await;
    ledger.complete(batch).await;
    assert_eq!(ledger.batch(batch).await.counts.unwrap().queued, 2);

    ledger.restart().await;
    for number in 1..3 {
        let process = Uuid::from_u128(number);
        assert_eq!(ledger.attend(Stage::Upload, process, 2).await.max_slots, 3);
    }
    let told = ledger.stage(Stage::Upload).await;
    assert_eq!((told.processes, told.slots), (2, 4));
    let mut reader = ledger.reader(Stage::Upload);
    let report = uploaded("application/x-unknown");
    ledger.work(&mut reader, Stage::Upload, 2, &report).await;
    until("the next two", PATIENCE, async || {
        let counts = ledger.batch(batch).await.counts.unwrap();
        assert!(counts.queued <= 2, "{counts:?}");
        (counts.queued == 2).then_some(())
    })
    .await
    .unwrap();
    let set = ledger.set_stage(named(Stage::Upload), &["max_files"]).await;
    let set = set.unwrap();
    assert_eq!((set.max_slots, set.max_files), (3, 0));
    ledger.work(&mut reader, Stage::Upload, 3, &report).await;
    ledger.store(batch, 5).await;

    for (stage, paths, field) in [
        (v1::Stage::default(), &["pause"][..], "stage.name"),
        (named(Stage::Upload), &[], "update_mask"),
        (named(Stage::Upload), &["window"], "update_mask.paths[0]"),
        (
            v1::Stage {
                max_slots: u32::MAX,
                ..named(Stage::Upload)
            },
            &["max_slots"],
            "stage.max_slots",
        ),
    ] {
        let refused = ledger.set_stage(stage, paths).await.unwrap_err();
        assert_eq!(wrong_fields(&refused), [field]);
    }
    let request = v1::UpdateStageRequest::default();
    let refused = ledger.operator_as_member().update_stage(request).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    ledger.verify().await;
}

async fn that_no_process_of_a_stage_lives_is_said_to_those_whose_files_wait_for_one(
    database: Database,
) {
    let ledger = TestLedger::start(database).await;
    let process = Uuid::new_v4();
    let batch = ledger.create(Batch::default()).await;
    ledger.add(batch, &["a.txt"]).await;
    ledger.confirm(batch, [0]).await;
    ledger.complete(batch).await;
    // One that lives is waited for, and one may live of which nothing was heard yet.
    assert_eq!(reasons(&ledger.batch(batch).await), []);
    until("it to be said", PATIENCE, async || {
        let told = ledger.batch(batch).await;
        (reasons(&told) == [("NO_WORKER", "no worker for this stage")]).then_some(())
    })
    .await
    .unwrap();
    let told = ledger.stage(Stage::Upload).await;
    assert_eq!(told.waits[0].wait.as_ref().unwrap().reason, "NO_WORKER");
    // Nothing waits there.
    assert!(ledger.stage(Stage::Embeddings).await.waits.is_empty());
    ledger.attend(Stage::Upload, process, 4).await;
    assert_eq!(reasons(&ledger.batch(batch).await), []);
    let request = AttendRequest {
        stage: Stage::Upload.name().into(),
        process: process.to_string(),
        leaves: true,
        ..AttendRequest::default()
    };
    let mut mesh = ledger.mesh_of(Stage::Upload);
    mesh.attend(request).await.unwrap();
    let told = ledger.batch(batch).await;
    assert_eq!(reasons(&told), [("NO_WORKER", "no worker for this stage")]);
}

async fn a_batch_is_told_how_many_batches_of_others_come_before_it_and_no_name_of_theirs(
    database: Database,
) {
    let ledger = TestLedger::start_with(database, |settings| {
        settings.windows.of_stage.insert(Stage::Upload, 2);
    })
    .await;
    let other = caudal_domain::TenantId::from_uuid(Uuid::from_u128(9));
    ledger.add_tenant(other).await;
    let theirs = ledger.create(Batch::default()).await;
    ledger.add(theirs, &["a", "b", "c"]).await;
    ledger.confirm(theirs, 0..3).await;

    let mut batches = ledger.batches_of(other);
    let request = v1::CreateBatchRequest {
        batch: Some(Batch::default()),
        request_id: request_id(),
    };
    let own = batches.create_batch(request).await.unwrap().into_inner();
    let request = v1::AddEntriesRequest {
        batch: own.name.clone(),
        entries: vec![super::support::file("own.txt", 10)],
        request_id: request_id(),
    };
    batches.add_entries(request).await.unwrap();
    let request = v1::ConfirmUploadsRequest {
        batch: own.name.clone(),
        uploads: vec![v1::Uploaded {
            ordinal: 0,
            target: 1,
            etag: "e".into(),
        }],
        request_id: request_id(),
    };
    let mut uploads = ledger.uploads_of(other);
    uploads.confirm_uploads(request).await.unwrap();
    let ask = v1::GetBatchRequest {
        name: own.name.clone(),
    };
    let place = until("its place", PATIENCE, async || {
        let told = ledger.batches_of(other).get_batch(ask.clone()).await;
        told.unwrap().into_inner().queue
    })
    .await
    .unwrap();
    assert_eq!(place.stage, "upload");
    assert_eq!((place.batches_of_others, place.own_batches), (1, 0));
    // No process has told how much it does at once.
    assert_eq!(place.about, None);
    assert_eq!(place.words, "behind 1 batch of others");
    // What has files out is worked on, and waits behind nobody.
    assert_eq!(ledger.batch(theirs).await.queue, None);
}

on_each_database![
    a_stage_that_operators_paused_hands_nothing_out_says_why_and_stays_so_over_a_restart,
    the_size_of_a_stage_is_told_to_all_its_processes_and_bounds_what_is_out,
    that_no_process_of_a_stage_lives_is_said_to_those_whose_files_wait_for_one,
    a_batch_is_told_how_many_batches_of_others_come_before_it_and_no_name_of_theirs,
];
