// What the page says is so, and what was asked for is in sight: on a desk, a laptop and a phone.
//   node browser/truth.mjs, with the environment of chromium.mjs and CAUDAL_OPERATOR_KEY.
import assert from "node:assert/strict";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { apiKey, drop, gateway, inChromium, openStart, untilEnded } from "./chromium.mjs";

const operatorKey = process.env.CAUDAL_OPERATOR_KEY;
assert.ok(operatorKey, "CAUDAL_OPERATOR_KEY is not set");
const LAPTOP = { width: 1366, height: 700 };
const PHONE = { width: 390, height: 800 };
const NARROW = { width: 320, height: 640 };
const FILES = 40;
/** What is reckoned from a total or from the last seconds. */
const RECKONED = /\d\s?%|\/s\b|\bleft\b/;

const own = await mkdtemp(join(tmpdir(), "caudal-truth-"));
const folder = join(own, "Gauges");
for (let number = 1; number <= FILES; number += 1) {
  const inside = join(folder, `a quite long name of a folder ${number % 4}`, "below");
  await mkdir(inside, { recursive: true });
  await writeFile(join(inside, `gauge ${number} of the upper river.txt`), `level ${number}\n`);
}
await writeFile(join(folder, "plan.pdf"), "%PDF-1.7\nno document\n");
await writeFile(join(folder, "firmware.bin"), Buffer.alloc(2_000, 7));

try {
  await inChromium(async (page, context) => {
    await keys(page);
    await silence(page, context);
    await paused(page, context);
    await inSight(page);
    await dropOnABatch(page);
  }, /ERR_INTERNET_DISCONNECTED/);
  console.log("the page said what is so, and showed what was asked for");
} finally {
  await rm(own, { recursive: true });
}

/** A key that nobody knows and a key of an operator are told apart. */
async function keys(page) {
  await page.goto(`${gateway}/`);
  const complaint = page.locator("#key-complaint");
  const middle = apiKey.length >> 1;
  const wrong = apiKey.slice(0, middle) + (apiKey[middle] === "0" ? "1" : "0") + apiKey.slice(middle + 1);
  for (const [key, words] of [
    [wrong, /not accepted/],
    [operatorKey, /operator/],
  ]) {
    await page.locator("input[type=password]").fill(key);
    await page.keyboard.press("Enter");
    await complaint.filter({ hasText: words }).waitFor();
  }
  await noSidewaysScrolling(page);
}

/** A gateway that does not answer is told from one that refuses, and the page recovers by itself. */
async function silence(page, context) {
  await openStart(page);
  await context.setOffline(true);
  const trouble = page.locator("[data-trouble=silent]");
  await trouble.waitFor();
  assert.doesNotMatch(await trouble.textContent(), /fetch/i, "in the words of the page and not of the browser");
  await context.setOffline(false);
  await trouble.waitFor({ state: "detached" });
  await noSidewaysScrolling(page);
}

/** Nothing is reckoned while nothing goes on. Then it ends, which the tab shows, and who is elsewhere is told. */
async function paused(page, context) {
  // Bytes are held back until the batch is paused: whatever the machine's speed, nothing is processed before.
  let letGo = () => undefined;
  const released = new Promise((resolve) => {
    letGo = resolve;
  });
  const isPut = (url) => url.searchParams.has("X-Amz-Signature");
  await page.route(isPut, async (route) => {
    await released;
    await route.continue();
  });
  await context.grantPermissions(["notifications"], { origin: gateway });
  await page.evaluate(() => {
    window.told = [];
    window.Notification = class {
      static permission = "granted";
      constructor(title, { body }) {
        window.told.push(`${title}: ${body}`);
      }
    };
    Object.defineProperty(document, "hidden", { get: () => window.isAway === true });
  });

  // Far from the card: the whole window takes it.
  const size = page.viewportSize();
  await drop(page, [folder], { x: 20, y: size.height - 20 });
  await page.waitForURL(/#\/batches\//);
  const batch = /batches\/[0-9a-f-]{36}/.exec(page.url())[0];
  await page.locator(".rows > [role=row]").first().waitFor();
  await call("PauseBatch", [batch, "the meter is being changed"]);
  await page.locator("[data-pause]", { hasText: "the meter is being changed" }).waitFor();
  letGo();
  await page.locator("[data-upload=done]").waitFor();
  const summary = page.locator(".summary");
  for (let look = 0; look < 8; look += 1) {
    assert.doesNotMatch(await summary.textContent(), RECKONED, "a paused batch has no pace");
    await page.waitForTimeout(150);
  }
  assert.match(await page.title(), /^Paused · Gauges/);
  await noSidewaysScrolling(page);

  await page.evaluate(() => {
    window.isAway = true;
  });
  await call("ResumeBatch", [batch]);
  await untilEnded(page);
  await page.waitForFunction(() => document.title.startsWith("! Gauges"));
  assert.equal(await page.locator("link[rel=icon]").getAttribute("href"), "/caudal-needs-you.svg");
  assert.deepEqual(
    await page.evaluate(() => window.told),
    ["Gauges: 1 file needs you"],
    "who is elsewhere is told once",
  );
  assert.equal(await page.locator("[data-pause]").count(), 0);
  const counts = await page.$$eval(".legend li b", (all) => all.map((count) => Number(count.textContent)));
  assert.equal(
    counts.reduce((sum, count) => sum + count, 0),
    FILES + 2,
    "the legend adds up",
  );
  await page.unroute(isPut);
}

/** A file that is chosen is shown where the person looks, on every window. */
async function inSight(page) {
  for (const size of [LAPTOP, PHONE, NARROW]) {
    await page.setViewportSize(size);
    await page.locator("[role=treegrid]").evaluate((box) => box.scrollTo(0, 0));
    await page.locator(".rows > [data-file]").first().click();
    const drawer = page.locator("[data-drawer]");
    await drawer.locator(".results").waitFor();
    for (const part of [drawer.locator("h2"), drawer.locator(".drawer-head button"), drawer.locator("dd").first()]) {
      const box = await part.boundingBox();
      const isIn = box.x >= 0 && box.y >= 0 && box.x + box.width <= size.width && box.y + box.height <= size.height;
      assert.ok(isIn, `${JSON.stringify(box)} is out of sight at ${size.width}x${size.height}`);
    }
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= window.innerWidth));
    // The focus is still in the list, and the key closes it all the same.
    await page.keyboard.press("Escape");
    await drawer.waitFor({ state: "detached" });
  }
  await page.setViewportSize(LAPTOP);
}

/** Also a batch that is shown takes a drop, and says that it will be another one. */
async function dropOnABatch(page) {
  const before = page.url();
  const session = await page.context().newCDPSession(page);
  const data = { items: [], files: [folder], dragOperationsMask: 1 };
  const at = { x: 300, y: 500 };
  for (const type of ["dragEnter", "dragOver"]) await session.send("Input.dispatchDragEvent", { type, ...at, data });
  await page.locator("[data-over]", { hasText: "new batch" }).waitFor();
  await session.send("Input.dispatchDragEvent", { type: "drop", ...at, data });
  await page.waitForURL((url) => url.href !== before);
  await untilEnded(page);
}

async function noSidewaysScrolling(page) {
  const size = page.viewportSize();
  await page.setViewportSize(NARROW);
  const [needed, there] = await page.evaluate(() => [document.documentElement.scrollWidth, window.innerWidth]);
  assert.ok(needed <= there, `${needed} of ${there} pixels`);
  await page.setViewportSize(size);
}

/** A call whose message has texts alone, and the id of the request as the last of its first three. */
async function call(method, texts) {
  const fields = [...texts, crypto.randomUUID()];
  // ResumeBatch has its request id as field 2, PauseBatch as field 3.
  const message = Buffer.concat(
    fields.map((text, index) => {
      const bytes = Buffer.from(text);
      return Buffer.concat([Buffer.from([((index + 1) << 3) | 2, bytes.length]), bytes]);
    }),
  );
  const head = Buffer.alloc(5);
  head.writeUInt32BE(message.length, 1);
  const answer = await fetch(`${gateway}/caudal.v1.BatchService/${method}`, {
    method: "POST",
    headers: { "content-type": "application/grpc-web+proto", "x-grpc-web": "1", authorization: `Bearer ${apiKey}` },
    body: Buffer.concat([head, message]),
  });
  const status = answer.headers.get("grpc-status") ?? /grpc-status:\s*(\d+)/.exec(await answer.text())?.[1];
  assert.equal(Number(status), 0, `${method}: ${answer.headers.get("grpc-message")}`);
}
