//! What a ledger does while it leads, beside its writer: it takes the leadership and gives it back, publishes what is
//! committed, repairs what was lost, and carries bulk operations on.

mod collector;
mod hints;
mod landed;
mod leadership;
mod reconciler;
mod relay;
pub(crate) mod rules;
mod slices;

pub(crate) use self::leadership::Leadership;
