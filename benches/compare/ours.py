"""Caudal: as one process, as processes around Postgres and a store, and with stages that do nothing."""

import json
import os
import pathlib
import sqlite3
import subprocess

from processes import Client, MemoryWatch, Processes, measured_run
from servers import Postgres, Redis, Store, free_port
from texts import WARM_UP

STAGES = "upload,extract-text,metadata"
UPLOADED, PROCESSED = 3, 6
# Keys of a system that lives for one run.
API_KEY = "caudal_meshmember_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaad2ec2019"
OPERATOR_KEY = "caudal_meshoperator_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb52f62bc8"
MESH_SECRET = "the secret of a mesh that lives for one run"


def _varints(data: bytes):
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value = shift = 0


def _moves(body: bytes):
    """Of the changes of one commit: which file came into which state. They are fields 1 and 3 of `ChangeSet`, packed."""
    fields: dict[int, list[int]] = {}
    at = 0
    def varint() -> int:
        nonlocal at
        began = at
        while body[at] >= 0x80:
            at += 1
        at += 1
        return next(_varints(body[began:at]))
    while at < len(body):
        key = varint()
        if key & 7 == 0:
            varint()
            continue
        if key & 7 != 2:
            raise RuntimeError("changes are written otherwise than this program knows")
        length = varint()
        if key >> 3 in (1, 3):
            fields[key >> 3] = list(_varints(body[at:at + length]))
        at += length
    return zip(fields.get(1, []), fields.get(3, []), strict=True)


def _latencies(changes, files: int) -> list[float]:
    """Seconds from the commit that took a file's confirmation to the one that made it PROCESSED, in order of size."""
    confirmed, processed = {}, {}
    for micros, body in changes:
        for ordinal, state in _moves(body):
            if state == UPLOADED:
                confirmed[ordinal] = micros
            elif state == PROCESSED:
                processed[ordinal] = micros
    if len(processed) != files or processed.keys() != confirmed.keys():
        raise RuntimeError(f"{len(confirmed)} files were confirmed and {len(processed)} processed, of {files}")
    return sorted((processed[ordinal] - confirmed[ordinal]) / 1e6 for ordinal in processed)


def ingest_command(caudal: pathlib.Path, gateway: str, key: str, folder: pathlib.Path, uploads: int) -> list:
    return [caudal, "ingest", folder, "--gateway", gateway, "--api-key", key, "--stages", STAGES, "--parallel", uploads,
            "--output", "json"]


def _told(answer: dict, files: int) -> None:
    if answer["files"]["PROCESSED"] != files or answer["outcomes"]["COMPLETE"] != files:
        raise RuntimeError(f"not every file was done: {answer}")


def _verify(caudal: pathlib.Path, *options) -> None:
    checked = subprocess.run([caudal, "verify", *map(str, options)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if checked.returncode != 0:
        raise RuntimeError(f"caudal verify: {checked.stdout.decode()}")


def environment() -> dict:
    """Without settings of this shell's own system."""
    return {name: value for name, value in os.environ.items() if not name.startswith("CAUDAL_")}


def started_up(processes: Processes, caudal: pathlib.Path, data: pathlib.Path, *options: str) -> dict:
    """Starts `caudal up` on a free port: what it says when it is ready."""
    up = [caudal, "up", "--data-dir", data, "--listen", f"127.0.0.1:{free_port()}", "--log", "warn", *options]
    return processes.start("caudal", up, env=environment())


class OneProcess:
    """`caudal up` with SQLite, its own store and its own Redis."""

    name = "ours, one process"

    def __init__(self, caudal: pathlib.Path, uploads: int):
        self._caudal, self._uploads = caudal, uploads

    def run(self, scratch: pathlib.Path, warm_up: pathlib.Path, texts: pathlib.Path, files: int) -> dict:
        data = scratch / "data"
        with Processes(scratch) as processes:
            ready = started_up(processes, self._caudal, data)
            def ingest(folder: pathlib.Path) -> list:
                return ingest_command(self._caudal, ready["gateway"], ready["api_key"], folder, self._uploads)
            measured_run(processes, ingest(warm_up), environment())
            answer, used = measured_run(processes, ingest(texts), environment())
        _told(answer, files)
        _verify(self._caudal, "--data-dir", data)
        database = data / "ledger.sqlite"
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            batch = bytes.fromhex(answer["batch_id"].replace("-", ""))
            changes = connection.execute("SELECT at, body FROM changes WHERE batch_id = ?", [batch]).fetchall()
        return {"files": files, "seconds": answer["seconds"], **used, "latencies": _latencies(changes, files),
                # The files of the warm-up stand in it too.
                "database_bytes": database.stat().st_size * files // (files + WARM_UP)}


class Mesh:
    """Each service a process (`caudal serve`), around Postgres, a Redis and a store in a process of its own."""

    name = "ours, processes"
    _services = ("ledger", "gateway", "upload", "extract-text", "metadata")

    def __init__(self, caudal: pathlib.Path, uploads: int):
        self._caudal, self._uploads = caudal, uploads

    def run(self, scratch: pathlib.Path, warm_up: pathlib.Path, texts: pathlib.Path, files: int) -> dict:
        with Processes(scratch) as processes:
            postgres, redis, store = Postgres(processes), Redis(processes, durable=False), Store(processes, self._caudal)
            # The limiter last: a new one grants what is in use already, and no more until it may know of all.
            listen = {name: f"127.0.0.1:{free_port()}" for name in (*self._services, "limiter")}
            settings = scratch / "caudal.toml"
            settings.write_text("\n".join(f"{name} = {json.dumps(value)}" for name, value in {
                "ledger": f"http://{listen['ledger']}", "limiter": f"http://{listen['limiter']}", "redis-url": redis.url,
                "s3-endpoint": store.endpoint, "s3-access-key": store.access_key, "s3-secret-key": store.secret_key,
                "mesh-secret": MESH_SECRET, "log": "warn",
            }.items()) + "\n[service.ledger]\n" + "\n".join(f"{name} = {json.dumps(value)}" for name, value in {
                "database-url": postgres.url, "bootstrap-api-key": API_KEY, "bootstrap-operator-key": OPERATOR_KEY,
            }.items()) + "\n")
            for name, address in listen.items():
                serve = [self._caudal, "serve", name, "--config", settings, "--listen", address]
                processes.start(name, serve, env=environment())
            def ingest(folder: pathlib.Path) -> list:
                return ingest_command(self._caudal, f"http://{listen['gateway']}", API_KEY, folder, self._uploads)
            measured_run(processes, ingest(warm_up), environment())
            empty = postgres.bytes()
            answer, used = measured_run(processes, ingest(texts), environment())
            _told(answer, files)
            size = postgres.bytes() - empty
            for name in reversed(listen):
                processes.stop(name)
            _verify(self._caudal, "--database-url", postgres.url, "--redis-url", redis.url, "--s3-endpoint", store.endpoint,
                    "--s3-access-key", store.access_key, "--s3-secret-key", store.secret_key)
            rows = postgres.rows("SELECT at, encode(body, 'hex') FROM changes AS c JOIN batches AS b USING (tenant_id, batch_id) "
                                 f"WHERE b.batch_id = '{answer['batch_id']}'")
            changes = [(int(at), bytes.fromhex(body)) for at, body in rows]
        return {"files": files, "seconds": answer["seconds"], **used, "latencies": _latencies(changes, files), "database_bytes": size}


class NullStages:
    """The mesh on Postgres with four stages that do nothing, which the bench of the ledger has. A lost file ends it with an error."""

    name = "ours, processes"

    def __init__(self, bench_ledger: pathlib.Path, caudal: pathlib.Path):
        self._command = [bench_ledger, "way", "--database", "postgres", "--runs", "1", "--no-raw", "--caudal", caudal]

    def run(self, scratch: pathlib.Path, files: int) -> dict:
        # The bench starts servers and client itself, and tells what each of them used.
        with Processes(scratch) as processes:
            bench = Client(processes, [*self._command, "--files", files], environment())
            with MemoryWatch({"all": bench.pid}) as memory:
                told = bench.answer()
        run = told["postgres"]["way"]["runs"][0]
        parts = {name: micros * files / 1e6 for name, micros in run["cpu_micros_a_file"].items() if name != "all"}
        return {"files": files, "seconds": run["seconds"], "cpu_seconds": parts, "peak_memory_bytes": memory.peak,
                "peak_memory_parts": memory.parts, "latencies": None, "database_bytes": None}
