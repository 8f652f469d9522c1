// A real Chromium on the page, and what the tests do in it.
//   CAUDAL_GATEWAY=http://127.0.0.1:7410 CAUDAL_API_KEY=caudal_…; CAUDAL_CHROMIUM: the browser (/usr/bin/chromium).
import assert from "node:assert/strict";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { chromium } from "playwright-core";

export const gateway = process.env.CAUDAL_GATEWAY ?? "http://127.0.0.1:7410";
export const apiKey = process.env.CAUDAL_API_KEY;
const FINAL_MS = 120_000;
assert.ok(apiKey, "CAUDAL_API_KEY is not set");

/**
 * Runs `test` in a browser of its own. A page that complains, or a test that fails, says what the page showed.
 * `tolerated`: complaints that the test itself provokes.
 */
export async function inChromium(test, tolerated = /^$/) {
  const browser = await chromium.launch({
    executablePath: process.env.CAUDAL_CHROMIUM ?? "/usr/bin/chromium",
    args: [
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--disable-quic",
      "--no-first-run",
      "--disable-background-networking",
      "--disable-component-update",
      "--disable-sync",
    ],
  });
  const complaints = [];
  let page;
  try {
    const context = await browser.newContext({
      viewport: { width: 1320, height: 1160 },
      colorScheme: "light",
      locale: "en-GB",
    });
    page = await context.newPage();
    page.on("pageerror", (error) => complaints.push(`page error: ${error.message}`));
    page.on("console", (message) => {
      if (message.type() === "error" && !tolerated.test(message.text())) complaints.push(`console: ${message.text()}`);
    });
    await test(page, context);
    assert.deepEqual(complaints, [], "the page complained");
  } catch (trouble) {
    console.error(complaints.join("\n"));
    console.error(`the page shows:\n${await page?.locator("body").ariaSnapshot()}`);
    throw trouble;
  } finally {
    await browser.close();
  }
}

/** Opens the start of the page with the key, which must leave the address at once. */
export async function openStart(page) {
  await page.goto(`${gateway}/#key=${apiKey}`);
  await page.locator("[data-drop]").waitFor();
  assert.ok(!page.url().includes(apiKey), "the key must leave the address bar");
  await page.locator(".recent .table, .recent .empty").first().waitFor();
}

/** Drops files and folders of the disk, as a hand does. */
export async function drop(page, paths, at) {
  const session = await page.context().newCDPSession(page);
  const data = { items: [], files: paths, dragOperationsMask: 1 };
  for (const type of ["dragEnter", "dragOver", "drop"]) {
    await session.send("Input.dispatchDragEvent", { type, ...at, data });
  }
  await session.detach();
}

/** Lets so little through that an upload can be broken off in its middle; `false` ends that. */
export async function slowUploads(page, isSlow = true) {
  const session = await page.context().newCDPSession(page);
  const uploadThroughput = isSlow ? 1_000_000 : -1;
  await session.send("Network.emulateNetworkConditions", {
    offline: false,
    latency: 0,
    downloadThroughput: -1,
    uploadThroughput,
  });
}

/** What nobody takes for a text, so that it is kept as it is at once; another for each number. */
export function binary(number, size) {
  const bytes = Buffer.alloc(size, 7);
  bytes.writeUInt32BE(number, 8);
  return bytes;
}

/** The middle of the card that asks for folders. */
export async function dropCard(page) {
  const target = await page.locator("[data-drop]").boundingBox();
  return { x: target.x + target.width / 2, y: target.y + 24 };
}

export async function untilEnded(page) {
  await page.locator("[data-batch-state=SUCCEEDED], [data-batch-state=FAILED]").waitFor({ timeout: FINAL_MS });
  await page.locator("[data-upload=done], [data-upload=short]").waitFor();
}

/** Opens every folder and reads the state of every row, scrolling through the whole list. */
export async function collectRows(page) {
  const found = { files: new Map(), folders: new Set() };
  const grid = page.locator("[role=treegrid]");
  const scrollOn = () =>
    grid.evaluate((box) => {
      const before = box.scrollTop;
      box.scrollBy(0, 300);
      return box.scrollTop === before;
    });
  // Clicked where they are: a hand would scroll to a row first, and those that it scrolls away are not in the page any more.
  const openOne = () =>
    page.evaluate(() => {
      const closed = document.querySelector("[role=row][aria-expanded=false]");
      closed?.click();
      return closed !== null;
    });
  await grid.evaluate((box) => box.scrollTo(0, 0));
  for (;;) {
    if (await openOne()) continue;
    if (await scrollOn()) break;
    await drawn(page);
  }
  await grid.evaluate((box) => box.scrollTo(0, 0));
  for (;;) {
    await drawn(page);
    const rows = await page.$$eval(".rows > [role=row]", (all) =>
      all.map((row) => ({
        path: row.querySelector("[role=rowheader] [title]").title,
        state: row.getAttribute("data-state"),
        isFolder: row.hasAttribute("aria-expanded"),
      })),
    );
    for (const { path, state, isFolder } of rows) {
      if (isFolder) found.folders.add(path);
      else found.files.set(path, state);
    }
    if (await scrollOn()) return found;
  }
}

/** Waits until what has changed is drawn. */
export async function drawn(page) {
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}

/** What the disk holds: the files and the empty folders, as their names are stored. */
export async function contentsOf(root, inside = "") {
  const contents = { files: [], emptyFolders: [] };
  const entries = await readdir(join(root, inside), { withFileTypes: true });
  for (const entry of entries) {
    const path = inside === "" ? entry.name : `${inside}/${entry.name}`;
    if (!entry.isDirectory()) contents.files.push(path.normalize("NFC"));
    else {
      const below = await contentsOf(root, path);
      if (below.files.length + below.emptyFolders.length === 0) contents.emptyFolders.push(path.normalize("NFC"));
      contents.files.push(...below.files);
      contents.emptyFolders.push(...below.emptyFolders);
    }
  }
  return contents;
}
