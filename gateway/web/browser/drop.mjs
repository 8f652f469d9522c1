// Drops a real folder into the page in a real browser, waits until every file has ended, and reads why one failed.
//   node browser/drop.mjs, with the environment of chromium.mjs.
// CAUDAL_SCREENSHOTS: a folder for pictures. CAUDAL_DROP_FOLDER: another folder to drop than the one made here.
import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  apiKey,
  collectRows,
  contentsOf,
  drawn,
  drop,
  dropCard,
  gateway,
  inChromium,
  openStart,
  untilEnded,
} from "./chromium.mjs";

const screenshots = process.env.CAUDAL_SCREENSHOTS;
const own = process.env.CAUDAL_DROP_FOLDER === undefined ? await mkdtemp(join(tmpdir(), "caudal-drop-")) : undefined;
const folder = process.env.CAUDAL_DROP_FOLDER ?? join(own, "Contracts");
if (own !== undefined) await fill(folder);
const expected = await contentsOf(folder);

try {
  await inChromium(dropAndFollow);
} finally {
  if (own !== undefined) await rm(own, { recursive: true });
}

async function dropAndFollow(page, context) {
  await openStart(page);
  await drop(page, [folder], await dropCard(page));
  await page.waitForURL(/#\/batches\/[0-9a-f-]{36}$/);
  await page.locator("[role=treegrid]").waitFor();
  await picture(page, "running");

  await untilEnded(page);
  assert.equal(await page.locator(".left-out li").count(), 0, "everything dropped was taken");
  await page.locator("[data-upload=done]").waitFor();

  const ends = await collectRows(page);
  for (const path of expected.files) {
    assert.ok(ends.files.has(path), `${path} is not in the tree`);
    assert.match(ends.files.get(path), /^(Complete|Partly|Kept|Failed)$/, `${path} did not end`);
  }
  if (own !== undefined) {
    const failed = [...ends.files].filter(([, state]) => state === "Failed").map(([path]) => path);
    assert.deepEqual(failed, ["2024/Suppliers/frame agreement.pdf"], "one file alone is damaged");
  }
  assert.equal(ends.files.size, expected.files.length, "the tree holds what was dropped and nothing else");
  for (const path of expected.emptyFolders) assert.ok(ends.folders.has(path), `the empty folder ${path} was not kept`);

  const group = page.locator("[data-reason=CORRUPT_DOCUMENT]");
  await group.waitFor();
  assert.match(await group.locator("[data-words]").textContent(), /damaged/i);
  assert.match(await group.locator("[data-remedy]").textContent(), /save it again/i);
  await page.locator("[role=treegrid]").evaluate((box) => box.scrollTo(0, 0));
  await settle(page);
  await picture(page, "batch-light");
  await page.emulateMedia({ colorScheme: "dark" });
  await picture(page, "batch-dark");
  await page.emulateMedia({ colorScheme: "light" });

  await group.locator("button.link").first().click();
  const why = page.locator("[data-drawer] [data-fact=why]");
  await why.waitFor();
  assert.match(await why.textContent(), /damaged/i);
  await settle(page);
  await picture(page, "failure");

  // A link to the batch shows the same in another tab, with names from the gateway.
  const other = await context.newPage();
  await other.goto(`${page.url().replace(/#.*/, "")}#key=${apiKey}`);
  await other.locator("[data-drop]").waitFor();
  await other.goto(page.url());
  await other.locator("[data-batch-state=FAILED]").waitFor();
  const rowCount = await page.locator("[role=treegrid]").getAttribute("aria-rowcount");
  await other.locator(`[role=treegrid][aria-rowcount="${rowCount}"]`).waitFor();
  assert.deepEqual(await collectRows(other), ends, "a batch opened by its link looks the same");

  // Keys alone reach a file and open it.
  await other.locator("[role=treegrid]").focus();
  for (const key of ["Home", "ArrowRight", "End", "Enter"]) await other.keyboard.press(key);
  await other.locator("[data-drawer]").waitFor();
  const result = other.locator("[data-drawer] .results button").first();
  await result.waitFor();
  const [fetched] = await Promise.all([
    context.waitForEvent("response", (response) => !response.url().startsWith(gateway) && response.status() === 200),
    result.click(),
  ]);
  assert.match(fetched.url(), /X-Amz-Signature=/, "a result is fetched from the store");
  await other.locator("[data-drawer]").press("Escape");
  await other.locator("[data-drawer]").waitFor({ state: "detached" });
  await other.close();

  await page.goto(`${gateway}/#/`);
  await page.locator(".recent .table tbody tr").first().waitFor();
  await settle(page);
  await picture(page, "start");
  console.log(`${ends.files.size} files reached their end in the page; one says why it failed`);
}

async function settle(page) {
  await page.mouse.move(2, 2);
  await drawn(page);
}

async function picture(page, name) {
  if (screenshots === undefined) return;
  await mkdir(screenshots, { recursive: true });
  // What moves has come to rest by then.
  await page.waitForTimeout(700);
  await page.screenshot({ path: join(screenshots, `${name}.png`) });
}

async function fill(root) {
  const at = async (path, bytes) => {
    await mkdir(join(root, path, ".."), { recursive: true });
    await writeFile(join(root, path), bytes);
  };
  const pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
  await at("read me.txt", "Everything that was agreed stands in the folders of the years.\n");
  await at(
    "2024/Suppliers/frame agreement.pdf",
    "%PDF-1.7\nthis is no document: its cross-reference table is missing\n",
  );
  await at("2024/Suppliers/prices.csv", "item,price\npipe,12\nvalve,40\n");
  await at("2024/Suppliers/terms v2.txt", "Payment within thirty days.\n");
  await at("2024/Suppliers/terms v10.txt", "Payment within twenty days.\n");
  await at("2024/Suppliers/site photo.png", Buffer.from(pixel, "base64"));
  await at("2024/Customers/Niño Sáez.txt".normalize("NFD"), "Entrega en marzo.\n");
  for (let number = 1; number <= 24; number += 1) {
    const month = String((number % 12) + 1).padStart(2, "0");
    await at(`2025/${month}/note ${number}.md`, `# Note ${number}\n\nThe flow was ${number} m3/s.\n`);
  }
  await at("2025/01/firmware.bin", Buffer.alloc(300_000, 7));
  await at("2025/01/nothing at all.txt", "");
  await mkdir(join(root, "2026", "to come"), { recursive: true });
}
