"""The servers that both sides use: Postgres, Redis, and an object store in a process of its own."""

import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

from processes import READY_WITHIN_SECONDS, Processes

LOOK_EVERY_SECONDS = 0.02
BUCKET = "caudal"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _until(processes: Processes, name: str, is_ready) -> None:
    began = time.monotonic()
    while not is_ready():
        if not processes.alive(name) or time.monotonic() - began > READY_WITHIN_SECONDS:
            raise RuntimeError(f"{name} is not ready: {processes.tail(name)}")
        time.sleep(LOOK_EVERY_SECONDS)


class Postgres:
    """A new Postgres with its own defaults: every commit waits for the disk."""

    @staticmethod
    def programs() -> pathlib.Path:
        versions = [path.parent for path in pathlib.Path("/usr/lib/postgresql").glob("*/bin/postgres")]
        if not versions:
            raise RuntimeError("Postgres is not installed: infra/setup/machine --for-tests")
        return max(versions, key=lambda path: float(path.parent.name))

    def __init__(self, processes: Processes):
        self._programs = self.programs()
        folder = processes.scratch / "postgres"
        folder.mkdir()
        # Postgres refuses root: then it is run by the user that its package made.
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        made = ["initdb", "--auth=trust", "--username=postgres", "--encoding=UTF8", "--no-sync", "--pgdata", folder / "data"]
        with processes.log("initdb").open("wb") as log:
            as_user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--"] if os.geteuid() == 0 else []
            subprocess.run([*as_user, self._programs / made[0], *made[1:]], stdout=log, stderr=log, check=True, cwd="/")
        port = free_port()
        self.url = f"postgres://postgres@127.0.0.1:{port}/postgres"
        processes.start("postgres", [
            self._programs / "postgres", "-D", folder / "data", "-p", port, "-c", "listen_addresses=127.0.0.1",
            "-c", "unix_socket_directories=", "-c", "max_connections=300",
        ], stop_with=signal.SIGINT, as_user="postgres", says_ready=False)
        ready = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
        _until(processes, "postgres", lambda: subprocess.run(ready, check=False).returncode == 0)

    def rows(self, sql: str) -> list[list[str]]:
        """The rows of an answer, as text."""
        asked = [self._programs / "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--field-separator=\t", "--dbname", self.url,
                 "--set", "ON_ERROR_STOP=1", "--quiet", "--command", sql]
        told = subprocess.run(asked, stdout=subprocess.PIPE, check=True, text=True).stdout
        return [line.split("\t") for line in told.splitlines()]

    def bytes(self) -> int:
        return int(self.rows("SELECT pg_database_size(current_database())")[0][0])


def redis_program() -> str:
    """The redis-server that `caudal up` would run too."""
    root = pathlib.Path(__file__).resolve().parents[2]
    found = os.environ.get("CAUDAL_REDIS_SERVER") or shutil.which("redis-server") \
        or shutil.which("redis-server", path=root / ".caudal/tools/bin")
    if not found:
        raise RuntimeError("redis-server is missing: make setup")
    return found


class Redis:
    """A new Redis. With `durable` it keeps a log that it syncs each second."""

    def __init__(self, processes: Processes, durable: bool):
        folder = processes.scratch / "redis"
        folder.mkdir()
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        processes.start("redis", [
            redis_program(), "--port", self.port, "--bind", "127.0.0.1", "--dir", folder, "--save", "", "--loglevel", "warning",
            "--appendonly", "yes" if durable else "no", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction",
        ], says_ready=False)
        _until(processes, "redis", self._answers)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


class Store:
    """The embedded object store, in a process of its own: a `caudal up` of which nothing else is used. It idles beside its store."""

    def __init__(self, processes: Processes, caudal: pathlib.Path):
        folder = processes.scratch / "store"
        command = [caudal, "up", "--data-dir", folder, "--listen", f"127.0.0.1:{free_port()}", "--log", "warn"]
        self.endpoint = processes.start("store", command)["s3"]
        secrets = json.loads((folder / "secrets.json").read_text())
        self.access_key, self.secret_key = secrets["s3_access_key"], secrets["s3_secret_key"]
