//! Processes every file of a folder as the stage would, each in a child, and prints a line for each: its name, warnings and
//! facts, or the reason.
//!
//! `cargo run -p caudal-image-processing --example process_folder -- FOLDER`

use std::path::PathBuf;

use caudal_image_processing::{ImageProcessing, PARSERS, Settings};
use caudal_stage::sandbox::{Limits, Sandbox, run_child_if_asked};
use tokio_util::sync::CancellationToken;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    run_child_if_asked(PARSERS);
    let folder = std::env::args_os().nth(1).ok_or("which folder?")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let sandbox = Sandbox::of_this_executable(Limits::default())?;
    let stage = ImageProcessing::new(&sandbox, Settings::default());
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.sort();
    for file in files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let processed = runtime.block_on(stage.process(&file, &CancellationToken::new()));
        match processed {
            Ok(processed) => {
                let warnings: Vec<&str> = processed
                    .warnings
                    .iter()
                    .map(|warning| warning.code.code())
                    .collect();
                println!("{name}\t{}\t{}", warnings.join(" "), processed.facts);
            }
            Err(failure) => println!("{name}\t{}\t{}", failure.reason.code(), failure.detail),
        }
    }
    Ok(())
}
