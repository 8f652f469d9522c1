//! What of a text the model cannot read, and keeping texts apart that would be one to it.

use sha2::{Digest, Sha256};
use tokenizers::Encoding;

use crate::encoder::unit;

/// A word of more tokens than this is none that the model has read anything like: base64, a checksum, a sentence of a script
/// without blanks. The longest words of any language that is written with blanks have fewer.
const MAX_TOKENS_A_WORD: usize = 16;

/// How far a vector is turned, as the part of its length that is added across: some three degrees, a cosine of 0.9988.
const ASIDE: f32 = 0.05;

/// How many characters of `text`, blanks not counted, are nothing to the model: their word is the token `unknown` or far too many
/// tokens, or the tokenizer left them out.
pub(crate) fn count_unread(text: &str, encoding: &Encoding, unknown: Option<u32>) -> u64 {
    let ids = encoding.get_ids();
    let offsets = encoding.get_offsets();
    let words = encoding.get_word_ids();
    let mut unread = 0;
    let mut read_to = 0;
    let mut first = 0;
    while first < ids.len() {
        let Some(word) = words[first] else {
            first += 1;
            continue;
        };
        let same = |other: &&Option<u32>| **other == Some(word);
        let end = first + words[first..].iter().take_while(same).count();
        let (from, to) = (offsets[first].0, offsets[end - 1].1);
        unread += left_out(text, read_to, from);
        let is_unknown = ids[first..end].iter().any(|id| Some(*id) == unknown);
        if is_unknown || end - first > MAX_TOKENS_A_WORD {
            unread += characters(text, from, to).filter(not_blank).count() as u64;
        }
        read_to = read_to.max(to);
        first = end;
    }
    unread + left_out(text, read_to, text.len())
}

/// Characters between two words that a reader sees and the model does not.
fn left_out(text: &str, from: usize, to: usize) -> u64 {
    characters(text, from, to)
        .filter(|character| not_blank(character) && !is_dispensable(*character))
        .count() as u64
}

fn characters(text: &str, from: usize, to: usize) -> impl Iterator<Item = char> {
    text.get(from..to).unwrap_or_default().chars()
}

fn not_blank(character: &char) -> bool {
    !character.is_whitespace()
}

/// What is left out of every text and changes no word's meaning: accents on Latin letters, and what is not seen.
fn is_dispensable(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{300}'..='\u{36f}' | '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2064}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{fffd}')
}

/// Turns a vector a little, in a direction that is `text`'s alone: what the model could not read of it makes it another text
/// still. So two such texts never have one vector, and nearness stays what it was.
pub(crate) fn turn_aside(vector: &mut [f32], text: &str) {
    let seed = Sha256::digest(text.as_bytes());
    let mut direction = Vec::with_capacity(vector.len());
    for block in 0_u32.. {
        if direction.len() >= vector.len() {
            break;
        }
        let mut hasher = Sha256::new();
        hasher.update(seed);
        hasher.update(block.to_be_bytes());
        let bytes = hasher.finalize();
        direction.extend(bytes.iter().map(|byte| f32::from(*byte) - 127.5));
    }
    direction.truncate(vector.len());
    unit(&mut direction);
    for (number, aside) in vector.iter_mut().zip(direction) {
        *number += ASIDE * aside;
    }
    unit(vector);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_turned_by_its_text_and_hardly() {
        let mut straight = vec![0.0; 384];
        straight[7] = 1.0;
        let [one, again, other] = ["one 🜁", "one 🜁", "one 🜂"].map(|text| {
            let mut vector = straight.clone();
            turn_aside(&mut vector, text);
            vector
        });
        assert_eq!(one, again);
        assert_ne!(one, other);
        let cosine: f32 = one.iter().zip(&other).map(|(one, other)| one * other).sum();
        assert!(cosine > 0.99 && cosine < 0.9999, "{cosine}");
        assert!(one[7] > 0.998, "{}", one[7]);
    }
}
