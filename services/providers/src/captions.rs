//! Captions from a provider that speaks OpenAI's chat API with a picture in the message, `POST {base}/chat/completions`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api_key::SettingsError;
use crate::error::ProviderError;
use crate::estimate::estimate;
use crate::gather::{Bounds, Gatherer, Input, Source};
use crate::permits::ProviderPermits;
use crate::picture::Picture;
use crate::server::{Server, ServerSettings, TokensUsed, decoded, encoded};

/// What is asked where nothing else is set. `{language}` stands for the language.
pub const DEFAULT_PROMPT: &str = "Describe this picture in one to three sentences for somebody who cannot see it and wants to \
find it again. Say what is to be seen, and quote what can be read. Answer in {language}, with the description and nothing else.";

/// What stands for the language in a prompt.
const LANGUAGE_PLACE: &str = "{language}";

/// What a prompt that does not say where the language belongs is followed by.
const LANGUAGE_SENTENCE: &str = " Answer in {language}.";

/// The most characters of a caption that settings allow.
const MAX_CAPTION_CHARACTERS: usize = 20_000;

/// The most requests under way at once that settings allow.
const MAX_REQUESTS: usize = 256;

/// Where a sentence may end.
const SENTENCE_ENDS: [char; 7] = ['.', '!', '?', '…', '。', '！', '？'];

/// What a model that has nothing to say, or was kept from it, gives as the reason for its end.
const ENDED_BY_A_FILTER: &str = "content_filter";
const ENDED_AT_THE_LIMIT: &str = "length";

/// How to reach a provider of captions, and what to ask of it.
#[derive(Debug, Clone)]
pub struct CaptionSettings {
    /// Where it is, and which model.
    pub server: ServerSettings,
    /// What it is asked to do; `{language}` in it stands for the language.
    pub prompt: String,
    /// The language of captions, as the model is told it: `English`.
    pub language: String,
    /// How closely it looks at a picture: `low`, `high` or `auto`.
    pub detail: String,
    /// The longer side of a picture that is sent, at most.
    pub side: u32,
    /// Tokens of an answer, at most.
    pub max_tokens: usize,
    /// Characters of a caption, at most: what is longer ends with its last whole sentence before.
    pub max_characters: usize,
    /// Requests under way at once, at most.
    pub requests: usize,
}

/// What a provider says of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caption {
    /// Whole sentences, without white space around them; never empty.
    pub text: String,
    /// Tokens that were used, as the provider counts.
    pub tokens: u64,
}

/// A provider of captions. Cheap to clone; clones share connections, breaker and pauses.
#[derive(Clone)]
pub struct Captions {
    gatherer: Arc<Gatherer<ChatApi>>,
}

struct ChatApi {
    server: Server,
    settings: CaptionSettings,
    /// With the language in it.
    prompt: String,
}

#[derive(Serialize)]
struct ChatRequest<'a> {
    model: &'a str,
    messages: [Message<'a>; 1],
    max_tokens: usize,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: [Part<'a>; 2],
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Part<'a> {
    Text { text: &'a str },
    ImageUrl { image_url: ImageUrl<'a> },
}

#[derive(Serialize)]
struct ImageUrl<'a> {
    url: String,
    detail: &'a str,
}

#[derive(Deserialize)]
struct ChatAnswer {
    choices: Vec<Choice>,
    #[serde(default)]
    usage: Option<TokensUsed>,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
    #[serde(default)]
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(default)]
    content: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
}

impl Captions {
    /// A provider that asks `permits` before each request. Nothing is sent yet; wrong settings are named.
    pub fn new(
        settings: CaptionSettings,
        permits: Arc<dyn ProviderPermits>,
    ) -> Result<Self, SettingsError> {
        let wrong = |setting: &str, problem: String| Err(SettingsError::new(setting, problem));
        if settings.prompt.trim().is_empty() {
            return wrong("prompt", "must say what is asked".to_owned());
        }
        if settings.max_tokens == 0 {
            return wrong("max_tokens", "must be above zero".to_owned());
        }
        if !(1..=MAX_CAPTION_CHARACTERS).contains(&settings.max_characters) {
            let problem = format!("must be 1 to {MAX_CAPTION_CHARACTERS}");
            return wrong("max_characters", problem);
        }
        if !(1..=MAX_REQUESTS).contains(&settings.requests) {
            return wrong("requests", format!("must be 1 to {MAX_REQUESTS}"));
        }
        let mut prompt = settings.prompt.trim().to_owned();
        if !prompt.contains(LANGUAGE_PLACE) {
            prompt.push_str(LANGUAGE_SENTENCE);
        }
        let api = ChatApi {
            server: Server::new(settings.server.clone(), "chat/completions", permits)?,
            prompt: prompt.replace(LANGUAGE_PLACE, &settings.language),
            settings,
        };
        Ok(Self {
            gatherer: Arc::new(Gatherer::new(api)),
        })
    }

    /// Asks for the caption of a picture. That it will not say anything of it is an error [`ProviderError::Rejected`].
    /// `tenant` is any number that is a tenant's own: tenants take turns.
    pub async fn describe(&self, tenant: u128, picture: Picture) -> Result<Caption, ProviderError> {
        let found = self.gatherer.answers(tenant, &[picture]).await?;
        let found = found.into_iter().next().map(|found| found.answer);
        found.ok_or_else(|| ProviderError::invalid_answer("there is no caption"))
    }

    /// Asks for the caption of a picture that is nobody's.
    pub async fn probe(&self) -> Result<(), ProviderError> {
        self.gatherer.probe().await
    }

    /// The longer side of a picture that is sent, at most.
    pub fn side(&self) -> u32 {
        self.settings().side
    }

    /// The model's name, as the provider knows it.
    pub fn model(&self) -> &str {
        &self.settings().server.model
    }

    /// The language of captions.
    pub fn language(&self) -> &str {
        &self.settings().language
    }

    /// What of the settings changes results, always spelled the same; of the prompt, with the language in it, a digest.
    pub fn version_options(&self) -> String {
        const DIGEST_BYTES: usize = 8;
        let settings = self.settings();
        let digest = Sha256::digest(self.gatherer.source().prompt.as_bytes());
        format!(
            "prompt={},detail={},side={},tokens={},characters={}",
            hex::encode(&digest[..DIGEST_BYTES]),
            settings.detail,
            settings.side,
            settings.max_tokens,
            settings.max_characters
        )
    }

    fn settings(&self) -> &CaptionSettings {
        &self.gatherer.source().settings
    }
}

impl ChatApi {
    fn decode(&self, body: &[u8]) -> Result<Caption, ProviderError> {
        let answer: ChatAnswer = decoded(body)?;
        let tokens = answer.usage.map_or(0, |usage| usage.all());
        let Some(choice) = answer.choices.into_iter().next() else {
            return Err(ProviderError::invalid_answer("answer has no choice"));
        };
        let ended = choice.finish_reason.as_deref().unwrap_or_default();
        let refused = |words: &str| ProviderError::Rejected {
            status: 200,
            detail: self.server.quoted(words),
        };
        if let Some(words) = choice.message.refusal.filter(|words| !words.is_empty()) {
            return Err(refused(&words));
        }
        if ended == ENDED_BY_A_FILTER {
            return Err(refused("its content filter held the answer back"));
        }
        let said = choice.message.content.unwrap_or_default();
        let text = cleaned(
            &said,
            self.settings.max_characters,
            ended == ENDED_AT_THE_LIMIT,
        );
        let text = text.ok_or_else(|| {
            let problem = if said.trim().is_empty() {
                "is empty"
            } else {
                "has no whole sentence within its limit"
            };
            ProviderError::invalid_answer(format!("caption {problem}"))
        })?;
        Ok(Caption { text, tokens })
    }
}

impl Source for ChatApi {
    type Input = Picture;
    type Output = Caption;

    fn bounds(&self) -> Bounds {
        let at_once = self.server.width().min(self.settings.requests);
        Bounds {
            inputs: 1,
            tokens: usize::MAX,
            eager: at_once,
            at_most: at_once,
        }
    }

    async fn ask(&self, pictures: &[&Picture]) -> Result<Vec<Caption>, ProviderError> {
        let mut captions = Vec::with_capacity(pictures.len());
        for picture in pictures {
            let body = encoded(&ChatRequest {
                model: self.server.model(),
                messages: [Message {
                    role: "user",
                    content: [
                        Part::Text { text: &self.prompt },
                        Part::ImageUrl {
                            image_url: ImageUrl {
                                url: picture.data_url(),
                                detail: &self.settings.detail,
                            },
                        },
                    ],
                }],
                max_tokens: self.settings.max_tokens,
            })?;
            let tokens = estimate(&self.prompt) + picture.tokens() + self.settings.max_tokens;
            let posted = self
                .server
                .post(body, tokens as u64, |answer| self.decode(answer));
            captions.push(posted.await?);
        }
        Ok(captions)
    }
}

impl std::fmt::Debug for Captions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Captions")
            .field("settings", self.settings())
            .finish_non_exhaustive()
    }
}

/// A caption without white space around it and without characters that steer a screen. One that `was_cut`, or is longer than
/// `max_characters`, ends with its last whole sentence; without such there is none, and neither is there of nothing.
fn cleaned(said: &str, max_characters: usize, was_cut: bool) -> Option<String> {
    let plain: String = said
        .chars()
        .map(|character| match character {
            '\n' => '\n',
            other if other.is_control() => ' ',
            other => other,
        })
        .collect();
    let plain = plain.trim();
    let bounded = match plain.char_indices().nth(max_characters) {
        Some((end, _)) => &plain[..end],
        None => plain,
    };
    let whole = if was_cut || bounded.len() < plain.len() {
        let end = bounded.rfind(SENTENCE_ENDS)?;
        let length = bounded[end..].chars().next().map_or(0, char::len_utf8);
        &bounded[..end + length]
    } else {
        bounded
    };
    let whole = whole.trim();
    (!whole.is_empty()).then(|| whole.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caption_is_trimmed_bounded_and_never_half() {
        let whole = |text: &str| Some(text.to_owned());
        let long = "A gauge. It stands in the river, and";
        for (said, max, was_cut, expected) in [
            (
                " \n A gauge\u{7} stands. \n",
                100,
                false,
                whole("A gauge  stands."),
            ),
            ("A gauge", 100, false, whole("A gauge")),
            ("One.\nTwo.", 100, false, whole("One.\nTwo.")),
            (long, 100, true, whole("A gauge.")),
            (long, 20, false, whole("A gauge.")),
            ("川の水位計。川に", 6, false, whole("川の水位計。")),
            ("It stands in the river, and", 10, false, None),
            ("It stands in", 100, true, None),
            ("", 100, false, None),
            (" \u{0}\n ", 100, false, None),
        ] {
            assert_eq!(cleaned(said, max, was_cut), expected, "{said:?}");
        }
    }
}
