//! Presentations, old and new: slide by slide, each with its notes behind it. A footer, a date and a number stand behind what
//! their slide is about.

mod notes;

use std::fs::File;
use std::rc::Rc;

use caudal_stage::sandbox::{ParseFailure, Parsed};
use office_oxide::ppt::{PptDocument, TextType};
use office_oxide::pptx::{
    GraphicContent, PptxDocument, Shape, ShapePosition, Slide, Table, TextBody, TextContent,
};
use serde_json::Value;

use super::office;
use super::{Request, answer};
use crate::text::Text;
use notes::Notes;

/// Groups in groups that are looked into.
const MAX_DEPTH: usize = 200;
/// So deep in groups one that is empty may have been left empty by the library, which looks into a hundred.
const EMPTIED_DEPTH: usize = 90;

pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let document = office::open(&request, input)?;
    let mut text = Text::bounded(request.max_text_bytes);
    let mut unreadable = 0;
    let mut pages = 0;
    if let Some(slides) = document.as_pptx() {
        pages = slides.slides.len();
        let notes = notes::read(slides, input, request.max_text_bytes);
        unreadable = new_slides(slides, notes.as_deref(), &mut text);
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
fn new_slides(
    document: &PptxDocument,
    notes: Option<&[Option<Rc<Notes>>]>,
    text: &mut Text,
) -> u32 {
    let mut unreadable = office::count(document.unreadable_parts.len())
        + office::count(document.unreadable_parts_omitted);
    for (index, slide) in document.slides.iter().enumerate() {
        if text.is_full() {
            break;
        }
        text.begin_page();
        if slide.parse_error.is_some() {
            unreadable += 1;
            continue;
        }
        let notes = match notes {
            Some(pages) => pages.get(index).cloned().flatten(),
            // What the library takes for them.
            None => slide.notes.as_ref().map(|kept| {
                Rc::new(Notes {
                    words: body(kept),
                    is_damaged: true,
                })
            }),
        };
        unreadable += push_slide(slide, notes.as_deref(), text);
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

/// How many of its parts, groups that lie too deep and the page of notes, could not be read.
fn push_slide(slide: &Slide, notes: Option<&Notes>, text: &mut Text) -> u32 {
    let mut places = Vec::new();
    let too_deep = gather(&slide.shapes, 0, &mut places);
    // From the top down and from left to right; what has no place of its own follows in its order.
    places.sort_by_key(|found| match &found.place {
        Some(place) => (found.is_furniture, false, place.y, place.x),
        None => (found.is_furniture, true, 0, 0),
    });
    for found in &places {
        push_block(&found.words, text);
    }
    if let Some(notes) = notes {
        push_block(&notes.words, text);
    }
    for comment in slide.comments() {
        let author = comment.author.as_deref().unwrap_or_default();
        match author.trim() {
            "" => push_block(&comment.text, text),
            author => push_block(&format!("{author}: {}", comment.text.trim()), text),
        }
    }
    too_deep + u32::from(notes.is_some_and(|notes| notes.is_damaged))
}

fn push_block(words: &str, text: &mut Text) {
    let words = words.trim();
    if !words.is_empty() {
        text.push(words);
        text.end_line();
    }
}

/// Words of a slide, and where they stand.
struct Found {
    place: Option<ShapePosition>,
    is_furniture: bool,
    words: String,
}

/// How many groups lie too deep to be read.
fn gather(shapes: &[Shape], depth: usize, places: &mut Vec<Found>) -> u32 {
    if depth > MAX_DEPTH {
        return 1;
    }
    let mut too_deep = 0;
    for shape in shapes {
        match shape {
            Shape::AutoShape(shape) => {
                let kind = shape
                    .placeholder
                    .as_ref()
                    .and_then(|placeholder| placeholder.ph_type.as_deref());
                if let Some(words) = &shape.text_body {
                    places.push(Found {
                        place: shape.position.clone(),
                        is_furniture: notes::is_furniture(kind),
                        words: body(words),
                    });
                }
            }
            Shape::Group(group) if group.children.is_empty() => {
                too_deep += u32::from(depth >= EMPTIED_DEPTH);
            }
            Shape::Group(group) => too_deep += gather(&group.children, depth + 1, places),
            Shape::GraphicFrame(frame) => {
                let words = match &frame.content {
                    GraphicContent::Table(rows) => table(rows),
                    GraphicContent::Text(lines) => lines.join("\n"),
                    GraphicContent::OleObject(_) | GraphicContent::Unknown => continue,
                };
                places.push(Found {
                    place: frame.position.clone(),
                    is_furniture: false,
                    words,
                });
            }
            Shape::Picture(_) | Shape::Connector(_) => {}
        }
    }
    too_deep
}

fn body(body: &TextBody) -> String {
    let mut words = String::new();
    for paragraph in &body.paragraphs {
        for content in &paragraph.content {
            match content {
                TextContent::Run(run) => words.push_str(&run.text),
                TextContent::LineBreak => words.push('\n'),
                TextContent::Field(field) => words.push_str(&field.text),
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
