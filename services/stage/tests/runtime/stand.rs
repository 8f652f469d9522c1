//! What a test stands on: a Redis, a ledger, a handler that does what a file's path says, and the stage process.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use caudal_domain::{
    BatchId, FileRef, Reason, Stage, StageVersion, Target, TenantId, Token, landing_key,
};
use caudal_harness::{Redis, S3, eventually};
use caudal_node::{
    Channels, MeshChannel, MeshSecret, ServerLimits, ServerParts, ServiceIdentity, Settings,
};
use caudal_objects::ObjectStore;
use caudal_proto::mesh::v1::stage_service_client::StageServiceClient;
use caudal_stage::{
    AnyHandler, Dependencies, Dependency, Done, Failure, Handler, Job, Provider, SlotSource, Solo,
    SoloSettings, StageProcess, StageSettings, Trouble,
};
use caudal_streams::{Lane, Names, Streams, encode};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::fake_ledger::{FakeLedger, Key};

pub(crate) const STAGE: Stage = Stage::ExtractText;
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn key(ordinal: u32) -> Key {
    let tenant = TenantId::from_uuid(Uuid::from_u128(1));
    let batch = BatchId::from_uuid(Uuid::from_u128(2));
    (
        FileRef {
            tenant,
            batch,
            ordinal,
        },
        Token(3),
    )
}

/// Does what the path says: `quick`, `land` (names its source as what landed), `hold` (until told), `wait` (until cancelled), `deaf` (for ever), `panic`, `fail`,
/// `die`, `provider` (waits for it while it is away), `alone` (meets a failure that no other file meets).
#[derive(Clone, Default)]
pub(crate) struct Scripted {
    pub(crate) told: Arc<Notify>,
    /// What the provider says for now.
    pub(crate) away: Arc<Mutex<Option<Failure>>>,
    pub(crate) seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) begun: Vec<u32>,
    pub(crate) running: usize,
    pub(crate) most_running: usize,
    pub(crate) cancelled: Vec<u32>,
    pub(crate) probes: usize,
}

impl Handler for Scripted {
    fn version(&self) -> StageVersion {
        StageVersion::new(STAGE, "test-1")
    }

    async fn handle(&self, job: Job) -> Result<Done, Failure> {
        let ordinal = job.file.ordinal;
        {
            let mut seen = self.seen.lock().unwrap();
            seen.begun.push(ordinal);
            seen.running += 1;
            seen.most_running = seen.most_running.max(seen.running);
        }
        let seen = self.seen.clone();
        let _ends = scopeguard(move || seen.lock().unwrap().running -= 1);
        match job.path.as_str() {
            "hold" => self.told.notified().await,
            "wait" => {
                job.cancelled.cancelled().await;
                self.seen.lock().unwrap().cancelled.push(ordinal);
                return Err(Failure::new(Reason::Internal, "was cancelled"));
            }
            "deaf" => std::future::pending().await,
            "panic" => panic!("a fault in the handler"),
            "die" => std::process::abort(),
            "provider" => {
                if let Some(failure) = self.away.lock().unwrap().clone() {
                    return Err(failure);
                }
            }
            "alone" => return Err(away(Trouble::Failed)),
            "store" => {
                let mut artifacts = job.artifacts;
                artifacts.put("a", "text/plain", "a".into()).await?;
                return Ok(Done {
                    artifacts: artifacts.finish(),
                    ..Done::default()
                });
            }
            "fail" => {
                let mut failure = Failure::new(Reason::ProviderThrottled, "asks for less");
                failure.retry_after = Some(Duration::from_millis(1_500));
                return Err(failure);
            }
            _ => {}
        }
        let landing_key = job.source_key.filter(|_| job.path == "land");
        let facts = serde_json::json!({ "path": job.path, "process": std::process::id() });
        Ok(Done {
            facts,
            landing_key,
            ..Done::default()
        })
    }

    async fn probe(&self, _: Provider) -> Result<(), Failure> {
        self.seen.lock().unwrap().probes += 1;
        self.away.lock().unwrap().clone().map_or(Ok(()), Err)
    }

    async fn probe_parser_host(&self) -> Result<(), Failure> {
        self.seen.lock().unwrap().probes += 1;
        self.away.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

/// A provider in this trouble.
pub(crate) fn away(trouble: Trouble) -> Failure {
    let on = Dependency::Provider(Provider::Embedding);
    Failure::new(Reason::ProviderUnavailable, "no answer").waiting(on, trouble)
}

struct ScopeGuard<F: FnMut()>(F);

impl<F: FnMut()> Drop for ScopeGuard<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

fn scopeguard<F: FnMut()>(at_end: F) -> ScopeGuard<F> {
    ScopeGuard(at_end)
}

/// For the processes of suspect files.
pub(crate) fn solo() -> Solo {
    Solo {
        handler: AnyHandler::new(Scripted::default()),
        objects: objects(),
    }
}

/// A client of this store.
pub(crate) async fn objects_in(store: &S3) -> ObjectStore {
    let settings =
        caudal_objects::Settings::new(store.endpoint(), S3::BUCKET, S3::ACCESS_KEY, S3::SECRET);
    let objects = ObjectStore::connect(settings).unwrap();
    objects.ensure_bucket().await.unwrap();
    objects
}

/// A store nobody asks.
fn objects() -> ObjectStore {
    objects_at("http://127.0.0.1:9")
}

/// A client of a store that may be there later.
pub(crate) fn objects_at(endpoint: &str) -> ObjectStore {
    let settings = caudal_objects::Settings::new(endpoint, S3::BUCKET, S3::ACCESS_KEY, S3::SECRET);
    ObjectStore::connect(settings).unwrap()
}

pub(crate) struct Stand {
    pub(crate) redis: Redis,
    pub(crate) streams: Streams,
    pub(crate) ledger: FakeLedger,
    pub(crate) handler: Scripted,
    pub(crate) objects: ObjectStore,
    store: Option<S3>,
    secret: MeshSecret,
}

pub(crate) struct Running {
    pub(crate) process: StageProcess,
    pub(crate) shutdown: CancellationToken,
    pub(crate) service: StageServiceClient<MeshChannel>,
    pub(crate) address: String,
}

impl Stand {
    pub(crate) async fn new() -> Self {
        let redis = Redis::start().await.unwrap();
        Self {
            streams: Streams::connect(&redis.url(), Names::default()).unwrap(),
            redis,
            ledger: FakeLedger::start().await,
            handler: Scripted::default(),
            objects: objects(),
            store: None,
            secret: MeshSecret::generate(),
        }
    }

    /// The same with an object store.
    pub(crate) async fn with_store() -> Self {
        let store = S3::start().await.unwrap();
        Self {
            objects: objects_in(&store).await,
            store: Some(store),
            ..Self::new().await
        }
    }

    /// Puts what a client would have, where the file's bytes land.
    pub(crate) async fn land(&self, ordinal: u32) {
        assert!(self.store.is_some(), "this stand has no store");
        let object = landing_key(key(ordinal).0, Target(1));
        let bytes = bytes::Bytes::from_static(b"landed");
        self.objects
            .put(&object, "text/plain", bytes)
            .await
            .unwrap();
    }

    pub(crate) async fn is_landed(&self, ordinal: u32) -> bool {
        let object = landing_key(key(ordinal).0, Target(1));
        self.objects.head(&object).await.unwrap().is_some()
    }

    pub(crate) fn settings(slots: usize, prefetch: usize) -> StageSettings {
        StageSettings {
            prefetch,
            drain: Duration::from_secs(10),
            first_pause: Duration::from_millis(20),
            longest_pause: Duration::from_millis(80),
            solo: Some(SoloSettings {
                executable: std::env::current_exe().unwrap(),
                config: serde_json::Value::Null,
            }),
            ..StageSettings::fast(slots)
        }
    }

    pub(crate) async fn run(&self, settings: StageSettings) -> Running {
        self.run_with_limiter(settings, None).await
    }

    pub(crate) async fn run_with_limiter(
        &self,
        settings: StageSettings,
        limiter: Option<&str>,
    ) -> Running {
        let handler = self.handler.clone();
        self.run_handler(handler, self.objects.clone(), settings, limiter)
            .await
    }

    pub(crate) async fn run_handler(
        &self,
        handler: impl Handler,
        objects: ObjectStore,
        settings: StageSettings,
        limiter: Option<&str>,
    ) -> Running {
        let name = handler.version().stage.name();
        let identity = ServiceIdentity::new(name, &self.secret);
        let channels = Channels::default();
        let channel = |address: &str| identity.channel(channels.channel(address).unwrap());
        let dependencies = Dependencies {
            ledger: channel(&self.ledger.address),
            objects,
            streams: self.streams.clone(),
            limiter: limiter.map(|address| SlotSource {
                channel: channel(address),
                local_share: 1,
            }),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shutdown = CancellationToken::new();
        let server = Settings {
            name: name.to_owned(),
            mesh_secret: self.secret.clone(),
            limits: ServerLimits::default(),
        };
        let server = ServerParts::new(server, listener, shutdown.clone());
        let process = StageProcess::start(handler, settings, dependencies, server).unwrap();
        let operator = ServiceIdentity::new("operator", &self.secret).at(name);
        let own = channels.channel(&address).unwrap();
        let service = StageServiceClient::new(operator.channel(own));
        Running {
            process,
            shutdown,
            service,
            address,
        }
    }

    /// Publishes one entry with these files, and tells the ledger what they are.
    pub(crate) async fn dispatch(&self, files: &[(u32, &str)]) {
        let keys: Vec<Key> = files.iter().map(|(ordinal, _)| key(*ordinal)).collect();
        for (key, (_, path)) in keys.iter().zip(files) {
            self.ledger.state().paths.insert(*key, (*path).to_owned());
        }
        self.publish(&keys).await;
    }

    pub(crate) async fn publish(&self, keys: &[Key]) {
        self.publish_to(STAGE, keys).await;
    }

    pub(crate) async fn publish_to(&self, stage: Stage, keys: &[Key]) {
        let answers = self
            .streams
            .publisher()
            .publish(&[(stage, Lane::Regular, encode(keys, Lane::Regular, 0))])
            .await
            .unwrap();
        assert!(answers.iter().all(Result::is_ok));
    }

    pub(crate) async fn depth(&self) -> u64 {
        self.streams.depth(STAGE).await.unwrap()
    }

    /// Waits until the stream is empty and nothing is pending.
    pub(crate) async fn all_acknowledged(&self) {
        eventually("all is acknowledged", async || {
            let view = self.streams.inspect(STAGE).await.unwrap();
            view.entries.is_empty() && view.pending.is_empty()
        })
        .await;
    }
}

impl Running {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        tokio::time::timeout(PATIENCE, self.process.wait())
            .await
            .unwrap()
            .unwrap();
    }
}
