//! Says twice a second that this process lives, and follows what operators set for all processes of its stage.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::core::Core;

/// How often it is said: half of the second within which a pause is in force.
const EVERY: Duration = Duration::from_millis(500);
/// How long a farewell may take; without it the ledger forgets this process by its silence.
const FAREWELL: Duration = Duration::from_millis(500);

/// Attends until `ended`. While the ledger does not answer, what it said last holds; before it has said anything nothing is
/// read, because the stage may be paused.
pub(crate) async fn attend(core: Arc<Core>, ended: CancellationToken) {
    let mut backoff = Backoff::new();
    loop {
        let slots = core.allowed_slots();
        let answer = tokio::select! {
            answer = core.ledger.attend(core.stage, core.process, slots) => answer,
            () = ended.cancelled() => break,
        };
        let goes_on = match answer {
            Ok(set) => {
                core.follow(set.paused, set.max_slots);
                backoff = Backoff::new();
                tokio::select! {
                    () = tokio::time::sleep(EVERY) => true,
                    () = ended.cancelled() => false,
                }
            }
            Err(error) => {
                core.unanswered("attend", &error);
                backoff.wait_unless(&ended).await
            }
        };
        if !goes_on {
            break;
        }
    }
    let farewell = core.ledger.leave(core.stage, core.process);
    let _ = tokio::time::timeout(FAREWELL, farewell).await;
}
