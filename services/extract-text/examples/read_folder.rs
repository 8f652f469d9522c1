//! Reads every file of a folder as the upload and extract-text stages would, each in a child, and prints a line for each: its
//! name, type, facts, warnings or reason. With a second folder the texts are written there. At the end standard error is told
//! what the children took. With `STARTED=1` each of them is a start of this program; else one start serves all.
//!
//! `cargo run -p caudal-extract-text --example read_folder -- FOLDER [TEXTS]`

use std::path::{Path, PathBuf};
use std::time::Instant;

use caudal_domain::media_type;
use caudal_extract_text::{ExtractText, PARSERS, PREPARATIONS, Settings};
use caudal_stage::sandbox::{Limits, Sandbox, run_prepared_child_if_asked};
use tokio_util::sync::CancellationToken;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run_prepared_child_if_asked(PARSERS, PREPARATIONS);
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let folder = arguments.next().ok_or("which folder?")?;
    let texts = arguments.next();
    if let Some(texts) = &texts {
        std::fs::create_dir_all(texts)?;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let mut sandbox = Sandbox::of_this_executable(Limits::default())?;
    if std::env::var_os("STARTED").is_some() {
        sandbox = sandbox.with_children_of_one_host(0);
    }
    let settings = Settings::default().with_pdf_library(|name| std::env::var_os(name));
    let stage = ExtractText::new(&sandbox, settings);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    for file in files.into_iter().filter(|file| file.is_file()) {
        let line = runtime.block_on(read(&stage, &file, texts.as_deref()))?;
        println!("{line}");
    }
    let host = runtime.block_on(sandbox.host());
    let mut took = Took::default();
    took.add(std::process::id(), false)?;
    if let Some(host) = host {
        took.add(host, true)?;
    }
    eprintln!(
        "{} ms of CPU and {} page faults in children",
        took.ticks * 10,
        took.faults
    );
    Ok(())
}

/// What processes took, by `/proc`.
#[derive(Default)]
struct Took {
    /// Hundredths of a second of CPU.
    ticks: u64,
    faults: u64,
}

impl Took {
    /// Adds the children of a process that it has waited for, and itself if wanted.
    fn add(&mut self, pid: u32, itself: bool) -> Result<(), std::io::Error> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
        let fields: Vec<u64> = behind
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0))
            .collect();
        let [own, children] = [[7, 11, 12], [8, 13, 14]];
        for [faults, user, system] in std::iter::once(children).chain(itself.then_some(own)) {
            self.faults += fields[faults];
            self.ticks += fields[user] + fields[system];
        }
        Ok(())
    }
}

async fn read(
    stage: &ExtractText,
    file: &Path,
    texts: Option<&Path>,
) -> Result<String, std::io::Error> {
    let name = file
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let media_type = caudal_upload::sniff_bytes(&std::fs::read(file)?, &name);
    if media_type::text_reader(media_type).is_none() {
        return Ok(format!("{name}\t{media_type}\tnot read"));
    }
    let started = Instant::now();
    let read = stage
        .extract(media_type, file, &CancellationToken::new())
        .await;
    let took = started.elapsed().as_millis();
    let document = match read {
        Ok(document) => document,
        Err(failure) => {
            let reason = failure.reason.code();
            return Ok(format!(
                "{name}\t{media_type}\t{took} ms\t{reason} {}",
                failure.detail
            ));
        }
    };
    if let Some(texts) = texts {
        std::fs::write(texts.join(format!("{name}.txt")), &document.text)?;
    }
    let warnings: Vec<&str> = document
        .warnings
        .iter()
        .map(|warning| warning.code.code())
        .collect();
    Ok(format!(
        "{name}\t{media_type}\t{took} ms\t{}\t{}",
        warnings.join(" "),
        document.facts
    ))
}
