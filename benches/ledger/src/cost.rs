//! What processes use up, by the kernel's own books.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

/// The kernel counts process time in hundredths of a second on every machine that Linux runs on.
const TICK: Duration = Duration::from_millis(10);
const KIB: u64 = 1 << 10;

/// What `/proc/PID/stat` says of a process.
struct Stat {
    parent: u32,
    own: u64,
    /// Of children that have ended and were waited for.
    of_ended_children: u64,
}

/// Resident memory of a process, in bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    pub(crate) now: u64,
    pub(crate) peak: u64,
}

fn stat(pid: u32) -> anyhow::Result<Stat> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    // The name stands in parentheses and may hold anything.
    let (_, rest) = text.rsplit_once(')').context("no name in stat")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number =
        |at: usize| -> anyhow::Result<u64> { Ok(fields.get(at).context("a short stat")?.parse()?) };
    Ok(Stat {
        parent: u32::try_from(number(1)?)?,
        own: number(11)? + number(12)?,
        of_ended_children: number(13)? + number(14)?,
    })
}

fn time(ticks: u64) -> Duration {
    TICK * u32::try_from(ticks).unwrap_or(u32::MAX)
}

/// Processor time of a process, in user mode and in the kernel.
pub(crate) fn cpu(pid: u32) -> anyhow::Result<Duration> {
    // Of threads that have ended only the first knows, and only the second is finer than a hundredth of a second.
    Ok(time(stat(pid)?.own).max(of_threads(pid)?))
}

/// Processor time of the threads of a process that live.
fn of_threads(pid: u32) -> anyhow::Result<Duration> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task"))
        .with_context(|| format!("process {pid} is gone"))?;
    let mut nanoseconds = 0;
    for thread in threads {
        // One that ends meanwhile counts in the other books.
        let text = std::fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        let spent = text.split_whitespace().next();
        nanoseconds += spent.and_then(|spent| spent.parse().ok()).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanoseconds))
}

/// As [`cpu`], with all its children, those that have ended among them.
pub(crate) fn cpu_of_family(pid: u32) -> anyhow::Result<Duration> {
    let parent = stat(pid)?;
    let children: u64 = children(pid)?
        .into_iter()
        .filter_map(|child| stat(child).ok())
        .map(|child| child.own)
        .sum();
    Ok(time(parent.own + parent.of_ended_children + children))
}

/// The children of a process.
pub(crate) fn children(pid: u32) -> anyhow::Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(child) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if stat(child).is_ok_and(|stat| stat.parent == pid) {
            found.push(child);
        }
    }
    Ok(found)
}

/// The parent of a process.
pub(crate) fn parent(pid: u32) -> anyhow::Result<u32> {
    Ok(stat(pid)?.parent)
}

/// Resident memory now, and the most since the start.
pub(crate) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("process {pid} is gone"))?;
    let field = |name: &str| -> anyhow::Result<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.context("no memory in status")?.parse::<u64>()? * KIB)
    };
    Ok(Memory {
        now: field("VmRSS:")?,
        peak: field("VmHWM:")?,
    })
}

/// Bytes of files, those that are there.
pub(crate) fn bytes_of(files: &[PathBuf]) -> u64 {
    let sizes = files.iter().filter_map(|file| std::fs::metadata(file).ok());
    sizes.map(|metadata| metadata.len()).sum()
}
