//! The face of all providers.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::api_key::SettingsError;
use crate::embeddings::{Embeddings, ProviderState};
use crate::error::ProviderError;
use crate::local::{self, LocalModel};
use crate::permits::ProviderPermits;
use crate::settings::EmbeddingSettings;
use crate::tokens::TokenCounter;
use crate::vectors::OpenAi;

/// What is asked for something that this machine may not do itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provider {
    /// Vectors of texts.
    Embedding,
    /// Captions of pictures.
    Caption,
    /// Vectors of pictures.
    ImageEmbedding,
}

impl Provider {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Embedding, Self::Caption, Self::ImageEmbedding];

    /// What it is in settings, and in the names of its variables.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Caption => "caption",
            Self::ImageEmbedding => "image-embedding",
        }
    }

    /// The name in metrics and answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding-provider",
            Self::Caption => "caption-provider",
            Self::ImageEmbedding => "image-embedding-provider",
        }
    }

    /// What people call it.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Embedding => "embedding provider",
            Self::Caption => "caption provider",
            Self::ImageEmbedding => "image embedding provider",
        }
    }
}

/// An embedding provider. Cheap to clone; clones share everything.
#[derive(Debug, Clone)]
pub enum EmbeddingProvider {
    /// The model on this machine.
    Local(LocalModel),
    /// A service that speaks OpenAI's embeddings API.
    OpenAi(OpenAi),
    /// None is configured.
    Unavailable {
        /// Why, in words for the person who runs the system.
        why: String,
    },
}

impl EmbeddingProvider {
    /// The provider that `settings` ask for. `permits` are asked before each request to a remote one.
    pub fn new(
        settings: EmbeddingSettings,
        permits: Arc<dyn ProviderPermits>,
    ) -> Result<Self, SettingsError> {
        match settings {
            EmbeddingSettings::Local(settings) => Ok(Self::Local(LocalModel::new(settings))),
            EmbeddingSettings::OpenAi(settings) => Ok(Self::OpenAi(OpenAi::new(settings, permits)?)),
            EmbeddingSettings::None => Ok(Self::Unavailable {
                why: "no embedding provider is configured: set CAUDAL_EMBEDDING_PROVIDER to local or openai"
                    .to_owned(),
            }),
        }
    }

    /// Embeds `texts`, in order. They travel with those of other callers. Dropping the future stops the work after the
    /// batch that is being computed. `tenant` is any number that is a tenant's own: tenants take turns, and within each its callers.
    pub async fn embed(&self, tenant: u128, texts: &[String]) -> Result<Embeddings, ProviderError> {
        match self {
            Self::Local(local) => local.embed(tenant, texts).await,
            Self::OpenAi(openai) => openai.embed(tenant, texts).await,
            Self::Unavailable { why } => Err(ProviderError::NotConfigured { why: why.clone() }),
        }
    }

    /// Asks, for no file, whether the provider does its work now.
    pub async fn probe(&self) -> Result<(), ProviderError> {
        match self {
            Self::Local(local) => local.token_counter().await.map(drop),
            Self::OpenAi(openai) => openai.probe().await,
            Self::Unavailable { why } => Err(ProviderError::NotConfigured { why: why.clone() }),
        }
    }

    /// Texts that travel in one request: more of one caller at once are of no use.
    pub fn texts_a_request(&self) -> usize {
        match self {
            Self::Local(_) | Self::Unavailable { .. } => local::TEXTS_A_REQUEST,
            Self::OpenAi(openai) => openai.texts_a_request(),
        }
    }

    /// Counts tokens as the provider does, or nearly. Loads the local model.
    pub async fn token_counter(&self) -> Result<TokenCounter, ProviderError> {
        match self {
            Self::Local(local) => local.token_counter().await,
            Self::OpenAi(_) => Ok(TokenCounter::estimating()),
            Self::Unavailable { why } => Err(ProviderError::NotConfigured { why: why.clone() }),
        }
    }

    /// The model's name; `none` where there is none, so that a result without vectors never passes for one with.
    pub fn model(&self) -> &str {
        match self {
            Self::Local(local) => local.model(),
            Self::OpenAi(openai) => openai.model(),
            Self::Unavailable { .. } => "none",
        }
    }

    /// How the vectors of a text's tokens become one.
    pub fn pooling(&self) -> &'static str {
        match self {
            Self::Local(_) => "mean",
            Self::OpenAi(_) => "unknown",
            Self::Unavailable { .. } => "none",
        }
    }

    /// The length of a vector, where it is known beforehand.
    pub fn dimensions(&self) -> Option<usize> {
        match self {
            Self::Local(local) => local.dimensions(),
            Self::OpenAi(openai) => openai.dimensions(),
            Self::Unavailable { .. } => None,
        }
    }

    /// The length that vectors of this model had elsewhere or before: from now on another is the provider's fault.
    pub fn expect_dimensions(&self, length: usize) {
        if let Self::OpenAi(openai) = self {
            openai.expect_dimensions(length);
        }
    }

    /// The most tokens of one text that the model reads; 0 where there is none.
    pub fn max_tokens(&self) -> usize {
        match self {
            Self::Local(local) => local.max_tokens(),
            Self::OpenAi(openai) => openai.max_tokens(),
            Self::Unavailable { .. } => 0,
        }
    }

    /// Whether a call would pass at this moment. Cheap; looks at the disk where a local model is not loaded yet.
    pub fn state(&self) -> ProviderState {
        match self {
            Self::Local(local) => local.state(),
            Self::OpenAi(openai) => openai.state(),
            Self::Unavailable { why } => ProviderState::NotConfigured { why: why.clone() },
        }
    }
}
