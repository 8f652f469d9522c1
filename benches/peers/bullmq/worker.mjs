// One worker process: a worker for each stage's queue. Says when it is ready, and ends at SIGTERM.
import { UnrecoverableError, Worker } from "bullmq";

import { close, failFile, recordResult } from "./database.mjs";
import { settings } from "./settings.mjs";
import { stage } from "./stages.mjs";

const last = settings.stages.at(-1);

function worker(name) {
  const handle = stage(name);
  const state = name === last ? "PROCESSED" : name;
  async function run(job) {
    const { facts, artifact } = await handle(job);
    await recordResult(job.data.file, name, facts, artifact ?? null, state);
    return facts;
  }
  async function tell(job, error) {
    console.error(`${name}, file ${job?.data.file}:`, error);
    const isLast = error instanceof UnrecoverableError || job.attemptsMade >= job.opts.attempts;
    if (isLast) await failFile(job.data.file);
  }
  return new Worker(name, run, {
    connection: { ...settings.redis, maxRetriesPerRequest: null },
    concurrency: settings.concurrency,
  })
    .on("failed", tell)
    .on("error", (error) => console.error(error));
}

const workers = settings.stages.map(worker);
await Promise.all(workers.map((one) => one.waitUntilReady()));
console.log(JSON.stringify({ ready: true }));
process.once("SIGTERM", async () => {
  await Promise.all(workers.map((one) => one.close()));
  await close();
});
