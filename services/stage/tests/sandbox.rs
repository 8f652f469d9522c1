//! The sandbox from outside: hostile parsers in real children of this very executable, each ended with the right reason.
#![expect(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use caudal_domain::Reason;
use caudal_harness::eventually;
use caudal_stage::Failure;
use caudal_stage::sandbox::{
    CHILD_ARGUMENT, Limits, MAX_REQUEST_BYTES, ParseFailure, Parsed, Parser, Preparation, Sandbox,
    run_prepared_child_if_asked,
};
use libtest_mimic::{Arguments, Trial};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const PARSERS: &[(&str, Parser)] = &[
    ("count-bytes", count_bytes),
    ("refuse", refuse),
    ("panic", panic),
    ("abort", abort),
    ("exit", exit),
    ("loop", loop_forever),
    ("sleep", sleep_forever),
    ("sleep-until-cancelled", sleep_forever),
    ("sleep-until-dropped", sleep_forever),
    ("sleep-beside-the-others", sleep_forever),
    ("allocate", allocate),
    ("recurse", recurse),
    ("flood", flood),
    ("chatter", chatter),
    ("escape", escape),
    ("fork-bomb", fork_bomb),
    ("tell-what-is-prepared", tell_what_is_prepared),
];

const PREPARATIONS: &[(&str, Preparation)] = &[("tell-what-is-prepared", prepare)];

/// What was read of a file before the walls stood.
static PREPARED: std::sync::OnceLock<String> = std::sync::OnceLock::new();

fn prepare(_: &Value) -> std::io::Result<()> {
    let read = std::fs::read_to_string("/proc/version")?;
    let _ = PREPARED.set(read);
    Ok(())
}

fn tell_what_is_prepared(_: &Value, _: &mut std::fs::File) -> Result<Parsed, ParseFailure> {
    Ok(Parsed {
        value: json!({
            "prepared": PREPARED.get().is_some_and(|read| !read.is_empty()),
            "later": std::fs::read_to_string("/proc/version").is_ok(),
        }),
        ..Parsed::default()
    })
}

/// A test's name, and what proves it.
type Test = (&'static str, fn(&Bench));

const TESTS: &[Test] = &[
    (
        "a_parser_reads_its_file_and_answers_with_facts_and_bytes",
        |bench| {
            let parsed = bench.parse("count-bytes").unwrap();
            assert_eq!(
                parsed.value,
                json!({ "bytes": 11, "asked": { "twice": true } })
            );
            assert_eq!(
                parsed.blobs,
                vec![("copy".to_owned(), b"hello worldhello world".to_vec())]
            );
        },
    ),
    (
        "a_parser_is_prepared_before_the_walls_stand_and_not_behind_them",
        |bench| {
            let parsed = bench.parse("tell-what-is-prepared").unwrap();
            assert_eq!(parsed.value, json!({ "prepared": true, "later": false }));
        },
    ),
    (
        "what_a_library_prints_does_not_disturb_the_result",
        |bench| {
            assert_eq!(bench.parse("chatter").unwrap().value, json!("said a lot"));
        },
    ),
    (
        "a_parser_that_refuses_its_file_gives_its_own_reason",
        |bench| {
            let failure = bench.failure("refuse");
            assert_eq!(
                (failure.reason, failure.detail.as_str()),
                (Reason::CorruptDocument, "no trailer")
            );
        },
    ),
    (
        "a_panic_costs_its_own_attempt_and_its_words_are_kept",
        |bench| {
            let failure = bench.failure("panic");
            assert_eq!(failure.reason, Reason::ParserCrashed);
            assert!(
                failure.detail.contains("index 7 of a page tree"),
                "{}",
                failure.detail
            );
        },
    ),
    ("an_abort_is_a_crash", |bench| {
        assert_eq!(bench.failure("abort").reason, Reason::ParserCrashed);
    }),
    ("leaving_without_a_result_is_a_crash", |bench| {
        assert_eq!(bench.failure("exit").reason, Reason::ParserCrashed);
    }),
    ("a_stack_overflow_is_a_crash", |bench| {
        let failure = bench.failure("recurse");
        assert_eq!(failure.reason, Reason::ParserCrashed);
        assert!(
            failure.detail.contains("overflowed its stack"),
            "{}",
            failure.detail
        );
    }),
    ("four_gigabytes_are_out_of_memory", |bench| {
        let failure = bench.failure("allocate");
        assert_eq!(
            failure.reason,
            Reason::ParserOutOfMemory,
            "{}",
            failure.detail
        );
    }),
    ("an_endless_loop_ends_at_its_processor_time", |bench| {
        let failure = bench.failure_within(
            "loop",
            Limits {
                cpu: Duration::from_secs(1),
                ..bench.limits
            },
        );
        assert_eq!(failure.reason, Reason::ParserTimeout, "{}", failure.detail);
        assert!(
            failure.detail.contains("processor time"),
            "{}",
            failure.detail
        );
    }),
    (
        "a_parser_that_waits_for_ever_ends_at_its_wall_clock",
        |bench| {
            let failure = bench.failure_within(
                "sleep",
                Limits {
                    wall: Duration::from_millis(300),
                    ..bench.limits
                },
            );
            assert_eq!(failure.reason, Reason::ParserTimeout, "{}", failure.detail);
        },
    ),
    ("an_output_flood_ends_at_its_bound", |bench| {
        let failure = bench.failure_within(
            "flood",
            Limits {
                output: 1 << 20,
                ..bench.limits
            },
        );
        assert_eq!(failure.reason, Reason::OutputTooLarge, "{}", failure.detail);
    }),
    (
        "a_child_has_no_files_no_network_no_programs_no_environment",
        |bench| {
            let refused = bench.parse("escape").unwrap().value;
            assert_eq!(refused, json!({ "reached": [], "environment": 0 }));
        },
    ),
    ("a_fork_bomb_does_not_fork", |bench| {
        assert_eq!(
            bench.parse("fork-bomb").unwrap().value,
            json!({ "started": 0 })
        );
    }),
    (
        "an_unknown_parser_and_an_oversized_request_are_our_own_fault",
        |bench| {
            assert_eq!(bench.failure("no-such-parser").reason, Reason::Internal);
            let request = json!("x".repeat(MAX_REQUEST_BYTES));
            let cancelled = CancellationToken::new();
            let parsing = bench
                .sandbox
                .parse("count-bytes", &request, &bench.input, &cancelled);
            assert_eq!(
                bench.runtime.block_on(parsing).unwrap_err().reason,
                Reason::Internal
            );
        },
    ),
    ("a_cancelled_child_is_gone_when_the_answer_comes", |bench| {
        let cancelled = CancellationToken::new();
        bench.runtime.block_on(async {
            let parsing = bench.sandbox.parse(
                "sleep-until-cancelled",
                &Value::Null,
                &bench.input,
                &cancelled,
            );
            tokio::pin!(parsing);
            tokio::select! {
                _ = &mut parsing => panic!("it sleeps for ever"),
                () = until_runs("sleep-until-cancelled") => cancelled.cancel(),
            }
            assert!(parsing.await.is_err());
        });
        assert!(!runs("sleep-until-cancelled"));
    }),
    ("a_dropped_parse_kills_its_child", |bench| {
        let cancelled = CancellationToken::new();
        bench.runtime.block_on(async {
            tokio::select! {
                _ = bench.sandbox.parse("sleep-until-dropped", &Value::Null, &bench.input, &cancelled) => panic!("it sleeps"),
                () = until_runs("sleep-until-dropped") => {}
            }
            until_gone("sleep-until-dropped").await;
        });
    }),
    ("hostile_neighbours_leave_honest_children_alone", |bench| {
        let cancelled = CancellationToken::new();
        bench.runtime.block_on(async {
            let hostile = ["panic", "abort", "allocate", "recurse", "exit"];
            let hostile = futures::future::join_all(hostile.map(|parser| {
                bench
                    .sandbox
                    .parse(parser, &Value::Null, &bench.input, &cancelled)
            }));
            let honest = futures::future::join_all((0..8).map(|_| {
                bench
                    .sandbox
                    .parse("count-bytes", &Value::Null, &bench.input, &cancelled)
            }));
            let (hostile, honest) = tokio::join!(hostile, honest);
            assert!(hostile.iter().all(Result::is_err));
            assert!(honest.iter().all(Result::is_ok), "{honest:?}");
        });
    }),
    ("a_child_dies_with_its_parent", |bench| {
        let mut parent = Command::new(std::env::current_exe().unwrap())
            .arg("sleep-in-a-child")
            .stdin(file())
            .spawn()
            .unwrap();
        let parser = "sleep-beside-the-others";
        bench.runtime.block_on(until_runs(parser));
        parent.kill().unwrap();
        parent.wait().unwrap();
        bench.runtime.block_on(until_gone(parser));
    }),
];

fn main() -> ExitCode {
    run_prepared_child_if_asked(PARSERS, PREPARATIONS);
    if std::env::args().nth(1).as_deref() == Some("sleep-in-a-child") {
        let bench = Bench::new();
        let _ = bench.parse("sleep-beside-the-others");
        return ExitCode::FAILURE;
    }
    let trials = TESTS
        .iter()
        .map(|(name, test)| {
            Trial::test(*name, move || {
                test(&Bench::new());
                Ok(())
            })
        })
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

struct Bench {
    runtime: tokio::runtime::Runtime,
    sandbox: Sandbox,
    limits: Limits,
    input: PathBuf,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("input");
        File::create(&input)
            .unwrap()
            .write_all(b"hello world")
            .unwrap();
        let limits = Limits {
            memory: 128 << 20,
            ..Limits::default()
        };
        Self {
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            sandbox: Sandbox::of_this_executable(limits).unwrap(),
            limits,
            input,
            _folder: folder,
        }
    }

    fn parse_within(&self, parser: &str, limits: Limits) -> Result<Parsed, Failure> {
        let cancelled = CancellationToken::new();
        let request = json!({ "twice": true });
        self.runtime
            .block_on(self.sandbox.with_limits(limits).parse(
                parser,
                &request,
                &self.input,
                &cancelled,
            ))
    }

    fn parse(&self, parser: &str) -> Result<Parsed, Failure> {
        self.parse_within(parser, self.limits)
    }

    fn failure(&self, parser: &str) -> Failure {
        self.failure_within(parser, self.limits)
    }

    fn failure_within(&self, parser: &str, limits: Limits) -> Failure {
        self.parse_within(parser, limits).unwrap_err()
    }
}

fn file() -> File {
    File::open("/dev/null").unwrap()
}

/// Whether a living child of ours runs this parser.
fn runs(parser: &str) -> bool {
    let wanted = format!("\0{CHILD_ARGUMENT}\0{parser}\0");
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .any(|process| {
            // The command line of a process that has ended but is not reaped is empty.
            std::fs::read(process.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&wanted))
        })
}

/// Waits until a child parses so.
async fn until_runs(parser: &str) {
    eventually(parser, async || runs(parser)).await;
}

/// Waits until no child does.
async fn until_gone(parser: &str) {
    eventually(parser, async || !runs(parser)).await;
}

fn answer(value: Value) -> Result<Parsed, ParseFailure> {
    Ok(Parsed {
        value,
        blobs: Vec::new(),
    })
}

fn count_bytes(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    let mut bytes = Vec::new();
    input.read_to_end(&mut bytes).unwrap();
    let value = json!({ "bytes": bytes.len(), "asked": request });
    Ok(Parsed {
        value,
        blobs: vec![("copy".to_owned(), bytes.repeat(2))],
    })
}

fn refuse(_: &Value, _: &mut File) -> Result<Parsed, ParseFailure> {
    Err(ParseFailure::new(Reason::CorruptDocument, "no trailer"))
}

fn panic(_: &Value, _: &mut File) -> Result<Parsed, ParseFailure> {
    panic!("index {} of a page tree", 7)
}

fn abort(_: &Value, _: &mut File) -> Result<Parsed, ParseFailure> {
    std::process::abort()
}

fn exit(_: &Value, _: &mut File) -> Result<Parsed, ParseFailure> {
    std::process::exit(0)
}

fn loop_forever(_: &Value, _: &mut File) -> Result<Parsed, ParseFailure> {
    loop {
        std::hint::spin_loop();
    }
}

fn sleep_forever(_: &Value, _: &mut File) -> Result<Parsed, ParseFailure> {
    loop {
        std::thread::park();
    }
}

fn allocate(_: &Value, _: &mut File) -> Result<Parsed, ParseFailure> {
    answer(json!(vec![1u8; 4 << 30].len()))
}

fn recurse(_: &Value, _: &mut File) -> Result<Parsed, ParseFailure> {
    fn deeper(depth: u64) -> u64 {
        let page = std::hint::black_box([depth; 512]);
        if depth == u64::MAX {
            0
        } else {
            page[0] + deeper(depth + 1)
        }
    }
    answer(json!(deeper(0)))
}

fn flood(_: &Value, _: &mut File) -> Result<Parsed, ParseFailure> {
    Ok(Parsed {
        value: Value::Null,
        blobs: vec![("flood".to_owned(), vec![b'x'; 8 << 20])],
    })
}

fn chatter(_: &Value, _: &mut File) -> Result<Parsed, ParseFailure> {
    for _ in 0..20_000 {
        println!("CDL1 a library talks");
        eprintln!("and warns");
    }
    answer(json!("said a lot"))
}

fn escape(_: &Value, _: &mut File) -> Result<Parsed, ParseFailure> {
    let mut reached = Vec::new();
    if File::open("/etc/passwd").is_ok() {
        reached.push("read");
    }
    if File::create("here").is_ok() {
        reached.push("create");
    }
    if File::create("/tmp/there").is_ok() {
        reached.push("create elsewhere");
    }
    if std::fs::read_dir(Path::new("/")).is_ok() {
        reached.push("list");
    }
    if TcpStream::connect("127.0.0.1:9")
        .err()
        .and_then(|error| error.raw_os_error())
        != Some(libc::EPERM)
    {
        reached.push("connect");
    }
    if Command::new("/bin/true").status().is_ok() {
        reached.push("execute");
    }
    let parent = rustix::process::getppid().unwrap();
    if rustix::process::kill_process(parent, rustix::process::Signal::CONT).is_ok() {
        reached.push("signal");
    }
    let unlimited = rustix::process::Rlimit {
        current: None,
        maximum: None,
    };
    if rustix::process::setrlimit(rustix::process::Resource::As, unlimited).is_ok() {
        reached.push("raise a limit");
    }
    answer(json!({ "reached": reached, "environment": std::env::vars_os().count() }))
}

fn fork_bomb(_: &Value, _: &mut File) -> Result<Parsed, ParseFailure> {
    let started = (0..100)
        .filter(|_| Command::new("/proc/self/exe").spawn().is_ok())
        .count();
    answer(json!({ "started": started }))
}
