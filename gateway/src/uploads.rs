//! Where bytes go: presigned PUTs for files of the manifest, and confirmations that are compared with what the store has.
//! No byte of a file passes through here.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use caudal_domain::limits::{MAX_CONFIRMATIONS_PER_PAGE, MAX_PUT_BYTES, MAX_TARGETS_PER_PAGE};
use caudal_domain::{
    BatchId, FileRef, Reason, Refusal, Target, TenantId, file_name, final_key, landing_key,
    parse_batch_name, parse_file_name,
};
use caudal_node::metrics::{Gauge, Registry};
use caudal_node::scope::Scope;
use caudal_objects::{Head, MultipartCall, ObjectStore, Presigned, bare_etag};
use caudal_proto::mesh::v1 as mesh;
use caudal_proto::status::{status_parts, to_status};
use caudal_proto::v1;
use caudal_proto::v1::confirmation::Result as Confirmed;
use caudal_proto::v1::issue_uploads_request::Files;
use caudal_proto::v1::upload_target::How;
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::metadata::MetadataMap;
use uuid::Uuid;

use crate::ledger::{Ledger, passed_on};
use crate::no_store::{not_asked, not_signed};
use crate::parts::{self, Joined, join, may_go_in_parts, next_parts};

/// Questions to the store at once for one page of confirmations.
const HEADS_AT_ONCE: usize = 32;
/// The reason when nothing is where the bytes should be.
const NOT_LANDED: &str = "NOT_LANDED";
const MAX_ETAG_BYTES: usize = 128;
/// Ids of AWS S3 have some 130 characters, those of other stores up to a few hundred.
const MAX_UPLOAD_ID_BYTES: usize = 1024;
/// The store is asked whether it verifies checksums after so long again, and then ever later.
const ASKED_AGAIN_AFTER: Duration = Duration::from_secs(1);
const ASKED_AGAIN_AFTER_AT_MOST: Duration = Duration::from_secs(60);

/// Issues targets and takes confirmations.
#[derive(Clone)]
pub(crate) struct Uploads {
    ledger: Ledger,
    objects: ObjectStore,
    url_validity: Duration,
    trusts_etags: bool,
    /// 1 where the store compares what it is sent with the checksum of the URL: bytes go to their final keys then.
    verifies: Gauge,
}

impl Uploads {
    pub(crate) fn new(
        ledger: Ledger,
        objects: ObjectStore,
        url_validity: Duration,
        trusts_etags: bool,
        metrics: &Registry,
    ) -> Self {
        let help =
            "1 where the store was found to verify checksums, so that bytes go to their final keys";
        Self {
            ledger,
            objects,
            url_validity,
            trusts_etags,
            verifies: metrics.gauge("store_verifies_checksums", help),
        }
    }

    fn verifies(&self) -> bool {
        self.verifies.get() == 1
    }

    /// Finds out whether the store compares checksums; asks again while it does not answer. Until it is known, and where it
    /// does not, bytes land and are read before they stay.
    pub(crate) async fn learn_whether_the_store_verifies(self, shutdown: CancellationToken) {
        let key = format!("probe/gateway/{}", Uuid::new_v4());
        let mut wait = ASKED_AGAIN_AFTER;
        loop {
            let answer = tokio::select! {
                () = shutdown.cancelled() => return,
                answer = self.objects.verifies_checksums(&key) => answer,
            };
            match answer {
                Ok(verifies) => {
                    self.verifies.set(i64::from(verifies));
                    let bytes_go_to = if verifies {
                        "their final key"
                    } else {
                        "a landing key"
                    };
                    tracing::info!(
                        verifies,
                        bytes_go_to,
                        "the store was asked for its checksums"
                    );
                    return;
                }
                Err(error) => {
                    tracing::warn!(%error, "the store could not be asked for its checksums");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
            wait = (wait * 2).min(ASKED_AGAIN_AFTER_AT_MOST);
        }
    }

    pub(crate) async fn issue(
        &self,
        scope: &Scope,
        tenant: TenantId,
        request: &v1::IssueUploadsRequest,
    ) -> Result<v1::IssueUploadsResponse, Status> {
        let batch =
            parse_batch_name(&request.batch).map_err(|error| to_status(&error.refusal("batch")))?;
        let asked = asked_for(batch, request.files.as_ref())?;
        let facts = self.facts(scope, asked).await?;
        let mut targets = Vec::with_capacity(facts.len());
        for one in &facts {
            let file = FileRef::new(tenant, batch, one.ordinal);
            targets.push(self.target(file, one, request.parts).await);
        }
        Ok(v1::IssueUploadsResponse { targets })
    }

    async fn facts(
        &self,
        scope: &Scope,
        request: mesh::GetIssueFactsRequest,
    ) -> Result<Vec<mesh::IssueFacts>, Status> {
        let answer = self.ledger.call(scope, request, |ledger, request| {
            let mut mesh = ledger.mesh();
            async move { mesh.get_issue_facts(request).await }
        });
        Ok(answer.await.map_err(|status| passed_on(&status))?.files)
    }

    async fn target(
        &self,
        file: FileRef,
        facts: &mesh::IssueFacts,
        takes_parts: bool,
    ) -> v1::UploadTarget {
        let how = match self.how(file, facts, takes_parts).await {
            Ok(how) => how,
            Err(refusal) => How::Error(status_parts(&refusal)),
        };
        v1::UploadTarget {
            ordinal: facts.ordinal,
            target: facts.target,
            how: Some(how),
        }
    }

    async fn how(
        &self,
        file: FileRef,
        facts: &mesh::IssueFacts,
        takes_parts: bool,
    ) -> Result<How, Refusal> {
        use v1::FileState as S;
        let name = || file_name(file.batch, facts.ordinal);
        if !facts.exists {
            return Err(Refusal::not_found(&name()));
        }
        match facts.state() {
            // The bytes are there, so there is nothing to send; the file goes its way by itself.
            S::Uploaded | S::Queued | S::Processing | S::Processed | S::Retrying => {
                return Ok(How::Held(v1::AlreadyHeld {}));
            }
            S::Unspecified => return Err(Refusal::not_found(&name())),
            S::Pending | S::Uploading | S::Failed | S::Cancelled => {}
        }
        if let Some(refusal) = not_waited_for(file.batch, facts) {
            return Err(refusal);
        }
        let size = u64::try_from(facts.size).unwrap_or_default();
        if takes_parts && may_go_in_parts(size) {
            let key = &facts.landing_key;
            match next_parts(&self.objects, key, size, self.url_validity).await {
                Ok(parts) => return Ok(How::Multipart(parts)),
                // Without a list of what has landed nothing could be gone on with.
                Err(error) if error.is_beyond_the_store() && size <= MAX_PUT_BYTES => {
                    tracing::debug!(%error, "the store lists no parts: a large file goes in one PUT");
                }
                Err(error) => return Err(not_asked(&error)),
            }
        }
        if size > MAX_PUT_BYTES {
            return Err(Refusal::failed_precondition(
                "FILE_TOO_LARGE_FOR_ONE_PUT",
                format!(
                    "{} has {size} bytes, and one PUT carries at most {MAX_PUT_BYTES}: ask for its target with `parts`",
                    name()
                ),
            ));
        }
        let expires = SystemTime::now() + self.url_validity;
        let checksum = declared(facts).filter(|_| self.verifies());
        let presigned = match checksum {
            // Whatever is put there is what was declared (protocol 12.5).
            Some(sha256) => {
                let key = final_key(file, &sha256);
                self.objects
                    .presign_put_of(&key, size, &sha256, self.url_validity)
                    .await
            }
            None => {
                let key = &facts.landing_key;
                self.objects
                    .presign_put(key, size, None, self.url_validity)
                    .await
            }
        };
        let presigned = presigned.map_err(|error| not_signed(&error))?;
        Ok(How::Put(v1::PutTarget {
            url: presigned.url,
            headers: headers_of(presigned.headers),
            expire_time: Some(expires.into()),
            valid_for: prost_types::Duration::try_from(self.url_validity).ok(),
        }))
    }

    pub(crate) async fn confirm(
        &self,
        scope: &Scope,
        tenant: TenantId,
        metadata: &MetadataMap,
        mut request: v1::ConfirmUploadsRequest,
    ) -> Result<v1::ConfirmUploadsResponse, Status> {
        let batch =
            parse_batch_name(&request.batch).map_err(|error| to_status(&error.refusal("batch")))?;
        check_page("uploads", request.uploads.len(), MAX_CONFIRMATIONS_PER_PAGE)?;
        check_request_id(&request.request_id)?;

        for (index, upload) in request.uploads.iter_mut().enumerate() {
            check_etag(index, &upload.etag)?;
            upload.etag = bare_etag(&upload.etag).to_owned();
        }

        let answered = self
            .check_landings(scope, tenant, batch, &mut request)
            .await?;
        if answered.is_empty() {
            return self.forward(scope, metadata, request).await;
        }
        // Some are answered here; the ledger answers the others, and the answers go back in the order asked.
        let asked = std::mem::take(&mut request.uploads);
        request.uploads = asked
            .iter()
            .enumerate()
            .filter(|(i, _)| !answered.contains_key(i))
            .map(|(_, u)| u.clone())
            .collect();
        let forwarded = match request.uploads.is_empty() {
            true => v1::ConfirmUploadsResponse::default(),
            false => self.forward(scope, metadata, request).await?,
        };
        let mut forwarded = forwarded.confirmations.into_iter();
        let mut confirmations = Vec::with_capacity(asked.len());
        for (index, upload) in asked.iter().enumerate() {
            let result = match answered.get(&index) {
                Some(Ok(state)) => Confirmed::State(i32::from(*state)),
                Some(Err(refusal)) => Confirmed::Error(status_parts(refusal)),
                None => {
                    let one = forwarded.next().ok_or_else(|| {
                        tracing::error!("the ledger answered fewer confirmations than were sent");
                        to_status(&Refusal::internal())
                    })?;
                    confirmations.push(one);
                    continue;
                }
            };
            confirmations.push(v1::Confirmation {
                ordinal: upload.ordinal,
                result: Some(result),
            });
        }
        Ok(v1::ConfirmUploadsResponse { confirmations })
    }

    async fn forward(
        &self,
        scope: &Scope,
        metadata: &MetadataMap,
        request: v1::ConfirmUploadsRequest,
    ) -> Result<v1::ConfirmUploadsResponse, Status> {
        let answer = self
            .ledger
            .forward(scope, metadata, request, |ledger, request| {
                let mut uploads = ledger.uploads();
                async move { uploads.confirm_uploads(request).await }
            });
        answer.await.map_err(|status| passed_on(&status))
    }

    /// Asks the store what landed for each file whose bytes are waited for: whoever confirms may have made the ETag up, or
    /// have none. Fills in the ETags that were not told, and answers by index what needs no ledger: what cannot be
    /// confirmed, and what was confirmed before by somebody who tells no ETag now.
    async fn check_landings(
        &self,
        scope: &Scope,
        tenant: TenantId,
        batch: BatchId,
        request: &mut v1::ConfirmUploadsRequest,
    ) -> Result<HashMap<usize, Result<v1::FileState, Refusal>>, Status> {
        let mut asked = Vec::new();
        for upload in &request.uploads {
            if upload.etag.is_empty() || !self.trusts_etags {
                asked.push(upload.clone());
            }
        }
        if asked.is_empty() {
            return Ok(HashMap::new());
        }
        let facts = self.facts_of(scope, batch, &asked).await?;
        let mut questions = Vec::with_capacity(asked.len());
        for (index, upload) in request.uploads.iter().enumerate() {
            if !upload.etag.is_empty() && self.trusts_etags {
                continue;
            }
            let file = FileRef {
                tenant,
                batch,
                ordinal: upload.ordinal,
            };
            let facts = facts.get(&upload.ordinal);
            questions
                .push(async move { (index, self.check_landing(scope, file, facts, upload).await) });
        }
        let checks: Vec<_> = futures::stream::iter(questions)
            .buffer_unordered(HEADS_AT_ONCE)
            .collect()
            .await;

        let mut answered = HashMap::new();
        let mut is_other_message = false;
        for (index, check) in checks {
            match check? {
                Check::AsTold => {}
                Check::Filled(etag) => {
                    request.uploads[index].etag = etag;
                    is_other_message = true;
                }
                Check::Answered(answer) => {
                    answered.insert(index, answer);
                    is_other_message = true;
                }
            }
        }
        if is_other_message {
            request.request_id = id_of(request, &answered);
        }
        Ok(answered)
    }

    pub(crate) async fn list_parts(
        &self,
        scope: &Scope,
        request: &v1::ListPartsRequest,
    ) -> Result<v1::ListPartsResponse, Status> {
        let facts = self.facts_by_name(scope, &request.name).await?;
        let size = u64::try_from(facts.size).unwrap_or_default();
        parts::list(&self.objects, &facts.landing_key, size)
            .await
            .map_err(|error| to_status(&not_asked(&error)))
    }

    pub(crate) async fn abort_parts(
        &self,
        scope: &Scope,
        request: &v1::AbortPartsRequest,
    ) -> Result<v1::AbortPartsResponse, Status> {
        check_request_id(&request.request_id)?;
        let facts = self.facts_by_name(scope, &request.name).await?;
        parts::abort(&self.objects, &facts.landing_key)
            .await
            .map_err(|error| to_status(&not_asked(&error)))?;
        Ok(v1::AbortPartsResponse {})
    }

    /// Signs one call of a multipart upload for a client that makes these calls itself.
    ///
    /// With them it can do what it could with one PUT of the file, and no more: the key, the upload and the number of the part
    /// are signed, and a store knows an upload only under the key that it was begun for.
    ///
    /// - CREATE may be repeated, and leaves uploads without a byte. A PART is signed with the length of the plan and frees
    ///   every other upload of the key: however many are begun, the store keeps the parts of one, and the collector frees
    ///   what nobody completes (protocol 13.1).
    /// - COMPLETE: its body cannot be signed. It names parts of this upload in rising order, or the store refuses it. Their
    ///   lengths were signed, so only all of them have the size of the file; an object of fewer has another size, is refused
    ///   when it is confirmed (12.2), and replaced by the next that lands. Called after the confirmation it changes what
    ///   landed, as a second PUT would, and is found out by its ETag (12.4).
    /// - LIST shows no more than ListParts. ABORT frees what AbortParts would; an object that is whole is beyond it.
    pub(crate) async fn sign_call(
        &self,
        scope: &Scope,
        request: &v1::SignUploadCallRequest,
    ) -> Result<v1::SignUploadCallResponse, Status> {
        let (batch, ordinal) =
            parse_file_name(&request.name).map_err(|error| to_status(&error.refusal("name")))?;
        let facts = self.facts_of_one(scope, batch, ordinal).await?;
        if let Some(refusal) = not_waited_for(batch, &facts) {
            return Err(to_status(&refusal));
        }
        if facts.target != request.target {
            let message = format!(
                "{} is waiting for target {}, not {}: ask for a new target and upload again",
                request.name, facts.target, request.target
            );
            let refusal = Refusal::failed_precondition("TARGET_SUPERSEDED", message);
            return Err(to_status(&refusal));
        }
        let signed = self.signed_call(&facts, request).await;
        let (method, presigned) = signed.map_err(|refusal| to_status(&refusal))?;
        Ok(v1::SignUploadCallResponse {
            method: method.to_owned(),
            url: presigned.url,
            headers: headers_of(presigned.headers),
            valid_for: prost_types::Duration::try_from(self.url_validity).ok(),
        })
    }

    async fn signed_call(
        &self,
        facts: &mesh::IssueFacts,
        request: &v1::SignUploadCallRequest,
    ) -> Result<(&'static str, Presigned), Refusal> {
        use v1::UploadCall as C;
        let (key, upload) = (&facts.landing_key, request.upload_id.as_str());
        if !matches!(request.call(), C::Unspecified | C::Create) {
            check_upload_id(upload)?;
        }
        let call = match request.call() {
            C::Unspecified => {
                return Err(Refusal::invalid("call", "name the call that is to be made"));
            }
            C::Part => {
                let size = u64::try_from(facts.size).unwrap_or_default();
                let number = request.part_number;
                let size = parts::part_size(size, number)?;
                match parts::keep_only(&self.objects, key, upload).await {
                    Ok(()) => {}
                    Err(error) if error.is_beyond_the_store() => {
                        return Err(Refusal::failed_precondition(
                            "PARTS_NOT_LISTED",
                            "the store lists no unfinished uploads, so files do not go there in parts: send it in one PUT",
                        ));
                    }
                    Err(error) => return Err(not_asked(&error)),
                }
                let part = self
                    .objects
                    .presign_part(key, upload, number, size, self.url_validity);
                let part = part.await.map_err(|error| not_signed(&error))?;
                return Ok(("PUT", part));
            }
            C::Create => MultipartCall::Create,
            C::List => MultipartCall::List(upload),
            C::Complete => MultipartCall::Complete(upload),
            C::Abort => MultipartCall::Abort(upload),
        };
        let signed = self
            .objects
            .presign_multipart(key, call, self.url_validity)
            .await;
        Ok((call.method(), signed.map_err(|error| not_signed(&error))?))
    }

    async fn facts_by_name(&self, scope: &Scope, name: &str) -> Result<mesh::IssueFacts, Status> {
        let (batch, ordinal) =
            parse_file_name(name).map_err(|error| to_status(&error.refusal("name")))?;
        self.facts_of_one(scope, batch, ordinal).await
    }

    /// What the ledger knows of one file.
    pub(crate) async fn facts_of_one(
        &self,
        scope: &Scope,
        batch: BatchId,
        ordinal: u32,
    ) -> Result<mesh::IssueFacts, Status> {
        let asked = mesh::GetIssueFactsRequest {
            ordinals: vec![ordinal],
            ..facts_request(batch)
        };
        let found = self.facts(scope, asked).await?.into_iter().next();
        found
            .filter(|facts| facts.exists)
            .ok_or_else(|| to_status(&Refusal::not_found(&file_name(batch, ordinal))))
    }

    /// What the ledger knows of the files, by ordinal; files it does not know are left out.
    async fn facts_of(
        &self,
        scope: &Scope,
        batch: BatchId,
        uploads: &[v1::Uploaded],
    ) -> Result<HashMap<u32, mesh::IssueFacts>, Status> {
        let mut pages = Vec::new();
        for page in uploads.chunks(MAX_TARGETS_PER_PAGE) {
            let asked = mesh::GetIssueFactsRequest {
                ordinals: page.iter().map(|upload| upload.ordinal).collect(),
                ..facts_request(batch)
            };
            pages.push(self.facts(scope, asked));
        }
        let pages = futures::future::try_join_all(pages).await?;
        let known = pages.into_iter().flatten().filter(|facts| facts.exists);
        Ok(known.map(|facts| (facts.ordinal, facts)).collect())
    }

    async fn check_landing(
        &self,
        scope: &Scope,
        file: FileRef,
        facts: Option<&mesh::IssueFacts>,
        upload: &v1::Uploaded,
    ) -> Result<Check, Status> {
        let Some(facts) = facts else {
            let name = file_name(file.batch, file.ordinal);
            return Ok(Check::Answered(Err(Refusal::not_found(&name))));
        };
        if !is_waited_for(facts, upload) {
            return Ok(of_what_is_not_waited_for(facts, upload));
        }
        let checked = self.landed(file, upload, facts).await;
        if matches!(&checked, Err(refusal) if refusal.reason == NOT_LANDED) {
            // Another confirmation may have been quicker, and what landed has gone its way since.
            let asked = std::slice::from_ref(upload);
            let now = self.facts_of(scope, file.batch, asked).await?;
            if let Some(now) = now.get(&file.ordinal)
                && !is_waited_for(now, upload)
            {
                return Ok(of_what_is_not_waited_for(now, upload));
            }
        }
        Ok(match checked {
            Ok(_) if !upload.etag.is_empty() => Check::AsTold,
            Ok(etag) => Check::Filled(etag),
            Err(refusal) => Check::Answered(Err(refusal)),
        })
    }

    /// The ETag of what landed, when it is what the manifest promised and what was told.
    async fn landed(
        &self,
        file: FileRef,
        upload: &v1::Uploaded,
        facts: &mesh::IssueFacts,
    ) -> Result<String, Refusal> {
        let name = file_name(file.batch, file.ordinal);
        let size = facts.size;
        let landing = landing_key(file, Target(upload.target));
        let bytes = u64::try_from(size).unwrap_or_default();
        let head = async |key: &str| {
            let head = self.objects.head(key).await;
            head.map_err(|error| not_asked(&error))
        };
        // The URL may be another gateway's, which knows better what the store verifies.
        let mut keys = vec![landing.clone()];
        keys.extend(declared(facts).map(|sha256| final_key(file, &sha256)));
        if self.verifies() {
            keys.reverse();
        }
        let mut found = None;
        for key in &keys {
            found = head(key).await?;
            if found.is_some() {
                break;
            }
        }
        // What was completed of too few parts stands there until all are made one in its place.
        let is_whole = found.as_ref().is_some_and(|head| head.size == bytes);
        if !is_whole && may_go_in_parts(bytes) {
            match join(&self.objects, &landing, bytes, &name).await {
                Ok(Joined::Whole) => found = head(&landing).await?,
                Ok(Joined::NoUpload) => {}
                Ok(Joined::Incomplete(refusal)) => return Err(refusal),
                // Nor did it go in parts.
                Err(error) if error.is_beyond_the_store() => {}
                Err(error) => return Err(not_asked(&error)),
            }
        }
        let Some(Head {
            size: landed, etag, ..
        }) = found
        else {
            return Err(Refusal::failed_precondition(
                NOT_LANDED,
                format!(
                    "nothing has landed at target {} of {name}: send its bytes first",
                    upload.target
                ),
            ));
        };
        if i64::try_from(landed) != Ok(size) {
            return Err(Refusal::failed_precondition(
                Reason::SizeMismatch.code(),
                format!(
                    "{landed} bytes landed for {name}, the manifest says {size}: send it again"
                ),
            ));
        }
        if !upload.etag.is_empty() && upload.etag != etag {
            return Err(Refusal::failed_precondition(
                "ETAG_DIFFERS",
                format!(
                    "what landed for {name} has the ETag {etag}, not {}: confirm that, or send the file again",
                    upload.etag
                ),
            ));
        }
        Ok(etag)
    }
}

/// The checksum that was declared of a file.
fn declared(facts: &mesh::IssueFacts) -> Option<[u8; 32]> {
    facts.declared_sha256.as_ref().try_into().ok()
}

/// Why a file takes no bytes that has its own.
pub(crate) const HAS_ARRIVED: &str = "FILE_HAS_ARRIVED";

/// What is answered for a file that needs no bytes.
pub(crate) fn not_waited_for(batch: BatchId, facts: &mesh::IssueFacts) -> Option<Refusal> {
    use v1::FileState as S;
    let name = file_name(batch, facts.ordinal);
    match facts.state() {
        S::Pending | S::Uploading => None,
        S::Failed => Some(Refusal::failed_precondition(
            "FILE_FAILED",
            format!("{name} has failed: retry it before its bytes are sent again"),
        )),
        S::Cancelled => Some(Refusal::failed_precondition(
            "FILE_CANCELLED",
            format!("{name} was cancelled"),
        )),
        _ => Some(Refusal::failed_precondition(
            HAS_ARRIVED,
            format!("the bytes of {name} are there already: nothing is to be sent"),
        )),
    }
}

fn headers_of(headers: Vec<(String, String)>) -> Vec<v1::Header> {
    let spelled = headers.into_iter().map(|(name, value)| v1::Header {
        name: name.to_ascii_lowercase(),
        value,
    });
    spelled.collect()
}

/// What the store says of one confirmation.
enum Check {
    /// It is for the ledger, as it came.
    AsTold,
    /// It is for the ledger, with this ETag.
    Filled(String),
    /// It needs no ledger.
    Answered(Result<v1::FileState, Refusal>),
}

/// Whether the bytes of this target are still to be confirmed; those of a file that was given up may come after all.
fn is_waited_for(facts: &mesh::IssueFacts, upload: &v1::Uploaded) -> bool {
    use v1::FileState as S;
    let is_open = matches!(facts.state(), S::Pending | S::Uploading | S::Failed);
    is_open && facts.target == upload.target
}

/// The ledger knows best, and needs an ETag for it; a repetition that tells none is answered here.
fn of_what_is_not_waited_for(facts: &mesh::IssueFacts, upload: &v1::Uploaded) -> Check {
    if upload.etag.is_empty() && facts.target == upload.target {
        return Check::Answered(Ok(facts.state()));
    }
    if upload.etag.is_empty() {
        // It refuses the target, whatever the ETag.
        return Check::Filled(String::from("-"));
    }
    Check::AsTold
}

/// The id of what is left of a request. A repeat may meet other ETags, and is another message then: it must not count as
/// a reused id. Nothing is lost by that, because confirming one landing twice changes nothing.
fn id_of(
    request: &v1::ConfirmUploadsRequest,
    answered: &HashMap<usize, Result<v1::FileState, Refusal>>,
) -> String {
    let mut rest = Sha256::new();
    rest.update(request.request_id.as_bytes());
    for (index, upload) in request.uploads.iter().enumerate() {
        if !answered.contains_key(&index) {
            rest.update(upload.ordinal.to_be_bytes());
            rest.update(upload.etag.as_bytes());
        }
    }
    let digest: [u8; 32] = rest.finalize().into();
    let mut id = [0_u8; 16];
    id.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(id).into_uuid().to_string()
}

fn facts_request(batch: BatchId) -> mesh::GetIssueFactsRequest {
    mesh::GetIssueFactsRequest {
        batch: batch.as_bytes().to_vec().into(),
        after_ordinal: -1,
        ..Default::default()
    }
}

fn asked_for(batch: BatchId, files: Option<&Files>) -> Result<mesh::GetIssueFactsRequest, Status> {
    match files {
        None => Err(invalid(
            "files",
            "name the files, by `ordinals` or by `after`",
        )),
        Some(Files::Ordinals(list)) => {
            check_page(
                "ordinals.ordinals",
                list.ordinals.len(),
                MAX_TARGETS_PER_PAGE,
            )?;
            Ok(mesh::GetIssueFactsRequest {
                ordinals: list.ordinals.clone(),
                ..facts_request(batch)
            })
        }
        Some(Files::After(after)) => {
            check_page("after.count", after.count as usize, MAX_TARGETS_PER_PAGE)?;
            let after_ordinal = if after.from_start {
                -1
            } else {
                i64::from(after.after_ordinal)
            };
            Ok(mesh::GetIssueFactsRequest {
                after_ordinal,
                count: after.count,
                ..facts_request(batch)
            })
        }
    }
}

fn check_request_id(id: &str) -> Result<(), Status> {
    if id.parse::<Uuid>().is_ok() {
        return Ok(());
    }
    let words = "must be a UUID that you made for this request";
    Err(invalid("request_id", words))
}

/// Without one a store takes the call for one about the object itself.
fn check_upload_id(id: &str) -> Result<(), Refusal> {
    if (1..=MAX_UPLOAD_ID_BYTES).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    let words = "must be what the store named the upload when it was begun";
    Err(Refusal::invalid("upload_id", words))
}

fn check_etag(index: usize, etag: &str) -> Result<(), Status> {
    if etag.len() <= MAX_ETAG_BYTES && etag.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    let words = "is no ETag: send what the store answered your PUT with, or leave it empty";
    Err(invalid(&format!("uploads[{index}].etag"), words))
}

fn check_page(field: &str, items: usize, most: usize) -> Result<(), Status> {
    if (1..=most).contains(&items) {
        return Ok(());
    }
    Err(invalid(
        field,
        &format!("1 to {most} are taken at once, {items} came"),
    ))
}

fn invalid(field: &str, description: &str) -> Status {
    to_status(&Refusal::invalid(field, description))
}

#[cfg(test)]
mod tests {
    use super::*;
    use caudal_proto::status::from_status;

    fn batch() -> BatchId {
        BatchId::from_uuid(Uuid::from_bytes([7; 16]))
    }

    #[test]
    fn a_page_outside_its_bounds_names_its_field() {
        let field = |files: Option<Files>| {
            let refused = asked_for(batch(), files.as_ref()).err()?;
            Some(from_status(&refused).violations.first()?.field.clone())
        };
        assert_eq!(field(None).as_deref(), Some("files"));
        assert_eq!(
            field(Some(Files::Ordinals(v1::Ordinals::default()))).as_deref(),
            Some("ordinals.ordinals")
        );
        let many = Files::Ordinals(v1::Ordinals {
            ordinals: vec![0; 201],
        });
        assert_eq!(field(Some(many)).as_deref(), Some("ordinals.ordinals"));
        let after = |count| {
            Files::After(v1::AfterOrdinal {
                after_ordinal: 4,
                from_start: false,
                count,
            })
        };
        assert_eq!(field(Some(after(0))).as_deref(), Some("after.count"));
        assert_eq!(field(Some(after(200))), None);
    }

    #[test]
    fn the_beginning_is_before_ordinal_0() {
        let start = Files::After(v1::AfterOrdinal {
            after_ordinal: 9,
            from_start: true,
            count: 5,
        });
        assert!(asked_for(batch(), Some(&start)).is_ok_and(|asked| asked.after_ordinal == -1));
    }
}
