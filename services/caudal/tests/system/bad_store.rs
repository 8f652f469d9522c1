//! A store on bad days: requests are refused, slow, cut off at any byte, and their answers lost. Whatever becomes of them,
//! each file ends as it was on the disk, and none fails or is missing.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use caudal_harness::{S3, StoreProxy};
use caudal_sdk::{Client, v1};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Runtime;

use crate::page::{is_built, repository, run};
use crate::provider::{begin_told, charged, metrics_of, until};
use crate::{Database, Ground, QUICK, json};

const SMALL: u32 = 300;
/// The seed of the faults, unless `CAUDAL_FAULT_SEED` names another.
const SEED: u64 = 20_261_130;

/// A system whose store is behind a proxy, which lets everything pass yet.
struct Stand {
    runtime: Runtime,
    proxy: StoreProxy,
    _store: S3,
    ground: Ground,
}

impl Stand {
    fn new(environment: &[(&str, &str)]) -> Self {
        let named = std::env::var("CAUDAL_FAULT_SEED").ok();
        let seed = named.map_or(SEED, |seed| seed.parse().unwrap());
        println!("CAUDAL_FAULT_SEED={seed}");
        let runtime = Runtime::new().unwrap();
        let (store, proxy) = runtime.block_on(async {
            let store = S3::start().await.unwrap();
            let proxy = StoreProxy::start(&store.endpoint(), seed).await.unwrap();
            (store, proxy)
        });
        let endpoint = proxy.endpoint();
        let mut variables = vec![
            ("CAUDAL_S3_ENDPOINT", endpoint.as_str()),
            ("CAUDAL_S3_BUCKET", S3::BUCKET),
            ("CAUDAL_S3_ACCESS_KEY", S3::ACCESS_KEY),
            ("CAUDAL_S3_SECRET_KEY", S3::SECRET),
        ];
        variables.extend(environment);
        let ground = Ground::with(Database::Sqlite, &variables);
        Self {
            runtime,
            proxy,
            _store: store,
            ground,
        }
    }

    /// Files of every size that is sent in a way of its own.
    fn folder(&self) -> PathBuf {
        let root = self.ground.texts(SMALL as usize);
        for number in 0..12_u8 {
            let bytes = vec![number; 100_000 * usize::from(number)];
            std::fs::write(root.join(format!("medium {number}.bin")), bytes).unwrap();
        }
        // In parts.
        let large: Vec<u8> = (0..17_u32 << 20).map(|at| (at % 251) as u8).collect();
        std::fs::write(root.join("large.bin"), large).unwrap();
        root
    }

    /// Compares what the only batch holds with the disk: everything is there, as it was.
    fn compare(self, root: &Path) {
        assert!(self.proxy.faults() > 10, "{} faults", self.proxy.faults());
        self.proxy.set_bad(false);
        let mut expected = BTreeMap::new();
        read(root, "", &mut expected);
        let (gateway, key) = (
            self.ground.system.ready("gateway"),
            self.ground.system.ready("api_key"),
        );
        let files = self.runtime.block_on(async {
            let client = Client::connect(&gateway, &key).await.unwrap();
            let all = v1::ListBatchesRequest::default();
            let batches = client.list_batches(all).await.unwrap().batches;
            let [batch] = &batches[..] else {
                panic!("{batches:?}")
            };
            let mut request = v1::ListFilesRequest {
                selector: Some(v1::FileSelector {
                    batch: batch.name.clone(),
                    ..v1::FileSelector::default()
                }),
                page_size: 100,
                page_token: String::new(),
                view: v1::FileView::Full.into(),
            };
            let mut files = Vec::new();
            loop {
                let page = client.list_files(request.clone()).await.unwrap();
                files.extend(page.files);
                if page.next_page_token.is_empty() {
                    return files;
                }
                request.page_token = page.next_page_token;
            }
        });
        let mut failed = Vec::new();
        for file in &files {
            let on_disk = expected.remove(&file.path);
            let on_disk = on_disk.unwrap_or_else(|| panic!("{} is not on the disk", file.path));
            match file.state() {
                v1::FileState::Processed => assert_eq!(file.sha256, on_disk, "{}", file.path),
                v1::FileState::Failed => {
                    let reason = file.reason.clone().unwrap_or_default();
                    failed.push(format!("{}: {} {}", file.path, reason.code, reason.detail));
                }
                other => panic!("{} is {other:?}", file.path),
            }
        }
        assert!(failed.is_empty(), "{failed:#?}");
        assert!(expected.is_empty(), "missing: {:?}", expected.keys());
        self.ground.system.verify().unwrap();
    }
}

/// The checksums of what a folder holds, by path.
fn read(root: &Path, inside: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(root.join(inside)).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let path = Path::new(inside).join(name).to_str().unwrap().to_owned();
        if entry.file_type().unwrap().is_dir() {
            read(root, &path, found);
        } else {
            let bytes = std::fs::read(entry.path()).unwrap();
            found.insert(path, Sha256::digest(bytes).to_vec());
        }
    }
}

#[test]
fn what_the_command_sends_to_a_store_on_a_bad_day_arrives_as_it_was() {
    let stand = Stand::new(&[]);
    let root = stand.folder();
    stand.proxy.set_bad(true);
    let ingest = ["ingest", root.to_str().unwrap(), "--stages", QUICK];
    let ended = stand.ground.system.caudal(&ingest).unwrap();
    println!("{}", String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success());
    stand.compare(&root);
}

/// How many files of these stages were charged.
fn charged_in(stand: &Stand, stages: &[&str]) -> u64 {
    let pages = stages
        .iter()
        .map(|stage| metrics_of(&stand.ground.system, stage));
    pages.map(|page| charged(&page)).sum()
}

#[test]
fn a_store_that_asks_for_less_at_half_of_the_calls_for_45_seconds_costs_no_file_anything() {
    let stand = Stand::new(&[]);
    let root = stand.folder();
    stand.proxy.refuse(2, 503, "SlowDown");
    let said = stand.ground.folder.path().join("said");
    let mut ingest = begin_told(&stand.ground.system, &root, &said, QUICK);
    std::thread::sleep(Duration::from_secs(45));
    assert_eq!(charged_in(&stand, &["upload", "extract-text"]), 0);
    stand.proxy.set_bad(false);
    let ended = ingest.wait().unwrap();
    assert!(
        ended.success(),
        "{}",
        std::fs::read_to_string(&said).unwrap()
    );
    assert_eq!(charged_in(&stand, &["upload", "extract-text"]), 0);
    stand.compare(&root);
}

#[test]
fn keys_that_the_store_refuses_in_mid_run_cost_no_file_anything_and_whoever_sends_is_told() {
    let stand = Stand::new(&[]);
    let root = stand.folder();
    let said = stand.ground.folder.path().join("said");
    let mut ingest = begin_told(&stand.ground.system, &root, &said, QUICK);
    let said = || std::fs::read_to_string(&said).unwrap();
    let asked = Cell::new(0);
    until("some files are there", || {
        asked.set(asked.get() + stand.proxy.take_asked().len());
        asked.get() > SMALL as usize / 4
    });
    stand.proxy.refuse(1, 403, "InvalidAccessKeyId");
    until("who sends is told", || {
        said().contains("InvalidAccessKeyId")
    });
    std::thread::sleep(Duration::from_secs(8));
    assert!(ingest.try_wait().unwrap().is_none(), "{}", said());
    stand.proxy.set_bad(false);
    assert!(ingest.wait().unwrap().success(), "{}", said());
    assert_eq!(charged_in(&stand, &["upload", "extract-text"]), 0);
    stand.compare(&root);
}

#[test]
fn what_failed_for_a_store_that_is_healed_is_complete_after_the_command_that_was_offered() {
    const FILES: usize = 4;
    let stand = Stand::new(&[]);
    let root = stand.ground.texts(FILES);
    let system = &stand.ground.system;
    // No probe finds what is wrong, so the files are charged in the end.
    stand.proxy.deny_reads();
    let ingest = ["ingest", root.to_str().unwrap(), "--stages", QUICK];
    let ended = system.caudal(&ingest).unwrap();
    let said = String::from_utf8(ended.stdout).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{said}");
    stand.proxy.set_bad(false);
    let offered = said
        .lines()
        .find_map(|line| line.split_once("try again with: caudal "));
    let (_, offered) = offered.unwrap_or_else(|| panic!("nothing is offered: {said}"));
    assert!(offered.contains("STORE_UNAVAILABLE"), "{said}");
    let offered: Vec<&str> = offered.split_whitespace().collect();
    let retried = system.caudal(&offered).unwrap();
    assert!(retried.status.success(), "{retried:?}");
    let batch = offered[1];
    let watched = json(
        &system
            .caudal(&["watch", batch, "--output", "json"])
            .unwrap(),
    );
    assert_eq!(watched["outcomes"]["COMPLETE"], FILES, "{watched}");
    stand.compare(&root);
}

#[test]
fn what_the_page_sends_to_a_store_on_a_bad_day_arrives_as_it_was() {
    let web = repository().join("gateway/web");
    if !is_built(&web.join("dist/index.html")) || !is_built(&web.join("node_modules")) {
        return;
    }
    let dist = web.join("dist");
    let mut stand = Stand::new(&[("CAUDAL_WEB_DIR", dist.to_str().unwrap())]);
    let root = stand.folder();
    stand.proxy.set_bad(true);
    let mut command = Command::new("node");
    command
        .arg(web.join("browser/bad-store.mjs"))
        .env("CAUDAL_DROP_FOLDER", &root);
    let (ground, said) = run(stand.ground, command);
    println!("{}", said.join("\n"));
    stand.ground = ground;
    stand.compare(&root);
}
