//! Mails, and pages saved as such: headers and bodies. What is attached is named and counted, not read.

use std::fs::File;

use caudal_stage::sandbox::{ParseFailure, Parsed};
use mail_parser::{Address, DateTime, Message, MessageParser, MessagePart, MimeHeaders, PartType};
use serde_json::Value;

use super::html;
use super::{Request, answer, corrupt, read_all};
use crate::text::{Properties, Text};

/// The most people of one header that are named.
const MAX_PEOPLE: usize = 200;

pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let bytes = read_all(input)?;
    let mail = MessageParser::default()
        .parse(&bytes)
        .ok_or_else(|| corrupt("it has no header that can be read"))?;
    let mut text = Text::bounded(request.max_text_bytes);
    let mut properties = Properties {
        title: mail.subject().and_then(Properties::tidy),
        author: mail
            .from()
            .and_then(|people| Properties::tidy(&named(people))),
        created: mail.date().map(DateTime::to_rfc3339),
        ..Properties::default()
    };
    let is_page = request.media_type.starts_with("multipart/");
    if !is_page {
        push_headers(&mail, &mut text);
    }
    for body in mail.text_bodies() {
        match &body.body {
            PartType::Html(page) => {
                let found = html::render(page, false, &mut text);
                properties.title = properties.title.or(found.title);
                properties.language = properties.language.or(found.language);
            }
            PartType::Text(words) => push_lines(words, &mut text),
            _ => {}
        }
        text.end_line();
    }
    let (text, mut extracted) = text.finish();
    extracted.properties = properties;
    extracted.replaced = text.matches(char::REPLACEMENT_CHARACTER).count() as u64;
    for part in mail.attachments().filter(|part| is_attached(part)) {
        let nested = part.message().and_then(Message::subject);
        extracted.push_attachment(part.attachment_name().or(nested));
    }
    answer(text, &extracted)
}

fn push_headers(mail: &Message<'_>, text: &mut Text) {
    let people = |people: Option<&Address<'_>>| people.map(named).unwrap_or_default();
    let lines = [
        ("Subject", mail.subject().unwrap_or_default().to_owned()),
        ("From", people(mail.from())),
        ("To", people(mail.to())),
        ("Cc", people(mail.cc())),
        (
            "Date",
            mail.date().map_or_else(String::new, DateTime::to_rfc3339),
        ),
    ];
    for (name, words) in lines {
        if let Some(words) = Properties::tidy(&words) {
            text.push(&format!("{name}: {words}\n"));
        }
    }
    text.end_paragraph();
}

/// Line ends as everywhere else in a text.
fn push_lines(words: &str, text: &mut Text) {
    for line in words.lines() {
        text.push(line);
        text.push_char('\n');
    }
}

fn named(people: &Address<'_>) -> String {
    let each =
        people
            .iter()
            .take(MAX_PEOPLE)
            .map(|person| match (person.name(), person.address()) {
                (Some(name), Some(address)) => format!("{name} <{address}>"),
                (Some(one), None) | (None, Some(one)) => one.to_owned(),
                (None, None) => String::new(),
            });
    each.collect::<Vec<_>>().join(", ")
}

/// Whether a part was attached by somebody: a picture that a page shows belongs to the page.
fn is_attached(part: &MessagePart<'_>) -> bool {
    let is_called_so = part
        .content_disposition()
        .is_some_and(mail_parser::ContentType::is_attachment);
    let is_shown = part.content_id().is_some() || part.content_location().is_some();
    is_called_so || !is_shown
}
