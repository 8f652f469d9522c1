//! Measures through the real mesh who waits for whom and what limits hold; prints a table, and writes all figures as JSON.
//! Build first: `cargo build --release -p caudal -p caudal-bench-ledger`.

use std::process::ExitCode;

fn main() -> ExitCode {
    caudal_bench_ledger::bench_fairness()
}
