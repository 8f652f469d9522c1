"""Processes that a measurement starts, and what they use up by the kernel's own books. All sides are measured by these alone."""

import json
import os
import pathlib
import signal
import subprocess
import threading
import time

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
READY_WITHIN_SECONDS = 60
STOPPED_WITHIN_SECONDS = 60
# How often memory is looked at: a look costs some milliseconds of a core.
LOOK_EVERY_SECONDS = 0.5


def _stat(pid: int) -> list[str] | None:
    """What `/proc` says of a process behind its name: its state, its parent, and so on. None when it has ended."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def family(root: int) -> list[int]:
    """A process and all below it that live."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            children.setdefault(int(fields[1]), []).append(int(entry))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(children.get(pid, []))
    return found


def cpu_seconds(root: int) -> float:
    """Processor time of a process and all below it: of those that live, and of children that have ended and were waited for."""
    ticks = 0
    for pid in family(root):
        if fields := _stat(pid):
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS_A_SECOND


def memory_bytes(root: int) -> int:
    """Memory of a process and all below it; a page that several share is counted once, by shares (PSS)."""
    found = 0
    for pid in family(root):
        try:
            rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        found += sum(int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:"))
    return found


class MemoryWatch:
    """Looks at the memory of families while it is open, and keeps the most they had together."""

    def __init__(self, roots: dict[str, int]):
        self._roots = roots
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.peak = 0
        self.parts: dict[str, int] = {}

    def _look(self) -> None:
        parts = {name: memory_bytes(pid) for name, pid in list(self._roots.items())}
        if sum(parts.values()) > self.peak:
            self.peak, self.parts = sum(parts.values()), parts

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_EVERY_SECONDS):
            self._look()

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ended.set()
        self._thread.join()


class Processes:
    """Processes of one run. They end with it, and with this program however it ends."""

    def __init__(self, scratch: pathlib.Path):
        self.scratch = scratch
        self._running: dict[str, tuple[subprocess.Popen, signal.Signals]] = {}

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_) -> None:
        for name in reversed(list(self._running)):
            self.stop(name)

    def start(self, name: str, command: list, *, env: dict | None = None, stop_with: signal.Signals = signal.SIGTERM,
              as_user: str | None = None, says_ready: bool = True) -> dict:
        """Starts one. Where it says that it is ready, in a line of JSON on its standard output, that is waited for and given.
        To be called from the main thread: what it starts ends with the thread."""
        wrapped = ["setpriv", f"--pdeathsig={stop_with.name.removeprefix('SIG')}"]
        if as_user and os.geteuid() == 0:
            wrapped += [f"--reuid={as_user}", f"--regid={as_user}", "--clear-groups"]
        with open(self.log(name), "ab") as log:
            process = subprocess.Popen([*wrapped, "--", *map(str, command)], stdin=subprocess.DEVNULL, stderr=log,
                                       stdout=subprocess.PIPE if says_ready else log, env=env, cwd="/")
        self._running[name] = (process, stop_with)
        if not says_ready:
            return {}
        slow = threading.Timer(READY_WITHIN_SECONDS, process.kill)
        slow.start()
        line = process.stdout.readline()
        slow.cancel()
        if not line:
            raise RuntimeError(f"{name} is not ready: {self.tail(name)}")
        # What it says later is nobody's business, and must not fill the pipe.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        return json.loads(line)

    def log(self, name: str) -> pathlib.Path:
        return self.scratch / f"{name}.log"

    def tail(self, name: str) -> str:
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-8:])

    def tails(self) -> str:
        """The ends of all logs, for an error."""
        return "\n".join(f"--- {name}\n{self.tail(name)}" for name in self._running)

    def alive(self, name: str) -> bool:
        return self._running[name][0].poll() is None

    def stop(self, name: str) -> None:
        process, how = self._running.pop(name)
        process.send_signal(how)
        try:
            process.wait(STOPPED_WITHIN_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise RuntimeError(f"{name} does not end: {self.tail(name)}") from None

    def roots(self) -> dict[str, int]:
        return {name: process.pid for name, (process, _) in self._running.items()}


class Client:
    """A client that runs to its end, and its processor time."""

    def __init__(self, processes: Processes, command: list, env: dict | None = None):
        self._processes = processes
        self._log = processes.log("client")
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(["setpriv", "--pdeathsig=KILL", "--", *map(str, command)], stdin=subprocess.DEVNULL,
                                             stdout=subprocess.PIPE, stderr=log, env=env)
        self.pid = self._process.pid
        self.cpu_seconds = 0.0

    def answer(self) -> dict:
        """What it printed when it had ended well."""
        try:
            printed = self._process.stdout.read()
        except BaseException:
            self._process.kill()
            raise
        _, status, used = os.wait4(self.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self.cpu_seconds = used.ru_utime + used.ru_stime
        if self._process.returncode != 0:
            raise RuntimeError(f"the client ended with {self._process.returncode}: {self._log.read_text()[-2000:]}\n"
                               f"{self._processes.tails()}")
        return json.loads(printed)


def measured_run(processes: Processes, command: list, env: dict | None = None) -> tuple[dict, dict]:
    """Runs a client beside the processes that are there: its answer, and what all of them used meanwhile."""
    roots = processes.roots()
    before = {name: cpu_seconds(pid) for name, pid in roots.items()}
    client = Client(processes, command, env)
    began = time.monotonic()
    with MemoryWatch({**roots, "client": client.pid}) as memory:
        answer = client.answer()
        took = time.monotonic() - began
        parts = {name: cpu_seconds(pid) - before[name] for name, pid in roots.items()}
    parts["client"] = client.cpu_seconds
    return answer, {"wall_seconds": round(took, 3), "cpu_seconds": parts, "peak_memory_bytes": memory.peak,
                    "peak_memory_parts": memory.parts}
