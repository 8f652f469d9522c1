//! Measures the ledger through the real mesh, and beside it, in the same run, the same writes as a loop of plain SQL.
//! Prints one JSON object. Build first: `cargo build --release -p caudal -p caudal-bench-ledger`.

use std::process::ExitCode;

fn main() -> ExitCode {
    caudal_bench_ledger::bench_ledger()
}
