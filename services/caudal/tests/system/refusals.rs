//! Bad input: the right code, words that name the field, and nothing changed.

use caudal_proto::v1::batch_service_client::BatchServiceClient;
use caudal_proto::v1::upload_service_client::UploadServiceClient;
use caudal_proto::v1::{
    AddEntriesRequest, Batch, ConfirmUploadsRequest, CreateBatchRequest, Entry, FileEntry,
    GetBatchRequest, IssueUploadsRequest, Ordinals, Uploaded, confirmation, entry,
    issue_uploads_request, upload_target,
};
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;
use uuid::Uuid;

use crate::{Database, Ground};

pub(crate) type Keyed = InterceptedService<Channel, Key>;

#[derive(Clone)]
pub(crate) struct Key(String);

impl Key {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl tonic::service::Interceptor for Key {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if !self.0.is_empty() {
            let value = MetadataValue::try_from(format!("Bearer {}", self.0)).unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

pub(crate) async fn channel(ground: &Ground) -> Channel {
    Channel::from_shared(ground.system.ready("gateway"))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

pub(crate) fn batches(channel: &Channel, key: &str) -> BatchServiceClient<Keyed> {
    BatchServiceClient::new(InterceptedService::new(
        channel.clone(),
        Key(key.to_owned()),
    ))
}

pub(crate) fn request_id() -> String {
    Uuid::new_v4().to_string()
}

pub(crate) fn file(path: &str, size: i64) -> Entry {
    let file = FileEntry {
        size,
        ..FileEntry::default()
    };
    Entry {
        path: path.to_owned(),
        kind: Some(entry::Kind::File(file)),
    }
}

fn fields(status: &Status) -> Vec<String> {
    let details = status
        .get_details_bad_request()
        .unwrap_or_else(|| panic!("no BadRequest in {status:?}"));
    details
        .field_violations
        .into_iter()
        .map(|violation| violation.field)
        .collect()
}

#[test]
fn bad_calls_are_refused_with_the_field_and_change_nothing() {
    let ground = Ground::new(Database::Sqlite);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = channel(&ground).await;
        let key = ground.system.ready("api_key");
        let mut member = batches(&channel, &key);

        let request = CreateBatchRequest {
            batch: Some(Batch::default()),
            request_id: request_id(),
        };
        for wrong in ["", "caudal_nobody_00000000", "not a key"] {
            let refused = batches(&channel, wrong)
                .create_batch(request.clone())
                .await
                .unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{wrong:?}");
        }
        let refused = member
            .create_batch(CreateBatchRequest {
                request_id: "7".into(),
                ..request.clone()
            })
            .await
            .unwrap_err();
        assert_eq!(
            (refused.code(), fields(&refused)),
            (Code::InvalidArgument, vec!["request_id".to_owned()])
        );

        let batch = member.create_batch(request).await.unwrap().into_inner();
        let unknown = GetBatchRequest {
            name: format!("batches/{}", Uuid::now_v7()),
        };
        assert_eq!(
            member.get_batch(unknown).await.unwrap_err().code(),
            Code::NotFound
        );

        let add = |entries: Vec<Entry>| AddEntriesRequest {
            batch: batch.name.clone(),
            entries,
            request_id: request_id(),
        };
        let refused = member
            .add_entries(add(vec![file("fine", 1), file("a/../../b", 1)]))
            .await
            .unwrap_err();
        assert_eq!(
            (refused.code(), fields(&refused)),
            (Code::InvalidArgument, vec!["entries[1].path".to_owned()])
        );
        let refused = member
            .add_entries(add(vec![file("twice", 1), file("twice", 1)]))
            .await
            .unwrap_err();
        assert_eq!(fields(&refused), ["entries[1].path"]);
        assert_eq!(refused.get_details_error_info().unwrap().domain, "caudal");

        let huge = (0..1000)
            .map(|number| file(&format!("{number}{}", "x".repeat(8_000)), 1))
            .collect();
        let refused = member.add_entries(add(huge)).await.unwrap_err();
        assert!(
            matches!(
                refused.code(),
                Code::InvalidArgument | Code::OutOfRange | Code::ResourceExhausted
            ),
            "{refused:?}"
        );

        let unchanged = member
            .get_batch(GetBatchRequest {
                name: batch.name.clone(),
            })
            .await
            .unwrap()
            .into_inner();
        assert_eq!(unchanged.counts.unwrap().total, 0);
    });
}

// Protocol 12.2: an upload that did not land, or not in the declared size, is not confirmed.
#[test]
fn an_upload_of_another_size_is_refused_by_the_store_and_not_confirmed() {
    let ground = Ground::new(Database::Sqlite);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = channel(&ground).await;
        let key = ground.system.ready("api_key");
        let mut member = batches(&channel, &key);
        let mut uploads =
            UploadServiceClient::new(InterceptedService::new(channel.clone(), Key(key)));
        let request = CreateBatchRequest {
            batch: Some(Batch::default()),
            request_id: request_id(),
        };
        let batch = member.create_batch(request).await.unwrap().into_inner();
        let add = AddEntriesRequest {
            batch: batch.name.clone(),
            entries: vec![file("five", 5)],
            request_id: request_id(),
        };
        member.add_entries(add).await.unwrap();
        let files = issue_uploads_request::Files::Ordinals(Ordinals { ordinals: vec![0] });
        let issue = IssueUploadsRequest {
            parts: false,
            batch: batch.name.clone(),
            files: Some(files),
        };
        let target = uploads
            .issue_uploads(issue)
            .await
            .unwrap()
            .into_inner()
            .targets
            .remove(0);
        let Some(upload_target::How::Put(put)) = target.how else {
            panic!("{target:?}")
        };
        let sent = reqwest::Client::new()
            .put(&put.url)
            .body("six bytes")
            .send()
            .await
            .unwrap();
        assert!(sent.status().is_client_error(), "{}", sent.status());
        let confirm = ConfirmUploadsRequest {
            batch: batch.name.clone(),
            uploads: vec![Uploaded {
                ordinal: 0,
                target: target.target,
                etag: String::new(),
            }],
            request_id: request_id(),
        };
        let answer = uploads.confirm_uploads(confirm).await.unwrap().into_inner();
        assert!(
            matches!(
                answer.confirmations[0].result,
                Some(confirmation::Result::Error(_))
            ),
            "{answer:?}"
        );
        let counts = member
            .get_batch(GetBatchRequest { name: batch.name })
            .await
            .unwrap()
            .into_inner()
            .counts
            .unwrap();
        assert_eq!((counts.total, counts.pending), (1, 1));
    });
}

#[test]
fn the_command_line_says_what_to_do_next() {
    let ground = Ground::new(Database::Sqlite);
    let missing = ground
        .system
        .caudal(&["ingest", "/no/such/folder"])
        .unwrap();
    assert!(!missing.status.success());
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/no/such/folder"));
    let wrong_key = ground
        .system
        .command(&["watch", &Uuid::now_v7().to_string()])
        .env("CAUDAL_API_KEY", "caudal_x")
        .output()
        .unwrap();
    assert!(!wrong_key.status.success() && !wrong_key.stderr.is_empty());
    let unknown = ground
        .system
        .caudal(&["watch", &Uuid::now_v7().to_string()])
        .unwrap();
    assert!(!unknown.status.success() && !unknown.stderr.is_empty());
}

#[test]
fn an_operator_calls_a_stage_with_a_signed_scope_and_nobody_without() {
    use caudal_proto::mesh::v1::GetStageRequest;
    use caudal_proto::mesh::v1::stage_service_client::StageServiceClient;

    let ground = Ground::new(Database::Sqlite);
    let data = ground.folder.path().join("data");
    let call = "caudal.mesh.v1.StageService/GetStage";
    let signed = ground
        .system
        .caudal(&[
            "scope",
            call,
            "--stage",
            "metadata",
            "--data-dir",
            data.to_str().unwrap(),
        ])
        .unwrap();
    let header = String::from_utf8(signed.stdout).unwrap();
    let (name, value) = header.trim().split_once(": ").unwrap();
    let with_scope = || {
        let mut request = Request::new(GetStageRequest {});
        let name: tonic::metadata::AsciiMetadataKey = name.parse().unwrap();
        let value = MetadataValue::try_from(value).unwrap();
        request.metadata_mut().insert(name, value);
        request
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let channel = Channel::from_shared(ground.system.service("metadata"))
            .unwrap()
            .connect()
            .await
            .unwrap();
        let other = Channel::from_shared(ground.system.service("upload"))
            .unwrap()
            .connect()
            .await
            .unwrap();
        let elsewhere = StageServiceClient::new(other).get_stage(with_scope()).await;
        assert_eq!(elsewhere.unwrap_err().code(), Code::Unauthenticated);
        let mut stage = StageServiceClient::new(channel);
        let refused = stage.get_stage(GetStageRequest {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        let answer = stage.get_stage(with_scope()).await.unwrap();
        assert_eq!(answer.into_inner().stage, "metadata");
        let again = stage.get_stage(with_scope()).await.unwrap_err();
        assert_eq!(again.code(), Code::Unauthenticated);
    });
}

/// The program by itself, with nothing from the environment.
fn alone(arguments: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_caudal"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("CAUDAL_")) {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

#[test]
fn no_command_repeats_a_password_of_an_address() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let mesh = "--mesh-secret=0123456789abcdef0123456789abcdef";
    let redis = "--redis-url=redis://127.0.0.1:1";
    let s3 = ["--s3-access-key=a", "--s3-secret-key=b"];
    for arguments in [
        vec![
            "serve",
            "ledger",
            mesh,
            redis,
            "--database-url=postgres://u:hunter2secret@:bad:port/x",
        ],
        vec![
            "serve",
            "ledger",
            mesh,
            "--redis-url=redis://u:hunter2secret@h:port",
            "--database-url=sqlite::memory:",
        ],
        vec![
            "verify",
            "--database-url=postgres://u:hunter2secret@:bad:port/x",
        ],
        vec![
            "up",
            "--data-dir",
            data,
            "--database-url=postgres://u:#hunter2secret@h/x",
        ],
        vec![
            "up",
            "--data-dir",
            data,
            "--s3-endpoint=http://user:hunter2secret@h:1",
            s3[0],
            s3[1],
        ],
        vec![
            "usage",
            "--api-key=caudal_x",
            "--gateway=http://u:hunter2secret@127.0.0.1:1",
        ],
        vec![
            "usage",
            "--api-key=caudal_x",
            "--gateway=u:hunter2secret@127.0.0.1:1",
        ],
    ] {
        let output = alone(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        for said in [&output.stdout, &output.stderr] {
            let said = String::from_utf8_lossy(said);
            assert!(!said.contains("hunter2secret"), "{arguments:?}: {said}");
        }
    }
}

#[test]
fn who_has_read_enough_of_an_answer_may_go_and_the_command_ends_quietly() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = alone(&[
        "scope",
        "caudal.mesh.v1.LimiterService/GetStatus",
        "--mesh-secret-file",
        secret.to_str().unwrap(),
    ])
    .stdout(writer)
    .stderr(std::process::Stdio::piped())
    .output()
    .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !said.contains("panicked"),
        "{said}"
    );
}

#[test]
fn a_signature_for_no_call_and_a_change_of_nothing_are_wrong_command_lines() {
    let tenant = "tenants/0190b5a2-0000-7000-8000-000000000001";
    for arguments in [
        vec!["scope", "nonsense"],
        vec!["scope", "caudal.mesh.v1.StageService/Pause"],
        vec!["tenants", "update", tenant, "--api-key=caudal_x"],
    ] {
        let output = alone(&arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
    }
}
