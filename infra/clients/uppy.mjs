// Uppy as it comes from npm, in a real browser, on a page of another origin than the gateway's.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { inChromium } from "../../gateway/web/browser/chromium.mjs";
import { caudal } from "../../proto/sdk/typescript/dist/index.js";
import { apiKey, batch, bytesOf, endpoint, gateway, headers, MIB, sent } from "./sending.mjs";

const uppy = fileURLToPath(new URL("node_modules/uppy/dist/uppy.min.js", import.meta.url));
const files = new Map([
  ["small.bin", bytesOf(20_000)],
  ["in/large.bin", bytesOf(11 * MIB + 5)],
  ["in/ñ & co.bin", bytesOf(3 * MIB)],
]);

const page = createServer((_request, response) => {
  response.setHeader("content-type", "text/html").end("<!doctype html><title>somebody's page</title>");
});
await new Promise((resolve) => page.listen(0, "127.0.0.1", resolve));

await inChromium(async (browser) => {
  await browser.goto(`http://127.0.0.1:${page.address().port}/`);
  await browser.addScriptTag({ path: uppy });
  const given = [...files].map(([path, bytes]) => ({ path, base64: bytes.toString("base64") }));
  const result = await browser.evaluate(sendByTus, { given, batch, endpoint, headers });
  assert.deepEqual(result, { failed: [], successful: files.size });
  for (const [path, bytes] of files) sent(path, bytes);

  // Its S3 plugin asks for a URL for each PUT; what it puts is confirmed as any client confirms it.
  const path = "presigned.bin";
  const bytes = bytesOf(2 * MIB);
  const callers = caudal({ gateway, apiKey });
  const entries = [{ path, kind: { case: "file", value: { size: BigInt(bytes.length) } } }];
  const added = await callers.batches.addEntries({ batch, entries, requestId: crypto.randomUUID() });
  const ordinals = { ordinals: [added.ordinals[0] ?? added.firstOrdinal] };
  const { targets } = await callers.uploads.issueUploads({ batch, files: { case: "ordinals", value: ordinals } });
  const [{ ordinal, target, how }] = targets;
  const request = { url: how.value.url, path, base64: bytes.toString("base64") };
  assert.deepEqual(await browser.evaluate(sendByUrl, request), []);
  const uploads = [{ ordinal, target, etag: "" }];
  await callers.uploads.confirmUploads({ batch, uploads, requestId: crypto.randomUUID() });
  sent(path, bytes);
});
page.close();

async function sendByUrl({ url, path, base64 }) {
  const core = new window.Uppy.Uppy();
  const signRequest = async () => ({ url, key: path });
  core.use(window.Uppy.AwsS3, { shouldUseMultipart: false, signRequest });
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  core.addFile({ name: path, type: "application/octet-stream", data: new Blob([bytes]) });
  const { failed } = await core.upload();
  return failed.map((file) => `${file.name}: ${file.error}`);
}

async function sendByTus({ given, batch, endpoint, headers }) {
  const core = new window.Uppy.Uppy({ meta: { batch } });
  core.use(window.Uppy.Tus, { endpoint, headers, chunkSize: 4 << 20, limit: 3 });
  for (const { path, base64 } of given) {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    core.addFile({ name: path.split("/").at(-1), type: "application/octet-stream", data: new Blob([bytes]), meta: { path } });
  }
  const { failed, successful } = await core.upload();
  return { failed: failed.map((file) => `${file.name}: ${file.error}`), successful: successful.length };
}
