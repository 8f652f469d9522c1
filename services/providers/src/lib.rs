//! Providers: what turns a text into a vector, a picture into a caption, and a picture into a vector.
//!
//! [`EmbeddingProvider`] is the face of the first: the local model (all-MiniLM-L6-v2 on this machine's own cores), any HTTP
//! service that speaks OpenAI's embeddings API, or nothing at all, said aloud. [`Captions`] and [`PictureVectors`] are such
//! services that are shown pictures. All calls go through one client (`server`): they pass the shared permits
//! ([`ProviderPermits`]) and a circuit [`breaker`] first, so that one sick or strict provider slows its stage and nothing else,
//! and keep the pace that the provider allows. What many callers ask travels in one request, where the API takes that.

mod api_key;
mod batch;
mod bert;
pub mod breaker;
mod captions;
mod embeddings;
mod encoder;
mod error;
mod estimate;
mod gather;
mod http;
mod image_settings;
#[cfg(target_arch = "x86_64")]
mod kernel;
mod linear;
mod local;
mod pace;
mod permits;
mod picture;
mod provider;
mod server;
mod settings;
mod tokens;
mod unread;
mod vector_column;
mod vectors;

pub use api_key::{ApiKey, SettingsError};
pub use captions::{Caption, CaptionSettings, Captions, DEFAULT_PROMPT};
pub use embeddings::{Embeddings, ProviderState};
pub use error::ProviderError;
pub use image_settings::ImageSettings;
pub use local::{LocalModel, LocalSettings};
pub use permits::{Permitted, ProviderAnswer, ProviderPermits, Throttled, Unlimited};
pub use picture::Picture;
pub use provider::{EmbeddingProvider, Provider};
pub use server::ServerSettings;
pub use settings::{DEFAULT_MODEL_FOLDER, EmbeddingSettings};
pub use tokens::TokenCounter;
pub use vector_column::VectorColumn;
pub use vectors::{OpenAi, OpenAiSettings, PictureVectors, PictureVectorsSettings};
