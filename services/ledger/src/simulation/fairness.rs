//! What one decision of a group may let out: the windows by number and by time, shares and pauses (protocol 1.1, 2.1, 2.5), told by
//! what was out before and after it, not by the code that made it.

use caudal_domain::{FileState, Stage, TenantId};
use rustc_hash::{FxHashMap, FxHashSet};

use super::database::Tables;
use super::steps::Asked;
use super::streams::Pair;
use crate::memory::costs::Cost;
use crate::memory::dispatcher::seen::{Seen, SeenStage};
use crate::settings::DispatchWindows;

/// How much work is out for each slot of a stage.
const A_SLOT: Cost = 2_000_000;

/// What a decision is judged by.
pub(super) struct Decision<'a> {
    pub(super) before: &'a Seen,
    pub(super) after: &'a Seen,
    pub(super) windows: &'a DispatchWindows,
    /// What was committed when it was made.
    pub(super) committed: &'a Tables,
    /// A group was being written meanwhile.
    pub(super) is_second: bool,
}

/// What a stage has out of somebody's: what was there, and what was let out.
#[derive(Clone, Copy, Default)]
struct Out {
    kept: u32,
    kept_cost: Cost,
    kept_long: u32,
    new: u32,
    new_cost: Cost,
    new_long: u32,
    /// Of those that were let out.
    longest: Cost,
}

impl Out {
    fn keeps(&mut self, cost: Cost) {
        self.kept += 1;
        self.kept_cost += cost;
        self.kept_long += u32::from(cost > A_SLOT);
    }

    fn lets_out(&mut self, cost: Cost) {
        self.new += 1;
        self.new_cost += cost;
        self.new_long += u32::from(cost > A_SLOT);
        self.longest = self.longest.max(cost);
    }

    /// What was out at least when the last of them was let out: files, and what they cost.
    fn before_the_last(&self) -> (u32, Cost) {
        let cost = self.kept_cost + self.new_cost - self.longest;
        (self.kept + self.new - 1, cost)
    }
}

impl Decision<'_> {
    /// What it may not have done. `in_place`: whether what is out under this token was sent again without being admitted anew,
    /// if it was out there before.
    pub(super) fn check(&self, in_place: impl Fn(Pair) -> bool) -> Vec<String> {
        let mut of: FxHashMap<(Stage, TenantId), Out> = FxHashMap::default();
        let mut before = self.before.out.iter().collect::<Vec<_>>();
        before.sort_unstable();
        let mut sent_again = FxHashSet::default();
        for ((file, token), (stage, cost)) in before {
            let stays = self.after.out.get(&(*file, *token)) == Some(&(*stage, *cost));
            if !stays || !self.was_out((*file, *token)) {
                continue;
            }
            of.entry((*stage, file.tenant)).or_default().keeps(*cost);
            if in_place((*file, *token)) {
                sent_again.insert((*stage, *file));
            }
        }
        for ((file, token), (stage, cost)) in &self.after.out {
            let is_new = !self.before.out.contains_key(&(*file, *token));
            if is_new && !sent_again.contains(&(*stage, *file)) {
                of.entry((*stage, file.tenant)).or_default().lets_out(*cost);
            }
        }
        let mut found = Vec::new();
        for (stage, after) in &self.after.stages {
            self.check_sum(*stage, after, &mut found);
            let tenants = of.iter().filter(|((of, _), _)| of == stage);
            let mut tenants: Vec<(TenantId, Out)> =
                tenants.map(|((_, tenant), out)| (*tenant, *out)).collect();
            tenants.sort_unstable_by_key(|(tenant, _)| *tenant);
            if let Some(before) = self.before.stages.get(stage)
                && tenants.iter().any(|(_, out)| out.new > 0)
            {
                self.check_stage(*stage, (before, after), &tenants, &mut found);
            }
        }
        found
    }

    /// Whether a place was held from the beginning to the end. One that a group took which came to nothing may have been given
    /// back and taken anew in between, but for where another group is being written, for then nobody compares places with rows.
    fn was_out(&self, (file, token): Pair) -> bool {
        let row = self.committed.files.get(&file);
        self.is_second || row.is_some_and(|row| row.token == token && row.dispatched_at.is_some())
    }

    /// Protocol 2.1: what counts as out is the sum of what is.
    fn check_sum(&self, stage: Stage, after: &SeenStage, found: &mut Vec<String>) {
        let mut sum = Out::default();
        let out = self.after.out.values().filter(|(of, _)| *of == stage);
        out.for_each(|(_, cost)| sum.keeps(*cost));
        let is = (sum.kept, sum.kept_cost, sum.kept_long);
        let counted = (after.files, after.cost, after.long);
        if is != counted {
            found.push(format!(
                "out at {stage}, its cost and the long work of it are {is:?}, counted are {counted:?}"
            ));
        }
    }

    fn check_stage(
        &self,
        stage: Stage,
        (before, after): (&SeenStage, &SeenStage),
        tenants: &[(TenantId, Out)],
        found: &mut Vec<String>,
    ) {
        let sum = |of: fn(&Out) -> u32| tenants.iter().map(|(_, out)| of(out)).sum::<u32>();
        let (kept, new) = (sum(|out| out.kept), sum(|out| out.new));
        // Protocol 1.1.
        if after.paused {
            found.push(format!("{new} files went out to {stage}, which is paused"));
        }
        let usual = self.windows.of_stage.get(&stage).copied();
        let window = after.max_files.or(usual).unwrap_or_default();
        if kept + new > window {
            found.push(format!(
                "{new} files went out to {stage} beside {kept}, its window is {window}"
            ));
        }
        // Only what processes say in between changes them, and they only go up once those that are silent are forgotten.
        let (Some(slots), Some(later)) = (before.slots, after.slots) else {
            return;
        };
        let slots = slots.max(later);
        let (kept, new) = (sum(|out| out.kept_long), sum(|out| out.new_long));
        if new > 0 && kept + new > slots {
            found.push(format!(
                "{new} files of long work went out to {stage} beside {kept}, it has {slots} slots"
            ));
        }
        for (tenant, out) in tenants.iter().filter(|(_, out)| out.new > 0) {
            let (share, all) = self.share(*tenant, before, after);
            let window = A_SLOT * Cost::from(slots) * share / all;
            let own_slots = (Cost::from(slots) * share / all).max(1);
            let (files, cost) = out.before_the_last();
            if cost >= window && Cost::from(files) >= own_slots {
                found.push(format!(
                    "{tenant} has {share} of {all} of {slots} slots of {stage}, and {} more files went out beside {files} that \
                     cost {cost}",
                    out.new
                ));
            }
        }
    }

    /// The most that a tenant's share may have been while somebody else waited all the time, and of how much.
    fn share(&self, tenant: TenantId, before: &SeenStage, after: &SeenStage) -> (Cost, Cost) {
        // Where nobody waited before, what was ready went out at once; and one whose batch waited for a slot joins in between.
        if before.waiting.is_empty() || before.is_long_waited_for || after.is_long_waited_for {
            return (1, 1);
        }
        let others = before.waiting.iter();
        let others = others.filter(|other| **other != tenant && after.waiting.contains(other));
        let others: Cost = others.map(|other| self.weights(*other).0).sum();
        let share = self.weights(tenant).1;
        (share, share + others)
    }

    /// The least and the most that a tenant's turn was worth: what is decided may be undone, and be decided again.
    fn weights(&self, tenant: TenantId) -> (Cost, Cost) {
        let known = |seen: &Seen| seen.weights.get(&tenant).copied().unwrap_or(1);
        let committed = self
            .committed
            .tenants
            .get(&tenant)
            .map_or(1, |row| row.weight);
        let weights = [known(self.before), known(self.after), committed];
        let weights = weights.map(|weight| Cost::from(weight.max(1)));
        let least = weights.iter().min().copied().unwrap_or(1);
        (least, weights.iter().max().copied().unwrap_or(1))
    }
}

/// Whether a dispatch was lost, or was given back before anybody had begun it: it goes out again in its place.
pub(super) fn in_place(committed: &Tables, asked: &Asked, pair @ (file, token): Pair) -> bool {
    let row = committed.files.get(&file);
    let is_held = row.is_some_and(|row| row.token == token && row.state == FileState::Processing);
    asked.lost.contains(&pair) || (asked.released.contains(&pair) && !is_held)
}
