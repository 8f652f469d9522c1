//! Which provider, and its settings, from the process's variables.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::api_key::{ApiKey, SettingsError};
use crate::breaker::BreakerPolicy;
use crate::local::LocalSettings;
use crate::server::ServerSettings;
use crate::vectors::OpenAiSettings;

/// Where the local model is looked for, from the folder the process was started in.
pub const DEFAULT_MODEL_FOLDER: &str = ".caudal/models/all-minilm-l6-v2";

/// Where OpenAI itself is.
pub(crate) const OPENAI: &str = "https://api.openai.com/v1";

/// Threads of the local model that are used without being asked for more.
const DEFAULT_MAX_THREADS: usize = 4;

/// Which embedding provider to use.
#[derive(Debug, Clone)]
pub enum EmbeddingSettings {
    /// The local model.
    Local(LocalSettings),
    /// An OpenAI-compatible service.
    OpenAi(OpenAiSettings),
    /// None: files go on without vectors, with a warning.
    None,
}

impl EmbeddingSettings {
    /// Reads the settings through `variable`, which gives a process variable's value:
    ///
    /// | variable | meaning | default |
    /// |---|---|---|
    /// | `CAUDAL_EMBEDDING_PROVIDER` | `local`, `openai` or `none` | `openai` where an address is set, else `local` |
    /// | `CAUDAL_MODEL_DIR` | folder of the local model | [`DEFAULT_MODEL_FOLDER`] |
    /// | `CAUDAL_EMBEDDING_THREADS` | threads of the local model | the machine's, at most 4 |
    /// | `CAUDAL_EMBEDDING_URL` | address up to and without `/embeddings` | `https://api.openai.com/v1` |
    /// | `CAUDAL_EMBEDDING_MODEL` | the provider's model | `text-embedding-3-small` |
    /// | `CAUDAL_EMBEDDING_API_KEY`, `CAUDAL_EMBEDDING_API_KEY_FILE` | its key, or a file with it | none |
    /// | `CAUDAL_EMBEDDING_DIMENSIONS` | vector length to ask for | what comes |
    /// | `CAUDAL_EMBEDDING_MAX_TOKENS` | tokens of one text that it reads | 512 |
    /// | `CAUDAL_EMBEDDING_BATCH` | texts in one request | 64 |
    /// | `CAUDAL_EMBEDDING_TIMEOUT_SECONDS` | for one request | 60 |
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        let set = Variables::new("CAUDAL_EMBEDDING_", &variable);
        let provider = set.text("PROVIDER").unwrap_or_else(|| {
            let remote = set.text("URL").is_some();
            if remote { "openai" } else { "local" }.to_owned()
        });
        match provider.as_str() {
            "none" => Ok(Self::None),
            "local" => Ok(Self::Local(LocalSettings {
                folder: filled(&variable, "CAUDAL_MODEL_DIR")
                    .map_or_else(|| PathBuf::from(DEFAULT_MODEL_FOLDER), PathBuf::from),
                threads: set.number("THREADS")?.unwrap_or_else(usual_threads),
                exact: false,
            })),
            "openai" => Ok(Self::OpenAi(OpenAiSettings {
                server: ServerSettings {
                    base_url: set.text("URL").unwrap_or_else(|| OPENAI.to_owned()),
                    model: set
                        .text("MODEL")
                        .unwrap_or_else(|| "text-embedding-3-small".to_owned()),
                    api_key: set.api_key()?,
                    timeout: Duration::from_secs(
                        set.number("TIMEOUT_SECONDS")?.unwrap_or(60) as u64
                    ),
                    breaker: BreakerPolicy::default(),
                },
                dimensions: set.number("DIMENSIONS")?,
                max_tokens: set.number("MAX_TOKENS")?.unwrap_or(512),
                batch: set.number("BATCH")?.unwrap_or(64),
            })),
            other => Err(SettingsError::new(
                "CAUDAL_EMBEDDING_PROVIDER",
                format!("must be local, openai or none, not {other:?}"),
            )),
        }
    }
}

/// The variables of one provider, which all begin alike.
pub(crate) struct Variables<'a> {
    prefix: &'static str,
    variable: &'a dyn Fn(&str) -> Option<String>,
}

impl<'a> Variables<'a> {
    pub(crate) fn new(prefix: &'static str, variable: &'a dyn Fn(&str) -> Option<String>) -> Self {
        Self { prefix, variable }
    }

    /// The whole name of a variable.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// A value without the white space around it; an empty one is none.
    pub(crate) fn text(&self, name: &str) -> Option<String> {
        filled(self.variable, &self.name(name))
    }

    /// A whole number above zero.
    pub(crate) fn number(&self, name: &str) -> Result<Option<usize>, SettingsError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) if number > 0 => Ok(Some(number)),
            _ => Err(SettingsError::new(
                &self.name(name),
                format!("must be a whole number above zero, not {text:?}"),
            )),
        }
    }

    /// The key, from its variable or from the file that another one names.
    pub(crate) fn api_key(&self) -> Result<Option<ApiKey>, SettingsError> {
        if let Some(key) = self.text("API_KEY") {
            return Ok(ApiKey::new(&key));
        }
        self.text("API_KEY_FILE")
            .map(|path| ApiKey::from_file(Path::new(&path)))
            .transpose()
    }
}

fn filled(variable: &dyn Fn(&str) -> Option<String>, name: &str) -> Option<String> {
    let value = variable(name)?;
    let value = value.trim();
    (!value.is_empty()).then(|| value.to_owned())
}

fn usual_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, std::num::NonZeroUsize::get)
        .min(DEFAULT_MAX_THREADS)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<EmbeddingSettings, SettingsError> {
        EmbeddingSettings::from_variables(|name| {
            pairs
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn without_any_variable_the_local_model_is_used() {
        let EmbeddingSettings::Local(local) = read(&[]).unwrap() else {
            panic!("not local");
        };
        assert_eq!(local.folder, Path::new(DEFAULT_MODEL_FOLDER));
        assert!((1..=DEFAULT_MAX_THREADS).contains(&local.threads));
    }

    #[test]
    fn an_address_alone_chooses_the_remote_provider() {
        let settings = read(&[("CAUDAL_EMBEDDING_URL", "http://127.0.0.1:11434/v1")]).unwrap();
        assert!(matches!(settings, EmbeddingSettings::OpenAi(_)));
    }

    #[test]
    fn a_wrong_value_is_refused_by_its_name() {
        let error = read(&[("CAUDAL_EMBEDDING_PROVIDER", "magic")]).unwrap_err();
        assert_eq!(error.setting, "CAUDAL_EMBEDDING_PROVIDER");
        let error = read(&[("CAUDAL_EMBEDDING_THREADS", "0")]).unwrap_err();
        assert_eq!(error.setting, "CAUDAL_EMBEDDING_THREADS");
        assert!(error.to_string().contains("above zero"));
    }

    #[test]
    fn a_key_is_read_from_a_file_and_never_printed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("key");
        std::fs::write(&file, "sk-very-secret\n").unwrap();
        let settings = read(&[
            ("CAUDAL_EMBEDDING_PROVIDER", "openai"),
            ("CAUDAL_EMBEDDING_API_KEY_FILE", file.to_str().unwrap()),
        ])
        .unwrap();
        assert!(!format!("{settings:?}").contains("secret"));
        let EmbeddingSettings::OpenAi(openai) = settings else {
            panic!("not remote");
        };
        assert_eq!(openai.server.api_key, ApiKey::new("sk-very-secret"));
    }
}
