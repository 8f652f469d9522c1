// A folder that was sent is dropped again, into a batch of its own: nothing of it is sent, and the page says so. Then one
// file has changed, and that alone is sent.
//   node browser/unchanged.mjs, with the environment of chromium.mjs; pictures into CAUDAL_SCREENSHOTS.
import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { binary, collectRows, drop, dropCard, inChromium, openStart, untilEnded } from "./chromium.mjs";

const SMALL = 120;
/** Read in pieces, by our own code. */
const LARGE_BYTES = 9_000_000;
/** Sent in parts. */
const HUGE_BYTES = 20_000_000;
const pictures = process.env.CAUDAL_SCREENSHOTS;
const own = await mkdtemp(join(tmpdir(), "caudal-unchanged-"));
const folder = join(own, "Surveys");
for (let number = 0; number < SMALL; number += 1) {
  const inside = join(folder, `parcel ${number % 5}`);
  await mkdir(inside, { recursive: true });
  await writeFile(join(inside, `plan ${number}.bin`), binary(number, 3_000));
}
await writeFile(join(folder, "large.bin"), binary(1_000, LARGE_BYTES));
await writeFile(join(folder, "huge.bin"), binary(1_001, HUGE_BYTES));
await writeFile(join(folder, "empty.bin"), "");
const FILES = SMALL + 3;

try {
  await inChromium(async (page) => {
    const puts = [];
    page.on("request", (request) => request.method() === "PUT" && puts.push(request.url()));
    const send = async () => {
      puts.length = 0;
      await openStart(page);
      await drop(page, [folder], await dropCard(page));
      await page.waitForURL(/#\/batches\/[0-9a-f-]{36}$/);
      await untilEnded(page);
      await page.locator("[data-batch-state=SUCCEEDED]").waitFor();
      const rows = await collectRows(page);
      assert.equal(rows.files.size, FILES);
      for (const [path, state] of rows.files) assert.match(state, /^Kept$/, path);
      return page.locator("[data-upload=done]").textContent();
    };

    const first = await send();
    // The huge one goes in two parts.
    assert.equal(puts.length, FILES + 1);
    assert.doesNotMatch(first, /unchanged/);

    const again = await send();
    assert.equal(puts.length, 0, "nothing is sent again");
    assert.match(again, new RegExp(`${FILES} unchanged, 0 sent`));
    if (pictures !== undefined) await page.screenshot({ path: join(pictures, "unchanged.png"), fullPage: true });

    await writeFile(join(folder, "parcel 0", "plan 0.bin"), binary(5_000, 3_000));
    const changed = await send();
    assert.equal(puts.length, 1, "one file has changed");
    assert.match(changed, new RegExp(`${FILES - 1} unchanged, 1 sent`));
  });
  console.log(`${FILES} files were sent once, and of the same folder again only what had changed`);
} finally {
  await rm(own, { recursive: true });
}
