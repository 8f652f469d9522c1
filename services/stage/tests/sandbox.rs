//! The sandbox from outside: hostile parsers in real children of this very executable, each ended with the right reason.
//! What holds for a child that a parser host forked holds for one that was started, so both are shown all of it.
#![expect(clippy::unwrap_used)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::time::Duration;

use caudal_domain::Reason;
use caudal_harness::eventually;
use caudal_stage::sandbox::{
    CHILDREN_OF_ONE_HOST, Limits, MAX_REQUEST_BYTES, ParseFailure, Parsed, Parser, Preparation,
    Sandbox, run_prepared_child_if_asked,
};
use caudal_stage::{Dependency, Failure};
use libtest_mimic::{Arguments, Trial};
use rustix::process::{Pid, Signal, getppid, kill_process};
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
    ("sleep-while-others-wait", sleep_forever),
    ("sleep-beside-the-others", sleep_forever),
    ("sleep-and-hold-what-it-holds", sleep_forever),
    ("sleep-if-forked", sleep_if_forked),
    ("tell-parent", tell_parent),
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
static PREPARED: OnceLock<String> = OnceLock::new();

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
    (
        "where_no_child_can_be_started_the_file_is_not_to_blame_and_a_probe_says_when_one_can",
        |bench| {
            let executable = bench.input.with_file_name("parsers");
            let children = match bench.kind {
                Kind::Forked => CHILDREN_OF_ONE_HOST,
                Kind::Started => 0,
            };
            let sandbox = Sandbox::new(executable.clone(), bench.limits).unwrap();
            let sandbox = sandbox.with_children_of_one_host(children);
            let (request, cancelled) = (json!({}), CancellationToken::new());
            let parse = || {
                bench.runtime.block_on(sandbox.parse(
                    "count-bytes",
                    &request,
                    &bench.input,
                    &cancelled,
                ))
            };
            let on = |failure: Failure| failure.waits.map(|wait| wait.on);
            assert_eq!(on(parse().unwrap_err()), Some(Dependency::ParserHost));
            let probed = bench.runtime.block_on(sandbox.probe());
            assert_eq!(on(probed.unwrap_err()), Some(Dependency::ParserHost));
            let myself = std::env::current_exe().unwrap();
            std::os::unix::fs::symlink(myself, executable).unwrap();
            bench.runtime.block_on(sandbox.probe()).unwrap();
            assert_eq!(parse().unwrap().value["bytes"], json!(11));
        },
    ),
    (
        "a_file_that_is_gone_from_the_temp_folder_is_not_to_blame",
        |bench| {
            std::fs::remove_file(&bench.input).unwrap();
            let waits = bench.failure("count-bytes").waits.map(|wait| wait.on);
            assert_eq!(waits, Some(Dependency::TempFolder));
        },
    ),
    (
        "a_child_that_ends_badly_over_its_file_is_waited_for_by_nobody",
        |bench| {
            for parser in ["panic", "abort", "exit", "refuse"] {
                let failure = bench.failure(parser);
                assert_eq!(failure.waits, None, "{parser}: {failure}");
            }
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
        assert!(!failure.reason.retryable(), "it would use up as much again");
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
            assert_eq!(failure.reason, Reason::StageTimeout, "{}", failure.detail);
            assert!(failure.reason.retryable());
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
    ("each_wall_stands_here_and_the_sandbox_says_so", |bench| {
        let walls = bench.runtime.block_on(bench.sandbox.walls()).unwrap();
        assert_eq!(walls.missing(), Vec::<&str>::new());
    }),
    ("no_more_children_run_than_there_are_places", |bench| {
        let cancelled = CancellationToken::new();
        let sandbox = bench.sandbox.with_children_at_once(1);
        let parser = "sleep-while-others-wait";
        let asked = || sandbox.parse(parser, &Value::Null, &bench.input, &cancelled);
        bench.runtime.block_on(async {
            let both = futures::future::join(asked(), asked());
            tokio::pin!(both);
            let first = tokio::select! {
                _ = &mut both => panic!("they sleep"),
                first = bench.until_runs(parser) => first,
            };
            // The second is there when the first has ended, and not before.
            first.signal(Signal::KILL);
            let second = tokio::select! {
                _ = &mut both => panic!("the second sleeps"),
                second = until_is_there(async || {
                    let now = bench.running(parser);
                    assert!(now.len() <= 1);
                    now.into_iter().find(|process| process.pid != first.pid)
                }) => second,
            };
            second.signal(Signal::KILL);
            let (first, second) = both.await;
            assert!(first.is_err() && second.is_err());
        });
    }),
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
                _ = bench.until_runs("sleep-until-cancelled") => cancelled.cancel(),
            }
            assert!(parsing.await.is_err());
        });
        assert_eq!(bench.running("sleep-until-cancelled"), []);
    }),
    ("a_dropped_parse_kills_its_child", |bench| {
        let cancelled = CancellationToken::new();
        bench.runtime.block_on(async {
            tokio::select! {
                _ = bench.sandbox.parse("sleep-until-dropped", &Value::Null, &bench.input, &cancelled) => panic!("it sleeps"),
                _ = bench.until_runs("sleep-until-dropped") => {}
            }
            eventually("it is gone", async || bench.running("sleep-until-dropped").is_empty()).await;
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
            .args(["sleep-in-a-child", bench.kind.name()])
            .stdin(file())
            .spawn()
            .unwrap();
        let child = bench.runtime.block_on(until_is_there(async || {
            running(bench.kind, parent.id(), "sleep-beside-the-others").pop()
        }));
        parent.kill().unwrap();
        parent.wait().unwrap();
        let child_is_gone = eventually("it is gone", async || !child.lives());
        bench.runtime.block_on(child_is_gone);
    }),
    (
        "a_child_holds_its_file_and_its_outputs_and_nothing_of_others",
        |bench| {
            let cancelled = CancellationToken::new();
            let parser = "sleep-and-hold-what-it-holds";
            let sleeping = || {
                bench
                    .sandbox
                    .parse(parser, &Value::Null, &bench.input, &cancelled)
            };
            let seen = bench.runtime.block_on(async {
                tokio::select! {
                    _ = futures::future::join_all((0..3).map(|_| sleeping())) => panic!("they sleep"),
                    seen = until_is_there(async || {
                        let three = bench.running(parser);
                        let are_there = three.len() == 3 && three.iter().all(Process::is_confined);
                        are_there.then(|| {
                            assert!(three.iter().all(Process::has_walls));
                            three.iter().map(Process::holds).collect::<Vec<_>>()
                        })
                    }) => seen,
                }
            });
            let input = bench.input.to_str().unwrap();
            for held in seen {
                let files = held.iter().filter(|held| *held == input).count();
                let pipes = held.iter().filter(|held| held.starts_with("pipe:")).count();
                assert_eq!(files + pipes, held.len(), "{held:?}");
                // As a standard stream and under a number of its own.
                assert!(files <= 2 && pipes <= 3, "{held:?}");
            }
        },
    ),
];

/// What is told of forked children alone.
const HOST_TESTS: &[Test] = &[
    (
        "a_parser_host_has_no_environment_and_no_socket_but_one",
        |bench| {
            let host = bench.host();
            assert_eq!(host.read("environ"), "");
            assert_eq!(host.threads(), 1);
            assert!(host.has_walls());
            // It lets go of a child after it has told of its end.
            let holds_one = eventually("it holds no more than its control socket", async || {
                let held = host.holds();
                held.len() == 1 && held[0].starts_with("socket:")
            });
            bench.runtime.block_on(holds_one);
        },
    ),
    (
        "a_parser_host_that_is_killed_costs_no_file_its_attempt",
        |bench| {
            let cancelled = CancellationToken::new();
            let request = json!({ "parent": std::process::id() });
            let host = bench.host();
            let all = bench.runtime.block_on(async {
                let sleeping = futures::future::join_all((0..4).map(|_| {
                    bench
                        .sandbox
                        .parse("sleep-if-forked", &request, &bench.input, &cancelled)
                }));
                tokio::pin!(sleeping);
                tokio::select! {
                    _ = &mut sleeping => panic!("they sleep"),
                    () = eventually("four sleep", async || bench.running("sleep-if-forked").len() == 4) => {}
                }
                host.signal(Signal::KILL);
                sleeping.await
            });
            for parsed in all {
                assert_eq!(parsed.unwrap().value, json!("not forked"));
            }
            let anew = eventually("there is another host", async || {
                let told =
                    bench
                        .sandbox
                        .parse("tell-parent", &Value::Null, &bench.input, &cancelled);
                let parent = told.await.unwrap().value;
                parent != json!(std::process::id()) && parent != json!(host.pid)
            });
            bench.runtime.block_on(anew);
        },
    ),
    ("a_parser_host_that_stands_still_is_done_without", |bench| {
        let host = bench.host();
        host.signal(Signal::STOP);
        let parent = bench.parse("tell-parent").unwrap().value;
        assert_eq!(parent, json!(std::process::id()));
        let host_is_gone = eventually("it is gone", async || !host.lives());
        bench.runtime.block_on(host_is_gone);
    }),
    ("a_parser_host_has_a_bounded_number_of_children", |bench| {
        let sandbox = bench.sandbox.with_children_of_one_host(3);
        let cancelled = CancellationToken::new();
        let hosts: Vec<u64> = (0..7)
            .map(|_| {
                let told = sandbox.parse("tell-parent", &Value::Null, &bench.input, &cancelled);
                bench
                    .runtime
                    .block_on(told)
                    .unwrap()
                    .value
                    .as_u64()
                    .unwrap()
            })
            .collect();
        for of_one in hosts.chunks(3) {
            assert!(of_one.iter().all(|host| host == &of_one[0]), "{hosts:?}");
        }
        assert!(hosts[0] != hosts[3] && hosts[3] != hosts[6], "{hosts:?}");
        let they_are_gone = eventually("those before are gone", async || {
            let before = [hosts[0], hosts[3]].map(|pid| Process {
                pid: pid.try_into().unwrap(),
            });
            !before.iter().any(Process::lives)
        });
        bench.runtime.block_on(they_are_gone);
    }),
    ("a_forked_child_touches_few_pages", |bench| {
        let host = bench.host();
        let before = host.faults_of_children();
        for _ in 0..FILES_WHOSE_FAULTS_COUNT {
            bench.parse("count-bytes").unwrap();
        }
        let each = (host.faults_of_children() - before) / FILES_WHOSE_FAULTS_COUNT;
        assert!(each < MAX_FAULTS, "{each} page faults a child");
    }),
];

/// Children over which page faults are counted.
const FILES_WHOSE_FAULTS_COUNT: u64 = 20;
/// Page faults of one child that does next to nothing. There are about 105; where the executable is started for it, 500.
const MAX_FAULTS: u64 = 250;

/// More than the tests have that look at several.
const CHILDREN_AT_ONCE: usize = 32;

/// What this process held when it began: a terminal, and what a shell or a build left open.
static GIVEN: OnceLock<Vec<String>> = OnceLock::new();

/// How a child comes to be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// A parser host forks it.
    Forked,
    /// The executable is started for it.
    Started,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Forked => "forked",
            Self::Started => "started",
        }
    }
}

fn main() -> ExitCode {
    run_prepared_child_if_asked(PARSERS, PREPARATIONS);
    let myself = Process {
        pid: std::process::id(),
    };
    GIVEN.get_or_init(|| myself.holds());
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("sleep-in-a-child") {
        let is_forked = arguments.next().as_deref() == Some(Kind::Forked.name());
        let bench = Bench::new(if is_forked {
            Kind::Forked
        } else {
            Kind::Started
        });
        let _ = bench.parse("sleep-beside-the-others");
        return ExitCode::FAILURE;
    }
    let of_kind = |kind: Kind, tests: &[Test]| {
        let trials = tests.iter().map(|(name, test)| {
            let test = *test;
            Trial::test(format!("{}::{name}", kind.name()), move || {
                test(&Bench::new(kind));
                Ok(())
            })
        });
        trials.collect::<Vec<_>>()
    };
    let trials = [
        of_kind(Kind::Forked, TESTS),
        of_kind(Kind::Started, TESTS),
        of_kind(Kind::Forked, HOST_TESTS),
    ];
    libtest_mimic::run(
        &Arguments::from_args(),
        trials.into_iter().flatten().collect(),
    )
    .exit_code()
}

struct Bench {
    kind: Kind,
    runtime: tokio::runtime::Runtime,
    sandbox: Sandbox,
    limits: Limits,
    input: PathBuf,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new(kind: Kind) -> Self {
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
        let children_of_one_host = match kind {
            Kind::Forked => CHILDREN_OF_ONE_HOST,
            Kind::Started => 0,
        };
        Self {
            kind,
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap(),
            sandbox: Sandbox::of_this_executable(limits)
                .unwrap()
                .with_children_of_one_host(children_of_one_host)
                .with_children_at_once(CHILDREN_AT_ONCE),
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

    /// Its children that run this parser.
    fn running(&self, parser: &str) -> Vec<Process> {
        running(self.kind, std::process::id(), parser)
    }

    async fn until_runs(&self, parser: &str) -> Process {
        until_is_there(async || self.running(parser).pop()).await
    }

    /// Its parser host.
    fn host(&self) -> Process {
        let parent = self.parse("tell-parent").unwrap().value;
        let pid = self.runtime.block_on(self.sandbox.host()).unwrap();
        assert_eq!(parent, json!(pid));
        Process { pid }
    }
}

fn file() -> File {
    File::open("/dev/null").unwrap()
}

/// A process, living or not.
#[derive(Debug, PartialEq)]
struct Process {
    pid: u32,
}

impl Process {
    fn all() -> impl Iterator<Item = Self> {
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .filter_map(|entry| {
                let pid = entry.file_name().to_str()?.parse().ok()?;
                Some(Self { pid })
            })
    }

    /// A file of it in /proc; empty once it is gone.
    fn read(&self, file: &str) -> String {
        let bytes = std::fs::read(format!("/proc/{}/{file}", self.pid)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What stands behind its name in `stat`, which may hold anything: its state, its parent, and so on.
    fn stat(&self) -> Vec<String> {
        let stat = self.read("stat");
        let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
        behind.split_whitespace().map(str::to_owned).collect()
    }

    fn lives(&self) -> bool {
        // One that has ended is a zombie until it is waited for.
        self.stat().first().is_some_and(|state| state != "Z")
    }

    fn parent(&self) -> Option<Self> {
        let pid = self.stat().get(1)?.parse().ok()?;
        Some(Self { pid })
    }

    fn faults_of_children(&self) -> u64 {
        self.stat()[8].parse().unwrap()
    }

    fn threads(&self) -> u64 {
        self.stat()[17].parse().unwrap()
    }

    /// Whether its parser has begun, which is in a thread of its own behind all walls.
    fn is_confined(&self) -> bool {
        self.stat().get(17).is_some_and(|threads| threads == "2")
    }

    /// Whether the kernel refuses it calls, and gives it no rights that it does not have.
    fn has_walls(&self) -> bool {
        let status = self.read("status");
        status.contains("\nSeccomp:\t2\n") && status.contains("\nNoNewPrivs:\t1\n")
    }

    /// What its open descriptors lead to, without what this process was given and has given on.
    fn holds(&self) -> Vec<String> {
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", self.pid)).unwrap();
        descriptors
            .flatten()
            .filter_map(|held| std::fs::read_link(held.path()).ok())
            .map(|held| held.to_str().unwrap().to_owned())
            .filter(|held| !GIVEN.get().is_some_and(|given| given.contains(held)))
            .collect()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid.cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

/// The living children of the process `of` that run this parser.
fn running(kind: Kind, of: u32, parser: &str) -> Vec<Process> {
    // As much of a name as the kernel keeps.
    let name = format!("{}\n", &parser[..parser.len().min(15)]);
    let is_of = |process: &Process| {
        let parent = process.parent();
        let parent = match kind {
            Kind::Started => parent,
            Kind::Forked => parent.and_then(|host| host.parent()),
        };
        parent.is_some_and(|parent| parent.pid == of)
    };
    Process::all()
        .filter(|process| process.read("comm") == name && process.lives() && is_of(process))
        .collect()
}

async fn until_is_there<T>(look: impl AsyncFn() -> Option<T>) -> T {
    let seen = std::cell::Cell::new(None);
    eventually("it is there", async || {
        let found = look().await;
        let is_found = found.is_some();
        seen.set(found);
        is_found
    })
    .await;
    seen.take().unwrap()
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

fn tell_parent(_: &Value, _: &mut File) -> Result<Parsed, ParseFailure> {
    answer(json!(getppid().unwrap().as_raw_nonzero().get()))
}

fn sleep_if_forked(request: &Value, input: &mut File) -> Result<Parsed, ParseFailure> {
    if tell_parent(request, input)?.value == request["parent"] {
        return answer(json!("not forked"));
    }
    sleep_forever(request, input)
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
    if std::fs::metadata("/etc/passwd").is_ok() {
        reached.push("look at a file by its name");
    }
    if std::fs::exists("/etc/passwd").is_ok() {
        reached.push("find out that there is a file");
    }
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    if std::fs::set_permissions("/etc/passwd", mode).is_ok() {
        reached.push("change who may read a file");
    }
    if rustix::process::setpriority_process(Some(parent), 1).is_ok() {
        reached.push("slow the parent down");
    }
    if rustix::process::pidfd_open(parent, rustix::process::PidfdFlags::empty()).is_ok() {
        reached.push("hold the parent");
    }
    if rustix::process::chdir("/").is_ok() {
        reached.push("go elsewhere");
    }
    if rustix::process::getuid().is_root() {
        reached.push("be root");
    }
    let held = rustix::thread::capabilities(None);
    if held.is_ok_and(|held| !held.permitted.is_empty()) {
        reached.push("hold a capability");
    }
    answer(json!({ "reached": reached, "environment": std::env::vars_os().count() }))
}

fn fork_bomb(_: &Value, _: &mut File) -> Result<Parsed, ParseFailure> {
    let started = (0..100)
        .filter(|_| Command::new("/proc/self/exe").spawn().is_ok())
        .count();
    answer(json!({ "started": started }))
}
