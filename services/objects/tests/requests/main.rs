//! The requests themselves: what is sent, how often, and what is made of each answer.
#![expect(clippy::unwrap_used)]

mod answers;
mod in_process;
mod memory;
mod real;
mod scripted;
mod tls;
