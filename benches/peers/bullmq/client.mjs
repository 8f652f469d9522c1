// The peer's client: node client.mjs API FOLDER UPLOADS, or node client.mjs API --null FILES. Takes the folder in, waits
// until every file is processed, and prints one JSON object. With --null no bytes are sent: a made-up manifest is confirmed.
import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join, relative } from "node:path";

import { Pool } from "undici";

const PAGE = 500;
// Confirmations on their way at once where there is nothing to upload.
const CONFIRMING = 4;
const LOOK_EVERY_MS = 100;
// Looking costs the database time that grows with the batch: at most a twentieth of it goes into looking.
const LOOK_SHARE = 20;
// A batch that does not get on for so long has stopped.
const PATIENCE_MS = 60_000;

const [, , address, ...rest] = process.argv;
const api = new Pool(address, { connections: 16, headersTimeout: 0, bodyTimeout: 0 });

async function call(method, path, body) {
  const answer = await api.request({
    method,
    path,
    headers: body ? { "content-type": "application/json" } : undefined,
    body: body ? JSON.stringify(body) : undefined,
  });
  if (answer.statusCode !== 200) {
    throw new Error(`${method} ${path}: ${answer.statusCode} ${await answer.body.text()}`);
  }
  return answer.body.json();
}

// Runs `act` on all of what `source` gives, so many at once.
async function each(source, atOnce, act) {
  const items = source[Symbol.asyncIterator]?.() ?? source[Symbol.iterator]();
  async function lane() {
    for (let { done, value } = await items.next(); !done; { done, value } = await items.next()) {
      await act(value);
    }
  }
  await Promise.all(Array.from({ length: atOnce }, lane));
}

function* pages(items) {
  for (let from = 0; from < items.length; from += PAGE) yield items.slice(from, from + PAGE);
}

async function until(batch, files) {
  let last = { processed: 0, at: performance.now() };
  for (;;) {
    const asked = performance.now();
    const now = await call("GET", `/batches/${batch}`);
    if (now.processed === files) return now.ended;
    if (now.failed > 0) throw new Error(`${now.failed} files failed`);
    if (now.processed > last.processed) last = { processed: now.processed, at: asked };
    if (asked - last.at > PATIENCE_MS) throw new Error(`the batch stands still: ${JSON.stringify(now)}`);
    const wait = Math.max(LOOK_EVERY_MS, (performance.now() - asked) * LOOK_SHARE);
    await new Promise((resume) => setTimeout(resume, wait));
  }
}

async function sendFolder(batch, folder, uploads) {
  const names = await readdir(folder, { recursive: true, withFileTypes: true });
  const paths = names.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  const stores = new Map();
  function store(origin) {
    if (!stores.has(origin)) stores.set(origin, new Pool(origin, { connections: uploads }));
    return stores.get(origin);
  }

  let confirmed = [];
  const confirming = [];
  function confirm() {
    if (confirmed.length === 0) return;
    confirming.push(call("POST", `/batches/${batch}/confirm`, { ids: confirmed }));
    confirmed = [];
  }

  // The next page is read and announced while the files of the one before are sent.
  async function announce(page) {
    const read = page.map(async (path) => {
      const bytes = await readFile(path);
      const sha256 = createHash("sha256").update(bytes).digest("base64");
      return { bytes, entry: { path: relative(folder, path), size: bytes.length, sha256 } };
    });
    const files = await Promise.all(read);
    const known = new Map(files.map((file) => [file.entry.path, file.bytes]));
    const answer = await call("POST", `/batches/${batch}/files`, { files: files.map((file) => file.entry) });
    return answer.files.map((target) => ({ ...target, bytes: known.get(target.path) }));
  }
  async function* targets() {
    const waiting = [...pages(paths)];
    let next = waiting.length > 0 ? announce(waiting.shift()) : undefined;
    while (next) {
      const page = await next;
      next = waiting.length > 0 ? announce(waiting.shift()) : undefined;
      yield* page;
    }
  }
  await each(targets(), uploads, async ({ id, url, headers, bytes }) => {
    const { origin, pathname, search } = new URL(url);
    const put = await store(origin).request({ method: "PUT", path: pathname + search, headers, body: bytes });
    const words = await put.body.text();
    if (put.statusCode !== 200) throw new Error(`${pathname}: ${put.statusCode} ${words}`);
    confirmed.push(id);
    if (confirmed.length >= 100) confirm();
  });
  confirm();
  await Promise.all(confirming);
  await Promise.all([...stores.values()].map((one) => one.close()));
  return paths.length;
}

async function announceOnly(batch, files) {
  const paths = Array.from({ length: files }, (_, number) => {
    const folder = String(Math.floor((number * 100) / files)).padStart(3, "0");
    return { path: `folder-${folder}/file-${String(number).padStart(7, "0")}.txt`, size: 1000 };
  });
  await each(pages(paths), CONFIRMING, async (page) => {
    const added = await call("POST", `/batches/${batch}/files`, { files: page });
    await call("POST", `/batches/${batch}/confirm`, { ids: added.files.map((file) => file.id) });
  });
  return files;
}

const began = Date.now() / 1000;
const { id: batch } = await call("POST", "/batches");
const isNull = rest[0] === "--null";
const files = isNull
  ? await announceOnly(batch, Number(rest[1]))
  : await sendFolder(batch, rest[0], Number(rest[1]));
const sent = Date.now() / 1000;
const ended = await until(batch, files);
await api.close();
console.log(JSON.stringify({ batch, files, seconds: ended - began, seconds_to_send: sent - began }));
