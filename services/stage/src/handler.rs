//! What a stage service is to the runtime: one handler.

use std::future::Future;

use bytes::Bytes;
use caudal_domain::{
    FileRef, Generation, Outcome, Reason, Stage, StageSet, StageVersion, Token, Warning,
    artifact_prefix, check_artifact_name,
};
use caudal_objects::ObjectStore;
use caudal_providers::Provider;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::failure::Failure;

/// The work of one stage on one file. The runtime does all the rest: reading, leases, renewal, reports.
pub trait Handler: Send + Sync + 'static {
    /// Code, model and options of this handler; which stage it serves follows from it.
    fn version(&self) -> StageVersion;

    /// Works on one file. Ends soon when `job.cancelled` is; may be called twice for one job, also at once and in two
    /// processes, so all it writes goes through `job.artifacts` or has a key made of the content.
    fn handle(&self, job: Job) -> impl Future<Output = Result<Done, Failure>> + Send;

    /// Asks a provider of this handler, for no file, whether it does its work now: called after a [`Failure`] that waits
    /// for it ([`Dependency::Provider`](crate::Dependency::Provider)), and again until it passes. Store and temp folder are
    /// probed by the runtime.
    fn probe(&self, _provider: Provider) -> impl Future<Output = Result<(), Failure>> + Send {
        std::future::ready(Ok(()))
    }

    /// Starts a process of the kind in which this handler reads files, and ends it: called after a [`Failure`] that waits
    /// for it ([`Dependency::ParserHost`](crate::Dependency::ParserHost)), and again until it passes. A handler with a
    /// [`Sandbox`](crate::sandbox::Sandbox) asks [`Sandbox::probe`](crate::sandbox::Sandbox::probe).
    fn probe_parser_host(&self) -> impl Future<Output = Result<(), Failure>> + Send {
        std::future::ready(Ok(()))
    }
}

/// One file to work on.
#[derive(Debug)]
pub struct Job {
    /// Which file.
    pub file: FileRef,
    /// The dispatch that is worked on.
    pub token: Token,
    /// How often the file began anew.
    pub generation: Generation,
    /// Path inside the batch.
    pub path: String,
    /// Sniffed media type; none before the upload stage recorded it.
    pub media_type: Option<String>,
    /// Upload stage: where the bytes landed, or the final key where they are verified already.
    pub source_key: Option<String>,
    /// Where the verified bytes stand; none before the upload stage recorded them.
    pub final_key: Option<String>,
    /// The confirmed `ETag` of `source_key`.
    pub etag: Option<String>,
    /// Bytes, as in the manifest.
    pub declared_size: u64,
    /// Of the content, as in the manifest, if given there.
    pub declared_sha256: Option<[u8; 32]>,
    /// Of the content; none before the upload stage recorded it.
    pub content_sha256: Option<[u8; 32]>,
    /// What earlier stages recorded.
    pub inputs: Vec<Input>,
    /// The caller's data of the manifest entry: an object, or null.
    pub entry_metadata: serde_json::Value,
    /// The stages the batch asked for.
    pub stages: StageSet,
    /// The file killed a worker before.
    pub suspect: bool,
    /// For providers: the same work asked for twice has the same key. Empty in the upload stage, which calls nobody.
    pub idempotency_key: String,
    /// Length of the vectors that this stage version was first recorded with: others are not recorded.
    pub dimensions: Option<u32>,
    /// The object store.
    pub objects: ObjectStore,
    /// Writes this execution's objects.
    pub artifacts: ArtifactWriter,
    /// Ends when nobody wants the result any more.
    pub cancelled: CancellationToken,
}

impl Job {
    /// What the given stage recorded, unless it was left out.
    pub fn input(&self, stage: Stage) -> Option<&Input> {
        self.inputs
            .iter()
            .find(|input| input.stage == stage && !input.skipped)
    }
}

/// What an earlier stage recorded for this generation of the file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Which stage.
    pub stage: Stage,
    /// Its facts, an object.
    pub facts: serde_json::Value,
    /// Its objects.
    pub artifacts: Vec<InputArtifact>,
    /// What it did not do.
    pub warnings: Vec<Warning>,
    /// Its version, in words.
    pub version: String,
    /// It was left out by option.
    pub skipped: bool,
    /// What it used up.
    pub usage: Usage,
}

/// An object of an earlier stage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputArtifact {
    /// Its name within that stage.
    pub name: String,
    /// Its key in the object store.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Media type.
    pub media_type: String,
}

/// Work well done.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Done {
    /// Objects written: what [`ArtifactWriter::finish`] gave.
    pub artifacts: Vec<Artifact>,
    /// An object with what was found; at most [`caudal_domain::limits::MAX_FACTS_BYTES`] as JSON.
    pub facts: serde_json::Value,
    /// Upload stage: of the content.
    pub content_sha256: Option<[u8; 32]>,
    /// Upload stage: sniffed from the bytes.
    pub media_type: Option<String>,
    /// Upload stage: where the bytes landed that stand at their final key now. The runtime frees it some time after this
    /// result was recorded, if a reader of the database sees it then.
    pub landing_key: Option<String>,
    /// There is text that can be embedded.
    pub has_text: bool,
    /// What was not done.
    pub warnings: Vec<Warning>,
    /// What it used up.
    pub usage: Usage,
    /// Metadata stage: the judgement of the file.
    pub outcome: Option<Outcome>,
    /// Length of the vectors, where there are some. Only such as this stage version was first recorded with are
    /// recorded.
    #[serde(default)]
    pub dimensions: Option<u32>,
}

/// An object that a handler wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Its name within the stage. `original` of the upload stage is the object at the file's final key.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Media type.
    pub media_type: String,
}

/// What an execution used up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Bytes read.
    pub bytes: u64,
    /// Pages read.
    pub pages: u64,
    /// Tokens sent to a provider.
    pub tokens: u64,
    /// Calls of a provider.
    pub provider_calls: u64,
}

/// Writes the objects of one execution, each under a key that no other execution writes to. Nothing is ever deleted by
/// a worker: what was not recorded is collected once no report can refer to it any more.
#[derive(Debug)]
pub struct ArtifactWriter {
    objects: ObjectStore,
    prefix: String,
    written: Vec<Artifact>,
}

impl ArtifactWriter {
    /// A writer for the execution that `nonce` names, which must be new for each. The runtime makes it; tests of a handler
    /// may.
    pub fn new(
        objects: ObjectStore,
        stage: Stage,
        file: FileRef,
        generation: Generation,
        token: Token,
        nonce: &str,
    ) -> Self {
        let prefix = artifact_prefix(file, generation, stage, token, nonce);
        Self {
            objects,
            prefix,
            written: Vec::new(),
        }
    }

    /// Key that an artifact of this name has.
    pub fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Writes one object. The name must be one that [`caudal_domain::check_artifact_name`] accepts, and new.
    ///
    /// # Errors
    /// The name is wrong or taken, there are too many artifacts, or the store does not take it.
    pub async fn put(&mut self, name: &str, media_type: &str, bytes: Bytes) -> Result<(), Failure> {
        if let Err(error) = check_artifact_name(name) {
            return Err(Failure::new(
                Reason::Internal,
                format!("artifact {name:?}: {error}"),
            ));
        }
        if self.written.iter().any(|artifact| artifact.name == name) {
            return Err(Failure::new(
                Reason::Internal,
                format!("artifact {name} written twice"),
            ));
        }
        if self.written.len() >= caudal_domain::limits::MAX_ARTIFACTS_PER_RESULT {
            return Err(Failure::new(Reason::OutputTooLarge, "too many artifacts"));
        }
        let size = bytes.len() as u64;
        let key = self.key(name);
        if let Err(error) = self.objects.put(&key, media_type, bytes).await {
            return Err(Failure::of_store(Reason::StoreUnavailable, &error));
        }
        self.written.push(Artifact {
            name: name.to_owned(),
            size,
            media_type: media_type.to_owned(),
        });
        Ok(())
    }

    /// What was written, for [`Done::artifacts`].
    pub fn finish(self) -> Vec<Artifact> {
        self.written
    }
}
