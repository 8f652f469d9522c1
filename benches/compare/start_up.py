"""From the start of `caudal up` to the line that says it is ready: for `--start-up`."""

import pathlib
import statistics
import tempfile
import time

from ours import started_up
from processes import Processes

RUNS = 7


def measure(caudal: pathlib.Path, _uploads: int, _files: int, folder: pathlib.Path) -> dict:
    """Seconds with a data folder that is made, and with one that is there; bytes of the executable."""
    def started(data: pathlib.Path) -> float:
        scratch = pathlib.Path(tempfile.mkdtemp(dir=folder))
        with Processes(scratch) as processes:
            began = time.monotonic()
            started_up(processes, caudal, data)
            return time.monotonic() - began

    folders = [folder / f"data-{number}" for number in range(RUNS)]
    return {"first": [started(data) for data in folders], "again": [started(data) for data in folders],
            "executable_bytes": caudal.stat().st_size}


def table(told: dict) -> str:
    """As Markdown."""
    def millis(runs: list[float]) -> str:
        return f"{statistics.median(runs) * 1000:.0f} ms ({min(runs) * 1000:.0f} to {max(runs) * 1000:.0f})"
    return "\n".join([
        "| `caudal up` until it is ready | median (all) |", "|---|---|",
        f"| with a new data folder | {millis(told['first'])} |",
        f"| with one that is there | {millis(told['again'])} |",
        f"| the executable | {told['executable_bytes'] / 1e6:.0f} MB |"])
