//! How many tokens a text has, where no tokenizer tells.

/// Letters of an ASCII word that one token of a usual byte-pair vocabulary covers, rounded down so that estimates err upwards.
const ASCII_LETTERS_A_TOKEN: usize = 4;

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
