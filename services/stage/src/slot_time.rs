//! How long a handler works in its slot: its time from beginning to end, without what it waits for a place among the processes
//! that read files. Those are few, and a short file that waits behind a long one has not cost more for it.

use std::cell::Cell;
use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

tokio::task_local! {
    static WAITED: Cell<Duration>;
}

/// Runs a handler; what it came to, and how long it worked.
pub(crate) async fn measured<F: Future>(handler: F) -> (F::Output, Duration) {
    let began = Instant::now();
    let both = async {
        let output = handler.await;
        (output, WAITED.with(Cell::get))
    };
    let (output, waited) = WAITED.scope(Cell::default(), both).await;
    (output, began.elapsed().saturating_sub(waited))
}

/// Awaits something that is no work of the handler that is measured here, if one is.
pub(crate) async fn waiting<F: Future>(wait: F) -> F::Output {
    let began = Instant::now();
    let output = wait.await;
    let _ = WAITED.try_with(|waited| waited.set(waited.get() + began.elapsed()));
    output
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_handler_waits_for_a_place_is_not_what_it_costs() {
        const WAIT: Duration = Duration::from_millis(30);
        let place = tokio::sync::Semaphore::new(0);
        let handler = waiting(tokio::time::timeout(WAIT, place.acquire()));
        let began = Instant::now();
        let (gave_up, took) = measured(handler).await;
        assert!(gave_up.is_err());
        assert!(began.elapsed() - took >= WAIT, "{took:?}");
    }
}
