//! Pages of notes, read here: the library takes the first body of each and leaves out what else stands on the page.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::rc::Rc;

use office_oxide::core::opc::{OpcReader, PartName};
use office_oxide::core::relationships::{TargetMode, rel_types};
use office_oxide::pptx::PptxDocument;
use quick_xml::events::Event;
use quick_xml::{Reader, XmlVersion};

use crate::parsers::package::{attribute, push_reference};
use crate::text::Text;

/// What stands on a page beside what it is about.
pub(super) fn is_furniture(placeholder: Option<&str>) -> bool {
    matches!(placeholder, Some("hdr" | "ftr" | "dt" | "sldNum"))
}

/// A page of notes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// Its words, as far as it could be read.
    pub(super) words: String,
    /// Whether its end, or all of it, could not.
    pub(super) is_damaged: bool,
}

/// For each slide of the document its page of notes, if it has one. None where the package does not say whose they are.
pub(super) fn read(
    document: &PptxDocument,
    input: &mut File,
    bound: usize,
) -> Option<Vec<Option<Rc<Notes>>>> {
    io::Seek::rewind(input).ok()?;
    let mut package = OpcReader::new(io::BufReader::new(input)).ok()?;
    let main = package.main_document_part().ok()?;
    let links = package.read_rels_for(&main).ok()?;
    let listed = &document.presentation.slides;
    let mut seen = HashSet::new();
    let mut known: HashMap<PartName, Rc<Notes>> = HashMap::new();
    let mut pages = Vec::with_capacity(document.slides.len());
    for (index, slide) in listed.iter().enumerate() {
        let part = if slide.rel_id.is_empty() {
            PartName::new(&format!("/ppt/slides/slide{}.xml", index + 1))
        } else {
            links.resolve_target(&slide.rel_id, &main)
        };
        let Ok(part) = part else {
            pages.push(None);
            continue;
        };
        // A slide that is listed again is one slide.
        if !seen.insert(part.clone()) {
            continue;
        }
        let Some(notes) = notes_of(&mut package, &part) else {
            pages.push(None);
            continue;
        };
        let page = known.entry(notes).or_insert_with_key(|notes| {
            Rc::new(match package.read_part(notes) {
                Ok(content) => page(&String::from_utf8_lossy(&content), bound),
                Err(_) => Notes {
                    is_damaged: true,
                    ..Notes::default()
                },
            })
        });
        // Many slides may have one page of notes.
        pages.push(Some(Rc::clone(page)));
    }
    // Otherwise nobody knows whose they are.
    (pages.len() == document.slides.len()).then_some(pages)
}

fn notes_of(
    package: &mut OpcReader<io::BufReader<&mut File>>,
    slide: &PartName,
) -> Option<PartName> {
    let links = package.read_rels_for(slide).ok()?;
    let link = links
        .first_by_type(rel_types::NOTES_SLIDE)
        .filter(|link| link.target_mode == TargetMode::Internal)?;
    let notes = slide.resolve_relative(&link.target).ok();
    notes.filter(|notes| package.has_part(notes))
}

/// The words of a page: the notes, and behind them its header, footer, date and number.
fn page(content: &str, bound: usize) -> Notes {
    let mut reader = Reader::from_str(content);
    // As lenient as the library is with slides.
    reader.config_mut().check_end_names = false;
    reader.config_mut().allow_unmatched_ends = true;
    let mut body = Text::bounded(bound);
    let mut furniture = Text::bounded(bound);
    // How deep inside runs the reader is, and inside what is only there for those that cannot read another form of it.
    let (mut runs, mut unseen) = (0_usize, 0_usize);
    let mut is_beside = false;
    // Elements that are not at their end.
    let mut open = 0_usize;
    let is_damaged = loop {
        let words = if is_beside { &mut furniture } else { &mut body };
        let Ok(event) = reader.read_event() else {
            break true;
        };
        match event {
            Event::Start(_) => open += 1,
            Event::End(_) => open = open.saturating_sub(1),
            _ => {}
        }
        match event {
            Event::Start(tag) => match tag.local_name().as_ref() {
                "sp" => is_beside = false,
                "ph" => is_beside = is_furniture(attribute(&tag, "type").as_deref()),
                "t" => runs += 1,
                "Fallback" => unseen += 1,
                _ => {}
            },
            Event::Empty(tag) => match tag.local_name().as_ref() {
                "ph" => is_beside = is_furniture(attribute(&tag, "type").as_deref()),
                "br" => words.end_line(),
                _ => {}
            },
            Event::End(tag) => match tag.local_name().as_ref() {
                "t" => runs = runs.saturating_sub(1),
                "Fallback" => unseen = unseen.saturating_sub(1),
                "p" | "br" => words.end_line(),
                "sp" => {
                    words.end_line();
                    is_beside = false;
                }
                _ => {}
            },
            Event::Text(text) if runs > 0 && unseen == 0 => {
                words.push(&text.xml_content(XmlVersion::Implicit1_0));
            }
            Event::CData(text) if runs > 0 && unseen == 0 => {
                words.push(&text.xml_content(XmlVersion::Implicit1_0));
            }
            Event::GeneralRef(reference) if runs > 0 && unseen == 0 => {
                push_reference(&reference, words);
            }
            Event::Eof => break open > 0,
            _ => {}
        }
    };
    body.end_line();
    body.push(&furniture.finish().0);
    Notes {
        words: body.finish().0,
        is_damaged,
    }
}
