// One worker process: a worker for each stage's queue, or one for the queue of whole files. Says when it is ready, and ends at SIGTERM.
import { UnrecoverableError, Worker } from "bullmq";

import { close, failFile, recordResults } from "./database.mjs";
import { settings } from "./settings.mjs";
import { stage } from "./stages.mjs";

const last = settings.stages.at(-1);

// One stage of a file. The facts go on to the next stage as flows hand them on: a parent asks for its children's.
async function oneStage(job) {
  const name = job.queueName;
  const before = async () => Object.values(await job.getChildrenValues())[0];
  const result = await stage(name)(job.data, before);
  const state = name === last ? "PROCESSED" : name;
  await recordResults(job.data.file, [{ stage: name, ...result }], state);
  return result.facts;
}

// All of them, recorded together: what one stage did is done again when a later one fails.
async function allStages(job) {
  const results = [];
  for (const name of settings.stages) {
    const before = async () => results.at(-1)?.facts;
    results.push({ stage: name, ...(await stage(name)(job.data, before)) });
  }
  await recordResults(job.data.file, results, "PROCESSED");
}

function worker(name, run) {
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

const workers = settings.oneJob
  ? [worker("file", allStages)]
  : settings.stages.map((name) => worker(name, oneStage));
await Promise.all(workers.map((one) => one.waitUntilReady()));
console.log(JSON.stringify({ ready: true }));
process.once("SIGTERM", async () => {
  await Promise.all(workers.map((one) => one.close()));
  await close();
});
