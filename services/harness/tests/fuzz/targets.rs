//! What reads bytes of strangers, each entry a target. PDFium is none: it is not ours, and runs in a child alone.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Seek as _, Write as _};

use caudal_domain::MediaKind;
use caudal_domain::media_type::{self, MEDIA_TYPES, PLAIN};
use caudal_extract_text::{ExtractText, Settings, parser_for};
use caudal_stage::sandbox::{Limits, Sandbox};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::seeds::Seed;

/// An entry of a reader.
pub(crate) struct Target {
    pub(crate) name: String,
    /// Whether it begins with this file.
    pub(crate) takes: Box<dyn Fn(&Seed) -> bool>,
    pub(crate) read: Read,
}

type Read = Box<dyn Fn(&[u8])>;

/// Less than a stage allows, so that a bound is met by small inputs.
const MAX_UNPACKED_BYTES: u64 = 32 << 20;
const MAX_TEXT_BYTES: usize = 1 << 20;
const MAX_PIXELS: u64 = 1_000_000;
const MAX_DECODED_BYTES: u64 = 64 << 20;

/// Every entry, each kind of document that there is a seed of by itself.
pub(crate) fn targets(seeds: &[Seed]) -> Vec<Target> {
    let mut targets = vec![sniffing(), plain_text(), pictures()];
    let mut reached = BTreeSet::new();
    for (name, parser) in caudal_extract_text::PARSERS {
        let read_by_it = MEDIA_TYPES.iter().filter(|media_type| {
            let reader = media_type::text_reader(media_type.name);
            reader.and_then(parser_for) == Some(name)
        });
        for media_type in read_by_it.map(|media_type| media_type.name) {
            if !seeds.iter().any(|seed| seed.media_type == media_type) {
                continue;
            }
            reached.insert(*name);
            let request = json!({
                "media_type": media_type,
                "max_pages": 100,
                "max_unpacked_bytes": MAX_UNPACKED_BYTES,
                "max_text_bytes": MAX_TEXT_BYTES,
                "pdf_library": null,
            });
            targets.push(Target {
                name: media_type.to_owned(),
                takes: Box::new(move |seed| seed.media_type == media_type),
                read: Box::new(move |bytes| {
                    // A refusal is as good as a text.
                    let _ = parser(&request, &mut file_of(bytes));
                }),
            });
        }
    }
    for (name, _) in caudal_extract_text::PARSERS {
        assert!(reached.contains(name), "there is no seed for {name}");
    }
    targets
}

/// What finds out what a file is.
fn sniffing() -> Target {
    Target {
        name: "sniffing".to_owned(),
        takes: Box::new(|_| true),
        read: Box::new(|bytes| {
            for path in ["a", "a.docx", "a.doc", "a.csv"] {
                let _ = caudal_upload::sniff_bytes(bytes, path);
            }
        }),
    }
}

/// Text of any encoding, which is read without a child.
fn plain_text() -> Target {
    let sandbox = Sandbox::of_this_executable(Limits::default()).unwrap();
    let settings = Settings {
        max_text_bytes: MAX_TEXT_BYTES,
        ..Settings::default()
    };
    let stage = ExtractText::new(&sandbox, settings);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    Target {
        name: PLAIN.to_owned(),
        takes: Box::new(|seed| seed.media_type == PLAIN),
        read: Box::new(move |bytes| {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            let never = CancellationToken::new();
            let read = stage.extract(PLAIN, file.path(), &never);
            // A panic there is told as a failure.
            if let Err(failure) = runtime.block_on(read) {
                panic!("a text was not read: {failure:?}");
            }
        }),
    }
}

fn pictures() -> Target {
    let request = json!({
        "max_pixels": MAX_PIXELS,
        "max_decoded_bytes": MAX_DECODED_BYTES,
        "thumbnail_side": 64,
        "view_sides": [32, 128],
    });
    Target {
        name: "pictures".to_owned(),
        takes: Box::new(|seed| MediaKind::of(seed.media_type) == MediaKind::Image),
        read: Box::new(move |bytes| {
            for (_, parser) in caudal_image_processing::PARSERS {
                let _ = parser(&request, &mut file_of(bytes));
            }
        }),
    }
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}
