import {
  BatchSchema,
  BatchState,
  type Caudal,
  ChangesSchema,
  ClosingReason,
  Code,
  ConnectError,
  create,
  FileState,
  followBatch,
  Outcome,
  SnapshotSchema,
  type WatchBatchResponse,
  WatchBatchResponseSchema,
  WatchedBatch,
} from "@caudal/client";
import { describe, expect, test } from "vitest";
import { Bucket, bucketOf } from "./buckets";
import { folderRow, matchingRows, pathMatcher, treeRows } from "./rows";
import { Tally } from "./tally";
import { BatchTree } from "./tree";

const { PENDING, PROCESSING, PROCESSED, FAILED } = FileState;

type MessageInit = { case: "snapshot" | "changes" | "closing" | "alive"; value: object };

describe("a watched batch", () => {
  const snapshot = (revision: bigint, first: number, state: FileState[], parts: { begins?: boolean; last?: boolean }) =>
    create(SnapshotSchema, {
      revision,
      ...(parts.begins ? { batch: create(BatchSchema, { state: BatchState.RUNNING, displayName: "photos" }) } : {}),
      files: { firstOrdinal: first, state, detail: state.map(() => 1) },
      last: parts.last ?? false,
    });

  test("is known when the last part of a snapshot is in", () => {
    const watched = new WatchedBatch();
    expect(watched.applySnapshot(snapshot(9n, 0, [PENDING, PROCESSED], { begins: true }))).toBe(false);
    expect(watched.revision).toBe(0n);
    expect(watched.applySnapshot(snapshot(9n, 2, [FAILED], { last: true }))).toBe(true);
    expect([watched.revision, watched.fileCount, ...watched.states.subarray(0, 3)]).toEqual([9n, 3, 1, 6, 8]);
  });

  test("moves only the rows that changes name, and keeps what they do not carry", () => {
    const moved: number[][] = [];
    const watched = new WatchedBatch((...row) => moved.push(row));
    watched.applySnapshot(snapshot(3n, 0, [PENDING, PENDING, PENDING, PENDING], { begins: true, last: true }));
    moved.length = 0;
    watched.applyChanges(
      create(ChangesSchema, {
        revision: 5n,
        batch: { state: BatchState.FAILED },
        files: { firstOrdinal: 1, ordinalDelta: [0, 2], state: [FAILED, FileState.UNSPECIFIED], detail: [201, 0] },
        folders: { ordinalDelta: [0, 4], total: [4, 1], processed: [0, 0], failed: [1, 0], cancelled: [0, 0] },
      }),
    );
    expect(moved).toEqual([
      [1, FAILED, 201, PENDING, 1],
      [3, 0, 0, PENDING, 1],
    ]);
    expect(watched.batch.displayName).toBe("photos");
    expect([...watched.folders.subarray(16, 20)]).toEqual([1, 0, 0, 0]);
  });

  test("drops rows that a fresh snapshot no longer holds", () => {
    const watched = new WatchedBatch();
    watched.applySnapshot(snapshot(3n, 0, [PENDING, PENDING, PENDING], { begins: true, last: true }));
    watched.applySnapshot(snapshot(8n, 0, [PROCESSED, PROCESSED], { begins: true, last: true }));
    expect([...watched.states.subarray(0, 3)]).toEqual([PROCESSED, PROCESSED, 0]);
  });

  test("is followed across a break and a goodbye from the revision that is known", async () => {
    const asked: bigint[] = [];
    const streams = [
      [message({ case: "snapshot", value: snapshot(7n, 0, [PENDING], { begins: true, last: true }) })],
      new ConnectError("connection reset", Code.Unavailable),
      [message({ case: "closing", value: { reason: ClosingReason.DRAINING, afterRevision: 7n } })],
      [
        message({
          case: "changes",
          value: { revision: 9n, files: { firstOrdinal: 0, state: [PROCESSED], detail: [1] } },
        }),
      ],
    ];
    const callers = {
      batches: {
        async *watchBatch({ afterRevision }: { afterRevision: bigint }) {
          asked.push(afterRevision);
          const next = streams.shift();
          if (next instanceof Error) throw next;
          yield* next ?? [];
        },
      },
    } as unknown as Caudal;
    const watched = new WatchedBatch();
    const stop = new AbortController();
    const kinds: string[] = [];
    for await (const event of followBatch(callers, "batches/x", watched, stop.signal)) {
      kinds.push(event.kind);
      if (event.kind === "changes") stop.abort();
    }
    expect(kinds).toEqual(["snapshot", "reconnecting", "reconnecting", "reconnecting", "changes"]);
    expect(asked).toEqual([0n, 7n, 7n, 7n]);
    expect(watched.revision).toBe(9n);
  });

  test("is followed on another stream when nothing comes, not even a sign of life", async () => {
    let streams = 0;
    const alive = message({ case: "alive", value: {} });
    const callers = {
      batches: {
        async *watchBatch(_: unknown, { signal }: { signal: AbortSignal }) {
          streams += 1;
          // Signs of life keep a stream of which nothing else is told.
          for (let sign = 0; sign < 4; sign += 1) {
            await new Promise((resolve) => setTimeout(resolve, 60));
            signal.throwIfAborted();
            yield alive;
          }
          await new Promise((_, reject) => signal.addEventListener("abort", () => reject(signal.reason)));
        },
      },
    } as unknown as Caudal;
    const stop = new AbortController();
    const options = { silentForMs: 150 };
    for await (const event of followBatch(callers, "b", new WatchedBatch(), stop.signal, undefined, options)) {
      expect(event).toMatchObject({
        kind: "reconnecting",
        trouble: expect.stringContaining("nothing came for 0.15 s"),
      });
      stop.abort();
    }
    expect(streams).toBe(1);
  });

  test("is left for good when the batch is gone", async () => {
    const callers = {
      batches: {
        // biome-ignore lint/correctness/useYield: it fails before the first message
        async *watchBatch() {
          throw new ConnectError("no such batch", Code.NotFound);
        },
      },
    } as unknown as Caudal;
    const following = followBatch(callers, "batches/x", new WatchedBatch(), new AbortController().signal);
    await expect(following.next()).rejects.toThrow("no such batch");
  });

  function message(value: WatchBatchResponse["message"] | MessageInit) {
    return create(WatchBatchResponseSchema, { message: value as WatchBatchResponse["message"] });
  }
});

test("a tally moves counts with the files, also of files whose names come later", () => {
  const tree = new BatchTree();
  const tally = new Tally(tree);
  tally.move(0, Bucket.Waiting);
  tally.move(1, Bucket.Waiting);
  tree.addFile(0, "a/b/x.txt", 10);
  tally.named(0);
  tally.move(0, Bucket.Processing);
  tally.move(0, Bucket.Complete);
  tree.addFile(1, "a/y.txt", 5);
  tally.named(1);
  tally.named(1);
  const [a = 0] = tree.childrenOf(0).folders;
  const [b = 0] = tree.childrenOf(a).folders;
  expect([tally.totalOf(0), tally.totalOf(a), tally.totalOf(b)]).toEqual([2, 2, 1]);
  expect([tally.of(a, Bucket.Complete), tally.of(a, Bucket.Waiting), tally.of(b, Bucket.Complete)]).toEqual([1, 1, 1]);
  expect([tally.totals[Bucket.Complete], tally.totals[Bucket.Waiting]]).toEqual([1, 1]);
  expect(tree.folderBytes[a]).toBe(15);
});

test("rows come folders first, sorted as people count, with level and place", () => {
  const tree = new BatchTree();
  for (const [ordinal, path] of ["f10.txt", "f2.txt", "sub/x.txt", "Äpfel/y.txt"].entries())
    tree.addFile(ordinal, path, 1);
  tree.addFolder("empty", 7);
  const apples = tree.addFolder("Äpfel");
  const sub = tree.addFolder("sub");
  const rows = treeRows(tree, (folder) => folder === sub);
  expect(rows.rows).toEqual([folderRow(apples), folderRow(tree.addFolder("empty")), folderRow(sub), 2, 1, 0]);
  expect(rows.levels).toEqual([1, 1, 1, 2, 1, 1]);
  expect(rows.places).toEqual([1, 2, 3, 1, 4, 5]);
  expect(rows.siblings).toEqual([5, 5, 5, 1, 5, 5]);
  expect(matchingRows(tree, (ordinal) => ordinal % 2 === 1).rows).toEqual([3, 1]);
});

test("a path filter knows parts, stars and double stars", () => {
  const matches = (pattern: string, path: string) => pathMatcher(pattern)(path);
  expect(matches("prices", "2024/Suppliers/Prices.csv")).toBe(true);
  expect(matches("2024/**/*.pdf", "2024/a/b/c.PDF")).toBe(true);
  expect(matches("2024/**/*.pdf", "2024/c.pdf")).toBe(true);
  expect(matches("2024/*.pdf", "2024/a/c.pdf")).toBe(false);
  expect(matches("*.pdf", "2024/a/c.pdf")).toBe(true);
  expect(matches("*.pdf", "2024/a/cXpdf")).toBe(false);
});

test("every state has its bucket, and a pending file that is being sent counts as uploading", () => {
  expect(bucketOf(PENDING, 0, false)).toBe(Bucket.ToBeSent);
  expect(bucketOf(FileState.QUEUED, 1, false)).toBe(Bucket.Waiting);
  expect(bucketOf(PENDING, 0, true)).toBe(Bucket.Uploading);
  expect(bucketOf(PROCESSING, 2, true)).toBe(Bucket.Processing);
  expect(bucketOf(PROCESSED, Outcome.COMPLETE, false)).toBe(Bucket.Complete);
  expect(bucketOf(PROCESSED, Outcome.STORED_ONLY, false)).toBe(Bucket.Kept);
  expect(bucketOf(0, 0, false)).toBe(Bucket.None);
});
