//! What a child gives up before it reads a byte.
//!
//! The limits are the wall that counts: memory, processor time, no core file, no file of any size, a handful of
//! descriptors. The other walls stand where the kernel and whoever started the service allow it: what stands is told as
//! [`Walls`]. Landlock takes away every file, TCP port and signal to other processes; seccomp every system call but those
//! that reading, computing and ending take, and so new processes and programs, sockets, shared memory, tracing, whatever
//! is done to a file by its name, and the raising of the limits just set. A child is not root, and has no capability.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};
use rustix::process::{
    Gid, Resource, Rlimit, Signal, Uid, geteuid, getppid, set_parent_process_death_signal,
    setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_thread_groups,
    set_thread_res_gid, set_thread_res_uid,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::{Limits, Walls};

/// Standard streams, the input, the result, and a few for the runtime and for setting up the walls.
const MAX_OPEN_FILES: u64 = 16;

/// Taken for the executable's own mappings when the kernel does not tell, in bytes.
const ASSUMED_MAPPED_BYTES: u64 = 256 << 20;

/// Whom a child works as where the service is root: the user and the group that own nothing.
const NOBODY: u32 = 65_534;

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
    refuse(refused_to_a_host(), libc::EPERM)
}

/// Takes from this process what a parser does not need, and says which walls stand beside the limits. `stack` is added to
/// the memory limit, in bytes. The process has one thread.
pub(super) fn confine(limits: &Limits, stack: u64, inherited: Inherited) -> io::Result<Walls> {
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
    let user = !geteuid().is_root() || be_nobody()?;
    let capabilities = give_up_capabilities();
    let files = give_up_files_and_network()?;
    if inherited == Inherited::Nothing {
        refuse(no_clone3(), libc::ENOSYS)?;
    }
    let calls = allow_only(allowed()?)?;
    Ok(Walls {
        files,
        calls,
        capabilities,
        user,
    })
}

/// Stops being root, if root may.
fn be_nobody() -> io::Result<bool> {
    let parent = getppid();
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    let is_nobody = set_thread_groups(&[])
        .and_then(|()| set_thread_res_gid(group, group, group))
        .and_then(|()| set_thread_res_uid(user, user, user))
        .is_ok();
    // Whoever becomes another is not told of the parent's end any more, and it may have ended meanwhile.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    if getppid() != parent {
        return Err(io::Error::other("the parent has ended"));
    }
    Ok(is_nobody)
}

fn give_up_capabilities() -> bool {
    let none = CapabilitySet::empty();
    let none = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    set_capabilities(None, none).is_ok() && capabilities(None).is_ok_and(|left| left == none)
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

/// Landlock with no rule allows nothing of what it handles. A kernel with an older one gives what it has; `false` where it
/// has none.
fn give_up_files_and_network() -> io::Result<bool> {
    Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V6))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(ABI::V6)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(ABI::V6)))
        .and_then(Ruleset::create)
        .and_then(landlock::RulesetCreated::restrict_self)
        .map(|status| status.ruleset != RulesetStatus::NotEnforced)
        .map_err(io::Error::other)
}

type Calls = BTreeMap<i64, Vec<SeccompRule>>;

/// Has the kernel answer these calls with `errno`, for good.
fn refuse(calls: Calls, errno: i32) -> io::Result<()> {
    let errno = SeccompAction::Errno(errno.cast_unsigned());
    filter(calls, SeccompAction::Allow, errno).map(drop)
}

/// Has the kernel answer all calls but these with EPERM, for good.
fn allow_only(calls: Calls) -> io::Result<bool> {
    let refused = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    filter(calls, refused, SeccompAction::Allow)
}

/// `false` on a machine that no filter can be made for: the other walls stand alone there.
fn filter(calls: Calls, others: SeccompAction, these: SeccompAction) -> io::Result<bool> {
    let Ok(machine) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(false);
    };
    let filter = SeccompFilter::new(calls, others, these, machine).map_err(io::Error::other)?;
    let program = BpfProgram::try_from(filter).map_err(io::Error::other)?;
    seccompiler::apply_filter(&program).map_err(io::Error::other)?;
    Ok(true)
}

fn always(calls: impl IntoIterator<Item = i64>) -> Calls {
    calls.into_iter().map(|call| (call, Vec::new())).collect()
}

/// glibc starts threads with clone3 and falls back to clone, whose flags a filter can read, when there is none.
fn no_clone3() -> Calls {
    always([libc::SYS_clone3])
}

/// What no host needs; its children get a list of what they may.
fn refused_to_a_host() -> Calls {
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

/// What a child may call: to read what it holds, to write its result, to have memory and threads of its own, and to end.
fn allowed() -> io::Result<Calls> {
    let mut allowed = always([
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_pread64,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_lseek,
        // By its descriptor: by its name nothing is told of a file.
        libc::SYS_fstat,
        libc::SYS_close,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        // Refused as unknown by another filter, so that clone is called, whose flags a filter can read.
        libc::SYS_clone3,
        libc::SYS_set_robust_list,
        libc::SYS_rseq,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_getcpu,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_getpid,
        libc::SYS_gettid,
        libc::SYS_getppid,
        libc::SYS_getuid,
        libc::SYS_geteuid,
        libc::SYS_getgid,
        libc::SYS_getegid,
        libc::SYS_getrusage,
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_gettimeofday,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_getrandom,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ]);
    let own_id = u64::from(std::process::id());
    let thread = libc::CLONE_THREAD.cast_unsigned().into();
    let name = libc::PR_SET_NAME.cast_unsigned().into();
    // A new thread, but not a new process.
    let is_thread = SeccompCmpOp::MaskedEq(thread);
    allow_when(&mut allowed, libc::SYS_clone, 0, is_thread, thread)?;
    // abort() signals itself.
    allow_when(&mut allowed, libc::SYS_tgkill, 0, SeccompCmpOp::Eq, own_id)?;
    // Reading a limit passes no new one.
    allow_when(&mut allowed, libc::SYS_prlimit64, 2, SeccompCmpOp::Eq, 0)?;
    // Threads have names.
    allow_when(&mut allowed, libc::SYS_prctl, 0, SeccompCmpOp::Eq, name)?;
    // An open file is told how it is held, and held twice; nobody is sent signals about it.
    let commands = [libc::F_GETFD, libc::F_GETFL, libc::F_DUPFD_CLOEXEC];
    for command in commands {
        let command = command.cast_unsigned().into();
        allow_when(&mut allowed, libc::SYS_fcntl, 1, SeccompCmpOp::Eq, command)?;
    }
    Ok(allowed)
}

/// Several conditions of one call stand beside each other.
fn allow_when(
    allowed: &mut Calls,
    call: i64,
    argument: u8,
    comparison: SeccompCmpOp,
    value: u64,
) -> io::Result<()> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, comparison, value)
        .map_err(io::Error::other)?;
    let rule = SeccompRule::new(vec![condition]).map_err(io::Error::other)?;
    allowed.entry(call).or_default().push(rule);
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
