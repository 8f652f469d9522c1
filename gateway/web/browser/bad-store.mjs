// Drops a folder while the store refuses, is slow and cuts requests off, and waits until every file has ended: the page shows
// each, and none has failed.
//   CAUDAL_DROP_FOLDER=… node browser/bad-store.mjs, with the environment of chromium.mjs.
import assert from "node:assert/strict";
import { collectRows, contentsOf, drop, dropCard, inChromium, openStart, untilEnded } from "./chromium.mjs";

const folder = process.env.CAUDAL_DROP_FOLDER;
const expected = await contentsOf(folder);
/** What browsers say of each request that fails. */
const OF_REQUESTS = /Failed to load resource|has been blocked by CORS policy/;

await inChromium(async (page) => {
  await openStart(page);
  await drop(page, [folder], await dropCard(page));
  await page.waitForURL(/#\/batches\/[0-9a-f-]{36}$/);
  await page.locator("[role=treegrid]").waitFor();
  await untilEnded(page);
  const { files } = await collectRows(page);
  assert.deepEqual([...files.keys()].sort(), expected.files.sort());
  for (const [path, state] of files) assert.match(state, /^(Complete|Partly|Kept)$/, path);
  console.log(`${files.size} files ended`);
}, OF_REQUESTS);
