//! What became of a processed file, and what was not done to it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::language::Language;
use crate::media_kind::MediaKind;
use crate::stage::Stage;

/// How much of what was asked for was done to a PROCESSED file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum Outcome {
    /// All of it.
    Complete = 1,
    /// Some of it could not be done: the warnings say what.
    Partial = 2,
    /// Its type has no route: it is kept, and nothing more.
    StoredOnly = 3,
}

impl Outcome {
    /// Every outcome, in the order of the codes.
    pub const ALL: [Self; 3] = [Self::Complete, Self::Partial, Self::StoredOnly];

    /// Judges a file by its kind and by the warnings of the stages that ran. What the batch's options left out gives no
    /// warning, so it takes nothing away.
    #[must_use]
    pub fn judge(kind: MediaKind, warnings: &[Warning]) -> Self {
        if kind == MediaKind::Other {
            return Self::StoredOnly;
        }
        if warnings.iter().any(|warning| warning.code.makes_partial()) {
            return Self::Partial;
        }
        Self::Complete
    }

    /// The stable number.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The outcome with this number.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.code() == code)
    }

    /// The name on the wire and in the table, upper case.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Complete => "COMPLETE",
            Self::Partial => "PARTIAL",
            Self::StoredOnly => "STORED_ONLY",
        }
    }

    /// The outcome with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|outcome| outcome.name() == name)
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Something that was not done, or not wholly, and does not fail the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Which kind.
    pub code: WarningCode,
    /// The stage that says so.
    pub stage: Stage,
    /// What a person reads, with the particulars of this file.
    pub words: String,
}

impl Warning {
    /// A warning with words of its own, such as which pages could not be read.
    #[must_use]
    pub fn new(code: WarningCode, stage: Stage, words: impl Into<String>) -> Self {
        Self {
            code,
            stage,
            words: words.into(),
        }
    }

    /// A warning with the catalogue's English words.
    #[must_use]
    pub fn plain(code: WarningCode, stage: Stage) -> Self {
        Self::new(code, stage, code.words(Language::En))
    }
}

/// The kinds of warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WarningCode {
    /// No caption provider is configured.
    NoCaptionProvider,
    /// No provider for text embeddings is configured.
    NoEmbeddingProvider,
    /// No provider for image embeddings is configured.
    NoImageEmbeddingProvider,
    /// The caption provider would not describe the picture.
    CaptionRefused,
    /// The image embedding provider would not take the picture.
    ImageEmbeddingRefused,
    /// The text was cut at its limit.
    TextTruncated,
    /// Some pages could not be read.
    UnreadablePages,
    /// Some sheets, slides or other parts could not be read.
    UnreadableParts,
    /// A document without any text, such as a scan.
    NoTextFound,
    /// Some pages gave no text, though something is on them.
    NoTextOnPages,
    /// What is attached to a mail was not read.
    AttachmentsNotRead,
    /// Some bytes were no text in the encoding found, and were replaced.
    ReplacedCharacters,
    /// Only the first chunks were embedded.
    EmbeddingsTruncated,
    /// Some of the text is in no language that the model knows.
    TextNotUnderstood,
    /// Only the first frame or page of several was looked at.
    FirstFrameOnly,
    /// A part of the picture is missing.
    PartialImage,
    /// The camera's data could not be read.
    UnreadableExif,
    /// The content is not of the type that the name or the sender says.
    MediaTypeDiffers,
}

impl WarningCode {
    /// Every code.
    pub const ALL: [Self; 18] = [
        Self::NoCaptionProvider,
        Self::NoEmbeddingProvider,
        Self::NoImageEmbeddingProvider,
        Self::CaptionRefused,
        Self::ImageEmbeddingRefused,
        Self::TextTruncated,
        Self::UnreadablePages,
        Self::UnreadableParts,
        Self::NoTextFound,
        Self::NoTextOnPages,
        Self::AttachmentsNotRead,
        Self::ReplacedCharacters,
        Self::EmbeddingsTruncated,
        Self::TextNotUnderstood,
        Self::FirstFrameOnly,
        Self::PartialImage,
        Self::UnreadableExif,
        Self::MediaTypeDiffers,
    ];

    /// The code on the wire and in facts.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::NoCaptionProvider => "NO_CAPTION_PROVIDER",
            Self::NoEmbeddingProvider => "NO_EMBEDDING_PROVIDER",
            Self::NoImageEmbeddingProvider => "NO_IMAGE_EMBEDDING_PROVIDER",
            Self::CaptionRefused => "CAPTION_REFUSED",
            Self::ImageEmbeddingRefused => "IMAGE_EMBEDDING_REFUSED",
            Self::TextTruncated => "TEXT_TRUNCATED",
            Self::UnreadablePages => "UNREADABLE_PAGES",
            Self::UnreadableParts => "UNREADABLE_PARTS",
            Self::NoTextFound => "NO_TEXT_FOUND",
            Self::NoTextOnPages => "NO_TEXT_ON_PAGES",
            Self::AttachmentsNotRead => "ATTACHMENTS_NOT_READ",
            Self::ReplacedCharacters => "REPLACED_CHARACTERS",
            Self::EmbeddingsTruncated => "EMBEDDINGS_TRUNCATED",
            Self::TextNotUnderstood => "TEXT_NOT_UNDERSTOOD",
            Self::FirstFrameOnly => "FIRST_FRAME_ONLY",
            Self::PartialImage => "PARTIAL_IMAGE",
            Self::UnreadableExif => "UNREADABLE_EXIF",
            Self::MediaTypeDiffers => "MEDIA_TYPE_DIFFERS",
        }
    }

    /// The warning with this code.
    #[must_use]
    pub fn from_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|warning| warning.code() == code)
    }

    /// Whether something that was asked for is missing because of it; the others only inform.
    #[must_use]
    pub const fn makes_partial(self) -> bool {
        match self {
            Self::NoCaptionProvider
            | Self::NoEmbeddingProvider
            | Self::NoImageEmbeddingProvider
            | Self::CaptionRefused
            | Self::ImageEmbeddingRefused
            | Self::TextTruncated
            | Self::UnreadablePages
            | Self::UnreadableParts
            | Self::NoTextFound
            | Self::NoTextOnPages
            | Self::AttachmentsNotRead
            | Self::ReplacedCharacters
            | Self::EmbeddingsTruncated
            | Self::TextNotUnderstood
            | Self::FirstFrameOnly
            | Self::PartialImage => true,
            Self::UnreadableExif | Self::MediaTypeDiffers => false,
        }
    }

    /// What a person reads.
    #[must_use]
    pub const fn words(self, language: Language) -> &'static str {
        let (english, spanish) = match self {
            Self::NoCaptionProvider => (
                "No caption was written: no caption provider is set up.",
                "No se escribió ninguna descripción: no hay proveedor de descripciones configurado.",
            ),
            Self::NoEmbeddingProvider => (
                "The text cannot be searched by meaning: no embedding provider is set up.",
                "El texto no se puede buscar por significado: no hay proveedor de vectores configurado.",
            ),
            Self::NoImageEmbeddingProvider => (
                "The image cannot be searched by likeness: no image embedding provider is set up.",
                "La imagen no se puede buscar por parecido: no hay proveedor de vectores de imagen configurado.",
            ),
            Self::CaptionRefused => (
                "No caption was written: the caption provider refused this picture.",
                "No se escribió ninguna descripción: el proveedor de descripciones rechazó esta imagen.",
            ),
            Self::ImageEmbeddingRefused => (
                "The image cannot be searched by likeness: the image embedding provider refused it.",
                "La imagen no se puede buscar por parecido: el proveedor de vectores de imagen la rechazó.",
            ),
            Self::TextTruncated => (
                "The text was very long: only its beginning was kept.",
                "El texto era muy largo: solo se guardó el principio.",
            ),
            Self::UnreadablePages => (
                "Some pages could not be read; the others were.",
                "Algunas páginas no se pudieron leer; las demás sí.",
            ),
            Self::UnreadableParts => (
                "Some parts of the file could not be read; the others were.",
                "Algunas partes del archivo no se pudieron leer; las demás sí.",
            ),
            Self::NoTextFound => (
                "No text was found: the document may be a scan or hold only pictures.",
                "No se encontró texto: puede que el documento esté escaneado o solo tenga imágenes.",
            ),
            Self::NoTextOnPages => (
                "Some pages gave no text: they may be scans or hold only pictures.",
                "Algunas páginas no dieron texto: puede que estén escaneadas o solo tengan imágenes.",
            ),
            Self::AttachmentsNotRead => (
                "What is attached is named and was not read.",
                "Los archivos adjuntos se nombran y no se leyeron.",
            ),
            Self::ReplacedCharacters => (
                "Some characters could not be read and were replaced.",
                "Algunos caracteres no se pudieron leer y se reemplazaron.",
            ),
            Self::EmbeddingsTruncated => (
                "The text was very long: only its beginning can be searched by meaning.",
                "El texto era muy largo: solo el principio se puede buscar por significado.",
            ),
            Self::TextNotUnderstood => (
                "Much of the text, or of a part of it, is in no language that the model knows: it cannot be found by its meaning.",
                "Gran parte del texto, o de una parte de él, está en un idioma que el modelo no conoce: no se puede encontrar por su significado.",
            ),
            Self::FirstFrameOnly => (
                "The image has several frames or pages: only the first was looked at.",
                "La imagen tiene varios fotogramas o páginas: solo se examinó el primero.",
            ),
            Self::PartialImage => (
                "Part of the picture is missing or damaged; the rest is shown.",
                "Falta una parte de la imagen o está dañada; se muestra el resto.",
            ),
            Self::UnreadableExif => (
                "The data that the camera wrote could not be read.",
                "No se pudieron leer los datos que escribió la cámara.",
            ),
            Self::MediaTypeDiffers => (
                "The content is of another type than its name says; it was treated by its content.",
                "El contenido es de otro tipo que el que indica su nombre; se trató según su contenido.",
            ),
        };
        match language {
            Language::En => english,
            Language::Es => spanish,
        }
    }
}

impl fmt::Display for WarningCode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.code())
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use super::*;

    fn warning(code: WarningCode) -> Warning {
        Warning::plain(code, Stage::Metadata)
    }

    #[test]
    fn what_is_missing_makes_partial_and_what_only_informs_does_not() {
        assert_eq!(Outcome::judge(MediaKind::Document, &[]), Outcome::Complete);
        for code in WarningCode::ALL {
            let expected = if code.makes_partial() {
                Outcome::Partial
            } else {
                Outcome::Complete
            };
            let warnings = [warning(WarningCode::MediaTypeDiffers), warning(code)];
            assert_eq!(Outcome::judge(MediaKind::Image, &warnings), expected);
            assert_eq!(
                Outcome::judge(MediaKind::Other, &warnings),
                Outcome::StoredOnly
            );
        }
    }

    #[test]
    fn codes_are_unique_and_equal_their_json() {
        for (index, code) in WarningCode::ALL.into_iter().enumerate() {
            assert_eq!(WarningCode::from_code(code.code()), Some(code));
            assert!(!WarningCode::ALL[..index].contains(&code));
            let json = serde_json::to_string(&code).unwrap();
            assert_eq!(json, format!("\"{code}\""));
            for language in Language::ALL {
                assert!(code.words(language).ends_with('.'));
            }
            assert_ne!(code.words(Language::En), code.words(Language::Es));
        }
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::from_code(outcome.code()), Some(outcome));
            assert_eq!(Outcome::from_name(outcome.name()), Some(outcome));
            let json = serde_json::to_string(&outcome).unwrap();
            assert_eq!(json, format!("\"{outcome}\""));
        }
    }

    #[test]
    fn a_warning_travels_as_json() {
        let warning = Warning::new(
            WarningCode::UnreadablePages,
            Stage::ExtractText,
            "pages 3 and 9 could not be read",
        );
        let json = serde_json::to_value(&warning).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "code": "UNREADABLE_PAGES",
                "stage": "extract-text",
                "words": "pages 3 and 9 could not be read"
            })
        );
        assert_eq!(serde_json::from_value::<Warning>(json).unwrap(), warning);
    }
}
