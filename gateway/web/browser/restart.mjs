// The system is killed and started again while the page sends: all of it arrives, and nobody loads the page anew.
//   node browser/restart.mjs, with the environment of chromium.mjs. It says `kill` on standard output when it wants the
//   system to be killed and started again, and reads a line when that is done.
import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline/promises";
import {
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

const FILES = 300;
const FILE_BYTES = 20_000;
const own = await mkdtemp(join(tmpdir(), "caudal-restart-"));
const folder = join(own, "Gauges");
for (let number = 0; number < FILES; number += 1) {
  const inside = join(folder, `river ${number % 7}`);
  await mkdir(inside, { recursive: true });
  await writeFile(join(inside, `gauge ${number}.bin`), binary(number, FILE_BYTES));
}

const lines = createInterface({ input: process.stdin });
try {
  // What is not tolerated: a store that the page's policy does not know.
  await inChromium(async (page) => {
    await openStart(page);
    await slowUploads(page);
    await drop(page, [folder], await dropCard(page));
    await page.waitForURL(/#\/batches\/[0-9a-f-]{36}$/);
    await page.evaluate(() => {
      window.wasNeverLoadedAnew = true;
    });
    for (let taken = 0; taken < FILES / 8; ) {
      const response = await page.waitForEvent("response");
      if (response.request().method() === "PUT" && response.ok()) taken += 1;
    }

    const restarted = new Promise((resolve) => lines.once("line", resolve));
    console.log("kill");
    await page.locator(".title .notice").waitFor();
    await restarted;

    await untilEnded(page);
    assert.ok(await page.evaluate(() => window.wasNeverLoadedAnew), "the page was loaded anew");
    await page.locator("[data-batch-state=SUCCEEDED]").waitFor();
    await page.locator(".title .notice").waitFor({ state: "detached" });
    const { files } = await collectRows(page);
    assert.equal(files.size, FILES);
    for (const [path, state] of files) assert.match(state, /^(Kept|Complete)$/, path);
    assert.equal(await page.locator("[data-card=not-sent]").count(), 0, "nothing was given up");
  }, /ERR_CONNECTION|ERR_EMPTY_RESPONSE|ERR_INCOMPLETE_CHUNKED|ERR_NETWORK|ERR_SOCKET|503/);
  console.log(`${FILES} files were sent across the end of ${gateway}`);
} finally {
  lines.close();
  await rm(own, { recursive: true });
}
