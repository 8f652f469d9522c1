//! Where a chunk stands in its document: characters beside bytes, and page and heading as far as extract-text tells.

use serde_json::Value;

use crate::chunk::Chunk;

/// What parts the pages of a text, its slides and its sheets.
const PAGE_BREAK: char = '\u{c}';

/// What extract-text told of the parts of a document.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parts {
    /// There are pages, slides or sheets, parted by page breaks.
    pub(crate) are_pages: bool,
    /// The names of the sheets, in their order.
    pub(crate) sheets: Vec<String>,
}

impl Parts {
    /// What the facts of the text's stage say.
    pub(crate) fn of(facts: &Value) -> Self {
        let sheets: Vec<String> = facts["sheets"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|name| name.as_str().unwrap_or_default().to_owned())
            .collect();
        Self {
            are_pages: facts["pages"].is_u64() || !sheets.is_empty(),
            sheets,
        }
    }

    /// The places of `chunks`, which are in the order of the text, in one pass.
    pub(crate) fn places<'a>(&'a self, text: &str, chunks: &[Chunk]) -> Vec<Place<'a>> {
        let mut start = Cursor::default();
        let mut end = Cursor::default();
        let mut places = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            start.advance(text, chunk.start);
            end.advance(text, chunk.end);
            let page = self.are_pages.then_some(start.breaks + 1);
            let heading = self.sheets.get(start.breaks).map(String::as_str);
            places.push(Place {
                chunk: *chunk,
                start_character: start.character,
                end_character: end.character,
                page,
                heading: heading.filter(|name| !name.is_empty()),
            });
        }
        places
    }
}

/// A chunk and where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    /// Its bytes and tokens.
    pub(crate) chunk: Chunk,
    /// Its first character, counted from 0.
    pub(crate) start_character: usize,
    /// The character behind its last one.
    pub(crate) end_character: usize,
    /// The page, slide or sheet that it begins on, counted from 1.
    pub(crate) page: Option<usize>,
    /// The name of the sheet that it begins on.
    pub(crate) heading: Option<&'a str>,
}

/// A place in a text that only moves on.
#[derive(Debug, Default)]
struct Cursor {
    byte: usize,
    character: usize,
    breaks: usize,
}

impl Cursor {
    fn advance(&mut self, text: &str, byte: usize) {
        for character in text[self.byte..byte.max(self.byte)].chars() {
            self.character += 1;
            self.breaks += usize::from(character == PAGE_BREAK);
        }
        self.byte = byte.max(self.byte);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chunk(start: usize, end: usize) -> Chunk {
        Chunk {
            start,
            end,
            tokens: 1,
        }
    }

    #[test]
    fn a_chunk_has_its_characters_and_the_page_that_it_begins_on() {
        let text = "uno\u{c}señal\u{c}tres";
        let parts = Parts::of(&json!({ "pages": 3 }));
        let places = parts.places(
            text,
            &[chunk(0, 3), chunk(0, 10), chunk(4, 10), chunk(11, 15)],
        );
        let found: Vec<_> = places
            .iter()
            .map(|place| (place.start_character, place.end_character, place.page))
            .collect();
        assert_eq!(
            found,
            [
                (0, 3, Some(1)),
                (0, 9, Some(1)),
                (4, 9, Some(2)),
                (10, 14, Some(3))
            ]
        );
    }

    #[test]
    fn a_sheet_is_a_page_with_a_heading_and_a_plain_text_has_neither() {
        let parts = Parts::of(&json!({ "sheets": ["Aforo", ""] }));
        let text = "Aforo\n1\u{c}\n2";
        let places = parts.places(text, &[chunk(0, 7), chunk(9, 10)]);
        assert_eq!(
            (places[0].page, places[0].heading),
            (Some(1), Some("Aforo"))
        );
        assert_eq!((places[1].page, places[1].heading), (Some(2), None));
        let plain = Parts::of(&json!({ "words": 3 }));
        assert_eq!(plain.places(text, &[chunk(9, 10)])[0].page, None);
    }
}
