//! Real and hostile documents, each read in a sandbox child of this very executable.
#![expect(clippy::unwrap_used)]

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use caudal_domain::{Reason, WarningCode};
use caudal_extract_text::{Document, ExtractText, PARSERS, Settings};
use caudal_stage::Failure;
use caudal_stage::sandbox::{Limits, Sandbox, run_child_if_asked};
use libtest_mimic::{Arguments, Trial};
use tokio_util::sync::CancellationToken;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

const PDF: &str = "application/pdf";
const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
const PPTX: &str = "application/vnd.openxmlformats-officedocument.presentationml.presentation";
const ODT: &str = "application/vnd.oasis.opendocument.text";

type Test = (&'static str, fn(&Bench));

const TESTS: &[Test] = &[
    (
        "a_pdf_gives_the_text_of_its_pages_and_their_number",
        |bench| {
            let document = bench
                .extract(PDF, &pdf_of(&["Hello river", "Second page"]))
                .unwrap();
            assert_eq!(document.facts["pages"], 2);
            assert_eq!(document.facts["format"], "pdf");
            assert_eq!(document.facts["words"], 4);
            let pages: Vec<&str> = document.text.split('\u{c}').map(str::trim).collect();
            assert_eq!(pages, ["Hello river", "Second page"]);
            assert!(document.has_text && document.warnings.is_empty());
        },
    ),
    ("a_pdf_without_words_says_that_it_may_be_a_scan", |bench| {
        let document = bench.extract(PDF, &pdf_of(&[""])).unwrap();
        assert!(!document.has_text);
        assert_eq!(document.facts["words"], 0);
        assert_eq!(codes(&document), [WarningCode::NoTextFound]);
    }),
    ("a_pdf_with_more_pages_than_allowed_is_read_in_part", |_| {
        let bench = Bench::with(&Settings {
            max_pages: 2,
            ..Settings::default()
        });
        let document = bench
            .extract(PDF, &pdf_of(&["one", "two", "three"]))
            .unwrap();
        assert_eq!(document.facts["pages"], 3);
        assert!(document.text.contains("two") && !document.text.contains("three"));
        assert_eq!(codes(&document), [WarningCode::TextTruncated]);
    }),
    (
        "a_pdf_that_asks_for_a_password_is_refused_as_such",
        |bench| {
            let failure = bench.extract(PDF, &encrypted_pdf()).unwrap_err();
            assert_eq!(
                failure.reason,
                Reason::EncryptedDocument,
                "{}",
                failure.detail
            );
        },
    ),
    ("bytes_that_only_say_pdf_are_corrupt", |bench| {
        for bytes in [b"%PDF-1.7 and then nothing of the sort".as_slice(), b""] {
            let failure = bench.extract(PDF, bytes).unwrap_err();
            assert_eq!(
                failure.reason,
                Reason::CorruptDocument,
                "{}",
                failure.detail
            );
        }
    }),
    ("a_docx_gives_its_paragraphs_tables_and_entities", |bench| {
        let document = bench.extract(DOCX, &docx(DOCX_BODY)).unwrap();
        for expected in ["El caudal del río", "Tom & Jerry", "cell one", "cell two"] {
            assert!(
                document.text.contains(expected),
                "{expected} in {:?}",
                document.text
            );
        }
        assert_eq!(document.facts["format"], "docx");
    }),
    ("an_xlsx_gives_its_cells", |bench| {
        let document = bench.extract(XLSX, &xlsx()).unwrap();
        for expected in ["station", "discharge", "42.5"] {
            assert!(
                document.text.contains(expected),
                "{expected} in {:?}",
                document.text
            );
        }
    }),
    ("a_pptx_gives_its_slides_and_their_number", |bench| {
        let document = bench
            .extract(PPTX, &pptx(&["Opening words", "Closing words"]))
            .unwrap();
        assert_eq!(document.facts["pages"], 2);
        assert!(document.text.contains("Opening words") && document.text.contains("Closing words"));
    }),
    (
        "an_odt_gives_its_paragraphs_spaces_tabs_and_tables_but_no_deletions",
        |bench| {
            let document = bench.extract(ODT, &odt(ODT_BODY, false)).unwrap();
            assert_eq!(
                document.text,
                "Título\nuno  dos\ttres\ncuatro & cinco\na \tb \t\n"
            );
            assert_eq!(document.facts["format"], "opendocument");
        },
    ),
    ("an_odt_with_a_password_is_refused_as_such", |bench| {
        assert_eq!(
            bench.extract(ODT, &odt(ODT_BODY, true)).unwrap_err().reason,
            Reason::EncryptedDocument
        );
    }),
    ("office_packages_that_are_broken_are_corrupt", |bench| {
        for media_type in [DOCX, XLSX, PPTX, ODT] {
            for bytes in [
                b"PK\x03\x04 no zip at all".as_slice(),
                &zipped(&[("other.txt", b"hello")]),
            ] {
                let failure = bench.extract(media_type, bytes).unwrap_err();
                assert_eq!(
                    failure.reason,
                    Reason::CorruptDocument,
                    "{media_type}: {}",
                    failure.detail
                );
            }
        }
    }),
    (
        "html_gives_its_words_without_marks_scripts_and_styles",
        |bench| {
            let page = "<html><head><meta charset=utf-8><title>t</title><style>p{color:red}</style></head><body>\
            <h1>Ríos</h1><script>alert(1)</script><p>El <b>caudal</b> es <a href='http://x.example/'>alto</a>.</p>\
            <ul><li>uno<li>dos</ul><table><tr><td>celda</td></tr></table><hr></body></html>";
            let document = bench.extract("text/html", page.as_bytes()).unwrap();
            for expected in ["Ríos", "El caudal es alto.", "uno", "dos", "celda"] {
                assert!(
                    document.text.contains(expected),
                    "{expected} in {:?}",
                    document.text
                );
            }
            for unexpected in ["alert", "color", "http", "─", "<"] {
                assert!(
                    !document.text.contains(unexpected),
                    "{unexpected} in {:?}",
                    document.text
                );
            }
            assert_eq!(document.facts["encoding"], "utf-8");
        },
    ),
    (
        "html_in_a_legacy_encoding_is_read_as_it_declares",
        |bench| {
            let document = bench
                .extract(
                    "text/html",
                    b"<meta charset=\"windows-1251\"><p>\xcf\xf0\xe8\xe2\xe5\xf2",
                )
                .unwrap();
            assert_eq!(document.text.trim(), "Привет");
        },
    ),
    (
        "markdown_csv_json_and_text_are_kept_as_they_stand",
        |bench| {
            for (media_type, name) in [
                ("text/markdown", "markdown"),
                ("text/csv", "csv"),
                ("application/json", "json"),
                ("text/plain; charset=us-ascii", "text"),
            ] {
                let document = bench
                    .extract(media_type, "# a,b {\"ñ\": 1}\r\n".as_bytes())
                    .unwrap();
                assert_eq!(document.text, "# a,b {\"ñ\": 1}\n");
                assert_eq!(document.facts["format"], name);
            }
        },
    ),
    ("an_empty_document_is_no_failure", |bench| {
        for (media_type, bytes) in [
            ("text/plain", Vec::new()),
            ("text/html", Vec::new()),
            (ODT, odt("", false)),
            (DOCX, docx("")),
        ] {
            let document = bench.extract(media_type, &bytes).unwrap();
            assert!(!document.has_text, "{media_type}: {:?}", document.text);
            assert_eq!(document.facts["words"], 0);
            assert!(document.warnings.is_empty());
        }
    }),
    ("a_long_text_is_cut_and_says_so", |_| {
        let bench = Bench::with(&Settings {
            max_text_bytes: 1000,
            ..Settings::default()
        });
        let words = "palabra ".repeat(1000);
        let paragraph = format!("<w:p><w:r><w:t>{words}</w:t></w:r></w:p>");
        let odt_paragraph = format!("<text:p>{words}</text:p>");
        for (media_type, bytes) in [
            ("text/plain", words.clone().into_bytes()),
            ("text/html", words.clone().into_bytes()),
            (DOCX, docx(&paragraph)),
            (ODT, odt(&odt_paragraph, false)),
        ] {
            let document = bench.extract(media_type, &bytes).unwrap();
            assert!(
                document.text.len() <= 1000 && document.text.len() > 900,
                "{media_type}"
            );
            assert_eq!(
                codes(&document),
                [WarningCode::TextTruncated],
                "{media_type}"
            );
        }
    }),
    ("a_media_type_without_a_reader_is_unsupported", |bench| {
        let failure = bench.extract("application/zip", b"PK").unwrap_err();
        assert_eq!(failure.reason, Reason::UnsupportedDocument);
    }),
    ("a_flate_bomb_costs_its_own_attempt", |bench| {
        let bomb = flate_bomb(300 << 20);
        assert!(bomb.len() < 1 << 20);
        match bench.extract(PDF, &bomb) {
            Ok(document) => assert!(!document.has_text),
            Err(failure) => assert!(
                of_a_limit(&failure),
                "{:?} {}",
                failure.reason,
                failure.detail
            ),
        }
    }),
    (
        "ten_thousand_levels_in_a_pdf_cost_its_own_attempt",
        |bench| {
            for bytes in [nested_arrays(10_000), nested_pages(10_000)] {
                if let Err(failure) = bench.extract(PDF, &bytes) {
                    assert!(
                        of_a_limit(&failure),
                        "{:?} {}",
                        failure.reason,
                        failure.detail
                    );
                }
            }
        },
    ),
    ("a_zip_bomb_is_bounded_in_every_package", |_| {
        let bench = Bench::with(&Settings {
            max_unpacked_bytes: 32 << 20,
            ..Settings::default()
        });
        let blank = " ".repeat(64 << 20);
        let bombs = [
            (
                DOCX,
                docx(&format!("<w:p><w:r><w:t>{blank}</w:t></w:r></w:p>")),
            ),
            (ODT, odt(&format!("<text:p>{blank}</text:p>"), false)),
        ];
        for (media_type, bomb) in bombs {
            assert!(bomb.len() < 1 << 20);
            let failure = bench.extract(media_type, &bomb).unwrap_err();
            assert_eq!(
                failure.reason,
                Reason::DocumentTooLarge,
                "{media_type}: {}",
                failure.detail
            );
        }
    }),
    ("deep_markup_costs_its_own_attempt", |bench| {
        let depth = 50_000;
        let page = format!("{}deep{}", "<div>".repeat(depth), "</div>".repeat(depth));
        let body = format!(
            "{}<text:p>deep</text:p>{}",
            "<text:section>".repeat(depth),
            "</text:section>".repeat(depth)
        );
        for (media_type, bytes) in [("text/html", page.into_bytes()), (ODT, odt(&body, false))] {
            match bench.extract(media_type, &bytes) {
                Ok(document) => assert_eq!(document.text.trim(), "deep"),
                Err(failure) => assert!(
                    of_a_limit(&failure),
                    "{:?} {}",
                    failure.reason,
                    failure.detail
                ),
            }
        }
    }),
    ("damaged_documents_end_with_a_reason_each_time", |bench| {
        for (media_type, whole) in [
            (PDF, pdf_of(&["Hello river"])),
            (DOCX, docx(DOCX_BODY)),
            (ODT, odt(ODT_BODY, false)),
            (XLSX, xlsx()),
        ] {
            for step in 1..8 {
                let place = step * whole.len() / 8;
                let mut damaged = whole.clone();
                damaged[place] ^= 0xff;
                for bytes in [&damaged, &whole[..place].to_vec()] {
                    if let Err(failure) = bench.extract(media_type, bytes) {
                        assert_ne!(
                            failure.reason,
                            Reason::Internal,
                            "{media_type} {place}: {}",
                            failure.detail
                        );
                    }
                }
            }
        }
    }),
    ("the_sample_documents_are_read", |bench| {
        for (path, media_type) in samples() {
            let name = path.display().to_string();
            match bench.extract(media_type, &std::fs::read(&path).unwrap()) {
                Ok(document) => println!("{name}: {}", document.facts),
                Err(failure) => {
                    println!("{name}: {:?} {}", failure.reason, failure.detail);
                    assert!(
                        matches!(
                            failure.reason,
                            Reason::CorruptDocument | Reason::EncryptedDocument
                        ),
                        "{name}: {:?} {}",
                        failure.reason,
                        failure.detail
                    );
                }
            }
        }
    }),
];

fn main() -> ExitCode {
    run_child_if_asked(PARSERS);
    let bench = Arc::new(Bench::with(&Settings::default()));
    let trials = TESTS
        .iter()
        .map(|(name, test)| {
            let bench = Arc::clone(&bench);
            Trial::test(*name, move || {
                test(&bench);
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

struct Bench {
    runtime: tokio::runtime::Runtime,
    stage: ExtractText,
    folder: tempfile::TempDir,
}

impl Bench {
    fn with(settings: &Settings) -> Self {
        let sandbox = Sandbox::of_this_executable(Limits::default()).unwrap();
        let settings = Settings {
            sandbox: Limits {
                cpu: Duration::from_secs(3),
                memory: 256 << 20,
                ..settings.sandbox
            },
            ..settings.clone()
        };
        Self {
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            stage: ExtractText::new(&sandbox, settings),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn extract(&self, media_type: &str, bytes: &[u8]) -> Result<Document, Failure> {
        let input = tempfile::NamedTempFile::new_in(self.folder.path()).unwrap();
        std::fs::write(input.path(), bytes).unwrap();
        self.runtime.block_on(self.stage.extract(
            media_type,
            input.path(),
            &CancellationToken::new(),
        ))
    }
}

fn codes(document: &Document) -> Vec<WarningCode> {
    document
        .warnings
        .iter()
        .map(|warning| warning.code)
        .collect()
}

/// Whether a hostile document was ended by something that was meant to end it.
fn of_a_limit(failure: &Failure) -> bool {
    matches!(
        failure.reason,
        Reason::CorruptDocument
            | Reason::DocumentTooLarge
            | Reason::ParserOutOfMemory
            | Reason::ParserTimeout
            | Reason::ParserCrashed
    )
}

/// A PDF of the given objects, numbered from 1, of which the first is the catalogue.
fn pdf(objects: &[Vec<u8>], trailer: &str) -> Vec<u8> {
    let mut bytes = b"%PDF-1.7\n".to_vec();
    let mut places = Vec::new();
    for (index, object) in objects.iter().enumerate() {
        places.push(bytes.len());
        bytes.extend_from_slice(format!("{} 0 obj\n", index + 1).as_bytes());
        bytes.extend_from_slice(object);
        bytes.extend_from_slice(b"\nendobj\n");
    }
    let table = bytes.len();
    bytes.extend_from_slice(
        format!("xref\n0 {}\n0000000000 65535 f \n", objects.len() + 1).as_bytes(),
    );
    for place in places {
        bytes.extend_from_slice(format!("{place:010} 00000 n \n").as_bytes());
    }
    let end = format!(
        "trailer\n<< /Size {} /Root 1 0 R {trailer} >>\nstartxref\n{table}\n%%EOF\n",
        objects.len() + 1
    );
    bytes.extend_from_slice(end.as_bytes());
    bytes
}

fn stream(dictionary: &str, bytes: &[u8]) -> Vec<u8> {
    let mut object = format!("<< {dictionary} /Length {} >>\nstream\n", bytes.len()).into_bytes();
    object.extend_from_slice(bytes);
    object.extend_from_slice(b"\nendstream");
    object
}

fn page_objects(contents: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let kids: Vec<String> = (0..contents.len())
        .map(|page| format!("{} 0 R", 4 + page * 2))
        .collect();
    let mut objects = vec![
        b"<< /Type /Catalog /Pages 2 0 R >>".to_vec(),
        format!(
            "<< /Type /Pages /Kids [{}] /Count {} >>",
            kids.join(" "),
            kids.len()
        )
        .into_bytes(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
            .to_vec(),
    ];
    for (page, content) in contents.iter().enumerate() {
        let text = format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {} 0 R /Resources << /Font << /F1 3 0 R >> >> >>",
            5 + page * 2
        );
        objects.push(text.into_bytes());
        objects.push(content.clone());
    }
    objects
}

fn pdf_of(pages: &[&str]) -> Vec<u8> {
    let contents: Vec<Vec<u8>> = pages
        .iter()
        .map(|text| {
            stream(
                "",
                format!("BT /F1 24 Tf 72 700 Td ({text}) Tj ET").as_bytes(),
            )
        })
        .collect();
    pdf(&page_objects(&contents), "")
}

/// Encrypted under a password that is not the empty one: the entries it is checked against match nothing.
fn encrypted_pdf() -> Vec<u8> {
    let mut objects = page_objects(&[stream("", b"BT /F1 24 Tf (secret) Tj ET")]);
    let (owner, user) = ("41".repeat(32), "42".repeat(32));
    objects.push(
        format!("<< /Filter /Standard /V 2 /R 3 /Length 128 /P -44 /O <{owner}> /U <{user}> >>")
            .into_bytes(),
    );
    let encrypt = objects.len();
    let id = "43".repeat(16);
    pdf(
        &objects,
        &format!("/Encrypt {encrypt} 0 R /ID [<{id}> <{id}>]"),
    )
}

/// A content stream that unpacks to `size` bytes of spaces around one text operator.
fn flate_bomb(size: usize) -> Vec<u8> {
    let mut packer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    let blank = vec![b' '; 1 << 20];
    for _ in 0..size / blank.len() {
        packer.write_all(&blank).unwrap();
    }
    packer.write_all(b"BT /F1 24 Tf (boom) Tj ET").unwrap();
    pdf(
        &page_objects(&[stream("/Filter /FlateDecode", &packer.finish().unwrap())]),
        "",
    )
}

fn nested_arrays(depth: usize) -> Vec<u8> {
    let content = format!(
        "BT /F1 24 Tf {}(deep){} TJ ET",
        "[".repeat(depth),
        "]".repeat(depth)
    );
    let mut objects = page_objects(&[stream("", content.as_bytes())]);
    objects.push(format!("{}0{}", "[".repeat(depth), "]".repeat(depth)).into_bytes());
    let last = objects.len();
    objects[3] = String::from_utf8(objects[3].clone())
        .unwrap()
        .replace("/Type /Page", &format!("/Deep {last} 0 R /Type /Page"))
        .into_bytes();
    pdf(&objects, "")
}

/// A page tree as deep as it is long.
fn nested_pages(depth: usize) -> Vec<u8> {
    let mut objects = vec![b"<< /Type /Catalog /Pages 2 0 R >>".to_vec()];
    for level in 0..depth {
        objects.push(format!("<< /Type /Pages /Kids [{} 0 R] /Count 1 >>", level + 3).into_bytes());
    }
    objects.push(b"<< /Type /Page /MediaBox [0 0 612 792] >>".to_vec());
    pdf(&objects, "")
}

fn zipped(parts: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(CompressionMethod::Deflated);
    for (name, bytes) in parts {
        writer.start_file(*name, options).unwrap();
        writer.write_all(bytes).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

const XML: &str = r#"<?xml version="1.0" encoding="UTF-8" standalone="yes"?>"#;
const RELATIONSHIPS: &str = "http://schemas.openxmlformats.org/package/2006/relationships";
const OFFICE: &str = "http://schemas.openxmlformats.org/officeDocument/2006/relationships";
const WORD: &str = "http://schemas.openxmlformats.org/wordprocessingml/2006/main";
const SHEET: &str = "http://schemas.openxmlformats.org/spreadsheetml/2006/main";
const SLIDES: &str = "http://schemas.openxmlformats.org/presentationml/2006/main";
const DRAWING: &str = "http://schemas.openxmlformats.org/drawingml/2006/main";

const DOCX_BODY: &str = "<w:p><w:r><w:t>El caudal del río</w:t></w:r></w:p><w:p><w:r><w:t>Tom &amp; Jerry</w:t></w:r></w:p>\
    <w:tbl><w:tr><w:tc><w:p><w:r><w:t>cell one</w:t></w:r></w:p></w:tc>\
    <w:tc><w:p><w:r><w:t>cell two</w:t></w:r></w:p></w:tc></w:tr></w:tbl>";

const ODT_BODY: &str = "<text:tracked-changes><text:deletion><text:p>gone</text:p></text:deletion></text:tracked-changes>\
    <text:h>Título</text:h><text:p>uno<text:s text:c=\"2\"/>dos<text:tab/>tres</text:p>\
    <text:p><text:span>cuatro &amp;\ncinco</text:span></text:p>\
    <table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell>\
    <table:table-cell><text:p>b</text:p></table:table-cell></table:table-row></table:table>";

/// A package of Office Open XML: its content types, its main part, and the others.
fn package(
    main: &str,
    kind: &str,
    overrides: &[(&str, &str)],
    parts: &[(&str, String)],
) -> Vec<u8> {
    let mut types = format!(
        "{XML}<Types xmlns=\"http://schemas.openxmlformats.org/package/2006/content-types\">\
         <Default Extension=\"rels\" ContentType=\"application/vnd.openxmlformats-package.relationships+xml\"/>\
         <Default Extension=\"xml\" ContentType=\"application/xml\"/>"
    );
    for (part, content_type) in overrides {
        types += &format!(
            "<Override PartName=\"/{part}\" ContentType=\"application/vnd.openxmlformats-officedocument.{content_type}+xml\"/>"
        );
    }
    types += "</Types>";
    let roots = relationships(&[("rId1", kind, main)]);
    let mut all: Vec<(&str, &[u8])> = vec![
        ("[Content_Types].xml", types.as_bytes()),
        ("_rels/.rels", roots.as_bytes()),
    ];
    all.extend(
        parts
            .iter()
            .map(|(name, content)| (*name, content.as_bytes())),
    );
    zipped(&all)
}

fn relationships(all: &[(&str, &str, &str)]) -> String {
    let lines: String = all
        .iter()
        .map(|(id, kind, target)| {
            format!("<Relationship Id=\"{id}\" Type=\"{OFFICE}/{kind}\" Target=\"{target}\"/>")
        })
        .collect();
    format!("{XML}<Relationships xmlns=\"{RELATIONSHIPS}\">{lines}</Relationships>")
}

fn docx(body: &str) -> Vec<u8> {
    package(
        "word/document.xml",
        "officeDocument",
        &[("word/document.xml", "wordprocessingml.document.main")],
        &[(
            "word/document.xml",
            format!("{XML}<w:document xmlns:w=\"{WORD}\"><w:body>{body}</w:body></w:document>"),
        )],
    )
}

fn xlsx() -> Vec<u8> {
    let text = |cell: &str, words: &str| {
        format!("<c r=\"{cell}\" t=\"inlineStr\"><is><t>{words}</t></is></c>")
    };
    let sheet = format!(
        "{XML}<worksheet xmlns=\"{SHEET}\"><sheetData><row r=\"1\">{}{}</row><row r=\"2\">{}<c r=\"B2\"><v>42.5</v></c></row></sheetData></worksheet>",
        text("A1", "station"),
        text("B1", "discharge"),
        text("A2", "upper")
    );
    package(
        "xl/workbook.xml",
        "officeDocument",
        &[
            ("xl/workbook.xml", "spreadsheetml.sheet.main"),
            ("xl/worksheets/sheet1.xml", "spreadsheetml.worksheet"),
        ],
        &[
            (
                "xl/workbook.xml",
                format!(
                    "{XML}<workbook xmlns=\"{SHEET}\" xmlns:r=\"{OFFICE}\"><sheets><sheet name=\"One\" sheetId=\"1\" r:id=\"rId1\"/></sheets></workbook>"
                ),
            ),
            (
                "xl/_rels/workbook.xml.rels",
                relationships(&[("rId1", "worksheet", "worksheets/sheet1.xml")]),
            ),
            ("xl/worksheets/sheet1.xml", sheet),
        ],
    )
}

fn pptx(slides: &[&str]) -> Vec<u8> {
    let names: Vec<String> = (1..=slides.len())
        .map(|slide| format!("ppt/slides/slide{slide}.xml"))
        .collect();
    let ids: Vec<String> = (1..=slides.len())
        .map(|slide| format!("rId{slide}"))
        .collect();
    let targets: Vec<String> = (1..=slides.len())
        .map(|slide| format!("slides/slide{slide}.xml"))
        .collect();
    let listed: String = ids
        .iter()
        .enumerate()
        .map(|(index, id)| format!("<p:sldId id=\"{}\" r:id=\"{id}\"/>", 256 + index))
        .collect();
    let links: Vec<(&str, &str, &str)> = ids
        .iter()
        .zip(&targets)
        .map(|(id, target)| (id.as_str(), "slide", target.as_str()))
        .collect();
    let mut overrides = vec![("ppt/presentation.xml", "presentationml.presentation.main")];
    overrides.extend(
        names
            .iter()
            .map(|name| (name.as_str(), "presentationml.slide")),
    );
    let mut parts = vec![
        (
            "ppt/presentation.xml",
            format!(
                "{XML}<p:presentation xmlns:p=\"{SLIDES}\" xmlns:r=\"{OFFICE}\"><p:sldIdLst>{listed}</p:sldIdLst></p:presentation>"
            ),
        ),
        ("ppt/_rels/presentation.xml.rels", relationships(&links)),
    ];
    for (name, words) in names.iter().zip(slides) {
        let slide = format!(
            "{XML}<p:sld xmlns:p=\"{SLIDES}\" xmlns:a=\"{DRAWING}\"><p:cSld><p:spTree><p:sp><p:txBody><a:p><a:r><a:t>{words}</a:t></a:r></a:p></p:txBody></p:sp></p:spTree></p:cSld></p:sld>"
        );
        parts.push((name.as_str(), slide));
    }
    package("ppt/presentation.xml", "officeDocument", &overrides, &parts)
}

fn odt(body: &str, encrypted: bool) -> Vec<u8> {
    let namespaces = "xmlns:office=\"urn:oasis:names:tc:opendocument:xmlns:office:1.0\" \
        xmlns:text=\"urn:oasis:names:tc:opendocument:xmlns:text:1.0\" \
        xmlns:table=\"urn:oasis:names:tc:opendocument:xmlns:table:1.0\"";
    let content = format!(
        "{XML}<office:document-content {namespaces}><office:body><office:text>{body}</office:text></office:body></office:document-content>"
    );
    let how = if encrypted {
        "<manifest:encryption-data/>"
    } else {
        ""
    };
    let manifest = format!(
        "{XML}<manifest:manifest xmlns:manifest=\"urn:oasis:names:tc:opendocument:xmlns:manifest:1.0\">\
         <manifest:file-entry manifest:full-path=\"content.xml\">{how}</manifest:file-entry></manifest:manifest>"
    );
    zipped(&[
        ("mimetype", ODT.as_bytes()),
        ("META-INF/manifest.xml", manifest.as_bytes()),
        ("content.xml", content.as_bytes()),
    ])
}

/// The repository's sample folder, by what the names say.
fn samples() -> Vec<(PathBuf, &'static str)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/samples")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let media_type = match path.extension().and_then(|extension| extension.to_str()) {
                Some("pdf") => PDF,
                Some("docx") => DOCX,
                Some("xlsx") => XLSX,
                Some("pptx") => PPTX,
                Some("odt") => ODT,
                Some("html") => "text/html",
                Some("md") => "text/markdown",
                Some("csv") => "text/csv",
                Some("json") => "application/json",
                Some("txt") => "text/plain",
                _ => continue,
            };
            found.push((path, media_type));
        }
    }
    found
}
