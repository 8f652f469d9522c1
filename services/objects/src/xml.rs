//! What S3 says in XML, as far as it is read and written here: errors, what became of a copy and of deletions.

use std::fmt::Write;

use quick_xml::events::Event;
use quick_xml::{Reader, XmlVersion};

/// Elements within elements that are read: S3's answers have three.
const MAX_DEPTH: usize = 8;

/// An element, its text, and what is in it. Attributes and prefixes mean nothing here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) text: String,
    pub(crate) children: Vec<Element>,
}

impl Element {
    /// The outermost element of a document; none where it is not one.
    pub(crate) fn parse(document: &[u8]) -> Option<Element> {
        let document = std::str::from_utf8(document).ok()?;
        let mut reader = Reader::from_str(document);
        let mut open: Vec<Element> = Vec::new();
        loop {
            let closed = match reader.read_event().ok()? {
                Event::Start(tag) => {
                    if open.len() == MAX_DEPTH {
                        return None;
                    }
                    open.push(Element::named(tag.local_name().as_ref()));
                    continue;
                }
                Event::Empty(tag) => Element::named(tag.local_name().as_ref()),
                Event::End(_) => open.pop()?,
                Event::Text(text) => {
                    if let Some(element) = open.last_mut() {
                        let text = text.xml_content(XmlVersion::Implicit1_0);
                        element.text.push_str(&text);
                    }
                    continue;
                }
                Event::CData(text) => {
                    if let Some(element) = open.last_mut() {
                        let text = text.xml_content(XmlVersion::Implicit1_0);
                        element.text.push_str(&text);
                    }
                    continue;
                }
                Event::GeneralRef(reference) => {
                    if let Some(element) = open.last_mut() {
                        match reference.resolve_char_ref() {
                            Ok(Some(character)) => element.text.push(character),
                            _ => element.text.push_str(
                                quick_xml::escape::resolve_predefined_entity(&reference)
                                    .unwrap_or_default(),
                            ),
                        }
                    }
                    continue;
                }
                Event::Eof => return None,
                _ => continue,
            };
            match open.last_mut() {
                Some(parent) => parent.children.push(closed),
                None => return Some(closed),
            }
        }
    }

    fn named(name: &str) -> Element {
        Element {
            name: name.to_owned(),
            ..Element::default()
        }
    }

    /// The text of the first child of that name; empty where there is none.
    pub(crate) fn text_of(&self, name: &str) -> &str {
        self.children
            .iter()
            .find(|child| child.name == name)
            .map_or("", |child| child.text.trim())
    }
}

/// An error as S3 words it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Words {
    pub(crate) code: String,
    pub(crate) message: String,
}

impl Words {
    /// Those of an `Error` element, which some stores wrap in another.
    pub(crate) fn of(element: &Element) -> Option<Words> {
        if element.name != "Error" {
            return element.children.iter().find_map(Words::of);
        }
        Some(Words {
            code: element.text_of("Code").to_owned(),
            message: element.text_of("Message").to_owned(),
        })
    }
}

/// The request that deletes these keys and lists only what failed.
pub(crate) fn deletion(keys: &[String]) -> String {
    const AROUND_A_KEY: usize = "<Object><Key></Key></Object>".len();
    let bytes: usize = keys.iter().map(|key| key.len() + AROUND_A_KEY).sum();
    let mut text = String::with_capacity(bytes + 128);
    text.push_str("<Delete xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">");
    for key in keys {
        text.push_str("<Object><Key>");
        push_escaped(&mut text, key);
        text.push_str("</Key></Object>");
    }
    text.push_str("<Quiet>true</Quiet></Delete>");
    text
}

/// Line ends and other controls are written as numbers, which no reader takes for white space.
fn push_escaped(text: &mut String, key: &str) {
    for character in key.chars() {
        match character {
            '&' => text.push_str("&amp;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            '"' => text.push_str("&quot;"),
            '\'' => text.push_str("&apos;"),
            '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{2028}' => {
                let _ = write!(text, "&#x{:X};", u32::from(character));
            }
            _ => text.push(character),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_read_wherever_it_stands() {
        let plain = b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>NoSuchKey</Code>\
                      <Message>no &lt;such&gt; &#x6b;ey</Message><Key>k</Key></Error>";
        let words = Words::of(&Element::parse(plain).unwrap()).unwrap();
        assert_eq!(words.code, "NoSuchKey");
        assert_eq!(words.message, "no <such> key");
        let wrapped = b"<ErrorResponse><Error><Code>A</Code></Error></ErrorResponse>";
        let words = Words::of(&Element::parse(wrapped).unwrap()).unwrap();
        assert_eq!((words.code.as_str(), words.message.as_str()), ("A", ""));
        let other = Element::parse(b"<CopyObjectResult/>").unwrap();
        assert_eq!(Words::of(&other), None);
    }

    #[test]
    fn an_etag_is_read_with_its_quotes_however_they_are_spelled() {
        for etag in ["\"abc-2\"", "&quot;abc-2&quot;", "&#34;abc-2&#34;"] {
            let answer = format!(
                "  \n<CopyObjectResult xmlns=\"x\"><LastModified>t</LastModified><ETag>{etag}</ETag></CopyObjectResult>"
            );
            let element = Element::parse(answer.as_bytes()).unwrap();
            assert_eq!(element.name, "CopyObjectResult");
            assert_eq!(element.text_of("ETag"), "\"abc-2\"");
        }
    }

    #[test]
    fn what_is_no_document_is_none_and_depth_is_bounded() {
        let deep = "<a>".repeat(10_000);
        for text in ["", "  ", "words", "<a>", "<a></b>", "<a", deep.as_str()] {
            assert_eq!(Element::parse(text.as_bytes()), None, "{text}");
        }
        assert_eq!(Element::parse(b"<a>\xff</a>"), None);
    }

    #[test]
    fn a_deletion_names_every_key_as_it_is() {
        let keys = ["a&b<c>\"'\r\n\u{2028}ñ".to_owned(), "d".to_owned()];
        let text = deletion(&keys);
        let element = Element::parse(text.as_bytes()).unwrap();
        let read: Vec<&str> = element
            .children
            .iter()
            .filter(|child| child.name == "Object")
            .map(|object| object.children[0].text.as_str())
            .collect();
        assert_eq!(read, keys);
        assert_eq!(element.text_of("Quiet"), "true");
    }
}
