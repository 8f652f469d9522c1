//! Files that are really read: small texts, web pages of 150 KB, PDFs of many pages. The same numbers make the same bytes.

use std::fmt::Write as _;
use std::path::Path;

const WORDS: [&str; 16] = [
    "gauge", "level", "river", "station", "record", "flood", "metre", "season", "channel",
    "survey", "bridge", "delta", "reading", "current", "basin", "water",
];
/// Bytes of a heavy web page.
const PAGE_BYTES: usize = 150_000;
/// Lines of a page of a PDF, and words of a line.
const LINES: usize = 40;
const WORDS_A_LINE: usize = 10;

/// So many words, others for each seed.
pub(super) fn words(seed: u64, count: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut text = String::new();
    for number in 0..count {
        state = state
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        // The upper bits are the better mixed ones.
        let word = WORDS[(state >> 60) as usize];
        let end = if number % 12 == 11 { ". " } else { " " };
        text += word;
        text += end;
    }
    text
}

/// Writes so many small texts of so many words; each begins with its number, so that no two are alike.
pub(super) fn small(folder: &Path, files: u32, count: usize) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for number in 0..files {
        let text = format!("Report {number}. {}", words(number.into(), count));
        std::fs::write(folder.join(format!("report-{number:05}.txt")), text)?;
    }
    Ok(())
}

/// Writes heavy documents.
pub(super) fn heavy(
    folder: &Path,
    pages: u32,
    pdfs: u32,
    pages_of_pdf: u32,
) -> std::io::Result<()> {
    std::fs::create_dir_all(folder)?;
    for number in 0..pages {
        let mut text = String::from("<html><head><title>Levels</title></head><body>");
        let mut part = u64::from(number) << 32;
        while text.len() < PAGE_BYTES {
            part += 1;
            // Writing to a String never fails.
            let _ = write!(text, "<p>{}</p>", words(part, 100));
        }
        text += "</body></html>";
        std::fs::write(folder.join(format!("page-{number:03}.html")), text)?;
    }
    for number in 0..pdfs {
        let path = folder.join(format!("book-{number:03}.pdf"));
        std::fs::write(path, pdf(number.into(), pages_of_pdf))?;
    }
    Ok(())
}

/// A PDF of so many pages of text: its catalogue, pages and font, then each page and what stands on it.
fn pdf(seed: u64, pages: u32) -> Vec<u8> {
    let page_object = |page: u32| 4 + 2 * page;
    let kids: Vec<String> = (0..pages)
        .map(|page| format!("{} 0 R", page_object(page)))
        .collect();
    let mut objects = vec![
        "<< /Type /Catalog /Pages 2 0 R >>".to_owned(),
        format!(
            "<< /Type /Pages /Count {pages} /Kids [{}] >>",
            kids.join(" ")
        ),
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>".to_owned(),
    ];
    for page in 0..pages {
        let content = page_object(page) + 1;
        objects.push(format!(
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {content} 0 R /Resources << /Font << /F 3 0 R >> >> >>"
        ));
        let mut text = String::from("BT /F 10 Tf 50 790 Td 14 TL\n");
        for line in 0..LINES {
            let seed = (seed << 40) | (u64::from(page) << 8) | line as u64;
            let _ = writeln!(text, "({}) Tj T*", words(seed, WORDS_A_LINE));
        }
        text += "ET";
        objects.push(format!(
            "<< /Length {} >>\nstream\n{text}\nendstream",
            text.len()
        ));
    }
    let mut file = String::from("%PDF-1.4\n");
    let mut at = Vec::new();
    for (number, object) in objects.iter().enumerate() {
        at.push(file.len());
        let _ = write!(file, "{} 0 obj\n{object}\nendobj\n", number + 1);
    }
    let table = file.len();
    let _ = write!(file, "xref\n0 {}\n0000000000 65535 f \n", at.len() + 1);
    for offset in &at {
        let _ = writeln!(file, "{offset:010} 00000 n ");
    }
    let _ = write!(
        file,
        "trailer\n<< /Size {} /Root 1 0 R >>\nstartxref\n{table}\n%%EOF\n",
        at.len() + 1
    );
    file.into_bytes()
}
