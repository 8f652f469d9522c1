//! The door: every public call with every kind of credential, and a tenant's life by the command alone.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use caudal_domain::TenantId;
use caudal_harness::{Database, eventually};
use caudal_node::permission::roles_of;
use caudal_node::scope::Role;
use caudal_proto::status::from_status;
use caudal_proto::v1;
use prost::Message as _;
use prost::bytes::{Buf as _, BufMut as _};
use prost_types::field_descriptor_proto::Type;
use prost_types::{DescriptorProto, FileDescriptorSet};
use serde_json::Value;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use uuid::Uuid;

use crate::refusals::{batches, channel, request_id};
use crate::{Ground, QUICK, json};

/// Bytes as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(bytes.copy_to_bytes(bytes.remaining()).to_vec()))
    }
}

/// A public call, as the descriptors tell it.
struct Call {
    path: String,
    request: String,
    streams: bool,
}

/// All public calls, and the messages that they take.
struct Contract {
    calls: Vec<Call>,
    messages: BTreeMap<String, DescriptorProto>,
}

impl Contract {
    fn read() -> Self {
        let set = FileDescriptorSet::decode(caudal_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut messages = BTreeMap::new();
        let mut calls = Vec::new();
        for file in &set.file {
            for message in &file.message_type {
                messages.insert(
                    format!(".{}.{}", file.package(), message.name()),
                    message.clone(),
                );
            }
            if !["caudal.v1", "google.longrunning"].contains(&file.package()) {
                continue;
            }
            for service in &file.service {
                for method in &service.method {
                    calls.push(Call {
                        path: format!("/{}.{}/{}", file.package(), service.name(), method.name()),
                        request: method.input_type().to_owned(),
                        streams: method.server_streaming(),
                    });
                }
            }
        }
        assert!(calls.len() > 50, "{}", calls.len());
        Self { calls, messages }
    }

    /// A request whose every name is one of these.
    fn request(&self, message: &str, names: &Names) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Some(descriptor) = self.messages.get(message) else {
            return bytes;
        };
        let mut arms = BTreeSet::new();
        for field in &descriptor.field {
            // The first arm of each choice.
            let is_choice = field.oneof_index.is_some() && !field.proto3_optional();
            if is_choice && !arms.insert(field.oneof_index) {
                continue;
            }
            let tag = u64::from(field.number().unsigned_abs());
            let value = match field.r#type() {
                Type::String => names
                    .of(descriptor.name(), field.name())
                    .map(String::into_bytes),
                Type::Message if field.type_name().starts_with(".caudal.v1.") => {
                    Some(self.request(field.type_name(), names)).filter(|inner| !inner.is_empty())
                }
                _ => None,
            };
            if let Some(value) = value {
                prost::encoding::encode_varint(tag << 3 | 2, &mut bytes);
                prost::encoding::encode_varint(value.len() as u64, &mut bytes);
                bytes.extend(value);
            }
        }
        bytes
    }
}

/// What requests name.
#[derive(Clone)]
struct Names {
    batch: String,
    tenant: String,
    operation: String,
    key: String,
}

impl Names {
    fn unknown() -> Self {
        let id = |last: u8| format!("0190b5a2-0000-7000-8000-0000000000{last:02x}");
        Self {
            batch: format!("batches/{}", id(1)),
            tenant: format!("tenants/{}", id(2)),
            operation: format!("operations/{}", id(3)),
            key: "apiKeys/00000000000000aa".to_owned(),
        }
    }

    fn malformed() -> Self {
        let wrong = "../../etc/passwd\u{0}".to_owned();
        Self {
            batch: wrong.clone(),
            tenant: wrong.clone(),
            operation: wrong.clone(),
            key: wrong,
        }
    }

    fn of(&self, message: &str, field: &str) -> Option<String> {
        Some(match field {
            "folder" => format!("{}/folders/0", self.batch),
            "tenant" => self.tenant.clone(),
            "request_id" => request_id(),
            "name" if message == "ListOperationsRequest" => "operations".to_owned(),
            "name" if message.contains("Operation") => self.operation.clone(),
            "name" if message.contains("ApiKey") => self.key.clone(),
            "name" if message.contains("Tenant") => self.tenant.clone(),
            "name"
                if [
                    "GetFileRequest",
                    "ListFileHistoryRequest",
                    "GetArtifactRequest",
                ]
                .contains(&message) =>
            {
                format!("{}/files/0", self.batch)
            }
            "batch" | "parent" | "name" => self.batch.clone(),
            "artifact" => "text.txt".to_owned(),
            _ => return None,
        })
    }

    /// With the names of another instead of its own.
    fn told_as(&self, other: &Self, bytes: &[u8]) -> Vec<u8> {
        let mut told = bytes.to_vec();
        for (mine, others) in [
            (&self.batch, &other.batch),
            (&self.tenant, &other.tenant),
            (&self.operation, &other.operation),
            (&self.key, &other.key),
        ] {
            assert_eq!(mine.len(), others.len());
            let places: Vec<usize> = told
                .windows(mine.len())
                .enumerate()
                .filter_map(|(at, part)| (part == mine.as_bytes()).then_some(at))
                .collect();
            for at in places {
                told[at..at + mine.len()].copy_from_slice(others.as_bytes());
            }
        }
        told
    }
}

/// Makes a call; of a stream its first message.
async fn call(
    channel: &Channel,
    call: &Call,
    body: Vec<u8>,
    authorization: Option<&str>,
) -> Result<Vec<u8>, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let mut request = Request::new(body);
    if let Some(authorization) = authorization {
        let value = authorization.parse().unwrap();
        request.metadata_mut().insert("authorization", value);
    }
    request.set_timeout(Duration::from_secs(20));
    let path = tonic::codegen::http::uri::PathAndQuery::try_from(call.path.as_str()).unwrap();
    if call.streams {
        let mut stream = client
            .server_streaming(request, path, Raw)
            .await?
            .into_inner();
        return Ok(stream.message().await?.unwrap_or_default());
    }
    Ok(client.unary(request, path, Raw).await?.into_inner())
}

/// What somebody with an operator's key types; the answer.
fn operator(ground: &Ground, arguments: &[&str]) -> Value {
    typed(ground, &ground.system.ready("operator_key"), arguments)
}

fn typed(ground: &Ground, key: &str, arguments: &[&str]) -> Value {
    let more = ["--output", "json", "--api-key", key];
    let output = ground.system.caudal(&[arguments, &more].concat()).unwrap();
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    json(&output)
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no text: {value}"))
        .to_owned()
}

/// A tenant without a bound on its calls, and its id.
pub(crate) fn tenant(ground: &Ground, name: &str) -> String {
    let limit = ["--limit", "calls_per_second=100000"];
    let made = operator(ground, &[&["tenants", "create", name][..], &limit].concat());
    text(&made["tenant"])
}

pub(crate) fn key(ground: &Ground, tenant: &str, role: &str) -> (String, String) {
    let made = operator(
        ground,
        &["keys", "create", role, "--role", role, "--tenant", tenant],
    );
    (text(&made["secret"]), text(&made["key"]))
}

fn batch_of(ground: &Ground, key: &str) -> String {
    let folder = ground.texts(4);
    let folder = folder.to_str().unwrap();
    let ended = typed(ground, key, &["ingest", folder, "--stages", QUICK, "--new"]);
    format!("batches/{}", text(&ended["batch_id"]))
}

#[test]
fn no_credential_reaches_beyond_what_its_role_and_tenant_may() {
    let ground = Ground::new(Database::Sqlite);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (acme, umbra) = (tenant(&ground, "Acme"), tenant(&ground, "Umbra"));
    let (admin, admin_key) = key(&ground, &acme, "admin");
    let batch = batch_of(&ground, &admin);
    let second = batch_of(&ground, &admin);
    let operation = typed(&ground, &admin, &["dismiss", &batch]);
    let names = Names {
        batch: batch.clone(),
        tenant: acme.clone(),
        operation: text(&operation["operation"]),
        key: admin_key,
    };
    let token = typed(&ground, &admin, &["token", &batch]);
    let (foreign, _) = key(&ground, &umbra, "admin");
    let (revoked, revoked_key) = key(&ground, &acme, "admin");
    operator(
        &ground,
        &["keys", "revoke", &revoked_key, "--tenant", &acme],
    );
    let (expired, expired_key) = key(&ground, &acme, "admin");
    operator(
        &ground,
        &[
            "keys",
            "rotate",
            &expired_key,
            "--overlap",
            "0s",
            "--tenant",
            &acme,
        ],
    );
    let roles = [
        (Role::Viewer, key(&ground, &acme, "viewer").0),
        (Role::Member, key(&ground, &acme, "member").0),
        (Role::Uploader, text(&token["secret"])),
        (Role::Admin, admin.clone()),
        (Role::Operator, ground.system.ready("operator_key")),
    ];
    let before = typed(&ground, &admin, &["count", &batch, "--by", "state"]);
    let contract = Contract::read();
    runtime.block_on(async {
        let channel = channel(&ground).await;
        let unknown = Names::unknown();
        for one in &contract.calls {
            let path = &one.path;
            let body = |names: &Names| contract.request(&one.request, names);
            let refused = async |names: &Names, key: &str| {
                let bearer = format!("Bearer {key}");
                call(&channel, one, body(names), Some(&bearer)).await
            };
            for wrong in [
                None,
                Some("Basic YTpi".to_owned()),
                Some("Bearer ".to_owned()),
                Some("Bearer caudal_abc_def".to_owned()),
                Some(format!(
                    "Bearer {}",
                    caudal_node::api_key::ApiKey::generate().text()
                )),
                Some(format!("Bearer {revoked}")),
                Some(format!("Bearer {expired}")),
            ] {
                let status = loop {
                    let answer = call(&channel, one, body(&names), wrong.as_deref()).await;
                    let status = answer.expect_err(path);
                    // Who comes with wrong keys only is told to wait.
                    if status.code() != Code::ResourceExhausted {
                        break status;
                    }
                    tokio::time::sleep(from_status(&status).retry_after.unwrap()).await;
                };
                assert_eq!(status.code(), Code::Unauthenticated, "{path} {wrong:?}");
            }
            let may = roles_of(path).unwrap_or_else(|| panic!("{path} has no row"));
            for (role, key) in &roles {
                // With names that are nobody's, so that nothing is done.
                let answer = refused(&unknown, key).await;
                let is_denied = answer.is_err_and(|status| status.code() == Code::PermissionDenied);
                assert_eq!(is_denied, !may.has(*role), "{path} {role:?}");
            }
            // What is another's and what is nobody's answer alike, byte by byte.
            for key in [&foreign, &roles[2].1] {
                let other = Names {
                    batch: if *key == foreign {
                        batch.clone()
                    } else {
                        second.clone()
                    },
                    ..names.clone()
                };
                let theirs = refused(&other, key).await;
                let nobodys = refused(&unknown, key).await;
                match (theirs, nobodys) {
                    (Err(theirs), Err(nobodys)) => {
                        let told = |status: &Status, names: &Names| {
                            let words = names.told_as(&unknown, status.message().as_bytes());
                            (
                                status.code(),
                                words,
                                names.told_as(&unknown, status.details()),
                            )
                        };
                        assert_eq!(told(&theirs, &other), told(&nobodys, &unknown), "{path}");
                    }
                    (Ok(theirs), Ok(_)) => {
                        // It names nothing, and tells of its own tenant.
                        let own = [
                            "CreateBatch",
                            "ListBatches",
                            "WatchEvents",
                            "GetUsage",
                            "ListApiKeys",
                            "ListAudit",
                            "ListOperations",
                            "CreateApiKey",
                        ];
                        assert!(own.iter().any(|name| path.ends_with(name)), "{path}");
                        for mine in [&names.batch, &names.operation, &names.key, &acme] {
                            let id = mine.rsplit('/').next().unwrap().as_bytes();
                            assert!(!theirs.windows(id.len()).any(|part| part == id), "{path}");
                        }
                    }
                    (theirs, nobodys) => panic!("{path}: {theirs:?} {nobodys:?}"),
                }
            }
            let (_, key) = roles.iter().rfind(|(role, _)| may.has(*role)).unwrap();
            let bearer = format!("Bearer {key}");
            for garbage in [&b"\xff\xff\xff"[..], &b"\x0a\x7f"[..]] {
                let answer = call(&channel, one, garbage.to_vec(), Some(&bearer)).await;
                let status = answer.expect_err(path);
                assert_eq!(status.code(), Code::InvalidArgument, "{path}: {status:?}");
            }
            let malformed = refused(&Names::malformed(), &admin).await;
            if let Err(status) = malformed {
                let told = [
                    Code::InvalidArgument,
                    Code::NotFound,
                    Code::PermissionDenied,
                    Code::Unimplemented,
                ];
                assert!(told.contains(&status.code()), "{path}: {status:?}");
            }
        }
    });
    assert_eq!(
        typed(&ground, &admin, &["count", &batch, "--by", "state"]),
        before
    );
    ground.system.verify().unwrap();
}

#[test]
fn a_tenant_is_made_limited_used_and_its_keys_revoked_by_the_command_alone() {
    let ground = Ground::new(Database::Sqlite);
    let acme = tenant(&ground, "Acme, S.A.");
    let umbra = tenant(&ground, "Umbra");
    let (admin, _) = key(&ground, &acme, "admin");
    let batch = batch_of(&ground, &admin);
    let (other, _) = key(&ground, &umbra, "member");
    let looked = ground
        .system
        .caudal(&["files", &batch, "--api-key", &other])
        .unwrap();
    assert!(!looked.status.success());
    assert!(String::from_utf8_lossy(&looked.stderr).contains("not found"));

    operator(&ground, &["tenants", "update", &acme, "--limit", "files=5"]);
    // Whoever forgets to say whose is told how.
    let operators = ground.system.ready("operator_key");
    for (asked, said) in [
        (["keys", "list"], "--operators"),
        (["audit", "--last=1"], "--everywhere"),
        (["usage", "--output=text"], "caudal tenants show TENANT"),
    ] {
        let asked = ground
            .system
            .caudal(&[&asked[..], &["--api-key", &operators]].concat());
        let words = String::from_utf8_lossy(&asked.unwrap().stderr).into_owned();
        assert!(words.contains(said), "{words}");
    }
    let usage = typed(&ground, &admin, &["usage"]);
    assert_eq!(
        usage["limits"]["files"],
        serde_json::json!({"used": 4, "limit": 5})
    );
    let folder = ground.texts(4);
    let full = ground
        .system
        .caudal(&[
            "ingest",
            folder.to_str().unwrap(),
            "--new",
            "--api-key",
            &admin,
        ])
        .unwrap();
    let words = String::from_utf8_lossy(&full.stderr).into_owned();
    assert!(
        !full.status.success() && words.contains("the quota files"),
        "{words}"
    );
    operator(
        &ground,
        &["tenants", "update", &acme, "--limit", "files=default"],
    );
    batch_of(&ground, &admin);

    // The admin makes, rotates and revokes; a stream that is open ends with its key, and calls are refused within a second.
    let made = typed(
        &ground,
        &admin,
        &["keys", "create", "laptop", "--role", "member"],
    );
    let (secret, name) = (text(&made["secret"]), text(&made["key"]));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let mut batches = batches(&channel(&ground).await, &secret);
        let watch = v1::WatchBatchRequest {
            name: batch.clone(),
            after_revision: 0,
        };
        let mut stream = batches.watch_batch(watch).await.unwrap().into_inner();
        stream.message().await.unwrap().unwrap();
        typed(&ground, &admin, &["keys", "revoke", &name]);
        let revoked = Instant::now();
        let end = loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a word"),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), Code::Unauthenticated);
        // A second is promised; the machine may be busy.
        assert!(
            revoked.elapsed() < Duration::from_secs(3),
            "{:?}",
            revoked.elapsed()
        );
        let look = v1::GetBatchRequest {
            name: batch.clone(),
        };
        let refused = batches.get_batch(look).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
    });
    let listed = typed(&ground, &admin, &["keys", "list"]);
    let states: BTreeMap<String, String> = listed["keys"]
        .as_array()
        .unwrap()
        .iter()
        .map(|key| (text(&key["name"]), text(&key["state"])))
        .collect();
    assert_eq!(states["laptop"], "REVOKED");
    assert_eq!(states["admin"], "GOOD");

    let output = ground
        .system
        .caudal(&[
            "audit",
            "--tenant",
            &acme,
            "--output",
            "json",
            "--api-key",
            &ground.system.ready("operator_key"),
        ])
        .unwrap();
    let acts: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| text(&serde_json::from_str::<Value>(line).unwrap()["act"]))
        .collect();
    assert_eq!(acts.first().map(String::as_str), Some("RevokeApiKey"));
    assert_eq!(acts.last().map(String::as_str), Some("CreateTenant"));
    assert!(!String::from_utf8_lossy(&output.stdout).contains(&secret));

    operator(&ground, &["tenants", "close", &acme]);
    // A gateway believes for half a second what it was told of a key.
    runtime.block_on(eventually("nobody of it gets in", async || {
        let usage = ground.system.caudal(&["usage", "--api-key", &admin]);
        !usage.unwrap().status.success()
    }));
    assert_eq!(
        text(
            &typed(&ground, &other, &["count", "--state", "failed"])["total"]
                .to_string()
                .into()
        ),
        "0"
    );
    let parsed: Result<Uuid, _> = acme.trim_start_matches("tenants/").parse();
    assert!(parsed.is_ok_and(|id| TenantId::from_uuid(id) != TenantId::OPERATORS));
}

/// A batch that waits for files.
fn open_batch(ground: &Ground, key: &str) -> String {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let request = v1::CreateBatchRequest {
            batch: Some(v1::Batch {
                options: Some(v1::BatchOptions {
                    stages: QUICK.split(',').map(str::to_owned).collect(),
                    ..v1::BatchOptions::default()
                }),
                ..v1::Batch::default()
            }),
            request_id: request_id(),
        };
        let made = batches(&channel(ground).await, key)
            .create_batch(request)
            .await;
        made.unwrap().into_inner().name
    })
}

#[test]
fn an_upload_token_takes_a_folder_into_its_batch_by_the_command() {
    let ground = Ground::new(Database::Sqlite);
    let acme = tenant(&ground, "Acme");
    let (member, _) = key(&ground, &acme, "member");
    let folder = ground.texts(4);
    let folder = folder.to_str().unwrap();
    let ingest = |token: &str, more: &[&str]| {
        let arguments = [&["ingest", folder, "--key", token][..], more].concat();
        let output = ground.system.caudal(&arguments).unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        (output, words)
    };
    let batch = open_batch(&ground, &member);
    let small = typed(&ground, &member, &["token", &batch, "--max-files", "2"]);
    let (refused, words) = ingest(&text(&small["secret"]), &[]);
    assert!(!refused.status.success());
    assert!(words.contains("the quota upload_token_files"), "{words}");

    let token = text(&typed(&ground, &member, &["token", &batch])["secret"]);
    let (ended, words) = ingest(&token, &["--output", "json"]);
    assert!(ended.status.success(), "{words}");
    let ended = json(&ended);
    assert_eq!(format!("batches/{}", text(&ended["batch_id"])), batch);
    assert_eq!(ended["files"]["PROCESSED"], 4);
    // It makes no batch, and a complete one takes nothing more.
    let (refused, words) = ingest(&token, &[]);
    assert!(
        !refused.status.success() && words.contains("is complete"),
        "{words}"
    );
    let (refused, words) = ingest(&token, &["--new"]);
    assert!(
        !refused.status.success() && words.contains("an upload token adds"),
        "{words}"
    );
    let files = ground
        .system
        .caudal(&["files", &batch, "--key", &token])
        .unwrap();
    assert!(!files.status.success());
}

#[test]
fn a_tenant_of_few_calls_waits_for_its_turn_says_so_and_loses_nothing() {
    let ground = Ground::new(Database::Sqlite);
    let acme = tenant(&ground, "Acme");
    let (member, _) = key(&ground, &acme, "member");
    let limit = ["tenants", "update", &acme, "--limit", "calls_per_second=1"];
    operator(&ground, &limit);
    let folder = ground.texts(4);
    let arguments = [
        "ingest",
        folder.to_str().unwrap(),
        "--stages",
        QUICK,
        "--key",
        &member,
    ];
    let output = ground.system.caudal(&arguments).unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}");
    assert!(words.contains("too many calls at once"), "{words}");
}

/// Starts a watch, and reads what it says until `words` are among it.
pub(crate) fn watch_until(
    ground: &Ground,
    key: &str,
    batch: &str,
    words: &str,
) -> std::process::Child {
    use std::io::{BufRead as _, BufReader};

    let mut watch = ground.system.command(&["watch", batch, "--key", key]);
    let piped = std::process::Stdio::piped();
    let mut watch = watch.stderr(piped).spawn().unwrap();
    let mut said = BufReader::new(watch.stderr.take().unwrap());
    let mut all = String::new();
    while !all.contains(words) {
        assert_ne!(said.read_line(&mut all).unwrap(), 0, "{all}");
    }
    // Whatever it says from now on nobody reads, and it goes on all the same.
    std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
    watch
}

#[test]
fn a_tenant_at_its_bounds_waits_says_so_and_goes_on_when_there_is_room() {
    let ground = Ground::new(Database::Sqlite);
    let acme = tenant(&ground, "Acme");
    let (member, _) = key(&ground, &acme, "member");
    // Before the key is used: no gateway remembers that there was more.
    for limit in ["streams=1", "operations=0"] {
        operator(&ground, &["tenants", "update", &acme, "--limit", limit]);
    }
    let batch = open_batch(&ground, &member);
    let mut first = watch_until(&ground, &member, &batch, "files");
    let mut second = watch_until(
        &ground,
        &member,
        &batch,
        "the quota streams would be exceeded",
    );
    let arguments = ["cancel", &batch, "--state", "PENDING", "--key", &member];
    let mut cancel = ground.system.command(&arguments);
    let mut cancel = cancel.stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = std::io::BufReader::new(cancel.stderr.take().unwrap());
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line).unwrap();
    assert!(
        line.contains("waiting") && line.contains("operations"),
        "{line}"
    );
    first.kill().unwrap();
    first.wait().unwrap();
    operator(
        &ground,
        &["tenants", "update", &acme, "--limit", "operations=default"],
    );
    assert!(cancel.wait().unwrap().success());
    typed(&ground, &member, &["cancel", &batch]);
    // It follows to the end that it could not see before.
    assert!(second.wait().unwrap().code().is_some());
    let usage = typed(&ground, &member, &["usage"]);
    assert_eq!(usage["limits"]["streams"]["limit"], 1, "{usage}");
}
