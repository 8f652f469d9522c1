//! Counting tokens before they are sent: exactly where the tokenizer is ours, by estimate where it is the provider's.

use std::sync::Arc;

use crate::bert::Bert;

/// Letters of an ASCII word that one token of a usual byte-pair vocabulary covers, rounded down so that estimates err upwards.
const ASCII_LETTERS_A_TOKEN: usize = 4;

/// Counts tokens of a text. Cheap to clone; counting is plain computation, so large texts belong on a blocking thread.
#[derive(Clone)]
pub struct TokenCounter {
    tokenizer: Option<Arc<Bert>>,
}

impl TokenCounter {
    /// Counts as the local model does.
    pub(crate) fn exact(bert: Arc<Bert>) -> Self {
        Self {
            tokenizer: Some(bert),
        }
    }

    /// Counts by a rule of thumb: four ASCII letters or digits, one sign, or one character of another script to a token.
    pub fn estimating() -> Self {
        Self { tokenizer: None }
    }

    /// Tokens of `text`, without the special tokens that frame an input.
    pub fn count(&self, text: &str) -> usize {
        match &self.tokenizer {
            Some(bert) => bert.count(text),
            None => estimate(text),
        }
    }
}

impl std::fmt::Debug for TokenCounter {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("TokenCounter")
            .field("exact", &self.tokenizer.is_some())
            .finish()
    }
}

/// The estimate behind [`TokenCounter::estimating`].
pub(crate) fn estimate(text: &str) -> usize {
    let mut tokens = 0;
    let mut word = 0;
    for character in text.chars() {
        if character.is_ascii_alphanumeric() {
            word += 1;
            continue;
        }
        tokens += usize::div_ceil(word, ASCII_LETTERS_A_TOKEN);
        word = 0;
        if !character.is_whitespace() {
            tokens += 1;
        }
    }
    tokens + usize::div_ceil(word, ASCII_LETTERS_A_TOKEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_counts_words_signs_and_foreign_characters() {
        assert_eq!(estimate(""), 0);
        assert_eq!(estimate(" \n "), 0);
        assert_eq!(estimate("word"), 1);
        assert_eq!(estimate("words"), 2);
        assert_eq!(estimate("one, two"), 3);
        assert_eq!(estimate("水曜日"), 3);
    }
}
