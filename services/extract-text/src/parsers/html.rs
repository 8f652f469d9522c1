//! HTML: its visible words, without the marks.

use std::fs::File;
use std::io::Read;

use caudal_domain::Reason;
use caudal_stage::sandbox::{ParseFailure, Parsed};
use html2text::config;
use html2text::render::TrivialDecorator;
use serde_json::Value;

use super::{Request, answer, corrupt};
use crate::encoding;
use crate::text::Text;

/// Columns a paragraph is wrapped at: wide enough that lines are sentences, and a bound for what one rule can draw.
const LINE_WIDTH: usize = 1000;

/// The character that rules are drawn with.
const RULE: char = '─';

pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let mut bytes = Vec::new();
    let read = input
        .take(request.max_unpacked_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| ParseFailure::new(Reason::Internal, format!("the input: {error}")))?;
    let cut = read as u64 > request.max_unpacked_bytes;
    let encoding = encoding::detect_html(&bytes, cut);
    let (page, replaced) = encoding.decode_with_bom_removal(&bytes);

    let rendered = config::with_decorator(TrivialDecorator::new())
        .raw_mode(true)
        .link_footnotes(false)
        .allow_width_overflow()
        .string_from_read(page.as_bytes(), LINE_WIDTH)
        .map_err(|error| corrupt(&error))?;
    let mut text = Text::bounded(request.max_text_bytes);
    for line in rendered.lines() {
        let line = line.trim_end();
        if line.is_empty() || !line.chars().all(|character| character == RULE) {
            text.push(line);
            text.push_char('\n');
        }
    }
    if cut {
        text.mark_truncated();
    }
    let (text, mut extracted) = text.finish();
    extracted.encoding = Some(encoding.name().to_ascii_lowercase());
    extracted.replaced = replaced && !cut;
    answer(text, &extracted)
}
