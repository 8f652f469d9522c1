"""The peer: BullMQ flows on Redis, rows in Postgres, objects through the AWS SDK. Its program is benches/peers/bullmq."""

import dataclasses
import os
import pathlib
import shutil
import subprocess

import texts as small
from processes import Processes, measured_run
from servers import BUCKET, Postgres, Redis, Store

# Whom ratios are told to; and the same with less to do.
PEER, ONE_JOB = "BullMQ", "BullMQ, one job a file"
PROGRAM = pathlib.Path(__file__).resolve().parents[1] / "peers/bullmq"


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What is tried out before the peer is measured."""

    workers: int
    concurrency: int

    def __str__(self) -> str:
        return f"{self.workers} worker processes, {self.concurrency} jobs of each queue at once"


class BullMq:
    """The peer, tuned in one way. With `null` its four stages do nothing, and no byte is sent. With `one_job` a file is one job,
    which goes through all stages, instead of a flow."""

    def __init__(self, caudal: pathlib.Path, tuning: Tuning, uploads: int, *, null: bool, one_job: bool, durable_redis: bool):
        self.name = ONE_JOB if one_job else PEER
        self.tuning = tuning
        self._caudal, self._uploads, self._null, self._durable_redis = caudal, uploads, null, durable_redis
        node = shutil.which("node")
        if node is None:
            raise RuntimeError("node is missing")
        self._node = node

    def _program(self, name: str) -> list:
        return [self._node, PROGRAM / f"{name}.mjs"]

    def run(self, scratch: pathlib.Path, warm_up: pathlib.Path | None, texts: pathlib.Path | None, files: int) -> dict:
        with Processes(scratch) as processes:
            postgres, redis = Postgres(processes), Redis(processes, self._durable_redis)
            postgres.rows((PROGRAM / "schema.sql").read_text())
            env = {
                "PATH": os.environ["PATH"], "NODE_ENV": "production", "NODE_NO_WARNINGS": "1",
                "PEER_WORK": "null" if self._null else "real",
                "PEER_DATABASE_URL": postgres.url, "PEER_REDIS_PORT": str(redis.port),
                "PEER_ONE_JOB": "1" if self.name == ONE_JOB else "0", "PEER_CONCURRENCY": str(self.tuning.concurrency),
            }
            if not self._null:
                store = Store(processes, self._caudal)
                env |= {"PEER_S3_ENDPOINT": store.endpoint, "PEER_S3_BUCKET": BUCKET, "PEER_S3_ACCESS_KEY": store.access_key,
                        "PEER_S3_SECRET_KEY": store.secret_key}
            port = processes.start("api", self._program("api"), env=env)["port"]
            for number in range(self.tuning.workers):
                processes.start(f"worker {number}", self._program("worker"), env=env)
            client = [*self._program("client"), f"http://127.0.0.1:{port}"]
            def ingest(folder: pathlib.Path | None, files: int) -> list:
                return [*client, "--null", files] if self._null else [*client, folder, self._uploads]
            measured_run(processes, ingest(warm_up, small.WARM_UP), env)
            empty = postgres.bytes()
            answer, used = measured_run(processes, ingest(texts, files), env)
            size = postgres.bytes() - empty
            self._check(postgres, answer["batch"], files, texts)
            if not self._null:
                self._check_objects(env, answer["batch"], 2 * files)
            of_batch = f"FROM files WHERE batch_id = '{answer['batch']}'"
            rows = postgres.rows(f"SELECT extract(epoch FROM processed_at - confirmed_at) {of_batch}")
        return {"files": files, "seconds": answer["seconds"], **used, "latencies": sorted(float(row[0]) for row in rows),
                "database_bytes": size, "tuning": dataclasses.asdict(self.tuning)}

    def _check(self, postgres: Postgres, batch: str, files: int, texts: pathlib.Path | None) -> None:
        """Every file has gone through every stage, and what was read of all of them is what stands in them."""
        of_batch = f"FROM files WHERE batch_id = '{batch}'"
        done = postgres.rows(f"SELECT count(*), count(*) FILTER (WHERE state = 'PROCESSED') {of_batch}")
        if done != [[str(files)] * 2]:
            raise RuntimeError(f"not every file was done: {done}")
        stages = 4 if self._null else 3
        results = postgres.rows(f"SELECT stage, count(*) FROM results WHERE file_id IN (SELECT id {of_batch}) GROUP BY stage")
        if len(results) != stages or any(count != str(files) for _, count in results):
            raise RuntimeError(f"not every stage has recorded every file: {results}")
        if self._null:
            return
        read = postgres.rows("SELECT sum((facts ->> 'words')::bigint), count(*) FILTER (WHERE facts ->> 'outcome' = 'COMPLETE') "
                             f"FROM results WHERE file_id IN (SELECT id {of_batch})")
        if read != [[str(small.words(texts)), str(files)]]:
            raise RuntimeError(f"what was read is not what was sent: {read}")

    def _check_objects(self, env: dict, batch: str, wanted: int) -> None:
        """The bytes of each file and its text are in the store."""
        counted = subprocess.run([*map(str, self._program("count-objects")), f"{batch}/"], env=env, stdout=subprocess.PIPE, check=True)
        if int(counted.stdout) != wanted:
            raise RuntimeError(f"{int(counted.stdout)} objects of {wanted} are in the store")
