//! All that one tenant, and people without any key, can do to a system, at once: another tenant works on, and the process
//! stays small.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use caudal_harness::Database;
use caudal_proto::v1;
use caudal_proto::v1::batch_service_client::BatchServiceClient;
use caudal_proto::v1::file_service_client::FileServiceClient;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::Ground;
use crate::door::{key, tenant};
use crate::refusals::{Key, Keyed, batches, channel, file, request_id};

/// Files of the batch whose paths are asked for by globs.
const FILES: u32 = 10_000;
const PAGE: u32 = 1_000;
/// Connections that say nothing.
const SILENT: u64 = 10_000;
/// What attacks and attacked need beside them.
const SPARE_FILES: u64 = 2_000;
const CREATIONS: usize = 40;
const PAUSE: Duration = Duration::from_millis(100);
/// Resident memory of the process, in MB.
const MOST_MEMORY: u64 = 300;
/// Half of the creations of another tenant come sooner, on a machine that has other things to do: on a quiet one all do in half
/// a second.
const SOON: Duration = Duration::from_secs(2);

#[derive(Clone)]
struct Attacker {
    batches: BatchServiceClient<Keyed>,
    files: FileServiceClient<Keyed>,
    batch: String,
}

impl Attacker {
    fn new(channel: &Channel, key: &str, batch: &str) -> Self {
        let keyed = InterceptedService::new(channel.clone(), Key::new(key));
        Self {
            batches: BatchServiceClient::new(keyed.clone()),
            files: FileServiceClient::new(keyed),
            batch: batch.to_owned(),
        }
    }

    async fn add(&self, entries: Vec<v1::Entry>) -> Result<(), Status> {
        let request = v1::AddEntriesRequest {
            batch: self.batch.clone(),
            entries,
            request_id: request_id(),
        };
        self.batches.clone().add_entries(request).await.map(drop)
    }

    /// Sizes whose sum no number holds.
    async fn sizes(&self, turn: u64) -> Result<(), Status> {
        let entries = (0..3).map(|number| file(&format!("{turn}/{number}"), i64::MAX));
        self.add(entries.collect()).await
    }

    /// A message of four megabytes of nothing.
    async fn nothing(&self, _turn: u64) -> Result<(), Status> {
        self.add(vec![v1::Entry::default(); 2_000_000]).await
    }

    /// Paths that are folders over and over.
    async fn folders(&self, turn: u64) -> Result<(), Status> {
        let path = |number: u32| format!("{turn}/{number}/{}x", "a/".repeat(1_900));
        let entries = (0..PAGE).map(|number| file(&path(number), 1));
        self.add(entries.collect()).await
    }

    /// One state, a million times, and each time one more.
    async fn states(&self, turn: u64) -> Result<(), Status> {
        let request = v1::ListBatchesRequest {
            states: vec![1; 1_000_000 + usize::try_from(turn).unwrap()],
            ..v1::ListBatchesRequest::default()
        };
        self.batches.clone().list_batches(request).await.map(drop)
    }

    /// States that there are not.
    async fn no_states(&self, turn: u64) -> Result<(), Status> {
        let request = v1::ListFilesRequest {
            selector: Some(v1::FileSelector {
                batch: self.batch.clone(),
                states: vec![100; 1_000_000 + usize::try_from(turn).unwrap()],
                reasons: vec![String::new(); 1_000_000],
                ..v1::FileSelector::default()
            }),
            ..v1::ListFilesRequest::default()
        };
        self.files.clone().list_files(request).await.map(drop)
    }

    /// A selection that would be kept for a week.
    async fn selection(&self, _turn: u64) -> Result<(), Status> {
        let request = v1::CancelFilesRequest {
            selector: Some(v1::FileSelector {
                batch: self.batch.clone(),
                stages: vec!["upload".to_owned(); 180_000],
                ..v1::FileSelector::default()
            }),
            request_id: request_id(),
            ..v1::CancelFilesRequest::default()
        };
        self.files.clone().cancel_files(request).await.map(drop)
    }

    /// A walk over every path.
    async fn globs(&self, turn: u64) -> Result<(), Status> {
        let request = v1::CountFilesRequest {
            selector: Some(v1::FileSelector {
                batch: self.batch.clone(),
                path_glob: format!("**/*{turn}*/**/?*.nothing"),
                ..v1::FileSelector::default()
            }),
            group_by: v1::CountGrouping::State.into(),
        };
        self.files.clone().count_files(request).await.map(drop)
    }
}

/// What one attack was answered.
#[derive(Clone, Default)]
struct Answers(Arc<Mutex<Vec<Answer>>>);

/// Which attack, and what it was answered.
type Answer = (&'static str, Code, String);

impl Answers {
    fn note(&self, attack: &'static str, answer: Result<(), Status>) {
        let (code, words) = match answer {
            Ok(()) => (Code::Ok, String::new()),
            Err(status) => (status.code(), status.message().chars().take(120).collect()),
        };
        let mut all = self.0.lock().unwrap();
        if !all
            .iter()
            .any(|(of, known, _)| *of == attack && *known == code)
        {
            all.push((attack, code, words));
        }
    }
}

/// Resident memory of a process in MB.
fn memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        / 1024
}

/// As many files as this process may open, and those that it starts; how many silent connections that allows.
fn open_files() -> u64 {
    let allowed = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: allowed.maximum,
        maximum: allowed.maximum,
    };
    setrlimit(Resource::Nofile, raised).unwrap();
    allowed
        .maximum
        .map_or(SILENT, |all| SILENT.min(all.saturating_sub(SPARE_FILES)))
}

/// Repeats an attack until the end.
fn attack<Answered>(
    attacks: &mut JoinSet<()>,
    answers: &Answers,
    name: &'static str,
    act: impl Fn(u64) -> Answered + Send + 'static,
) where
    Answered: Future<Output = Result<(), Status>> + Send,
{
    let answers = answers.clone();
    attacks.spawn(async move {
        for turn in 0.. {
            answers.note(name, act(turn).await);
        }
    });
}

#[test]
fn another_tenant_works_on_in_little_memory_while_all_attacks_run_at_once() {
    let silent = open_files();
    let ground = Ground::with(Database::Sqlite, &[("CAUDAL_EMBEDDING_PROVIDER", "none")]);
    let [(bad, _), (good, _)] = ["bad", "good"].map(|name| {
        let tenant = tenant(&ground, name);
        key(&ground, &tenant, "member")
    });
    let pid = ground.system.pid().unwrap();
    let before = memory(pid);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let to_bad = channel(&ground).await;
        let created = create(&batches(&to_bad, &bad)).await.unwrap();
        let attacker = Attacker::new(&to_bad, &bad, &created.name);
        for page in 0..FILES / PAGE {
            let entries = (0..PAGE).map(|number| file(&format!("in/{page}/{number}/file.txt"), 1));
            let added = attacker.add(entries.collect()).await;
            added.unwrap();
        }

        let (answers, mut attacks) = (Answers::default(), JoinSet::new());
        macro_rules! attack_by {
            ($($name:ident),*) => {$(
                let by = attacker.clone();
                attack(&mut attacks, &answers, stringify!($name), move |turn| {
                    let by = by.clone();
                    async move { by.$name(turn).await }
                });
            )*};
        }
        attack_by!(sizes, nothing, folders, states, no_states, selection);
        for _ in 0..16 {
            attack_by!(globs);
        }
        let guesser = Attacker::new(&channel(&ground).await, "caudal_wrong", &created.name);
        attack(&mut attacks, &answers, "guesses", move |turn| {
            let by = guesser.clone();
            async move { by.globs(turn).await }
        });
        let address = ground.system.ready("gateway").replace("http://", "");
        let connected = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&connected);
        attacks.spawn(async move {
            let mut all = Vec::new();
            while counted.load(Ordering::Relaxed) < silent {
                if let Ok(mut stream) = TcpStream::connect(&address).await {
                    let _sent = stream.write_all(b"PRI * HTTP/2.0\r\n").await;
                    all.push(stream);
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
            std::future::pending::<()>().await;
        });

        let (mut took, mut most) = (Vec::new(), 0);
        let known = batches(&channel(&ground).await, &good);
        while took.len() < CREATIONS || connected.load(Ordering::Relaxed) < silent {
            let begun = Instant::now();
            create(&known).await.unwrap();
            took.push(begun.elapsed());
            most = most.max(memory(pid));
            tokio::time::sleep(PAUSE).await;
        }
        let begun = Instant::now();
        create(&batches(&channel(&ground).await, &good)).await.unwrap();
        let of_a_new_client = begun.elapsed();
        attacks.shutdown().await;
        took.sort();
        let (half, last) = (took[took.len() / 2], took[took.len() - 1]);
        println!(
            "memory {before} MB, at most {most} MB; {} creations of another tenant: half within {half:?}, all within {last:?}; \
             beside {silent} silent connections a new client was answered in {of_a_new_client:?}",
            took.len()
        );
        for (attack, code, words) in answers.0.lock().unwrap().iter() {
            println!("{attack}: {code:?} {words}");
            let is_told = !matches!(code, Code::Internal | Code::Unavailable | Code::Unknown);
            assert!(is_told, "{attack}: {code:?} {words}");
        }
        assert!(most < MOST_MEMORY, "{most} MB");
        assert!(half < SOON, "{half:?}");
        assert!(of_a_new_client < SOON, "{of_a_new_client:?}");
    });
    // No file of it has bytes that could be verified; that it ends as ever says that nothing of it has died.
    let mut system = ground.system;
    assert!(system.stop().unwrap().success());
}

async fn create(client: &BatchServiceClient<Keyed>) -> Result<v1::Batch, Status> {
    let request = v1::CreateBatchRequest {
        batch: Some(v1::Batch::default()),
        request_id: request_id(),
    };
    let created = client.clone().create_batch(request).await?;
    Ok(created.into_inner())
}
