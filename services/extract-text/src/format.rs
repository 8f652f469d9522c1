//! Which reader a media type gets.

use office_oxide::DocumentFormat;

/// A document format this stage reads, told by the media type that was sniffed from the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Portable Document Format.
    Pdf,
    /// Microsoft Word, since 2007.
    Docx,
    /// Microsoft Excel, since 2007.
    Xlsx,
    /// Microsoft PowerPoint, since 2007.
    Pptx,
    /// Microsoft Word, 97 to 2003.
    Doc,
    /// Microsoft Excel, 97 to 2003.
    Xls,
    /// Microsoft PowerPoint, 97 to 2003.
    Ppt,
    /// OpenDocument: text, spreadsheet or presentation.
    OpenDocument,
    /// HTML and XHTML.
    Html,
    /// Text that is read as it stands: plain, Markdown, CSV, JSON, XML and source code. The name is the one in the facts.
    Text(&'static str),
}

impl Format {
    /// The format of a media type; parameters such as `charset` are ignored. `None` for a type that has no text to read.
    #[must_use]
    pub fn of(media_type: &str) -> Option<Self> {
        let essence = media_type
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        Some(match essence.as_str() {
            "application/pdf" => Self::Pdf,
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document" => Self::Docx,
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet" => Self::Xlsx,
            "application/vnd.openxmlformats-officedocument.presentationml.presentation" => {
                Self::Pptx
            }
            "application/msword" => Self::Doc,
            "application/vnd.ms-excel" => Self::Xls,
            "application/vnd.ms-powerpoint" => Self::Ppt,
            "application/vnd.oasis.opendocument.text"
            | "application/vnd.oasis.opendocument.spreadsheet"
            | "application/vnd.oasis.opendocument.presentation" => Self::OpenDocument,
            "text/html" | "application/xhtml+xml" => Self::Html,
            "text/markdown" => Self::Text("markdown"),
            "text/csv" | "application/csv" | "text/tab-separated-values" => Self::Text("csv"),
            "application/json" | "application/x-ndjson" => Self::Text("json"),
            "application/xml" | "text/xml" => Self::Text("xml"),
            "application/yaml"
            | "application/toml"
            | "application/javascript"
            | "application/x-sh" => Self::Text("text"),
            other if other.starts_with("text/") => Self::Text("text"),
            other if other.ends_with("+json") => Self::Text("json"),
            other if other.ends_with("+xml") && !other.starts_with("image/") => Self::Text("xml"),
            _ => return None,
        })
    }

    /// The name in the facts: `pdf`, `docx`, `markdown`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pdf => "pdf",
            Self::Docx => "docx",
            Self::Xlsx => "xlsx",
            Self::Pptx => "pptx",
            Self::Doc => "doc",
            Self::Xls => "xls",
            Self::Ppt => "ppt",
            Self::OpenDocument => "opendocument",
            Self::Html => "html",
            Self::Text(name) => name,
        }
    }

    /// What `office_oxide` calls it.
    pub(crate) fn office(self) -> Option<DocumentFormat> {
        Some(match self {
            Self::Docx => DocumentFormat::Docx,
            Self::Xlsx => DocumentFormat::Xlsx,
            Self::Pptx => DocumentFormat::Pptx,
            Self::Doc => DocumentFormat::Doc,
            Self::Xls => DocumentFormat::Xls,
            Self::Ppt => DocumentFormat::Ppt,
            Self::Pdf | Self::OpenDocument | Self::Html | Self::Text(_) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_case_do_not_matter() {
        assert_eq!(Format::of("Text/HTML; charset=utf-16"), Some(Format::Html));
    }

    #[test]
    fn what_has_no_text_has_no_format() {
        for media_type in [
            "image/png",
            "image/svg+xml",
            "application/zip",
            "application/octet-stream",
            "",
        ] {
            assert_eq!(Format::of(media_type), None, "{media_type}");
        }
    }

    #[test]
    fn unknown_text_is_still_text() {
        assert_eq!(Format::of("text/x-rust"), Some(Format::Text("text")));
        assert_eq!(
            Format::of("application/ld+json"),
            Some(Format::Text("json"))
        );
    }
}
