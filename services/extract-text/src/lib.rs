//! The extract-text stage: the text of documents, and how many pages and words they have. What parses a format made by
//! others runs in a sandbox child; plain text is decoded here.

mod encoding;
mod format;
mod handler;
mod parsers;
mod plain;
mod text;

use std::path::Path;
use std::time::Duration;

use caudal_domain::{Reason, Stage, Warning, WarningCode};
use caudal_stage::Failure;
use caudal_stage::sandbox::{Limits, Sandbox};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

pub use format::Format;
pub use parsers::PARSERS;
use parsers::{Request, TEXT_BLOB, parser_for};
use text::Extracted;

/// The artifact that holds the text.
pub const TEXT_ARTIFACT: &str = "text.txt";

/// The text's media type.
pub const TEXT_MEDIA_TYPE: &str = "text/plain; charset=utf-8";

/// What a document may cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The largest file that is read, in bytes; of plain text a bounded beginning is read whatever its size.
    pub max_file_bytes: u64,
    /// What a package may unpack to, in bytes.
    pub max_unpacked_bytes: u64,
    /// The pages of a PDF that are read; the text says nothing of those beyond.
    pub max_pages: u32,
    /// The longest text that is kept, in bytes.
    pub max_text_bytes: usize,
    /// What a sandbox child may use.
    pub sandbox: Limits,
}

impl Default for Settings {
    /// 128 MiB a file, 256 MiB unpacked, 5,000 pages, 16 MiB of text.
    fn default() -> Self {
        Self {
            max_file_bytes: 128 << 20,
            max_unpacked_bytes: 256 << 20,
            max_pages: 5_000,
            max_text_bytes: 16 << 20,
            sandbox: Limits {
                memory: 768 << 20,
                cpu: Duration::from_secs(30),
                wall: Duration::from_secs(120),
                output: 32 << 20,
            },
        }
    }
}

/// The stage's handler.
#[derive(Debug, Clone)]
pub struct ExtractText {
    sandbox: Sandbox,
    settings: Settings,
}

/// What was made of a document.
#[derive(Debug, Clone, PartialEq)]
pub struct Document {
    /// Its text, UTF-8; pages of a PDF are separated by form feeds.
    pub text: String,
    /// Format, encoding, pages, words, characters.
    pub facts: serde_json::Value,
    /// Pages, where the format has them.
    pub pages: u32,
    /// Whether there is anything in the text but white space.
    pub has_text: bool,
    /// What was not done.
    pub warnings: Vec<Warning>,
}

impl ExtractText {
    /// A handler whose children are started by `sandbox`, with the limits of `settings`.
    #[must_use]
    pub fn new(sandbox: &Sandbox, settings: Settings) -> Self {
        Self {
            sandbox: sandbox.with_limits(settings.sandbox),
            settings,
        }
    }

    /// Reads the document in the file at `input`.
    ///
    /// # Errors
    ///
    /// `UnsupportedDocument` for a media type without a reader, `CorruptDocument`, `EncryptedDocument`,
    /// `DocumentTooLarge`, and those of [`Sandbox::parse`].
    pub async fn extract(
        &self,
        media_type: &str,
        input: &Path,
        cancelled: &CancellationToken,
    ) -> Result<Document, Failure> {
        let format = Format::of(media_type).ok_or_else(|| {
            Failure::new(
                Reason::UnsupportedDocument,
                format!("no reader for {media_type}"),
            )
        })?;
        let (text, extracted) = match parser_for(format) {
            None => self.read_plain(input).await?,
            Some(parser) => {
                self.read_in_a_child(parser, media_type, input, cancelled)
                    .await?
            }
        };
        let facts = json!({
            "format": format.name(),
            "encoding": extracted.encoding,
            "pages": extracted.pages,
            "words": extracted.words,
            "characters": extracted.characters,
        });
        Ok(Document {
            facts: without_nulls(facts),
            pages: extracted.pages.unwrap_or(0),
            has_text: extracted.words > 0,
            warnings: warnings(format, &extracted),
            text,
        })
    }

    async fn read_plain(&self, input: &Path) -> Result<(String, Extracted), Failure> {
        let input = input.to_owned();
        let bound = self.settings.max_text_bytes;
        tokio::task::spawn_blocking(move || plain::read(std::fs::File::open(input)?, bound))
            .await
            .map_err(|error| Failure::new(Reason::Internal, error.to_string()))?
            .map_err(|error| Failure::new(Reason::Internal, format!("the input: {error}")))
    }

    async fn read_in_a_child(
        &self,
        parser: &str,
        media_type: &str,
        input: &Path,
        cancelled: &CancellationToken,
    ) -> Result<(String, Extracted), Failure> {
        let unreadable = |words: String| {
            Failure::new(
                Reason::Internal,
                format!("the sandbox child's answer: {words}"),
            )
        };
        let request = Request {
            media_type: media_type.to_owned(),
            max_pages: self.settings.max_pages,
            max_unpacked_bytes: self.settings.max_unpacked_bytes,
            max_text_bytes: self.settings.max_text_bytes,
        };
        let request =
            serde_json::to_value(request).map_err(|error| unreadable(error.to_string()))?;
        let parsed = self
            .sandbox
            .parse(parser, &request, input, cancelled)
            .await?;
        let extracted =
            Extracted::deserialize(&parsed.value).map_err(|error| unreadable(error.to_string()))?;
        let text = parsed
            .blobs
            .into_iter()
            .find(|(name, _)| name == TEXT_BLOB)
            .map(|(_, bytes)| bytes);
        let text = text.ok_or_else(|| unreadable("it has no text".to_owned()))?;
        let text = String::from_utf8(text).map_err(|error| unreadable(error.to_string()))?;
        Ok((text, extracted))
    }
}

fn warnings(format: Format, extracted: &Extracted) -> Vec<Warning> {
    let mut warnings = Vec::new();
    if extracted.truncated {
        warnings.push(Warning::plain(
            WarningCode::TextTruncated,
            Stage::ExtractText,
        ));
    }
    if extracted.unreadable_pages > 0 {
        let words = format!(
            "{} of {} pages could not be read; the others were.",
            extracted.unreadable_pages,
            extracted.pages.unwrap_or(0)
        );
        warnings.push(Warning::new(
            WarningCode::UnreadablePages,
            Stage::ExtractText,
            words,
        ));
    }
    if extracted.replaced {
        warnings.push(Warning::plain(
            WarningCode::ReplacedCharacters,
            Stage::ExtractText,
        ));
    }
    // Pages without a word are most likely pictures of pages. An empty text is just empty.
    if format == Format::Pdf && extracted.words == 0 && extracted.unreadable_pages == 0 {
        warnings.push(Warning::plain(WarningCode::NoTextFound, Stage::ExtractText));
    }
    warnings
}

fn without_nulls(mut facts: serde_json::Value) -> serde_json::Value {
    if let Some(facts) = facts.as_object_mut() {
        facts.retain(|_, value| !value.is_null());
    }
    facts
}
