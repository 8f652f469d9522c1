//! Counting tokens before they are sent: exactly where the tokenizer is ours, by estimate where it is the provider's.

use std::sync::Arc;

use crate::bert::Bert;
use crate::estimate::estimate;

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
