//! Finding redis-server, and becoming it with a death signal set, so that no crash of the parent leaves one behind.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

use thiserror::Error;

/// The first argument that makes an executable become redis-server ([`run_redis_child_if_asked`]).
pub const CHILD_ARGUMENT: &str = "redis-child";

/// The environment variable that names redis-server.
const EXECUTABLE_VARIABLE: &str = "CAUDAL_REDIS_SERVER";
/// Where `make setup` unpacks programs for a machine without root rights, below the working folder.
const TOOLS_FOLDER: &str = ".caudal/tools";
const PROGRAM: &str = "redis-server";

/// Exit status for arguments that make no sense (sysexits EX_USAGE).
const EXIT_USAGE: i32 = 64;
/// Exit status when redis-server could not be started (sysexits EX_OSERR).
const EXIT_NOT_STARTED: i32 = 71;

/// Which executable carries redis-server's death signal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Launcher {
    /// The running executable, whose `main` begins with [`run_redis_child_if_asked`].
    #[default]
    ThisExecutable,
    /// Another executable whose `main` begins so.
    Executable(PathBuf),
    /// None: redis-server is started directly and dies only when [`RedisChild`](crate::RedisChild) is stopped or dropped.
    /// For tests, whose main is not ours.
    Direct,
}

impl Launcher {
    /// The command that becomes `redis`, its configuration to be written to its standard input.
    pub(crate) fn command(&self, redis: &Path) -> Command {
        let launcher = match self {
            Launcher::Direct => {
                let mut command = Command::new(redis);
                command.arg("-");
                return command;
            }
            Launcher::ThisExecutable => running_executable(),
            Launcher::Executable(path) => path.clone(),
        };
        let mut command = Command::new(launcher);
        command
            .arg(CHILD_ARGUMENT)
            .arg(redis)
            .arg(std::process::id().to_string());
        command
    }
}

/// To be called as the first line of `main`: when the arguments ask for a redis child this process becomes redis-server
/// and the call does not return; else it does nothing.
pub fn run_redis_child_if_asked() {
    let mut arguments = env::args_os().skip(1);
    if arguments.next().as_deref() != Some(OsStr::new(CHILD_ARGUMENT)) {
        return;
    }
    let (Some(redis), Some(parent)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: {CHILD_ARGUMENT} REDIS-SERVER PARENT-PID (started by caudal itself)");
        exit(EXIT_USAGE);
    };
    exit(become_redis(&redis, &parent));
}

/// Returns only when it failed, with the exit status to end with.
fn become_redis(redis: &OsStr, parent: &OsStr) -> i32 {
    #[cfg(target_os = "linux")]
    if let Err(error) =
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
    {
        eprintln!("cannot set the parent-death signal: {error}");
        return EXIT_NOT_STARTED;
    }
    // A parent that died before the signal was set will not send it any more.
    let is_parent_alive = rustix::process::getppid()
        .is_some_and(|pid| OsString::from(pid.as_raw_nonzero().to_string()) == parent);
    if !is_parent_alive {
        return EXIT_NOT_STARTED;
    }
    let error = Command::new(redis).arg("-").exec();
    eprintln!("cannot run {}: {error}", redis.display());
    EXIT_NOT_STARTED
}

/// Survives the replacement of the file by a newer build, which `current_exe` does not.
fn running_executable() -> PathBuf {
    let linux = Path::new("/proc/self/exe");
    if linux.exists() {
        return linux.to_owned();
    }
    env::current_exe().unwrap_or_else(|_| PathBuf::from(env::args_os().next().unwrap_or_default()))
}

/// No redis-server on this machine.
#[derive(Debug, Error)]
#[error(
    "no redis-server found ({searched}): run `make setup`, or `apt-get install redis-server`, or set {EXECUTABLE_VARIABLE} to its path"
)]
pub struct NoRedisServer {
    /// Where it was looked for, in words.
    pub searched: String,
}

/// The redis-server to use: `explicit`, else the one named by CAUDAL_REDIS_SERVER, else the first on PATH, else the first
/// below `.caudal/tools` in the working folder. A path that was named but is not a program is an error, not passed over.
///
/// # Errors
/// [`NoRedisServer`], whose text says where it was looked for and what to do.
pub fn find_redis_server(explicit: Option<&Path>) -> Result<PathBuf, NoRedisServer> {
    let named = explicit.map(Path::to_owned).or_else(|| {
        env::var_os(EXECUTABLE_VARIABLE)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    });
    if let Some(named) = named {
        if is_program(&named) {
            return Ok(named);
        }
        return Err(NoRedisServer {
            searched: format!("{} is not an executable file", named.display()),
        });
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let on_path = env::split_paths(&path).map(|folder| folder.join(PROGRAM));
    on_path
        .chain(unpacked_tools(Path::new(TOOLS_FOLDER)))
        .find(|candidate| is_program(candidate))
        .ok_or_else(|| NoRedisServer {
            searched: format!("neither on PATH nor below {TOOLS_FOLDER}"),
        })
}

fn unpacked_tools(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path().join(PROGRAM))
        .collect();
    found.sort();
    found
}

fn is_program(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|facts| facts.is_file() && facts.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
#[expect(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_named_redis_server_that_does_not_exist_is_an_error_that_says_the_remedy() {
        let error = find_redis_server(Some(Path::new("/nowhere/redis-server"))).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/nowhere/redis-server"), "{text}");
        assert!(text.contains("apt-get install redis-server"), "{text}");
    }

    #[test]
    fn an_unpacked_redis_server_is_found_below_the_tools_folder() {
        let temporary = tempfile::tempdir().unwrap();
        let tool = temporary.path().join("redis-6.2");
        std::fs::create_dir(&tool).unwrap();
        let program = tool.join(PROGRAM);
        std::fs::write(&program, "#!/bin/sh\n").unwrap();
        assert!(!is_program(&program));
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(unpacked_tools(temporary.path()), vec![program.clone()]);
        assert!(is_program(&program));
    }
}
