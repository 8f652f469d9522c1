//! The extract-text stage: the text of documents, and how many pages and words they have. What parses a format made by
//! others runs in a sandbox child; plain text is decoded here.

mod encoding;
mod handler;
mod parsers;
mod plain;
mod text;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use caudal_domain::{Reason, Stage, TextReader, Warning, WarningCode, media_type};
use caudal_stage::Failure;
use caudal_stage::sandbox::{Limits, Sandbox};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

pub use parsers::{PARSERS, PREPARATIONS, parser_for};
use parsers::{Request, TEXT_BLOB};
use text::Extracted;

/// The artifact that holds the text.
pub const TEXT_ARTIFACT: &str = "text.txt";

/// The text's media type.
pub const TEXT_MEDIA_TYPE: &str = "text/plain; charset=utf-8";

/// The environment variable that names PDFium.
pub const PDF_LIBRARY_VARIABLE: &str = "CAUDAL_PDFIUM";

/// Where `make setup` unpacks PDFium, below the working folder.
pub const DEFAULT_PDF_LIBRARY: &str = ".caudal/lib/libpdfium.so";

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
    /// PDFium, which reads PDFs where it is installed; without it they are read more slowly and less well.
    pub pdf_library: Option<PathBuf>,
    /// What a sandbox child may use.
    pub sandbox: Limits,
}

impl Settings {
    /// The same with the PDFium that `CAUDAL_PDFIUM` names, else the one that `make setup` unpacked below the working folder,
    /// where it is there.
    #[must_use]
    pub fn with_pdf_library(self, variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let library = variable(PDF_LIBRARY_VARIABLE)
            .filter(|path| !path.is_empty())
            .map_or_else(|| PathBuf::from(DEFAULT_PDF_LIBRARY), PathBuf::from);
        Self {
            // A child works in an empty folder of its own.
            pdf_library: library.canonicalize().ok(),
            ..self
        }
    }
}

impl Default for Settings {
    /// 128 MiB a file, 256 MiB unpacked, 5,000 pages, 16 MiB of text.
    fn default() -> Self {
        Self {
            max_file_bytes: 128 << 20,
            max_unpacked_bytes: 256 << 20,
            max_pages: 5_000,
            max_text_bytes: 16 << 20,
            pdf_library: None,
            sandbox: Limits {
                memory: 768 << 20,
                cpu: Duration::from_secs(30),
                wall: Duration::from_secs(240),
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
        let reader = media_type::text_reader(media_type).ok_or_else(|| {
            Failure::new(
                Reason::UnsupportedDocument,
                format!("no reader for {media_type}"),
            )
        })?;
        let (text, extracted) = match parser_for(reader) {
            None => self.read_plain(input).await?,
            Some(parser) => {
                self.read_in_a_child(parser, media_type, input, cancelled)
                    .await?
            }
        };
        let facts = facts(reader, &extracted);
        Ok(Document {
            facts,
            pages: extracted.pages.unwrap_or(0),
            has_text: extracted.words > 0,
            warnings: warnings(reader, &extracted),
            text,
        })
    }

    async fn read_plain(&self, input: &Path) -> Result<(String, Extracted), Failure> {
        let input = input.to_owned();
        let bound = self.settings.max_text_bytes;
        tokio::task::spawn_blocking(move || plain::read(std::fs::File::open(input)?, bound))
            .await
            .map_err(|error| Failure::new(Reason::Internal, error.to_string()))?
            .map_err(|error| Failure::of_temp_folder(&error))
    }

    async fn read_in_a_child(
        &self,
        parser: &str,
        media_type: &str,
        input: &Path,
        cancelled: &CancellationToken,
    ) -> Result<(String, Extracted), Failure> {
        let request = Request {
            media_type: media_type.to_owned(),
            max_pages: self.settings.max_pages,
            max_unpacked_bytes: self.settings.max_unpacked_bytes,
            max_text_bytes: self.settings.max_text_bytes,
            pdf_library: self.settings.pdf_library.clone(),
        };
        let read = self.ask_a_child(parser, &request, input, cancelled).await;
        let is_pdf = request.reader() == Some(TextReader::Pdf);
        match read {
            // What costs PDFium its child may be nothing to the other reader.
            Err(failure) if is_pdf && request.pdf_library.is_some() && is_end_of(&failure) => {
                let request = Request {
                    pdf_library: None,
                    ..request
                };
                self.ask_a_child(parser, &request, input, cancelled).await
            }
            read => read,
        }
    }

    async fn ask_a_child(
        &self,
        parser: &str,
        request: &Request,
        input: &Path,
        cancelled: &CancellationToken,
    ) -> Result<(String, Extracted), Failure> {
        let unreadable = |words: String| {
            Failure::new(
                Reason::Internal,
                format!("the sandbox child's answer: {words}"),
            )
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

/// Whether a child came to its end over a document.
fn is_end_of(failure: &Failure) -> bool {
    matches!(
        failure.reason,
        Reason::ParserCrashed | Reason::ParserOutOfMemory | Reason::ParserTimeout
    )
}

fn facts(reader: TextReader, extracted: &Extracted) -> serde_json::Value {
    let properties = &extracted.properties;
    let some = |count: u64| (count > 0).then_some(count);
    let several = |offsets: &Vec<u64>| (offsets.len() > 1).then(|| offsets.clone());
    let named = |names: &Vec<String>| (!names.is_empty()).then(|| names.clone());
    without_nulls(json!({
        "format": reader.name(),
        "encoding": extracted.encoding,
        "pages": extracted.pages,
        "sheets": named(&extracted.sheets),
        "offsets": several(&extracted.offsets),
        "words": extracted.words,
        "characters": extracted.characters,
        "control_characters": some(extracted.controls),
        "replaced_characters": some(extracted.replaced),
        "attachments": some(extracted.attachments.into()),
        "attachment_names": named(&extracted.attachment_names),
        "title": properties.title,
        "author": properties.author,
        "created": properties.created,
        "modified": properties.modified,
        "language": properties.language,
    }))
}

fn warnings(reader: TextReader, extracted: &Extracted) -> Vec<Warning> {
    let of_pages = |count: u32| format!("{count} of {} pages", extracted.pages.unwrap_or(0));
    let blank = (extracted.blank_pages > 0 && extracted.words > 0)
        .then(|| format!("{} gave no text", of_pages(extracted.blank_pages)));
    let told = [
        (WarningCode::TextTruncated, extracted.truncated, None),
        (
            WarningCode::UnreadablePages,
            extracted.unreadable_pages > 0,
            Some(format!(
                "{} could not be read; the others were.",
                of_pages(extracted.unreadable_pages)
            )),
        ),
        (
            WarningCode::NoTextOnPages,
            blank.is_some(),
            blank.map(|words| format!("{words}: they may be scans or hold only pictures.")),
        ),
        (
            WarningCode::UnreadableParts,
            extracted.unreadable_parts > 0,
            None,
        ),
        (
            WarningCode::ReplacedCharacters,
            extracted.replaced > 0,
            Some(format!(
                "{} characters could not be read and were replaced.",
                extracted.replaced
            )),
        ),
        (
            WarningCode::AttachmentsNotRead,
            extracted.attachments > 0,
            Some(format!(
                "{} attachments are named and were not read.",
                extracted.attachments
            )),
        ),
        (
            WarningCode::NoTextFound,
            extracted.words == 0 && extracted.unreadable_pages == 0,
            (reader != TextReader::Pdf).then(|| "There is not a word in it.".to_owned()),
        ),
    ];
    told.into_iter()
        .filter(|(_, applies, _)| *applies)
        .map(|(code, _, words)| match words {
            Some(words) => Warning::new(code, Stage::ExtractText, words),
            None => Warning::plain(code, Stage::ExtractText),
        })
        .collect()
}

fn without_nulls(mut facts: serde_json::Value) -> serde_json::Value {
    if let Some(facts) = facts.as_object_mut() {
        facts.retain(|_, value| !value.is_null());
    }
    facts
}
