//! Shows how far an ingest or a batch is: bars on a terminal, now and then a line elsewhere. All of it goes to
//! standard error; standard output is for the answer.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use caudal_sdk::ingest::Progress;
use caudal_sdk::v1;
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressStyle};

/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What is shown.
pub(crate) enum Display {
    Bars {
        all: MultiProgress,
        upload: ProgressBar,
        processing: ProgressBar,
    },
    Lines {
        next: Instant,
        last: String,
        upload: String,
        processing: String,
    },
}

impl Display {
    pub(crate) fn new() -> Self {
        if std::io::stderr().is_terminal() {
            return Self::bars();
        }
        Self::Lines {
            next: Instant::now(),
            last: String::new(),
            upload: String::new(),
            processing: String::new(),
        }
    }

    fn bars() -> Self {
        let all = MultiProgress::new();
        let upload = ProgressBar::new(0).with_style(style(
            "upload     [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {msg}",
        ));
        let processing = ProgressBar::new(0).with_style(style(
            "processing [{bar:30}] {pos}/{len} files {per_sec} {msg}",
        ));
        Self::Bars {
            upload: all.add(upload),
            processing: all.add(processing),
            all,
        }
    }

    /// The upload moved.
    pub(crate) fn upload(&mut self, progress: &Progress) {
        let more = if progress.walked { "" } else { "+" };
        match self {
            Self::Bars { upload, .. } => {
                upload.set_length(progress.found_bytes);
                upload.set_position(progress.uploaded_bytes);
                upload.set_message(format!(
                    "{}/{}{more} files",
                    progress.confirmed_files, progress.found_files
                ));
            }
            Self::Lines { upload, .. } => {
                *upload = format!(
                    "uploaded {}/{}{more} files ({} of {}{more})",
                    progress.confirmed_files,
                    progress.found_files,
                    HumanBytes(progress.uploaded_bytes),
                    HumanBytes(progress.found_bytes),
                );
                self.line(false);
            }
        }
    }

    /// The batch moved.
    pub(crate) fn batch(&mut self, batch: &v1::Batch) {
        let counts = batch.counts.unwrap_or_default();
        let done = counts.processed + counts.failed + counts.cancelled;
        let mut words = String::new();
        for (count, name) in [
            (counts.failed, "failed"),
            (counts.retrying, "retrying"),
            (counts.cancelled, "cancelled"),
        ] {
            if count > 0 {
                words.push_str(&format!("{count} {name} "));
            }
        }
        if batch.pause.is_some() {
            words.push_str("paused");
        }
        match self {
            Self::Bars { processing, .. } => {
                processing.set_length(u64::from(counts.total));
                processing.set_position(u64::from(done));
                processing.set_message(words);
            }
            Self::Lines { processing, .. } => {
                *processing = format!("processed {done}/{} files {words}", counts.total)
                    .trim_end()
                    .to_owned();
                self.line(false);
            }
        }
    }

    /// Something a person should read once.
    pub(crate) fn say(&mut self, words: &str) {
        match self {
            Self::Bars { all, .. } => {
                // When the terminal is gone nobody reads it.
                let _gone = all.println(words);
            }
            Self::Lines { .. } => say!("{words}"),
        }
    }

    /// The end: the last values stay on the screen.
    pub(crate) fn finish(&mut self) {
        match self {
            Self::Bars {
                upload, processing, ..
            } => {
                for bar in [upload, processing] {
                    if bar.length().unwrap_or_default() > 0 {
                        bar.abandon();
                    } else {
                        bar.finish_and_clear();
                    }
                }
            }
            Self::Lines { .. } => self.line(true),
        }
    }

    fn line(&mut self, now: bool) {
        let Self::Lines {
            next,
            last,
            upload,
            processing,
        } = self
        else {
            return;
        };
        if !now && Instant::now() < *next {
            return;
        }
        let parts: Vec<&str> = [upload.as_str(), processing.as_str()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect();
        let line = parts.join(", ");
        if !line.is_empty() && line != *last {
            say!("{line}");
            *last = line;
        }
        *next = Instant::now() + LINE_EVERY;
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
