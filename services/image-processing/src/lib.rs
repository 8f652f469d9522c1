//! The image-processing stage: decodes an image in a sandbox, turns it upright, makes a thumbnail and a perceptual hash,
//! and reads what the camera wrote. Then it shows a small copy to the providers that are set up: one describes it, one makes a
//! vector of it. Without a caption provider it says so; it never invents a caption.

mod camera;
mod described;
mod handler;
mod icon;
mod jp2;
mod jpeg;
mod parser;
mod partial;
mod tiff;
mod vector;

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use caudal_domain::{Reason, Stage, Warning, WarningCode};
use caudal_stage::Failure;
use caudal_stage::sandbox::{Limits, Sandbox};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

pub use described::{Described, ImageProviders};
pub use handler::{CAPTION_ARTIFACT, VECTOR_ARTIFACT};
pub use parser::PARSERS;
use parser::{Facts, JPEG_BLOB, PARSER, PNG_BLOB, Request, view_name};

/// What an image may cost, and how large its thumbnail is.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The largest file that is decoded, in bytes.
    pub max_file_bytes: u64,
    /// The most pixels that are decoded.
    pub max_pixels: u64,
    /// The most memory that the decoded picture may take, in bytes; more than 8 bits a colour take more.
    pub max_decoded_bytes: u64,
    /// The longer side of the thumbnail, in pixels. A smaller picture is not made larger.
    pub thumbnail_side: u32,
    /// What a sandbox child may use.
    pub sandbox: Limits,
}

impl Default for Settings {
    /// 256 MiB a file, 100 megapixels in 512 MiB, thumbnails of 512 pixels.
    fn default() -> Self {
        Self {
            max_file_bytes: 256 << 20,
            max_pixels: 100_000_000,
            max_decoded_bytes: 512 << 20,
            thumbnail_side: 512,
            sandbox: Limits {
                memory: 1 << 30,
                cpu: Duration::from_secs(20),
                wall: Duration::from_secs(160),
                // The thumbnail, and two larger pictures for providers.
                output: 16 << 20,
            },
        }
    }
}

/// The stage's handler.
#[derive(Debug, Clone)]
pub struct ImageProcessing {
    sandbox: Sandbox,
    settings: Settings,
    providers: ImageProviders,
}

/// What was made of an image.
#[derive(Debug, Clone, PartialEq)]
pub struct Processed {
    /// Width, height, format, orientation, camera, perceptual hash.
    pub facts: serde_json::Value,
    /// The name of the thumbnail: `thumbnail.jpg`, or `thumbnail.png` where something shows through.
    pub thumbnail_name: &'static str,
    /// Its media type.
    pub thumbnail_type: &'static str,
    /// Its bytes.
    pub thumbnail: Vec<u8>,
    /// What is shown to providers.
    pub views: Vec<View>,
    /// What was not done.
    pub warnings: Vec<Warning>,
}

/// A picture as it is shown to providers: a JPEG, upright.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// Its longer side, at most.
    pub side: u32,
    /// Its bytes.
    pub jpeg: Bytes,
}

impl ImageProcessing {
    /// A handler whose children are started by `sandbox`, with the limits of `settings`, and which shows pictures to nobody.
    #[must_use]
    pub fn new(sandbox: &Sandbox, settings: Settings) -> Self {
        Self {
            sandbox: sandbox.with_limits(settings.sandbox),
            settings,
            providers: ImageProviders::default(),
        }
    }

    /// The same, which shows pictures to `providers`.
    #[must_use]
    pub fn with_providers(self, providers: ImageProviders) -> Self {
        Self { providers, ..self }
    }

    /// Processes the image in the file at `input`.
    ///
    /// # Errors
    ///
    /// `CorruptImage`, `UnsupportedImage`, `ImageTooLarge`, and those of [`Sandbox::parse`].
    pub async fn process(
        &self,
        input: &Path,
        cancelled: &CancellationToken,
    ) -> Result<Processed, Failure> {
        let request = Request {
            max_pixels: self.settings.max_pixels,
            max_decoded_bytes: self.settings.max_decoded_bytes,
            thumbnail_side: self.settings.thumbnail_side,
            view_sides: self.providers.sides(),
        };
        let sides = request.view_sides.clone();
        let request =
            serde_json::to_value(request).map_err(|error| unreadable_answer(&error.to_string()))?;
        let parsed = self
            .sandbox
            .parse(PARSER, &request, input, cancelled)
            .await?;

        let facts = Facts::deserialize(&parsed.value)
            .map_err(|error| unreadable_answer(&error.to_string()))?;
        let mut blobs = parsed.blobs.into_iter();
        let (thumbnail_name, thumbnail_type, thumbnail) = match blobs.next() {
            Some((name, bytes)) if name == JPEG_BLOB => (JPEG_BLOB, "image/jpeg", bytes),
            Some((name, bytes)) if name == PNG_BLOB => (PNG_BLOB, "image/png", bytes),
            _ => return Err(unreadable_answer("it has no thumbnail")),
        };
        let views = sides
            .into_iter()
            .map(|side| {
                let (name, jpeg) = blobs.next()?;
                let jpeg = Bytes::from(jpeg);
                (name == view_name(side)).then_some(View { side, jpeg })
            })
            .collect::<Option<Vec<View>>>()
            .ok_or_else(|| unreadable_answer("it lacks what is shown to providers"))?;
        let mut warnings = self.providers.missing();
        warnings.extend(warnings_of(&facts));
        Ok(Processed {
            facts: parsed.value,
            thumbnail_name,
            thumbnail_type,
            thumbnail,
            views,
            warnings,
        })
    }
}

fn warnings_of(facts: &Facts) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if let Some(missing) = facts.missing_percent {
        let words = match missing {
            0 => "The end of the file is missing or damaged; the picture is shown.".to_owned(),
            missing => format!("{missing} % of the picture are missing; the rest is shown."),
        };
        warnings.push(Warning::new(
            WarningCode::PartialImage,
            Stage::ImageProcessing,
            words,
        ));
    }
    if let Some(pages) = facts.pages {
        warnings.push(Warning::new(
            WarningCode::FirstFrameOnly,
            Stage::ImageProcessing,
            format!("It has {pages} pages: only the first was looked at."),
        ));
    } else if facts.animated {
        warnings.push(Warning::plain(
            WarningCode::FirstFrameOnly,
            Stage::ImageProcessing,
        ));
    }
    if facts.exif_unreadable {
        warnings.push(Warning::plain(
            WarningCode::UnreadableExif,
            Stage::ImageProcessing,
        ));
    }
    warnings
}

fn unreadable_answer(words: &str) -> Failure {
    Failure::new(
        Reason::Internal,
        format!("the sandbox child's answer: {words}"),
    )
}
