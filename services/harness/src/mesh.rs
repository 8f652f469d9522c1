//! The whole system as separate processes: `caudal serve` of each service, each real, each to be killed, paused and
//! started again on its own.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use caudal_domain::Stage;
use caudal_embedded::{Durability, S3Server, S3Settings};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::{Database, Port, Postgres, Redis};

/// How long a process may take to be ready, and to end.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Keys of a system that lives for a test.
const API_KEY: &str = "caudal_meshmember_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaad2ec2019";
const OPERATOR_KEY: &str = "caudal_meshoperator_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb52f62bc8";
const MESH_SECRET: &str = "the secret of a mesh that lives for one test";
const S3_ACCESS_KEY: &str = "mesh";
const S3_SECRET_KEY: &str = "the secret key of one test";
const BUCKET: &str = "caudal";

/// What a mesh is made of.
#[derive(Debug, Clone, Copy)]
pub struct MeshOptions {
    /// Which database.
    pub database: Database,
    /// How many ledgers.
    pub ledgers: usize,
    /// `--dispatch-windows` of the ledgers; empty: the default.
    pub dispatch_windows: &'static str,
}

/// One service's process, over its restarts.
#[derive(Debug)]
struct Service {
    /// `ledger-1`, `upload`, ...
    name: String,
    port: Port,
    child: Option<Child>,
    ready: Option<mpsc::Receiver<std::io::Result<String>>>,
}

impl Service {
    fn kind(&self) -> &str {
        ["ledger", "gateway"]
            .into_iter()
            .find(|kind| {
                self.name
                    .strip_prefix(kind)
                    .is_some_and(|rest| rest.starts_with('-'))
            })
            .unwrap_or(&self.name)
    }

    fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A running mesh: limiter, ledgers, stages and gateway as processes, with an S3 server in this one and a Redis.
#[derive(Debug)]
pub struct Mesh {
    services: Vec<Service>,
    binary: PathBuf,
    database_url: String,
    s3_endpoint: String,
    redis: Redis,
    s3_port: Port,
    /// Its server, while it runs.
    store: Option<Store>,
    folder: TempDir,
    runtime: Runtime,
}

impl Mesh {
    /// Starts everything, and comes back when all of it is ready. Not to be called inside a tokio runtime.
    ///
    /// # Errors
    /// When a part does not start; with the end of its log.
    pub fn start(binary: &Path, options: MeshOptions) -> anyhow::Result<Self> {
        Self::start_with(binary, options, |_| String::new())
    }

    /// The same with settings for all services beside the usual ones, as lines of TOML; their files may stand in the folder.
    ///
    /// # Errors
    /// As [`Mesh::start`].
    pub fn start_with(
        binary: &Path,
        options: MeshOptions,
        more: impl FnOnce(&Path) -> String,
    ) -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("caudal-mesh-")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let redis = runtime.block_on(Redis::start())?;
        let s3_port = Port::reserve()?;
        let s3_endpoint = format!("http://127.0.0.1:{s3_port}");
        let store = start_store(&runtime, folder.path(), &s3_port)?;
        let database_url = match options.database {
            Database::Sqlite => {
                format!("sqlite:{}", folder.path().join("ledger.sqlite").display())
            }
            Database::Postgres => Postgres::new_database()?,
        };
        let ledgers = (1..=options.ledgers).map(|number| format!("ledger-{number}"));
        let others = Stage::ALL
            .map(Stage::name)
            .into_iter()
            .chain(["gateway", "limiter"]);
        let services = ledgers
            .chain(others.map(str::to_owned))
            .map(|name| {
                Ok(Service {
                    name,
                    port: Port::reserve()?,
                    child: None,
                    ready: None,
                })
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut mesh = Self {
            services,
            binary: binary.to_owned(),
            database_url,
            s3_endpoint,
            redis,
            s3_port,
            store: Some(store),
            folder,
            runtime,
        };
        let more = more(mesh.folder.path());
        mesh.write_settings(options.dispatch_windows, &more)?;
        // The limiter last: a new one grants what is in use already and no more until it may know of all.
        let (limiter, first) = mesh
            .services
            .iter()
            .map(|service| service.name.clone())
            .partition::<Vec<_>, _>(|name| name == "limiter");
        for names in [first, limiter] {
            for name in &names {
                mesh.launch(name)?;
            }
            for name in &names {
                mesh.until_ready(name)?;
            }
        }
        Ok(mesh)
    }

    /// One file for all of them, secrets in files of their own: as an installation has it.
    fn write_settings(&self, dispatch_windows: &str, more: &str) -> anyhow::Result<()> {
        let folder = self.folder.path();
        for (file, secret) in [
            ("mesh-secret", MESH_SECRET),
            ("api-key", API_KEY),
            ("operator-key", OPERATOR_KEY),
            ("s3-secret-key", S3_SECRET_KEY),
        ] {
            std::fs::write(folder.join(file), format!("{secret}\n"))?;
        }
        let folder = folder.display();
        let ledgers: Vec<String> = self
            .services
            .iter()
            .filter(|service| service.kind() == "ledger")
            .map(Service::address)
            .collect();
        let mut text = format!(
            r#"ledger = {ledgers:?}
limiter = "{limiter}"
redis-url = "{redis}"
s3-endpoint = "{s3}"
s3-access-key = "{S3_ACCESS_KEY}"
s3-secret-key-file = "{folder}/s3-secret-key"
mesh-secret-file = "{folder}/mesh-secret"
{more}
[service.ledger]
database-url = "{database}"
bootstrap-api-key-file = "{folder}/api-key"
bootstrap-operator-key-file = "{folder}/operator-key"
"#,
            limiter = self.service("limiter")?.address(),
            redis = self.redis.url(),
            s3 = self.s3_endpoint,
            database = self.database_url,
        );
        if !dispatch_windows.is_empty() {
            text.push_str(&format!("dispatch-windows = {dispatch_windows:?}\n"));
        }
        std::fs::write(self.settings(), text)?;
        Ok(())
    }

    fn settings(&self) -> PathBuf {
        self.folder.path().join("caudal.toml")
    }

    fn at(&self, name: &str) -> anyhow::Result<usize> {
        self.services
            .iter()
            .position(|service| service.name == name)
            .with_context(|| format!("there is no {name} in this mesh"))
    }

    fn service(&self, name: &str) -> anyhow::Result<&Service> {
        Ok(&self.services[self.at(name)?])
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    fn tail(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.log(name)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    fn launch(&mut self, name: &str) -> anyhow::Result<()> {
        let at = self.at(name)?;
        let service = &self.services[at];
        ensure!(service.child.is_none(), "{name} runs already");
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log(name))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig=KILL", "--"])
            .arg(&self.binary)
            .args(["serve", service.kind()])
            .arg("--config")
            .arg(self.settings())
            .args(["--listen", &format!("127.0.0.1:{}", service.port)])
            .env("CAUDAL_EMBEDDING_PROVIDER", "none")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut child = spawn_by_a_thread_that_lives(command)
            .with_context(|| format!("`caudal serve {name}` does not run"))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let (sender, receiver) = mpsc::channel();
        std::thread::spawn(move || {
            let mut line = String::new();
            let read = BufReader::new(stdout).read_line(&mut line);
            let _ = sender.send(read.map(|_| line));
        });
        self.services[at].child = Some(child);
        self.services[at].ready = Some(receiver);
        Ok(())
    }

    fn until_ready(&mut self, name: &str) -> anyhow::Result<()> {
        let at = self.at(name)?;
        let ready = self.services[at].ready.take();
        let line = ready
            .context("it was not started")?
            .recv_timeout(PATIENCE)
            .with_context(|| format!("{name} is not ready in time; log: {}", self.tail(name)))??;
        let line: Value = serde_json::from_str(&line)
            .with_context(|| format!("{name}: no ready line; log: {}", self.tail(name)))?;
        let service = &self.services[at];
        ensure!(line["ready"] == true, "{line}");
        ensure!(line["service"] == service.kind(), "{line}");
        let address = line["address"].as_str().unwrap_or_default();
        ensure!(
            address.replacen("https://", "http://", 1) == service.address(),
            "{line}"
        );
        Ok(())
    }

    /// Address of the gateway.
    ///
    /// # Errors
    /// None in a started mesh.
    pub fn gateway(&self) -> anyhow::Result<String> {
        Ok(self.service("gateway")?.address())
    }

    /// Starts one more gateway; its name.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn add_gateway(&mut self) -> anyhow::Result<String> {
        let name = format!("gateway-{}", self.services.len());
        self.services.push(Service {
            name: name.clone(),
            port: Port::reserve()?,
            child: None,
            ready: None,
        });
        self.launch(&name)?;
        self.until_ready(&name)?;
        Ok(name)
    }

    /// Where its Redis is, password included.
    #[must_use]
    pub fn redis_url(&self) -> String {
        self.redis.url()
    }

    /// Where its database is.
    #[must_use]
    pub fn database_url(&self) -> &str {
        &self.database_url
    }

    /// The key of its tenant.
    #[must_use]
    pub fn api_key(&self) -> &'static str {
        API_KEY
    }

    /// The key of its operator.
    #[must_use]
    pub fn operator_key(&self) -> &'static str {
        OPERATOR_KEY
    }

    /// Names of all services: `ledger-1`, `upload`, ... `gateway`, `limiter`.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.services
            .iter()
            .map(|service| service.name.clone())
            .collect()
    }

    /// Where a service listens.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn address(&self, name: &str) -> anyhow::Result<String> {
        Ok(self.service(name)?.address())
    }

    /// Number of a service's process.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self, name: &str) -> anyhow::Result<u32> {
        let child = self.service(name)?.child.as_ref();
        Ok(child.context("it does not run")?.id())
    }

    /// What a service says of its health; none when it does not answer within a second.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn is_serving(&self, name: &str) -> anyhow::Result<Option<bool>> {
        let address = self.service(name)?.address();
        let asked = async {
            let channel = Channel::from_shared(address).ok()?.connect().await.ok()?;
            let answer = HealthClient::new(channel)
                .check(HealthCheckRequest::default())
                .await;
            Some(answer.ok()?.into_inner().status() == ServingStatus::Serving)
        };
        Ok(self
            .runtime
            .block_on(async { tokio::time::timeout(Duration::from_secs(1), asked).await })
            .unwrap_or_default())
    }

    /// Waits until a ledger leads, one of `among` if given; says which.
    ///
    /// # Errors
    /// None does within `patience`.
    pub fn leading(&self, among: Option<&str>, patience: Duration) -> anyhow::Result<String> {
        let begun = Instant::now();
        loop {
            for service in &self.services {
                let is_asked = among.is_none_or(|only| only == service.name);
                if service.kind() == "ledger"
                    && is_asked
                    && self.is_serving(&service.name)? == Some(true)
                {
                    return Ok(service.name.clone());
                }
            }
            ensure!(
                begun.elapsed() < patience,
                "no ledger leads within {patience:?}"
            );
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn signal(&self, name: &str, signal: Signal) -> anyhow::Result<()> {
        let child = self.service(name)?.child.as_ref();
        let child = child.with_context(|| format!("{name} does not run"))?;
        kill_process(Pid::from_child(child), signal)?;
        Ok(())
    }

    /// Ends a service as the kernel does, with SIGKILL.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        self.signal(name, Signal::KILL)?;
        let at = self.at(name)?;
        let mut child = self.services[at].child.take().context("it does not run")?;
        child.wait()?;
        Ok(())
    }

    /// Starts a service that has ended again, on the same port, and waits until it is ready.
    ///
    /// # Errors
    /// It does not become ready.
    pub fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        self.launch(name)?;
        self.until_ready(name)
    }

    /// Stops a service in the middle of what it does, with SIGSTOP.
    ///
    /// # Errors
    /// It does not run.
    pub fn pause(&self, name: &str) -> anyhow::Result<()> {
        self.signal(name, Signal::STOP)
    }

    /// Ends the object store: from now on its port refuses connections.
    ///
    /// # Errors
    /// It does not run.
    pub fn stop_store(&mut self) -> anyhow::Result<()> {
        let store = self.store.take().context("the store does not run")?;
        store.stop.cancel();
        self.runtime.block_on(store.ended)?;
        Ok(())
    }

    /// Starts the object store again, with all that it held.
    ///
    /// # Errors
    /// It runs, or does not start.
    pub fn start_store(&mut self) -> anyhow::Result<()> {
        ensure!(self.store.is_none(), "the store runs already");
        self.store = Some(start_store(
            &self.runtime,
            self.folder.path(),
            &self.s3_port,
        )?);
        Ok(())
    }

    /// Lets a paused service go on, with SIGCONT.
    ///
    /// # Errors
    /// It does not run.
    pub fn resume(&self, name: &str) -> anyhow::Result<()> {
        self.signal(name, Signal::CONT)
    }

    /// Asks a service to end, with SIGTERM, and waits.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn terminate(&mut self, name: &str) -> anyhow::Result<ExitStatus> {
        self.signal(name, Signal::TERM)?;
        let at = self.at(name)?;
        let mut child = self.services[at].child.take().context("it does not run")?;
        let begun = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            if begun.elapsed() > PATIENCE {
                child.kill()?;
                child.wait()?;
                anyhow::bail!(
                    "{name} did not end within {PATIENCE:?}; log: {}",
                    self.tail(name)
                );
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Asks all that run to end, the door first and the ledgers last.
    ///
    /// # Errors
    /// One does not end in time, or not with status 0.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let ledgers: Vec<String> = self
            .names()
            .into_iter()
            .filter(|name| name.starts_with("ledger-"))
            .collect();
        let stages = Stage::ALL.map(Stage::name);
        let doors: Vec<String> = self
            .names()
            .into_iter()
            .filter(|name| name.starts_with("gateway"))
            .collect();
        let others = stages.into_iter().chain(["limiter"]).map(str::to_owned);
        for name in doors.into_iter().chain(others).chain(ledgers) {
            if self.service(&name)?.child.is_none() {
                continue;
            }
            let status = self.terminate(&name)?;
            ensure!(
                status.success(),
                "SIGTERM of {name}: {status}; log: {}",
                self.tail(&name)
            );
        }
        Ok(())
    }

    /// The caudal command against this mesh, not run yet.
    ///
    /// # Errors
    /// None in a started mesh.
    pub fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .env("CAUDAL_GATEWAY", self.gateway()?)
            .env("CAUDAL_API_KEY", API_KEY)
            .stdin(Stdio::null());
        Ok(command)
    }

    /// Runs the caudal command against this mesh.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn caudal(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        Ok(self.command(arguments)?.output()?)
    }

    /// Ends everything cleanly and checks every invariant, in database, streams and store.
    ///
    /// # Errors
    /// A service does not exit with 0, or something does not hold.
    pub fn verify(mut self) -> anyhow::Result<()> {
        self.stop()?;
        let redis_url = self.redis.url();
        let checked = self.caudal(&[
            "verify",
            "--database-url",
            &self.database_url,
            "--redis-url",
            &redis_url,
            "--s3-endpoint",
            &self.s3_endpoint,
            "--s3-access-key",
            S3_ACCESS_KEY,
            "--s3-secret-key",
            S3_SECRET_KEY,
        ])?;
        let words = String::from_utf8_lossy(&checked.stdout).into_owned();
        ensure!(
            checked.status.success(),
            "{words}{}",
            String::from_utf8_lossy(&checked.stderr)
        );
        ensure!(
            words.contains("I6") && !words.contains("I6 bytes       not checked"),
            "bytes unchecked: {words}"
        );
        Ok(())
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for service in &self.services {
                eprintln!("--- {}\n{}", service.name, self.tail(&service.name));
            }
        }
        if let Some(store) = self.store.take() {
            store.stop.cancel();
        }
    }
}

/// A running object store.
#[derive(Debug)]
struct Store {
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
}

fn start_store(runtime: &Runtime, folder: &Path, port: &Port) -> anyhow::Result<Store> {
    let settings = S3Settings {
        durability: Durability::ProcessCrash,
        is_strict: true,
        ..S3Settings::new(folder.join("objects"), S3_ACCESS_KEY, S3_SECRET_KEY, BUCKET)
    };
    let stop = CancellationToken::new();
    let ended = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port.number())).await?;
        let server = S3Server::start(settings, listener, stop.clone()).await?;
        anyhow::Ok(tokio::spawn(server.stopped()))
    })?;
    Ok(Store { stop, ended })
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

/// The death signal of `setpriv` comes when the starting *thread* ends, so one thread starts all, and lives as long as the
/// process.
fn spawn_by_a_thread_that_lives(command: Command) -> anyhow::Result<Child> {
    static ORDERS: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (sender, receiver) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in receiver {
                let _ = answer.send(command.spawn());
            }
        });
        sender
    });
    let (answer, answered) = mpsc::channel();
    orders
        .send((command, answer))
        .ok()
        .context("the thread that starts processes ended")?;
    Ok(answered.recv()??)
}
