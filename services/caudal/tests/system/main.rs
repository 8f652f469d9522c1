//! The whole system, as a person or a script runs it.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod attacks;
mod bad_store;
mod bad_verb;
mod clients;
mod corpus;
mod door;
mod foreign;
mod full_disk;
mod landing;
mod operators;
mod page;
mod pictures;
mod provider;
mod raw;
mod recovery;
mod refusals;
mod resume;
mod samples;
mod temp_folder;
mod tls;
mod tus;
#[path = "../tus_wire/mod.rs"]
mod tus_wire;

use std::path::{Path, PathBuf};
use std::process::Output;

use caudal_harness::{Database, Postgres, System};
use serde_json::Value;
use tempfile::TempDir;

/// Stages that need no model: quick on any machine.
const QUICK: &str = "upload,extract-text,metadata";

struct Ground {
    folder: TempDir,
    system: System,
}

impl Ground {
    fn new(database: Database) -> Self {
        Self::with(database, &[])
    }

    fn with(database: Database, environment: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let url;
        let mut options = Vec::new();
        if let Database::Postgres = database {
            url = Postgres::new_database().unwrap();
            options.extend(["--database-url", &url]);
        }
        let data = folder.path().join("data");
        let system = System::start_in(binary(), &data, &options, environment).unwrap();
        Self { folder, system }
    }

    /// A folder of small texts, nested, to be taken in.
    fn texts(&self, count: usize) -> PathBuf {
        texts_in(self.folder.path(), count)
    }
}

/// A folder of small texts, nested, in another.
fn texts_in(folder: &Path, count: usize) -> PathBuf {
    let root = folder.join("texts");
    for number in 0..count {
        let folder = root.join(format!("{}/{}", number % 7, number % 3));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(
            folder.join(format!("{number}.txt")),
            format!("gauge {number}: the river is high\n"),
        )
        .unwrap();
    }
    root
}

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_caudal"))
}

/// The one JSON object a command ends with.
fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let words = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}{words}"))
}
