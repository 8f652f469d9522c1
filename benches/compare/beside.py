"""Ten files of a user beside a crowd of the same tenant's: for `--beside`."""

import json
import pathlib
import statistics
import subprocess
import tempfile

from ours import environment, ingest_command, started_up
from processes import Client, Processes
from texts import WARM_UP, small_texts

# Drops of few files, each on its own.
DROPS, FEW = 5, 10


def measure(caudal: pathlib.Path, uploads: int, files: int, folder: pathlib.Path) -> dict:
    """Seconds of ten files alone, and while `files` of another batch of the tenant are uploaded and worked on."""
    small_texts(folder / "warm", WARM_UP, "pegel")
    small_texts(folder / "crowd", files, "crowd")
    scratch = pathlib.Path(tempfile.mkdtemp(dir=folder))
    with Processes(scratch) as processes:
        ready = started_up(processes, caudal, scratch / "data")

        def command(tree: pathlib.Path, at_once: int) -> list:
            return ingest_command(caudal, ready["gateway"], ready["api_key"], tree, at_once)

        def drop(number: int, what: str) -> float:
            tree = folder / f"{what}-{number}"
            small_texts(tree, FEW, f"{what} {number}")
            answer = Client(processes, command(tree, uploads), environment()).answer()
            if answer["files"]["PROCESSED"] != FEW:
                raise RuntimeError(f"not every file was done: {answer}")
            return answer["seconds"]

        Client(processes, command(folder / "warm", uploads), environment()).answer()
        alone = [drop(number, "alone") for number in range(DROPS)]
        with open(scratch / "crowd.log", "wb") as log:
            crowd = subprocess.Popen(list(map(str, command(folder / "crowd", uploads))), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                     stderr=log, env=environment())
        try:
            # It stands in the middle of its way when its files are counted in thousands.
            _until_processed(caudal, ready, files // 10)
            among = []
            while crowd.poll() is None and len(among) < DROPS:
                among.append(drop(len(among), "beside"))
            has_ended = crowd.poll() is not None
            told = json.loads(crowd.stdout.read())
        finally:
            crowd.kill()
            crowd.wait()
    if has_ended and len(among) <= 1:
        raise RuntimeError("the crowd was through before it was measured: give it more --files")
    if told["files"]["PROCESSED"] != files:
        raise RuntimeError(f"not every file of the crowd was done: {told}")
    # The last one may have outlasted the crowd.
    among = among[:-1] if has_ended else among
    return {"files": files, "alone": alone, "beside": among, "ratio": round(statistics.median(among) / statistics.median(alone), 2),
            "crowd_files_per_second": round(files / told["seconds"])}


def _until_processed(caudal: pathlib.Path, ready: dict, files: int) -> None:
    while True:
        listed = subprocess.run([caudal, "batches", "--gateway", ready["gateway"], "--api-key", ready["api_key"], "--output", "json"],
                                stdout=subprocess.PIPE, check=True, env=environment())
        if any(batch["processed"] >= files and batch["state"] != "SUCCEEDED" for batch in json.loads(listed.stdout)["batches"]):
            return


def table(told: dict) -> str:
    """As Markdown."""
    def seconds(runs: list[float]) -> str:
        return f"{statistics.median(runs):.2f} s ({', '.join(f'{run:.2f}' for run in sorted(runs))})"
    return "\n".join([
        f"| {FEW} files | median (all) |", "|---|---|",
        f"| alone | {seconds(told['alone'])} |",
        f"| beside {told['files']:,} files of the same tenant, {told['crowd_files_per_second']:,} files/s | {seconds(told['beside'])} |",
        f"| to alone | **{told['ratio']}** |"])
