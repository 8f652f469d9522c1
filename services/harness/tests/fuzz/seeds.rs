//! Where mutation begins: the generated files of every format, whole and with the faults that real files have.

use std::path::Path;
use std::process::Command;

/// A file of the corpus.
pub(crate) struct Seed {
    pub(crate) bytes: Vec<u8>,
    pub(crate) media_type: &'static str,
}

/// Larger ones cost turns, and show nothing that small ones do not.
const LARGEST: usize = 256 << 10;

pub(crate) fn seeds() -> Vec<Seed> {
    let folder = tempfile::tempdir().unwrap();
    let generator = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../infra/corpus/generate");
    let made = Command::new("python3")
        .arg(generator)
        .arg(folder.path())
        .status();
    assert!(made.unwrap().success());
    let mut seeds = Vec::new();
    add(&folder.path().join("files"), &mut seeds);
    assert!(
        seeds.len() > 150,
        "only {} files were generated",
        seeds.len()
    );
    seeds
}

fn add(folder: &Path, seeds: &mut Vec<Seed>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            add(&path, seeds);
            continue;
        }
        let bytes = std::fs::read(&path).unwrap();
        if bytes.len() <= LARGEST {
            let media_type = caudal_upload::sniff_bytes(&bytes, &path.to_string_lossy());
            seeds.push(Seed { bytes, media_type });
        }
    }
}
