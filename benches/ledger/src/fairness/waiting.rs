//! Redis while files wait: its memory and the length of the stream, with ten times as many files.

use std::time::Duration;

use anyhow::Context;
use caudal_domain::Stage;
use serde_json::json;

use super::loads;
use super::report::Row;
use crate::database::{Database, Kind};
use crate::mesh::{Mesh, Plan, Setup};
use crate::raw::Loop;

/// The stage that they wait for: its handlers, and what each file takes.
const SLOTS: usize = 8;
const WAIT: Duration = Duration::from_millis(50);
/// How long it is looked at, and how often.
const LOOKS: u32 = 40;
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// By so much the larger backlog may be above the smaller.
const MOST: f64 = 1.1;
const MIB: f64 = 1_048_576.0;

struct Peak {
    redis_bytes: u64,
    entries: u64,
}

pub(super) async fn run(setup: &Setup, kind: Kind, sizes: [u32; 2]) -> anyhow::Result<Vec<Row>> {
    let mut peaks = Vec::new();
    for files in sizes {
        let peak = look(setup, kind, files).await;
        peaks.push(peak.with_context(|| format!("{files} files that wait"))?);
    }
    let [small, large] = &peaks[..] else {
        anyhow::bail!("two sizes are compared");
    };
    let memory = large.redis_bytes as f64 / small.redis_bytes as f64;
    let entries = large.entries as f64 / small.entries.max(1) as f64;
    let sizes = format!("with {} and {} files that wait", sizes[0], sizes[1]);
    let mib = |bytes: u64| bytes as f64 / MIB;
    Ok(vec![
        Row {
            what: format!("memory of Redis {sizes}, at its peak"),
            target: "flat".to_owned(),
            figure: format!(
                "{:.1} and {:.1} MiB",
                mib(small.redis_bytes),
                mib(large.redis_bytes)
            ),
            is_met: Some(memory <= MOST),
            figures: json!({ "bytes": [small.redis_bytes, large.redis_bytes] }),
        },
        Row {
            what: format!("entries on the stream {sizes}, at its longest"),
            target: "flat".to_owned(),
            figure: format!("{} and {}", small.entries, large.entries),
            is_met: Some(entries <= MOST),
            figures: json!({ "entries": [small.entries, large.entries] }),
        },
    ])
}

/// The rows are inserted by SQL, then the mesh is started on them and works on them for a while.
async fn look(setup: &Setup, kind: Kind, files: u32) -> anyhow::Result<Peak> {
    let database = Database::start(kind, false).await?;
    let mut raw = Loop::prepare(&database, files).await?;
    raw.insert_waiting().await?;
    drop(raw);
    let plan = Plan {
        crews: vec![loads::waits(Stage::Upload, 1, SLOTS, WAIT)],
        has_store: false,
    };
    let mesh = Mesh::start_as(setup, database, &plan).await?;
    let mut peak = Peak {
        redis_bytes: 0,
        entries: 0,
    };
    for _ in 0..LOOKS {
        tokio::time::sleep(LOOK_EVERY).await;
        peak.entries = peak.entries.max(mesh.stream_length(Stage::Upload).await?);
    }
    peak.redis_bytes = mesh.redis_memory()?.peak;
    mesh.verify(files).await?;
    Ok(peak)
}
