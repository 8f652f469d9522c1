// An upload that broke off is gone on with: after the page was loaded anew, from the same folder, and with what never came.
//   node browser/resume.mjs, with the environment of chromium.mjs; pictures into CAUDAL_SCREENSHOTS.
import assert from "node:assert/strict";
import { createHash, randomUUID } from "node:crypto";
import { cp, mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BatchState, caudal } from "@caudal/client";
import {
  apiKey,
  binary,
  collectRows,
  drop,
  dropCard,
  gateway,
  inChromium,
  openStart,
  slowUploads,
  untilEnded,
} from "./chromium.mjs";

const FILES = 240;
const pictures = process.env.CAUDAL_SCREENSHOTS;
const own = await mkdtemp(join(tmpdir(), "caudal-resume-"));
const folder = join(own, "Gauges");
for (let number = 0; number < FILES; number += 1) {
  const inside = join(folder, `river ${number % 6}`);
  await mkdir(inside, { recursive: true });
  await writeFile(join(inside, `gauge ${number}.bin`), binary(number, 20_000));
}
const NOT_THERE = 40;
/**
 * The same folder of another disk: of those that have not arrived some are not in it, one has grown and one has other bytes;
 * one that has arrived has other bytes as well, and one is new.
 */
const other = join(own, "elsewhere", "Gauges");
async function makeOther(waiting, arrived) {
  await cp(folder, other, { recursive: true });
  const [grown, altered, ...others] = waiting;
  for (const path of [altered, arrived]) await writeFile(join(other, path), binary(FILES + 1, 20_000));
  for (const path of others.slice(0, NOT_THERE)) await rm(join(other, path));
  await writeFile(join(other, grown), Buffer.alloc(20_001, 1));
  await writeFile(join(other, "river 4", "gauge 999.bin"), Buffer.alloc(5, 1));
  return { grown, altered };
}

try {
  await inChromium(async (page) => {
    page.on("dialog", (dialog) => dialog.accept());
    const puts = [];
    page.on("request", (request) => request.method() === "PUT" && puts.push(request.url()));
    let taken = 0;
    page.on("response", (response) => {
      if (response.request().method() === "PUT" && response.ok()) taken += 1;
    });
    await openStart(page);
    await slowUploads(page);
    await drop(page, [folder], await dropCard(page));
    await page.waitForURL(/#\/batches\/[0-9a-f-]{36}$/);
    // All are announced, and some have arrived.
    await page.locator("[role=treegrid]").waitFor();
    await page.locator(".headline", { hasText: `of ${FILES} files` }).waitFor();
    await page.waitForFunction((files) => {
      const counts = document.querySelectorAll(".rows > [aria-level='1'] [role=gridcell]:nth-child(4)");
      return [...counts].reduce((sum, { textContent }) => sum + Number(textContent), 0) === files;
    }, FILES);
    while (taken < FILES / 8) await page.waitForEvent("response");

    await page.reload();
    const interrupted = page.locator("[data-interrupted]");
    await interrupted.waitFor({ timeout: 15_000 });
    const waiting = await countWaiting(interrupted);
    assert.ok(waiting > 0 && waiting < FILES, `some wait: ${waiting}`);
    assert.match(await page.locator("[data-batch-state]").textContent(), /Upload interrupted/);
    if (pictures !== undefined) await page.screenshot({ path: join(pictures, "interrupted.png"), fullPage: true });

    // From elsewhere, chosen: what is there is sent, into the same batch, and the rest is told of.
    // Some landed and could not be confirmed any more: those would be found where they are. Their URLs name their content.
    const begun = puts.join(" ");
    const waits = await pathsThatWait(page, interrupted);
    const sums = await Promise.all(waits.map(async (path) => sha256(await readFile(join(folder, path)))));
    const arrivedNow = await pathsThatArrived(page);
    const unbegun = waits.filter((_, index) => !begun.includes(sums[index]));
    const { grown, altered } = await makeOther(unbegun, arrivedNow[0]);
    puts.length = 0;
    await slowUploads(page, false);
    await page.locator("input[data-pick=again]").first().setInputFiles(other);
    const compared = page.locator("[data-compared]");
    await compared.filter({ hasText: /not in it/ }).waitFor({ timeout: 60_000 });
    const words = await compared.textContent();
    const told = `2 differ from what was announced. 1 had arrived and has changed since. ${NOT_THERE} are not in it`;
    assert.match(words, new RegExp(told), words);
    for (const [kind, path] of [
      ["other-size", grown],
      ["other-content", altered],
    ]) {
      const card = page.locator(`[data-card=not-sent] [data-left-out-kind=${kind}]`);
      assert.ok((await card.textContent()).includes(path), path);
    }
    assert.ok((await page.locator("[data-card=changed-since]").textContent()).includes(arrivedNow[0]), arrivedNow[0]);
    // The counts come by the stream, a moment after the last confirmation was answered.
    const missing = NOT_THERE + 2;
    await interrupted.filter({ hasText: new RegExp(`· ${missing} of [0-9,]+ wait`) }).waitFor({ timeout: 15_000 });
    // One is new, and none is sent that had arrived.
    const [, again, arrived] = /(\d+) found again, (\d+) had arrived/.exec(words);
    assert.ok(Number(arrived) > 0 && Number(again) + Number(arrived) + 1 + missing === FILES, words);
    assert.equal(puts.length, Number(again) + 2, "the one with other bytes was refused by the store");
    if (pictures !== undefined) await page.screenshot({ path: join(pictures, "compared.png"), fullPage: true });

    // The rest never arrives, until the folder itself is dropped on what says so.
    await interrupted.locator("[data-end-without]").click();
    await untilEnded(page);
    const needs = page.locator("[data-reason=NEVER_ARRIVED]");
    await needs.filter({ hasText: String(missing - 1) }).waitFor();
    await page.locator("[data-reason=LEFT_OUT_BY_CLIENT]").waitFor();
    puts.length = 0;
    const middle = await page.locator("[data-needs]").boundingBox();
    await drop(page, [folder], { x: middle.x + 20, y: middle.y + 10 });
    await needs.waitFor({ state: "detached", timeout: 60_000 });
    await page.locator("[data-batch-state=SUCCEEDED]").waitFor({ timeout: 60_000 });
    // What had landed without a confirmation is found where it is.
    assert.ok(puts.length > 0 && puts.length <= missing, `${puts.length} of ${missing} were sent`);
    const rows = await collectRows(page);
    assert.equal(rows.files.size, FILES + 1);
    for (const [path, state] of rows.files) assert.match(state, /^(Kept|Complete)$/, path);
    await changedBeforeAnybodyReadIt(page);
  }, /status of 400/);
  console.log(`${FILES} files arrived by three ways, each sent once`);
} finally {
  await rm(own, { recursive: true });
}

/** A held batch has bytes that nobody has read: what was announced of them tells what has changed since, and nothing is given up. */
async function changedBeforeAnybodyReadIt(page) {
  const { batches, uploads } = caudal({ gateway, apiKey });
  const batch = (await batches.createBatch({ batch: { displayName: "Held" }, requestId: randomUUID() })).name;
  await batches.pauseBatch({ name: batch, note: "held", requestId: randomUUID() });
  const names = ["same.bin", "other.bin", "longer.bin", "waits.bin"];
  const contents = names.map((_, number) => binary(FILES + 10 + number, 3_000));
  const entries = names.map((path, number) => {
    const value = { size: 3_000n, sha256: createHash("sha256").update(contents[number]).digest() };
    return { path, kind: { case: "file", value } };
  });
  await batches.addEntries({ batch, entries, requestId: randomUUID() });
  const arriving = { case: "ordinals", value: { ordinals: [0, 1, 2] } };
  const { targets } = await uploads.issueUploads({ batch, files: arriving });
  for (const { ordinal, how } of targets) {
    const headers = how.value.headers.filter(({ name }) => !/^(host|content-length)$/.test(name));
    const sending = {
      method: "PUT",
      body: contents[ordinal],
      headers: headers.map(({ name, value }) => [name, value]),
    };
    assert.ok((await fetch(how.value.url, sending)).ok);
  }
  const landed = targets.map(({ ordinal, target }) => ({ ordinal, target, etag: "" }));
  await uploads.confirmUploads({ batch, uploads: landed, requestId: randomUUID() });

  const held = join(own, "Held");
  await mkdir(held);
  await writeFile(join(held, "same.bin"), contents[0]);
  await writeFile(join(held, "longer.bin"), binary(FILES + 20, 3_001));
  for (const name of ["other.bin", "waits.bin"]) await writeFile(join(held, name), binary(FILES + 20, 3_000));
  await page.goto(`${gateway}/#/${batch}`);
  await page.locator('[role=rowheader] [title="waits.bin"]').waitFor();
  await drop(page, [held], { x: 600, y: 400 });
  await page.locator("[data-compared]", { hasText: "1 had arrived. 1 differs" }).waitFor();
  const since = await page.locator("[data-card=changed-since]").textContent();
  assert.match(since, /^2 files changed since.*longer\.bin.*other\.bin/);
  assert.match(await page.locator("[data-left-out-kind=other-content]").textContent(), /^1 · .*waits\.bin$/);
  const { state, counts } = await batches.getBatch({ name: batch });
  assert.deepEqual([state, counts.pending, counts.failed], [BatchState.OPEN, 1, 0], "it waits on");
}

function sha256(bytes) {
  return createHash("sha256").update(bytes).digest("hex");
}

/** The files whose bytes have not arrived: those that have are processed meanwhile, or wait for that. */
async function pathsThatWait(page, card) {
  for (;;) {
    const states = [...(await collectRows(page)).files];
    const waiting = states.filter(([, state]) => state === "ToBeSent").map(([path]) => path);
    if (waiting.length === (await countWaiting(card))) return waiting;
  }
}

/** Some whose bytes have arrived and were read. */
async function pathsThatArrived(page) {
  for (;;) {
    const ended = [...(await collectRows(page)).files].filter(([, state]) => /^(Kept|Complete)$/.test(state));
    if (ended.length > 0) return ended.map(([path]) => path);
  }
}

async function countWaiting(card) {
  const words = await card.locator("b").textContent();
  return Number(/· ([\d,]+) of/.exec(words)[1].replace(",", ""));
}
