// Follows a batch to its end and prints each step, also across restarts of the gateway.
//   npm run build && CAUDAL_GATEWAY=http://127.0.0.1:7410 CAUDAL_API_KEY=caudal_… node examples/watch.mjs batches/UUID
// Exit status 0 when every file ended well, 1 when one failed.
import { BatchState, caudal, followBatch, hasEnded, WatchedBatch } from "../dist/index.js";

const name = process.argv[2];
const { CAUDAL_GATEWAY: gateway = "http://127.0.0.1:7410", CAUDAL_API_KEY: apiKey } = process.env;
if (!name || !apiKey) {
  console.error("usage: CAUDAL_API_KEY=caudal_… node examples/watch.mjs batches/UUID");
  process.exit(64);
}

const callers = caudal({ gateway, apiKey });
const known = new WatchedBatch();
const stop = new AbortController();
for await (const event of followBatch(callers, name, known, stop.signal)) {
  if (event.kind === "reconnecting") {
    console.error(`connecting again: ${event.trouble}`);
    continue;
  }
  if (event.kind === "part") continue;
  const { processed, failed, total } = known.batch.counts;
  console.log(
    JSON.stringify({
      state: BatchState[known.batch.state],
      revision: String(known.revision),
      processed,
      failed,
      total,
    }),
  );
  if (hasEnded(known.batch)) break;
}
stop.abort();
process.exit(known.batch.state === BatchState.SUCCEEDED ? 0 : 1);
