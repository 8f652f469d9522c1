import {
  BatchState,
  type Caudal,
  Code,
  ConnectError,
  create,
  FileState,
  Outcome,
  PauseSource,
  SnapshotSchema,
} from "@caudal/client";
import { renderToStaticMarkup } from "react-dom/server";
import { describe, expect, test } from "vitest";
import { BAR_ORDER, Bucket, LEGEND } from "../batch/buckets";
import { LiveBatch } from "../batch/live";
import { Batches } from "../batches";
import { failedWords, troubleOf, waitingWords } from "../trouble";
import type { Ingest } from "../upload/ingest";
import { noteOf, type Problem } from "../upload/problems";
import { Say } from "../words";
import { en } from "../words/en";
import { es } from "../words/es";
import { Bring } from "./bring";
import { batchStateOf } from "./counts";
import { endingOf, nameOf, titleOf } from "./ending";
import { LeftOut } from "./left-out";
import { Row } from "./row";
import { Shape, TONE } from "./shape";
import { fileStateOf, folderStateOf } from "./state-words";
import { Summary } from "./summary";
import { Waits } from "./waits";

const { PENDING, PROCESSING, PROCESSED, FAILED } = FileState;
const say = new Say("en", en);

type FileRow = [state: FileState, detail: number];

/** A batch as the watch tells it, without names. */
function batchOf(
  batch: object,
  files: FileRow[],
  folders?: { ordinalDelta: number[]; total: number[]; processed: number[] },
  callers = {} as Caudal,
) {
  const live = new LiveBatch(callers, "batches/x");
  const none = folders?.total.map(() => 0) ?? [];
  live.watched.applySnapshot(
    create(SnapshotSchema, {
      revision: 1n,
      batch: { displayName: "photos", state: BatchState.RUNNING, counts: { total: files.length }, ...batch },
      files: { firstOrdinal: 0, state: files.map(([state]) => state), detail: files.map(([, detail]) => detail) },
      ...(folders === undefined ? {} : { folders: { ...folders, failed: none, cancelled: none } }),
      last: true,
    }),
  );
  return live;
}

/** Something moved every second for a while, so that rates are known. */
function withRates(live: LiveBatch): LiveBatch {
  const now = performance.now();
  for (let second = 8; second >= 0; second -= 1) {
    live.fileRate.note(80 - second * 10, now - second * 1_000);
    live.uploadRate.note(8_000_000 - second * 1_000_000, now - second * 1_000);
  }
  return live;
}

const textOf = (live: LiveBatch) => renderToStaticMarkup(<Summary live={live} />).replace(/<[^>]*>/g, "");
const ONE_OF_EACH: FileRow[] = [
  [PROCESSED, Outcome.COMPLETE],
  [PROCESSED, Outcome.PARTIAL],
  [PROCESSED, Outcome.STORED_ONLY],
  [PROCESSING, 2],
  [PENDING, 0],
  [FileState.QUEUED, 2],
  [FileState.UPLOADING, 0],
  [FAILED, 201],
  [FileState.RETRYING, 2],
  [FileState.CANCELLED, 0],
];
/** What is reckoned from a total or from the last seconds. */
const RECKONED = /%|\/s|left\b/;

describe("the legend", () => {
  test("has every state that the bar has, each with a shape of its own, and nothing wrong looks wrong", () => {
    expect([...LEGEND].sort()).toEqual([...BAR_ORDER].sort());
    const shapes = LEGEND.map((bucket) =>
      renderToStaticMarkup(<Shape bucket={bucket} />).replace(/class="shape [a-z]*"/, ""),
    );
    expect(new Set(shapes).size).toBe(LEGEND.length);
    expect(TONE[Bucket.Kept]).not.toBe(TONE[Bucket.Partly]);
  });

  test("adds up to the files of the batch, those that are not listed yet included", () => {
    const live = batchOf({}, ONE_OF_EACH);
    live.ingest = {
      foundFiles: 12,
      isWalked: true,
      notTaken: { files: 0, folders: 0, named: [] },
    } as unknown as Ingest;
    const legend = /<ul class="legend">(.*?)<\/ul>/.exec(renderToStaticMarkup(<Summary live={live} />))?.[1] ?? "";
    const counts = [...legend.matchAll(/<b>(\d+)<\/b>/g)].map(([, count]) => Number(count));
    expect(counts).toHaveLength(LEGEND.length);
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(12);
    expect(textOf(live)).toContain("3 of 12 files processed");
  });
});

describe("a summary", () => {
  const bytes = { declared: 20_000_000n, uploaded: 8_000_000n };

  test("says how fast it is and how long it takes while it runs", () => {
    expect(textOf(withRates(batchOf({ bytes }, ONE_OF_EACH)))).toMatch(/about.*left.*[KM]?B\/s.*files\/s/);
  });

  test("reckons nothing while the batch is paused", () => {
    const pause = { by: PauseSource.BATCH, note: "maintenance" };
    const live = withRates(batchOf({ bytes, pause }, ONE_OF_EACH));
    expect(textOf(live)).not.toMatch(RECKONED);
    expect(titleOf(live, en, say)).toBe("Paused · photos");
  });

  test("reckons nothing while the manifest grows, and says what was found so far", () => {
    const live = withRates(batchOf({ bytes, state: BatchState.OPEN }, ONE_OF_EACH));
    expect(textOf(live)).not.toMatch(RECKONED);
    expect(textOf(live)).toContain("3 processed · 10 found so far");
    expect(titleOf(live, en, say)).toBe("10 found so far · photos");
    expect(renderToStaticMarkup(<Summary live={live} />)).not.toMatch(/width:[1-9]/);
  });

  test("knows the total of an open batch when this page has walked the whole folder", () => {
    const live = batchOf({ state: BatchState.OPEN }, ONE_OF_EACH);
    const notTaken = { files: 0, folders: 0, named: [] };
    live.ingest = { isWalked: false, foundFiles: 10, phase: "scanning", notTaken } as unknown as Ingest;
    expect(textOf(live)).toContain("10 found so far");
    live.ingest = { isWalked: true, foundFiles: 10, phase: "uploading", notTaken } as unknown as Ingest;
    expect(textOf(live)).toContain("3 of 10 files processed");
  });

  test("shows no nought before anything is known", () => {
    expect(textOf(new LiveBatch({} as Caudal, "batches/x"))).toBe(en.batch.loading);
  });

  test("does not call the upload done while it waits to be confirmed", () => {
    const live = batchOf({ bytes: { declared: 10n, uploaded: 0n } }, [[PENDING, 0]]);
    const ours = {
      isWalked: true,
      isConfirming: true,
      foundFiles: 1,
      foundBytes: 10,
      sentBytes: 10,
      phase: "uploading",
    };
    live.ingest = { ...ours, notTaken: { files: 0, folders: 0, named: [] } } as unknown as Ingest;
    expect(textOf(live)).toContain("all sent, 10\u00a0B, being confirmed");
  });

  test("never says complete alone where something was left out", () => {
    const problem = (kind: Problem["kind"]): Problem => ({
      path: "x",
      kind,
      why: "",
      isFolder: false,
      isListed: false,
    });
    const ended = { state: BatchState.SUCCEEDED, counts: { total: 46 } };
    const files = Array.from({ length: 46 }, (): FileRow => [PROCESSED, Outcome.COMPLETE]);
    const whole = batchOf(ended, files);
    expect([batchStateOf(whole.watched.batch, en, say).text, endingOf(whole)]).toEqual(["Complete", "well"]);

    const metadata = noteOf({ files: 3, folders: 1, named: [problem("left-out"), problem("refused")] });
    const short = batchOf({ ...ended, metadata }, files);
    expect(textOf(short)).toContain("46 of 49 files processed · 3 left out, 1 folder left out");
    expect(batchStateOf(short.watched.batch, en, say)).toEqual({
      bucket: Bucket.Partly,
      text: "Complete · 3 left out, 1 folder left out",
    });
    expect(titleOf(short, en, say)).toBe("! photos");
    const byRule = batchOf(
      { ...ended, metadata: noteOf({ files: 1, folders: 0, named: [problem("left-out")] }) },
      files,
    );
    expect(titleOf(byRule, en, say)).toBe("\u2713 photos");
  });
});

describe("a folder whose files wait for their bytes", () => {
  const folderOf = (files: FileRow[], named = files.length) => {
    const folders = { ordinalDelta: [0, 1], total: [files.length, files.length], processed: [0, 0] };
    const live = batchOf({}, files, folders);
    const folder = live.tree.addFolder("a", 1);
    for (let ordinal = 0; ordinal < named; ordinal += 1) {
      live.tree.addFile(ordinal, `a/${ordinal}`, 5);
      live.tally.named(ordinal);
    }
    return folderStateOf(live, folder, en, say);
  };
  const DONE: FileRow = [PROCESSED, Outcome.COMPLETE];
  const WAITS: FileRow = [PENDING, 0];
  const QUEUED: FileRow = [FileState.QUEUED, 2];

  test("does not say that it is processed, whatever has ended in it", () => {
    expect(folderOf([DONE, WAITS]).text).toBe("Waiting to be sent");
    expect(folderOf([WAITS, WAITS]).text).toBe("Waiting to be sent");
    expect(folderOf([DONE, WAITS, [FileState.UPLOADING, 0]]).text).toBe("Uploading");
    // Nor while its names are coming.
    expect(folderOf([WAITS, WAITS], 1).text).toBe("Waiting to be sent");
  });

  test("says so as soon as one of them is under way", () => {
    expect(folderOf([DONE, WAITS, QUEUED]).text).toBe("Processing");
    expect(folderOf([WAITS, [PROCESSING, 2]]).text).toBe("Processing");
    expect(folderOf([QUEUED, QUEUED]).text).toBe("Waiting its turn");
  });
});

test("has the name that it was made with at once, and is called untitled only when it is known to be", () => {
  const live = new LiveBatch({} as Caudal, "batches/x");
  expect(nameOf(live, en)).toBe(en.batch.loading);
  expect(titleOf(live, en, say)).toBe(en.batch.loading);
  live.givenName = "photos";
  expect(titleOf(live, en, say)).toBe("photos");
  expect(nameOf(batchOf({ displayName: "" }, []), en)).toBe(en.batch.untitled);
});

test("the card of one file speaks of one file", () => {
  for (const words of [en, es]) expect(words.batch.notSentLead(1)).not.toBe(words.batch.notSentLead(2));
  expect(en.batch.notSentLead(1)).toMatch(/^It is .* its bytes/);
});

describe("a folder whose names are still coming", () => {
  const FOUR: FileRow[] = [
    [PROCESSED, Outcome.COMPLETE],
    [PROCESSED, Outcome.COMPLETE],
    [PROCESSED, Outcome.PARTIAL],
    [PROCESSED, Outcome.STORED_ONLY],
  ];
  const counters = { ordinalDelta: [0, 1], total: [4, 4], processed: [4, 4] };

  test("is not green before it is known to be, and its size is not said", () => {
    const live = batchOf({}, FOUR, counters);
    const folder = live.tree.addFolder("a", 1);
    live.tree.addFile(0, "a/one.txt", 500);
    live.tally.named(0);
    const shown = folderStateOf(live, folder, en, say);
    expect([shown.text, shown.total, shown.of(Bucket.Complete), TONE[shown.bucket]]).toEqual([
      "Processed",
      4,
      0,
      "wait",
    ]);
    expect(rowOf(live, folder)).toContain(">…<");
    for (const [ordinal, name] of ["two.txt", "three.txt", "four.bin"].entries()) {
      live.tree.addFile(ordinal + 1, `a/${name}`, 500);
      live.tally.named(ordinal + 1);
    }
    expect(folderStateOf(live, folder, en, say).text).toBe("Complete · 1 partly");
    expect(rowOf(live, folder)).toContain("2.0\u00a0KB");
  });

  test("is not green either while the gateway's number of it is not known", () => {
    const live = batchOf({}, FOUR);
    const folder = live.tree.addFolder("a");
    live.tree.addFile(0, "a/one.txt", 500);
    live.tally.named(0);
    expect(folderStateOf(live, folder, en, say).text).toBe("Processed");
  });

  test("is green at once where all of the batch are complete", () => {
    const live = batchOf({}, FOUR.slice(0, 2), { ordinalDelta: [0, 1], total: [2, 2], processed: [2, 2] });
    const folder = live.tree.addFolder("a", 1);
    expect(folderStateOf(live, folder, en, say)).toMatchObject({ bucket: Bucket.Complete, total: 2 });
  });

  function rowOf(live: LiveBatch, folder: number): string {
    const place = { top: 0, rowIndex: 2, level: 1, place: 1, siblings: 1, isExpanded: true };
    const flags = { isChosen: false, isActive: false, showsPath: false, onOpen: () => undefined };
    return renderToStaticMarkup(<Row id="r" live={live} row={-(folder + 1)} {...place} {...flags} />);
  }
});

test("says of a folder that nobody could look into that what is in it is not counted", () => {
  const problem = (kind: Problem["kind"], isFolder: boolean): Problem => ({
    path: "x",
    kind,
    why: "",
    isFolder,
    isListed: false,
  });
  const card = (one: Problem) =>
    renderToStaticMarkup(<LeftOut id="left-out" title="1 folder left out" named={[one]} count={1} />);
  expect(card(problem("unreadable", true))).toContain(en.batch.notCounted);
  expect(card(problem("not-utf8", true))).toContain(en.batch.notCounted);
  expect(card(problem("refused", true))).not.toContain(en.batch.notCounted);
  expect(card(problem("not-utf8", false))).not.toContain(en.batch.notCounted);
});

test("a file whose bytes are all sent waits to be confirmed, and says so instead of 100 %", () => {
  const live = batchOf({}, [[PENDING, 0]]);
  live.tree.addFile(0, "a.txt", 100);
  (live as unknown as { sending: Map<number, number> }).sending.set(0, 50);
  expect(fileStateOf(live, 0, en, say).text).toBe("Uploading · 50%");
  (live as unknown as { sending: Map<number, number> }).sending.set(0, 100);
  expect(fileStateOf(live, 0, en, say).text).toBe("Sent, being confirmed");
});

test("says what part of the system is waited for while a batch runs, and no more once it goes on", async () => {
  const wait = { stage: "embeddings", for: "provider", reason: "PROVIDER_UNAUTHORIZED", words: "the key is refused" };
  const answers = [{ waits: [wait] }, { waits: [] }];
  const getBatch = async () => answers.shift();
  const live = batchOf({}, [[PROCESSING, 3]], undefined, { batches: { getBatch } } as unknown as Caudal);
  live.line = "live";
  const text = () => renderToStaticMarkup(<Waits live={live} />);
  expect(text()).toBe("");
  await live.learnWaits();
  expect(text()).toContain("embeddings: the key is refused");
  await live.learnWaits();
  expect(text()).toBe("");
});

test("says whose turn comes first while nothing of a batch is worked on, and how long that takes where it is known", async () => {
  const queue = { stage: "embeddings", batchesOfOthers: 3, ownBatches: 1 };
  const answers = [{ waits: [], queue: { ...queue, about: { seconds: 40n } } }, { waits: [], queue }, { waits: [] }];
  const getBatch = async () => answers.shift();
  const live = batchOf({}, [[PROCESSING, 3]], undefined, { batches: { getBatch } } as unknown as Caudal);
  live.line = "live";
  const text = () => renderToStaticMarkup(<Waits live={live} />);
  await live.learnWaits();
  expect(text()).toContain("embeddings: behind 3 batches of others and 1 batch of your own, about 40 s");
  await live.learnWaits();
  expect(text()).toContain("of your own</p>");
  await live.learnWaits();
  expect(text()).toBe("");
});

test("a pause of the whole tenant is told with the operator's words", async () => {
  let words = "the tenant is paused: unpaid: call us";
  const getBatch = async () => ({ waits: [{ stage: "", for: "tenant", reason: "TENANT_PAUSED", words }] });
  const live = batchOf({}, [[PENDING, 0]], undefined, { batches: { getBatch } } as unknown as Caudal);
  live.line = "live";
  await live.learnWaits();
  const text = () => renderToStaticMarkup(<Waits live={live} />);
  expect(text()).toContain("“unpaid: call us”");
  expect(text()).not.toContain(en.batch.waits);
  words = "the tenant is paused";
  await live.learnWaits();
  expect(text()).toContain("An operator has paused the tenant.");
});

test("what waits because a tenant may have no more at once reads as waiting, and a quota that is full does not", () => {
  const error = new ConnectError("4 expensive reads go on", Code.ResourceExhausted);
  expect(troubleOf(error).kind).toBe("said");
  error.details = [{ type: "google.rpc.RetryInfo", value: new Uint8Array([10, 2, 8, 1]) }];
  const trouble = troubleOf(error);
  expect(trouble.kind).toBe("limited");
  for (const words of [en, es])
    expect(waitingWords(trouble, words)).toMatch(/turn.*4 expensive reads|turno.*4 expensive reads/);
});

describe("a page that was opened with an upload token", () => {
  const refuse = async () => {
    throw new ConnectError("an upload token adds, uploads, confirms", Code.PermissionDenied);
  };
  const beginning = { begin: async () => undefined, isCreating: false, complaint: "" };

  async function opened(state: BatchState) {
    const live = batchOf({ state }, [
      [PROCESSED, Outcome.COMPLETE],
      [FAILED, 201],
    ]);
    const callers = { files: { listFiles: refuse }, batches: { listFolders: refuse } };
    Object.assign(live, { callers });
    await (live as unknown as { loadNames(): Promise<void> }).loadNames();
    return live;
  }

  test("finds out that it may read no names, and asks for none again", async () => {
    const live = await opened(BatchState.OPEN);
    expect([live.mayRead, live.areNamesComing, live.trouble, live.takesMore]).toEqual([false, false, undefined, true]);
    Object.assign(live, { callers: {} });
    live.wantReason(201);
    live.wantWarnings([0]);
    expect(renderToStaticMarkup(<Bring live={live} beginning={beginning} />)).toContain(en.bring.all);
  });

  test("says that a complete batch takes no more", async () => {
    const live = await opened(BatchState.RUNNING);
    expect(live.takesMore).toBe(false);
    expect(renderToStaticMarkup(<Bring live={live} beginning={beginning} />)).toContain(en.bring.closed);
  });
});

test("an upload token is taken to its batch, and a key is not", async () => {
  const answers = [
    async () => ({ name: "batches/x" }),
    async () => {
      throw new ConnectError("names the batch of an upload token", Code.InvalidArgument);
    },
  ];
  const own = answers.map((getBatch) => new Batches({ batches: { getBatch } } as unknown as Caudal).ownBatch());
  expect(await Promise.all(own)).toEqual(["batches/x", undefined]);
});

test("a key that is unknown, a key of no tenant, no answer and an answer that is an error read differently", () => {
  const failed = new TypeError("Failed to fetch");
  const troubles = [
    new ConnectError("the API key is unknown here", Code.Unauthenticated),
    new ConnectError("an operator's key works inside no tenant", Code.PermissionDenied),
    new ConnectError("Failed to fetch", Code.Unknown, undefined, undefined, failed),
    new ConnectError("the disk is full", Code.ResourceExhausted),
  ].map(troubleOf);
  expect(troubles.map(({ kind }) => kind)).toEqual(["key", "key", "silent", "said"]);
  for (const words of [en, es]) {
    const said = troubles.map((trouble) => waitingWords(trouble, words));
    expect(new Set(said).size).toBe(4);
    expect(said[1]).toMatch(/operato|operador/);
    expect(said[2]).not.toContain("Failed to fetch");
    expect(said[3]).toContain("the disk is full");
  }
  expect(failedWords({ kind: "silent" }, en)).not.toMatch(/Trying again/);
});
