//! Reads every file of a folder as the upload and extract-text stages would, each in a child, and prints a line for each: its
//! name, type, facts, warnings or reason. With a second folder the texts are written there.
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
    let sandbox = Sandbox::of_this_executable(Limits::default())?;
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
    Ok(())
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
