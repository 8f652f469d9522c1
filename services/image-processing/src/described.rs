//! What providers say of a picture: a caption, and a vector. Each is asked where it is set up.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use caudal_domain::{FileRef, Generation, Reason, Stage, Warning, WarningCode};
use caudal_providers::{Caption, Captions, Embeddings, Picture, PictureVectors, ProviderError};
use caudal_stage::{Failure, Provider, Usage};
use serde_json::{Map, Value, json};

use crate::{View, vector};

/// Files whose answers are kept in memory: a file that is given back, because the other provider is away or the store does
/// not take the result, asks for nothing twice.
const KNOWN_FILES: usize = 512;

/// Which execution answers are for, whoever works on it and however often.
type Whose = (FileRef, Generation);

/// The providers that pictures are shown to. Clones share what is known.
#[derive(Debug, Clone, Default)]
pub struct ImageProviders {
    captions: Option<Captions>,
    vectors: Option<PictureVectors>,
    known: Arc<Known>,
}

/// What was said of one picture.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Described {
    /// The caption; none without a provider, and where it refused.
    pub caption: Option<String>,
    /// The vector, likewise.
    pub vector: Option<Vec<f32>>,
    /// Tokens and calls, of this execution and of those before it whose answers are used.
    pub usage: Usage,
    /// That a provider refused the picture.
    pub warnings: Vec<Warning>,
}

/// An answer that is final: the provider said it, or refused.
type Final<T> = Option<T>;

#[derive(Debug, Clone, Default)]
struct Answers {
    caption: Option<Final<Caption>>,
    vector: Option<Final<Embeddings>>,
}

/// Answers of the files that came last.
#[derive(Debug, Default)]
struct Known {
    files: Mutex<Files>,
}

#[derive(Debug, Default)]
struct Files {
    answers: HashMap<Whose, Answers>,
    in_order: VecDeque<Whose>,
}

impl Known {
    fn lock(&self) -> MutexGuard<'_, Files> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of(&self, whose: Whose) -> Answers {
        let files = self.lock();
        files.answers.get(&whose).cloned().unwrap_or_default()
    }

    fn keep(&self, whose: Whose, answers: &Answers) {
        let mut files = self.lock();
        if files.answers.insert(whose, answers.clone()).is_none() {
            files.in_order.push_back(whose);
        }
        if files.in_order.len() > KNOWN_FILES
            && let Some(oldest) = files.in_order.pop_front()
        {
            files.answers.remove(&oldest);
        }
    }
}

impl ImageProviders {
    /// Those that are set up.
    #[must_use]
    pub fn new(captions: Option<Captions>, vectors: Option<PictureVectors>) -> Self {
        Self {
            captions,
            vectors,
            known: Arc::default(),
        }
    }

    /// The sides of the pictures that they are shown, each once.
    pub(crate) fn sides(&self) -> Vec<u32> {
        let captions = self.captions.as_ref().map(Captions::side);
        let vectors = self.vectors.as_ref().map(PictureVectors::side);
        let vectors = vectors.filter(|side| Some(*side) != captions);
        captions.into_iter().chain(vectors).collect()
    }

    /// What is said of every picture because a provider is not set up. Vectors of pictures are nobody's due: whoever sets up
    /// none wants none.
    pub(crate) fn missing(&self) -> Vec<Warning> {
        let missing = self.captions.is_none();
        let warning = || Warning::plain(WarningCode::NoCaptionProvider, Stage::ImageProcessing);
        missing.then(warning).into_iter().collect()
    }

    /// The models, as part of the stage's version; empty where there are none.
    pub(crate) fn models(&self) -> String {
        let captions = self.captions.as_ref().map(Captions::model);
        let vectors = self.vectors.as_ref().map(PictureVectors::model);
        let models: Vec<&str> = captions.into_iter().chain(vectors).collect();
        models.join("+")
    }

    /// What of their settings changes results, always spelled the same; nothing where there are none.
    pub(crate) fn version_options(&self) -> String {
        let captions = self.captions.as_ref();
        let captions = captions.map(|captions| format!(",caption:{}", captions.version_options()));
        let vectors = self.vectors.as_ref();
        let vectors = vectors.map(|vectors| format!(",vector:{}", vectors.version_options()));
        captions.unwrap_or_default() + &vectors.unwrap_or_default()
    }

    /// The facts of what was said: which model said it.
    pub(crate) fn facts(
        &self,
        caption: Option<&str>,
        vector: Option<&[f32]>,
    ) -> Map<String, Value> {
        let mut facts = Map::new();
        if let (Some(captions), Some(caption)) = (&self.captions, caption) {
            let about = json!({
                "model": captions.model(),
                "language": captions.language(),
                "characters": caption.chars().count(),
            });
            facts.insert("caption".to_owned(), about);
        }
        if let (Some(vectors), Some(vector)) = (&self.vectors, vector) {
            let about = json!({ "model": vectors.model(), "dimensions": vector.len() });
            facts.insert("image_embedding".to_owned(), about);
        }
        facts
    }

    /// The artifact of a vector.
    pub(crate) fn table(&self, vector: Vec<f32>, version: &str) -> Result<Bytes, Failure> {
        let vectors = self.vectors.as_ref();
        let model = vectors.map_or("", PictureVectors::model);
        let side = vectors.map_or(0, PictureVectors::side);
        vector::table(vector, model, side, version).map_err(|error| {
            Failure::new(
                Reason::Internal,
                format!("the table of the vector: {error}"),
            )
        })
    }

    /// Asks for what is not known yet of the picture that `views` show. `dimensions` is the length that vectors of this stage
    /// version were first recorded with.
    ///
    /// # Errors
    ///
    /// Those of [`Failure::of_provider`], but for a refusal, which is a warning.
    pub async fn describe(
        &self,
        whose: (FileRef, Generation),
        views: &[View],
        dimensions: Option<u32>,
    ) -> Result<Described, Failure> {
        let tenant = whose.0.tenant.as_uuid().as_u128();
        let mut answers = self.known.of(whose);
        // The cheap one first: where it is away, nothing dear is asked for in vain.
        if let (Some(vectors), None) = (&self.vectors, &answers.vector) {
            let expected = dimensions.and_then(|length| usize::try_from(length).ok());
            if let Some(expected) = expected {
                vectors.expect_dimensions(expected);
            }
            let said = vectors.embed(tenant, picture(views, vectors.side())?).await;
            answers.vector = Some(unless_refused(Provider::ImageEmbedding, said)?);
            self.known.keep(whose, &answers);
        }
        if let (Some(captions), None) = (&self.captions, &answers.caption) {
            let said = captions
                .describe(tenant, picture(views, captions.side())?)
                .await;
            answers.caption = Some(unless_refused(Provider::Caption, said)?);
            self.known.keep(whose, &answers);
        }
        Ok(answers.into())
    }

    /// Asks one of them, for no file, whether it does its work.
    pub(crate) async fn probe(&self, provider: Provider) -> Result<(), Failure> {
        let probed = match (provider, &self.captions, &self.vectors) {
            (Provider::Caption, Some(captions), _) => captions.probe().await,
            (Provider::ImageEmbedding, _, Some(vectors)) => vectors.probe().await,
            _ => Ok(()),
        };
        probed.map_err(|error| Failure::of_provider(provider, &error))
    }
}

impl From<Answers> for Described {
    fn from(answers: Answers) -> Self {
        let refused = |code| Warning::plain(code, Stage::ImageProcessing);
        let mut described = Self::default();
        match answers.caption {
            Some(Some(caption)) => {
                described.usage.tokens += caption.tokens;
                described.usage.provider_calls += 1;
                described.caption = Some(caption.text);
            }
            Some(None) => described
                .warnings
                .push(refused(WarningCode::CaptionRefused)),
            None => {}
        }
        match answers.vector {
            Some(Some(found)) => {
                described.usage.tokens += found.tokens;
                described.usage.provider_calls += u64::from(found.calls);
                described.vector = found.vectors.into_iter().next();
            }
            Some(None) => {
                let code = WarningCode::ImageEmbeddingRefused;
                described.warnings.push(refused(code));
            }
            None => {}
        }
        described
    }
}

/// What a provider said; nothing where it refused this picture, of which the log alone has its words.
fn unless_refused<T>(
    provider: Provider,
    said: Result<T, ProviderError>,
) -> Result<Final<T>, Failure> {
    match said {
        Ok(said) => Ok(Some(said)),
        Err(error @ ProviderError::Rejected { .. }) => {
            tracing::info!(provider = provider.name(), %error, "a picture was refused");
            Ok(None)
        }
        Err(error) => Err(Failure::of_provider(provider, &error)),
    }
}

fn picture(views: &[View], side: u32) -> Result<Picture, Failure> {
    let view = views.iter().find(|view| view.side == side);
    let view = view.ok_or_else(|| Failure::new(Reason::Internal, "no picture to be shown"))?;
    Ok(Picture::jpeg(view.jpeg.clone(), side))
}

#[cfg(test)]
mod tests {
    use caudal_domain::{BatchId, TenantId};

    use super::*;

    #[test]
    fn answers_are_kept_of_the_files_that_came_last_and_of_each_generation_by_itself() {
        let whose = |ordinal, generation| {
            let file = FileRef {
                tenant: TenantId::from_uuid(uuid::Uuid::from_u128(1)),
                batch: BatchId::from_uuid(uuid::Uuid::from_u128(2)),
                ordinal,
            };
            (file, Generation(generation))
        };
        let refused = Answers {
            caption: Some(None),
            vector: None,
        };
        let known = Known::default();
        let files = u32::try_from(KNOWN_FILES).unwrap_or(u32::MAX);
        for ordinal in 0..=files {
            known.keep(whose(ordinal, 1), &refused);
            known.keep(whose(ordinal, 1), &refused);
        }
        assert_eq!(known.lock().answers.len(), KNOWN_FILES);
        assert!(known.of(whose(0, 1)).caption.is_none());
        assert!(known.of(whose(files, 1)).caption.is_some());
        assert!(known.of(whose(files, 2)).caption.is_none());
    }

    #[test]
    fn a_refusal_is_a_warning_and_takes_nothing_of_the_rest() {
        let vector = Embeddings {
            vectors: vec![vec![1.0, 0.0]],
            tokens: 7,
            unread: vec![0],
            calls: 1,
        };
        let described = Described::from(Answers {
            caption: Some(None),
            vector: Some(Some(vector)),
        });
        let codes: Vec<WarningCode> = described.warnings.iter().map(|told| told.code).collect();
        assert_eq!(codes, [WarningCode::CaptionRefused]);
        assert_eq!(described.vector, Some(vec![1.0, 0.0]));
        assert_eq!((described.usage.tokens, described.caption), (7, None));
    }
}
