//! The table of types: what a content is called, who reads it, and which endings of a name promise it. What has no reader is
//! stored and nothing else.

/// Who reads the content of a type, and so which stages it goes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Its text is read.
    Text(TextReader),
    /// It is decoded as a picture.
    Picture,
    /// It is stored, and nothing else.
    Stored,
}

/// A reader of text. Types that one reader takes are alike to everybody behind the upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextReader {
    /// Portable Document Format.
    Pdf,
    /// Microsoft Word, since 2007.
    Docx,
    /// Microsoft Excel, since 2007; the binary workbook too.
    Xlsx,
    /// Microsoft PowerPoint, since 2007.
    Pptx,
    /// Microsoft Word, to 2003.
    Doc,
    /// Microsoft Excel, to 2003.
    Xls,
    /// Microsoft PowerPoint, to 2003.
    Ppt,
    /// An office document of any kind under a password: who reads it says so.
    LockedOffice,
    /// OpenDocument: text, spreadsheet, presentation or drawing.
    OpenDocument,
    /// A book of pages of XHTML.
    Epub,
    /// HTML and XHTML.
    Html,
    /// Rich Text Format.
    Rtf,
    /// A mail, or a page saved as one.
    Mail,
    /// A mail as Outlook saves it.
    OutlookMail,
    /// The words in a drawing.
    Svg,
    /// Text that is read as it stands. The name is the one in the facts.
    Plain(&'static str),
}

impl TextReader {
    /// Every reader; of those of plain text one.
    pub const ALL: [Self; 16] = [
        Self::Pdf,
        Self::Docx,
        Self::Xlsx,
        Self::Pptx,
        Self::Doc,
        Self::Xls,
        Self::Ppt,
        Self::LockedOffice,
        Self::OpenDocument,
        Self::Epub,
        Self::Html,
        Self::Rtf,
        Self::Mail,
        Self::OutlookMail,
        Self::Svg,
        Self::Plain("text"),
    ];

    /// The name in the facts: `pdf`, `docx`, `markdown`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pdf => "pdf",
            Self::Docx => "docx",
            Self::Xlsx => "xlsx",
            Self::Pptx => "pptx",
            Self::Doc => "doc",
            Self::Xls => "xls",
            Self::Ppt => "ppt",
            Self::LockedOffice => "locked",
            Self::OpenDocument => "opendocument",
            Self::Epub => "epub",
            Self::Html => "html",
            Self::Rtf => "rtf",
            Self::Mail => "mail",
            Self::OutlookMail => "msg",
            Self::Svg => "svg",
            Self::Plain(name) => name,
        }
    }
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaType {
    /// The name, lower case and without parameters.
    pub name: &'static str,
    /// Who reads it.
    pub reading: Reading,
    /// The endings of names that promise it, lower case. The first row of several with one ending is what a name means.
    pub endings: &'static [&'static str],
}

/// Nothing is known of the bytes.
pub const UNKNOWN: &str = "application/octet-stream";
/// There are no bytes.
pub const EMPTY: &str = "application/x-empty";
/// Portable Document Format.
pub const PDF: &str = "application/pdf";
/// Microsoft Word, since 2007.
pub const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
/// Microsoft Excel, since 2007.
pub const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
/// The binary workbook of Microsoft Excel.
pub const XLSB: &str = "application/vnd.ms-excel.sheet.binary.macroenabled.12";
/// Microsoft PowerPoint, since 2007.
pub const PPTX: &str = "application/vnd.openxmlformats-officedocument.presentationml.presentation";
/// Microsoft Word, to 2003.
pub const DOC: &str = "application/msword";
/// Microsoft Excel, to 2003.
pub const XLS: &str = "application/vnd.ms-excel";
/// Microsoft PowerPoint, to 2003.
pub const PPT: &str = "application/vnd.ms-powerpoint";
/// A mail as Outlook saves it.
pub const MSG: &str = "application/vnd.ms-outlook";
/// An office document under a password.
pub const LOCKED_OFFICE: &str = "application/x-encrypted-office";
/// The container of the old office formats, of no kind that is known.
pub const OLE: &str = "application/x-ole-storage";
/// OpenDocument text.
pub const ODT: &str = "application/vnd.oasis.opendocument.text";
/// OpenDocument spreadsheet.
pub const ODS: &str = "application/vnd.oasis.opendocument.spreadsheet";
/// OpenDocument presentation.
pub const ODP: &str = "application/vnd.oasis.opendocument.presentation";
/// OpenDocument drawing.
pub const ODG: &str = "application/vnd.oasis.opendocument.graphics";
/// A book.
pub const EPUB: &str = "application/epub+zip";
/// A zip archive.
pub const ZIP: &str = "application/zip";
/// Rich Text Format.
pub const RTF: &str = "text/rtf";
/// A mail.
pub const MAIL: &str = "message/rfc822";
/// A page saved with all that belongs to it.
pub const MHTML: &str = "multipart/related";
/// HTML.
pub const HTML: &str = "text/html";
/// XHTML.
pub const XHTML: &str = "application/xhtml+xml";
/// XML of no kind that is known.
pub const XML: &str = "application/xml";
/// A drawing.
pub const SVG: &str = "image/svg+xml";
/// JPEG 2000 in a file of boxes.
pub const JP2: &str = "image/jp2";
/// The data of JPEG 2000 without such a file.
pub const JPEG_2000_DATA: &str = "image/j2c";
/// Text of no kind that is known.
pub const PLAIN: &str = "text/plain";
/// A table, its fields parted by commas or the like.
pub const CSV: &str = "text/csv";
/// One value of JSON.
pub const JSON: &str = "application/json";
/// Several values of JSON.
pub const JSON_LINES: &str = "application/x-ndjson";

const fn text(
    name: &'static str,
    reader: TextReader,
    endings: &'static [&'static str],
) -> MediaType {
    MediaType {
        name,
        reading: Reading::Text(reader),
        endings,
    }
}

const fn plain(name: &'static str, endings: &'static [&'static str]) -> MediaType {
    text(name, TextReader::Plain("text"), endings)
}

const fn picture(name: &'static str, endings: &'static [&'static str]) -> MediaType {
    MediaType {
        name,
        reading: Reading::Picture,
        endings,
    }
}

const fn stored(name: &'static str, endings: &'static [&'static str]) -> MediaType {
    MediaType {
        name,
        reading: Reading::Stored,
        endings,
    }
}

/// Every type that is told apart or read.
pub const MEDIA_TYPES: &[MediaType] = &[
    text(PDF, TextReader::Pdf, &["pdf"]),
    text(DOCX, TextReader::Docx, &["docx", "docm", "dotx", "dotm"]),
    text(XLSX, TextReader::Xlsx, &["xlsx", "xlsm", "xltx", "xltm"]),
    text(XLSB, TextReader::Xlsx, &["xlsb"]),
    text(
        PPTX,
        TextReader::Pptx,
        &["pptx", "pptm", "ppsx", "ppsm", "potx", "potm"],
    ),
    text(DOC, TextReader::Doc, &["doc", "dot"]),
    text(XLS, TextReader::Xls, &["xls", "xlt"]),
    text(PPT, TextReader::Ppt, &["ppt", "pps", "pot"]),
    text(MSG, TextReader::OutlookMail, &["msg"]),
    text(LOCKED_OFFICE, TextReader::LockedOffice, &[]),
    text(ODT, TextReader::OpenDocument, &["odt"]),
    text(ODS, TextReader::OpenDocument, &["ods"]),
    text(ODP, TextReader::OpenDocument, &["odp"]),
    text(ODG, TextReader::OpenDocument, &["odg"]),
    text(
        "application/vnd.oasis.opendocument.text-template",
        TextReader::OpenDocument,
        &["ott"],
    ),
    text(
        "application/vnd.oasis.opendocument.spreadsheet-template",
        TextReader::OpenDocument,
        &["ots"],
    ),
    text(
        "application/vnd.oasis.opendocument.presentation-template",
        TextReader::OpenDocument,
        &["otp"],
    ),
    text(EPUB, TextReader::Epub, &["epub"]),
    text(RTF, TextReader::Rtf, &["rtf"]),
    text("application/rtf", TextReader::Rtf, &[]),
    text(MAIL, TextReader::Mail, &["eml"]),
    text(MHTML, TextReader::Mail, &["mht", "mhtml"]),
    text(HTML, TextReader::Html, &["html", "htm"]),
    text(XHTML, TextReader::Html, &["xhtml"]),
    text(SVG, TextReader::Svg, &["svg"]),
    text(JSON, TextReader::Plain("json"), &["json"]),
    text(JSON_LINES, TextReader::Plain("json"), &["ndjson", "jsonl"]),
    text(XML, TextReader::Plain("xml"), &["xml"]),
    text("text/xml", TextReader::Plain("xml"), &[]),
    text(CSV, TextReader::Plain("csv"), &["csv"]),
    text("application/csv", TextReader::Plain("csv"), &[]),
    text(
        "text/tab-separated-values",
        TextReader::Plain("csv"),
        &["tsv"],
    ),
    text(
        "text/markdown",
        TextReader::Plain("markdown"),
        &["md", "markdown"],
    ),
    plain(PLAIN, &["txt", "text", "log"]),
    plain("text/css", &["css"]),
    plain("text/javascript", &["js", "mjs"]),
    plain("text/calendar", &["ics"]),
    plain("text/vcard", &["vcf"]),
    plain("text/vtt", &["vtt"]),
    plain("text/x-rst", &["rst"]),
    plain("text/x-tex", &["tex"]),
    plain("text/x-python", &["py"]),
    plain("text/x-rust", &["rs"]),
    plain("text/x-c", &["c"]),
    plain("text/x-shellscript", &["sh"]),
    plain("text/x-yaml", &["yaml", "yml"]),
    plain("application/yaml", &[]),
    plain("application/toml", &["toml"]),
    plain("application/javascript", &[]),
    plain("application/x-sh", &[]),
    picture("image/png", &["png", "apng"]),
    picture("image/jpeg", &["jpg", "jpeg", "jpe"]),
    picture("image/gif", &["gif"]),
    picture("image/webp", &["webp"]),
    picture("image/bmp", &["bmp", "dib"]),
    picture("image/x-ms-bmp", &[]),
    picture("image/tiff", &["tif", "tiff"]),
    picture("image/vnd.microsoft.icon", &["ico"]),
    picture(JP2, &["jp2", "jpx", "jpf"]),
    picture(JPEG_2000_DATA, &["j2k", "j2c", "jpc"]),
    stored("image/heif", &["heic", "heif"]),
    stored("image/avif", &["avif"]),
    stored("image/jxl", &["jxl"]),
    stored("image/vnd.adobe.photoshop", &["psd"]),
    stored(OLE, &[]),
    stored("application/vnd.visio", &["vsd"]),
    stored("application/vnd.wordperfect", &["wpd"]),
    stored("application/vnd.ms-project", &["mpp"]),
    stored("application/x-msi", &["msi"]),
    stored("application/postscript", &["ps", "eps"]),
    stored(ZIP, &["zip"]),
    stored("application/gzip", &["gz", "tgz"]),
    stored("application/x-7z-compressed", &["7z"]),
    stored("video/mp4", &["mp4", "m4v"]),
    stored(EMPTY, &[]),
    stored(UNKNOWN, &[]),
];

/// A media type without its parameters (`; charset=…`), lower case.
fn essence(media_type: &str) -> String {
    let essence = media_type.split(';').next().unwrap_or_default();
    essence.trim().to_ascii_lowercase()
}

/// Who reads a media type; case and parameters do not matter. What is under `text/`, or says that it is JSON or XML inside,
/// is read as text also where the table does not know it.
#[must_use]
pub fn reading(media_type: &str) -> Reading {
    let essence = essence(media_type);
    let known = MEDIA_TYPES.iter().find(|known| known.name == essence);
    if let Some(known) = known {
        return known.reading;
    }
    let plain = |name| Reading::Text(TextReader::Plain(name));
    match essence.as_str() {
        other if other.starts_with("text/") => plain("text"),
        other if other.ends_with("+json") => plain("json"),
        other if other.ends_with("+xml") && !other.starts_with("image/") => plain("xml"),
        _ => Reading::Stored,
    }
}

/// Who reads the text of a media type; none where it has none.
#[must_use]
pub fn text_reader(media_type: &str) -> Option<TextReader> {
    match reading(media_type) {
        Reading::Text(reader) => Some(reader),
        Reading::Picture | Reading::Stored => None,
    }
}

/// The type that an ending of a name promises, without its dot, in any case.
#[must_use]
pub fn promised_by(ending: &str) -> Option<&'static MediaType> {
    let ending = ending.to_ascii_lowercase();
    MEDIA_TYPES
        .iter()
        .find(|known| known.endings.contains(&ending.as_str()))
}

/// Whether a content is what the ending of its name promises: one reader takes both. Text that no bytes tell apart is what
/// its name says.
#[must_use]
pub fn keeps_promise(promised: &MediaType, media_type: &str) -> bool {
    let found = reading(media_type);
    match (promised.reading, found) {
        // Nobody can tell these by their bytes, and what is of another kind is read in the same way.
        (
            Reading::Text(TextReader::Plain("text" | "markdown" | "csv")),
            Reading::Text(TextReader::Plain(_)),
        ) => true,
        (Reading::Text(promised), Reading::Text(found)) => {
            promised == found || found == TextReader::LockedOffice
        }
        (Reading::Picture, Reading::Picture) | (Reading::Stored, Reading::Stored) => {
            promised.name == essence(media_type)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_is_known_once_and_an_ending_means_one_type() {
        for (index, row) in MEDIA_TYPES.iter().enumerate() {
            let above = &MEDIA_TYPES[..index];
            assert_eq!(row.name, essence(row.name));
            assert!(
                above.iter().all(|other| other.name != row.name),
                "{}",
                row.name
            );
            for ending in row.endings {
                assert_eq!(promised_by(ending), Some(row), "{ending}");
                assert_eq!(*ending, ending.to_ascii_lowercase());
            }
        }
    }

    #[test]
    fn every_reader_has_a_type_that_leads_to_it() {
        for reader in TextReader::ALL {
            assert!(
                MEDIA_TYPES
                    .iter()
                    .any(|row| row.reading == Reading::Text(reader)),
                "{reader:?} is never asked for anything"
            );
        }
    }

    #[test]
    fn every_type_keeps_the_promise_of_its_own_endings() {
        for row in MEDIA_TYPES {
            assert!(keeps_promise(row, row.name), "{}", row.name);
        }
        for (ending, found, kept) in [
            ("txt", DOCX, false),
            ("txt", HTML, false),
            ("txt", JSON, true),
            ("json", PLAIN, false),
            ("json", JSON_LINES, true),
            ("doc", DOCX, false),
            ("doc", RTF, false),
            ("xls", CSV, false),
            ("docm", DOCX, true),
            ("docx", LOCKED_OFFICE, true),
            ("png", "image/jpeg", false),
            ("zip", "application/gzip", false),
            ("md", "text/markdown; charset=utf-8", true),
        ] {
            let promised = promised_by(ending);
            assert_eq!(
                promised.map(|promised| keeps_promise(promised, found)),
                Some(kept),
                "{ending} {found}"
            );
        }
    }

    #[test]
    fn unknown_text_is_still_text() {
        for (media_type, name) in [
            ("text/x-anything", "text"),
            ("Text/Markdown; charset=utf-16", "markdown"),
            ("application/ld+json", "json"),
            ("application/rss+xml", "xml"),
        ] {
            assert_eq!(text_reader(media_type), Some(TextReader::Plain(name)));
        }
        for media_type in ["image/dwg+xml", "application/x-thing", "", ";;", "text"] {
            assert_eq!(text_reader(media_type), None, "{media_type}");
        }
    }
}
