// What the scripts of this folder share. They send files into a batch and print of each, when it is sent, a line with its
// path and checksum: whoever runs them compares.
//   CAUDAL_GATEWAY=http://127.0.0.1:7410 CAUDAL_API_KEY=caudal_… CAUDAL_BATCH=batches/…
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";

export const { CAUDAL_GATEWAY: gateway, CAUDAL_API_KEY: apiKey, CAUDAL_BATCH: batch } = process.env;
assert.ok(gateway && apiKey && batch, "CAUDAL_GATEWAY, CAUDAL_API_KEY and CAUDAL_BATCH are to be set");
export const endpoint = `${gateway}/files`;
export const headers = { Authorization: `Bearer ${apiKey}` };
export const MIB = 1 << 20;

/** Bytes that nobody has. */
export function bytesOf(count) {
  return randomBytes(count);
}

/** Says that a file has been sent. */
export function sent(path, bytes) {
  console.log(JSON.stringify({ path, sha256: createHash("sha256").update(bytes).digest("hex") }));
}
