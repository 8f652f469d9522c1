//! Tools of others against the embedded store, and Caudal on stores of others. `make test-clients` installs them and runs
//! this; otherwise these tests are passed over.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use caudal_harness::{Port, eventually};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::page::repository;
use crate::{Database, Ground, QUICK, json};

/// Names that are spelled otherwise in URLs, in XML and in shells.
const NAMES: [&str; 6] = [
    "plain.txt",
    "deep/er/h+1 %41.txt",
    "deep/& <tag> 'quoted' \"twice\".txt",
    "río/ñandú.txt",
    "río/日本語.txt",
    "deep/comma,equals=;at@.txt",
];

fn clients() -> PathBuf {
    repository().join("infra/clients")
}

/// Whether `make test-clients` has installed what these tests need; where it must be, it is an error when it is not.
fn is_installed(part: &str) -> bool {
    let installed = clients().join(part).exists();
    assert!(
        installed || std::env::var_os("CAUDAL_REQUIRE_CLIENTS").is_none(),
        "infra/clients/{part} is missing"
    );
    if !installed {
        println!("not run: `make test-clients` installs infra/clients/{part}");
    }
    installed
}

fn python(arguments: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command
        .args(arguments)
        .env("PYTHONPATH", clients().join("python-stores"));
    command
}

/// What a tool said; it must have ended well.
fn said(command: &mut Command) -> String {
    // Some of them end when they are told of certificates, of which there are none here.
    let ended = command
        .env_remove("AWS_CA_BUNDLE")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(
        ended.status.success(),
        "{command:?}: {words}{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    words
}

/// The embedded store of a running system.
struct Store {
    _ground: Ground,
    endpoint: String,
    access_key: String,
    secret_key: String,
    folder: PathBuf,
    back: PathBuf,
}

impl Store {
    fn new() -> Self {
        let ground = Ground::new(Database::Sqlite);
        let secrets = std::fs::read(ground.folder.path().join("data/secrets.json")).unwrap();
        let secrets: Value = serde_json::from_slice(&secrets).unwrap();
        let secret = |name: &str| secrets[name].as_str().unwrap().to_owned();
        let (access_key, secret_key) = (secret("s3_access_key"), secret("s3_secret_key"));
        let folder = ground.folder.path().join("names");
        for (number, name) in NAMES.iter().enumerate() {
            let path = folder.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, format!("file {number}\n").repeat(1 + number * 900)).unwrap();
        }
        // In parts.
        std::fs::write(folder.join("large.bin"), vec![7; 20 << 20]).unwrap();
        Self {
            endpoint: ground.system.ready("s3"),
            access_key,
            secret_key,
            folder,
            back: ground.folder.path().join("back"),
            _ground: ground,
        }
    }

    fn aws(&self, arguments: &[&str]) -> String {
        let all = ["-m", "awscli", "--endpoint-url", &self.endpoint, "s3"];
        let mut command = python(&[&all[..], arguments].concat());
        said(
            command
                .env("AWS_ACCESS_KEY_ID", &self.access_key)
                .env("AWS_SECRET_ACCESS_KEY", &self.secret_key)
                .env("AWS_DEFAULT_REGION", "us-east-1")
                .env("AWS_EC2_METADATA_DISABLED", "true"),
        )
    }

    fn s3cmd(&self, arguments: &[&str]) -> String {
        let program = clients().join("python-stores/bin/s3cmd");
        let host = self.endpoint.strip_prefix("http://").unwrap();
        let keys = [
            format!("--access_key={}", self.access_key),
            format!("--secret_key={}", self.secret_key),
            format!("--host={host}"),
            format!("--host-bucket={host}"),
            "--no-ssl".to_owned(),
            "--config=/dev/null".to_owned(),
        ];
        let mut all = vec![program.to_str().unwrap()];
        all.extend(keys.iter().map(String::as_str));
        all.extend(arguments);
        said(&mut python(&all))
    }

    fn rclone(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("rclone");
        said(
            command
                .args(["--config", "/dev/null", "--retries", "1"])
                .args(arguments)
                .env("RCLONE_CONFIG_STORE_TYPE", "s3")
                .env("RCLONE_CONFIG_STORE_PROVIDER", "Other")
                .env("RCLONE_CONFIG_STORE_ENDPOINT", &self.endpoint)
                .env("RCLONE_CONFIG_STORE_ACCESS_KEY_ID", &self.access_key)
                .env("RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY", &self.secret_key),
        )
    }

    fn folder(&self) -> &str {
        self.folder.to_str().unwrap()
    }

    /// Whether what came back is what was sent.
    fn came_back(&self) {
        said(
            Command::new("diff")
                .arg("-r")
                .arg(&self.folder)
                .arg(&self.back),
        );
    }

    fn lists_all(words: &str) {
        for name in NAMES.iter().chain(&["large.bin"]) {
            assert!(words.contains(name), "{name} is not in {words}");
        }
    }
}

#[test]
fn the_aws_command_lists_sends_fetches_and_removes_in_the_embedded_store() {
    if !is_installed("python-stores/.installed") {
        return;
    }
    let store = Store::new();
    assert!(store.aws(&["ls"]).trim().ends_with(" caudal"));
    store.aws(&["sync", store.folder(), "s3://caudal/aws/"]);
    Store::lists_all(&store.aws(&["ls", "--recursive", "s3://caudal/aws/"]));
    let top = store.aws(&["ls", "s3://caudal/aws/"]);
    assert!(
        top.contains("PRE deep/") && top.contains("large.bin"),
        "{top}"
    );
    let again = store.aws(&["sync", "--size-only", store.folder(), "s3://caudal/aws/"]);
    assert_eq!(again, "", "all was there");
    store.aws(&["sync", "s3://caudal/aws/", store.back.to_str().unwrap()]);
    store.came_back();
    store.aws(&["rm", "--recursive", "s3://caudal/aws/"]);
    let left = store.aws(&["ls", "s3://caudal/"]);
    assert!(!left.contains("aws/"), "{left}");
}

#[test]
fn s3cmd_lists_sends_fetches_and_removes_in_the_embedded_store() {
    if !is_installed("python-stores/.installed") {
        return;
    }
    let store = Store::new();
    assert!(store.s3cmd(&["ls"]).contains("s3://caudal"));
    let from = format!("{}/", store.folder());
    store.s3cmd(&["sync", &from, "s3://caudal/s3cmd/"]);
    Store::lists_all(&store.s3cmd(&["ls", "--recursive", "s3://caudal/s3cmd/"]));
    let back = format!("{}/", store.back.display());
    std::fs::create_dir(&store.back).unwrap();
    store.s3cmd(&["sync", "s3://caudal/s3cmd/", &back]);
    store.came_back();
    store.s3cmd(&["del", "--recursive", "--force", "s3://caudal/s3cmd/"]);
    assert_eq!(
        store.s3cmd(&["ls", "--recursive", "s3://caudal/s3cmd/"]),
        ""
    );
}

#[test]
fn rclone_lists_sends_checks_fetches_and_removes_in_the_embedded_store() {
    if !is_installed("python-stores/.installed") {
        return;
    }
    let store = Store::new();
    assert!(store.rclone(&["lsd", "store:"]).contains(" caudal"));
    store.rclone(&["sync", store.folder(), "store:caudal/rclone"]);
    Store::lists_all(&store.rclone(&["ls", "store:caudal/rclone"]));
    store.rclone(&["check", store.folder(), "store:caudal/rclone"]);
    let top = store.rclone(&["lsf", "store:caudal/rclone"]);
    assert!(
        top.contains("deep/\n") && top.contains("large.bin\n"),
        "{top}"
    );
    store.rclone(&["sync", "store:caudal/rclone", store.back.to_str().unwrap()]);
    store.came_back();
    store.rclone(&["delete", "store:caudal/rclone"]);
    assert_eq!(store.rclone(&["ls", "store:caudal/rclone"]), "");
}

/// A store of others, ended when dropped.
struct Foreign(Child);

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// A folder is taken in on a store of others; of the same folder again nothing is sent.
fn a_folder_is_taken_in(mut store: Command, port: &Port, keys: (&str, &str), verifies: bool) {
    let scratch = tempfile::TempDir::new().unwrap();
    let log = File::create(scratch.path().join("store.log")).unwrap();
    let store = store
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log)
        .current_dir(scratch.path());
    let _store = Foreign(store.spawn().unwrap());
    let address = format!("127.0.0.1:{port}");
    let runtime = Runtime::new().unwrap();
    let listens = async || std::net::TcpStream::connect(&address).is_ok();
    runtime.block_on(eventually("the store listens", listens));
    let endpoint = format!("http://{address}");
    let environment = [
        ("CAUDAL_S3_ENDPOINT", endpoint.as_str()),
        ("CAUDAL_S3_ACCESS_KEY", keys.0),
        ("CAUDAL_S3_SECRET_KEY", keys.1),
    ];
    let ground = Ground::with(Database::Sqlite, &environment);
    let found = format!("verifies={verifies}");
    let asked = async || ground.system.logged().contains(&found);
    runtime.block_on(eventually("the store was asked", asked));
    let root = ground.texts(60);
    std::fs::write(root.join("large.bin"), vec![7; 17 << 20]).unwrap();
    std::fs::write(root.join("empty.bin"), "").unwrap();
    let ingest = |root: &Path| {
        let root = root.to_str().unwrap();
        let arguments = [
            "ingest", root, "--stages", QUICK, "--output", "json", "--new",
        ];
        let ended = ground.system.caudal(&arguments).unwrap();
        (
            json(&ended)["files"]["PROCESSED"].clone(),
            String::from_utf8_lossy(&ended.stderr).into_owned(),
        )
    };
    let (processed, words) = ingest(&root);
    assert_eq!(processed, 62, "{words}");
    let (processed, words) = ingest(&root);
    assert_eq!(processed, 62, "{words}");
    assert!(words.contains("0 files sent, 62 unchanged"), "{words}");
    ground.system.verify().unwrap();
}

// It compares checksums, but no signatures: whoever has a URL could leave the checksum out.
#[test]
fn a_folder_is_taken_in_on_moto() {
    if !is_installed("python-stores/.installed") {
        return;
    }
    let port = Port::reserve().unwrap();
    let number = port.to_string();
    let moto = python(&["-m", "moto.server", "-H", "127.0.0.1", "-p", &number]);
    a_folder_is_taken_in(moto, &port, ("moto", "moto"), false);
}

#[test]
fn a_folder_is_taken_in_on_s3rver() {
    if !is_installed("stores/node_modules/.package-lock.json") {
        return;
    }
    let port = Port::reserve().unwrap();
    let mut s3rver = Command::new("node");
    s3rver
        .arg(clients().join("stores/node_modules/s3rver/bin/s3rver.js"))
        .args(["--address", "127.0.0.1", "--port", &port.to_string()])
        .args(["--directory", "."]);
    a_folder_is_taken_in(s3rver, &port, ("S3RVER", "S3RVER"), false);
}
