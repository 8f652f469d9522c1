//! A temp folder that is away, or no folder, in mid-batch: no file is charged for it, and everything goes on by itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use crate::provider::{begin_told, charged, metrics_of, until};
use crate::{Database, Ground, QUICK};

const FILES: usize = 1_000;
const STAGE: &str = "extract-text";

/// A folder of that name where something else can be put meanwhile.
struct Moved<'a> {
    folder: &'a Path,
    aside: PathBuf,
}

impl<'a> Moved<'a> {
    fn away(folder: &'a Path) -> Self {
        let aside = folder.with_extension("aside");
        std::fs::rename(folder, &aside).unwrap();
        Self { folder, aside }
    }

    fn back(self) {
        std::fs::rename(self.aside, self.folder).unwrap();
    }
}

#[test]
fn a_temp_folder_that_goes_away_in_mid_batch_costs_no_attempt_and_whoever_waits_is_told() {
    let folder = TempDir::new().unwrap();
    let temp = folder.path().join("temp");
    std::fs::create_dir(&temp).unwrap();
    let ground = Ground::with(Database::Sqlite, &[("TMPDIR", temp.to_str().unwrap())]);
    let root = ground.texts(FILES);
    let said = folder.path().join("said");
    let mut ingest = begin_told(&ground.system, &root, &said, QUICK);
    let said = || std::fs::read_to_string(&said).unwrap();
    let metrics = || metrics_of(&ground.system, STAGE);
    let recorded = || {
        let page = metrics();
        let line = |line: &&str| {
            line.starts_with("caudal_stage_files_total") && line.contains("verdict=\"recorded\"")
        };
        let line = page.lines().find(line);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<usize>().ok())
    };
    let waits = || {
        let page = metrics();
        let line = page.lines().find(|line| {
            line.starts_with("caudal_stage_waits{") && line.contains("for=\"temp-folder\"")
        });
        line.is_some_and(|line| line.ends_with(" 1"))
    };

    until("the batch is under way", || {
        recorded().is_some_and(|files| files > 20)
    });
    let moved = Moved::away(&temp);
    until("it waits for the temp folder", waits);
    let words = "extract-text waits: a process cannot write to its temp folder";
    until("it is told what is waited for", || said().contains(words));
    // Longer than a file would need to use up what is given back for nothing.
    std::thread::sleep(Duration::from_secs(3));
    moved.back();
    until("it goes on", || !waits());
    // In its place there is something that takes nothing, whoever asks.
    let moved = Moved::away(&temp);
    std::fs::write(&temp, "no folder").unwrap();
    let done = recorded();
    until("it waits again, or is through", || {
        waits() || recorded() == Some(FILES)
    });
    assert!(done < Some(FILES), "it was through before");
    std::fs::remove_file(&temp).unwrap();
    moved.back();

    assert!(ingest.wait().unwrap().success(), "{}", said());
    assert_eq!(charged(&metrics()), 0);
    let lines = ground.system.logged();
    let lines = lines.matches("cannot write to its temp folder: files wait");
    assert!((1..=2).contains(&lines.count()), "once a minute");
    ground.system.verify().unwrap();
}
