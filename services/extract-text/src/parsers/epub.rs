//! A book: pages of XHTML in the order of its spine.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;

use caudal_stage::sandbox::{ParseFailure, Parsed};
use quick_xml::events::Event;
use quick_xml::{Reader, XmlVersion};
use serde_json::Value;

use super::package::{Package, attribute, malformed, open, part, unreadable};
use super::{Request, answer, corrupt, encrypted, html};
use crate::encoding;
use crate::text::{Properties, Text};

const CONTAINER_PART: &str = "META-INF/container.xml";
const RIGHTS_PART: &str = "META-INF/rights.xml";

pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let bound = request.max_unpacked_bytes;
    let mut package = open(input)?;
    if package.index_for_name(RIGHTS_PART).is_some() {
        return Err(encrypted());
    }
    let opf = main_part(&mut package, bound)?;
    let book = Book::read(&mut package, &opf, bound)?;
    let mut text = Text::bounded(request.max_text_bytes);
    let mut left = bound;
    let mut unreadable_parts = 0;
    let mut pages = 0;
    for page in &book.pages {
        if text.is_full() {
            break;
        }
        match bytes_of(&mut package, page, left) {
            Ok(bytes) => {
                left = left.saturating_sub(bytes.len() as u64);
                text.begin_page();
                pages += 1;
                let page = encoding::decode_html(&bytes, false);
                html::render(&page.text, true, &mut text);
                text.end_line();
            }
            Err(failure) if failure.reason == caudal_domain::Reason::CorruptDocument => {
                unreadable_parts += 1;
            }
            Err(failure) => return Err(failure),
        }
    }
    if pages == 0 {
        return Err(corrupt("none of its pages can be read"));
    }
    let (text, mut extracted) = text.finish();
    extracted.pages = Some(pages);
    extracted.unreadable_parts = unreadable_parts;
    extracted.properties = book.properties;
    answer(text, &extracted)
}

fn bytes_of(package: &mut Package<'_>, name: &str, bound: u64) -> Result<Vec<u8>, ParseFailure> {
    let mut found = part(package, name, bound)?.ok_or_else(|| corrupt(&format!("no {name}")))?;
    let mut bytes = Vec::new();
    found
        .read_to_end(&mut bytes)
        .map_err(|error| unreadable(&error))?;
    Ok(bytes)
}

/// The part that lists the others.
fn main_part(package: &mut Package<'_>, bound: u64) -> Result<String, ParseFailure> {
    let container = bytes_of(package, CONTAINER_PART, bound)?;
    let mut reader = Reader::from_reader(container.as_slice());
    loop {
        match reader.read_event().map_err(|error| malformed(&error))? {
            Event::Start(tag) | Event::Empty(tag) if tag.local_name().as_ref() == "rootfile" => {
                if let Some(path) = attribute(&tag, "full-path") {
                    return Ok(path);
                }
            }
            Event::Eof => return Err(corrupt("its container names no book")),
            _ => {}
        }
    }
}

#[derive(Default)]
struct Book {
    /// The names of the parts that are its pages, in order.
    pages: Vec<String>,
    properties: Properties,
}

impl Book {
    fn read(package: &mut Package<'_>, opf: &str, bound: u64) -> Result<Self, ParseFailure> {
        let bytes = bytes_of(package, opf, bound)?;
        let decoded = encoding::decode_html(&bytes, false);
        let folder = opf.rsplit_once('/').map_or("", |(folder, _)| folder);
        let mut reader = Reader::from_str(&decoded.text);
        let mut items: HashMap<String, String> = HashMap::new();
        let mut book = Self::default();
        let mut within = String::new();
        loop {
            match reader.read_event().map_err(|error| malformed(&error))? {
                Event::Start(tag) | Event::Empty(tag) => {
                    tag.local_name().as_ref().clone_into(&mut within);
                    match within.as_str() {
                        "item" => {
                            if let (Some(id), Some(href)) =
                                (attribute(&tag, "id"), attribute(&tag, "href"))
                            {
                                items.insert(id, resolved(folder, &href));
                            }
                        }
                        "itemref" => {
                            let page = attribute(&tag, "idref").and_then(|id| items.get(&id));
                            book.pages.extend(page.cloned());
                        }
                        _ => {}
                    }
                }
                Event::End(_) => within.clear(),
                Event::Text(words) => {
                    let words = Properties::tidy(&words.xml_content(XmlVersion::Implicit1_0));
                    let place = match within.as_str() {
                        "title" => &mut book.properties.title,
                        "creator" => &mut book.properties.author,
                        "language" => &mut book.properties.language,
                        "date" => &mut book.properties.created,
                        _ => continue,
                    };
                    *place = place.take().or(words);
                }
                Event::Eof => return Ok(book),
                _ => {}
            }
        }
    }
}

/// A reference of the list as the name of a part.
fn resolved(folder: &str, href: &str) -> String {
    let href = href.split('#').next().unwrap_or_default();
    let mut path: Vec<&str> = folder.split('/').filter(|name| !name.is_empty()).collect();
    for name in href.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                path.pop();
            }
            name => path.push(name),
        }
    }
    percent_decoded(&path.join("/"))
}

fn percent_decoded(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .filter(|_| first == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
