// Every name that a disk can hold, dropped and picked in a real browser: each is in the batch or named as left out.
//   node browser/names.mjs, with the environment of chromium.mjs.
import assert from "node:assert/strict";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { collectRows, contentsOf, drop, dropCard, gateway, inChromium, openStart, untilEnded } from "./chromium.mjs";

/** Names that browsers or systems hold for unsafe, or that are easily lost on the way. */
const NAMES = [
  ...["plain.txt", "desktop.ini", "Thumbs.db", "~$plan.docx", ".DS_Store", "._photo.jpg", ".hidden", "_.txt"],
  ...["shortcut.lnk", "site.url", "shell.scf", "x.local", "x.manifest", "x.dll", "x.exe", "x.tmp", "x.part"],
  ...["x.crdownload", "x.theme", "$RECYCLE.BIN", "name.{20d04fe0-3aea-1069-a2d8-08002b30309d}", "PROGRA~1", "tilde~"],
  ...["CON", "nul.txt", "com1.log", "AUX.h", "lpt1", "prn"],
  ...[" leading space.txt", "trailing space ", "trailing dot.", "..two dots", "...", "nbsp\u00a0.txt"],
  ...[
    "12:30 notes.txt",
    "what?.txt",
    "star*.txt",
    'quote".txt',
    "less<.txt",
    "more>.txt",
    "pipe|.txt",
    "it's; &co.html",
  ],
  ...["percent%20.txt", "hash#.txt", "line\u2028.txt"],
  ...["soft\u00adhyphen.txt", "\ufeffbom.txt", "rlo\u202etxt.exe", "zero\u200bwidth.txt", "word\u2060joiner.txt"],
  ...["می\u200cخواهم.txt", "क्\u200dष.txt", "👨\u200d👩\u200d👧.png", "🏄\u200d♀️.jpg", "川の流れ.txt", "niño.txt"],
  `long${"x".repeat(247)}.txt`,
];
/** What the system takes under no name, and says so. */
const REFUSED = ["back\\slash.txt", "new\nline.txt", "tab\t.txt", "a:b.txt", "C:", "C:drive.txt"];
const FOLDERS = ["می\u200cخواهم", "👩\u200d🚀", "dir:colon", "folder.", " space", "nul", "x.lnk", "CON dir"];
const LEFT_BEHIND = ["desktop.ini", "Thumbs.db", "~$plan.docx", ".DS_Store", "._photo.jpg"];

const own = await mkdtemp(join(tmpdir(), "caudal-names-"));
const root = join(own, "Every name");
await mkdir(join(root, "empty", "deeper"), { recursive: true });
for (const name of [...NAMES, ...REFUSED]) await writeFile(join(root, name), `the file ${JSON.stringify(name)}\n`);
for (const folder of FOLDERS) {
  await mkdir(join(root, "folders", folder), { recursive: true });
  await writeFile(join(root, "folders", folder, "inside.txt"), "inside\n");
}
// Two files on the disk, one name once they are composed alike.
await mkdir(join(root, "twins"));
for (const form of ["NFC", "NFD"]) await writeFile(join(root, "twins", "señal.txt".normalize(form)), "same size\n");
const disk = await contentsOf(root);
// Names that no browser can say, and a folder whose name the system takes not: what is in it is counted all the same.
const unsaid = join(own, "Unsaid");
await mkdir(join(unsaid, "no\\pe", "deeper"), { recursive: true });
await writeFile(join(unsaid, "said.txt"), "said\n");
for (const path of ["one.txt", "deeper/two.txt"]) await writeFile(join(unsaid, "no\\pe", path), `${path}\n`);
const latin = (name) => Buffer.concat([Buffer.from(`${unsaid}/`), Buffer.from(name, "latin1")]);
await mkdir(latin("se\u00f1as"));
await writeFile(latin("se\u00f1as/inside.txt"), "inside\n");
await writeFile(latin("ni\u00f1o.txt"), "a file\n");
assert.ok(NAMES.length >= 50 && disk.files.length === NAMES.length + REFUSED.length + FOLDERS.length + 2);

try {
  await inChromium(async (page, context) => {
    await openStart(page);
    const rule = page.locator(".check input");
    assert.ok(await rule.isChecked(), "what systems leave behind is left out until it is said otherwise");
    await rule.uncheck();
    await drop(page, [root], await dropCard(page));
    await everyNameIsThere(page, context, { leftOut: REFUSED, emptyFolders: disk.emptyFolders });

    await openStart(page);
    assert.ok(!(await rule.isChecked()), "the choice is kept");
    await page.locator("input[data-pick=folder]").setInputFiles(root);
    await everyNameIsThere(page, context, { leftOut: REFUSED, emptyFolders: [] });

    await openStart(page);
    await rule.check();
    await drop(page, [root], await dropCard(page));
    await everyNameIsThere(page, context, {
      leftOut: [...REFUSED, ...LEFT_BEHIND],
      emptyFolders: disk.emptyFolders,
    });
    await page.goto(`${gateway}/#/`);
    await page.locator(".recent tbody tr").nth(2).waitFor();
    const listed = (await page.locator(".recent tbody tr .state").allTextContents()).slice(0, 3);
    assert.ok(
      listed.every((words) => /\d left out/.test(words)),
      `the list says it too: ${listed}`,
    );

    await openStart(page);
    await drop(page, [unsaid], await dropCard(page));
    await untilEnded(page);
    const words = await page.locator(".headline p").textContent();
    assert.match(words, /1 of 4 files processed · 3 left out, 1 folder left out/);
    const notUtf8 = await page.locator("[data-left-out-kind=not-utf8]").textContent();
    assert.match(notUtf8, /2 · name is not UTF-8/);
    assert.match(notUtf8, /What is in it is not counted/);
    assert.deepEqual([...(await collectRows(page)).files.keys()], ["said.txt"]);
  });
  console.log(`${disk.files.length} files of every name dropped and picked: each is in the batch or named as left out`);
} finally {
  await rm(own, { recursive: true });
}

/** Compares the batch with the disk, in the page that sends it and in one that knows it from the gateway alone. */
async function everyNameIsThere(page, context, { leftOut, emptyFolders }) {
  await page.waitForURL(/#\/batches\/[0-9a-f-]{36}$/);
  await untilEnded(page);
  const twin = "twins/señal.txt";
  const expected = [...leftOut, twin].sort();
  const download = page.waitForEvent("download");
  await page.locator("[data-card=left-out] button").click();
  const csv = await readFile(await (await download).path(), "utf8");
  const named = [...csv.replace("\ufeff", "").matchAll(/^"((?:[^"]|"")*)",/gm)].map(([, path]) => path);
  assert.deepEqual(named.map((path) => path.replaceAll('""', '"')).sort(), expected, "each that is left out is named");

  const taken = disk.files.filter((path) => !leftOut.includes(path));
  taken.splice(taken.indexOf(twin), 1);
  const rows = await collectRows(page);
  assert.deepEqual([...rows.files.keys()].sort(), taken.sort(), "every other file of the disk is in the batch");
  for (const path of emptyFolders) assert.ok(rows.folders.has(path), `the empty folder ${path} was not kept`);

  const words = await page.locator(".headline p").textContent();
  assert.match(words, new RegExp(`of ${disk.files.length} files processed · ${expected.length} left out`));
  assert.match(await page.locator("[data-batch-state]").textContent(), new RegExp(`${expected.length} left out`));

  const other = await context.newPage();
  await openStart(other);
  await other.goto(page.url());
  const rowCount = await page.locator("[role=treegrid]").getAttribute("aria-rowcount");
  await other.locator(`[role=treegrid][aria-rowcount="${rowCount}"]`).waitFor();
  assert.deepEqual(await collectRows(other), rows, "the gateway knows the same names");
  assert.equal(await other.locator(".headline p").textContent(), words, "and says the same of what was left out");
  await other.close();
}
