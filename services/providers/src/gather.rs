//! Inputs of many callers, texts or pictures, travel in one request. They gather while a request is under way, and no longer:
//! nothing waits for a timer. Tenants take turns, and within each its callers (its files), input by input, and whoever comes has
//! the next one, so that who has few does not wait for who has many. Each caller gets the answers to its own inputs, and one that a provider refuses is found by
//! halving, so that it fails alone.
//!
//! There is no task of its own: of the callers that wait, one takes what has gathered and asks for all of it. Should it be
//! dropped half-way, the others notice and their inputs travel again.

use std::collections::{HashSet, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::sync::oneshot::{self, error::TryRecvError};

use crate::embeddings::Embeddings;
use crate::error::ProviderError;
use crate::estimate::estimate;

/// So many that just came have their first turn before one that has had a turn has its next.
const NEWCOMERS_IN_TURN: usize = 8;

/// What can be asked about.
pub(crate) trait Input: Clone + Send + Sync {
    /// Its tokens, by estimate.
    fn tokens(&self) -> usize;

    /// One that is nobody's: what is asked to see whether a provider does its work.
    fn nobodys() -> Self;
}

impl Input for String {
    fn tokens(&self) -> usize {
        estimate(self).max(1)
    }

    fn nobodys() -> Self {
        "Is anybody there?".to_owned()
    }
}

/// What answers.
pub(crate) trait Source: Send + Sync {
    /// What it is asked about.
    type Input: Input;
    /// What it answers about each.
    type Output: Send;

    /// How much travels together.
    fn bounds(&self) -> Bounds;

    /// One request: an answer for each input, in order, or none at all.
    fn ask(
        &self,
        inputs: &[&Self::Input],
    ) -> impl Future<Output = Result<Vec<Self::Output>, ProviderError>> + Send;
}

/// How much travels together.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Texts or pictures in a request.
    pub(crate) inputs: usize,
    /// Tokens in a request, by estimate; what has more goes alone.
    pub(crate) tokens: usize,
    /// While fewer requests than this are under way, another one begins with whatever there is.
    pub(crate) eager: usize,
    /// While fewer requests than this are under way, another one begins when it is full.
    pub(crate) at_most: usize,
}

/// What became of one text or picture that is to have a vector.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Answer {
    pub(crate) vector: Vec<f32>,
    /// Its part of the tokens that were read.
    pub(crate) tokens: u64,
    /// Its characters that could not be read.
    pub(crate) unread: u64,
}

/// An answer, and the request that it came by.
pub(crate) struct Answered<O> {
    pub(crate) answer: O,
    request: u64,
}

struct Piece<I, O> {
    input: I,
    tokens: usize,
    answer: oneshot::Sender<Result<Answered<O>, ProviderError>>,
}

type Answers<O> = oneshot::Receiver<Result<Answered<O>, ProviderError>>;

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Whose {
    tenant: u128,
    caller: u64,
}

/// Those that wait by their keys, each with what it waits for, which is never nothing, in the order of their turns.
struct Turns<K, Q> {
    /// Those that have had no turn yet, in the order of their coming.
    newcomers: VecDeque<(K, Q)>,
    /// How many of them had their first since another had a turn.
    newcomers_served: usize,
    /// The others, in the order of their turns.
    queue: VecDeque<(K, Q)>,
}

impl<K, Q> Default for Turns<K, Q> {
    fn default() -> Self {
        Self {
            newcomers: VecDeque::new(),
            newcomers_served: 0,
            queue: VecDeque::new(),
        }
    }
}

impl<K: PartialEq, Q: Default> Turns<K, Q> {
    fn is_empty(&self) -> bool {
        self.newcomers.is_empty() && self.queue.is_empty()
    }

    /// Adds to what one waits for.
    fn add(&mut self, key: K, add: impl FnOnce(&mut Q)) {
        let mut waiting = self.newcomers.iter_mut().chain(&mut self.queue);
        if let Some((_, known)) = waiting.find(|(whose, _)| *whose == key) {
            add(known);
            return;
        }
        let mut new = Q::default();
        add(&mut new);
        self.newcomers.push_back((key, new));
    }

    fn is_newcomers_turn(&self) -> bool {
        let others_wait = !self.queue.is_empty();
        !self.newcomers.is_empty() && (self.newcomers_served < NEWCOMERS_IN_TURN || !others_wait)
    }

    /// What the one waits for whose turn it is.
    fn front(&self) -> Option<&Q> {
        let queue = if self.is_newcomers_turn() {
            &self.newcomers
        } else {
            &self.queue
        };
        queue.front().map(|(_, waits_for)| waits_for)
    }

    /// Takes from the one whose turn it is; its turn comes again when all others have had theirs, unless nothing is left.
    fn turn<T>(
        &mut self,
        take: impl FnOnce(&mut Q) -> Option<T>,
        is_nothing: impl FnOnce(&Q) -> bool,
    ) -> Option<T> {
        let (key, mut waits_for) = if self.is_newcomers_turn() {
            self.newcomers_served += 1;
            self.newcomers.pop_front()?
        } else {
            self.newcomers_served = 0;
            self.queue.pop_front()?
        };
        let taken = take(&mut waits_for);
        if !is_nothing(&waits_for) {
            self.queue.push_back((key, waits_for));
        }
        taken
    }

    fn drain(&mut self) -> impl Iterator<Item = Q> {
        let newcomers = self.newcomers.drain(..);
        newcomers
            .chain(self.queue.drain(..))
            .map(|(_, waits_for)| waits_for)
    }
}

type Callers<I, O> = Turns<u64, VecDeque<Piece<I, O>>>;

struct State<I, O> {
    tenants: Turns<u128, Callers<I, O>>,
    queued: usize,
    queued_tokens: usize,
    under_way: usize,
}

impl<I, O> Default for State<I, O> {
    fn default() -> Self {
        Self {
            tenants: Turns::default(),
            queued: 0,
            queued_tokens: 0,
            under_way: 0,
        }
    }
}

impl<I: Input, O> State<I, O> {
    fn enqueue(&mut self, whose: Whose, input: &I) -> Answers<O> {
        let (answer, receiver) = oneshot::channel();
        let piece = Piece {
            tokens: input.tokens(),
            input: input.clone(),
            answer,
        };
        self.queued += 1;
        self.queued_tokens += piece.tokens;
        self.tenants.add(whose.tenant, |callers| {
            callers.add(whose.caller, |pieces| pieces.push_back(piece));
        });
        receiver
    }

    /// Whose turn it is.
    fn front(&self) -> Option<&Piece<I, O>> {
        self.tenants.front()?.front()?.front()
    }

    /// Takes the piece whose turn it is.
    fn pop(&mut self) -> Option<Piece<I, O>> {
        let piece = self.tenants.turn(
            |callers| callers.turn(VecDeque::pop_front, VecDeque::is_empty),
            Turns::is_empty,
        )?;
        self.queued -= 1;
        self.queued_tokens -= piece.tokens;
        Some(piece)
    }

    fn drain(&mut self) -> Vec<Piece<I, O>> {
        self.queued = 0;
        self.queued_tokens = 0;
        let tenants = self.tenants.drain();
        let callers = tenants.flat_map(|mut callers| callers.drain().collect::<Vec<_>>());
        callers.flatten().collect()
    }
}

/// Gathers inputs for a source.
pub(crate) struct Gatherer<S: Source> {
    source: S,
    state: Mutex<State<S::Input, S::Output>>,
    callers: AtomicU64,
    requests: AtomicU64,
    /// The source did its work at least once, so many inputs that it refuses are looked at one by one.
    did_its_work: AtomicBool,
    /// A request has ended.
    ended: Notify,
}

impl<S: Source> Gatherer<S> {
    pub(crate) fn new(source: S) -> Self {
        Self {
            source,
            state: Mutex::default(),
            callers: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            did_its_work: AtomicBool::new(false),
            ended: Notify::new(),
        }
    }

    pub(crate) fn source(&self) -> &S {
        &self.source
    }

    /// The answers to `inputs` of a tenant, in order. The first failure of any of them is the failure of all.
    pub(crate) async fn answers(
        &self,
        tenant: u128,
        inputs: &[S::Input],
    ) -> Result<Vec<Answered<S::Output>>, ProviderError> {
        let caller = self.callers.fetch_add(1, Ordering::Relaxed);
        let whose = Whose { tenant, caller };
        let mut waiting: Vec<Answers<S::Output>> = {
            let mut state = self.state();
            inputs
                .iter()
                .map(|input| state.enqueue(whose, input))
                .collect()
        };
        let mut found = Vec::with_capacity(inputs.len());
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            while let Some(next) = waiting.get_mut(found.len()) {
                match next.try_recv() {
                    Ok(answered) => found.push(answered?),
                    Err(TryRecvError::Empty) => break,
                    // Whoever asked for it was dropped.
                    Err(TryRecvError::Closed) => {
                        *next = self.state().enqueue(whose, &inputs[found.len()]);
                        break;
                    }
                }
            }
            if found.len() == inputs.len() {
                return Ok(found);
            }
            match self.take() {
                Some(gathered) => self.ask_for(gathered).await,
                None => ended.await,
            }
        }
    }

    /// Asks, for no caller, whether the source does its work.
    pub(crate) async fn probe(&self) -> Result<(), ProviderError> {
        match self.source.ask(&[&S::Input::nobodys()]).await {
            Ok(_) => {
                self.did_its_work.store(true, Ordering::Relaxed);
                Ok(())
            }
            Err(ProviderError::InvalidAnswer { detail }) => Err(ProviderError::misbehaves(detail)),
            Err(ProviderError::Rejected { status, detail }) => Err(ProviderError::Misbehaves {
                detail: format!("it refuses every request, with status {status}: {detail}"),
            }),
            Err(error) => Err(error),
        }
    }

    fn state(&self) -> MutexGuard<'_, State<S::Input, S::Output>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the inputs of one request, if one may begin now.
    fn take(&self) -> Option<Gathered<'_, S>> {
        let bounds = self.source.bounds();
        let mut state = self.state();
        let is_full = state.queued >= bounds.inputs || state.queued_tokens >= bounds.tokens;
        let at_once = if is_full {
            bounds.at_most
        } else {
            bounds.eager
        };
        if state.under_way >= at_once {
            return None;
        }
        let mut pieces = Vec::new();
        let mut tokens = 0;
        while pieces.len() < bounds.inputs
            && let Some(next) = state.front()
        {
            if !pieces.is_empty() && tokens + next.tokens > bounds.tokens {
                break;
            }
            let Some(piece) = state.pop() else {
                break;
            };
            if !piece.answer.is_closed() {
                tokens += piece.tokens;
                pieces.push(piece);
            }
        }
        if pieces.is_empty() {
            return None;
        }
        state.under_way += 1;
        Some(Gathered {
            gatherer: self,
            pieces,
        })
    }

    async fn ask_for(&self, mut gathered: Gathered<'_, S>) {
        let mut groups = vec![std::mem::take(&mut gathered.pieces)];
        let mut asked_again = false;
        while let Some(mut group) = groups.pop() {
            group.retain(|piece| !piece.answer.is_closed());
            if group.is_empty() {
                continue;
            }
            let request = self.requests.fetch_add(1, Ordering::Relaxed);
            let inputs: Vec<&S::Input> = group.iter().map(|piece| &piece.input).collect();
            let mut result = self.source.ask(&inputs).await;
            // A provider that refuses everything from some time on is in a state, and no input is to be blamed for it.
            let may_be_no_fault_of_it = match &result {
                Err(ProviderError::Rejected { .. }) => {
                    group.len() == 1 || !self.did_its_work.load(Ordering::Relaxed)
                }
                Err(ProviderError::InvalidAnswer { .. }) => asked_again && group.len() == 1,
                _ => false,
            };
            if may_be_no_fault_of_it && let Err(error) = self.probe().await {
                result = Err(error);
            }
            match result {
                Ok(answers) => {
                    self.did_its_work.store(true, Ordering::Relaxed);
                    asked_again = false;
                    for (piece, answer) in group.into_iter().zip(answers) {
                        // A caller that went away wants nothing.
                        let _ = piece.answer.send(Ok(Answered { answer, request }));
                    }
                }
                Err(error) if error.is_of_the_request() && group.len() > 1 => {
                    let second = group.split_off(group.len() / 2);
                    groups.push(second);
                    groups.push(group);
                }
                // A bad answer may have been a slip.
                Err(ProviderError::InvalidAnswer { .. }) if !asked_again => {
                    asked_again = true;
                    groups.push(group);
                }
                Err(error) if error.is_of_the_request() => {
                    asked_again = false;
                    answer_all(group, &error);
                }
                // A state of the provider is told to all that wait for it: none of them needs to find out for itself.
                Err(error) => {
                    answer_all(group, &error);
                    for group in groups.drain(..) {
                        answer_all(group, &error);
                    }
                    let waiting = self.state().drain();
                    answer_all(waiting, &error);
                }
            }
        }
    }
}

impl<S: Source<Output = Answer>> Gatherer<S> {
    /// The vectors of `inputs` of a tenant, in order.
    pub(crate) async fn embed(
        &self,
        tenant: u128,
        inputs: &[S::Input],
    ) -> Result<Embeddings, ProviderError> {
        together(self.answers(tenant, inputs).await?)
    }
}

fn answer_all<I, O>(pieces: Vec<Piece<I, O>>, error: &ProviderError) {
    for piece in pieces {
        let _ = piece.answer.send(Err(error.clone()));
    }
}

fn together(found: Vec<Answered<Answer>>) -> Result<Embeddings, ProviderError> {
    let requests: HashSet<u64> = found.iter().map(|answered| answered.request).collect();
    let tokens = found.iter().map(|answered| answered.answer.tokens).sum();
    let unread = found
        .iter()
        .map(|answered| answered.answer.unread)
        .collect();
    let inputs = found.len();
    let vectors = found
        .into_iter()
        .map(|answered| answered.answer.vector)
        .collect();
    let calls = u32::try_from(requests.len()).unwrap_or(u32::MAX);
    let embeddings = Embeddings::checked(vectors, inputs, tokens, calls)?;
    Ok(Embeddings {
        unread,
        ..embeddings
    })
}

/// The inputs of one request, which is under way until this is dropped.
struct Gathered<'a, S: Source> {
    gatherer: &'a Gatherer<S>,
    pieces: Vec<Piece<S::Input, S::Output>>,
}

impl<S: Source> Drop for Gathered<'_, S> {
    fn drop(&mut self) {
        let mut state = self
            .gatherer
            .state
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        state.under_way -= 1;
        drop(state);
        self.gatherer.ended.notify_waiters();
    }
}

/// Shares `total` out by `weights`, to the last one of it.
pub(crate) fn shares(total: u64, weights: &[u64]) -> Vec<u64> {
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    let mut up_to = 0_u128;
    let mut given = 0_u128;
    weights
        .iter()
        .map(|weight| {
            up_to += u128::from(*weight);
            let due = u128::from(total) * up_to / sum.max(1);
            let share = due - given;
            given = due;
            u64::try_from(share).unwrap_or(u64::MAX)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used)]

    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    /// Answers with a text's length; refuses what begins with `bad`, and all of it while it is sick.
    #[derive(Default)]
    struct Counting {
        requests: Mutex<Vec<usize>>,
        sick: AtomicBool,
    }

    impl Source for Arc<Counting> {
        type Input = String;
        type Output = Answer;

        fn bounds(&self) -> Bounds {
            Bounds {
                inputs: 10,
                tokens: 1_000,
                eager: 1,
                at_most: 2,
            }
        }

        async fn ask(&self, texts: &[&String]) -> Result<Vec<Answer>, ProviderError> {
            self.requests.lock().unwrap().push(texts.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
            if self.sick.load(Ordering::Relaxed) {
                return Err(ProviderError::unavailable("sick"));
            }
            if texts.iter().any(|text| text.starts_with("bad")) {
                return Err(ProviderError::Rejected {
                    status: 400,
                    detail: "no".to_owned(),
                });
            }
            #[expect(clippy::cast_precision_loss)]
            let answer = |text: &&String| Answer {
                vector: vec![text.len() as f32, 1.0],
                tokens: 3,
                unread: 1,
            };
            Ok(texts.iter().map(answer).collect())
        }
    }

    fn texts(number: usize) -> Vec<String> {
        vec!["x".repeat(number + 1), "y".repeat(number + 2)]
    }

    async fn embed_many(
        gatherer: &Arc<Gatherer<Arc<Counting>>>,
        of_each: impl Fn(usize) -> Vec<String>,
        callers: usize,
    ) -> Vec<Result<Embeddings, ProviderError>> {
        let mut tasks = Vec::new();
        for number in 0..callers {
            let (gatherer, texts) = (gatherer.clone(), of_each(number));
            tasks.push(tokio::spawn(async move { gatherer.embed(0, &texts).await }));
        }
        let mut results = Vec::new();
        for task in tasks {
            results.push(task.await.unwrap());
        }
        results
    }

    #[tokio::test]
    async fn many_callers_share_few_requests_and_each_gets_its_own_answers() {
        let source = Arc::new(Counting::default());
        let gatherer = Arc::new(Gatherer::new(source.clone()));
        let results = embed_many(&gatherer, texts, 100).await;
        for (number, result) in results.into_iter().enumerate() {
            let found = result.unwrap();
            #[expect(clippy::cast_precision_loss)]
            let length = (number + 1) as f32;
            assert_eq!(found.vectors, [[length, 1.0], [length + 1.0, 1.0]]);
            assert_eq!(found.tokens, 6);
            assert_eq!(found.unread, [1, 1]);
        }
        let requests = source.requests.lock().unwrap();
        assert_eq!(requests.iter().sum::<usize>(), 200);
        assert!(requests.len() <= 22, "{requests:?}");
    }

    #[tokio::test]
    async fn who_has_few_texts_goes_between_the_requests_of_who_has_thousands() {
        let source = Arc::new(Counting::default());
        let gatherer = Arc::new(Gatherer::new(source.clone()));
        let large = {
            let (gatherer, texts) = (gatherer.clone(), vec!["x".to_owned(); 5_000]);
            tokio::spawn(async move { gatherer.embed(0, &texts).await })
        };
        while source.requests.lock().unwrap().is_empty() {
            tokio::task::yield_now().await;
        }
        for number in 0..5 {
            let before = source.requests.lock().unwrap().len();
            gatherer.embed(0, &texts(number)).await.unwrap();
            let waited_for = source.requests.lock().unwrap().len() - before;
            assert!(waited_for <= 4, "{waited_for} requests");
        }
        assert!(!large.is_finished());
        large.abort();
    }

    fn of(tenant: u128, caller: u64) -> Whose {
        Whose { tenant, caller }
    }

    #[test]
    fn a_tenant_with_many_files_does_not_delay_another() {
        let mut state: State<String, Answer> = State::default();
        let mut answers = Vec::new();
        // The first tenant has a hundred files, the second two, each of three texts.
        for caller in 0..102_u64 {
            let tenant = 1 + u128::from(caller >= 100);
            answers.extend((0..3).map(|_| state.enqueue(of(tenant, caller), &caller.to_string())));
        }
        let mut order = Vec::new();
        while let Some(piece) = state.pop() {
            order.push(piece.input.parse::<u64>().unwrap());
        }
        let of_the_second: Vec<usize> = (0..order.len())
            .filter(|place| order[*place] >= 100)
            .collect();
        assert_eq!(of_the_second, [1, 3, 5, 7, 9, 11]);
        assert_eq!(
            [order[1], order[3], order[5], order[7]],
            [100, 101, 100, 101],
            "and its files take turns"
        );
        assert_eq!(order.len(), 306);
        assert!(state.tenants.is_empty());
    }

    #[test]
    fn whoever_comes_has_the_next_turn_and_keeps_nobody_waiting_for_long() {
        let mut state = State::default();
        let mut answers = Vec::new();
        let mut push = |state: &mut State<String, Answer>, caller: u64, texts: usize| {
            answers.extend((0..texts).map(|_| state.enqueue(of(1, caller), &caller.to_string())));
        };
        let next = |state: &mut State<String, Answer>| {
            let front = state.front().map(|piece| piece.input.clone());
            let popped = state.pop().map(|piece| piece.input);
            assert_eq!(front, popped);
            popped.map(|text| text.parse::<u64>().unwrap())
        };
        push(&mut state, 1, 3);
        push(&mut state, 2, 3);
        assert_eq!(
            [next(&mut state), next(&mut state), next(&mut state)],
            [Some(1), Some(2), Some(1)]
        );
        push(&mut state, 3, 1);
        assert_eq!(next(&mut state), Some(3));
        let many = NEWCOMERS_IN_TURN as u64 + 2;
        for caller in 10..10 + many {
            push(&mut state, caller, 1);
        }
        let mut order = Vec::new();
        while let Some(caller) = next(&mut state) {
            order.push(caller);
        }
        // The one before them counts.
        let in_turn = NEWCOMERS_IN_TURN as u64 - 1;
        let mut expected: Vec<u64> = (10..10 + in_turn).collect();
        expected.push(2);
        expected.extend(10 + in_turn..10 + many);
        expected.extend([1, 2]);
        assert_eq!(order, expected);
        assert_eq!((state.queued, state.queued_tokens), (0, 0));
    }

    #[tokio::test]
    async fn an_input_that_is_refused_fails_alone() {
        let source = Arc::new(Counting::default());
        let gatherer = Arc::new(Gatherer::new(source.clone()));
        let of_each = |number| match number {
            13 => vec!["good".to_owned(), "bad".to_owned()],
            number => texts(number),
        };
        let results = embed_many(&gatherer, of_each, 30).await;
        for (number, result) in results.into_iter().enumerate() {
            assert_eq!(result.is_ok(), number != 13, "{number}: {result:?}");
        }
        assert!(source.requests.lock().unwrap().len() <= 20);
    }

    #[tokio::test]
    async fn a_state_of_the_provider_is_told_to_all_who_wait_and_asked_for_once() {
        let source = Arc::new(Counting::default());
        source.sick.store(true, Ordering::Relaxed);
        let gatherer = Arc::new(Gatherer::new(source.clone()));
        let results = embed_many(&gatherer, texts, 50).await;
        assert!(results.iter().all(Result::is_err));
        assert!(source.requests.lock().unwrap().len() <= 2);
    }

    #[tokio::test]
    async fn a_caller_that_is_dropped_half_way_takes_nobodys_answers_along() {
        let source = Arc::new(Counting::default());
        let gatherer = Arc::new(Gatherer::new(source.clone()));
        let leads = {
            let gatherer = gatherer.clone();
            tokio::spawn(async move { gatherer.embed(0, &texts(1)).await })
        };
        tokio::task::yield_now().await;
        let gathers = {
            let gatherer = gatherer.clone();
            tokio::spawn(async move { gatherer.embed(0, &texts(2)).await })
        };
        tokio::task::yield_now().await;
        leads.abort();
        assert_eq!(gathers.await.unwrap().unwrap().vectors.len(), 2);
        assert_eq!(gatherer.state().under_way, 0);
    }

    #[tokio::test]
    async fn a_provider_that_refuses_everything_is_said_to_and_no_text_is_blamed() {
        let source = Arc::new(RefusesAll);
        let gatherer = Gatherer::new(source);
        let error = gatherer.embed(0, &texts(1)).await.unwrap_err();
        assert!(
            matches!(&error, ProviderError::Misbehaves { detail } if detail.contains("every request")),
            "{error}"
        );
    }

    struct RefusesAll;

    impl Source for Arc<RefusesAll> {
        type Input = String;
        type Output = Answer;

        fn bounds(&self) -> Bounds {
            Arc::new(Counting::default()).bounds()
        }

        async fn ask(&self, _: &[&String]) -> Result<Vec<Answer>, ProviderError> {
            Err(ProviderError::Rejected {
                status: 400,
                detail: "no such model".to_owned(),
            })
        }
    }

    proptest! {
        #[test]
        fn shares_add_up_to_the_whole(
            total in 0_u64..1_000_000,
            weights in prop::collection::vec(1_u64..500, 1..200),
        ) {
            let shares = shares(total, &weights);
            prop_assert_eq!(shares.len(), weights.len());
            prop_assert_eq!(shares.iter().sum::<u64>(), total);
        }
    }
}
