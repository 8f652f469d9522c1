//! What every provider answers with.

use std::time::Duration;

use crate::error::ProviderError;

/// The vectors of several texts, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Embeddings {
    /// One vector a text, all of one length.
    pub vectors: Vec<Vec<f32>>,
    /// Tokens that the provider read (counted, or as it says).
    pub tokens: u64,
    /// For each text, how many of its characters the model cannot read, blanks not counted; 0 where the provider does not tell.
    pub unread: Vec<u64>,
    /// Requests that were sent, or batches that were computed.
    pub calls: u32,
}

impl Embeddings {
    /// Embeddings that keep what they promise: one vector a text, one length, all numbers finite.
    pub(crate) fn checked(
        vectors: Vec<Vec<f32>>,
        texts: usize,
        tokens: u64,
        calls: u32,
    ) -> Result<Self, ProviderError> {
        let length = vectors.first().map_or(0, Vec::len);
        let whole = vectors.len() == texts
            && vectors
                .iter()
                .all(|vector| vector.len() == length && !vector.is_empty());
        if !whole {
            return Err(ProviderError::invalid_answer(
                "answer has vectors of several lengths",
            ));
        }
        if !vectors.iter().flatten().all(|number| number.is_finite()) {
            return Err(ProviderError::invalid_answer(
                "answer has numbers that are not finite",
            ));
        }
        Ok(Self {
            vectors,
            tokens,
            unread: vec![0; texts],
            calls,
        })
    }
}

/// What to expect of a provider at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProviderState {
    /// Calls pass.
    Ready,
    /// There is none; files go on without vectors, and say so.
    NotConfigured {
        /// What is missing and how to get it.
        why: String,
    },
    /// It is configured and asks for, or needs, a pause.
    Paused {
        /// Until when, from now.
        retry_after: Duration,
        /// Why.
        why: String,
    },
}
