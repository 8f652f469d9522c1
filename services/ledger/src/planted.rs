//! Faults that the simulation plants to show that it would find them: each breaks one rule of docs/protocol.md at the place
//! where it is kept. Outside of tests there are none.

/// Whether a fault is planted in this thread.
#[cfg(test)]
macro_rules! planted {
    ($fault:ident) => {
        $crate::planted::is($crate::planted::Fault::$fault)
    };
}

#[cfg(not(test))]
macro_rules! planted {
    ($fault:ident) => {
        false
    };
}

#[cfg(test)]
pub(crate) use self::faults::*;

#[cfg(test)]
mod faults {
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    macro_rules! faults {
        ($($fault:ident: $section:literal, $words:literal;)+) => {
            /// A rule that is broken.
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub(crate) enum Fault {
                $($fault,)+
            }

            impl Fault {
                pub(crate) const ALL: &[Self] = &[$(Self::$fault,)+];

                /// The section of the protocol that it breaks.
                pub(crate) fn section(self) -> &'static str {
                    match self { $(Self::$fault => $section,)+ }
                }

                /// What goes wrong.
                pub(crate) fn words(self) -> &'static str {
                    match self { $(Self::$fault => $words,)+ }
                }
            }
        };
    }

    faults! {
        StaleMemoryTrusted: "0", "rows are written from memory that may be stale, whatever their token and revision";
        UploadNotHeld: "0", "two groups under way write to one upload";
        EpochIgnored: "1.1", "a group commits under an epoch that has ended";
        PauseIgnored: "1.3", "the files of a paused batch go out";
        StartIgnored: "1.1", "files go out before the manifest that holds them back is complete";
        PlaceFreedAtUnknownCommit: "2.1", "a COMMIT without an answer frees the places of what it may have sent out";
        PlaceNotTaken: "2.1", "a dispatch takes no place in the windows";
        StagePauseIgnored: "1.1", "files go out to a stage that operators paused";
        StageSizeIgnored: "2.1", "more files are out at a stage than operators set";
        StageNotReadAgain: "2.1", "what operators set is not read again where its COMMIT got no answer";
        TenantWindowIgnored: "2.1", "a tenant's window is not looked at";
        TenantBoundIgnored: "2.1", "a tenant's own limit of what is out is not looked at";
        PlacesNeverCompared: "2.3", "pairs that moved on keep their places";
        TimeWindowIgnored: "2.5", "more work is out at a stage than two seconds for each slot";
        LongWorkUnbounded: "2.5", "more long work is out at a stage than it has slots";
        WeightIgnored: "2.5", "all tenants share alike whatever their weights";
        CostKept: "2.5", "a place that is given back keeps its cost";
        CostNotSettled: "2.5", "what files took is neither settled nor learned";
        DeletedBeforePublished: "3.1", "an outbox row is deleted although Redis did not accept it";
        DeadLedgersOutboxLeft: "3.2", "the outbox of a dead ledger is not swept";
        ReadFromTheEnd: "4.1", "a group that is made anew delivers only what comes later";
        MessageDroppedUnfinished: "4.3", "an entry is acknowledged when the first of its dispatches is done";
        StaleLeaseGranted: "5.1", "a lease is granted whatever its token";
        StaleLeaseFromMemory: "5.1", "memory grants a lease whatever its token";
        GrantedAfterTerm: "5.1", "memory grants leases although another ledger may lead";
        LeasesKeptAtUnknownCommit: "5.1", "a COMMIT without an answer leaves memory granting what was";
        StaleRenewalTaken: "5.2", "a renewal is taken whatever its token";
        RenewalNotWritten: "5.2", "a renewal is affirmed and not written";
        NonceReused: "6.1", "two executions of one token write to one key";
        CounterMovedTwice: "6.2", "a PROCESSED file is counted twice";
        FoldersAboveNotCounted: "6.2", "the folders above a file's own are not counted";
        ResultLost: "6.2", "a result is recorded and not written";
        BudgetsKeptAtHop: "6.2", "failures and kills of one stage are charged to the next";
        CancelledGoesOn: "6.2", "a good report sends a file of a cancelled batch on";
        LateReportRecorded: "6.3", "a late report is answered RECORDED";
        StaleReportTaken: "6.3", "a report is taken whatever its token";
        AcknowledgedBeforeRecorded: "6.5", "a worker acknowledges before its report is answered";
        LetterForgotten: "7.1", "a file becomes FAILED without a dead letter";
        FailuresNotCounted: "7.1", "a failure is not charged";
        PermanentRetried: "7.1", "a permanent failure is tried again";
        FailuresUnlimited: "7.1", "a file is tried again however often it failed";
        ProviderNotHeard: "7.1", "a provider that asks to be left alone is not";
        LossCharged: "7.2", "a lost dispatch is charged as a failure";
        KillsNotCounted: "7.3", "a kill is not charged";
        HeldCharged: "7.3", "the loss of a worker is charged to files that it only held";
        HeldNotSuspected: "7.3", "a file that its lost worker may have worked on is no suspect";
        KillsUnlimited: "7.3", "a file is tried again however many workers it took with it";
        StaleReleaseTaken: "7.4", "a release is taken whatever its token";
        TokenKeptAtRelease: "7.4", "a release leaves the token as it is";
        ReleaseCharged: "7.4", "a release is charged as a failure";
        OutboxNotAsked: "8.1", "dispatches that are not published yet are taken for lost";
        LiveLeaseRedispatched: "8.2", "a file is sent out again while its lease lives";
        LiveLeaseKilled: "8.3", "a lease is taken for dead before it has run out";
        CurrentMessageRemoved: "8.4", "a message is removed that is current";
        CountsFromZero: "9.1", "a new leader does not know what is out";
        WaitingForgotten: "9.1", "a new leader does not know who waits";
        BoundsForgotten: "9.1", "a new leader does not know what tenants may have out";
        TokenKeptAtCancel: "10.1", "a cancelled file keeps its token";
        CancelledBatchTakesFiles: "10.2", "a cancelled batch takes entries and bytes";
        LetterKeptAtReplay: "11.1", "a file leaves FAILED and keeps its dead letter";
        TokenResetAtReplay: "11.1", "a replay begins with the first token again";
        BudgetsKeptAtReplay: "11.1", "a replay begins with used-up budgets";
        CancelledBeginsAnew: "11.4", "files of a cancelled batch are retried and reprocessed";
        TargetKept: "11.2", "new bytes are asked for under the old landing key";
        GenerationKept: "11.2", "new bytes meet the results of the old ones";
        ResultsNotTakenAlong: "11.3", "a reprocess begins without the results before its stage";
        OutcomeKept: "11.3", "a reprocess leaves the old outcome counted";
        TargetNotCompared: "12.2", "bytes are confirmed that landed under another key";
        ConfirmedTwice: "12.2", "a confirmation that was taken before is taken again";
        LockTakenAway: "12.2", "the right to write to an upload is given while another has it";
        LostLockWrites: "12.2", "a gateway writes to an upload whose right has gone to another";
        OldTargetTaken: "12.3", "what landed under an old key is taken for the new one";
        LandedGivenUp: "12.3", "a file is given up although the store has its bytes";
        FreedBeforeRecorded: "12.4", "a worker deletes what landed before its report is answered";
        TakenAcrossTenants: "13.3", "a result of another tenant is taken over";
        OldVersionLent: "13.3", "a result of an old version is taken over from another file";
        RunNotCounted: "14.1", "an ended batch that runs again keeps its run";
        MissingFailsKept: "14.1", "a completion that gave up goes on giving up";
        StateNotDerived: "14.1", "a batch keeps its state when its counters move";
        CompletedTakesEntries: "14.2", "a completed manifest takes entries";
        ClosedTenantTakesWork: "15.1", "a tenant that is closed takes batches and files";
        LimitIgnored: "15.2", "a tenant keeps more than its limits";
        TokenUnlimited: "15.3", "more is added with an upload token than it may add";
        ActNotWritten: "15.4", "an act on tenants or keys leaves no row in the audit";
        AnswerForgotten: "0", "a repeated request is done again";
        ChangeLost: "0", "a revision is counted and its change is not written";
    }

    /// Plants a fault in this thread, or takes it back.
    pub(crate) fn plant(fault: Option<Fault>) {
        PLANTED.set(fault);
    }

    pub(crate) fn is(fault: Fault) -> bool {
        PLANTED.get() == Some(fault)
    }
}
