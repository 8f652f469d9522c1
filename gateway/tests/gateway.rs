//! The gateway's public face against a scripted ledger, an embedded S3 server and a limiter that may be away.

#![expect(
    clippy::unwrap_used,
    reason = "a test says what went wrong by panicking"
)]

mod browser;
mod fake;
mod live;

use std::time::Duration;

use caudal_domain::{FileRef, Refusal, Target, final_key, landing_key};
use caudal_harness::until;
use caudal_node::Role;
use caudal_node::scope::{SCOPE_NOT_VALID, SCOPE_TOO_OLD};
use caudal_proto::longrunning;
use caudal_proto::longrunning::operations_client::OperationsClient;
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::status::{from_parts, from_status, to_status};
use caudal_proto::v1;
use caudal_proto::v1::batch_service_client::BatchServiceClient;
use caudal_proto::v1::confirmation::Result as Confirmed;
use caudal_proto::v1::file_service_client::FileServiceClient;
use caudal_proto::v1::operator_service_client::OperatorServiceClient;
use caudal_proto::v1::upload_service_client::UploadServiceClient;
use caudal_proto::v1::upload_target::How;
use caudal_proto::v1::watch_batch_response::Message;
use fake::{
    BATCH, ORDINAL_DECLARED, ORDINAL_FAILED, ORDINAL_LANDING, ORDINAL_LARGE, ORDINAL_PROCESSED,
    ORDINAL_UNKNOWN, TENANT, World,
};
use tonic::{Code, Request, Status};

/// For what takes milliseconds, on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(20);

fn batch_name() -> String {
    caudal_domain::batch_name(BATCH)
}

/// Says that the bytes of a file have landed at its first target.
fn confirmation(ordinal: u32, etag: &str) -> v1::ConfirmUploadsRequest {
    v1::ConfirmUploadsRequest {
        batch: batch_name(),
        uploads: vec![v1::Uploaded {
            ordinal,
            target: 1,
            etag: etag.to_owned(),
        }],
        request_id: uuid::Uuid::new_v4().to_string(),
    }
}

#[tokio::test]
async fn without_a_good_key_nothing_reaches_the_ledger() {
    let world = World::start().await;
    let mut batches = BatchServiceClient::new(world.channel());
    let ask = || Request::new(v1::GetBatchRequest { name: batch_name() });

    let none = batches.get_batch(ask()).await.unwrap_err();
    assert_eq!(from_status(&none).reason, "UNAUTHENTICATED");
    assert!(
        none.message().contains("send your API key"),
        "{}",
        none.message()
    );

    let mut torn = ask();
    torn.metadata_mut()
        .insert("authorization", "Bearer caudal_ab_cd".parse().unwrap());
    let torn = batches.get_batch(torn).await.unwrap_err();
    assert!(
        torn.message().contains("copy it again"),
        "{}",
        torn.message()
    );

    let mut unknown = ask();
    let other = caudal_gateway::key::ApiKey::generate();
    unknown.metadata_mut().insert(
        "authorization",
        format!("Bearer {}", other.text()).parse().unwrap(),
    );
    let unknown = batches.get_batch(unknown).await.unwrap_err();
    assert_eq!(unknown.code(), Code::Unauthenticated);
    assert!(
        unknown.message().contains("ask your operator"),
        "{}",
        unknown.message()
    );

    assert!(world.ledger.forwarded().is_empty());
    world.stop().await;
}

#[tokio::test]
async fn a_forwarded_call_carries_the_callers_scope_and_language_and_never_the_key() {
    let world = World::start().await;
    let mut batches = BatchServiceClient::new(world.channel());
    let mut request = world.request(v1::GetBatchRequest { name: batch_name() });
    request
        .metadata_mut()
        .insert("accept-language", "es".parse().unwrap());
    request
        .metadata_mut()
        .insert("caudal-scope", "forged".parse().unwrap());
    let batch = batches.get_batch(request).await.unwrap().into_inner();
    assert_eq!(batch.name, batch_name());

    let forwarded = world.ledger.forwarded();
    let [call] = &forwarded[..] else {
        panic!("{} calls were forwarded", forwarded.len())
    };
    assert_eq!(
        (call.scope.tenant, call.scope.role),
        (Some(fake::TENANT), Role::Member)
    );
    assert_eq!(call.language.as_deref(), Some("es"));
    assert!(!call.has_authorization);
    world.stop().await;
}

#[tokio::test]
async fn the_ledgers_refusal_comes_back_with_every_detail() {
    let world = World::start().await;
    let refusal = Refusal::invalid("entries[3].path", "has a `..` part")
        .with_violation("entries[9].path", "is empty");
    world.ledger.refuse_entries(refusal.clone());
    let entries = vec![v1::Entry {
        path: "../x".into(),
        kind: None,
    }];
    let request = v1::AddEntriesRequest {
        batch: batch_name(),
        entries,
        request_id: String::new(),
    };
    let refused = BatchServiceClient::new(world.channel())
        .add_entries(world.request(request))
        .await
        .unwrap_err();
    let expected = to_status(&refusal);
    assert_eq!(
        (refused.code(), refused.message()),
        (expected.code(), expected.message())
    );
    assert_eq!(refused.details(), expected.details());
    world.stop().await;
}

#[tokio::test]
async fn a_bad_page_names_its_field_and_an_oversized_message_its_limit() {
    let world = World::start().await;
    let field = |status: &tonic::Status| {
        from_status(status)
            .violations
            .first()
            .map(|one| one.field.clone())
    };

    let mut uploads = UploadServiceClient::new(world.channel());
    let none = v1::IssueUploadsRequest {
        parts: false,
        batch: batch_name(),
        files: None,
    };
    let refused = uploads
        .issue_uploads(world.request(none))
        .await
        .unwrap_err();
    assert_eq!(field(&refused).as_deref(), Some("files"));

    let nobody = v1::ConfirmUploadsRequest {
        batch: "batches/x".into(),
        ..Default::default()
    };
    let refused = uploads
        .confirm_uploads(world.request(nobody))
        .await
        .unwrap_err();
    assert_eq!(field(&refused).as_deref(), Some("batch"));

    let uploaded = v1::Uploaded {
        ordinal: 1,
        target: 1,
        etag: "e".into(),
    };
    let without_id = v1::ConfirmUploadsRequest {
        batch: batch_name(),
        uploads: vec![uploaded],
        request_id: "7".into(),
    };
    let refused = uploads
        .confirm_uploads(world.request(without_id))
        .await
        .unwrap_err();
    assert_eq!(field(&refused).as_deref(), Some("request_id"));

    let mut batches = BatchServiceClient::new(world.channel());
    let empty = v1::AddEntriesRequest {
        batch: batch_name(),
        ..Default::default()
    };
    let refused = batches.add_entries(world.request(empty)).await.unwrap_err();
    assert_eq!(field(&refused).as_deref(), Some("entries"));

    let huge = v1::Entry {
        path: "x".repeat(5 * 1024 * 1024),
        kind: None,
    };
    let huge = v1::AddEntriesRequest {
        batch: batch_name(),
        entries: vec![huge],
        ..Default::default()
    };
    let refused = batches.add_entries(world.request(huge)).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(from_status(&refused).reason, "MESSAGE_TOO_LARGE");

    assert!(world.ledger.forwarded().is_empty());
    world.stop().await;
}

/// By the gateway, because it is larger than any client reads; by the ledger; or by the gateway because the ledger has sent
/// more than is read of it.
#[tokio::test]
async fn an_answer_that_cannot_be_sent_says_what_may_have_been_done_and_blames_nobody() {
    const MIB: usize = 1024 * 1024;
    let world = World::start().await;
    let mut batches = BatchServiceClient::new(world.channel());
    let mut files = FileServiceClient::new(world.channel());
    let mut refused = Vec::new();
    for mib in [5, 17] {
        world.ledger.pad_answers(mib * MIB);
        let get = v1::GetBatchRequest { name: batch_name() };
        refused.push(batches.get_batch(world.request(get)).await.unwrap_err());
        let list = v1::ListFailuresRequest::default();
        refused.push(files.list_failures(world.request(list)).await.unwrap_err());
    }
    world.ledger.pad_answers(5 * MIB);
    let watch = v1::WatchBatchRequest {
        name: batch_name(),
        after_revision: 0,
    };
    let watched = batches.watch_batch(world.request(watch)).await.unwrap();
    refused.push(watched.into_inner().message().await.unwrap_err());

    for status in &refused {
        assert_eq!(status.code(), Code::Internal, "{}", status.message());
        assert_eq!(from_status(status).reason, "ANSWER_TOO_LARGE");
        for words in ["may have been done", "ask for a smaller page"] {
            assert!(status.message().contains(words), "{}", status.message());
        }
    }
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let metrics = http
        .get(format!("{}/metrics", world.gateway))
        .bearer_auth(world.operator.text());
    let metrics = metrics.send().await.unwrap().text().await.unwrap();
    let counted = "caudal_oversized_answers_total{service=\"gateway\"} 5\n";
    assert!(metrics.contains(counted), "{metrics}");
    world.stop().await;
}

#[tokio::test]
async fn bytes_go_to_the_store_and_an_etag_that_was_not_told_is_asked_for() {
    let world = World::start().await;
    let mut uploads = UploadServiceClient::new(world.channel());
    let ordinals = vec![
        ORDINAL_LANDING,
        ORDINAL_PROCESSED,
        ORDINAL_FAILED,
        ORDINAL_UNKNOWN,
    ];
    let issue = v1::IssueUploadsRequest {
        parts: false,
        batch: batch_name(),
        files: Some(v1::issue_uploads_request::Files::Ordinals(v1::Ordinals {
            ordinals,
        })),
    };
    let targets = uploads
        .issue_uploads(world.request(issue))
        .await
        .unwrap()
        .into_inner()
        .targets;
    let how: Vec<How> = targets
        .iter()
        .map(|target| target.how.clone().unwrap())
        .collect();
    let [
        How::Put(put),
        How::Held(_),
        How::Error(failed),
        How::Error(unknown),
    ] = &how[..]
    else {
        panic!("{how:?}")
    };
    assert_eq!(from_parts(failed).reason, "FILE_FAILED");
    assert_eq!(from_parts(unknown).code, Code::NotFound);

    let uploaded = |ordinal, target, etag: &str| v1::Uploaded {
        ordinal,
        target,
        etag: etag.into(),
    };
    let confirm = |items: Vec<v1::Uploaded>| v1::ConfirmUploadsRequest {
        batch: batch_name(),
        uploads: items,
        request_id: uuid::Uuid::new_v4().to_string(),
    };
    let early = confirm(vec![
        uploaded(ORDINAL_LANDING, 1, ""),
        uploaded(ORDINAL_PROCESSED, 1, "\"told\""),
    ]);
    let answers = uploads
        .confirm_uploads(world.request(early))
        .await
        .unwrap()
        .into_inner()
        .confirmations;
    let Some(Confirmed::Error(not_landed)) = &answers[0].result else {
        panic!("{answers:?}")
    };
    assert_eq!(from_parts(not_landed).reason, "NOT_LANDED");
    assert_eq!(
        answers[1].result,
        Some(Confirmed::State(v1::FileState::Uploaded.into()))
    );
    assert_eq!(
        world.ledger.confirmed(),
        [(ORDINAL_PROCESSED, "told".to_owned())]
    );

    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let too_long = http.put(&put.url).body("five!!").send().await.unwrap();
    assert!(
        too_long.status().is_client_error(),
        "the URL fixes the size"
    );
    let landed = http.put(&put.url).body("five!").send().await.unwrap();
    assert!(landed.status().is_success(), "{}", landed.status());
    let etag = landed.headers()["etag"]
        .to_str()
        .unwrap()
        .trim_matches('"')
        .to_owned();

    let late = confirm(vec![uploaded(ORDINAL_LANDING, 1, "")]);
    let answers = uploads
        .confirm_uploads(world.request(late))
        .await
        .unwrap()
        .into_inner()
        .confirmations;
    assert_eq!(
        answers[0].result,
        Some(Confirmed::State(v1::FileState::Uploaded.into()))
    );
    assert_eq!(
        world.ledger.confirmed().last(),
        Some(&(ORDINAL_LANDING, etag))
    );
    world.stop().await;
}

#[tokio::test]
async fn parts_that_landed_are_listed_and_freed_when_their_upload_is_given_up() {
    let world = World::start().await;
    let mut uploads = UploadServiceClient::new(world.channel());
    let ordinals = vec![ORDINAL_LARGE];
    let files = v1::issue_uploads_request::Files::Ordinals(v1::Ordinals { ordinals });
    let asked = v1::IssueUploadsRequest {
        batch: batch_name(),
        files: Some(files),
        parts: true,
    };
    let answer = uploads.issue_uploads(world.request(asked)).await.unwrap();
    let Some(How::Multipart(target)) = answer.into_inner().targets.remove(0).how else {
        panic!("parts were asked for")
    };
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let sent = http.put(&target.first_parts[1].url).body(vec![7; 5]).send();
    assert!(sent.await.unwrap().status().is_success());

    let name = format!("{}/files/{ORDINAL_LARGE}", batch_name());
    let mut list = async || {
        let request = v1::ListPartsRequest { name: name.clone() };
        let listed = uploads.list_parts(world.request(request)).await;
        listed.unwrap().into_inner()
    };
    let listed = list().await;
    assert_eq!((listed.part_size, listed.part_count), (target.part_size, 2));
    let parts: Vec<_> = listed
        .parts
        .iter()
        .map(|part| (part.number, part.size))
        .collect();
    assert_eq!(parts, [(2, 5)]);
    assert!(!listed.parts[0].etag.is_empty());

    let mut aborting = UploadServiceClient::new(world.channel());
    let mut abort = async |request_id: &str| {
        let request = v1::AbortPartsRequest {
            name: name.clone(),
            request_id: request_id.to_owned(),
        };
        aborting.abort_parts(world.request(request)).await
    };
    assert_eq!(abort("").await.unwrap_err().code(), Code::InvalidArgument);
    for _ in 0..2 {
        let id = uuid::Uuid::new_v4().to_string();
        abort(&id).await.unwrap();
    }
    assert_eq!(list().await.parts, []);
}

#[tokio::test]
async fn a_large_file_goes_in_parts_that_any_client_goes_on_with() {
    let world = World::start().await;
    let mut uploads = UploadServiceClient::new(world.channel());
    let mut target = async |parts: bool| {
        let ordinals = vec![ORDINAL_LARGE];
        let files = v1::issue_uploads_request::Files::Ordinals(v1::Ordinals { ordinals });
        let asked = v1::IssueUploadsRequest {
            batch: batch_name(),
            files: Some(files),
            parts,
        };
        let answer = uploads.issue_uploads(world.request(asked)).await.unwrap();
        answer.into_inner().targets.remove(0).how.unwrap()
    };
    assert!(
        matches!(target(false).await, How::Put(_)),
        "one PUT carries it"
    );
    let How::Multipart(first) = target(true).await else {
        panic!("parts were asked for")
    };
    let sizes: Vec<i64> = first.first_parts.iter().map(|part| part.size).collect();
    assert_eq!(sizes, [16 * 1024 * 1024, 5]);
    assert_eq!((first.part_count, first.parts_landed), (2, 0));

    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let send = async |part: &v1::PartTarget| {
        let body = vec![7; usize::try_from(part.size).unwrap()];
        let answer = http.put(&part.url).body(body).send().await.unwrap();
        assert!(answer.status().is_success(), "{}", answer.status());
    };
    send(&first.first_parts[1]).await;
    let How::Multipart(second) = target(true).await else {
        panic!("parts were asked for")
    };
    let missing: Vec<u32> = second.first_parts.iter().map(|part| part.number).collect();
    assert_eq!(
        (missing, second.parts_landed, second.bytes_landed),
        (vec![1], 1, 5)
    );

    let mut confirming = UploadServiceClient::new(world.channel());
    let mut confirm = async || {
        let request = confirmation(ORDINAL_LARGE, "");
        let answers = confirming.confirm_uploads(world.request(request)).await;
        answers.unwrap().into_inner().confirmations.remove(0).result
    };
    let Some(Confirmed::Error(error)) = confirm().await else {
        panic!("a part is missing")
    };
    let refusal = from_parts(&error);
    assert_eq!(refusal.reason, "NOT_LANDED");
    assert!(
        refusal.message.contains("1 of 2 parts"),
        "{}",
        refusal.message
    );

    send(&second.first_parts[0]).await;
    let How::Multipart(last) = target(true).await else {
        panic!("parts were asked for")
    };
    assert!(last.first_parts.is_empty());
    let uploaded = Some(Confirmed::State(v1::FileState::Uploaded.into()));
    assert_eq!(confirm().await, uploaded);
    let [(ORDINAL_LARGE, etag)] = &world.ledger.confirmed()[..] else {
        panic!("{:?}", world.ledger.confirmed())
    };
    assert!(etag.ends_with("-2"), "{etag}");
    // The answer was lost: the parts are one object by now.
    assert_eq!(confirm().await, uploaded);
    world.stop().await;
}

/// The calls of a multipart upload as a client makes them that speaks S3 itself.
struct Calls {
    world: World,
    http: reqwest::Client,
}

impl Calls {
    async fn signed(
        &self,
        call: v1::UploadCall,
        upload: &str,
        part_number: u32,
    ) -> v1::SignUploadCallResponse {
        let request = v1::SignUploadCallRequest {
            name: format!("{}/files/{ORDINAL_LARGE}", batch_name()),
            target: 1,
            call: call.into(),
            upload_id: upload.to_owned(),
            part_number,
        };
        let mut uploads = UploadServiceClient::new(self.world.channel());
        let signed = uploads.sign_upload_call(self.world.request(request)).await;
        signed.unwrap().into_inner()
    }

    /// What the store says to it.
    async fn made(&self, signed: &v1::SignUploadCallResponse, body: Vec<u8>) -> (u16, String) {
        let method = signed.method.parse().unwrap();
        let answer = self.http.request(method, &signed.url).body(body);
        let answer = answer.send().await.unwrap();
        let etag = answer.headers().get("etag").cloned();
        let status = answer.status().as_u16();
        let words = answer.text().await.unwrap();
        match etag {
            Some(etag) if words.is_empty() => (status, etag.to_str().unwrap().to_owned()),
            _ => (status, words),
        }
    }

    async fn call(&self, call: v1::UploadCall, upload: &str, body: &str) -> (u16, String) {
        let signed = self.signed(call, upload, 0).await;
        self.made(&signed, body.as_bytes().to_vec()).await
    }

    async fn begin(&self) -> String {
        let (status, words) = self.call(v1::UploadCall::Create, "", "").await;
        assert_eq!(status, 200, "{words}");
        let (_, id) = words.split_once("<UploadId>").unwrap();
        id.split_once('<').unwrap().0.to_owned()
    }

    /// Its ETag.
    async fn send(&self, upload: &str, number: u32) -> String {
        let part = self.signed(v1::UploadCall::Part, upload, number).await;
        let length: usize = part.headers[0].value.parse().unwrap();
        assert_eq!(part.headers[0].name, "content-length");
        let (status, etag) = self.made(&part, vec![7; length]).await;
        assert_eq!(status, 200, "{etag}");
        etag
    }

    async fn complete(&self, upload: &str, parts: &[(u32, String)]) -> (u16, String) {
        let part = |(number, etag): &(u32, String)| {
            format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>")
        };
        let parts: String = parts.iter().map(part).collect();
        let body = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
        self.call(v1::UploadCall::Complete, upload, &body).await
    }

    /// The reason when it is refused.
    async fn confirm(&self) -> Result<(), String> {
        let request = confirmation(ORDINAL_LARGE, "");
        let mut uploads = UploadServiceClient::new(self.world.channel());
        let answers = uploads.confirm_uploads(self.world.request(request)).await;
        match answers.unwrap().into_inner().confirmations.remove(0).result {
            Some(Confirmed::Error(error)) => Err(from_parts(&error).reason),
            answer => {
                let uploaded = Confirmed::State(v1::FileState::Uploaded.into());
                assert_eq!(answer, Some(uploaded));
                Ok(())
            }
        }
    }

    async fn start() -> Self {
        Self {
            world: World::start().await,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
        }
    }
}

#[tokio::test]
async fn a_client_that_speaks_s3_itself_has_each_call_of_a_multipart_upload_signed() {
    let calls = Calls::start().await;
    let upload = calls.begin().await;
    let part = calls.signed(v1::UploadCall::Part, &upload, 2).await;
    assert_eq!(
        calls.made(&part, vec![7; 6]).await.0,
        403,
        "its length is signed"
    );
    let mut parts = Vec::new();
    for number in [1, 2] {
        parts.push((number, calls.send(&upload, number).await));
    }
    let (_, listed) = calls.call(v1::UploadCall::List, &upload, "").await;
    assert_eq!(listed.matches("<PartNumber>").count(), 2, "{listed}");

    // A client begins again, and what it left is not kept beside what it sends now.
    let other = calls.begin().await;
    let sent = calls.send(&other, 2).await;
    assert_eq!(calls.call(v1::UploadCall::List, &upload, "").await.0, 404);
    assert_eq!(calls.complete(&upload, &parts).await.0, 404);
    assert_eq!(calls.call(v1::UploadCall::Abort, &other, "").await.0, 204);
    assert_eq!(calls.complete(&other, &[(2, sent)]).await.0, 404);
    assert_eq!(calls.confirm().await, Err("NOT_LANDED".to_owned()));

    let last = calls.begin().await;
    parts.clear();
    for number in [1, 2] {
        parts.push((number, calls.send(&last, number).await));
    }
    let (status, whole) = calls.complete(&last, &parts).await;
    assert_eq!(status, 200, "{whole}");
    assert!(whole.contains("<Location>http://"), "{whole}");
    assert_eq!(calls.confirm().await, Ok(()));
    calls.world.stop().await;
}

// Protocol 12.2.
#[tokio::test]
async fn what_a_client_made_of_too_few_parts_is_not_confirmed_and_gives_way_to_the_whole() {
    let calls = Calls::start().await;
    let upload = calls.begin().await;
    let first = (1, calls.send(&upload, 1).await);
    assert_eq!(calls.complete(&upload, &[first]).await.0, 200);
    assert_eq!(calls.confirm().await, Err("SIZE_MISMATCH".to_owned()));

    // Whoever goes on leaves it to the confirmation to make the parts one.
    let upload = calls.begin().await;
    calls.send(&upload, 2).await;
    assert_eq!(calls.confirm().await, Err("NOT_LANDED".to_owned()));
    calls.send(&upload, 1).await;
    assert_eq!(calls.confirm().await, Ok(()));
    calls.world.stop().await;
}

#[tokio::test]
async fn no_call_is_signed_but_of_an_upload_that_is_waited_for() {
    let world = World::start().await;
    let asked = |ordinal: u32| v1::SignUploadCallRequest {
        name: format!("{}/files/{ordinal}", batch_name()),
        target: 1,
        call: v1::UploadCall::Part.into(),
        upload_id: "an-upload".to_owned(),
        part_number: 2,
    };
    let refusal = async |request: Request<v1::SignUploadCallRequest>| {
        let mut uploads = UploadServiceClient::new(world.channel());
        from_status(&uploads.sign_upload_call(request).await.unwrap_err())
    };
    let reason = async |request| refusal(world.request(request)).await.reason;
    assert_eq!(reason(asked(ORDINAL_PROCESSED)).await, "FILE_HAS_ARRIVED");
    assert_eq!(reason(asked(ORDINAL_FAILED)).await, "FILE_FAILED");
    assert_eq!(
        refusal(world.request(asked(ORDINAL_UNKNOWN))).await.code,
        Code::NotFound
    );
    let superseded = v1::SignUploadCallRequest {
        target: 2,
        ..asked(ORDINAL_LARGE)
    };
    assert_eq!(reason(superseded).await, "TARGET_SUPERSEDED");

    let mut foreign = Request::new(asked(ORDINAL_LARGE));
    let bearer = format!("Bearer {}", world.stranger.text());
    foreign
        .metadata_mut()
        .insert("authorization", bearer.parse().unwrap());
    assert_eq!(refusal(foreign).await.code, Code::NotFound);

    let field = async |request| {
        let refusal = refusal(world.request(request)).await;
        refusal
            .violations
            .into_iter()
            .map(|one| one.field)
            .collect::<String>()
    };
    for part_number in [0, 3] {
        let request = v1::SignUploadCallRequest {
            part_number,
            ..asked(ORDINAL_LARGE)
        };
        assert_eq!(field(request).await, "part_number");
    }
    for call in [
        v1::UploadCall::Part,
        v1::UploadCall::List,
        v1::UploadCall::Complete,
        v1::UploadCall::Abort,
    ] {
        for upload_id in ["", "a b", "u".repeat(1025).as_str()] {
            let request = v1::SignUploadCallRequest {
                call: call.into(),
                upload_id: upload_id.to_owned(),
                ..asked(ORDINAL_LARGE)
            };
            assert_eq!(field(request).await, "upload_id", "{call:?}");
        }
    }
    for call in [0, 99] {
        let request = v1::SignUploadCallRequest {
            call,
            ..asked(ORDINAL_LARGE)
        };
        assert_eq!(field(request).await, "call");
    }
    world.stop().await;
}

// Protocol 12.5.
#[tokio::test]
async fn bytes_of_a_declared_checksum_go_to_where_they_stay_and_no_others_do() {
    let world = World::start().await;
    let target = async || {
        let mut uploads = UploadServiceClient::new(world.channel());
        let files = v1::issue_uploads_request::Files::Ordinals(v1::Ordinals {
            ordinals: vec![ORDINAL_DECLARED],
        });
        let request = v1::IssueUploadsRequest {
            batch: batch_name(),
            files: Some(files),
            parts: true,
        };
        let issued = uploads.issue_uploads(world.request(request)).await.unwrap();
        match issued.into_inner().targets.remove(0).how {
            Some(How::Put(put)) => put,
            other => panic!("{other:?}"),
        }
    };
    let file = FileRef::new(fake::TENANT, BATCH, ORDINAL_DECLARED);
    let kept = final_key(file, &fake::declared_sha256());
    // Until the store was asked, bytes land.
    let patience = Duration::from_secs(20);
    let put = until("the store to be asked", patience, async || {
        let put = target().await;
        put.url.contains(&kept).then_some(put)
    });
    let put = put.await.unwrap();

    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let send = async |bytes: &'static str, with_headers: bool| {
        let mut request = http.put(&put.url).body(bytes);
        for header in put.headers.iter().filter(|_| with_headers) {
            request = request.header(&header.name, &header.value);
        }
        request.send().await.unwrap()
    };
    assert_eq!(send("wrong", true).await.status(), 400);
    assert_eq!(send("wrong", false).await.status(), 403);
    assert_eq!(world.objects.head(&kept).await.unwrap(), None);
    let etag = send("five!", true).await.headers()["etag"].clone();

    let mut uploads = UploadServiceClient::new(world.channel());
    let mut confirm = async |etag: &str| {
        let request = confirmation(ORDINAL_DECLARED, etag);
        let answers = uploads.confirm_uploads(world.request(request)).await;
        answers.unwrap().into_inner().confirmations.remove(0).result
    };
    let uploaded = Some(Confirmed::State(v1::FileState::Uploaded.into()));
    assert_eq!(confirm(etag.to_str().unwrap()).await, uploaded);
    assert_eq!(confirm("").await, uploaded);
    // What another gateway let land is taken as well.
    world.objects.delete(&kept).await.unwrap();
    let landing = landing_key(file, Target(1));
    let landed = world.objects.put(&landing, "text/plain", "five!".into());
    landed.await.unwrap();
    assert_eq!(confirm("").await, uploaded);
    world.stop().await;
}

#[tokio::test]
async fn with_a_store_whose_checksums_are_not_relied_on_all_bytes_land() {
    let world = World::tuned(|settings| settings.uses_final_keys = false).await;
    let mut uploads = UploadServiceClient::new(world.channel());
    let files = v1::issue_uploads_request::Files::Ordinals(v1::Ordinals {
        ordinals: vec![ORDINAL_DECLARED],
    });
    let request = v1::IssueUploadsRequest {
        batch: batch_name(),
        files: Some(files),
        parts: false,
    };
    let issued = uploads.issue_uploads(world.request(request)).await.unwrap();
    let Some(How::Put(put)) = &issued.get_ref().targets[0].how else {
        panic!("{issued:?}")
    };
    let file = FileRef::new(fake::TENANT, BATCH, ORDINAL_DECLARED);
    assert!(put.url.contains(&landing_key(file, Target(1))));
    assert_eq!(put.headers.len(), 1, "the length alone: {:?}", put.headers);
    // Another gateway may know better.
    let kept = final_key(file, &fake::declared_sha256());
    let put = world.objects.put(&kept, "text/plain", "five!".into());
    put.await.unwrap();
    let request = confirmation(ORDINAL_DECLARED, "");
    let answers = uploads.confirm_uploads(world.request(request)).await;
    assert_eq!(
        answers.unwrap().into_inner().confirmations[0].result,
        Some(Confirmed::State(v1::FileState::Uploaded.into()))
    );
    world.stop().await;
}

#[tokio::test]
async fn an_etag_that_was_made_up_is_refused_with_what_is_there() {
    let world = World::start().await;
    let mut uploads = UploadServiceClient::new(world.channel());
    let confirm = |etag: &str| confirmation(ORDINAL_LANDING, etag);
    let mut answer = async |etag: &str| {
        let asked = world.request(confirm(etag));
        let answers = uploads.confirm_uploads(asked).await.unwrap();
        answers.into_inner().confirmations.remove(0).result
    };
    let made_up = "0123456789abcdef0123456789abcdef";
    let Some(Confirmed::Error(error)) = answer(made_up).await else {
        panic!("nothing is there")
    };
    assert_eq!(from_parts(&error).reason, "NOT_LANDED");

    let file = FileRef {
        tenant: fake::TENANT,
        batch: BATCH,
        ordinal: ORDINAL_LANDING,
    };
    let key = landing_key(file, Target(1));
    let put = world.objects.put(&key, "text/plain", "five!".into()).await;
    let etag = put.unwrap();
    let Some(Confirmed::Error(error)) = answer(made_up).await else {
        panic!("something else is there")
    };
    let refusal = from_parts(&error);
    assert_eq!(refusal.reason, "ETAG_DIFFERS");
    assert!(refusal.message.contains(&etag), "{}", refusal.message);
    assert!(world.ledger.confirmed().is_empty());
    let uploaded = Some(Confirmed::State(v1::FileState::Uploaded.into()));
    assert_eq!(answer(&format!("\"{etag}\"")).await, uploaded);
    assert_eq!(world.ledger.confirmed(), [(ORDINAL_LANDING, etag)]);
    world.stop().await;
}

#[tokio::test]
async fn a_file_that_was_confirmed_before_is_answered_although_its_landing_is_freed() {
    let world = World::start().await;
    let mut uploads = UploadServiceClient::new(world.channel());
    let request = confirmation(ORDINAL_PROCESSED, "");
    let answers = uploads.confirm_uploads(world.request(request)).await;
    assert_eq!(
        answers.unwrap().into_inner().confirmations[0].result,
        Some(Confirmed::State(v1::FileState::Processed.into()))
    );
    world.stop().await;
}

#[tokio::test]
async fn what_landed_with_another_size_is_not_confirmed() {
    let world = World::start().await;
    let file = FileRef {
        tenant: fake::TENANT,
        batch: BATCH,
        ordinal: ORDINAL_LANDING,
    };
    world
        .objects
        .put(
            &landing_key(file, Target(1)),
            "text/plain",
            "no five".into(),
        )
        .await
        .unwrap();
    let request = confirmation(ORDINAL_LANDING, "");
    let mut uploads = UploadServiceClient::new(world.channel());
    let answers = uploads
        .confirm_uploads(world.request(request))
        .await
        .unwrap()
        .into_inner()
        .confirmations;
    let Some(Confirmed::Error(error)) = &answers[0].result else {
        panic!("{answers:?}")
    };
    assert_eq!(from_parts(error).reason, "SIZE_MISMATCH");
    assert!(world.ledger.confirmed().is_empty());
    world.stop().await;
}

#[tokio::test]
async fn an_artifact_is_fetched_from_the_store_under_its_name() {
    let world = World::start().await;
    world
        .objects
        .put("t/artifact", "text/plain", "words".into())
        .await
        .unwrap();
    let mut files = FileServiceClient::new(world.channel());
    let name = caudal_domain::file_name(BATCH, ORDINAL_PROCESSED);
    let request = v1::GetArtifactRequest {
        name: name.clone(),
        artifact: "extract-text/text.txt".into(),
    };
    let artifact = files
        .get_artifact(world.request(request))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (artifact.size, artifact.media_type.as_str()),
        (5, "text/plain")
    );
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let fetched = http.get(&artifact.url).send().await.unwrap();
    assert!(
        fetched.headers()["content-disposition"]
            .to_str()
            .unwrap()
            .contains("a.txt")
    );
    assert_eq!(fetched.text().await.unwrap(), "words");

    let nameless = v1::GetArtifactRequest {
        name,
        artifact: String::new(),
    };
    let refused = files
        .get_artifact(world.request(nameless))
        .await
        .unwrap_err();
    assert_eq!(from_status(&refused).violations[0].field, "artifact");
    world.stop().await;
}

#[tokio::test]
async fn a_watcher_gets_a_snapshot_then_changes_folded_to_their_latest() {
    let world = World::start().await;
    let mut batches = BatchServiceClient::new(world.channel());
    let request = v1::WatchBatchRequest {
        name: batch_name(),
        after_revision: 0,
    };
    let mut stream = batches
        .watch_batch(world.request(request))
        .await
        .unwrap()
        .into_inner();
    let Some(Message::Snapshot(first)) = stream.message().await.unwrap().unwrap().message else {
        panic!()
    };
    assert!(first.batch.is_some() && !first.last);
    let Some(Message::Snapshot(last)) = stream.message().await.unwrap().unwrap().message else {
        panic!()
    };
    assert!(last.last);

    const COMMITS: i64 = 300;
    for revision in 2..=COMMITS {
        world.ledger.commit(
            revision,
            u32::try_from(revision % 7).unwrap(),
            v1::FileState::Queued,
        );
    }
    world
        .ledger
        .commit(COMMITS + 1, 3, v1::FileState::Processed);
    let mut messages = 0;
    let mut state_of_3 = 0;
    loop {
        let Some(Message::Changes(changes)) = stream.message().await.unwrap().unwrap().message
        else {
            panic!()
        };
        messages += 1;
        let columns = changes.files.unwrap();
        let mut ordinal = columns.first_ordinal;
        for (row, delta) in columns.ordinal_delta.iter().enumerate() {
            ordinal += delta;
            if ordinal == 3 {
                state_of_3 = columns.state[row];
            }
        }
        if changes.revision == COMMITS + 1 {
            break;
        }
    }
    assert_eq!(state_of_3, v1::FileState::Processed as i32);
    assert!(
        messages <= 3,
        "{messages} messages for {COMMITS} commits in a row"
    );
    world.stop().await;
}

#[tokio::test]
async fn a_watcher_resumes_after_its_revision_and_is_told_when_the_gateway_drains() {
    let world = World::start().await;
    for revision in 2..=5 {
        world.ledger.commit(
            revision,
            u32::try_from(revision).unwrap(),
            v1::FileState::Queued,
        );
    }
    let mut batches = BatchServiceClient::new(world.channel());
    let request = v1::WatchBatchRequest {
        name: batch_name(),
        after_revision: 3,
    };
    let mut stream = batches
        .watch_batch(world.request(request))
        .await
        .unwrap()
        .into_inner();
    let Some(Message::Changes(changes)) = stream.message().await.unwrap().unwrap().message else {
        panic!()
    };
    let columns = changes.files.unwrap();
    assert_eq!(
        (
            changes.revision,
            columns.first_ordinal,
            columns.ordinal_delta
        ),
        (5, 4, vec![0, 1])
    );

    world.shutdown.cancel();
    let Some(Message::Closing(closing)) = stream.message().await.unwrap().unwrap().message else {
        panic!()
    };
    assert_eq!(
        (closing.reason(), closing.after_revision),
        (v1::ClosingReason::Draining, 5)
    );
    assert!(stream.message().await.unwrap().is_none());
    world.stop().await;
}

#[tokio::test]
async fn a_watcher_who_comes_back_too_late_gets_a_fresh_snapshot() {
    let world = World::start().await;
    world.ledger.forget_changes_before(50);
    let mut batches = BatchServiceClient::new(world.channel());
    let request = v1::WatchBatchRequest {
        name: batch_name(),
        after_revision: 3,
    };
    let mut stream = batches
        .watch_batch(world.request(request))
        .await
        .unwrap()
        .into_inner();
    let first = stream.message().await.unwrap().unwrap().message;
    assert!(matches!(first, Some(Message::Snapshot(_))), "{first:?}");
    world.stop().await;
}

#[tokio::test]
async fn a_watcher_is_told_when_its_key_is_revoked_or_its_batch_erased() {
    for (act, reason) in [
        (
            fake::Ledger::revoke_keys as fn(&fake::Ledger),
            v1::ClosingReason::Revoked,
        ),
        (fake::Ledger::erase_batch, v1::ClosingReason::Deleted),
    ] {
        let world = World::start().await;
        let mut batches = BatchServiceClient::new(world.channel());
        let request = v1::WatchBatchRequest {
            name: batch_name(),
            after_revision: 1,
        };
        let mut stream = batches
            .watch_batch(world.request(request))
            .await
            .unwrap()
            .into_inner();
        act(&world.ledger);
        let Some(Message::Closing(closing)) = stream.message().await.unwrap().unwrap().message
        else {
            panic!()
        };
        assert_eq!(closing.reason(), reason);
        let end = stream.message().await;
        match reason {
            v1::ClosingReason::Revoked => {
                assert_eq!(end.unwrap_err().code(), tonic::Code::Unauthenticated);
            }
            _ => assert!(end.unwrap().is_none()),
        }
        world.stop().await;
    }
}

#[tokio::test]
async fn a_watch_with_an_upload_token_tells_nothing_that_the_tenant_says() {
    for is_token in [false, true] {
        let world = World::start().await;
        if is_token {
            world.ledger.give_tokens();
        }
        world.ledger.pad_answers(7);
        let mut batches = BatchServiceClient::new(world.channel());
        let request = v1::WatchBatchRequest {
            name: batch_name(),
            after_revision: 0,
        };
        let stream = batches.watch_batch(world.request(request)).await.unwrap();
        let first = stream.into_inner().message().await.unwrap().unwrap();
        let Some(Message::Snapshot(snapshot)) = first.message else {
            panic!("{first:?}")
        };
        let name = snapshot.batch.unwrap().display_name;
        assert_eq!(name.is_empty(), is_token, "{name}");
        world.stop().await;
    }
}

#[tokio::test]
async fn an_unknown_batch_is_refused_before_the_stream_begins() {
    let world = World::start().await;
    world.ledger.erase_batch();
    let mut batches = BatchServiceClient::new(world.channel());
    for after_revision in [0, 7] {
        let request = v1::WatchBatchRequest {
            name: batch_name(),
            after_revision,
        };
        let refused = batches
            .watch_batch(world.request(request))
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::NotFound);
    }
    world.stop().await;
}

#[tokio::test]
async fn a_tenant_over_its_rate_is_told_when_to_come_again() {
    let world = World::with_limiter(mesh::AcquireResponse {
        granted: 0,
        valid_for: None,
        retry_after: Some(prost_types::Duration {
            seconds: 2,
            nanos: 0,
        }),
        ..mesh::AcquireResponse::default()
    })
    .await;
    let mut batches = BatchServiceClient::new(world.channel());
    let request = world.request(v1::GetBatchRequest { name: batch_name() });
    let refused = from_status(&batches.get_batch(request).await.unwrap_err());
    assert_eq!(refused.code, Code::ResourceExhausted);
    assert!(
        refused
            .retry_after
            .is_some_and(|wait| wait > Duration::from_secs(1))
    );
    assert!(world.ledger.forwarded().is_empty());
    world.stop().await;
}

#[tokio::test]
async fn a_tenant_at_its_bound_of_streams_or_reads_is_told_which_and_when_to_come_again() {
    let world = World::start().await;
    world.ledger.limit(mesh::DoorLimits {
        streams: 1,
        expensive_reads: 1,
        ..mesh::DoorLimits::default()
    });
    let is_told = |refused: &Status, subject: &str| {
        let refused = from_status(refused);
        assert_eq!(refused.code, Code::ResourceExhausted);
        let [quota] = &refused.quota[..] else {
            panic!("{refused:?}")
        };
        assert_eq!(quota.subject, subject);
        let told = "the limit is 1, 1 are used, 1 more were asked";
        assert_eq!(quota.description, told);
        assert!(refused.retry_after.is_some(), "{refused:?}");
    };
    let mut batches = BatchServiceClient::new(world.channel());
    let watch = || {
        world.request(v1::WatchBatchRequest {
            name: batch_name(),
            after_revision: 0,
        })
    };
    let mut open = batches.watch_batch(watch()).await.unwrap().into_inner();
    open.message().await.unwrap();
    is_told(&batches.watch_batch(watch()).await.unwrap_err(), "streams");

    world.ledger.stall_counts();
    let count = || {
        world.request(v1::CountFilesRequest {
            selector: Some(v1::FileSelector {
                batch: batch_name(),
                path_glob: "**".into(),
                ..v1::FileSelector::default()
            }),
            group_by: v1::CountGrouping::None.into(),
        })
    };
    let mut files = FileServiceClient::new(world.channel());
    let before = world.ledger.forwarded().len();
    let first = tokio::spawn({
        let (mut files, count) = (files.clone(), count());
        async move { files.count_files(count).await }
    });
    until("the first count to be under way", PATIENCE, async || {
        (world.ledger.forwarded().len() > before).then_some(())
    })
    .await
    .unwrap();
    is_told(
        &files.count_files(count()).await.unwrap_err(),
        "expensive_reads",
    );
    first.abort();
    drop(open);
    // What is given back is there for the next.
    until("a place to be free", PATIENCE, async || {
        let mut batches = batches.clone();
        batches.watch_batch(watch()).await.ok().map(drop)
    })
    .await
    .unwrap();
    world.stop().await;
}

#[tokio::test]
async fn a_gateway_that_is_not_believed_blames_nobodys_key() {
    let world = World::start().await;
    let mut batches = BatchServiceClient::new(world.channel());
    let ask = || world.request(v1::GetBatchRequest { name: batch_name() });
    world.ledger.disbelieve(u32::MAX, SCOPE_NOT_VALID);
    for _ in 0..2 {
        let refused = batches.get_batch(ask()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(refused.message().contains("operators"), "{refused}");
    }
    // What is too old is signed again: of the credential's check and of the call itself.
    world.ledger.disbelieve(2, SCOPE_TOO_OLD);
    batches.get_batch(ask()).await.unwrap();
    world.stop().await;
}

#[tokio::test]
async fn an_operators_key_works_inside_no_tenant() {
    let world = World::start().await;
    let mut batches = BatchServiceClient::new(world.channel());
    let mut request = Request::new(v1::GetBatchRequest { name: batch_name() });
    request.metadata_mut().insert(
        "authorization",
        format!("Bearer {}", world.operator.text()).parse().unwrap(),
    );
    let refused = batches.get_batch(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    world.stop().await;
}

#[tokio::test]
async fn operators_ask_across_tenants_and_members_do_not() {
    let world = World::start().await;
    let bearer = format!("Bearer {}", world.operator.text());
    let as_operator = |message| {
        let mut request = Request::new(message);
        let bearer = bearer.parse().unwrap();
        request.metadata_mut().insert("authorization", bearer);
        request
    };
    let mut operator = OperatorServiceClient::new(world.channel());
    let asked = v1::CountAgedRequest::default();
    operator
        .count_aged(as_operator(asked.clone()))
        .await
        .unwrap();
    let [call] = &world.ledger.forwarded()[..] else {
        panic!("one call was to be forwarded")
    };
    assert_eq!((call.scope.role, call.scope.tenant), (Role::Operator, None));
    let refused = operator.count_aged(world.request(asked)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("operator"), "{refused}");

    // Operations are looked at by both.
    let mut operations = OperationsClient::new(world.channel());
    let list = longrunning::ListOperationsRequest::default();
    let request = as_operator(v1::CountAgedRequest::default()).map(|_| list.clone());
    operations.list_operations(request).await.unwrap();
    operations
        .list_operations(world.request(list))
        .await
        .unwrap();
    let scopes: Vec<_> = world.ledger.forwarded().into_iter().skip(1).collect();
    assert_eq!(scopes[0].scope.tenant, None);
    assert_eq!(scopes[1].scope.tenant, Some(TENANT));
    world.stop().await;
}

#[tokio::test]
async fn acts_on_batches_and_files_go_to_the_ledger() {
    let world = World::start().await;
    let mut batches = BatchServiceClient::new(world.channel());
    let name = batch_name();
    let request = v1::PauseBatchRequest {
        name: name.clone(),
        ..Default::default()
    };
    batches.pause_batch(world.request(request)).await.unwrap();
    let request = v1::ResumeBatchRequest {
        name: name.clone(),
        ..Default::default()
    };
    batches.resume_batch(world.request(request)).await.unwrap();
    let request = v1::CancelBatchRequest {
        name,
        ..Default::default()
    };
    batches.cancel_batch(world.request(request)).await.unwrap();
    let request = v1::UpdateBatchRequest::default();
    batches.update_batch(world.request(request)).await.unwrap();
    let mut files = FileServiceClient::new(world.channel());
    let request = v1::CountFilesRequest::default();
    files.count_files(world.request(request)).await.unwrap();
    let request = v1::ListFileHistoryRequest::default();
    files
        .list_file_history(world.request(request))
        .await
        .unwrap();
    let request = v1::ListFailuresRequest::default();
    files.list_failures(world.request(request)).await.unwrap();
    let request = v1::RetryFilesRequest::default();
    files.retry_files(world.request(request)).await.unwrap();
    let request = v1::CancelFilesRequest::default();
    files.cancel_files(world.request(request)).await.unwrap();
    let request = v1::ReprocessFilesRequest::default();
    files.reprocess_files(world.request(request)).await.unwrap();
    let request = v1::DismissFailuresRequest::default();
    files
        .dismiss_failures(world.request(request))
        .await
        .unwrap();
    assert_eq!(world.ledger.forwarded().len(), 11);
    world.stop().await;
}

#[tokio::test]
async fn a_ledger_that_is_away_is_unavailable_and_not_a_fault_of_the_caller() {
    let world = World::start().await;
    // The credential is known now, so that the call itself is what fails.
    let mut batches = BatchServiceClient::new(world.channel());
    batches
        .get_batch(world.request(v1::GetBatchRequest { name: batch_name() }))
        .await
        .unwrap();
    world.stop_ledger().await;
    let refused = batches
        .get_batch(world.request(v1::GetBatchRequest { name: batch_name() }))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(from_status(&refused).retry_after.is_some());
    world.stop().await;
}

#[tokio::test]
async fn health_needs_no_key_and_metrics_an_operators() {
    let world = World::start().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(world.channel());
    let asked = tonic_health::pb::HealthCheckRequest {
        service: "caudal.v1.BatchService".into(),
    };
    let answer = health.check(asked).await.unwrap().into_inner();
    assert_eq!(
        answer.status(),
        tonic_health::pb::health_check_response::ServingStatus::Serving
    );
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let asked = || http.get(format!("{}/metrics", world.gateway));
    let anybody = asked().send().await.unwrap();
    assert_eq!(anybody.status().as_u16(), 401);
    let member = asked().bearer_auth(world.key.text()).send().await.unwrap();
    assert_eq!(member.status().as_u16(), 403);
    assert!(member.text().await.unwrap().contains("operators"));
    let operator = asked().bearer_auth(world.operator.text());
    let metrics = operator.send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("caudal_rpc_calls_total"), "{metrics}");
    world.stop().await;
}
