//! A sentence-transformers BERT on the CPU: its tokenizer, what of a text it cannot read, and its encoder. Plain computation; the
//! threads are [`crate::local`]'s business.

use std::borrow::Cow;
use std::path::Path;

use serde::Deserialize;
use tokenizers::Tokenizer;

use crate::encoder::{Config, Encoder};
use crate::unread::{count_unread, turn_aside};

/// What a model folder must hold.
pub(crate) const MODEL_FILES: [&str; 3] = ["model.safetensors", "tokenizer.json", "config.json"];

/// The longest word that is handed to the tokenizer, in characters: one of over a hundred would be one unknown token, and
/// every other such word the same. Longer ones are cut; those of scripts without blanks are sentences anyway.
const MAX_WORD_CHARACTERS: usize = 60;

/// What a word becomes whose letters the model does not know.
const UNKNOWN_TOKEN: &str = "[UNK]";

/// Tokens that frame every input: `[CLS]` and `[SEP]`.
const SPECIAL_TOKENS: usize = 2;

/// A loaded model. Shared behind an `Arc`; all its methods only read.
pub(crate) struct Bert {
    encoder: Encoder,
    tokenizer: Tokenizer,
    max_tokens: usize,
    unknown: Option<u32>,
}

/// A text as the model reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Input {
    /// Its tokens, framed.
    pub(crate) tokens: Vec<u32>,
    /// Characters of the text that the model cannot read.
    pub(crate) unread: u64,
}

#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: usize,
}

impl Bert {
    /// Reads the model from `folder`. The error says which file is wrong, and how. Where `exact` is asked for, all is computed in
    /// 32-bit floats.
    pub(crate) fn load(folder: &Path, exact: bool) -> Result<Self, String> {
        let config: Config = parse_json(folder, "config.json")?;
        let max_tokens = max_tokens(folder, config.max_position_embeddings)?;

        let mut tokenizer = Tokenizer::from_file(folder.join("tokenizer.json"))
            .map_err(|error| format!("tokenizer.json: {error}"))?;
        // Counting wants all of a text, and there is no padding: whatever the file says.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| format!("tokenizer.json: {error}"))?;

        let encoder = Encoder::load(folder, &config, exact)
            .map_err(|error| format!("model.safetensors: {error}"))?;
        Ok(Self {
            encoder,
            unknown: tokenizer.token_to_id(UNKNOWN_TOKEN),
            tokenizer,
            max_tokens,
        })
    }

    /// Length of a vector.
    pub(crate) fn dimensions(&self) -> usize {
        self.encoder.width()
    }

    /// The most tokens of one text that are read, the framing tokens not counted.
    pub(crate) fn max_tokens(&self) -> usize {
        self.max_tokens - SPECIAL_TOKENS
    }

    /// Tokens of `text` without the framing ones, also beyond what is read.
    pub(crate) fn count(&self, text: &str) -> usize {
        match self.tokenizer.encode_fast(with_short_words(text), false) {
            Ok(encoding) => encoding.len(),
            Err(_) => crate::estimate::estimate(text),
        }
    }

    /// `text` framed and cut to what the model reads.
    pub(crate) fn tokenise(&self, text: &str) -> Result<Input, String> {
        let text = with_short_words(text);
        let encoding = self
            .tokenizer
            .encode(&*text, true)
            .map_err(|error| format!("text not tokenised: {error}"))?;
        let mut tokens = encoding.get_ids().to_vec();
        if tokens.len() > self.max_tokens
            && let Some(closing) = tokens.pop()
        {
            tokens.truncate(self.max_tokens - 1);
            tokens.push(closing);
        }
        Ok(Input {
            tokens,
            unread: count_unread(&text, &encoding, self.unknown),
        })
    }

    /// One vector of unit length for each of `inputs`, in order. Memory grows with all their tokens: the caller bounds them.
    pub(crate) fn embed(&self, inputs: &[(&str, &Input)]) -> Result<Vec<Vec<f32>>, String> {
        let tokens: Vec<&[u32]> = inputs.iter().map(|(_, input)| &input.tokens[..]).collect();
        let mut vectors = self
            .encoder
            .embed(&tokens)
            .map_err(|error| format!("local model: {error}"))?;
        for (vector, (text, input)) in vectors.iter_mut().zip(inputs) {
            if input.unread > 0 {
                turn_aside(vector, text);
            }
        }
        Ok(vectors)
    }
}

/// The text with blanks in its longest words.
fn with_short_words(text: &str) -> Cow<'_, str> {
    let is_short = |word: &str| word.chars().nth(MAX_WORD_CHARACTERS).is_none();
    if text.split_whitespace().all(is_short) {
        return Cow::Borrowed(text);
    }
    let mut cut = String::with_capacity(text.len() + text.len() / MAX_WORD_CHARACTERS);
    let mut length = 0;
    for character in text.chars() {
        length = if character.is_whitespace() {
            0
        } else {
            length + 1
        };
        if length > MAX_WORD_CHARACTERS {
            cut.push(' ');
            length = 1;
        }
        cut.push(character);
    }
    Cow::Owned(cut)
}

/// Checks that `folder` holds a model; the error names the files that are missing.
pub(crate) fn missing_files(folder: &Path) -> Vec<&'static str> {
    MODEL_FILES
        .into_iter()
        .filter(|name| !folder.join(name).is_file())
        .collect()
}

/// What sentence-transformers was trained to read, or else all that the positions allow.
fn max_tokens(folder: &Path, positions: usize) -> Result<usize, String> {
    const FILE: &str = "sentence_bert_config.json";
    let trained = if folder.join(FILE).is_file() {
        parse_json::<SentenceConfig>(folder, FILE)?.max_seq_length
    } else {
        positions
    };
    let tokens = trained.min(positions);
    if tokens <= SPECIAL_TOKENS {
        return Err(format!(
            "{FILE}: max_seq_length {tokens} leaves no room for text"
        ));
    }
    Ok(tokens)
}

fn parse_json<T: serde::de::DeserializeOwned>(folder: &Path, name: &str) -> Result<T, String> {
    let text =
        std::fs::read_to_string(folder.join(name)).map_err(|error| format!("{name}: {error}"))?;
    serde_json::from_str(&text).map_err(|error| format!("{name}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_are_cut_and_nothing_else_is_changed() {
        assert_eq!(
            with_short_words("short words\nof a text"),
            "short words\nof a text"
        );
        let long = "ก".repeat(150);
        let cut = with_short_words(&long);
        let words: Vec<usize> = cut.split(' ').map(|word| word.chars().count()).collect();
        assert_eq!(words, [60, 60, 30]);
        assert_eq!(cut.replace(' ', ""), long);
    }
}
