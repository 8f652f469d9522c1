//! Embedding providers: what turns a piece of text into a vector.
//!
//! [`EmbeddingProvider`] is the face: the local model (all-MiniLM-L6-v2 on this machine's own cores), any HTTP service that
//! speaks OpenAI's embeddings API, or nothing at all, said aloud. Calls to a remote provider pass the shared permits
//! ([`ProviderPermits`]) and a circuit [`breaker`] first, so that one sick or strict provider slows its stage and nothing else.
//! Texts of many callers travel in one request, and requests keep the pace that the provider allows.

mod api_key;
mod batch;
mod bert;
pub mod breaker;
mod embeddings;
mod encoder;
mod error;
mod estimate;
mod gather;
mod http;
#[cfg(target_arch = "x86_64")]
mod kernel;
mod linear;
mod local;
mod openai;
mod pace;
mod permits;
mod provider;
mod settings;
mod tokens;
mod unread;

pub use api_key::{ApiKey, SettingsError};
pub use embeddings::{Embeddings, ProviderState};
pub use error::ProviderError;
pub use local::{LocalModel, LocalSettings};
pub use openai::{OpenAi, OpenAiSettings};
pub use permits::{Permitted, ProviderPermits, Throttled, Unlimited};
pub use provider::EmbeddingProvider;
pub use settings::{DEFAULT_MODEL_FOLDER, EmbeddingSettings};
pub use tokens::TokenCounter;
