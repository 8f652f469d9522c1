// tus-js-client in every way that it has of sending. It says `kill` on standard output when it wants the system to be killed
// and started again, and reads a line when that is done.
import assert from "node:assert/strict";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { Readable } from "node:stream";
import { Upload } from "tus-js-client";
import { batch, bytesOf, endpoint, headers, MIB, sent } from "./sending.mjs";

const lines = createInterface({ input: process.stdin });
const restarted = once(lines, "line");

function upload(path, source, options = {}) {
  return new Promise((resolve, reject) => {
    const metadata = { batch, path };
    const begun = new Upload(source, {
      endpoint,
      headers,
      metadata,
      // Longer than the lock of a gateway that was killed.
      retryDelays: [0, 500, 1000, 2000, 3000, 3000, 3000],
      onError: reject,
      onSuccess: () => resolve(begun),
      ...options,
    });
    options.begun?.(begun);
    begun.start();
  });
}

async function sends(path, bytes, options) {
  await upload(path, bytes, options);
  sent(path, bytes);
}

await sends("plain.bin", bytesOf(300_000));
await sends("empty.bin", Buffer.alloc(0));
await sends("with creation.bin", bytesOf(9 * MIB), { uploadDataDuringCreation: true });
await sends("chunks/of a mebibyte.bin", bytesOf(10 * MIB + 1), { chunkSize: MIB });
await sends("chunks/ñ.bin", bytesOf(17 * MIB), { chunkSize: 8 * MIB, uploadDataDuringCreation: true });
await sends("by override.bin", bytesOf(70_000), { overridePatchMethod: true });
await sends("side by side.bin", bytesOf(25 * MIB + 7), { parallelUploads: 3 });

// Its length is told with its end.
const stream = bytesOf(5 * MIB + 3);
await upload("stream.bin", Readable.from(pieces(stream)), { uploadLengthDeferred: true, chunkSize: 2 * MIB });
sent("stream.bin", stream);

// Everything is killed in the middle; it goes on by itself.
const killed = bytesOf(40 * MIB);
let isAsked = false;
await sends("through a kill.bin", killed, {
  chunkSize: 6 * MIB,
  onChunkComplete: (_size, accepted) => {
    if (!isAsked && accepted >= 12 * MIB) {
      isAsked = true;
      console.log("kill");
    }
  },
});
assert.ok(isAsked);
await restarted;

// Stopped by its user, and gone on with by another client that knows the URL.
const stopped = bytesOf(12 * MIB);
const first = await new Promise((resolve, reject) => {
  const begun = new Upload(stopped, {
    endpoint,
    headers,
    metadata: { batch, path: "stopped.bin" },
    chunkSize: MIB,
    onError: reject,
    onChunkComplete: (_size, accepted) => {
      if (accepted >= 3 * MIB) begun.abort().then(() => resolve(begun), reject);
    },
  });
  begun.start();
});
await sends("stopped.bin", stopped, { uploadUrl: first.url });

// Taken back: nothing of it is left.
const taken = new Upload(bytesOf(MIB), { endpoint, headers, metadata: { filename: "taken back.bin" } });
await new Promise((resolve, reject) => {
  taken.options.onError = reject;
  taken.options.onSuccess = resolve;
  taken.start();
});
await taken.abort(true);
const head = await fetch(taken.url, { method: "HEAD", headers: { ...headers, "Tus-Resumable": "1.0.0" } });
assert.equal(head.status, 404);
lines.close();

function* pieces(bytes) {
  for (let at = 0; at < bytes.length; at += 100_000) yield bytes.subarray(at, at + 100_000);
}
