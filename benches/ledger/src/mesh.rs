//! The mesh of a run, every service its own process: limiter, ledger and gateway of the product, its stages or stages of its
//! runtime around a handler that does nothing, a Redis and a database.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, ensure};
use caudal_domain::{MediaKind, Stage, TenantId, route};
use caudal_harness::{Port, Redis};
use caudal_node::{MeshSecret, Role, Scope, scope};
use caudal_sdk::Client;
use caudal_streams::{DEFAULT_PREFIX, Names, Streams};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use uuid::Uuid;

use crate::cost::{self, Memory};
use crate::database::{Database, Kind};

const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Keys of a mesh that lives for a measurement.
const API_KEY: &str = "caudal_meshmember_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaad2ec2019";
const OPERATOR_KEY: &str = "caudal_meshoperator_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb52f62bc8";
const MESH_SECRET: &str = "the secret of a mesh that lives for one measurement";

/// The stages that the files of a measurement go through.
const STAGES: &[Stage] = route(MediaKind::Document);

/// How the services of a mesh are started.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    /// The product's binary; this program's own services when left out.
    pub(crate) caudal: Option<PathBuf>,
    /// Worker threads of each service's runtime; the runtime's own choice when left out.
    pub(crate) threads: Option<usize>,
    /// Handlers at once in a stage process; the limiter may grant fewer.
    pub(crate) slots: usize,
    /// Dispatches that a stage process holds at once.
    pub(crate) prefetch: usize,
    /// Files out at each stage at once; the product's windows when left out.
    pub(crate) window: Option<u32>,
}

/// What a mesh has beside ledger, gateway, limiter, Redis and database.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) crews: Vec<Crew>,
    /// Whether there is an object store. Else its address is one where nobody answers.
    pub(crate) has_store: bool,
}

/// The processes of a stage.
#[derive(Debug, Clone)]
pub(crate) struct Crew {
    pub(crate) stage: Stage,
    pub(crate) replicas: usize,
    pub(crate) work: Work,
}

/// What a stage's processes are.
#[derive(Debug, Clone)]
pub(crate) enum Work {
    /// A handler that does nothing, with further arguments.
    Null {
        slots: usize,
        prefetch: usize,
        more: Vec<String>,
    },
    /// The product's own, with these variables.
    Product(Vec<(&'static str, String)>),
}

struct Process {
    name: &'static str,
    child: Child,
}

/// Where the object store is, and its keys.
struct Store {
    endpoint: String,
    access_key: String,
    secret_key: String,
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running mesh.
pub(crate) struct Mesh {
    processes: Vec<Process>,
    pub(crate) database: Database,
    redis: Redis,
    setup: Setup,
    folder: TempDir,
    ports: Vec<(&'static str, Port)>,
    store: Option<Store>,
}

/// Processor time by process, over a stretch of a run.
#[derive(Debug, Clone)]
pub(crate) struct Spent(Vec<(&'static str, Duration)>);

impl Spent {
    /// What was spent since `earlier`.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        let parts = self.0.iter().zip(&earlier.0);
        Self(
            parts
                .map(|((name, now), (_, before))| (*name, now.saturating_sub(*before)))
                .collect(),
        )
    }

    /// Of one service, all its processes.
    pub(crate) fn of(&self, name: &str) -> Duration {
        let parts = self.0.iter().filter(|(part, _)| *part == name);
        parts.map(|(_, spent)| *spent).sum()
    }

    /// In microseconds a file, by process and in all.
    pub(crate) fn a_file(&self, files: u32) -> Value {
        let micros =
            |spent: Duration| (spent.as_secs_f64() * 1e7 / f64::from(files)).round() / 10.0;
        let mut parts: serde_json::Map<String, Value> = self
            .0
            .iter()
            .map(|(name, spent)| ((*name).to_owned(), micros(*spent).into()))
            .collect();
        let all: Duration = self.0.iter().map(|(_, spent)| *spent).sum();
        parts.insert("all".to_owned(), micros(all).into());
        Value::Object(parts)
    }
}

impl Work {
    /// Nothing, by as many slots as a run is set up for.
    fn null(setup: &Setup, more: &[&str]) -> Self {
        Self::Null {
            slots: setup.slots,
            prefetch: setup.prefetch,
            more: more.iter().map(|one| (*one).to_owned()).collect(),
        }
    }
}

impl Mesh {
    /// Starts ledger, gateway and limiter on a database, and stages that do nothing if asked to. To be called on the main
    /// thread: what it starts ends with the thread.
    pub(crate) async fn start(
        setup: &Setup,
        database: Database,
        with_stages: bool,
    ) -> anyhow::Result<Self> {
        let stages = if with_stages { STAGES } else { &[] };
        let crew = |stage: &Stage| Crew {
            stage: *stage,
            replicas: 1,
            work: Work::null(setup, &[]),
        };
        let plan = Plan {
            crews: stages.iter().map(crew).collect(),
            has_store: false,
        };
        Self::start_as(setup, database, &plan).await
    }

    /// Starts what a plan says, on the main thread too.
    pub(crate) async fn start_as(
        setup: &Setup,
        database: Database,
        plan: &Plan,
    ) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("caudal-bench-mesh-")?;
        let names = ["ledger", "gateway", "limiter"].into_iter();
        let ports = names
            .map(|name| Ok((name, Port::reserve()?)))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut mesh = Self {
            processes: Vec::new(),
            database,
            redis: Redis::start().await?,
            setup: setup.clone(),
            folder,
            ports,
            store: None,
        };
        if plan.has_store {
            mesh.start_store()?;
        }
        mesh.write_settings()?;
        mesh.serve("ledger")?;
        mesh.serve("gateway")?;
        for crew in &plan.crews {
            for _ in 0..crew.replicas {
                mesh.start_stage(crew)?;
            }
        }
        // Last: a new limiter grants what is in use already, and no more until it may know of all.
        mesh.serve("limiter")?;
        Ok(mesh)
    }

    /// The embedded object store in a process of its own: a `caudal up` of which nothing else is used.
    fn start_store(&mut self) -> anyhow::Result<()> {
        let port = self.reserve("store")?;
        let data = self.folder.path().join("store");
        let caudal = self.setup.caudal.as_deref();
        let mut command = dying_with_this_thread(caudal.context("there is no binary")?);
        command
            .args(["up", "--log", "warn", "--data-dir"])
            .arg(&data)
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .env("CAUDAL_EMBEDDING_PROVIDER", "none");
        let ready = self.launch("store", command)?;
        let secrets = std::fs::read_to_string(data.join("secrets.json"))?;
        let secrets: Value = serde_json::from_str(&secrets)?;
        let text = |value: &Value| value.as_str().map(str::to_owned).context("no text");
        self.store = Some(Store {
            endpoint: text(&ready["s3"])?,
            access_key: text(&secrets["s3_access_key"])?,
            secret_key: text(&secrets["s3_secret_key"])?,
        });
        Ok(())
    }

    fn write_settings(&self) -> anyhow::Result<()> {
        let (endpoint, access_key, secret_key) = match &self.store {
            Some(store) => (
                store.endpoint.as_str(),
                store.access_key.as_str(),
                store.secret_key.as_str(),
            ),
            None => ("http://127.0.0.1:9", "none", "none"),
        };
        let windows = self.setup.window.map_or_else(String::new, |window| {
            let windows: Vec<String> = Stage::ALL
                .iter()
                .map(|stage| format!("{stage}={window}"))
                .collect();
            format!("dispatch-windows = {:?}\n", windows.join(","))
        });
        let text = format!(
            "ledger = {ledger:?}\nlimiter = {limiter:?}\nredis-url = {redis:?}\ns3-endpoint = {endpoint:?}\n\
             s3-access-key = {access_key:?}\ns3-secret-key = {secret_key:?}\nmesh-secret = {MESH_SECRET:?}\n\n\
             [service.gateway]\ntrust-etags = {trusts}\n\n[service.ledger]\n\
             database-url = {database:?}\nbootstrap-api-key = {API_KEY:?}\nbootstrap-operator-key = {OPERATOR_KEY:?}\n{windows}",
            // Nothing ever landed in a store that is nowhere.
            trusts = self.store.is_none(),
            ledger = self.address("ledger"),
            limiter = self.address("limiter"),
            redis = self.redis.url(),
            database = self.database.url,
        );
        std::fs::write(self.folder.path().join("caudal.toml"), text)?;
        Ok(())
    }

    fn reserve(&mut self, name: &'static str) -> anyhow::Result<u16> {
        let port = Port::reserve()?;
        let number = port.number();
        self.ports.push((name, port));
        Ok(number)
    }

    fn port(&self, name: &str) -> u16 {
        let found = self.ports.iter().find(|(known, _)| *known == name);
        found.map_or(0, |(_, port)| port.number())
    }

    pub(crate) fn address(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}", self.port(name))
    }

    fn serve(&mut self, name: &'static str) -> anyhow::Result<()> {
        let listen = format!("127.0.0.1:{}", self.port(name));
        let command = match &self.setup.caudal {
            Some(caudal) => self.product(caudal, name, &listen),
            None => {
                let mut command = dying_with_this_thread(&std::env::current_exe()?);
                command
                    .args([crate::slim::SLIM, name, "--listen", &listen])
                    .args(["--mesh-secret", MESH_SECRET])
                    .args(["--ledger", &self.address("ledger")])
                    .args(["--limiter", &self.address("limiter")])
                    .args(["--redis-url", &self.redis.url()])
                    .args(["--database-url", &self.database.url])
                    .args(["--api-key", API_KEY, "--operator-key", OPERATOR_KEY]);
                if let Some(window) = self.setup.window {
                    command.args(["--window", &window.to_string()]);
                }
                command
            }
        };
        self.launch(name, command)?;
        Ok(())
    }

    fn product(&self, caudal: &Path, service: &str, listen: &str) -> Command {
        let mut command = dying_with_this_thread(caudal);
        command
            .args(["serve", service, "--config"])
            .arg(self.folder.path().join("caudal.toml"))
            .args(["--listen", listen]);
        command
    }

    /// A stage that fails every file, and asks that it be left alone for an hour.
    pub(crate) fn failing_stage(&mut self, stage: Stage) -> anyhow::Result<()> {
        let work = Work::null(&self.setup, &["--fails"]);
        let replicas = 1;
        self.start_stage(&Crew {
            stage,
            replicas,
            work,
        })
    }

    /// One process of a stage.
    fn start_stage(&mut self, crew: &Crew) -> anyhow::Result<()> {
        let name = crew.stage.name();
        let listen = format!("127.0.0.1:{}", self.reserve(name)?);
        let command = match &crew.work {
            Work::Null {
                slots,
                prefetch,
                more,
            } => {
                let mut command = dying_with_this_thread(&std::env::current_exe()?);
                command
                    .args([crate::null::NULL_STAGE, name])
                    .args(["--listen", &listen])
                    .args(["--ledger", &self.address("ledger")])
                    .args(["--limiter", &self.address("limiter")])
                    .args(["--redis-url", &self.redis.url()])
                    .args(["--mesh-secret", MESH_SECRET])
                    .args(["--slots", &slots.to_string()])
                    .args(["--prefetch", &prefetch.to_string()])
                    .args(more);
                command
            }
            Work::Product(variables) => {
                let caudal = self.setup.caudal.as_deref();
                let mut command =
                    self.product(caudal.context("there is no binary")?, name, &listen);
                command.envs(variables.iter().map(|(name, value)| (name, value)));
                command
            }
        };
        self.launch(name, command)?;
        Ok(())
    }

    fn launch(&mut self, name: &'static str, mut command: Command) -> anyhow::Result<Value> {
        if let Some(threads) = self.setup.threads {
            command.env("TOKIO_WORKER_THREADS", threads.to_string());
        }
        // Processes of one stage share a log.
        let mut log = std::fs::OpenOptions::new();
        let log = log.create(true).append(true).open(self.log(name))?;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .with_context(|| format!("{name} does not run"))?;
        let stdout = child.stdout.take().context("no standard output")?;
        self.processes.push(Process { name, child });
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(read.map(|_| line));
        });
        let line = receiver
            .recv_timeout(PATIENCE)
            .with_context(|| format!("{name} is not ready in time: {}", self.tail(name)))??;
        let line: Value = serde_json::from_str(&line)
            .with_context(|| format!("{name} does not serve: {}", self.tail(name)))?;
        ensure!(line["ready"] == true, "{line}");
        Ok(line)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    fn tail(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(6)..].join("\n")
    }

    /// The ends of all logs, for an error.
    pub(crate) fn tails(&self) -> String {
        let names = self.processes.iter().map(|process| process.name);
        names
            .map(|name| format!("--- {name}\n{}\n", self.tail(name)))
            .collect()
    }

    /// A client of the gateway, as anybody has it.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        self.client_with(API_KEY).await
    }

    /// A client with the key of another tenant.
    pub(crate) async fn client_with(&self, key: &str) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.address("gateway"), key).await?)
    }

    /// A client with the operator's key.
    pub(crate) async fn operator(&self) -> anyhow::Result<Client> {
        self.client_with(OPERATOR_KEY).await
    }

    /// Entries on the stream of a stage.
    pub(crate) async fn stream_length(&self, stage: Stage) -> anyhow::Result<u64> {
        let streams = Streams::connect(&self.redis.url(), Names::new(DEFAULT_PREFIX))?;
        Ok(streams.depth(stage).await?)
    }

    /// Resident memory of Redis.
    pub(crate) fn redis_memory(&self) -> anyhow::Result<Memory> {
        cost::memory(self.redis.pid().context("redis is gone")?)
    }

    /// The scope of the mesh's tenant, signed as the gateway signs it: for calls that go straight to the ledger.
    pub(crate) async fn scope(&self) -> anyhow::Result<scope::SignedScope> {
        let tenant: Uuid = self
            .database
            .value("SELECT tenant_id AS v FROM tenants")
            .await?;
        let scope = Scope {
            tenant: Some(TenantId::from_uuid(tenant)),
            principal: "bench".to_owned(),
            role: Role::Member,
            batch: None,
            key_id: String::new(),
        };
        signed(scope)
    }

    /// An operator's scope, signed as the gateway signs it.
    pub(crate) fn operator_scope(&self) -> anyhow::Result<scope::SignedScope> {
        let scope = Scope {
            tenant: None,
            principal: "bench".to_owned(),
            role: Role::Operator,
            batch: None,
            key_id: String::new(),
        };
        signed(scope)
    }

    pub(crate) fn pid(&self, name: &str) -> anyhow::Result<u32> {
        let found = self.processes.iter().find(|process| process.name == name);
        Ok(found.with_context(|| format!("no {name}"))?.child.id())
    }

    /// Resident memory of a service.
    pub(crate) fn memory(&self, name: &str) -> anyhow::Result<Memory> {
        cost::memory(self.pid(name)?)
    }

    /// Resident memory of all services, by name.
    pub(crate) fn memories(&self) -> anyhow::Result<Vec<(&'static str, Memory)>> {
        let processes = self.processes.iter();
        processes
            .map(|process| Ok((process.name, cost::memory(process.child.id())?)))
            .collect()
    }

    /// Processor time of every process so far. `client` is this process.
    pub(crate) fn spent(&self) -> anyhow::Result<Spent> {
        let mut parts = Vec::new();
        for process in &self.processes {
            parts.push((process.name, cost::cpu(process.child.id())?));
        }
        let redis = self.redis.pid().context("redis is gone")?;
        parts.push(("redis", cost::cpu(redis)?));
        if let Some(postmaster) = self.database.postmaster() {
            parts.push(("postgres", cost::cpu_of_family(postmaster)?));
        }
        parts.push(("client", cost::cpu(std::process::id())?));
        Ok(Spent(parts))
    }

    /// The ledger's own counters, by name.
    pub(crate) async fn counters(&self) -> anyhow::Result<Value> {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.port("ledger"))).await?;
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n")
            .await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        let mut counters = serde_json::Map::new();
        for line in text.lines() {
            let wanted = line.starts_with("caudal_writer_") || line.starts_with("caudal_relayed");
            if !wanted || line.contains("_bucket") {
                continue;
            }
            if let Some((series, value)) = line.rsplit_once(' ') {
                // The phase of a group becomes part of the name: `writer_phase_seconds_sum.load`.
                let (name, labels) = series.split_once('{').unwrap_or((series, ""));
                let phase = labels.split_once("phase=\"");
                let label = phase.and_then(|(_, rest)| rest.split('"').next());
                let name = name.trim_start_matches("caudal_");
                let name = label.map_or(name.to_owned(), |label| format!("{name}.{label}"));
                let value: f64 = value.trim().parse().unwrap_or_default();
                counters.insert(name, json!(value));
            }
        }
        Ok(Value::Object(counters))
    }

    /// Ends all services as an operator does, the last started first.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        // The limiter was started last, and is missed least by the others at their end.
        while let Some(mut process) = self.processes.pop() {
            let pid = process.child.id().to_string();
            ensure!(
                Command::new("kill")
                    .args(["-TERM", &pid])
                    .status()?
                    .success(),
                "{} ended before its time: {}",
                process.name,
                self.tail(process.name)
            );
            let begun = std::time::Instant::now();
            let status = loop {
                if let Some(status) = process.child.try_wait()? {
                    break status;
                }
                ensure!(begun.elapsed() < PATIENCE, "{} does not end", process.name);
                tokio::time::sleep(LOOK_EVERY).await;
            };
            ensure!(
                status.success(),
                "{} ended with {status}: {}",
                process.name,
                self.tail(process.name)
            );
        }
        Ok(())
    }

    /// Ends all, and has the product itself check every invariant of database and streams; a lost file is an error.
    pub(crate) async fn verify(mut self, files: u32) -> anyhow::Result<()> {
        self.stop().await?;
        let redis_url = self.redis.url();
        verify(
            self.setup.caudal.as_deref(),
            &self.database.url,
            Some(&redis_url),
            files,
        )
        .await
    }
}

fn signed(scope: Scope) -> anyhow::Result<scope::SignedScope> {
    let secret = MeshSecret::new(MESH_SECRET.as_bytes())?;
    Ok(scope::SignedScope::new(scope, secret))
}

/// `caudal verify` on a database: every invariant holds, and there are so many files.
pub(crate) async fn verify(
    caudal: Option<&Path>,
    database_url: &str,
    redis_url: Option<&str>,
    files: u32,
) -> anyhow::Result<()> {
    let Some(caudal) = caudal else {
        return crate::slim::verify(database_url, redis_url, files).await;
    };
    let mut command = Command::new(caudal);
    command.args(["verify", "--database-url", database_url]);
    if let Some(url) = redis_url {
        command.args(["--redis-url", url]);
    }
    let checked = command.stdin(Stdio::null()).output()?;
    let words = String::from_utf8_lossy(&checked.stdout);
    ensure!(
        checked.status.success(),
        "{words}{}",
        String::from_utf8_lossy(&checked.stderr)
    );
    ensure!(
        words.contains(&format!(" {files} files\n")),
        "there should be {files} files: {words}"
    );
    Ok(())
}

/// What is started ends with this thread, however that ends.
fn dying_with_this_thread(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig=KILL", "--"]).arg(program);
    command
}

/// Whether the database is one of the ledger's processes or lives inside it.
pub(crate) fn database_process(kind: Kind) -> &'static str {
    match kind {
        Kind::Postgres => "postgres",
        Kind::Sqlite => "ledger",
    }
}
