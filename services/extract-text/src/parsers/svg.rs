//! The words in a drawing: what it writes, its title and its descriptions.

use std::fs::File;
use std::io::BufReader;

use caudal_stage::sandbox::{ParseFailure, Parsed};
use quick_xml::Reader;
use quick_xml::XmlVersion;
use quick_xml::events::Event;
use serde_json::Value;

use super::package::{malformed, push_reference};
use super::{Request, answer};
use crate::text::{Properties, Text};

pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let mut reader = Reader::from_reader(BufReader::new(input));
    reader.config_mut().check_end_names = false;
    let mut buffer = Vec::new();
    let mut text = Text::bounded(request.max_text_bytes);
    let mut title = None;
    // How deep inside an element of words the reader is, and how deep inside one that nobody sees.
    let (mut words, mut unseen) = (0_usize, 0_usize);
    let mut title_begins = None;
    while !text.is_full() {
        buffer.clear();
        match reader
            .read_event_into(&mut buffer)
            .map_err(|error| malformed(&error))?
        {
            Event::Start(tag) => match tag.local_name().as_ref() {
                "text" | "desc" | "foreignObject" | "flowRoot" => words += 1,
                "title" => {
                    words += 1;
                    title_begins.get_or_insert(text.len());
                }
                "style" | "script" => unseen += 1,
                "tspan" | "p" | "div" | "flowPara" if words > 0 => text.end_word(),
                _ => {}
            },
            Event::End(tag) => match tag.local_name().as_ref() {
                "text" | "desc" | "foreignObject" | "flowRoot" | "title" => {
                    words = words.saturating_sub(1);
                    if title.is_none()
                        && let Some(begins) = title_begins
                    {
                        title = Some(text.since(begins).to_owned());
                    }
                    text.end_line();
                }
                "style" | "script" => unseen = unseen.saturating_sub(1),
                _ => {}
            },
            Event::Text(content) if words > 0 && unseen == 0 => {
                let content = content.xml_content(XmlVersion::Implicit1_0);
                text.push_collapsed(&content);
            }
            Event::CData(content) if words > 0 && unseen == 0 => {
                text.push_collapsed(&content.xml_content(XmlVersion::Implicit1_0));
            }
            Event::GeneralRef(reference) if words > 0 && unseen == 0 => {
                push_reference(&reference, &mut text);
            }
            Event::Eof => break,
            _ => {}
        }
    }
    let (text, mut extracted) = text.finish();
    extracted.properties.title = title.as_deref().and_then(Properties::tidy);
    answer(text, &extracted)
}
