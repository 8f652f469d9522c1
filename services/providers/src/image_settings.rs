//! Which providers pictures are shown to, and their settings, from the process's variables.

use std::time::Duration;

use crate::api_key::SettingsError;
use crate::breaker::BreakerPolicy;
use crate::captions::{CaptionSettings, DEFAULT_PROMPT};
use crate::server::ServerSettings;
use crate::settings::{OPENAI, Variables};
use crate::vectors::PictureVectorsSettings;

/// The sides of a picture that settings allow: what is smaller shows nothing, what is larger only costs.
const SIDES: std::ops::RangeInclusive<usize> = 64..=2_048;

/// How closely a provider may be asked to look at a picture.
const DETAILS: [&str; 3] = ["auto", "low", "high"];

/// What pictures are shown to, each set up by itself.
#[derive(Debug, Clone, Default)]
pub struct ImageSettings {
    /// What describes pictures; `None` leaves them without captions, with a warning.
    pub captions: Option<CaptionSettings>,
    /// What makes vectors of pictures; `None` leaves them without.
    pub vectors: Option<PictureVectorsSettings>,
}

impl ImageSettings {
    /// Reads the settings through `variable`, which gives a process variable's value:
    ///
    /// | variable | meaning | default |
    /// |---|---|---|
    /// | `CAUDAL_CAPTION_PROVIDER` | `openai` or `none` | `openai` where an address is set, else `none` |
    /// | `CAUDAL_CAPTION_URL` | address up to and without `/chat/completions` | `https://api.openai.com/v1` |
    /// | `CAUDAL_CAPTION_MODEL` | the provider's model | `gpt-4o-mini` |
    /// | `CAUDAL_CAPTION_API_KEY`, `CAUDAL_CAPTION_API_KEY_FILE` | its key, or a file with it | none |
    /// | `CAUDAL_CAPTION_PROMPT`, `CAUDAL_CAPTION_LANGUAGE` | what is asked; the language | [`DEFAULT_PROMPT`], English |
    /// | `CAUDAL_CAPTION_DETAIL` | `auto`, `low` or `high` | `auto` |
    /// | `CAUDAL_CAPTION_SIDE` | longer side of the picture that is sent, 64 to 2,048 | 1,024 |
    /// | `CAUDAL_CAPTION_MAX_TOKENS`, `CAUDAL_CAPTION_MAX_CHARACTERS` | of an answer, of a caption | 300, 2,000 |
    /// | `CAUDAL_CAPTION_REQUESTS` | requests under way at once | 16 |
    /// | `CAUDAL_CAPTION_TIMEOUT_SECONDS` | for one request | 60 |
    /// | `CAUDAL_IMAGE_EMBEDDING_PROVIDER` | `openai` or `none` | `openai` where an address is set, else `none` |
    /// | `CAUDAL_IMAGE_EMBEDDING_URL` | address up to and without `/embeddings` | none |
    /// | `CAUDAL_IMAGE_EMBEDDING_MODEL` | the provider's model | none |
    /// | `CAUDAL_IMAGE_EMBEDDING_API_KEY`, `CAUDAL_IMAGE_EMBEDDING_API_KEY_FILE` | its key, or a file with it | none |
    /// | `CAUDAL_IMAGE_EMBEDDING_SIDE` | longer side of the picture that is sent, 64 to 2,048 | 512 |
    /// | `CAUDAL_IMAGE_EMBEDDING_DIMENSIONS` | vector length to ask for | what comes |
    /// | `CAUDAL_IMAGE_EMBEDDING_BATCH` | pictures in one request | 8 |
    /// | `CAUDAL_IMAGE_EMBEDDING_TIMEOUT_SECONDS` | for one request | 60 |
    pub fn from_variables(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, SettingsError> {
        Ok(Self {
            captions: captions(&Variables::new("CAUDAL_CAPTION_", &variable))?,
            vectors: vectors(&Variables::new("CAUDAL_IMAGE_EMBEDDING_", &variable))?,
        })
    }

    /// Whether pictures are shown to anybody.
    pub fn is_any(&self) -> bool {
        self.captions.is_some() || self.vectors.is_some()
    }
}

fn captions(set: &Variables<'_>) -> Result<Option<CaptionSettings>, SettingsError> {
    if !is_wanted(set)? {
        return Ok(None);
    }
    let detail = set.text("DETAIL").unwrap_or_else(|| DETAILS[0].to_owned());
    if !DETAILS.contains(&detail.as_str()) {
        let problem = format!("must be auto, low or high, not {detail:?}");
        return Err(SettingsError::new(&set.name("DETAIL"), problem));
    }
    Ok(Some(CaptionSettings {
        server: server(
            set,
            set.text("URL").unwrap_or_else(|| OPENAI.to_owned()),
            set.text("MODEL")
                .unwrap_or_else(|| "gpt-4o-mini".to_owned()),
        )?,
        prompt: set
            .text("PROMPT")
            .unwrap_or_else(|| DEFAULT_PROMPT.to_owned()),
        language: set.text("LANGUAGE").unwrap_or_else(|| "English".to_owned()),
        detail,
        side: side(set, 1_024)?,
        max_tokens: set.number("MAX_TOKENS")?.unwrap_or(300),
        max_characters: set.number("MAX_CHARACTERS")?.unwrap_or(2_000),
        requests: set.number("REQUESTS")?.unwrap_or(16),
    }))
}

fn vectors(set: &Variables<'_>) -> Result<Option<PictureVectorsSettings>, SettingsError> {
    if !is_wanted(set)? {
        return Ok(None);
    }
    // OpenAI itself makes no vectors of pictures: nothing is usual.
    let required = |name: &str| {
        set.text(name).ok_or_else(|| {
            SettingsError::new(&set.name(name), "must be set: there is no usual provider")
        })
    };
    Ok(Some(PictureVectorsSettings {
        server: server(set, required("URL")?, required("MODEL")?)?,
        dimensions: set.number("DIMENSIONS")?,
        side: side(set, 512)?,
        batch: set.number("BATCH")?.unwrap_or(8),
    }))
}

fn is_wanted(set: &Variables<'_>) -> Result<bool, SettingsError> {
    match set.text("PROVIDER").as_deref() {
        None => Ok(set.text("URL").is_some()),
        Some("openai") => Ok(true),
        Some("none") => Ok(false),
        Some(other) => Err(SettingsError::new(
            &set.name("PROVIDER"),
            format!("must be openai or none, not {other:?}"),
        )),
    }
}

fn server(
    set: &Variables<'_>,
    base_url: String,
    model: String,
) -> Result<ServerSettings, SettingsError> {
    Ok(ServerSettings {
        base_url,
        model,
        api_key: set.api_key()?,
        timeout: Duration::from_secs(set.number("TIMEOUT_SECONDS")?.unwrap_or(60) as u64),
        breaker: BreakerPolicy::default(),
    })
}

fn side(set: &Variables<'_>, usual: u32) -> Result<u32, SettingsError> {
    match set.number("SIDE")? {
        None => Ok(usual),
        Some(side) if SIDES.contains(&side) => Ok(u32::try_from(side).unwrap_or(usual)),
        Some(side) => Err(SettingsError::new(
            &set.name("SIDE"),
            format!("must be {} to {}, not {side}", SIDES.start(), SIDES.end()),
        )),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<ImageSettings, SettingsError> {
        ImageSettings::from_variables(|name| {
            let pair = pairs.iter().find(|(key, _)| *key == name);
            pair.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn without_any_variable_pictures_are_shown_to_nobody() {
        let settings = read(&[("CAUDAL_EMBEDDING_URL", "http://texts/v1")]).unwrap();
        assert!(!settings.is_any());
        let off = [
            ("CAUDAL_CAPTION_URL", "http://captions/v1"),
            ("CAUDAL_CAPTION_PROVIDER", "none"),
        ];
        assert!(!read(&off).unwrap().is_any());
    }

    #[test]
    fn each_provider_is_set_up_by_itself() {
        let settings = read(&[
            ("CAUDAL_CAPTION_URL", "http://captions/v1"),
            ("CAUDAL_CAPTION_API_KEY", "sk-captions"),
            ("CAUDAL_CAPTION_LANGUAGE", "Spanish"),
            ("CAUDAL_CAPTION_SIDE", "768"),
        ])
        .unwrap();
        let captions = settings.captions.unwrap();
        assert_eq!(captions.server.base_url, "http://captions/v1");
        assert_eq!(
            (captions.language.as_str(), captions.side),
            ("Spanish", 768)
        );
        assert!(settings.vectors.is_none());
        assert!(!format!("{captions:?}").contains("sk-captions"));

        let settings = read(&[
            ("CAUDAL_IMAGE_EMBEDDING_URL", "http://vectors/v1"),
            ("CAUDAL_IMAGE_EMBEDDING_MODEL", "clip"),
            ("CAUDAL_IMAGE_EMBEDDING_DIMENSIONS", "256"),
        ])
        .unwrap();
        let vectors = settings.vectors.unwrap();
        assert_eq!(vectors.server.model, "clip");
        assert_eq!((vectors.dimensions, vectors.side), (Some(256), 512));
        assert!(settings.captions.is_none());
    }

    #[test]
    fn wrong_settings_are_named() {
        for (name, value) in [
            ("CAUDAL_CAPTION_PROVIDER", "maybe"),
            ("CAUDAL_CAPTION_DETAIL", "very"),
            ("CAUDAL_CAPTION_SIDE", "50000"),
            ("CAUDAL_CAPTION_MAX_CHARACTERS", "0"),
        ] {
            let pairs = [("CAUDAL_CAPTION_URL", "http://captions/v1"), (name, value)];
            assert_eq!(read(&pairs).unwrap_err().setting, name);
        }
        let error = read(&[("CAUDAL_IMAGE_EMBEDDING_URL", "http://v/v1")]).unwrap_err();
        assert_eq!(error.setting, "CAUDAL_IMAGE_EMBEDDING_MODEL");
    }
}
