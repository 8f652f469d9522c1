//! The running parts of a system: each has a name, a way to be told to end, and an end that is waited for.

use std::fmt::Display;
use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// One running part.
pub(crate) struct Part {
    name: String,
    stop: CancellationToken,
    task: JoinHandle<Result<(), String>>,
}

impl Part {
    /// A part that ends when `stop` is cancelled; `ended` is its end.
    pub(crate) fn new<E: Display>(
        name: impl Into<String>,
        stop: CancellationToken,
        ended: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> Self {
        let task = tokio::spawn(async move { ended.await.map_err(|error| error.to_string()) });
        Self {
            name: name.into(),
            stop,
            task,
        }
    }
}

/// Parts in the order in which they are stopped, in steps: those of one step at the same time.
#[derive(Default)]
pub(crate) struct Parts {
    steps: Vec<Vec<Part>>,
}

impl Parts {
    /// Parts that are stopped before all that were added earlier.
    pub(crate) fn stop_first(&mut self, parts: Vec<Part>) {
        self.steps.insert(0, parts);
    }

    /// Waits until any part ends without having been told to; says which and why.
    pub(crate) async fn any_ends(&mut self) -> String {
        std::future::poll_fn(|context| {
            for part in self.steps.iter_mut().flatten() {
                if let std::task::Poll::Ready(ended) =
                    std::pin::Pin::new(&mut part.task).poll(context)
                {
                    return std::task::Poll::Ready(words(&part.name, ended));
                }
            }
            std::task::Poll::Pending
        })
        .await
    }

    /// Stops all, step after step, each within `patience`.
    pub(crate) async fn stop(&mut self, patience: Duration) {
        for step in std::mem::take(&mut self.steps) {
            for part in &step {
                part.stop.cancel();
            }
            let deadline = tokio::time::Instant::now() + patience;
            for part in step {
                if part.task.is_finished() {
                    continue;
                }
                let abort = part.task.abort_handle();
                match tokio::time::timeout_at(deadline, part.task).await {
                    Ok(Ok(Ok(()))) => {}
                    Ok(ended) => tracing::error!("{}", words(&part.name, ended)),
                    Err(_) => {
                        tracing::error!(part = part.name, "did not end in time and was cut off");
                        abort.abort();
                    }
                }
            }
        }
    }
}

fn words(name: &str, ended: Result<Result<(), String>, tokio::task::JoinError>) -> String {
    match ended {
        Ok(Ok(())) => format!("{name} ended by itself"),
        Ok(Err(error)) => format!("{name} failed: {error}"),
        Err(error) => format!("{name} failed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[tokio::test]
    async fn parts_are_stopped_one_step_after_the_other() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut parts = Parts::default();
        for name in ["store", "ledger", "gateway"] {
            let stop = CancellationToken::new();
            let order = Arc::clone(&order);
            let ended = stop.clone();
            let part = Part::new(name, stop, async move {
                ended.cancelled().await;
                if let Ok(mut order) = order.lock() {
                    order.push(name);
                }
                Ok::<_, String>(())
            });
            parts.stop_first(vec![part]);
        }
        parts.stop(Duration::from_secs(5)).await;
        assert!(
            order
                .lock()
                .is_ok_and(|order| *order == ["gateway", "ledger", "store"])
        );
    }

    #[tokio::test]
    async fn a_part_that_fails_is_named() {
        let mut parts = Parts::default();
        let lives = CancellationToken::new();
        let waits = lives.clone();
        parts.stop_first(vec![Part::new("store", lives, async move {
            waits.cancelled().await;
            Ok::<_, String>(())
        })]);
        let broken = Part::new("ledger", CancellationToken::new(), async {
            Err("no database")
        });
        parts.stop_first(vec![broken]);
        assert_eq!(parts.any_ends().await, "ledger failed: no database");
    }

    #[tokio::test]
    async fn a_part_that_does_not_end_is_cut_off() {
        let mut parts = Parts::default();
        let hangs = Part::new(
            "stage",
            CancellationToken::new(),
            std::future::pending::<Result<(), String>>(),
        );
        parts.stop_first(vec![hangs]);
        parts.stop(Duration::from_millis(20)).await;
    }
}
