//! HTML: its visible words, without the marks. Read token by token and never as a tree, so that its cost grows with its
//! length and nothing grows with its depth.

use std::cell::RefCell;
use std::fs::File;
use std::io::Read;

use caudal_domain::{Reason, TextReader};
use caudal_stage::sandbox::{ParseFailure, Parsed};
use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{
    BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts,
};
use serde_json::Value;

use super::{Request, answer};
use crate::encoding;
use crate::text::{Properties, Text};

/// How much is handed to the tokenizer at once, in bytes: between two pieces a full text stops it.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces of which nothing came before a tag counts as endless: each of its attributes costs as much as there are before it.
const QUIET_PIECES: usize = 2;

pub(super) fn parse(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let request = Request::read(request)?;
    let mut bytes = Vec::new();
    let read = input
        .take(request.max_unpacked_bytes.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|error| ParseFailure::new(Reason::Internal, format!("the input: {error}")))?;
    let cut = read as u64 > request.max_unpacked_bytes;
    let decoded = encoding::decode_html(&bytes, cut);

    let mut text = Text::bounded(request.max_text_bytes);
    let is_xml = request.media_type.contains("xhtml");
    let properties = render(&decoded.text, is_xml, &mut text);
    if cut {
        text.mark_truncated();
    }
    text.end_line();
    let (text, mut extracted) = text.finish();
    extracted.encoding = Some(decoded.encoding);
    extracted.replaced = decoded.replaced;
    extracted.properties = properties;
    debug_assert_eq!(request.reader(), Some(TextReader::Html));
    answer(text, &extracted)
}

/// Puts the visible words of a page into `text`. In XML an element may close itself.
pub(super) fn render(page: &str, is_xml: bool, text: &mut Text) -> Properties {
    let sink = Sink {
        page: RefCell::new(Page {
            text,
            is_xml,
            unseen: None,
            preformatted: 0,
            pending: Gap::None,
            title: String::new(),
            language: None,
            author: None,
            is_quiet: true,
            is_in_endless_tag: false,
        }),
    };
    let tokenizer = Tokenizer::new(sink, TokenizerOpts::default());
    let queue = BufferQueue::default();
    let mut rest = page;
    let mut quiet = 0;
    while !rest.is_empty() && !tokenizer.sink.page.borrow().text.is_full() {
        let mut end = rest.len().min(PIECE_BYTES);
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        let (piece, after) = rest.split_at(end);
        quiet = if is_quiet(&tokenizer, &queue, piece) {
            quiet + 1
        } else {
            0
        };
        // Between quotes, and in a comment, this ends nothing.
        if quiet >= QUIET_PIECES && !is_quiet(&tokenizer, &queue, ">") {
            tokenizer.sink.page.borrow_mut().is_in_endless_tag = true;
            quiet = 0;
        }
        rest = after;
    }
    tokenizer.end();
    let page = tokenizer.sink.page.into_inner();
    Properties {
        title: Properties::tidy(&page.title),
        author: page.author,
        language: page.language,
        ..Properties::default()
    }
}

/// Hands a piece to the tokenizer; whether nothing came of it.
fn is_quiet(tokenizer: &Tokenizer<Sink<'_>>, queue: &BufferQueue, piece: &str) -> bool {
    tokenizer.sink.page.borrow_mut().is_quiet = true;
    queue.push_back(StrTendril::from_slice(piece));
    // A script that is over pauses it: nothing runs here.
    while !queue.is_empty() {
        let _ = tokenizer.feed(queue);
    }
    tokenizer.sink.page.borrow().is_quiet
}

struct Sink<'a> {
    page: RefCell<Page<'a>>,
}

/// What parts the words before from those that come, the widest last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    None,
    Space,
    Tab,
    Line,
    Paragraph,
}

struct Page<'a> {
    text: &'a mut Text,
    is_xml: bool,
    /// The element whose content nobody sees.
    unseen: Option<String>,
    /// Elements around that keep their blanks.
    preformatted: usize,
    pending: Gap,
    title: String,
    language: Option<String>,
    author: Option<String>,
    /// Whether nothing came of the last piece.
    is_quiet: bool,
    /// Whether what comes, up to the end of a tag, belongs to one that was ended before.
    is_in_endless_tag: bool,
}

impl TokenSink for Sink<'_> {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        let mut page = self.page.borrow_mut();
        page.is_quiet &= matches!(token, Token::ParseError(_));
        match token {
            Token::CharacterTokens(characters) if page.is_in_endless_tag => {
                if let Some((_, after)) = characters.split_once('>') {
                    page.is_in_endless_tag = false;
                    page.push(after);
                }
                return TokenSinkResult::Continue;
            }
            Token::TagToken(_) => page.is_in_endless_tag = false,
            _ => {}
        }
        match token {
            Token::TagToken(tag) if tag.kind == TagKind::StartTag => page.start(&tag),
            Token::TagToken(tag) => {
                page.end(&tag.name);
                TokenSinkResult::Continue
            }
            Token::CharacterTokens(characters) => {
                page.push(&characters);
                TokenSinkResult::Continue
            }
            _ => TokenSinkResult::Continue,
        }
    }
}

impl Page<'_> {
    fn start(&mut self, tag: &Tag) -> TokenSinkResult<()> {
        if self.unseen.is_some() {
            return TokenSinkResult::Continue;
        }
        let name: &str = &tag.name;
        self.pending = self.pending.max(gap(name));
        let is_closed = self.is_xml && tag.self_closing;
        match name {
            "html" if self.language.is_none() => {
                self.language = attribute(tag, "lang").and_then(|words| Properties::tidy(&words));
            }
            "meta" if attribute(tag, "name").is_some_and(|name| name == "author") => {
                self.author = attribute(tag, "content").and_then(|words| Properties::tidy(&words));
            }
            "pre" | "textarea" | "listing" => self.preformatted += 1,
            _ => {}
        }
        if is_closed {
            return TokenSinkResult::Continue;
        }
        let raw = match name {
            "script" => RawKind::ScriptData,
            "style" | "xmp" | "iframe" | "noembed" | "noframes" => RawKind::Rawtext,
            "title" | "textarea" => RawKind::Rcdata,
            _ => return TokenSinkResult::Continue,
        };
        if !matches!(name, "textarea" | "xmp") {
            self.unseen = Some(name.to_owned());
        }
        TokenSinkResult::RawData(raw)
    }

    fn end(&mut self, name: &str) {
        if let Some(unseen) = &self.unseen {
            if unseen == name {
                self.unseen = None;
            }
            return;
        }
        if matches!(name, "pre" | "textarea" | "listing") {
            self.preformatted = self.preformatted.saturating_sub(1);
        }
        self.pending = self.pending.max(gap(name));
    }

    fn push(&mut self, characters: &str) {
        match self.unseen.as_deref() {
            // A drawing has a title of its own; the first is that of the page.
            Some("title") => return self.title.push_str(characters),
            Some(_) => return,
            None => {}
        }
        for character in characters.chars() {
            if self.preformatted > 0 && matches!(character, '\n' | '\t' | ' ') {
                self.flush();
                self.text.push_char(character);
            } else if character.is_ascii_whitespace() {
                self.pending = self.pending.max(Gap::Space);
            } else {
                self.flush();
                self.text.push_char(character);
            }
        }
    }

    fn flush(&mut self) {
        let is_first = self.text.len() == 0;
        match self.pending {
            _ if is_first => {}
            Gap::None => {}
            Gap::Space => self.text.push_char(' '),
            Gap::Tab => self.text.push_char('\t'),
            Gap::Line => self.text.end_line(),
            Gap::Paragraph => self.text.end_paragraph(),
        }
        self.pending = Gap::None;
    }
}

/// How an element stands apart from what is around it.
fn gap(name: &str) -> Gap {
    match name {
        "p" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "table" | "ul" | "ol" | "dl" | "pre"
        | "blockquote" | "article" | "section" | "hr" => Gap::Paragraph,
        "div" | "br" | "li" | "tr" | "dt" | "dd" | "body" | "head" | "header" | "footer"
        | "nav" | "main" | "aside" | "form" | "fieldset" | "legend" | "figure" | "figcaption"
        | "address" | "caption" | "thead" | "tbody" | "tfoot" | "details" | "summary"
        | "option" | "center" | "dir" | "menu" | "textarea" | "select" | "title" | "text" => {
            Gap::Line
        }
        "td" | "th" => Gap::Tab,
        "img" | "input" | "button" | "iframe" | "object" | "video" | "audio" => Gap::Space,
        _ => Gap::None,
    }
}

fn attribute(tag: &Tag, name: &str) -> Option<String> {
    let found = tag
        .attrs
        .iter()
        .find(|attribute| &*attribute.name.local == name)?;
    Some(found.value.to_string())
}
