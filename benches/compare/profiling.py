"""Where the CPU of `caudal up` goes, what it asks of the kernel, and what of its store, a file: for `--profile`."""

import collections
import pathlib
import re
import signal
import subprocess
import tempfile
import urllib.request

from ours import STAGES, environment, ingest_command, started_up
from processes import Client, Processes, family
from servers import free_port
from texts import WARM_UP, small_texts

# Prime, so that nothing that comes round in a whole number of milliseconds is met always or never.
SAMPLES_A_SECOND = 499
# Counting system calls stops the process at each; more files only take longer.
TRACED_FILES = 1_000
SHOWN_SYMBOLS = 25

# Crates of others, by what they do.
PARTS = {
    "HTTP": ("hyper", "hyper_util", "http", "http_body", "http_body_util", "h2", "httparse", "tower", "tower_http", "axum", "axum_core", "matchit"),
    "gRPC": ("tonic", "prost", "tonic_web", "tonic_prost"),
    "the runtime": ("tokio", "tokio_util", "futures", "futures_util", "futures_core", "futures_channel", "mio", "parking_lot", "parking_lot_core", "lock_api"),
    "SQL": ("sqlx", "sqlx_core", "sqlx_sqlite", "sqlx_postgres", "sea_orm", "sea_query", "sea_query_sqlx"),
    "the store's protocol": ("s3s", "quick_xml"),
    "the store's index": ("fjall", "lsm_tree", "value_log", "redb"),
    "Redis's protocol": ("redis", "combine"),
    "the AWS SDK": ("aws_sdk_s3", "aws_smithy_runtime", "aws_smithy_runtime_api", "aws_smithy_types", "aws_runtime", "aws_sigv4", "aws_credential_types", "aws_types"),
    "telling": ("tracing", "tracing_core", "tracing_subscriber", "opentelemetry", "opentelemetry_sdk", "prometheus_client"),
    "checksums": ("sha2", "sha1", "md5", "digest", "hmac", "ring", "crc32fast", "crc_fast", "xxhash_rust", "block_buffer"),
    "the standard library": ("core", "std", "alloc", "hashbrown", "bytes", "indexmap", "hex", "uuid", "serde", "serde_json", "serde_core", "ryu", "itoa"),
}
PART_OF = {crate: part for part, crates in PARTS.items() for crate in crates}
# A crate's name at the beginning of a symbol, behind what stands before it in `<&mut a::B as c::D>::e`.
CRATE = re.compile(r"^[<&*\[(]*(?:mut |dyn |const )?(?:[<&*\[(]*)([A-Za-z_][A-Za-z0-9_]*)::")
FREED = re.compile(r"^core::ptr::drop_(?:in_place|glue)::?<[<&*\[(]*(?:mut |dyn )?([A-Za-z_][A-Za-z0-9_]*)::")


def part_of(comm: str, dso: str, symbol: str) -> str:
    """Whose work a sample is."""
    if comm.startswith(("redis", "bio_", "jemalloc")):
        return "redis-server"
    if "kernel" in dso or dso == "[guest.kernel.kallsyms]":
        return "the kernel"
    if re.match(r"^_?mi_|^(malloc|free|realloc|calloc|cfree)$", symbol):
        return "memory is asked for and given back"
    if re.search(r"mem(cpy|move|set|cmp)", symbol):
        return "memory is copied and compared"
    if symbol.startswith(("sqlite3", "pcache", "vdbe", "btree")) or re.match(r"^(balance|walk|unix|pager|accessPayload|moveToRoot)[A-Za-z]*$", symbol):
        return "SQLite"
    if symbol.startswith(("sha256", "sha512", "ring_core", "md5_")):
        return "checksums"
    crate = FREED.match(symbol) or CRATE.match(symbol)
    if crate is None:
        return "C libraries" if "::" not in symbol else "the standard library"
    name = crate.group(1)
    if name.startswith("caudal"):
        return name.replace("_", "-")
    return PART_OF.get(name, "other crates")


def _requests(metrics: str) -> collections.Counter:
    """The requests that the store has answered, by method, as the system counts them."""
    with urllib.request.urlopen(f"http://{metrics}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    found = collections.Counter()
    for line in lines:
        if told := re.match(r'caudal_embedded_store_requests_total\{.*method="([A-Z]+)".*\} (\d+)', line):
            found[told.group(1)] += int(told.group(2))
    return found


class _Recorder:
    """A program that looks at processes until it is told to stop."""

    def __init__(self, command: list, log: pathlib.Path):
        with open(log, "wb") as errors:
            self._process = subprocess.Popen(list(map(str, command)), stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)

    def stop(self) -> None:
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)


def _pids(processes: Processes) -> str:
    return ",".join(str(pid) for root in processes.roots().values() for pid in family(root))


def _samples(recorded: pathlib.Path) -> tuple[collections.Counter, collections.Counter]:
    """Samples by part, and by symbol."""
    listed = subprocess.run(["perf", "script", "-i", recorded, "-F", "comm,ip,sym,dso"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            check=True, text=True)
    parts, symbols = collections.Counter(), collections.Counter()
    for line in listed.stdout.splitlines():
        if told := re.match(r"^\s*(.+?)\s+[0-9a-f]{6,16} (.*) \((.*)\)$", line):
            comm, symbol, dso = told.groups()
            part = part_of(comm, dso, symbol)
            parts[part] += 1
            symbols[f"{symbol} ({part})"] += 1
    return parts, symbols


def _calls(counted: pathlib.Path, files: int) -> dict[str, float]:
    """System calls a file, from strace's summary."""
    found = {}
    for line in counted.read_text().splitlines():
        fields = line.split()
        if len(fields) >= 5 and re.match(r"^[\d.]+$", fields[0]) and fields[3].isdigit() and fields[-1] != "total":
            found[fields[-1]] = round(int(fields[3]) / files, 2)
    return dict(sorted(found.items(), key=lambda call: -call[1]))


def measure(caudal: pathlib.Path, uploads: int, files: int, folder: pathlib.Path) -> dict:
    """Runs `caudal up` once beside perf, and once beside strace."""
    texts, traced, warm_up = folder / "texts", folder / "traced", folder / "warm"
    small_texts(texts, files)
    small_texts(traced, TRACED_FILES, "zuteil")
    small_texts(warm_up, WARM_UP, "pegel")
    recorded, counted = folder / "perf.data", folder / "strace.txt"
    scratch = pathlib.Path(tempfile.mkdtemp(dir=folder))
    metrics = f"127.0.0.1:{free_port()}"
    with Processes(scratch) as processes:
        ready = started_up(processes, caudal, scratch / "data", "--metrics-listen", metrics)

        def taken_in(tree: pathlib.Path) -> dict:
            return Client(processes, ingest_command(caudal, ready["gateway"], ready["api_key"], tree, uploads), environment()).answer()

        taken_in(warm_up)
        before = _requests(metrics)
        perf = _Recorder(["perf", "record", "-q", "-F", SAMPLES_A_SECOND, "-o", recorded, "-p", _pids(processes)], folder / "perf.log")
        answer = taken_in(texts)
        perf.stop()
        asked = _requests(metrics)
        asked.subtract(before)
        strace = _Recorder(["strace", "-c", "-f", "-o", counted, "-p", _pids(processes)], folder / "strace.log")
        taken_in(traced)
        strace.stop()
    parts, symbols = _samples(recorded)
    micros = 1e6 / SAMPLES_A_SECOND / files
    return {
        "files": files, "stages": STAGES, "files_per_second_while_recorded": round(files / answer["seconds"]),
        "micros_a_file": {part: round(samples * micros, 1) for part, samples in parts.most_common()},
        "micros_a_file_by_symbol": {symbol: round(samples * micros, 1) for symbol, samples in symbols.most_common(200)},
        "store_requests_a_file": {method: round(number / files, 2) for method, number in asked.most_common()},
        "system_calls_a_file": _calls(counted, TRACED_FILES),
    }


def table(told: dict) -> str:
    """The profile as Markdown."""
    everything = sum(told["micros_a_file"].values())
    lines = [f"{told['files']:,} small texts through {told['stages']}, {told['files_per_second_while_recorded']:,} files/s while recorded, "
             f"{everything:,.0f} µs of CPU a file in `caudal up` and its Redis", "",
             "| whose | µs a file | share |", "|---|---|---|"]
    lines += [f"| {part} | {micros:,.0f} | {micros / everything:.0%} |" for part, micros in told["micros_a_file"].items() if micros >= 1]
    lines += ["", "| symbol | µs a file |", "|---|---|"]
    lines += [f"| `{symbol}` | {micros:,.1f} |" for symbol, micros in list(told["micros_a_file_by_symbol"].items())[:SHOWN_SYMBOLS]]
    requests = ", ".join(f"{method} {number:.2f}" for method, number in told["store_requests_a_file"].items())
    lines += ["", f"Requests to the store a file: {sum(told['store_requests_a_file'].values()):.2f} ({requests})", ""]
    calls = [f"{call} {number:.1f}" for call, number in told["system_calls_a_file"].items() if number >= 0.1]
    lines += [f"System calls a file, counted over {TRACED_FILES:,} files: {', '.join(calls)}"]
    return "\n".join(lines)
