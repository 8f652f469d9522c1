//! The local model: [`Bert`] behind a bounded queue, on threads of its own.
//!
//! It is loaded at the first use and shared from then on. Work goes to private threads one batch at a time, so that a short
//! text does not wait for a whole long one, a caller that goes away stops costing anything after its current batch, and the
//! runtime's own threads never compute. A batch is one thread's work from end to end: the threads never wait for each other.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::try_join_all;
use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::{OnceCell, OwnedSemaphorePermit, Semaphore, oneshot};

use crate::batch;
use crate::bert::{Bert, Input, missing_files};
use crate::embeddings::{Embeddings, ProviderState};
use crate::error::ProviderError;
use crate::gather::{Answer, Bounds, Gatherer, Source};
use crate::tokens::TokenCounter;

/// The most tokens in one batch: two long texts or many short ones. Fewer cost more time a token, more cost memory (some 12 MB
/// beside the model) and patience for nothing.
const MAX_BATCH_TOKENS: usize = 512;

/// The most texts that are taken together, to be made into batches: many short ones, or a few long ones, for what they come to
/// in tokens is bounded too.
pub(crate) const TEXTS_A_REQUEST: usize = 32;

/// Of what is taken together so much at once: while one is computed the next is made ready.
const REQUESTS_AT_ONCE: usize = 2;

/// The most batches that may wait for the model's threads; whoever comes later is asked to come again.
const MAX_WAITING: usize = 256;

/// When to come again.
const QUEUE_PAUSE: Duration = Duration::from_secs(2);

/// What [`LocalModel::max_tokens`] says before the model is loaded: all-MiniLM-L6-v2's own number.
const USUAL_MAX_TOKENS: usize = 254;

/// Where the model is and how much of the machine it may use.
#[derive(Debug, Clone)]
pub struct LocalSettings {
    /// A folder with `model.safetensors`, `tokenizer.json` and `config.json`.
    pub folder: PathBuf,
    /// Threads that compute, at least 1.
    pub threads: usize,
    /// Computes in 32-bit floats whatever the processor has: what the usual way is measured against.
    pub exact: bool,
}

/// The local embedding model. Cheap to clone; clones share the model, its queue and its threads.
#[derive(Clone)]
pub struct LocalModel {
    gatherer: Arc<Gatherer<Shared>>,
}

struct Shared {
    settings: LocalSettings,
    name: String,
    loaded: OnceCell<Loaded>,
    turns: Arc<Semaphore>,
    waiting: AtomicUsize,
}

struct Loaded {
    bert: Arc<Bert>,
    /// Each of one thread: what is multiplied in it is not shared out once more.
    threads: Vec<ThreadPool>,
    /// Those that compute nothing; as many as there are turns left.
    idle: Arc<Mutex<Vec<usize>>>,
}

/// One of the threads, idle again when this is dropped.
struct Thread {
    number: usize,
    idle: Arc<Mutex<Vec<usize>>>,
}

impl Thread {
    fn take(idle: &Arc<Mutex<Vec<usize>>>) -> Self {
        let number = idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Self {
            number: number.unwrap_or_default(),
            idle: Arc::clone(idle),
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(self.number);
    }
}

impl LocalModel {
    /// A model that will be read from the folder at its first use; nothing is read yet, and the folder may still be empty.
    pub fn new(settings: LocalSettings) -> Self {
        let name = settings.folder.file_name().map_or_else(
            || "local".to_owned(),
            |name| name.to_string_lossy().into_owned(),
        );
        let threads = settings.threads.max(1);
        Self {
            gatherer: Arc::new(Gatherer::new(Shared {
                settings: LocalSettings {
                    threads,
                    ..settings
                },
                name,
                loaded: OnceCell::new(),
                turns: Arc::new(Semaphore::new(threads)),
                waiting: AtomicUsize::new(0),
            })),
        }
    }

    /// Embeds `texts`, in order; what is beyond the model's [`max_tokens`](Self::max_tokens) in a text is not read.
    /// `tenant` is any number that is a tenant's own: tenants take turns.
    pub async fn embed(&self, tenant: u128, texts: &[String]) -> Result<Embeddings, ProviderError> {
        self.gatherer.embed(tenant, texts).await
    }

    /// The model's own tokenizer, loading the model if it is not yet.
    pub async fn token_counter(&self) -> Result<TokenCounter, ProviderError> {
        let loaded = self.shared().load().await?;
        Ok(TokenCounter::exact(Arc::clone(&loaded.bert)))
    }

    /// The folder's name, which is the model's: `all-minilm-l6-v2`.
    pub fn model(&self) -> &str {
        &self.shared().name
    }

    /// Length of a vector, once the model is loaded.
    pub fn dimensions(&self) -> Option<usize> {
        self.shared()
            .loaded
            .get()
            .map(|loaded| loaded.bert.dimensions())
    }

    /// The most tokens of one text that are read.
    pub fn max_tokens(&self) -> usize {
        self.shared()
            .loaded
            .get()
            .map_or(USUAL_MAX_TOKENS, |loaded| loaded.bert.max_tokens())
    }

    /// Ready when the model is loaded or its files are there. Looks at the disk until the model is loaded, so a model that
    /// is installed while the process runs is found.
    pub fn state(&self) -> ProviderState {
        self.shared().state()
    }

    fn shared(&self) -> &Shared {
        self.gatherer.source()
    }
}

impl Shared {
    fn state(&self) -> ProviderState {
        if self.loaded.initialized() {
            return ProviderState::Ready;
        }
        let folder = &self.settings.folder;
        let missing = missing_files(folder);
        if missing.is_empty() {
            return ProviderState::Ready;
        }
        ProviderState::NotConfigured {
            why: format!(
                "the local embedding model is not installed: {} lacks {}; run `make setup`, or set CAUDAL_MODEL_DIR to a folder that has them",
                shown(folder),
                missing.join(", ")
            ),
        }
    }

    async fn load(&self) -> Result<&Loaded, ProviderError> {
        if let ProviderState::NotConfigured { why } = self.state() {
            return Err(ProviderError::NotConfigured { why });
        }
        self.loaded
            .get_or_try_init(|| async {
                let settings = self.settings.clone();
                let folder = settings.folder.clone();
                let loading = tokio::task::spawn_blocking(move || load(&settings));
                match loading.await {
                    Ok(Ok(loaded)) => Ok(loaded),
                    Ok(Err(problem)) => Err(broken(&folder, &problem)),
                    Err(error) => Err(broken(&folder, &error.to_string())),
                }
            })
            .await
    }

    /// Runs `work` on the model's threads when its turn has come.
    async fn compute<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Bert) -> Result<T, String> + Send + 'static,
    ) -> Result<T, ProviderError> {
        let loaded = self.load().await?;
        let turn = self.turn().await?;
        let bert = Arc::clone(&loaded.bert);
        let (sender, receiver) = oneshot::channel();
        // There are as many turns as threads, so one is idle. It is given back before the turn is.
        let thread = Thread::take(&loaded.idle);
        loaded.threads[thread.number].spawn(move || {
            let _turn = turn;
            let _thread = thread;
            if sender.is_closed() {
                return;
            }
            // The receiver may go away while this computes; its work is then for nobody.
            let _ = sender.send(work(&bert));
        });
        match receiver.await {
            // What the model cannot compute it cannot compute for these texts.
            Ok(result) => result.map_err(ProviderError::invalid_answer),
            Err(_) => Err(ProviderError::invalid_answer("the local model panicked")),
        }
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, ProviderError> {
        let waiting = Waiting::join(&self.waiting).ok_or(ProviderError::Throttled {
            retry_after: QUEUE_PAUSE,
        })?;
        let turn = Arc::clone(&self.turns)
            .acquire_owned()
            .await
            .map_err(|_| ProviderError::unavailable("the local model is closed"))?;
        drop(waiting);
        Ok(turn)
    }
}

impl Source for Shared {
    type Input = String;
    type Output = Answer;

    fn bounds(&self) -> Bounds {
        Bounds {
            inputs: TEXTS_A_REQUEST,
            // What is taken is computed before anybody else's turn comes: a batch for each thread, and one that is next.
            tokens: self.settings.threads * MAX_BATCH_TOKENS,
            eager: REQUESTS_AT_ONCE,
            at_most: REQUESTS_AT_ONCE,
        }
    }

    async fn ask(&self, texts: &[&String]) -> Result<Vec<Answer>, ProviderError> {
        let texts: Arc<[String]> = texts.iter().map(|text| (*text).clone()).collect();
        let inputs: Vec<Input> = {
            let texts = Arc::clone(&texts);
            self.compute(move |bert| texts.iter().map(|text| bert.tokenise(text)).collect())
                .await?
        };
        let inputs = Arc::new(inputs);
        let lengths: Vec<usize> = inputs.iter().map(|input| input.tokens.len()).collect();
        // All threads work for one caller where there is no other.
        let batches = batch::plan(&lengths, MAX_BATCH_TOKENS)
            .into_iter()
            .map(|members| {
                let (texts, inputs) = (Arc::clone(&texts), Arc::clone(&inputs));
                self.compute(move |bert| {
                    let batch: Vec<(&str, &Input)> = members
                        .iter()
                        .map(|&index| (texts[index].as_str(), &inputs[index]))
                        .collect();
                    bert.embed(&batch)
                })
            });
        let vectors = try_join_all(batches).await?.into_iter().flatten();
        let answers = inputs.iter().zip(vectors).map(|(input, vector)| Answer {
            vector,
            tokens: input.tokens.len() as u64,
            unread: input.unread,
        });
        Ok(answers.collect())
    }
}

impl std::fmt::Debug for LocalModel {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("LocalModel")
            .field("settings", &self.shared().settings)
            .field("loaded", &self.shared().loaded.initialized())
            .finish_non_exhaustive()
    }
}

/// A place in the queue, given back however the wait ends.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn join(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = Self(waiting);
        (waiting.fetch_add(1, Ordering::Relaxed) < MAX_WAITING).then_some(place)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn load(settings: &LocalSettings) -> Result<Loaded, String> {
    let started = std::time::Instant::now();
    let bert = Bert::load(&settings.folder, settings.exact)?;
    let thread = |number: usize| {
        ThreadPoolBuilder::new()
            .num_threads(1)
            .thread_name(move |_| format!("embed-{number}"))
            .panic_handler(|_| tracing::error!("the local model panicked"))
            .build()
            .map_err(|error| format!("no threads: {error}"))
    };
    let threads: Result<Vec<ThreadPool>, String> = (0..settings.threads).map(thread).collect();
    tracing::info!(
        folder = %settings.folder.display(),
        threads = settings.threads,
        milliseconds = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        "local embedding model loaded"
    );
    Ok(Loaded {
        bert: Arc::new(bert),
        threads: threads?,
        idle: Arc::new(Mutex::new((0..settings.threads).collect())),
    })
}

fn broken(folder: &Path, problem: &str) -> ProviderError {
    let why = format!(
        "the local embedding model in {} cannot be loaded: {problem}; remove the folder and run `make setup`",
        shown(folder)
    );
    tracing::warn!(folder = %folder.display(), problem, "local embedding model not loaded");
    ProviderError::NotConfigured { why }
}

/// A relative folder is shown whole: the reader may not know where the process was started.
fn shown(folder: &Path) -> String {
    std::path::absolute(folder)
        .unwrap_or_else(|_| folder.to_owned())
        .display()
        .to_string()
}
