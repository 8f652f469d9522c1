//! Real and hostile documents, each read in a sandbox child of this very executable.
#![expect(clippy::unwrap_used)]

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use caudal_domain::{Reason, WarningCode};
use caudal_extract_text::{Document, ExtractText, PARSERS, PREPARATIONS, Settings};
use caudal_stage::Failure;
use caudal_stage::sandbox::{Limits, Sandbox, run_prepared_child_if_asked};
use libtest_mimic::{Arguments, Trial};
use tokio_util::sync::CancellationToken;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

const PDF: &str = "application/pdf";
const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
const XLSX: &str = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
const PPTX: &str = "application/vnd.openxmlformats-officedocument.presentationml.presentation";
const XLS: &str = "application/vnd.ms-excel";
const MSG: &str = "application/vnd.ms-outlook";
const LOCKED: &str = "application/x-encrypted-office";
const EPUB: &str = "application/epub+zip";
const ODT: &str = "application/vnd.oasis.opendocument.text";
const ODS: &str = "application/vnd.oasis.opendocument.spreadsheet";
const ODP: &str = "application/vnd.oasis.opendocument.presentation";

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
    (
        "a_pdf_that_ends_pdfium_is_shown_to_the_other_reader",
        |_| {
            // It draws itself five times; what is drawn over and over needs more memory than a child has.
            let page = "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 5 0 R /Resources << /Font << /F1 3 0 R >> /XObject << /X 6 0 R >> >> >>";
            let mut objects = page_objects(&[stream(
                "",
                b"BT /F1 24 Tf 72 700 Td (Hello river) Tj ET /X Do",
            )]);
            objects[3] = page.as_bytes().to_vec();
            objects.push(stream(
            "/Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /X 6 0 R >> >>",
            b"/X Do /X Do /X Do /X Do /X Do",
        ));
            let defaults = Settings::default();
            let bench = Bench::with(&Settings {
                sandbox: Limits {
                    memory: 256 << 20,
                    ..defaults.sandbox
                },
                ..defaults
            });
            let document = bench.extract(PDF, &pdf(&objects, "")).unwrap();
            assert_eq!(document.text.trim(), "Hello river");
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
            assert_eq!(codes(&document), [WarningCode::NoTextFound], "{media_type}");
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
            (PPTX, pptx(&["Hello river"])),
            (XLS, xls()),
            (MSG, ole(&[("__properties_version1.0", &[0; 48]), ("__substg1.0_10090102", &[1; 300])])),
            (EPUB, epub()),
            ("text/rtf", br"{\rtf1\ansi{\fonttbl{\f0 Arial;}}\f0 Hello \'f1 \u8364? {\b river}\par}".to_vec()),
            ("message/rfc822", b"From: a@b.example\r\nSubject: =?utf-8?q?x?=\r\nContent-Type: text/html\r\n\r\n<p>Hello".to_vec()),
            ("image/svg+xml", b"<svg><text>Hello &lt; river</text></svg>".to_vec()),
            ("text/html", b"<!DOCTYPE html><p title='a'>Hello &eacute; <script>x</script>".to_vec()),
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
    (
        "a_page_whose_glyphs_have_no_letters_is_unreadable_and_the_others_are_read",
        |bench| {
            if !bench.has_pdfium() {
                return;
            }
            let words = stream(
                "",
                b"BT /F2 24 Tf 72 700 Td <00070006000100020004000300050008000900110012> Tj ET",
            );
            let document = bench
                .extract(
                    PDF,
                    &pdf(
                        &pages_with_font(&[words, text_page("Readable second page")], "", None),
                        "",
                    ),
                )
                .unwrap();
            assert_eq!(document.text.trim(), "Readable second page");
            assert_eq!(codes(&document), [WarningCode::UnreadablePages]);
            assert!(document.warnings[0].words.starts_with("1 of 2 pages"));
        },
    ),
    (
        "right_to_left_words_come_in_the_order_they_are_read",
        |bench| {
            if !bench.has_pdfium() {
                return;
            }
            // As it is drawn: the letters of יום from the right, a number from the left.
            let map = "<0001> <05DD> <0002> <05D5> <0003> <05D9> <0004> <0020> <0005> <0032> <0006> <0035>";
            let words = stream(
                "",
                b"BT /F2 24 Tf 72 700 Td <000500060004000100020003> Tj ET",
            );
            let document = bench
                .extract(PDF, &pdf(&pages_with_font(&[words], "", Some(map)), ""))
                .unwrap();
            assert!(
                document.text.contains("יום") && document.text.contains("25"),
                "{:?}",
                document.text
            );
        },
    ),
    (
        "a_picture_between_pages_of_text_is_a_page_without_text",
        |bench| {
            if !bench.has_pdfium() {
                return;
            }
            let picture = stream("", b"q 100 0 0 100 72 600 cm 0 0 1 1 re f Q");
            let blank = stream("", b"");
            let pages = [text_page("first"), picture, blank, text_page("last")];
            let document = bench.extract(PDF, &pdf(&page_objects(&pages), "")).unwrap();
            assert_eq!(codes(&document), [WarningCode::NoTextOnPages]);
            assert!(
                document.warnings[0].words.starts_with("1 of 4 pages"),
                "{}",
                document.warnings[0].words
            );
            let pages: Vec<&str> = document.text.split('\u{c}').map(str::trim).collect();
            assert_eq!(pages, ["first", "", "", "last"]);
            assert_eq!(document.facts["offsets"].as_array().map(Vec::len), Some(4));
        },
    ),
    (
        "lines_that_look_like_keywords_stay_and_words_stay_apart",
        |bench| {
            if !bench.has_pdfium() {
                return;
            }
            let content = stream("", b"BT /F1 12 Tf 72 700 Td (Gamma) Tj 0 -20 Td (Matrix) Tj 0 -20 Td (WhitePoint [ 1.0 ]) Tj \
            0 -20 Td [(Lorem) -300 (ipsum)] TJ ET");
            let document = bench
                .extract(PDF, &pdf(&page_objects(&[content]), ""))
                .unwrap();
            for line in ["Gamma", "Matrix", "WhitePoint [ 1.0 ]", "Lorem ipsum"] {
                assert!(
                    document.text.lines().any(|found| found.trim() == line),
                    "{line} in {:?}",
                    document.text
                );
            }
        },
    ),
    (
        "a_pdf_that_was_cut_says_so_whatever_is_left_of_it",
        |bench| {
            let whole = pdf_of(&["first words", "second words"]);
            let table = whole
                .windows(4)
                .rposition(|window| window == b"xref")
                .unwrap();
            match bench.extract(PDF, &whole[..table - 10]) {
                Ok(document) => assert!(codes(&document).contains(&WarningCode::UnreadableParts)),
                Err(failure) => assert_eq!(failure.reason, Reason::CorruptDocument),
            }
        },
    ),
    ("what_a_pdf_says_of_itself_becomes_facts", |bench| {
        if !bench.has_pdfium() {
            return;
        }
        let mut objects = page_objects(&[text_page("words")]);
        objects.push(
            b"<< /Title (River report) /Author (Ana) /CreationDate (D:20260314092653Z) >>".to_vec(),
        );
        let info = format!("/Info {} 0 R", objects.len());
        let document = bench.extract(PDF, &pdf(&objects, &info)).unwrap();
        assert_eq!(document.facts["title"], "River report");
        assert_eq!(document.facts["author"], "Ana");
        assert_eq!(document.facts["created"], "2026-03-14T09:26:53Z");
    }),
    (
        "an_old_workbook_gives_its_cells_and_the_name_of_its_sheet",
        |bench| {
            let document = bench.extract(XLS, &xls()).unwrap();
            assert_eq!(document.text, "Levels\nXLSWORD0\t3.41\nXLSWORD1\t1/4\n");
            assert_eq!(document.facts["sheets"][0], "Levels");
            assert_eq!(document.facts["format"], "xls");
        },
    ),
    ("a_locked_office_document_is_refused_as_such", |bench| {
        let locked = ole(&[
            ("EncryptionInfo", &[4; 200]),
            ("EncryptedPackage", &[9; 5_000]),
        ]);
        assert_eq!(caudal_upload::sniff_bytes(&locked, "locked.docx"), LOCKED);
        let failure = bench.extract(LOCKED, &locked).unwrap_err();
        assert_eq!(failure.reason, Reason::EncryptedDocument);
    }),
    (
        "numbers_dates_and_fractions_are_as_the_sheet_shows_them",
        |bench| {
            let cells = [
                (0.25, 1, "1/4"),
                (0.3125, 2, "07:30"),
                (1.5, 3, "36:00"),
                (12.0, 4, "00012"),
                (46_095.393_09, 5, "14. March 2026 09:26"),
                (0.5, 6, "50%"),
                (12.0, 0, "12"),
            ];
            let rows: String = cells
                .iter()
                .enumerate()
                .map(|(row, (value, style, _))| {
                    format!(
                        "<row r=\"{0}\"><c r=\"A{0}\" s=\"{style}\"><v>{value}</v></c></row>",
                        row + 1
                    )
                })
                .collect();
            let document = bench.extract(XLSX, &workbook(&rows)).unwrap();
            let lines: Vec<&str> = document.text.lines().skip(1).collect();
            assert_eq!(lines, cells.map(|(_, _, shown)| shown));
            let words =
                "<row r=\"1\"><c r=\"A1\" t=\"inlineStr\"><is><t>one_x000D_two</t></is></c></row>";
            let document = bench.extract(XLSX, &workbook(words)).unwrap();
            assert_eq!(document.text, "One\nonetwo\n");
        },
    ),
    (
        "rows_and_cells_that_exist_are_written_and_the_grid_is_not",
        |bench| {
            let rows: String = (1..=3_000)
            .map(|row| format!("<row r=\"{row}\"><c r=\"A{row}\" t=\"inlineStr\"><is><t>r{row}</t></is></c><c r=\"XFD{row}\"><v>{row}</v></c></row>"))
            .collect();
            let document = bench.extract(XLSX, &workbook(&rows)).unwrap();
            assert!(document.text.len() < 100_000, "{}", document.text.len());
            let words: Vec<&str> = document.text.split_whitespace().collect();
            for row in [1, 1_025, 3_000] {
                let name = format!("r{row}");
                assert_eq!(words.iter().filter(|word| **word == name).count(), 1);
            }
            assert!(document.warnings.is_empty() && !document.text.contains("office_oxide"));
            let last = "<row r=\"1\"/><row r=\"1048576\"><c r=\"A1048576\"><v>7</v></c></row>";
            assert_eq!(
                bench.extract(XLSX, &workbook(last)).unwrap().text,
                "One\n7\n"
            );
        },
    ),
    (
        "a_long_sheet_is_cut_by_our_bound_and_says_so_without_words_of_a_library",
        |_| {
            let bench = Bench::with(&Settings {
                max_text_bytes: 1_000,
                ..Settings::default()
            });
            let rows: String = (1..=3_000)
                .map(|row| format!("<row r=\"{row}\"><c r=\"A{row}\"><v>{row}</v></c></row>"))
                .collect();
            let document = bench.extract(XLSX, &workbook(&rows)).unwrap();
            assert_eq!(codes(&document), [WarningCode::TextTruncated]);
            assert!(!document.text.contains("truncated") && document.text.len() > 900);
        },
    ),
    ("a_slide_begins_a_page", |bench| {
        let document = bench
            .extract(PPTX, &pptx(&["Opening words", "Closing words"]))
            .unwrap();
        let pages: Vec<&str> = document.text.split('\u{c}').map(str::trim).collect();
        assert_eq!(pages, ["Opening words", "Closing words"]);
    }),
    (
        "footer_date_and_number_follow_their_slide_and_its_notes_each_once",
        |bench| {
            let furniture = |number: u32| {
                format!(
                    "{}{}{}",
                    shape(
                        "sldNum",
                        &format!("<a:fld type=\"slidenum\"><a:t>{number}</a:t></a:fld>")
                    ),
                    shape(
                        "dt",
                        "<a:fld type=\"datetime1\"><a:t>14.03.2026</a:t></a:fld>"
                    ),
                    shape("ftr", "<a:r><a:t>River office</a:t></a:r>"),
                )
            };
            let slide = format!(
                "{}{}",
                furniture(7),
                shape("title", "<a:r><a:t>Levels &amp; flow</a:t></a:r>")
            );
            let boxed = "<a:r><a:t>Boxed</a:t></a:r><a:br/><a:r><a:t>remark</a:t></a:r>";
            let notes = format!(
                "{}{}{}<mc:AlternateContent xmlns:mc=\"x\"><mc:Choice>{}</mc:Choice><mc:Fallback>{}</mc:Fallback></mc:AlternateContent>",
                shape("hdr", "<a:r><a:t>Hand-out</a:t></a:r>"),
                furniture(8),
                shape(
                    "body",
                    "<a:r><a:t>What to </a:t></a:r><a:r><a:t>say</a:t></a:r>"
                ),
                shape("", boxed),
                shape("", boxed),
            );
            let document = bench
                .extract(PPTX, &pptx_of(&[(slide, Some(notes))]))
                .unwrap();
            let lines: Vec<&str> = document.text.lines().collect();
            assert_eq!(
                lines,
                [
                    "Levels & flow",
                    "7",
                    "14.03.2026",
                    "River office",
                    "What to say",
                    "Boxed",
                    "remark",
                    "Hand-out",
                    "8",
                    "14.03.2026",
                    "River office"
                ]
            );
        },
    ),
    (
        "a_damaged_page_of_notes_costs_no_slide_and_is_told",
        |bench| {
            let slide = shape("title", "<a:r><a:t>Levels</a:t></a:r>");
            let notes = format!(
                "{}<!-- and no end",
                shape("body", "<a:r><a:t>Say</a:t></a:r>")
            );
            let document = bench
                .extract(PPTX, &pptx_of(&[(slide, Some(notes))]))
                .unwrap();
            assert!(document.text == "Levels\nSay\n", "{:?}", document.text);
            assert_eq!(codes(&document), [WarningCode::UnreadableParts]);
        },
    ),
    (
        "what_lies_too_deep_in_tables_or_groups_is_said_to_be_missing",
        |bench| {
            for depth in [5, 150, 3_000] {
                let within = |begins: &str, words: &str, ends: &str| {
                    format!("{}{words}{}", begins.repeat(depth), ends.repeat(depth))
                };
                let row = within(
                    "<w:tbl><w:tr><w:tc>",
                    "<w:p><w:r><w:t>deep</w:t></w:r></w:p>",
                    "<w:p/></w:tc></w:tr></w:tbl>",
                );
                let body = format!("<w:p><w:r><w:t>before</w:t></w:r></w:p>{row}");
                let slide = within(
                    "<p:grpSp>",
                    &shape("", "<a:r><a:t>deep</a:t></a:r>"),
                    "</p:grpSp>",
                );
                let slide = format!("{}{slide}", shape("", "<a:r><a:t>before</a:t></a:r>"));
                for document in [
                    bench.extract(DOCX, &docx(&body)).unwrap(),
                    bench.extract(PPTX, &pptx_of(&[(slide, None)])).unwrap(),
                ] {
                    let words: Vec<&str> = document.text.split_whitespace().collect();
                    let is_whole = words == ["before", "deep"];
                    let is_said = codes(&document) == [WarningCode::UnreadableParts];
                    assert!(
                        is_whole || is_said && words == ["before"],
                        "{depth}: {:?} {:?}",
                        document.text,
                        codes(&document)
                    );
                    assert_eq!(is_whole, depth == 5, "{depth}");
                }
            }
        },
    ),
    (
        "rich_text_that_was_cut_keeps_its_last_words_and_says_so",
        |bench| {
            for cut in [
                "{\\rtf1 the gauge stood",
                "{\\rtf1 the gauge stood\\bin99 ab",
            ] {
                let document = bench.extract("text/rtf", cut.as_bytes()).unwrap();
                assert_eq!(document.text, "the gauge stood\n");
                assert_eq!(codes(&document), [WarningCode::UnreadableParts]);
            }
        },
    ),
    (
        "cells_and_rows_that_stand_for_several_are_written_as_often",
        |bench| {
            let sheet = |columns: u32, rows: u32| {
                let body = format!(
                    "<office:spreadsheet><table:table table:name=\"Levels\"><table:table-row table:number-rows-repeated=\"{rows}\">\
                 <table:table-cell table:number-columns-repeated=\"{columns}\"><text:p>dry</text:p></table:table-cell></table:table-row>\
                 <table:table-row table:number-rows-repeated=\"1048000\"><table:table-cell/></table:table-row></table:table></office:spreadsheet>"
                );
                bench
                    .extract(ODS, &open_document(ODS, &body, false))
                    .unwrap()
            };
            let document = sheet(2, 300);
            assert_eq!(document.text.matches("dry").count(), 600);
            assert!(document.warnings.is_empty());
            let document = sheet(16_384, 1_048_576);
            assert_eq!(codes(&document), [WarningCode::TextTruncated]);
            assert!(document.text.len() < 17 << 20);
        },
    ),
    ("a_note_stands_apart_from_the_words_around_it", |bench| {
        let body = "<text:p>Before<text:note><text:note-citation>1</text:note-citation><text:note-body>\
            <text:p>the note</text:p></text:note-body></text:note>after</text:p>";
        let document = bench.extract(ODT, &odt(body, false)).unwrap();
        let words: Vec<&str> = document.text.split_whitespace().collect();
        assert_eq!(words, ["Before", "1", "the", "note", "after"]);
    }),
    (
        "sheets_and_slides_of_opendocument_are_told_by_their_names_and_number",
        |bench| {
            let sheet = "<office:spreadsheet><table:table table:name=\"Levels\"><table:table-row><table:table-cell><text:p>gauge</text:p></table:table-cell>\
            <table:table-cell table:number-columns-repeated=\"16000\"/><table:table-cell><text:p>3.41</text:p></table:table-cell></table:table-row>\
            <table:table-row table:number-rows-repeated=\"1048574\"><table:table-cell table:number-columns-repeated=\"16384\"/></table:table-row></table:table></office:spreadsheet>";
            let document = bench
                .extract(ODS, &open_document(ODS, sheet, false))
                .unwrap();
            assert_eq!(document.facts["sheets"][0], "Levels");
            assert!(document.text.len() < 60, "{:?}", document.text);
            let words: Vec<&str> = document.text.split_whitespace().collect();
            assert_eq!(words, ["Levels", "gauge", "3.41"]);
            let slides = "<office:presentation><draw:page><text:p>first</text:p></draw:page><draw:page><text:p>second</text:p></draw:page></office:presentation>";
            let document = bench
                .extract(ODP, &open_document(ODP, slides, false))
                .unwrap();
            assert_eq!(document.facts["pages"], 2);
            let pages: Vec<&str> = document.text.split('\u{c}').map(str::trim).collect();
            assert_eq!(pages, ["first", "second"]);
        },
    ),
    (
        "a_comment_follows_its_author_and_no_word_of_a_library",
        |bench| {
            let document = bench.extract(DOCX, &commented()).unwrap();
            assert!(document.text.contains("said"), "{}", document.text);
            assert!(document.text.contains("Ana: the gauge stood higher"));
            assert!(!document.text.contains("Comment"), "{}", document.text);
        },
    ),
    (
        "a_mail_gives_headers_and_body_and_names_what_is_attached",
        |bench| {
            let mail = "From: Ana =?utf-8?q?R=C3=ADo?= <ana@river.example>\r\nTo: bo@river.example\r\nSubject: =?utf-8?b?TmlibGE=?=\r\n\
            Date: Sat, 14 Mar 2026 09:26:53 +0000\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=cut\r\n\r\n\
            --cut\r\nContent-Type: text/html; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n\
            <p>El <b>caudal</b> del r=C3=ADo</p><script>no</script>\r\n--cut\r\n\
            Content-Type: application/pdf; name=levels.pdf\r\nContent-Disposition: attachment; filename=levels.pdf\r\n\
            Content-Transfer-Encoding: base64\r\n\r\nJVBERi0xLjcK\r\n--cut--\r\n";
            assert_eq!(
                caudal_upload::sniff_bytes(mail.as_bytes(), "x.eml"),
                "message/rfc822"
            );
            let document = bench.extract("message/rfc822", mail.as_bytes()).unwrap();
            for expected in ["Nibla", "Ana Río", "El caudal del río"] {
                assert!(
                    document.text.contains(expected),
                    "{expected} in {:?}",
                    document.text
                );
            }
            assert!(!document.text.contains("JVBER") && !document.text.contains("script"));
            assert_eq!(document.facts["attachment_names"][0], "levels.pdf");
            assert_eq!(codes(&document), [WarningCode::AttachmentsNotRead]);
        },
    ),
    ("a_saved_page_gives_its_words", |bench| {
        let page = "From: <Saved>\r\nSubject: Levels\r\nMIME-Version: 1.0\r\nContent-Type: multipart/related; type=\"text/html\"; boundary=cut\r\n\r\n\
            --cut\r\nContent-Type: text/html; charset=utf-8\r\nContent-Location: http://river.example/\r\n\r\n<title>Levels</title><p>the words of the page</p>\r\n\
            --cut\r\nContent-Type: image/png\r\nContent-Location: http://river.example/a.png\r\nContent-Transfer-Encoding: base64\r\n\r\niVBORw0KGgo=\r\n--cut--\r\n";
        assert_eq!(
            caudal_upload::sniff_bytes(page.as_bytes(), "x.mht"),
            "multipart/related"
        );
        let document = bench.extract("multipart/related", page.as_bytes()).unwrap();
        assert_eq!(document.text.trim(), "the words of the page");
        assert!(document.warnings.is_empty());
    }),
    (
        "a_mail_of_outlook_gives_its_properties_and_names_what_is_attached",
        |bench| {
            let wide = |words: &str| -> Vec<u8> {
                words.encode_utf16().flat_map(u16::to_le_bytes).collect()
            };
            let mail = ole(&[
                ("__properties_version1.0", &[0; 48]),
                ("__substg1.0_0037001F", &wide("The subject")),
                ("__substg1.0_0C1A001F", &wide("Ana Río")),
                ("__substg1.0_1000001F", &wide("The body\r\nin two lines")),
                (
                    "__attach_version1.0_#00000000/__substg1.0_3707001F",
                    &wide("levels.xlsx"),
                ),
            ]);
            assert_eq!(caudal_upload::sniff_bytes(&mail, "x.msg"), MSG);
            let document = bench.extract(MSG, &mail).unwrap();
            assert_eq!(
                document.text,
                "Subject: The subject\nFrom: Ana Río\n\nThe body\nin two lines\n"
            );
            assert_eq!(document.facts["attachment_names"][0], "levels.xlsx");
            assert_eq!(codes(&document), [WarningCode::AttachmentsNotRead]);
        },
    ),
    ("rich_text_gives_its_words_in_every_encoding", |bench| {
        let rich = r"{\rtf1\ansi\ansicpg1252\uc1{\fonttbl{\f0\fcharset0 Arial;}{\f1\fcharset204 Arial;}}{\info{\title The title}}
{\*\generator none;}\f0 El ni\'f1o\par {\b bold\*\cs7 kept}\tab \u1088?\f1\'ef\'f0\v hidden\v0\f0\par{\pict 0102ff}last}";
        let document = bench.extract("text/rtf", rich.as_bytes()).unwrap();
        assert_eq!(document.text, "El niño\nboldkept\tрпр\nlast\n");
        assert_eq!(document.facts["title"], "The title");
        let cut = bench
            .extract("text/rtf", &rich.as_bytes()[..rich.len() - 1])
            .unwrap();
        assert_eq!(codes(&cut), [WarningCode::UnreadableParts]);
    }),
    (
        "a_book_gives_its_pages_in_the_order_of_its_spine",
        |bench| {
            let document = bench.extract(EPUB, &epub()).unwrap();
            let pages: Vec<&str> = document.text.split('\u{c}').map(str::trim).collect();
            assert_eq!(pages, ["The first page", "The second page"]);
            assert_eq!(document.facts["title"], "The book");
            assert_eq!(document.facts["pages"], 2);
        },
    ),
    ("a_drawing_gives_the_words_it_writes", |bench| {
        let drawing = "<svg xmlns='http://www.w3.org/2000/svg'><title>Levels</title><style>text{fill:red}</style>\
            <text x='1'>gauge <tspan>one</tspan></text><path d='M0 0'/><text>4 &lt; 5</text></svg>";
        let document = bench.extract("image/svg+xml", drawing.as_bytes()).unwrap();
        assert_eq!(document.text, "Levels\ngauge one\n4 < 5\n");
    }),
    (
        "a_tag_of_half_a_million_attributes_is_read_in_time",
        |bench| {
            let attributes: String = (0..500_000).map(|number| format!(" a{number}=1")).collect();
            let picture = "A".repeat(200_000);
            let page = format!(
                "<p>before<b{attributes}>within</b><img alt=\"{picture}\" title=\"a > b\"><!-- {picture} > --> after"
            );
            let document = bench.extract("text/html", page.as_bytes()).unwrap();
            assert_eq!(document.text, "beforewithin after\n");
            assert!(document.warnings.is_empty());
        },
    ),
    ("html_nested_sixty_thousand_deep_is_read_in_time", |bench| {
        let depth = 60_000;
        let page = format!("{}deep{}", "<div>".repeat(depth), "</div>".repeat(depth));
        let document = bench.extract("text/html", page.as_bytes()).unwrap();
        assert_eq!(document.text, "deep\n");
    }),
    (
        "valid_utf_8_beats_a_declared_encoding_of_one_byte",
        |bench| {
            let page = "<meta charset=iso-8859-1><p>El río</p>";
            assert_eq!(
                bench
                    .extract("text/html", page.as_bytes())
                    .unwrap()
                    .text
                    .trim(),
                "El río"
            );
        },
    ),
    (
        "tables_lists_and_paragraphs_of_a_page_stand_apart",
        |bench| {
            let page = "<html lang=es><title>T</title><p>one\n two<p>three<ul><li>a<li>b</ul><table><tr><td>1<td>2<tr><td>3</table><pre>x  y\n z</pre>";
            let document = bench.extract("text/html", page.as_bytes()).unwrap();
            assert_eq!(
                document.text,
                "one two\n\nthree\n\na\nb\n\n1\t2\n3\n\nx  y\n z\n"
            );
            assert_eq!(
                (&document.facts["title"], &document.facts["language"]),
                (&"T".into(), &"es".into())
            );
        },
    ),
    (
        "nuls_and_controls_in_a_text_are_left_out_and_counted",
        |bench| {
            let mut bytes = b"a line that is long enough\n".repeat(50);
            bytes[100] = 0;
            bytes[200] = 7;
            let document = bench.extract("text/plain", &bytes).unwrap();
            assert!(!document.text.contains('\0') && document.text.len() == bytes.len() - 2);
            assert_eq!(document.facts["control_characters"], 2);
            assert!(document.warnings.is_empty());
        },
    ),
    (
        "a_text_that_is_utf_8_in_nearly_all_lines_says_what_was_replaced",
        |bench| {
            let mut bytes = "el río y la señal\n".repeat(200).into_bytes();
            bytes.extend_from_slice(b"una l\xednea\n");
            let document = bench.extract("text/plain", &bytes).unwrap();
            assert_eq!(document.text.matches("río").count(), 200);
            assert_eq!(codes(&document), [WarningCode::ReplacedCharacters]);
        },
    ),
    ("cyrillic_in_utf_16_without_a_mark_is_read", |bench| {
        let line = "Уровень воды в реке высокий, слово ТУРУХТАН.\n";
        let bytes: Vec<u8> = line
            .repeat(30)
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        assert_eq!(caudal_upload::sniff_bytes(&bytes, "x.txt"), "text/plain");
        let document = bench.extract("text/plain", &bytes).unwrap();
        assert_eq!(document.text, line.repeat(30));
    }),
    ("nothing_but_blanks_is_no_text_in_any_format", |bench| {
        for (media_type, bytes) in [
            ("text/plain", b"\xef\xbb\xbf \n\n".to_vec()),
            ("text/html", b"<p> </p>".to_vec()),
            ("text/rtf", br"{\rtf1 \par }".to_vec()),
            (DOCX, docx("<w:p/>")),
            (PPTX, pptx(&[" "])),
            (ODT, odt("<text:p/>", false)),
            (PDF, pdf_of(&[" "])),
        ] {
            let document = bench.extract(media_type, &bytes).unwrap();
            assert!(!document.has_text, "{media_type}: {:?}", document.text);
            assert!(
                codes(&document).contains(&WarningCode::NoTextFound),
                "{media_type}"
            );
        }
    }),
    (
        "what_an_office_document_says_of_itself_becomes_facts",
        |bench| {
            let core = format!(
                "{XML}<cp:coreProperties xmlns:cp=\"http://schemas.openxmlformats.org/package/2006/metadata/core-properties\" \
            xmlns:dc=\"http://purl.org/dc/elements/1.1/\" xmlns:dcterms=\"http://purl.org/dc/terms/\"><dc:title>The title</dc:title><dc:creator>Ana</dc:creator>\
            <dcterms:created>2026-03-14T09:26:53Z</dcterms:created></cp:coreProperties>"
            );
            let document = bench
                .extract(
                    DOCX,
                    &docx_with("<w:p><w:r><w:t>words</w:t></w:r></w:p>", &core),
                )
                .unwrap();
            assert_eq!(document.facts["title"], "The title");
            assert_eq!(document.facts["author"], "Ana");
            assert_eq!(document.facts["created"], "2026-03-14T09:26:53Z");
        },
    ),
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
    ("a_child_that_reads_a_small_pdf_touches_few_pages", |_| {
        let bench = Bench::with(&Settings::default());
        let read = || {
            let document = bench.extract(PDF, &pdf_of(&["One page"])).unwrap();
            assert_eq!(document.pages, 1);
        };
        read();
        let host = bench.runtime.block_on(bench.sandbox.host()).unwrap();
        // Of the fields behind the name, 17 is the number of threads and 8 that of the page faults of children.
        let field = |field: usize| -> u64 {
            let stat = std::fs::read_to_string(format!("/proc/{host}/stat")).unwrap();
            let (_, behind) = stat.rsplit_once(')').unwrap();
            behind
                .split_whitespace()
                .nth(field)
                .unwrap()
                .parse()
                .unwrap()
        };
        assert_eq!(field(17), 1, "what is prepared leaves a thread");
        let before = field(8);
        for _ in 0..FILES_WHOSE_FAULTS_COUNT {
            read();
        }
        let each = (field(8) - before) / FILES_WHOSE_FAULTS_COUNT;
        assert!(each < MAX_FAULTS, "{each} page faults a child");
    }),
];

/// Children over which page faults are counted.
const FILES_WHOSE_FAULTS_COUNT: u64 = 20;
/// Page faults of a child that reads a small PDF. There are about 255; where the executable is started for it, 835.
const MAX_FAULTS: u64 = 400;

fn main() -> ExitCode {
    run_prepared_child_if_asked(PARSERS, PREPARATIONS);
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
    sandbox: Sandbox,
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
            pdf_library: pdf_library(),
            ..settings.clone()
        };
        Self {
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            stage: ExtractText::new(&sandbox, settings),
            sandbox,
            folder: tempfile::tempdir().unwrap(),
        }
    }

    /// Whether PDFium is installed; with CAUDAL_REQUIRE_PDFIUM=1 its absence fails the test.
    fn has_pdfium(&self) -> bool {
        if pdf_library().is_some() {
            return true;
        }
        assert!(
            std::env::var("CAUDAL_REQUIRE_PDFIUM").is_err(),
            "PDFium is not installed"
        );
        eprintln!("skipped: PDFium is not installed");
        false
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

/// The PDFium of the environment, else the one that `make setup` unpacked in this repository.
fn pdf_library() -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(caudal_extract_text::DEFAULT_PDF_LIBRARY);
    let variable = |name: &str| std::env::var_os(name).or_else(|| Some(unpacked.clone().into()));
    Settings::default().with_pdf_library(variable).pdf_library
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

/// A document with a comment of Ana's and one of nobody's.
fn commented() -> Vec<u8> {
    let comment = |id: u32, author: &str, words: &str| {
        format!(
            "<w:comment w:id=\"{id}\" w:author=\"{author}\"><w:p><w:r><w:t>{words}</w:t></w:r></w:p></w:comment>"
        )
    };
    let body = "<w:p><w:r><w:t>said</w:t></w:r><w:r><w:commentReference w:id=\"0\"/></w:r>\
                <w:r><w:commentReference w:id=\"1\"/></w:r></w:p>";
    package(
        "word/document.xml",
        "officeDocument",
        &[
            ("word/document.xml", "wordprocessingml.document.main"),
            ("word/comments.xml", "wordprocessingml.comments"),
        ],
        &[
            (
                "word/document.xml",
                format!("{XML}<w:document xmlns:w=\"{WORD}\"><w:body>{body}</w:body></w:document>"),
            ),
            (
                "word/_rels/document.xml.rels",
                relationships(&[("rId1", "comments", "comments.xml")]),
            ),
            (
                "word/comments.xml",
                format!(
                    "{XML}<w:comments xmlns:w=\"{WORD}\">{}{}</w:comments>",
                    comment(0, "Ana", "the gauge stood higher"),
                    comment(1, "", "than ever")
                ),
            ),
        ],
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

/// A shape of a slide: a placeholder of this kind, or a box of its own.
fn shape(kind: &str, runs: &str) -> String {
    let placeholder = match kind {
        "" => String::new(),
        kind => format!("<p:ph type=\"{kind}\"/>"),
    };
    format!(
        "<p:sp><p:nvSpPr><p:nvPr>{placeholder}</p:nvPr></p:nvSpPr><p:txBody><a:p>{runs}</a:p></p:txBody></p:sp>"
    )
}

fn pptx(slides: &[&str]) -> Vec<u8> {
    let slides: Vec<(String, Option<String>)> = slides
        .iter()
        .map(|words| {
            let shape = format!(
                "<p:sp><p:txBody><a:p><a:r><a:t>{words}</a:t></a:r></a:p></p:txBody></p:sp>"
            );
            (shape, None)
        })
        .collect();
    pptx_of(&slides)
}

/// A presentation of slides, each with the shapes of its page of notes where it has one.
fn pptx_of(slides: &[(String, Option<String>)]) -> Vec<u8> {
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
    let noted: Vec<(String, String)> = (1..=slides.len())
        .map(|slide| {
            let links = format!("ppt/slides/_rels/slide{slide}.xml.rels");
            (links, format!("ppt/notesSlides/notesSlide{slide}.xml"))
        })
        .collect();
    let tree = |root: &str, shapes: &str| {
        format!(
            "{XML}<p:{root} xmlns:p=\"{SLIDES}\" xmlns:a=\"{DRAWING}\"><p:cSld><p:spTree>{shapes}</p:spTree></p:cSld></p:{root}>"
        )
    };
    for ((name, (links, notes_name)), (shapes, notes)) in names.iter().zip(&noted).zip(slides) {
        parts.push((name.as_str(), tree("sld", shapes)));
        if let Some(notes) = notes {
            let target = format!("../{}", notes_name.trim_start_matches("ppt/"));
            let link = relationships(&[("rId1", "notesSlide", &target)]);
            parts.push((links.as_str(), link));
            parts.push((notes_name.as_str(), tree("notes", notes)));
            overrides.push((notes_name.as_str(), "presentationml.notesSlide"));
        }
    }
    package("ppt/presentation.xml", "officeDocument", &overrides, &parts)
}

fn open_document(media_type: &str, body: &str, encrypted: bool) -> Vec<u8> {
    let namespaces = "xmlns:office=\"urn:oasis:names:tc:opendocument:xmlns:office:1.0\" \
        xmlns:text=\"urn:oasis:names:tc:opendocument:xmlns:text:1.0\" \
        xmlns:table=\"urn:oasis:names:tc:opendocument:xmlns:table:1.0\" \
        xmlns:draw=\"urn:oasis:names:tc:opendocument:xmlns:drawing:1.0\"";
    let content = format!(
        "{XML}<office:document-content {namespaces}><office:body>{body}</office:body></office:document-content>"
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
        ("mimetype", media_type.as_bytes()),
        ("META-INF/manifest.xml", manifest.as_bytes()),
        ("content.xml", content.as_bytes()),
    ])
}

fn text_page(words: &str) -> Vec<u8> {
    stream(
        "",
        format!("BT /F1 24 Tf 72 700 Td ({words}) Tj ET").as_bytes(),
    )
}

/// Pages that also have a font of two bytes a glyph: nothing is known of its letters but what `map` says.
fn pages_with_font(contents: &[Vec<u8>], extra: &str, map: Option<&str>) -> Vec<Vec<u8>> {
    let mut objects = page_objects(contents);
    let font = objects.len() + 1;
    let to_unicode = map.map_or_else(String::new, |_| format!("/ToUnicode {} 0 R", font + 2));
    objects.push(
        format!("<< /Type /Font /Subtype /Type0 /BaseFont /Unknown /Encoding /Identity-H /DescendantFonts [{} 0 R] {to_unicode} {extra} >>", font + 1)
            .into_bytes(),
    );
    objects.push(b"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /Unknown /DW 600 /CIDSystemInfo << /Registry (Adobe) /Ordering (Identity) /Supplement 0 >> /FontDescriptor << /Type /FontDescriptor /FontName /Unknown /Flags 4 /FontBBox [0 0 1000 1000] /ItalicAngle 0 /Ascent 800 /Descent -200 /CapHeight 700 /StemV 80 >> >>".to_vec());
    if let Some(map) = map {
        let pairs: Vec<&str> = map.split_whitespace().collect();
        let lines: String = pairs
            .chunks(2)
            .map(|pair| format!("{} {}\n", pair[0], pair[1]))
            .collect();
        let content = format!(
            "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapName /X def /CMapType 2 def 1 begincodespacerange <0000> <FFFF> endcodespacerange {} beginbfchar\n{lines}endbfchar endcmap end end",
            pairs.len() / 2
        );
        objects.push(stream("", content.as_bytes()));
    }
    for object in &mut objects {
        let text = String::from_utf8_lossy(object).into_owned();
        if text.contains("/Type /Page ") {
            *object = text
                .replace("/F1 3 0 R", &format!("/F1 3 0 R /F2 {font} 0 R"))
                .into_bytes();
        }
    }
    objects
}

/// A container of the old office formats with these streams.
fn ole(streams: &[(&str, &[u8])]) -> Vec<u8> {
    let mut file = cfb::CompoundFile::create(Cursor::new(Vec::new())).unwrap();
    for (name, bytes) in streams {
        if let Some((storage, _)) = name.rsplit_once('/') {
            file.create_storage_all(storage).unwrap();
        }
        file.create_stream(name).unwrap().write_all(bytes).unwrap();
    }
    file.flush().unwrap();
    file.into_inner().into_inner()
}

/// A workbook of Excel 97: a sheet of two rows, with a fraction in the second.
fn xls() -> Vec<u8> {
    let record = |kind: u16, data: &[u8]| {
        let length = u16::try_from(data.len()).unwrap();
        [&kind.to_le_bytes()[..], &length.to_le_bytes(), data].concat()
    };
    let label = |row: u16, words: &str| {
        let length = u16::try_from(words.len()).unwrap();
        let data = [
            &row.to_le_bytes()[..],
            &[0, 0, 0, 0],
            &length.to_le_bytes(),
            &[0],
            words.as_bytes(),
        ];
        record(0x0204, &data.concat())
    };
    let number = |row: u16, style: u16, value: f64| {
        let data = [
            &row.to_le_bytes()[..],
            &[1, 0],
            &style.to_le_bytes(),
            &value.to_le_bytes(),
        ];
        record(0x0203, &data.concat())
    };
    let style = |format: u16| {
        record(
            0x00e0,
            &[&[0, 0][..], &format.to_le_bytes(), &[0; 16]].concat(),
        )
    };
    let globals = [
        record(0x0809, &[0, 6, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        record(0x041e, b"\xa4\0\x05\0\0# ?/?"),
        style(0),
        style(0xa4),
    ]
    .concat();
    let name = b"\x06\0Levels";
    let begins = u32::try_from(globals.len() + 4 + 6 + name.len() + 4).unwrap();
    let sheet = record(0x0085, &[&begins.to_le_bytes()[..], &[0, 0], name].concat());
    let cells = [
        record(0x0809, &[0, 6, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        label(0, "XLSWORD0"),
        number(0, 0, 3.41),
        label(1, "XLSWORD1"),
        number(1, 1, 0.25),
        record(0x000a, &[]),
    ]
    .concat();
    let end = record(0x000a, &[]);
    ole(&[("Workbook", &[globals, sheet, end, cells].concat())])
}

/// A workbook of one sheet with these rows, whose styles are a fraction, a time, hours, a number with zeros, a date and a
/// percentage.
fn workbook(rows: &str) -> Vec<u8> {
    let codes = [
        "# ?/?",
        "hh:mm",
        "[h]:mm",
        "00000",
        "d. mmmm yyyy hh:mm",
        "0%",
    ];
    let formats: String = codes
        .iter()
        .enumerate()
        .map(|(index, code)| {
            format!(
                "<numFmt numFmtId=\"{}\" formatCode=\"{code}\"/>",
                164 + index
            )
        })
        .collect();
    let styles: String = (0..codes.len())
        .map(|index| format!("<xf numFmtId=\"{}\" fontId=\"0\" fillId=\"0\" borderId=\"0\" applyNumberFormat=\"1\"/>", 164 + index))
        .collect();
    let styles = format!(
        "{XML}<styleSheet xmlns=\"{SHEET}\"><numFmts count=\"6\">{formats}</numFmts><fonts count=\"1\"><font/></fonts><fills count=\"1\"><fill/></fills>\
         <borders count=\"1\"><border/></borders><cellXfs count=\"7\"><xf numFmtId=\"0\"/>{styles}</cellXfs></styleSheet>"
    );
    package(
        "xl/workbook.xml",
        "officeDocument",
        &[
            ("xl/workbook.xml", "spreadsheetml.sheet.main"),
            ("xl/worksheets/sheet1.xml", "spreadsheetml.worksheet"),
            ("xl/styles.xml", "spreadsheetml.styles"),
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
                relationships(&[
                    ("rId1", "worksheet", "worksheets/sheet1.xml"),
                    ("rId2", "styles", "styles.xml"),
                ]),
            ),
            (
                "xl/worksheets/sheet1.xml",
                format!(
                    "{XML}<worksheet xmlns=\"{SHEET}\"><sheetData>{rows}</sheetData></worksheet>"
                ),
            ),
            ("xl/styles.xml", styles),
        ],
    )
}

/// A document that describes itself.
fn docx_with(body: &str, core: &str) -> Vec<u8> {
    let types = format!(
        "{XML}<Types xmlns=\"http://schemas.openxmlformats.org/package/2006/content-types\"><Default Extension=\"rels\" ContentType=\"application/vnd.openxmlformats-package.relationships+xml\"/>\
         <Override PartName=\"/word/document.xml\" ContentType=\"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml\"/>\
         <Override PartName=\"/docProps/core.xml\" ContentType=\"application/vnd.openxmlformats-package.core-properties+xml\"/></Types>"
    );
    let roots = format!(
        "{XML}<Relationships xmlns=\"{RELATIONSHIPS}\"><Relationship Id=\"rId1\" Type=\"{OFFICE}/officeDocument\" Target=\"word/document.xml\"/>\
         <Relationship Id=\"rId2\" Type=\"http://schemas.openxmlformats.org/package/2006/relationships/metadata/core-properties\" Target=\"docProps/core.xml\"/></Relationships>"
    );
    let document =
        format!("{XML}<w:document xmlns:w=\"{WORD}\"><w:body>{body}</w:body></w:document>");
    zipped(&[
        ("[Content_Types].xml", types.as_bytes()),
        ("_rels/.rels", roots.as_bytes()),
        ("word/document.xml", document.as_bytes()),
        ("docProps/core.xml", core.as_bytes()),
    ])
}

fn epub() -> Vec<u8> {
    let container = format!(
        "{XML}<container><rootfiles><rootfile full-path=\"OEBPS/book.opf\"/></rootfiles></container>"
    );
    let book = format!(
        "{XML}<package xmlns:dc=\"http://purl.org/dc/elements/1.1/\"><metadata><dc:title>The book</dc:title></metadata>\
         <manifest><item id=\"b\" href=\"two%20.xhtml\"/><item id=\"a\" href=\"../OEBPS/one.xhtml\"/></manifest>\
         <spine><itemref idref=\"a\"/><itemref idref=\"b\"/></spine></package>"
    );
    let page = |words: &str| {
        format!(
            "{XML}<html><head><title/><script src=\"x\"/></head><body><p>{words}</p></body></html>"
        )
    };
    zipped(&[
        ("mimetype", EPUB.as_bytes()),
        ("META-INF/container.xml", container.as_bytes()),
        ("OEBPS/book.opf", book.as_bytes()),
        ("OEBPS/two .xhtml", page("The second page").as_bytes()),
        ("OEBPS/one.xhtml", page("The first page").as_bytes()),
    ])
}

fn odt(body: &str, encrypted: bool) -> Vec<u8> {
    open_document(
        ODT,
        &format!("<office:text>{body}</office:text>"),
        encrypted,
    )
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
