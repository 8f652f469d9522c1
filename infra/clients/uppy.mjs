// Uppy as it comes from npm, in a real browser, on a page of another origin than the gateway's.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { inChromium } from "../../gateway/web/browser/chromium.mjs";
import { caudal, UploadCall } from "../../proto/sdk/typescript/dist/index.js";
import { apiKey, batch, bytesOf, endpoint, gateway, headers, MIB, sent } from "./sending.mjs";

/** As Caudal cuts files. */
const PART = 16 * MIB;

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

  // Its S3 plugin asks for a URL for each call that it makes; what it sends is confirmed as any client confirms it.
  const uploads = caudal({ gateway, apiKey }).uploads;
  const small = await added("presigned.bin", bytesOf(2 * MIB));
  assert.deepEqual(await browser.evaluate(sendByUrl, { path: small.path, base64: small.base64, url: small.how.value.url }), []);
  await confirm(small);

  const large = await added("in parts.bin", bytesOf(2 * PART + 5));
  const calls = [];
  await browser.exposeFunction("signed", async ({ method, key, uploadId, partNumber }) => {
    calls.push(partNumber ? `${method} ${partNumber}` : method);
    const [file, number] = key.split("@");
    const call = callOf({ method, uploadId, partNumber });
    const { url } = await uploads.signUploadCall({ name: file, target: Number(number), call, uploadId, partNumber });
    return { url };
  });
  const { path, base64, name, target } = large;
  const request = { path, base64, key: `${name}@${target}`, part: PART };
  const isAborted = browser.waitForResponse((answer) => answer.request().method() === "DELETE");
  await browser.evaluate(sendInParts, { ...request, then: "given up" });
  assert.equal((await isAborted).status(), 204);
  assert.deepEqual((await uploads.listParts({ name })).parts, []);
  assert.deepEqual(calls.splice(0), ["POST", "PUT 1", "DELETE"]);
  assert.deepEqual(await browser.evaluate(sendInParts, { ...request, then: "paused" }), []);
  assert.deepEqual(calls, ["POST", "PUT 1", "GET", "PUT 2", "PUT 3", "POST"]);
  await confirm(large);

  async function added(path, bytes) {
    const entries = [{ path, kind: { case: "file", value: { size: BigInt(bytes.length) } } }];
    const { batches } = caudal({ gateway, apiKey });
    const answer = await batches.addEntries({ batch, entries, requestId: crypto.randomUUID() });
    const ordinals = { ordinals: [answer.ordinals[0] ?? answer.firstOrdinal] };
    const { targets } = await uploads.issueUploads({ batch, files: { case: "ordinals", value: ordinals } });
    const [{ ordinal, target, how }] = targets;
    return { path, base64: bytes.toString("base64"), name: `${batch}/files/${ordinal}`, ordinal, target, how };
  }

  async function confirm({ path, base64, ordinal, target }) {
    const landed = [{ ordinal, target, etag: "" }];
    const { confirmations } = await uploads.confirmUploads({ batch, uploads: landed, requestId: crypto.randomUUID() });
    assert.equal(confirmations[0].result.case, "state");
    sent(path, Buffer.from(base64, "base64"));
  }
});
page.close();

function callOf({ method, uploadId, partNumber }) {
  if (!uploadId) return UploadCall.CREATE;
  if (partNumber) return UploadCall.PART;
  return { GET: UploadCall.LIST, POST: UploadCall.COMPLETE, DELETE: UploadCall.ABORT }[method];
}

/** Something happens to it after its first part. */
async function sendInParts({ path, base64, key, part, then }) {
  const core = new window.Uppy.Uppy();
  core.use(window.Uppy.AwsS3, {
    shouldUseMultipart: true,
    getChunkSize: () => part,
    generateObjectKey: () => key,
    signRequest: window.signed,
  });
  const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  core.addFile({ name: path, type: "application/octet-stream", data: new Blob([bytes]) });
  core.once("s3-multipart:part-uploaded", () => {
    if (then === "given up") return core.cancelAll();
    core.pauseAll();
    core.resumeAll();
  });
  const result = await core.upload();
  return result?.failed.map((file) => `${file.name}: ${file.error}`);
}

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
