//! Presentations, old and new: slide by slide, each with its notes behind it. What every slide shows alike, such as its number,
//! is no text of it.

use std::fs::File;

use caudal_stage::sandbox::{ParseFailure, Parsed};
use office_oxide::ppt::{PptDocument, TextType};
use office_oxide::pptx::{
    GraphicContent, PptxDocument, Shape, ShapePosition, Slide, Table, TextBody, TextContent,
};
use serde_json::Value;

use super::office;
use super::{Request, answer};
use crate::text::Text;

/// Groups in groups that are looked into.
const MAX_DEPTH: usize = 100;

pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let document = office::open(&request, input)?;
    let mut text = Text::bounded(request.max_text_bytes);
    let mut unreadable = 0;
    let mut pages = 0;
    if let Some(slides) = document.as_pptx() {
        pages = slides.slides.len();
        unreadable = new_slides(slides, &mut text);
    } else if let Some(slides) = document.as_ppt() {
        pages = slides.slides.len();
        old_slides(slides, &mut text);
    }
    let (text, mut extracted) = text.finish();
    extracted.pages = Some(office::count(pages));
    extracted.unreadable_parts = unreadable;
    extracted.properties = office::properties(&document);
    answer(text, &extracted)
}

/// How many slides and parts could not be read.
fn new_slides(document: &PptxDocument, text: &mut Text) -> u32 {
    let mut unreadable = office::count(document.unreadable_parts.len())
        + office::count(document.unreadable_parts_omitted);
    for slide in &document.slides {
        if text.is_full() {
            break;
        }
        text.begin_page();
        if slide.parse_error.is_some() {
            unreadable += 1;
            continue;
        }
        push_slide(slide, text);
    }
    push_backgrounds(document, text);
    unreadable
}

/// What layouts and masters show on the slides that use them, each once, behind the slides.
fn push_backgrounds(document: &PptxDocument, text: &mut Text) {
    let backgrounds = document.master_static_text();
    if !backgrounds.is_empty() {
        text.begin_page();
    }
    for words in backgrounds {
        push_block(&words, text);
    }
}

fn push_slide(slide: &Slide, text: &mut Text) {
    let mut places = Vec::new();
    gather(&slide.shapes, 0, &mut places);
    // From the top down and from left to right; what has no place of its own follows in its order.
    places.sort_by_key(|(place, _)| match place {
        Some(place) => (false, place.y, place.x),
        None => (true, 0, 0),
    });
    for (_, words) in &places {
        push_block(words, text);
    }
    if let Some(notes) = &slide.notes {
        push_block(&body(notes), text);
    }
    for comment in slide.comments() {
        let author = comment.author.as_deref().unwrap_or_default();
        match author.trim() {
            "" => push_block(&comment.text, text),
            author => push_block(&format!("{author}: {}", comment.text.trim()), text),
        }
    }
}

fn push_block(words: &str, text: &mut Text) {
    let words = words.trim();
    if !words.is_empty() {
        text.push(words);
        text.end_line();
    }
}

fn gather(shapes: &[Shape], depth: usize, places: &mut Vec<(Option<ShapePosition>, String)>) {
    if depth > MAX_DEPTH {
        return;
    }
    for shape in shapes {
        match shape {
            Shape::AutoShape(shape) => {
                let kind = shape
                    .placeholder
                    .as_ref()
                    .and_then(|placeholder| placeholder.ph_type.as_deref());
                if let Some(words) = &shape.text_body
                    && kind != Some("sldNum")
                {
                    places.push((shape.position.clone(), body(words)));
                }
            }
            Shape::Group(group) => gather(&group.children, depth + 1, places),
            Shape::GraphicFrame(frame) => {
                let words = match &frame.content {
                    GraphicContent::Table(rows) => table(rows),
                    GraphicContent::Text(lines) => lines.join("\n"),
                    GraphicContent::OleObject(_) | GraphicContent::Unknown => continue,
                };
                places.push((frame.position.clone(), words));
            }
            Shape::Picture(_) | Shape::Connector(_) => {}
        }
    }
}

fn body(body: &TextBody) -> String {
    let mut words = String::new();
    for paragraph in &body.paragraphs {
        for content in &paragraph.content {
            match content {
                TextContent::Run(run) => words.push_str(&run.text),
                TextContent::LineBreak => words.push('\n'),
                TextContent::Field(field) => {
                    let kind = field.field_type.as_deref().unwrap_or_default();
                    if !kind.starts_with("slidenum") {
                        words.push_str(&field.text);
                    }
                }
            }
        }
        words.push('\n');
    }
    words
}

fn table(table: &Table) -> String {
    let mut words = String::new();
    for row in &table.rows {
        for cell in &row.cells {
            if let Some(content) = &cell.text_body {
                words.push_str(&body(content).trim().replace('\n', " "));
            }
            if !cell.h_merge && !cell.v_merge {
                words.push('\t');
            }
        }
        words.truncate(words.trim_end_matches('\t').len());
        words.push('\n');
    }
    words
}

fn old_slides(document: &PptDocument, text: &mut Text) {
    for slide in &document.slides {
        text.begin_page();
        let (notes, shown): (Vec<_>, Vec<_>) = slide
            .text_runs
            .iter()
            .partition(|run| run.text_type == TextType::Notes);
        for run in shown.into_iter().chain(notes) {
            // Paragraphs and lines end in these.
            push_block(&run.text.replace(['\r', '\u{b}'], "\n"), text);
        }
        for row in slide.tables.iter().flat_map(|table| &table.rows) {
            let cells: Vec<String> = row
                .iter()
                .map(|runs| {
                    let words: Vec<&str> = runs.iter().map(|run| run.text.trim()).collect();
                    words.join(" ").replace(['\r', '\u{b}'], " ")
                })
                .collect();
            push_block(&cells.join("\t"), text);
        }
    }
    if !document.master_text.is_empty() {
        text.begin_page();
    }
    for run in &document.master_text {
        push_block(&run.text.replace(['\r', '\u{b}'], "\n"), text);
    }
}
