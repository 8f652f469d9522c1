//! How much of a text is embedded, and in what portions.

use crate::chunk::{ChunkLimits, InvalidChunkLimits};

/// Settings of the stage; valid by construction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmbeddingsSettings {
    target_tokens: usize,
    overlap_tokens: usize,
    max_chunks: usize,
    /// The most bytes of a text that are read.
    pub(crate) max_text_bytes: usize,
}

/// Settings that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidEmbeddingsSettings {
    /// The chunks cannot be cut so.
    #[error(transparent)]
    Chunks(#[from] InvalidChunkLimits),
    /// Nothing would be read.
    #[error("the most bytes of a text must be above zero")]
    NoText,
}

impl EmbeddingsSettings {
    /// Chunks of at most `target_tokens` that repeat up to `overlap_tokens` of the one before, `max_chunks` a file at most,
    /// of at most the first `max_text_bytes` of the text.
    pub fn try_new(
        target_tokens: usize,
        overlap_tokens: usize,
        max_chunks: usize,
        max_text_bytes: usize,
    ) -> Result<Self, InvalidEmbeddingsSettings> {
        ChunkLimits::try_new(target_tokens, overlap_tokens, max_chunks)?;
        if max_text_bytes == 0 {
            return Err(InvalidEmbeddingsSettings::NoText);
        }
        Ok(Self {
            target_tokens,
            overlap_tokens,
            max_chunks,
            max_text_bytes,
        })
    }

    /// The limits for a model that reads at most `max_tokens` of a chunk: a smaller model gets smaller chunks.
    pub(crate) fn chunk_limits(&self, max_tokens: usize) -> ChunkLimits {
        let target = self
            .target_tokens
            .min(max_tokens)
            .max(ChunkLimits::MIN_TARGET_TOKENS);
        let overlap = self.overlap_tokens.min(target / 2);
        ChunkLimits::try_new(target, overlap, self.max_chunks).unwrap_or_default()
    }

    /// What of these settings changes results, always spelled the same.
    pub(crate) fn version_options(&self) -> String {
        format!(
            "target={},overlap={},chunks={},bytes={}",
            self.target_tokens, self.overlap_tokens, self.max_chunks, self.max_text_bytes
        )
    }
}

impl Default for EmbeddingsSettings {
    /// 200 tokens with 40 of overlap: well inside what the local model reads (254). 2,000 chunks are some 1.5 MB of
    /// English and a minute of the local model on two cores; 16 MiB of text are more than they can hold.
    fn default() -> Self {
        Self {
            target_tokens: 200,
            overlap_tokens: 40,
            max_chunks: 2_000,
            max_text_bytes: 16 * 1024 * 1024,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cut_nothing_are_refused_with_the_rule_that_broke() {
        assert_eq!(
            EmbeddingsSettings::try_new(200, 40, 10, 0),
            Err(InvalidEmbeddingsSettings::NoText)
        );
        assert_eq!(
            EmbeddingsSettings::try_new(200, 101, 10, 1),
            Err(InvalidChunkLimits::OverlapTooLarge.into())
        );
    }

    #[test]
    fn a_small_model_gets_small_chunks_and_a_large_one_the_target() {
        let settings = EmbeddingsSettings::default();
        assert_eq!(
            Ok(settings.chunk_limits(8_191)),
            ChunkLimits::try_new(200, 40, 2_000)
        );
        assert_eq!(
            Ok(settings.chunk_limits(62)),
            ChunkLimits::try_new(62, 31, 2_000)
        );
        assert_eq!(
            Ok(settings.chunk_limits(0)),
            ChunkLimits::try_new(8, 4, 2_000)
        );
    }
}
