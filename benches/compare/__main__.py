"""The whole job of Caudal and of a peer, in turns, in one run: `python3 benches/compare`, or `make bench`.

Real work: small texts are uploaded, read, and recorded. Null work: four stages that do nothing. The peer is what is written
with BullMQ, Postgres and the AWS SDK (benches/peers/bullmq); it is tuned first, by trying out how many jobs it has in hand, and
the best stays. Every run has new servers, is warmed up with 1,000 files, and ends with a check that every file is done. Prints a
table as Markdown, and writes all figures as JSON and as a plot.
"""

import argparse
import json
import os
import pathlib
import shutil
import signal
import sys
import tempfile
import time

import beside
import plot
import profiling
import report
import start_up
from ours import Mesh, NullStages, OneProcess
from peer import ONE_JOB, PEER, BullMq, Tuning
from texts import WARM_UP, small_texts

ROOT = pathlib.Path(__file__).resolve().parents[2]
# A batch of more files than these is measured once.
OFTEN_UP_TO = 20_000
# The peer would take hours for more.
PEER_UP_TO = 100_000
REAL, NULL = "real work", "null work"


def say(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def numbers(text: str) -> list[int]:
    return [int(part.replace("_", "")) for part in text.split(",")]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=numbers, default=[1_000, 10_000], help="files of a batch; several sizes show growth (1000,10000)")
    parser.add_argument("--large", action="store_true", help="100,000 files too: half an hour, most of it the peer's")
    parser.add_argument("--million", action="store_true", help="1,000,000 files of null work too, of Caudal alone")
    parser.add_argument("--runs", type=int, default=3, help="turns of each size; medians are told (3)")
    parser.add_argument("--work", default="real,null", help="real, null or both")
    parser.add_argument("--sides", default="one,processes,peer,peer-job", help="which of them are measured (one,processes,peer,peer-job)")
    parser.add_argument("--uploads", type=int, default=10, help="uploads at once, of all clients (10)")
    parser.add_argument("--sweep", type=numbers, default=[8, 16, 32, 64], help="jobs of each queue at once that the peer is tried with")
    parser.add_argument("--sweep-files", type=int, default=1_000, help="files of each such trial (1000)")
    parser.add_argument("--peer-redis-without-log", action="store_true", help="the peer's Redis keeps nothing on disk")
    parser.add_argument("--profile", action="store_true", help="where the CPU of one process goes, and what it asks of kernel and store; nothing else")
    parser.add_argument("--beside", action="store_true", help="ten files beside a crowd of the same tenant's in one process; nothing else")
    parser.add_argument("--start-up", action="store_true", help="how long one process takes to be ready, and how large the executable is; nothing else")
    parser.add_argument("--dir", type=pathlib.Path, help="the disk that is used; that of temporary files when left out")
    parser.add_argument("--caudal", type=pathlib.Path, default=ROOT / "target/release/caudal")
    parser.add_argument("--bench-ledger", type=pathlib.Path, default=ROOT / "target/release/bench-ledger")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "target/compare.json")
    parser.add_argument("--plot", type=pathlib.Path, default=ROOT / "docs/images/compare.svg")
    told = parser.parse_args()
    for program in (told.caudal, told.bench_ledger):
        if not program.exists():
            parser.error(f"{program} is missing: make bench builds it")
    if not (ROOT / "benches/peers/node_modules").exists():
        parser.error("the peer is not installed: npm ci --prefix benches/peers")
    told.caudal, told.bench_ledger = told.caudal.resolve(), told.bench_ledger.resolve()
    if told.large:
        told.files.append(100_000)
    return told


class Turns:
    """Runs sides, each on servers and folders of its own."""

    def __init__(self, options: argparse.Namespace):
        self._options = options
        self._texts: dict[int, pathlib.Path] = {}
        self._folder = pathlib.Path(tempfile.mkdtemp(prefix="caudal-compare-", dir=options.dir))
        # Postgres has a user of its own, who must get through.
        self._folder.chmod(0o711)
        self._warm_up = self._folder / "warm-up"
        small_texts(self._warm_up, WARM_UP, "pegel")

    def __enter__(self) -> "Turns":
        return self

    def __exit__(self, *_) -> None:
        shutil.rmtree(self._folder)

    def texts(self, files: int) -> pathlib.Path:
        if files not in self._texts:
            self._texts[files] = self._folder / f"texts-{files}"
            small_texts(self._texts[files], files)
        return self._texts[files]

    def run(self, side, files: int) -> dict:
        scratch = pathlib.Path(tempfile.mkdtemp(prefix="run-", dir=self._folder))
        scratch.chmod(0o711)
        if isinstance(side, NullStages):
            run = side.run(scratch, files)
        else:
            run = side.run(scratch, self._warm_up, self.texts(files), files)
        shutil.rmtree(scratch)
        told = report.figures(run)
        say(f"  {side.name}: {told['files_per_second']:,.0f} files/s, {told['cpu_micros_a_file']:,} µs of CPU a file, "
            f"{told['peak_memory_mib']} MiB, p50 {told['p50_seconds']} s, p99 {told['p99_seconds']} s")
        return told


def tuned(turns: Turns, options: argparse.Namespace, *, null: bool = False, one_job: bool = False) -> tuple[BullMq, list[dict]]:
    """The peer as it is fastest, and what was tried."""
    tried = []

    def side(tuning: Tuning) -> BullMq:
        return BullMq(options.caudal, tuning, options.uploads, null=null, one_job=one_job,
                      durable_redis=not options.peer_redis_without_log)

    def attempt(tuning: Tuning) -> float:
        say(f"the peer is tried with {tuning}")
        run = turns.run(side(tuning), options.sweep_files)
        tried.append(run)
        return run["files_per_second"]

    as_many_as_cores = {Tuning(os.cpu_count(), concurrency) for concurrency in options.sweep}
    rates = {tuning: attempt(tuning) for tuning in sorted(as_many_as_cores, key=lambda tuning: tuning.concurrency)}
    best = max(rates, key=rates.get)
    if best.workers > 1:
        alone = Tuning(1, best.concurrency)
        rates[alone] = attempt(alone)
    best = max(rates, key=rates.get)
    say(f"the best: {best}")
    return side(best), tried


def in_turns(turns: Turns, sides: list, sizes: list[int], runs: int) -> dict:
    """Of each size: every side after the other, so often."""
    works = {}
    for files in sizes:
        of_side: dict[str, list[dict]] = {side.name: [] for side in sides}
        for turn in range(runs if files <= OFTEN_UP_TO else 1):
            say(f"{files:,} files, turn {turn + 1}")
            for side in sides:
                if side.name not in (PEER, ONE_JOB) or files <= PEER_UP_TO:
                    of_side[side.name].append(turns.run(side, files))
        works[files] = {name: report.summary(ran, of_side.get(PEER)) for name, ran in of_side.items() if ran}
    return works


def alone(options: argparse.Namespace, measured, name: str) -> int:
    """One of the measurements that have no peer: printed, and kept beside the others."""
    with tempfile.TemporaryDirectory(prefix=f"caudal-{name}-", dir=options.dir) as folder:
        told = measured.measure(options.caudal, options.uploads, max(options.files), pathlib.Path(folder))
    print(measured.table(told))
    kept = options.json.with_name(f"{name}.json")
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(told, indent=2) + "\n")
    say(f"all figures: {kept}")
    return 0


def main() -> int:
    options = arguments()
    # Who is told to end stops what was started, and leaves no folder.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if options.profile:
        return alone(options, profiling, "profile")
    if options.start_up:
        return alone(options, start_up, "start-up")
    if options.beside:
        return alone(options, beside, "beside")
    began = time.strftime("%Y-%m-%d %H:%M")
    load = os.getloadavg()[0]
    works, sweeps = {}, {}
    wanted = options.sides.split(",")
    with Turns(options) as turns:
        if "real" in options.work:
            known = {"one": OneProcess(options.caudal, options.uploads), "processes": Mesh(options.caudal, options.uploads)}
            sides = [known[name] for name in wanted if name in known]
            for name, one_job in (("peer", False), ("peer-job", True)):
                if name in wanted:
                    peer, sweeps[f"{REAL}, {name}"] = tuned(turns, options, one_job=one_job)
                    sides.append(peer)
            works[REAL] = in_turns(turns, sides, options.files, options.runs)
        if "null" in options.work:
            sides = [NullStages(options.bench_ledger, options.caudal)] if "processes" in wanted else []
            if "peer" in wanted:
                peer, sweeps[f"{NULL}, peer"] = tuned(turns, options, null=True)
                sides.append(peer)
            sizes = [*options.files, 1_000_000] if options.million else options.files
            works[NULL] = in_turns(turns, sides, sizes, options.runs)
    # Above zero others were at work, and all figures are worse for it.
    conditions = f"{os.cpu_count()} cores, load before {load:.1f}, {began}"
    print(f"{conditions}\n\n{report.table(works)}")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(
        {"began": began, "cores": os.cpu_count(), "load_before": load, "works": works, "peer_tried": sweeps}, indent=2) + "\n")
    options.plot.write_text(plot.plot(works, conditions))
    say(f"all figures: {options.json}; the plot: {options.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
