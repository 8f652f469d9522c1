//! The key of a provider, and what may be wrong with settings.

use std::path::Path;

use http::HeaderValue;

/// A setting that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{setting} {problem}")]
pub struct SettingsError {
    /// The variable or setting.
    pub setting: String,
    /// What is wrong with it, in words.
    pub problem: String,
}

impl SettingsError {
    pub(crate) fn new(setting: &str, problem: impl Into<String>) -> Self {
        Self {
            setting: setting.to_owned(),
            problem: problem.into(),
        }
    }
}

/// A provider's key. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

impl ApiKey {
    /// A key without the white space around it; an empty one is none.
    pub fn new(text: &str) -> Option<Self> {
        let key = text.trim();
        (!key.is_empty()).then(|| Self(key.to_owned()))
    }

    /// Reads a key from a file, as secrets are mounted.
    pub fn from_file(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            SettingsError::new("API key file", format!("{}: {error}", path.display()))
        })?;
        Self::new(&text).ok_or_else(|| {
            SettingsError::new("API key file", format!("{}: is empty", path.display()))
        })
    }

    pub(crate) fn as_bearer(&self) -> Result<HeaderValue, SettingsError> {
        let mut bearer = HeaderValue::from_str(&format!("Bearer {}", self.0)).map_err(|_| {
            SettingsError::new("API key", "has characters that a header cannot carry")
        })?;
        bearer.set_sensitive(true);
        Ok(bearer)
    }

    pub(crate) fn redact(&self, text: &str) -> String {
        text.replace(&self.0, "[key]")
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ApiKey(..)")
    }
}
