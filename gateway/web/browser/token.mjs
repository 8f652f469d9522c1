// The page as somebody sees it who was given an upload token: files go into one batch, and nothing else opens.
//   node browser/token.mjs, with the environment of chromium.mjs.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BatchState, caudal } from "@caudal/client";
import { apiKey, binary, drop, gateway, inChromium, untilEnded } from "./chromium.mjs";

const FILES = 12;
const own = await mkdtemp(join(tmpdir(), "caudal-token-"));
const folder = join(own, "Brought");
await mkdir(join(folder, "inside"), { recursive: true });
for (let number = 0; number < FILES; number += 1) {
  await writeFile(join(folder, "inside", `file ${number}.bin`), binary(number, 2_000));
}

const callers = caudal({ gateway, apiKey });
const batch = await callers.batches.createBatch({ batch: { displayName: "Asked for" }, requestId: randomUUID() });
const file = { case: "file", value: { size: 3n } };
await callers.batches.addEntries({
  batch: batch.name,
  entries: [{ path: "of another.txt", kind: file }],
  requestId: randomUUID(),
});
const token = await callers.batches.createUploadToken({ batch: batch.name, requestId: randomUUID() });

try {
  // The list of batches is refused, which is how the page learns what it was opened with.
  await inChromium(async (page) => {
    await page.goto(`${gateway}/#token=${token.secret}`);
    await page.locator("[data-bring]").waitFor();
    assert.ok(page.url().endsWith(`#/${batch.name}`), page.url());
    assert.ok(!page.url().includes(token.secret), "the token must leave the address bar");
    assert.equal(await page.getByText("of another.txt").count(), 0, "what another brought is not shown");

    await drop(page, [folder], { x: 600, y: 400 });
    await page.locator('[role=rowheader] [title="inside"]').waitFor();
    await page.locator("[data-that-is-all]:not([disabled])").waitFor();
    const { counts, state } = await callers.batches.getBatch({ name: batch.name });
    assert.equal(counts.total, FILES + 1);
    assert.equal(state, BatchState.OPEN, "the batch stays open until somebody says that it was all");

    await callers.uploads.leaveOutFiles({
      batch: batch.name,
      files: [{ ordinal: 0, cause: "not found" }],
      requestId: randomUUID(),
    });
    await page.locator("[data-that-is-all]").click();
    await page.locator("[data-brought]").waitFor();
    await untilEnded(page);
    // Loaded anew it is the same page, and still opens nothing else.
    await page.reload();
    await page.locator("[data-brought]").waitFor();
    await page.goto(`${gateway}/#/`);
    await page.locator("[data-brought]").waitFor();
  });
} finally {
  await rm(own, { recursive: true, force: true });
}
