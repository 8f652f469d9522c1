//! Which stages a file goes through: data in one place. A new stage is one more line in [`route`].

use serde::{Deserialize, Serialize};

use crate::stage::{Stage, StageSet};

/// What kind of content a file has, by its sniffed media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MediaKind {
    /// Its text can be read.
    Document,
    /// It can be decoded as an image.
    Image,
    /// It is stored, and nothing else.
    Other,
}

const DOCUMENT_TYPES: [&str; 10] = [
    "application/pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    "application/vnd.oasis.opendocument.text",
    "application/json",
    "application/x-ndjson",
    "application/xhtml+xml",
    "application/xml",
    "application/csv",
];

const IMAGE_TYPES: [&str; 7] = [
    "image/png",
    "image/jpeg",
    "image/gif",
    "image/webp",
    "image/bmp",
    "image/x-ms-bmp",
    "image/tiff",
];

/// Text that is markup of a program's own rather than something to read.
const TEXT_TYPES_NOT_READ: [&str; 1] = ["text/rtf"];

impl MediaKind {
    /// The kind of a media type; case and parameters (`; charset=…`) do not matter. Everything under `text/` is a
    /// document, an image of a format that is not decoded is `Other`.
    #[must_use]
    pub fn of(media_type: &str) -> Self {
        let essence = media_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let essence = essence.as_str();
        if TEXT_TYPES_NOT_READ.contains(&essence) {
            return Self::Other;
        }
        if essence.starts_with("text/") || DOCUMENT_TYPES.contains(&essence) {
            return Self::Document;
        }
        if IMAGE_TYPES.contains(&essence) {
            return Self::Image;
        }
        Self::Other
    }

    /// The name, upper case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Document => "DOCUMENT",
            Self::Image => "IMAGE",
            Self::Other => "OTHER",
        }
    }
}

/// The stages of a kind of file, in order. Between upload and metadata each stage works on what the one before made.
#[must_use]
pub const fn route(kind: MediaKind) -> &'static [Stage] {
    match kind {
        MediaKind::Document => &[
            Stage::Upload,
            Stage::ExtractText,
            Stage::Embeddings,
            Stage::Metadata,
        ],
        MediaKind::Image => &[
            Stage::Upload,
            Stage::ImageProcessing,
            Stage::Embeddings,
            Stage::Metadata,
        ],
        MediaKind::Other => &[Stage::Upload, Stage::Metadata],
    }
}

/// What is known when a stage's result has been recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorded<'a> {
    /// The stage that was recorded.
    pub stage: Stage,
    /// The sniffed media type: from the upload stage only; it decides the route there. None is an unknown type.
    pub media_type: Option<&'a str>,
    /// Whether extract-text or image-processing made text that can be embedded.
    pub has_text: bool,
}

/// Where the file goes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The next stage; none after metadata.
    pub next: Option<Stage>,
    /// Stages that the batch's options leave out between here and `next`, in order; each is recorded as skipped.
    pub skipped: Vec<Stage>,
}

/// Decides the next stage. One that was not asked for is skipped, and so is one that would have worked on its result.
/// Where there is no text, embeddings is passed over without being called skipped: nobody left it out.
#[must_use]
pub fn next_hop(recorded: &Recorded<'_>, asked: StageSet) -> Hop {
    let mut skipped = Vec::new();
    let mut input_left_out = false;
    for stage in stages_after(recorded) {
        if input_left_out && stage != Stage::Metadata || !asked.contains(stage) {
            skipped.push(stage);
            input_left_out = true;
            continue;
        }
        let nothing_to_embed = stage == Stage::Embeddings && !recorded.has_text;
        if nothing_to_embed {
            continue;
        }
        return Hop {
            next: Some(stage),
            skipped,
        };
    }
    Hop {
        next: None,
        skipped,
    }
}

fn stages_after(recorded: &Recorded<'_>) -> impl Iterator<Item = Stage> + use<> {
    let kind = match recorded.stage {
        Stage::Upload => recorded.media_type.map_or(MediaKind::Other, MediaKind::of),
        Stage::ImageProcessing => MediaKind::Image,
        // Past extract-text, and from embeddings on, the routes of documents and images are the same.
        Stage::ExtractText | Stage::Embeddings | Stage::Metadata => MediaKind::Document,
    };
    let here = recorded.stage;
    route(kind)
        .iter()
        .copied()
        .skip_while(move |stage| *stage != here)
        .skip(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PDF: &str = "application/pdf";
    const PNG: &str = "image/png";
    const ZIP: &str = "application/zip";

    fn after(stage: Stage, media_type: Option<&str>, has_text: bool, asked: StageSet) -> Hop {
        let recorded = Recorded {
            stage,
            media_type,
            has_text,
        };
        next_hop(&recorded, asked)
    }

    fn hop(next: Option<Stage>, skipped: &[Stage]) -> Hop {
        Hop {
            next,
            skipped: skipped.to_vec(),
        }
    }

    /// The stages that run and those that are skipped, from upload to the end.
    fn walk(media_type: &str, has_text: bool, asked: StageSet) -> (Vec<Stage>, Vec<Stage>) {
        let mut ran = vec![Stage::Upload];
        let mut skipped = Vec::new();
        let mut here = Stage::Upload;
        loop {
            let sniffed = (here == Stage::Upload).then_some(media_type);
            let hop = after(here, sniffed, has_text, asked);
            skipped.extend(hop.skipped);
            let Some(next) = hop.next else {
                return (ran, skipped);
            };
            ran.push(next);
            here = next;
            assert!(ran.len() <= Stage::ALL.len(), "the route goes in a circle");
        }
    }

    #[test]
    fn each_kind_goes_its_own_route() {
        use Stage::{Embeddings, ExtractText, ImageProcessing, Metadata, Upload};
        let all = StageSet::all();
        let nothing = Vec::new();
        assert_eq!(
            walk(PDF, true, all),
            (
                vec![Upload, ExtractText, Embeddings, Metadata],
                nothing.clone()
            )
        );
        assert_eq!(
            walk(PNG, true, all),
            (
                vec![Upload, ImageProcessing, Embeddings, Metadata],
                nothing.clone()
            )
        );
        assert_eq!(walk(ZIP, true, all), (vec![Upload, Metadata], nothing));
        assert_eq!(
            after(Upload, None, false, all),
            hop(Some(Metadata), &[]),
            "an unknown type is stored"
        );
    }

    #[test]
    fn an_image_without_a_caption_passes_embeddings_over_silently() {
        let found = after(Stage::ImageProcessing, None, false, StageSet::all());
        assert_eq!(found, hop(Some(Stage::Metadata), &[]));
    }

    #[test]
    fn a_stage_whose_input_was_left_out_is_left_out_too() -> Result<(), crate::UnknownStage> {
        let asked = StageSet::parse(["embeddings"])?;
        let both = [Stage::ExtractText, Stage::Embeddings];
        assert_eq!(
            after(Stage::Upload, Some(PDF), false, asked),
            hop(Some(Stage::Metadata), &both)
        );
        let image_only = StageSet::parse(["image-processing"])?;
        assert_eq!(
            after(Stage::ImageProcessing, None, true, image_only),
            hop(Some(Stage::Metadata), &[Stage::Embeddings])
        );
        Ok(())
    }

    #[test]
    fn the_route_of_every_kind_begins_with_upload_ends_with_metadata_and_repeats_nothing() {
        for kind in [MediaKind::Document, MediaKind::Image, MediaKind::Other] {
            let stages = route(kind);
            assert_eq!(stages.first(), Some(&Stage::Upload));
            assert_eq!(stages.last(), Some(&Stage::Metadata));
            for (index, stage) in stages.iter().enumerate() {
                assert!(!stages[..index].contains(stage));
            }
        }
    }

    #[test]
    fn kinds_are_told_by_type_whatever_its_case_and_parameters() {
        for (media_type, kind) in [
            ("text/plain; charset=iso-8859-1", MediaKind::Document),
            ("Text/CSV", MediaKind::Document),
            ("text/markdown", MediaKind::Document),
            ("application/JSON", MediaKind::Document),
            ("image/JPEG", MediaKind::Image),
            ("image/svg+xml", MediaKind::Other),
            ("image/heic", MediaKind::Other),
            ("text/rtf", MediaKind::Other),
            ("application/octet-stream", MediaKind::Other),
            ("", MediaKind::Other),
            (";;", MediaKind::Other),
        ] {
            assert_eq!(MediaKind::of(media_type), kind, "{media_type}");
        }
    }

    proptest! {
        #[test]
        fn every_file_reaches_metadata_and_each_stage_of_its_route_runs_or_is_accounted_for(
            bits in any::<u8>(),
            has_text in any::<bool>(),
            media_type in prop::sample::select(vec![PDF, PNG, ZIP])
        ) {
            let asked = StageSet::from_bits(bits);
            let (ran, skipped) = walk(media_type, has_text, asked);
            prop_assert_eq!(ran.last(), Some(&Stage::Metadata));
            for stage in &ran {
                prop_assert!(asked.contains(*stage));
                prop_assert!(!skipped.contains(stage));
            }
            for stage in route(MediaKind::of(media_type)) {
                let silent = *stage == Stage::Embeddings && !has_text;
                prop_assert!(ran.contains(stage) || skipped.contains(stage) || silent);
            }
        }
    }
}
