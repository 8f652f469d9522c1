//! What a child gives up before it reads a byte.
//!
//! The limits are the wall that counts: memory, processor time, no core file, no file of any size, a handful of
//! descriptors. Two more walls stand where the kernel has them. Landlock takes away every file, TCP port and signal to
//! other processes; seccomp takes away new processes and programs, sockets, tracing, and the raising of the limits just
//! set (which root could do). Without either the child still cannot harm its parent's memory or time.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, Scope};
use rustix::process::{Resource, Rlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::Limits;

/// Standard streams, the input, the result, and a few for the runtime and for setting up the walls.
const MAX_OPEN_FILES: u64 = 16;

/// Taken for the executable's own mappings when the kernel does not tell, in bytes.
const ASSUMED_MAPPED_BYTES: u64 = 256 << 20;

/// Which walls a child stands behind already.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Inherited {
    Nothing,
    /// Those of its host.
    OfHost,
}

/// Takes from a parser host what neither it nor its children need, so that no child has to give it up by itself.
pub(super) fn confine_host() -> io::Result<()> {
    limit(Resource::Core, 0, 0)?;
    refuse(no_clone3(), libc::ENOSYS)?;
    refuse(refused_to_all(), libc::EPERM)
}

/// Takes from this process what a parser does not need. `stack` is added to the memory limit, in bytes.
pub(super) fn confine(limits: &Limits, stack: u64, inherited: Inherited) -> io::Result<()> {
    let memory = mapped_bytes()
        .saturating_add(stack)
        .saturating_add(limits.memory);
    // At the soft limit the kernel sends SIGXCPU, at the hard one SIGKILL.
    let cpu = limits.cpu.as_secs() + u64::from(limits.cpu.subsec_nanos() > 0);
    limit(Resource::As, memory, memory)?;
    limit(Resource::Cpu, cpu.max(1), cpu.max(1) + 1)?;
    limit(Resource::Core, 0, 0)?;
    // Pipes are not files: the result is not touched by this one.
    limit(Resource::Fsize, 0, 0)?;
    limit(Resource::Nofile, MAX_OPEN_FILES, MAX_OPEN_FILES)?;
    give_up_files_and_network()?;
    let mut refused = refused_to_children()?;
    if inherited == Inherited::Nothing {
        refuse(no_clone3(), libc::ENOSYS)?;
        refused.append(&mut refused_to_all());
    }
    refuse(refused, libc::EPERM)
}

fn limit(resource: Resource, soft: u64, hard: u64) -> io::Result<()> {
    setrlimit(
        resource,
        Rlimit {
            current: Some(soft),
            maximum: Some(hard),
        },
    )?;
    Ok(())
}

/// The address space in use, so that the memory limit counts what the parser takes and not how large a build is.
fn mapped_bytes() -> u64 {
    told_size().unwrap_or(ASSUMED_MAPPED_BYTES)
}

fn told_size() -> Option<u64> {
    // In one piece, as the kernel makes it: it has fifty numbers.
    let mut stat = [0; 2_048];
    let length = File::open("/proc/self/stat").ok()?.read(&mut stat).ok()?;
    let stat = std::str::from_utf8(&stat[..length]).ok()?;
    // The name before the bracket may hold anything. Of what follows, the twenty-first is the size in bytes.
    let (_, numbers) = stat.rsplit_once(')')?;
    numbers.split_ascii_whitespace().nth(20)?.parse().ok()
}

/// Landlock with no rule allows nothing of what it handles. A kernel without it, or with an older one, gives what it has.
fn give_up_files_and_network() -> io::Result<()> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V6))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(ABI::V6)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self)
        .map(drop)
        .map_err(io::Error::other)
}

type Refused = BTreeMap<i64, Vec<SeccompRule>>;

/// Has the kernel answer these calls with `errno`, for good.
fn refuse(calls: Refused, errno: i32) -> io::Result<()> {
    // seccompiler builds for a few machines only; elsewhere the limits and Landlock stand alone.
    let Ok(machine) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(());
    };
    let filter = SeccompFilter::new(
        calls,
        SeccompAction::Allow,
        SeccompAction::Errno(errno.cast_unsigned()),
        machine,
    )
    .map_err(io::Error::other)?;
    let program = BpfProgram::try_from(filter).map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)
}

fn always(calls: impl IntoIterator<Item = i64>) -> Refused {
    calls.into_iter().map(|call| (call, Vec::new())).collect()
}

/// glibc starts threads with clone3 and falls back to clone, whose flags a filter can read, when there is none.
fn no_clone3() -> Refused {
    always([libc::SYS_clone3])
}

/// What no child needs and no host.
fn refused_to_all() -> Refused {
    always([
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_kill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_pidfd_getfd,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        libc::SYS_setrlimit,
        libc::SYS_bpf,
        libc::SYS_perf_event_open,
        libc::SYS_userfaultfd,
        libc::SYS_io_uring_setup,
        libc::SYS_memfd_create,
        libc::SYS_open_by_handle_at,
        libc::SYS_mount,
        libc::SYS_umount2,
        libc::SYS_pivot_root,
        libc::SYS_chroot,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_add_key,
        libc::SYS_request_key,
        libc::SYS_keyctl,
    ])
}

/// What a child does not need, and a host does: to fork and to end its children.
fn refused_to_children() -> io::Result<Refused> {
    let mut refused = always([
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork,
        libc::SYS_pidfd_send_signal,
    ]);
    let own_id = u64::from(std::process::id());
    // A new process, but not a new thread.
    refuse_when(
        &mut refused,
        libc::SYS_clone,
        0,
        SeccompCmpOp::MaskedEq(libc::CLONE_THREAD.cast_unsigned().into()),
        0,
    )?;
    // abort() signals itself.
    refuse_when(&mut refused, libc::SYS_tgkill, 0, SeccompCmpOp::Ne, own_id)?;
    // Reading a limit passes no new one.
    refuse_when(&mut refused, libc::SYS_prlimit64, 2, SeccompCmpOp::Ne, 0)?;
    Ok(refused)
}

fn refuse_when(
    refused: &mut Refused,
    call: i64,
    argument: u8,
    comparison: SeccompCmpOp,
    value: u64,
) -> io::Result<()> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, comparison, value)
        .map_err(io::Error::other)?;
    refused.insert(
        call,
        vec![SeccompRule::new(vec![condition]).map_err(io::Error::other)?],
    );
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_the_size_in_use() {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("VmSize:"));
        let kibibytes = line.unwrap().split_whitespace().nth(1).unwrap();
        let size = kibibytes.parse::<u64>().unwrap() << 10;
        // Other tests take and give meanwhile.
        let told = told_size().unwrap();
        assert!(told > size / 2 && told < size * 2, "{told} is not {size}");
    }
}
