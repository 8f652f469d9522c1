//! A sentence-transformers BERT on the CPU: tokenizer, encoder, mean pooling, unit length. Plain computation; the threads
//! are [`crate::local`]'s business.

use std::borrow::Cow;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use serde::Deserialize;
use tokenizers::Tokenizer;

/// What a model folder must hold.
pub(crate) const MODEL_FILES: [&str; 3] = ["model.safetensors", "tokenizer.json", "config.json"];

/// Weights above this are surely not a small sentence model.
const MAX_WEIGHT_BYTES: u64 = 2 * 1024 * 1024 * 1024;

/// The longest word that is handed to the tokenizer, in characters: one of over a hundred would be one unknown token, and
/// every other such word the same. Longer ones are cut; those of scripts without blanks are sentences anyway.
const MAX_WORD_CHARACTERS: usize = 60;

/// What a word becomes whose letters the model does not know.
const UNKNOWN_TOKEN: &str = "[UNK]";

/// Tokens that frame every input: `[CLS]` and `[SEP]`.
const SPECIAL_TOKENS: usize = 2;

/// A loaded model. Shared behind an `Arc`; all its methods only read.
pub(crate) struct Bert {
    model: BertModel,
    tokenizer: Tokenizer,
    dimensions: usize,
    max_tokens: usize,
    pad: u32,
    unknown: Option<u32>,
}

#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: usize,
}

impl Bert {
    /// Reads the model from `folder`. The error says which file is wrong, and how.
    pub(crate) fn load(folder: &Path) -> Result<Self, String> {
        let config: Config = parse_json(folder, "config.json")?;
        let max_tokens = max_tokens(folder, config.max_position_embeddings)?;

        let mut tokenizer = Tokenizer::from_file(folder.join("tokenizer.json"))
            .map_err(|error| format!("tokenizer.json: {error}"))?;
        // Counting wants all of a text and padding depends on the batch: both are done here, whatever the file says.
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(None)
            .map_err(|error| format!("tokenizer.json: {error}"))?;

        let weights = folder.join("model.safetensors");
        let size = std::fs::metadata(&weights)
            .map_err(|error| format!("model.safetensors: {error}"))?
            .len();
        if size > MAX_WEIGHT_BYTES {
            return Err(format!(
                "model.safetensors: {size} bytes are more than {MAX_WEIGHT_BYTES}"
            ));
        }
        let weights =
            std::fs::read(weights).map_err(|error| format!("model.safetensors: {error}"))?;
        let model = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)
            .and_then(|builder| BertModel::load(builder, &config))
            .map_err(|error| format!("model.safetensors: {error}"))?;
        Ok(Self {
            model,
            unknown: tokenizer.token_to_id(UNKNOWN_TOKEN),
            tokenizer,
            dimensions: config.hidden_size,
            max_tokens,
            pad: u32::try_from(config.pad_token_id).unwrap_or(0),
        })
    }

    /// Length of a vector.
    pub(crate) fn dimensions(&self) -> usize {
        self.dimensions
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

    /// The token ids of `text`, framed and cut to what the model reads.
    pub(crate) fn tokenise(&self, text: &str) -> Result<Vec<u32>, String> {
        let encoding = self
            .tokenizer
            .encode_fast(with_short_words(text), true)
            .map_err(|error| format!("text not tokenised: {error}"))?;
        let mut ids = encoding.get_ids().to_vec();
        if ids.len() > self.max_tokens
            && let Some(closing) = ids.pop()
        {
            ids.truncate(self.max_tokens - 1);
            ids.push(closing);
        }
        Ok(ids)
    }

    /// How many of these tokens stand for words that the model does not know.
    pub(crate) fn unknown(&self, tokens: &[u32]) -> usize {
        let is_unknown = |token: &&u32| Some(**token) == self.unknown;
        tokens.iter().filter(is_unknown).count()
    }

    /// One vector of unit length for each of `inputs`, in order. Memory grows with the number of inputs times the square of
    /// the longest: the caller bounds both.
    pub(crate) fn embed(&self, inputs: &[&[u32]]) -> Result<Vec<Vec<f32>>, String> {
        self.forward(inputs)
            .map_err(|error| format!("local model: {error}"))
    }

    fn forward(&self, inputs: &[&[u32]]) -> candle_core::Result<Vec<Vec<f32>>> {
        let rows = inputs.len();
        let width = inputs.iter().map(|input| input.len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(rows * width);
        let mut mask = Vec::with_capacity(rows * width);
        let mut weights = Vec::with_capacity(rows * width);
        for input in inputs {
            let padding = width - input.len();
            ids.extend_from_slice(input);
            ids.extend(std::iter::repeat_n(self.pad, padding));
            mask.extend(std::iter::repeat_n(1u32, input.len()));
            mask.extend(std::iter::repeat_n(0u32, padding));
            #[expect(clippy::cast_precision_loss)]
            let weight = 1.0 / input.len().max(1) as f32;
            weights.extend(std::iter::repeat_n(weight, input.len()));
            weights.extend(std::iter::repeat_n(0.0, padding));
        }
        let device = &Device::Cpu;
        let ids = Tensor::from_vec(ids, (rows, width), device)?;
        let mask = Tensor::from_vec(mask, (rows, width), device)?;
        let hidden = self.model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;

        // The mean over a text's own tokens, as one matrix product: padding has the weight zero.
        let weights = Tensor::from_vec(weights, (rows, 1, width), device)?;
        let means = weights.matmul(&hidden)?.squeeze(1)?;
        let lengths = means.sqr()?.sum_keepdim(1)?.sqrt()?;
        means.broadcast_div(&lengths)?.to_vec2()
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
