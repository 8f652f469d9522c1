//! The stage runtime against a real Redis and a ledger that does what the test says.
#![expect(clippy::unwrap_used, reason = "tests")]

mod example;
mod fake_ledger;
mod fake_limiter;
#[path = "../../examples/language.rs"]
#[expect(unreachable_pub, reason = "a library of its own elsewhere")]
mod language;
mod stand;

use std::cell::Cell;
use std::time::{Duration, Instant};

use caudal_domain::Reason;
use caudal_proto::mesh::v1::{
    GetStageRequest, PauseRequest, ResumeRequest, SetConcurrencyRequest, Waiting,
};
use caudal_stage::{Dependency, Failure, Provider, StageSettings, Trouble};
use libtest_mimic::{Arguments, Trial};
use tonic::Code;

use caudal_harness::eventually;
use example::{
    the_page_shows_code_that_is_compiled, the_row_of_the_page_takes_nothing_that_a_stage_has,
    the_stage_of_the_page_finds_the_language_of_a_text,
};
use fake_ledger::Call;
use stand::{Running, STAGE, Scripted, Stand, away, key, objects_at};

macro_rules! trials {
    ($($name:ident),* $(,)?) => {
        vec![$(Trial::test(stringify!($name), || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            runtime.block_on($name());
            Ok(())
        })),*]
    };
}

fn main() {
    caudal_stage::run_solo_if_asked(|_, _| Ok(stand::solo()));
    let trials = trials![
        a_dispatch_is_leased_worked_on_reported_and_only_then_acknowledged,
        what_is_not_granted_is_acknowledged_without_work,
        nothing_is_acknowledged_while_the_ledger_does_not_answer,
        leases_are_asked_for_again_until_the_ledger_answers,
        an_entry_is_acknowledged_when_the_last_of_its_dispatches_is_final,
        a_doubled_message_is_worked_on_once_and_both_entries_go,
        a_superseded_report_is_final_too,
        a_stop_at_renewal_cancels_the_handler_and_nothing_is_reported,
        what_waits_for_a_slot_is_renewed_as_well,
        what_ends_within_a_third_of_the_lease_never_writes_one,
        a_panic_costs_its_own_attempt_and_nothing_else,
        a_handler_that_outlives_its_time_is_a_stage_timeout,
        a_failure_is_reported_with_its_reason_and_time,
        a_drain_lets_running_handlers_end_and_gives_the_rest_back,
        a_drain_that_is_over_cancels_and_gives_back_what_still_runs,
        a_lost_group_is_made_again_and_the_ledger_is_asked_to_reconcile,
        a_suspect_runs_in_a_process_of_its_own,
        a_suspect_that_kills_its_process_is_reported_by_the_living_worker,
        outcomes_gather_while_a_report_is_on_its_way,
        a_report_that_the_ledger_refuses_does_not_hold_up_the_others,
        no_more_is_read_than_there_is_room_for,
        no_more_handlers_run_than_there_are_slots_and_slots_change_at_run_time,
        no_more_handlers_run_than_the_limiter_grants,
        a_paused_process_reads_nothing_until_it_is_resumed,
        at_a_stage_that_operators_paused_nothing_is_begun_and_what_was_read_is_given_back,
        all_processes_of_a_stage_run_as_many_handlers_as_operators_set,
        a_process_says_that_it_lives_and_that_it_leaves,
        ten_long_files_leave_a_slot_for_a_short_one,
        what_waits_for_a_provider_is_given_back_uncharged_and_goes_on_by_itself,
        what_no_process_can_be_started_for_is_given_back_uncharged_and_goes_on_by_itself,
        a_provider_that_names_a_time_is_neither_asked_nor_probed_before_it,
        a_file_that_meets_a_failure_alone_is_charged_in_the_end_and_holds_up_nobody,
        a_store_that_is_away_fails_no_file_and_the_stage_goes_on_by_itself,
        a_landing_object_is_freed_only_once_a_reader_sees_the_result,
        a_landing_object_whose_result_is_never_seen_stays,
        a_landing_object_waits_for_a_ledger_that_does_not_answer,
        a_landing_object_of_a_file_that_was_not_recorded_is_not_asked_about,
        a_process_tells_what_it_does_and_serves_metrics,
        the_stage_of_the_page_finds_the_language_of_a_text,
        the_page_shows_code_that_is_compiled,
        the_row_of_the_page_takes_nothing_that_a_stage_has,
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn is_done(call: &Call) -> bool {
    matches!(call, Call::Done(..))
}

async fn a_dispatch_is_leased_worked_on_reported_and_only_then_acknowledged() {
    let stand = Stand::new().await;
    let running = stand.run(Stand::settings(4, 16)).await;
    stand.dispatch(&[(1, "hold")]).await;
    eventually("it runs", async || {
        stand.handler.seen.lock().unwrap().begun == [1]
    })
    .await;
    assert!(stand.ledger.calls().contains(&Call::Leased(key(1))));
    assert_eq!(stand.depth().await, 1);

    stand.ledger.state().away.insert("report");
    stand.handler.told.notify_one();
    eventually("it ended", async || {
        stand.handler.seen.lock().unwrap().running == 0
    })
    .await;
    assert_eq!(stand.depth().await, 1);

    stand.ledger.state().away.clear();
    stand.all_acknowledged().await;
    assert_eq!(stand.ledger.count(is_done), 1);
    running.stop().await;
}

async fn what_is_not_granted_is_acknowledged_without_work() {
    let stand = Stand::new().await;
    let running = stand.run(Stand::settings(4, 16)).await;
    stand.publish(&[key(1), key(2)]).await;
    eventually("both are refused", async || {
        stand.ledger.count(|call| matches!(call, Call::Refused(_))) == 2
    })
    .await;
    stand.all_acknowledged().await;
    assert!(stand.handler.seen.lock().unwrap().begun.is_empty());
    running.stop().await;
}

async fn nothing_is_acknowledged_while_the_ledger_does_not_answer() {
    // protocol 6.5: no answer, report again; acknowledge after a final answer only.
    let stand = Stand::new().await;
    stand.ledger.state().away.insert("report");
    let running = stand.run(Stand::settings(4, 16)).await;
    stand.dispatch(&[(1, "quick")]).await;
    let service = running.service.clone();
    eventually("a report was tried", async || {
        let stage = service
            .clone()
            .get_stage(GetStageRequest {})
            .await
            .unwrap()
            .into_inner();
        stage.last_error.starts_with("report: ")
    })
    .await;
    assert_eq!(stand.depth().await, 1);
    stand.ledger.state().away.clear();
    stand.all_acknowledged().await;
    assert_eq!(stand.ledger.count(is_done), 1);
    running.stop().await;
}

async fn leases_are_asked_for_again_until_the_ledger_answers() {
    // protocol 5.1: not granted is final, no answer is not.
    let stand = Stand::new().await;
    stand.ledger.state().away.insert("lease");
    let running = stand.run(Stand::settings(4, 16)).await;
    stand.dispatch(&[(1, "quick"), (2, "quick")]).await;
    let service = running.service.clone();
    eventually("a lease was tried", async || {
        let stage = service
            .clone()
            .get_stage(GetStageRequest {})
            .await
            .unwrap()
            .into_inner();
        stage.last_error.starts_with("lease: ")
    })
    .await;
    assert_eq!(stand.depth().await, 1);
    stand.ledger.state().away.clear();
    stand.all_acknowledged().await;
    assert_eq!(stand.ledger.count(is_done), 2);
    running.stop().await;
}

async fn an_entry_is_acknowledged_when_the_last_of_its_dispatches_is_final() {
    // protocol 4.3: acknowledging is per entry.
    let stand = Stand::new().await;
    let running = stand.run(Stand::settings(4, 16)).await;
    stand.dispatch(&[(1, "quick"), (2, "hold")]).await;
    eventually("the first is reported", async || {
        stand.ledger.count(is_done) == 1
    })
    .await;
    eventually("the second runs", async || {
        stand.handler.seen.lock().unwrap().running == 1
    })
    .await;
    assert_eq!(stand.depth().await, 1);
    stand.handler.told.notify_one();
    stand.all_acknowledged().await;
    assert_eq!(stand.ledger.count(is_done), 2);
    running.stop().await;
}

async fn a_doubled_message_is_worked_on_once_and_both_entries_go() {
    let stand = Stand::new().await;
    stand.dispatch(&[(1, "hold")]).await;
    stand.dispatch(&[(1, "hold")]).await;
    let running = stand.run(Stand::settings(4, 64)).await;
    eventually("both are read", async || {
        stand.streams.inspect(STAGE).await.unwrap().pending.len() == 2
    })
    .await;
    stand.handler.told.notify_one();
    stand.all_acknowledged().await;
    assert_eq!(stand.handler.seen.lock().unwrap().begun, [1]);
    running.stop().await;
}

async fn a_superseded_report_is_final_too() {
    let stand = Stand::new().await;
    stand.ledger.state().superseded.insert(key(1));
    let running = stand.run(Stand::settings(4, 16)).await;
    stand.dispatch(&[(1, "quick")]).await;
    eventually("it is reported", async || stand.ledger.count(is_done) == 1).await;
    stand.all_acknowledged().await;
    running.stop().await;
}

async fn a_stop_at_renewal_cancels_the_handler_and_nothing_is_reported() {
    // protocol 5.2: superseded or cancelled stops the handler.
    let stand = Stand::new().await;
    stand.ledger.state().lease_ms = 150;
    let running = stand.run(Stand::settings(1, 16)).await;
    stand.dispatch(&[(1, "wait"), (2, "quick")]).await;
    eventually("it is renewed", async || {
        stand.ledger.calls().contains(&Call::Renewed(key(1)))
    })
    .await;
    {
        let mut state = stand.ledger.state();
        state.stops.insert(key(1));
        state.stops.insert(key(2));
    }
    stand.all_acknowledged().await;
    assert_eq!(stand.handler.seen.lock().unwrap().cancelled, [1]);
    assert_eq!(stand.handler.seen.lock().unwrap().begun, [1]);
    assert_eq!(
        stand
            .ledger
            .count(|call| matches!(call, Call::Done(..) | Call::Failed(..))),
        0
    );
    running.stop().await;
}

async fn what_waits_for_a_slot_is_renewed_as_well() {
    // protocol 5.2: waiting or running, or a waiting file counts as a kill of its living worker.
    let stand = Stand::new().await;
    stand.ledger.state().lease_ms = 150;
    let running = stand.run(Stand::settings(1, 16)).await;
    stand.dispatch(&[(1, "hold"), (2, "quick")]).await;
    for ordinal in [1, 2] {
        eventually("renewed twice", async || {
            stand
                .ledger
                .count(|call| *call == Call::Renewed(key(ordinal)))
                >= 2
        })
        .await;
    }
    assert_eq!(stand.handler.seen.lock().unwrap().begun, [1]);
    stand.handler.told.notify_one();
    stand.all_acknowledged().await;
    running.stop().await;
}

async fn what_ends_within_a_third_of_the_lease_never_writes_one() {
    let stand = Stand::new().await;
    let running = stand.run(Stand::settings(4, 16)).await;
    for ordinal in 0..50 {
        stand.dispatch(&[(ordinal, "quick")]).await;
    }
    eventually("all are reported", async || {
        stand.ledger.count(is_done) == 50
    })
    .await;
    stand.all_acknowledged().await;
    assert_eq!(
        stand.ledger.count(|call| matches!(call, Call::Renewed(_))),
        0
    );
    running.stop().await;
}

async fn a_panic_costs_its_own_attempt_and_nothing_else() {
    let stand = Stand::new().await;
    let running = stand.run(Stand::settings(4, 16)).await;
    stand
        .dispatch(&[(1, "quick"), (2, "panic"), (3, "quick")])
        .await;
    stand.all_acknowledged().await;
    let detail = "the handler panicked: a fault in the handler".to_owned();
    assert!(
        stand
            .ledger
            .calls()
            .contains(&Call::Failed(key(2), "INTERNAL".to_owned(), detail))
    );
    assert_eq!(stand.ledger.count(is_done), 2);
    running.stop().await;
}

async fn a_handler_that_outlives_its_time_is_a_stage_timeout() {
    let stand = Stand::new().await;
    let settings = StageSettings {
        handler_timeout: Duration::from_millis(50),
        ..Stand::settings(4, 16)
    };
    let running = stand.run(settings).await;
    stand.dispatch(&[(1, "deaf")]).await;
    stand.all_acknowledged().await;
    let timed_out =
        |call: &Call| matches!(call, Call::Failed(_, reason, _) if reason == "STAGE_TIMEOUT");
    assert_eq!(stand.ledger.count(timed_out), 1);
    running.stop().await;
}

async fn a_failure_is_reported_with_its_reason_and_time() {
    let stand = Stand::new().await;
    let running = stand.run(Stand::settings(4, 16)).await;
    stand.dispatch(&[(1, "fail")]).await;
    stand.all_acknowledged().await;
    let failed = Call::Failed(
        key(1),
        "PROVIDER_THROTTLED".to_owned(),
        "asks for less".to_owned(),
    );
    assert!(stand.ledger.calls().contains(&failed));
    running.stop().await;
}

async fn a_drain_lets_running_handlers_end_and_gives_the_rest_back() {
    // protocol 7.4: released, nothing charged.
    let stand = Stand::new().await;
    let running = stand.run(Stand::settings(1, 16)).await;
    let consumer = running.process.process().to_string();
    stand
        .dispatch(&[(1, "hold"), (2, "quick"), (3, "quick")])
        .await;
    eventually("one runs", async || {
        stand.handler.seen.lock().unwrap().running == 1
    })
    .await;
    eventually("all are leased", async || {
        stand.ledger.count(|call| matches!(call, Call::Leased(_))) == 3
    })
    .await;
    running.shutdown.cancel();
    eventually("two are given back", async || {
        stand.ledger.count(|call| matches!(call, Call::Released(_))) == 2
    })
    .await;
    assert_eq!(stand.depth().await, 1);
    stand.dispatch(&[(4, "quick")]).await;
    stand.handler.told.notify_one();
    running.stop().await;

    assert_eq!(stand.ledger.count(is_done), 1);
    assert!(!stand.ledger.calls().contains(&Call::Leased(key(4))));
    let view = stand.streams.inspect(STAGE).await.unwrap();
    assert_eq!((view.entries.len(), view.pending.len()), (1, 0));
    assert!(
        stand
            .streams
            .delete_idle_consumer(STAGE, &consumer)
            .await
            .unwrap()
    );
}

async fn a_drain_that_is_over_cancels_and_gives_back_what_still_runs() {
    let stand = Stand::new().await;
    let settings = StageSettings {
        drain: Duration::from_millis(50),
        ..Stand::settings(4, 16)
    };
    let running = stand.run(settings).await;
    stand.dispatch(&[(1, "wait")]).await;
    eventually("it runs", async || {
        stand.handler.seen.lock().unwrap().running == 1
    })
    .await;
    running.stop().await;
    assert_eq!(stand.handler.seen.lock().unwrap().cancelled, [1]);
    assert!(stand.ledger.calls().contains(&Call::Released(key(1))));
    assert_eq!(stand.depth().await, 0);
}

async fn a_lost_group_is_made_again_and_the_ledger_is_asked_to_reconcile() {
    let stand = Stand::new().await;
    let running = stand.run(Stand::settings(4, 16)).await;
    let of_stage = Call::Reconcile(STAGE.to_string());
    let reconciles = async || stand.ledger.count(|call| *call == of_stage);
    eventually("the first start asks", async || reconciles().await == 1).await;
    stand.dispatch(&[(1, "hold")]).await;
    eventually("it runs", async || {
        stand.handler.seen.lock().unwrap().running == 1
    })
    .await;
    stand.redis.flush().await.unwrap();
    eventually("the loss is told", async || reconciles().await == 2).await;

    // protocol 8.3: what is held goes on untouched, what comes anew is delivered.
    stand.handler.told.notify_one();
    stand.dispatch(&[(2, "quick")]).await;
    eventually("both are reported", async || {
        stand.ledger.count(is_done) == 2
    })
    .await;
    stand.all_acknowledged().await;
    running.stop().await;
}

async fn a_suspect_runs_in_a_process_of_its_own() {
    // protocol 5.4.
    let stand = Stand::new().await;
    stand.ledger.state().suspects.insert(key(1));
    let running = stand.run(Stand::settings(4, 16)).await;
    stand
        .dispatch(&[(1, "quick"), (2, "quick"), (3, "quick")])
        .await;
    stand.all_acknowledged().await;
    let here = u64::from(std::process::id());
    for call in stand.ledger.calls() {
        if let Call::Done(of, done) = call {
            let facts: serde_json::Value = serde_json::from_slice(&done.facts).unwrap();
            assert_eq!(facts["process"].as_u64().unwrap() == here, of != key(1));
        }
    }
    assert_eq!(stand.ledger.count(is_done), 3);
    running.stop().await;
}

async fn a_suspect_that_kills_its_process_is_reported_by_the_living_worker() {
    // protocol 7.2: the death of a child is a failure, not a kill.
    let stand = Stand::new().await;
    stand.ledger.state().suspects.insert(key(1));
    stand.ledger.state().suspects.insert(key(2));
    let running = stand.run(Stand::settings(4, 16)).await;
    stand
        .dispatch(&[(1, "die"), (2, "fail"), (3, "quick")])
        .await;
    stand.all_acknowledged().await;
    let lost = |call: &Call| matches!(call, Call::Failed(of, reason, _) if *of == key(1) && reason == "WORKER_LOST");
    assert_eq!(stand.ledger.count(lost), 1);
    let failed = Call::Failed(
        key(2),
        "PROVIDER_THROTTLED".to_owned(),
        "asks for less".to_owned(),
    );
    assert!(stand.ledger.calls().contains(&failed));
    assert_eq!(stand.ledger.count(is_done), 1);
    running.stop().await;
}

async fn outcomes_gather_while_a_report_is_on_its_way() {
    let stand = Stand::new().await;
    stand.ledger.state().away.insert("report");
    let running = stand.run(Stand::settings(64, 128)).await;
    for first in [0_u32, 20, 40] {
        let files: Vec<(u32, &str)> = (first..first + 20)
            .map(|ordinal| (ordinal, "quick"))
            .collect();
        stand.dispatch(&files).await;
    }
    eventually("all have run", async || {
        let seen = stand.handler.seen.lock().unwrap();
        seen.begun.len() == 60 && seen.running == 0
    })
    .await;
    stand.ledger.state().away.clear();
    stand.all_acknowledged().await;
    let pages = stand.ledger.state().report_pages.clone();
    assert_eq!(pages.iter().sum::<usize>(), 60);
    assert!(pages.len() <= 3, "{pages:?}");
    running.stop().await;
}

async fn a_report_that_the_ledger_refuses_does_not_hold_up_the_others() {
    let stand = Stand::new().await;
    // As nonsense, and as something that it cannot decide: whoever repeated that would bring it to the next ledger too.
    let codes = [(key(3), Code::InvalidArgument), (key(5), Code::Internal)];
    stand.ledger.state().refused_reports.extend(codes);
    let running = stand.run(Stand::settings(8, 16)).await;
    let files: Vec<(u32, &str)> = (0..8).map(|ordinal| (ordinal, "quick")).collect();
    stand.dispatch(&files).await;
    stand.all_acknowledged().await;
    assert_eq!(stand.ledger.count(is_done), 6);
    for (refused, _) in codes {
        let failed = |call: &Call| matches!(call, Call::Failed(of, reason, _) if *of == refused && reason == "INTERNAL");
        assert_eq!(stand.ledger.count(failed), 1);
    }
    running.stop().await;
}

async fn no_more_is_read_than_there_is_room_for() {
    // protocol 4.2.
    let stand = Stand::new().await;
    for ordinal in 0..20 {
        stand.dispatch(&[(ordinal, "hold")]).await;
    }
    let running = stand.run(Stand::settings(2, 4)).await;
    eventually("two run", async || {
        stand.handler.seen.lock().unwrap().running == 2
    })
    .await;
    eventually("four are held", async || {
        stand.streams.inspect(STAGE).await.unwrap().pending.len() == 4
    })
    .await;
    let mut most = 0;
    for _ in 0..20 {
        stand.handler.told.notify_one();
        most = most.max(stand.streams.inspect(STAGE).await.unwrap().pending.len());
        tokio::task::yield_now().await;
    }
    assert_eq!(most, 4);
    eventually("all are reported", async || {
        stand.handler.told.notify_one();
        stand.ledger.count(is_done) == 20
    })
    .await;
    stand.all_acknowledged().await;
    running.stop().await;
}

async fn no_more_handlers_run_than_there_are_slots_and_slots_change_at_run_time() {
    let stand = Stand::new().await;
    let running = stand.run(Stand::settings(2, 64)).await;
    let files: Vec<(u32, &str)> = (0..12).map(|ordinal| (ordinal, "hold")).collect();
    stand.dispatch(&files).await;
    eventually("two run", async || {
        stand.handler.seen.lock().unwrap().running == 2
    })
    .await;
    let mut service = running.service.clone();
    let answer = service
        .set_concurrency(SetConcurrencyRequest { slots: 5 })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.slots, 5);
    eventually("five run", async || {
        stand.handler.seen.lock().unwrap().running == 5
    })
    .await;
    assert!(
        service
            .set_concurrency(SetConcurrencyRequest { slots: 0 })
            .await
            .is_err()
    );
    eventually("all are reported", async || {
        stand.handler.told.notify_one();
        stand.ledger.count(is_done) == 12
    })
    .await;
    assert_eq!(stand.handler.seen.lock().unwrap().most_running, 5);
    running.stop().await;
}

async fn no_more_handlers_run_than_the_limiter_grants() {
    let stand = Stand::new().await;
    let limiter = fake_limiter::FakeLimiter::default();
    limiter.slots.store(2, std::sync::atomic::Ordering::Relaxed);
    let address = limiter.start().await;
    let running = stand
        .run_with_limiter(Stand::settings(8, 64), Some(&address))
        .await;
    let files: Vec<(u32, &str)> = (0..6).map(|ordinal| (ordinal, "hold")).collect();
    stand.dispatch(&files).await;
    eventually("two run", async || {
        stand.handler.seen.lock().unwrap().running == 2
    })
    .await;
    let mut service = running.service.clone();
    let told = service
        .get_stage(GetStageRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!((told.slots, told.granted), (8, 2));
    limiter.slots.store(3, std::sync::atomic::Ordering::Relaxed);
    eventually("three run", async || {
        stand.handler.seen.lock().unwrap().running == 3
    })
    .await;
    eventually("all are reported", async || {
        stand.handler.told.notify_one();
        stand.ledger.count(is_done) == 6
    })
    .await;
    assert_eq!(stand.handler.seen.lock().unwrap().most_running, 3);
    running.stop().await;
}

async fn a_paused_process_reads_nothing_until_it_is_resumed() {
    let stand = Stand::new().await;
    let running = stand.run(Stand::settings(2, 64)).await;
    let mut service = running.service.clone();
    eventually("it reads", async || {
        !stand.streams.inspect(STAGE).await.unwrap().group_missing
    })
    .await;
    service.pause(PauseRequest {}).await.unwrap();
    assert!(
        service
            .get_stage(GetStageRequest {})
            .await
            .unwrap()
            .into_inner()
            .paused
    );
    // Another process of the stage works all that there is, but for what Redis gave to the read that the pause broke off.
    let handler = Scripted::default();
    let settings = Stand::settings(2, 64);
    let other = stand
        .run_handler(handler.clone(), stand.objects.clone(), settings, None)
        .await;
    for ordinal in 1..=8 {
        stand.dispatch(&[(ordinal, "quick")]).await;
    }
    eventually("the other works", async || {
        handler.seen.lock().unwrap().begun.len() >= 7
    })
    .await;
    assert!(stand.handler.seen.lock().unwrap().begun.is_empty());
    service.resume(ResumeRequest {}).await.unwrap();
    stand.all_acknowledged().await;
    assert_eq!(stand.ledger.count(is_done), 8);
    other.stop().await;
    running.stop().await;
}

// Protocol 10.3.
async fn at_a_stage_that_operators_paused_nothing_is_begun_and_what_was_read_is_given_back() {
    let stand = Stand::new().await;
    stand.ledger.state().set.paused = true;
    let settings = StageSettings {
        block: Duration::from_millis(20),
        ..Stand::settings(1, 16)
    };
    let running = stand.run(settings).await;
    stand.dispatch(&[(1, "hold"), (2, "quick")]).await;
    eventually("it has asked", async || {
        stand.ledger.state().attended.is_some()
    })
    .await;
    let mut service = running.service.clone();
    let told = service.get_stage(GetStageRequest {}).await.unwrap();
    assert!(told.into_inner().stage_paused);
    assert_eq!(
        stand.ledger.count(|call| matches!(call, Call::Leased(_))),
        0
    );

    stand.ledger.state().set.paused = false;
    eventually("the first runs", async || {
        stand.handler.seen.lock().unwrap().running == 1
    })
    .await;
    // What waits for a slot when the stage is paused goes back; what runs ends.
    stand.ledger.state().set.paused = true;
    eventually("the other is given back", async || {
        stand.ledger.count(is_released) == 1
    })
    .await;
    stand.handler.told.notify_one();
    stand.all_acknowledged().await;
    assert_eq!(stand.ledger.count(is_done), 1);
    // The read that was under way may still bring one; it is not begun.
    stand.dispatch(&[(3, "quick")]).await;
    stand.ledger.state().attended = None;
    eventually("it has asked again", async || {
        stand.ledger.state().attended.is_some()
    })
    .await;
    assert_eq!(stand.handler.seen.lock().unwrap().begun, [1]);
    stand.ledger.state().set.paused = false;
    until_all_are_done(&stand, &[(2, "quick"), (3, "quick")]).await;
    running.stop().await;
}

async fn all_processes_of_a_stage_run_as_many_handlers_as_operators_set() {
    let stand = Stand::new().await;
    let limiter = fake_limiter::FakeLimiter::default();
    limiter
        .slots
        .store(100, std::sync::atomic::Ordering::Relaxed);
    let address = limiter.start().await;
    let running = stand
        .run_with_limiter(Stand::settings(2, 4), Some(&address))
        .await;
    stand.ledger.state().set.max_slots = 6;
    let files: Vec<(u32, &str)> = (0..8).map(|ordinal| (ordinal, "hold")).collect();
    for file in &files {
        stand.dispatch(std::slice::from_ref(file)).await;
    }
    eventually("six run", async || {
        stand.handler.seen.lock().unwrap().running == 6
    })
    .await;
    // The limiter is told, so that it holds for all processes together.
    eventually("the limiter knows", async || {
        *limiter.stage_limit.lock().unwrap() == Some(6)
    })
    .await;
    eventually("all are reported", async || {
        stand.handler.told.notify_one();
        stand.ledger.count(is_done) == 8
    })
    .await;
    stand.ledger.state().set.max_slots = 0;
    let mut service = running.service.clone();
    eventually("it is as it was started", async || {
        let told = service.get_stage(GetStageRequest {}).await.unwrap();
        told.into_inner().slots == 2
    })
    .await;
    running.stop().await;
}

// Protocol 5.5.
async fn ten_long_files_leave_a_slot_for_a_short_one() {
    let stand = Stand::new().await;
    let running = stand.run(Stand::settings(4, 32)).await;
    let files: Vec<(u32, &str)> = (0..10).map(|ordinal| (ordinal, "hold")).collect();
    for (ordinal, _) in &files {
        let minute = 60_000_000;
        stand
            .ledger
            .state()
            .expected_us
            .insert(key(*ordinal), minute);
    }
    stand.dispatch(&files).await;
    eventually("all are leased", async || {
        stand.ledger.count(|call| matches!(call, Call::Leased(_))) == 10
    })
    .await;
    eventually("three run", async || {
        stand.handler.seen.lock().unwrap().running == 3
    })
    .await;
    stand.dispatch(&[(10, "quick")]).await;
    eventually("the short one is done", async || {
        stand.ledger.count(is_done) == 1
    })
    .await;
    let begun = stand.handler.seen.lock().unwrap().begun.clone();
    assert_eq!(begun.len(), 4, "{begun:?}");
    eventually("all are done", async || {
        stand.handler.told.notify_one();
        stand.ledger.count(is_done) == 11
    })
    .await;
    running.stop().await;
}

async fn a_process_says_that_it_lives_and_that_it_leaves() {
    let stand = Stand::new().await;
    let running = stand.run(Stand::settings(3, 16)).await;
    eventually("it says so", async || {
        let state = stand.ledger.state();
        state.attended.as_ref().is_some_and(|said| {
            (said.stage.as_str(), said.slots, said.leaves) == (STAGE.name(), 3, false)
        })
    })
    .await;
    running.stop().await;
    let state = stand.ledger.state();
    assert!(state.attended.as_ref().is_some_and(|said| said.leaves));
}

fn is_failed(call: &Call) -> bool {
    matches!(call, Call::Failed(..))
}

fn is_released(call: &Call) -> bool {
    matches!(call, Call::Released(_))
}

async fn waiting(running: &Running) -> Option<Waiting> {
    let mut service = running.service.clone();
    let told = service.get_stage(GetStageRequest {}).await.unwrap();
    told.into_inner().waiting
}

/// Sends these files again, as the ledger does with what it is given back, until all are done.
async fn until_all_are_done(stand: &Stand, files: &[(u32, &str)]) {
    let given_back = Cell::new(0);
    eventually("all are done", async || {
        let calls = stand.ledger.calls();
        let is_done = |ordinal: u32| {
            let done = |call: &Call| matches!(call, Call::Done(of, _) if *of == key(ordinal));
            calls.iter().any(done)
        };
        let left: Vec<(u32, &str)> = files
            .iter()
            .filter(|(ordinal, _)| !is_done(*ordinal))
            .copied()
            .collect();
        let released = calls.iter().filter(|call| is_released(call)).count();
        if given_back.replace(released) != released {
            stand.dispatch(&left).await;
        }
        left.is_empty()
    })
    .await;
    stand.all_acknowledged().await;
}

// Protocol 7.4: a provider that is away is a state of it. The ledger sends again what it is given back.
async fn what_waits_for_a_provider_is_given_back_uncharged_and_goes_on_by_itself() {
    let stand = Stand::new().await;
    let refused = Failure::new(Reason::ProviderUnauthorized, "status 401")
        .waiting(Dependency::Provider(Provider::Embedding), Trouble::Down);
    *stand.handler.away.lock().unwrap() = Some(refused);
    let settings = StageSettings {
        block: Duration::from_millis(20),
        ..Stand::settings(2, 16)
    };
    let running = stand.run(settings).await;
    let files: Vec<(u32, &str)> = (1..=8).map(|ordinal| (ordinal, "provider")).collect();
    stand.dispatch(&files).await;
    eventually("all are given back", async || {
        stand.ledger.count(is_released) == 8
    })
    .await;
    stand.all_acknowledged().await;
    assert!(stand.handler.seen.lock().unwrap().begun.len() <= 2);

    // By then the read that was under way has ended.
    eventually("it is probed", async || {
        stand.handler.seen.lock().unwrap().probes >= 5
    })
    .await;
    stand.dispatch(&[(9, "provider")]).await;
    eventually("it is probed again", async || {
        stand.handler.seen.lock().unwrap().probes >= 8
    })
    .await;
    assert_eq!(stand.depth().await, 1, "nothing is read meanwhile");
    let waits = waiting(&running).await.unwrap();
    assert_eq!(
        (
            waits.r#for.as_str(),
            waits.reason.as_str(),
            waits.words.as_str()
        ),
        (
            "embedding-provider",
            "PROVIDER_UNAUTHORIZED",
            "the embedding provider refuses the installation's key"
        )
    );
    let page = http_get(&running.address, "/metrics").await;
    let line = "caudal_stage_waits{service=\"extract-text\",stage=\"extract-text\",for=\"embedding-provider\"} 1";
    assert!(page.contains(line), "{page}");

    *stand.handler.away.lock().unwrap() = None;
    until_all_are_done(&stand, &files).await;
    assert_eq!(
        (stand.ledger.count(is_done), stand.ledger.count(is_failed)),
        (9, 0)
    );
    assert!(waiting(&running).await.is_none());
    running.stop().await;
}

async fn what_no_process_can_be_started_for_is_given_back_uncharged_and_goes_on_by_itself() {
    let stand = Stand::new().await;
    let refused = Failure::of_parser_host("Resource temporarily unavailable");
    *stand.handler.away.lock().unwrap() = Some(refused);
    let running = stand.run(Stand::settings(2, 16)).await;
    let files: Vec<(u32, &str)> = (1..=8).map(|ordinal| (ordinal, "provider")).collect();
    stand.dispatch(&files).await;
    eventually("all are given back, and it is probed", async || {
        stand.ledger.count(is_released) == 8 && stand.handler.seen.lock().unwrap().probes >= 5
    })
    .await;
    let waits = waiting(&running).await.unwrap();
    assert_eq!(
        (waits.r#for.as_str(), waits.words.as_str()),
        (
            "parser-host",
            "a process cannot start those that read files"
        )
    );
    *stand.handler.away.lock().unwrap() = None;
    until_all_are_done(&stand, &files).await;
    assert_eq!(
        (stand.ledger.count(is_done), stand.ledger.count(is_failed)),
        (8, 0)
    );
    running.stop().await;
}

async fn a_provider_that_names_a_time_is_neither_asked_nor_probed_before_it() {
    let stand = Stand::new().await;
    let asks = Failure {
        retry_after: Some(Duration::from_millis(700)),
        ..away(Trouble::Busy)
    };
    *stand.handler.away.lock().unwrap() = Some(asks);
    let running = stand.run(Stand::settings(1, 16)).await;
    let begun = Instant::now();
    stand.dispatch(&[(1, "provider")]).await;
    stand.all_acknowledged().await;
    *stand.handler.away.lock().unwrap() = None;
    until_all_are_done(&stand, &[(1, "provider")]).await;
    assert!(begun.elapsed() >= Duration::from_millis(700));
    assert_eq!(
        (stand.ledger.count(is_done), stand.ledger.count(is_failed)),
        (1, 0)
    );
    assert_eq!(stand.handler.seen.lock().unwrap().probes, 0);
    running.stop().await;
}

async fn a_file_that_meets_a_failure_alone_is_charged_in_the_end_and_holds_up_nobody() {
    let stand = Stand::new().await;
    let running = stand.run(Stand::settings(2, 16)).await;
    for round in 1..=3 {
        stand.dispatch(&[(1, "alone")]).await;
        eventually("it is given back", async || {
            stand.ledger.count(is_released) == round
        })
        .await;
        eventually("the stage goes on", async || {
            waiting(&running).await.is_none()
        })
        .await;
        stand.dispatch(&[(10 + round as u32, "quick")]).await;
        stand.all_acknowledged().await;
    }
    stand.dispatch(&[(1, "alone"), (20, "quick")]).await;
    stand.all_acknowledged().await;
    assert_eq!(stand.ledger.count(is_failed), 1);
    assert_eq!(stand.ledger.count(is_done), 4);
    running.stop().await;
}

async fn a_store_that_is_away_fails_no_file_and_the_stage_goes_on_by_itself() {
    // At this address there is nothing yet.
    let port = caudal_harness::Port::reserve().unwrap();
    let mut stand = Stand::new().await;
    stand.objects = objects_at(&format!("http://127.0.0.1:{port}"));
    let running = stand.run(Stand::settings(4, 16)).await;
    let files: Vec<(u32, &str)> = (1..=8).map(|ordinal| (ordinal, "store")).collect();
    stand.dispatch(&files).await;
    eventually("all are given back", async || {
        stand.ledger.count(is_released) == 8
    })
    .await;
    let waits = waiting(&running).await.unwrap();
    assert_eq!(waits.words, "the object store does not answer");

    let _store = caudal_harness::S3::start_at(&port).await.unwrap();
    until_all_are_done(&stand, &files).await;
    assert_eq!(
        (stand.ledger.count(is_done), stand.ledger.count(is_failed)),
        (8, 0)
    );
    running.stop().await;
}

// Protocol 12.4: a database may answer RECORDED and lose the commit; then what landed is all there is to begin from again.
async fn a_landing_object_is_freed_only_once_a_reader_sees_the_result() {
    let stand = Stand::with_store().await;
    let settings = StageSettings {
        landing_delay: Duration::from_millis(100),
        ..Stand::settings(4, 16)
    };
    let running = stand.run(settings).await;
    stand.land(1).await;
    stand.land(2).await;
    stand.ledger.state().seen.insert(key(2));
    stand.dispatch(&[(1, "land"), (2, "land")]).await;
    eventually("what is seen goes", async || !stand.is_landed(2).await).await;
    eventually("the other is asked about again", async || {
        checks(&stand, 1) >= 2
    })
    .await;
    assert!(stand.is_landed(1).await);
    assert_eq!(checks(&stand, 2), 1);

    stand.ledger.state().seen.insert(key(1));
    eventually("it is seen and goes", async || !stand.is_landed(1).await).await;
    running.stop().await;
}

async fn a_landing_object_whose_result_is_never_seen_stays() {
    let stand = Stand::with_store().await;
    let settings = StageSettings {
        landing_delay: Duration::from_millis(10),
        ..Stand::settings(4, 16)
    };
    let running = stand.run(settings).await;
    stand.land(1).await;
    stand.dispatch(&[(1, "land")]).await;
    let ends = |end: &str, count: u32| {
        format!(
            "caudal_stage_landing_objects_total{{service=\"extract-text\",stage=\"extract-text\",end=\"{end}\"}} {count}"
        )
    };
    let left = ends("left", 1);
    eventually("it is left", async || {
        http_get(&running.address, "/metrics").await.contains(&left)
    })
    .await;
    let page = http_get(&running.address, "/metrics").await;
    assert!(page.contains(&ends("freed", 0)), "{page}");
    assert_eq!(checks(&stand, 1), 6);
    assert!(stand.is_landed(1).await);
    running.stop().await;
}

async fn a_landing_object_waits_for_a_ledger_that_does_not_answer() {
    let stand = Stand::with_store().await;
    let settings = StageSettings {
        landing_delay: Duration::from_millis(100),
        ..Stand::settings(4, 16)
    };
    stand.ledger.state().away.insert("check");
    stand.ledger.state().seen.insert(key(1));
    let running = stand.run(settings).await;
    stand.land(1).await;
    stand.dispatch(&[(1, "land")]).await;
    let service = running.service.clone();
    eventually("it was asked about", async || {
        let stage = service.clone().get_stage(GetStageRequest {}).await;
        let last_error = stage.unwrap().into_inner().last_error;
        last_error.starts_with("check recorded: ")
    })
    .await;
    assert!(stand.is_landed(1).await);
    stand.ledger.state().away.clear();
    eventually("it goes", async || !stand.is_landed(1).await).await;
    running.stop().await;
}

async fn a_landing_object_of_a_file_that_was_not_recorded_is_not_asked_about() {
    let stand = Stand::with_store().await;
    let settings = StageSettings {
        landing_delay: Duration::from_millis(10),
        ..Stand::settings(4, 16)
    };
    stand.ledger.state().superseded.insert(key(1));
    for ordinal in 1..=3 {
        stand.ledger.state().seen.insert(key(ordinal));
        stand.land(ordinal).await;
    }
    let running = stand.run(settings).await;
    stand.dispatch(&[(1, "land"), (2, "fail")]).await;
    stand.all_acknowledged().await;
    // It comes after them: they would have been asked about before.
    stand.dispatch(&[(3, "land")]).await;
    eventually("the recorded one goes", async || !stand.is_landed(3).await).await;
    assert_eq!((checks(&stand, 1), checks(&stand, 2)), (0, 0));
    assert!(stand.is_landed(1).await && stand.is_landed(2).await);
    running.stop().await;
}

/// How often the ledger was asked whether a reader sees the file's result.
fn checks(stand: &Stand, ordinal: u32) -> usize {
    stand
        .ledger
        .count(|call| *call == Call::Checked(key(ordinal), 1))
}

async fn a_process_tells_what_it_does_and_serves_metrics() {
    let stand = Stand::new().await;
    let running = stand.run(Stand::settings(1, 16)).await;
    stand.dispatch(&[(1, "hold"), (2, "quick")]).await;
    eventually("both are leased", async || {
        stand.ledger.count(|call| matches!(call, Call::Leased(_))) == 2
    })
    .await;
    eventually("one runs", async || {
        stand.handler.seen.lock().unwrap().running == 1
    })
    .await;
    let mut service = running.service.clone();
    let told = service
        .get_stage(GetStageRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            told.stage.as_str(),
            told.slots,
            told.granted,
            told.in_flight.len()
        ),
        ("extract-text", 1, 1, 2)
    );
    assert_eq!(told.in_flight.iter().filter(|file| file.running).count(), 1);
    stand.handler.told.notify_one();
    stand.all_acknowledged().await;
    assert_eq!(
        service
            .get_stage(GetStageRequest {})
            .await
            .unwrap()
            .into_inner()
            .recorded,
        2
    );

    let page = http_get(&running.address, "/metrics").await;
    let line = "caudal_stage_files_total{service=\"extract-text\",stage=\"extract-text\",verdict=\"recorded\"} 2";
    assert!(page.contains(line), "{page}");
    running.stop().await;
}

async fn http_get(address: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut connection = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut page = String::new();
    connection.read_to_string(&mut page).await.unwrap();
    page
}
