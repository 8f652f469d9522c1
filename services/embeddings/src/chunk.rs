//! Splitting a text into chunks that a model can read whole: pure, deterministic, in one pass.
//!
//! The text is cut into short pieces at paragraphs, sentences, lines or words; pieces are packed into chunks of at most a
//! target number of tokens. A chunk ends at the best boundary of its last third, and the next one repeats a few pieces, so
//! that a thought that spans the cut is whole in one of them.

/// The longest piece: some forty tokens of English. Cuts and overlaps have this grain.
const MAX_PIECE_BYTES: usize = 160;

/// How chunks are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimits {
    target_tokens: usize,
    overlap_tokens: usize,
    max_chunks: usize,
}

/// Limits that no text can be cut by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidChunkLimits {
    /// Fewer tokens than one character of some scripts has.
    #[error(
        "a chunk must have room for at least {} tokens",
        ChunkLimits::MIN_TARGET_TOKENS
    )]
    TargetTooSmall,
    /// More repetition than news.
    #[error("the overlap must be at most half of a chunk")]
    OverlapTooLarge,
    /// No chunk at all.
    #[error("a file must be allowed at least one chunk")]
    NoChunks,
}

impl ChunkLimits {
    /// The smallest target: a few characters of any script.
    pub const MIN_TARGET_TOKENS: usize = 8;

    /// Chunks of at most `target_tokens`, each repeating up to `overlap_tokens` of the one before, `max_chunks` at most.
    pub fn try_new(
        target_tokens: usize,
        overlap_tokens: usize,
        max_chunks: usize,
    ) -> Result<Self, InvalidChunkLimits> {
        if target_tokens < Self::MIN_TARGET_TOKENS {
            return Err(InvalidChunkLimits::TargetTooSmall);
        }
        if overlap_tokens > target_tokens / 2 {
            return Err(InvalidChunkLimits::OverlapTooLarge);
        }
        if max_chunks == 0 {
            return Err(InvalidChunkLimits::NoChunks);
        }
        Ok(Self {
            target_tokens,
            overlap_tokens,
            max_chunks,
        })
    }
}

impl Default for ChunkLimits {
    /// 200 tokens with an overlap of 40, 2,000 chunks.
    fn default() -> Self {
        Self {
            target_tokens: 200,
            overlap_tokens: 40,
            max_chunks: 2_000,
        }
    }
}

/// One chunk: a range of the text's bytes, on character boundaries, without white space at its ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chunk {
    /// The first byte.
    pub start: usize,
    /// The byte after the last.
    pub end: usize,
    /// Tokens, as the sum of its pieces'.
    pub tokens: usize,
}

/// The chunks of a text, in its order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunked {
    /// The chunks; together they cover all of the text that is not white space, unless `truncated`.
    pub chunks: Vec<Chunk>,
    /// More chunks would have been needed than are allowed.
    pub truncated: bool,
}

/// How good a place to cut the end of a piece is, best last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Boundary {
    Word,
    Line,
    Sentence,
    Paragraph,
}

#[derive(Debug, Clone, Copy)]
struct Piece {
    start: usize,
    end: usize,
    tokens: usize,
    boundary: Boundary,
}

/// Cuts `text` by `limits`; `count` says how many tokens a part of it has.
pub fn chunk(text: &str, limits: ChunkLimits, count: impl Fn(&str) -> usize) -> Chunked {
    let mut packer = Packer {
        text,
        limits,
        pieces: Vec::new(),
        tokens: 0,
        repeated: 0,
        chunks: Vec::new(),
    };
    let mut position = 0;
    while position < text.len() {
        let (end, boundary) = piece_end(text, position);
        let complete = packer.add_measured(position, end, boundary, &count);
        if !complete {
            return Chunked {
                chunks: packer.chunks,
                truncated: true,
            };
        }
        position = end;
    }
    let truncated = !packer.finish();
    Chunked {
        chunks: packer.chunks,
        truncated,
    }
}

struct Packer<'a> {
    text: &'a str,
    limits: ChunkLimits,
    pieces: Vec<Piece>,
    tokens: usize,
    /// How many of `pieces`, from the first, stand in the chunk before as well.
    repeated: usize,
    chunks: Vec<Chunk>,
}

impl Packer<'_> {
    /// Adds the piece from `start` to `end`, in halves where it has more tokens than a chunk may have (scripts whose
    /// characters are several tokens each). False when no more chunks are allowed.
    fn add_measured(
        &mut self,
        start: usize,
        end: usize,
        boundary: Boundary,
        count: &impl Fn(&str) -> usize,
    ) -> bool {
        let part = &self.text[start..end];
        // White space costs a token too, or an endless run of it would make an endless chunk.
        let tokens = count(part).max(1);
        if tokens > self.limits.target_tokens
            && let Some(middle) = middle(part)
        {
            return self.add_measured(start, start + middle, Boundary::Word, count)
                && self.add_measured(start + middle, end, boundary, count);
        }
        self.add(Piece {
            start,
            end,
            tokens,
            boundary,
        })
    }

    fn add(&mut self, piece: Piece) -> bool {
        while self.tokens + piece.tokens > self.limits.target_tokens && !self.pieces.is_empty() {
            if self.repeated == self.pieces.len() {
                // Only repetition so far: it gives way to what is new.
                let first = self.pieces.remove(0);
                self.tokens -= first.tokens;
                self.repeated -= 1;
                self.drop_blank_start();
                continue;
            }
            if !self.cut() {
                return false;
            }
        }
        self.tokens += piece.tokens;
        self.pieces.push(piece);
        self.drop_blank_start();
        true
    }

    /// A chunk never begins with a piece of white space: its start would be that of a later piece.
    fn drop_blank_start(&mut self) {
        while let Some(&first) = self.pieces.first()
            && self.text[first.start..first.end].trim().is_empty()
        {
            self.pieces.remove(0);
            self.tokens -= first.tokens;
            self.repeated = self.repeated.saturating_sub(1);
        }
    }

    /// Makes a chunk of the pieces up to the best boundary and keeps the rest, with some repetition before it.
    fn cut(&mut self) -> bool {
        let length = self.best_length();
        if !self.emit(length) {
            return false;
        }
        let mut kept = length;
        let mut overlap = 0;
        // The first piece is never repeated: every chunk begins after the one before it.
        while kept > 1 && overlap + self.pieces[kept - 1].tokens <= self.limits.overlap_tokens {
            kept -= 1;
            overlap += self.pieces[kept].tokens;
        }
        self.pieces.drain(..kept);
        self.repeated = length - kept;
        self.tokens = self.pieces.iter().map(|piece| piece.tokens).sum();
        self.drop_blank_start();
        true
    }

    /// How many pieces the next chunk takes: to the best boundary in its last third, the latest among equals, and never
    /// only what the chunk before has already.
    fn best_length(&self) -> usize {
        let mut best = self.pieces.len();
        let mut best_boundary = Boundary::Word;
        let mut tokens = 0;
        for (index, piece) in self.pieces.iter().enumerate() {
            tokens += piece.tokens;
            let late_enough = tokens * 3 >= self.limits.target_tokens * 2;
            if index >= self.repeated && late_enough && piece.boundary >= best_boundary {
                best = index + 1;
                best_boundary = piece.boundary;
            }
        }
        best
    }

    /// False when a chunk would be needed that is not allowed.
    fn emit(&mut self, length: usize) -> bool {
        let pieces = &self.pieces[..length];
        let (Some(first), Some(last)) = (pieces.first(), pieces.last()) else {
            return true;
        };
        let span = &self.text[first.start..last.end];
        let start = first.start + (span.len() - span.trim_start().len());
        let end = last.end - (span.len() - span.trim_end().len());
        let new_from = pieces
            .get(self.repeated)
            .map_or(last.end, |piece| piece.start);
        if start >= end || self.text[new_from..last.end].trim().is_empty() {
            return true;
        }
        if self.chunks.len() >= self.limits.max_chunks {
            return false;
        }
        self.chunks.push(Chunk {
            start,
            end,
            tokens: pieces.iter().map(|piece| piece.tokens).sum(),
        });
        true
    }

    fn finish(&mut self) -> bool {
        self.repeated >= self.pieces.len() || self.emit(self.pieces.len())
    }
}

/// The end of the piece that begins at `start`, and what kind of boundary it is. White space belongs to the piece before
/// it. A piece has at least one character and at most [`MAX_PIECE_BYTES`].
fn piece_end(text: &str, start: usize) -> (usize, Boundary) {
    let rest = &text[start..];
    let mut word_cut = None;
    let mut sentence_over = false;
    let mut characters = rest.char_indices().peekable();
    while let Some((index, character)) = characters.next() {
        let after = index + character.len_utf8();
        if after > MAX_PIECE_BYTES {
            return (start + word_cut.unwrap_or(index), Boundary::Word);
        }
        if !character.is_whitespace() {
            if matches!(character, '。' | '！' | '？') {
                return (start + after, Boundary::Sentence);
            }
            let ends = matches!(character, '.' | '!' | '?' | '…');
            let closes = matches!(character, '"' | '\'' | ')' | ']' | '»' | '”' | '’');
            sentence_over = ends || (closes && sentence_over);
            continue;
        }
        let mut run_end = after;
        let mut lines = line_breaks(character);
        while let Some(&(next, space)) = characters.peek()
            && space.is_whitespace()
            && next + space.len_utf8() <= MAX_PIECE_BYTES
        {
            run_end = next + space.len_utf8();
            lines += line_breaks(space);
            characters.next();
        }
        let boundary = match lines {
            0 | 1 if sentence_over => Boundary::Sentence,
            0 => Boundary::Word,
            1 => Boundary::Line,
            _ => Boundary::Paragraph,
        };
        if boundary > Boundary::Word {
            return (start + run_end, boundary);
        }
        word_cut = Some(run_end);
    }
    (text.len(), Boundary::Paragraph)
}

/// A page break (form feed) is as good as an empty line.
fn line_breaks(space: char) -> usize {
    match space {
        '\n' => 1,
        '\u{c}' | '\u{2029}' => 2,
        _ => 0,
    }
}

/// A character boundary near the middle that leaves something on both sides; `None` for a single character.
fn middle(part: &str) -> Option<usize> {
    let half = part.len() / 2;
    let before = (1..=half).rev().find(|&index| part.is_char_boundary(index));
    before.or_else(|| (half + 1..part.len()).find(|&index| part.is_char_boundary(index)))
}

#[cfg(test)]
#[path = "chunk_tests.rs"]
mod tests;
