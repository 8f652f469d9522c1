//! The redis child, proved with real processes. The child re-executes the running executable, so this test has a main of
//! its own: it becomes redis-server, or the parent that is killed, when its arguments say so.
#![expect(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use caudal_embedded::{Launcher, RedisChild, RedisError, RedisSettings, run_redis_child_if_asked};
use libtest_mimic::{Arguments, Trial};

/// The argument that makes this executable a parent which waits to be killed.
const PARENT_ARGUMENT: &str = "parent-that-will-be-killed";
const DEADLINE: Duration = Duration::from_secs(15);

type Test = (&'static str, fn(&tokio::runtime::Runtime));

const TESTS: &[Test] = &[
    (
        "redis_dies_when_its_parent_is_killed_with_sigkill",
        redis_dies_when_its_parent_is_killed_with_sigkill,
    ),
    (
        "a_killed_redis_comes_back_on_the_same_port_with_the_same_password",
        a_killed_redis_comes_back_on_the_same_port_with_the_same_password,
    ),
    (
        "redis_refuses_a_stranger_without_the_password_and_shows_it_to_nobody",
        redis_refuses_a_stranger_without_the_password_and_shows_it_to_nobody,
    ),
    ("a_stopped_redis_is_gone", a_stopped_redis_is_gone),
    (
        "a_redis_that_cannot_start_says_what_its_log_says",
        a_redis_that_cannot_start_says_what_its_log_says,
    ),
];

fn main() -> ExitCode {
    run_redis_child_if_asked();
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(PARENT_ARGUMENT) {
        be_the_parent(Path::new(&arguments.next().unwrap()));
        return ExitCode::SUCCESS;
    }
    let trials = TESTS.iter().map(|(name, test)| {
        Trial::test(*name, move || {
            test(&tokio::runtime::Runtime::new().unwrap());
            Ok(())
        })
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn be_the_parent(folder: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let child = runtime
        .block_on(RedisChild::start(RedisSettings::new(folder)))
        .unwrap();
    println!("{} {}", child.pid().unwrap(), child.url());
    // Until the end of the input, which the test never closes.
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest).unwrap();
}

fn redis_dies_when_its_parent_is_killed_with_sigkill(_: &tokio::runtime::Runtime) {
    let folder = tempfile::tempdir().unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .arg(PARENT_ARGUMENT)
        .arg(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    let (redis, url) = line.trim().split_once(' ').unwrap();
    let redis: u32 = redis.parse().unwrap();
    assert_eq!(ask(url, "PING"), "+PONG");
    parent.kill().unwrap();
    parent.wait().unwrap();
    wait_for("the end of redis", || !is_running(redis));
}

fn a_killed_redis_comes_back_on_the_same_port_with_the_same_password(
    runtime: &tokio::runtime::Runtime,
) {
    let folder = tempfile::tempdir().unwrap();
    let child = runtime
        .block_on(RedisChild::start(RedisSettings::new(folder.path())))
        .unwrap();
    let url = child.url();
    for round in 1..=2 {
        let killed = child.pid().unwrap();
        kill(killed);
        wait_for("the restart", || child.restarts() == round);
        assert_ne!(child.pid().unwrap(), killed);
        assert_eq!(child.url(), url);
        assert_eq!(ask(&url, "PING"), "+PONG");
    }
    runtime.block_on(child.stop());
}

fn redis_refuses_a_stranger_without_the_password_and_shows_it_to_nobody(
    runtime: &tokio::runtime::Runtime,
) {
    let folder = tempfile::tempdir().unwrap();
    let child = runtime
        .block_on(RedisChild::start(RedisSettings::new(folder.path())))
        .unwrap();
    let url = child.url();
    let (password, address) = parts(&url);
    let stranger = format!("redis://:wrong@{address}/0");
    assert!(ask(&stranger, "PING").starts_with("-NOAUTH"));
    assert_eq!(ask(&url, "CONFIG GET maxmemory-policy"), "*2");
    let arguments = std::fs::read(format!("/proc/{}/cmdline", child.pid().unwrap())).unwrap();
    assert!(!String::from_utf8_lossy(&arguments).contains(password));
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let text = std::fs::read(entry.unwrap().path()).unwrap();
        assert!(!String::from_utf8_lossy(&text).contains(password));
    }
    assert!(!format!("{child:?}").contains(password));
}

fn a_stopped_redis_is_gone(runtime: &tokio::runtime::Runtime) {
    let folder = tempfile::tempdir().unwrap();
    let child = runtime
        .block_on(RedisChild::start(RedisSettings::new(folder.path())))
        .unwrap();
    let stopped = child.pid().unwrap();
    runtime.block_on(child.stop());
    assert!(!is_running(stopped));

    let mut settings = RedisSettings::new(folder.path());
    settings.launcher = Launcher::Direct;
    let child = runtime.block_on(RedisChild::start(settings)).unwrap();
    let dropped = child.pid().unwrap();
    drop(child);
    assert!(!is_running(dropped));
}

fn a_redis_that_cannot_start_says_what_its_log_says(runtime: &tokio::runtime::Runtime) {
    let folder = tempfile::tempdir().unwrap();
    let mut settings = RedisSettings::new(folder.path());
    settings.executable = Some("/bin/false".into());
    let error = runtime.block_on(RedisChild::start(settings)).unwrap_err();
    assert!(matches!(error, RedisError::NotStarted { .. }), "{error}");

    let mut settings = RedisSettings::new(folder.path());
    settings.executable = Some("/nowhere/redis-server".into());
    let error = runtime.block_on(RedisChild::start(settings)).unwrap_err();
    assert!(matches!(error, RedisError::Missing(_)), "{error}");
}

/// `redis://:PASSWORD@ADDRESS/0`
fn parts(url: &str) -> (&str, &str) {
    let rest = url
        .strip_prefix("redis://:")
        .unwrap()
        .strip_suffix("/0")
        .unwrap();
    rest.split_once('@').unwrap()
}

/// The first line of redis's answer to a command.
fn ask(url: &str, command: &str) -> String {
    let (password, address) = parts(url);
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "AUTH {password}\r\n{command}\r\n").unwrap();
    let mut lines = BufReader::new(stream).lines();
    let _authenticated = lines.next().unwrap().unwrap();
    lines.next().unwrap().unwrap()
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// A zombie whose new parent has not reaped it yet runs no more.
fn is_running(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    let state = stat.rsplit_once(") ").unwrap().1.chars().next().unwrap();
    !matches!(state, 'Z' | 'X')
}

fn wait_for(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
