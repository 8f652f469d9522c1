// The peer's API: takes a manifest, gives presigned URLs, and hands confirmed files to the queues. Says its port.
import { randomUUID } from "node:crypto";

import { FlowProducer } from "bullmq";
import fastify from "fastify";

import { addBatch, addFiles, close, confirmFiles, countFiles } from "./database.mjs";
import { settings } from "./settings.mjs";
import { signPut } from "./store.mjs";

const MANIFEST_BYTES = 16 << 20;
const flows = new FlowProducer({ connection: settings.redis });
const server = fastify({ bodyLimit: MANIFEST_BYTES });

// A parent waits for its children: the last stage is the root, the first one the leaf. The file's number names its jobs, so
// that one that is confirmed twice is not run twice; what is done is not kept, or Redis would hold every job.
function flow(row) {
  const data = {
    file: row.id,
    key: row.object_key,
    size: Number(row.size),
    sha256: row.sha256,
  };
  let node;
  for (const name of settings.oneJob ? ["file"] : settings.stages) {
    node = {
      name,
      queueName: name,
      data,
      opts: {
        jobId: `file-${row.id}`,
        attempts: 5,
        backoff: { type: "exponential", delay: 1000 },
        removeOnComplete: true,
        failParentOnFailure: true,
      },
      children: node === undefined ? undefined : [node],
    };
  }
  return node;
}

server.post("/batches", async () => {
  const id = randomUUID();
  await addBatch(id);
  return { id };
});

server.post("/batches/:batch/files", async ({ params: { batch }, body: { files } }) => {
  const keys = files.map(() => `${batch}/${randomUUID()}`);
  const rows = await addFiles(
    batch,
    files.map((file) => file.path),
    files.map((file) => file.size),
    files.map((file) => file.sha256 ?? null),
    keys,
  );
  const sha256 = new Map(files.map((file) => [file.path, file.sha256]));
  const targets = rows.map(async ({ id, path, object_key }) => {
    const declared = sha256.get(path);
    return { id, path, ...(declared && (await signPut(object_key, declared))) };
  });
  return { files: await Promise.all(targets) };
});

server.post("/batches/:batch/confirm", async ({ params: { batch }, body: { ids } }) => {
  const rows = await confirmFiles(batch, ids);
  await flows.addBulk(rows.map(flow));
  return { confirmed: rows.length };
});

server.get("/batches/:batch", async ({ params: { batch } }) => (await countFiles(batch))[0]);

await flows.waitUntilReady();
await server.listen({ host: "127.0.0.1", port: 0 });
console.log(JSON.stringify({ ready: true, port: server.server.address().port }));
process.once("SIGTERM", async () => {
  await server.close();
  await flows.close();
  await close();
});
