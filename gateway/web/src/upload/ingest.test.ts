import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  AddEntriesResponseSchema,
  type Caudal,
  Code,
  ConfirmUploadsResponseSchema,
  ConnectError,
  create,
  IssueUploadsResponseSchema,
  MissingFiles,
  type UploadTargetSchema,
} from "@caudal/client";
import { describe, expect, test } from "vitest";
import type { Dropped, Found } from "../scan/found";
import { Ingest, type IngestEvents } from "./ingest";
import { noteOf, notTakenIn, type Problem, type ProblemKind } from "./problems";
import type { Put } from "./put";

const BATCH = "batches/0190c0de-0000-7000-8000-000000000001";

/** A gateway that keeps what it was sent. */
class FakeGateway {
  readonly paths: string[] = [];
  readonly pages: { count: number; requestId: string }[] = [];
  readonly issuedPages: number[] = [];
  readonly confirmed: { ordinal: number; etag: string }[] = [];
  metadata: unknown;
  refusesNotes = false;
  completed: { missing?: MissingFiles; expectedEntries?: number } | undefined;
  refuse: (path: string) => string | undefined = () => undefined;
  /** Answers to the next questions for a target, each of one file, in order. */
  insteadOfPut: MessageInitShape<typeof UploadTargetSchema>["how"][] = [];
  /** Thrown by the next calls, in order. */
  trouble: ConnectError[] = [];

  readonly callers = {
    batches: {
      addEntries: async (request: { entries: { path: string; kind: { case: string } }[]; requestId: string }) => {
        this.pages.push({ count: request.entries.length, requestId: request.requestId });
        this.throwTrouble();
        const violations = request.entries.flatMap(({ path }, index) => {
          const why = this.refuse(path);
          return why === undefined ? [] : [{ field: `entries[${index}].path`, description: why }];
        });
        if (violations.length > 0) throw badRequest(violations);
        const firstOrdinal = this.paths.length;
        const files = request.entries.filter(({ kind }) => kind.case === "file");
        this.paths.push(...files.map(({ path }) => path));
        return create(AddEntriesResponseSchema, { firstOrdinal, newCount: files.length });
      },
      updateBatch: async ({ batch, updateMask }: { batch: { metadata: unknown }; updateMask: { paths: string[] } }) => {
        if (this.refusesNotes) throw new ConnectError("too large", Code.InvalidArgument);
        if (updateMask.paths.includes("metadata")) this.metadata = batch.metadata;
      },
      completeBatch: async (request: { missing: MissingFiles; expectedEntries: number }) => {
        this.completed = request;
      },
    },
    uploads: {
      issueUploads: async ({ files }: { files: { value: { ordinals: number[] } } }) => {
        const { ordinals } = files.value;
        this.issuedPages.push(ordinals.length);
        return create(IssueUploadsResponseSchema, {
          targets: ordinals.map((ordinal) => ({
            ordinal,
            target: 1,
            how: this.insteadOfPut.shift() ?? { case: "put" as const, value: { url: `http://store/${ordinal}` } },
          })),
        });
      },
      confirmUploads: async ({ uploads }: { uploads: { ordinal: number; etag: string }[] }) => {
        this.throwTrouble();
        this.confirmed.push(...uploads);
        return create(ConfirmUploadsResponseSchema, {
          confirmations: uploads.map(({ ordinal }) => ({ ordinal, result: { case: "state" as const, value: 3 } })),
        });
      },
    },
  } as unknown as Caudal;

  private throwTrouble(): void {
    const trouble = this.trouble.shift();
    if (trouble !== undefined) throw trouble;
  }
}

const stored: Put = async (_target, file, onProgress) => {
  onProgress(file.size);
  return { status: 200, etag: '"e"', code: "" };
};

function dropped(found: Found[]): Dropped {
  return {
    name: "folder",
    async walk(emit) {
      for (const one of found) await emit(one);
    },
  };
}

function file(path: string, text = "some text"): Found {
  const whole = new File([text], path);
  return { kind: "file", path, size: whole.size, modified: 1_700_000_000_000, open: async () => whole };
}

function problem(path: string, kind: ProblemKind, why = ""): Problem {
  return { path, kind, why, isFolder: false, isListed: false };
}

async function ingest(gateway: FakeGateway, found: Found[], put: Put = stored, events: IngestEvents = {}) {
  const run = new Ingest(gateway.callers, BATCH, dropped(found), events, { put, sleep: async () => undefined });
  await run.ended;
  return run;
}

describe("an ingest", () => {
  test("lists, uploads, confirms and completes what was dropped", async () => {
    const gateway = new FakeGateway();
    const listed: string[] = [];
    const run = await ingest(
      gateway,
      [file("a.txt"), { kind: "empty-folder", path: "empty" }, file("b/c.txt")],
      stored,
      {
        onListed: (files) => listed.push(...files.map(({ ordinal, path }) => `${ordinal} ${path}`)),
      },
    );
    expect(run.phase).toBe("completed");
    expect(listed).toEqual(["0 a.txt", "1 b/c.txt"]);
    expect(gateway.confirmed).toHaveLength(2);
    expect(gateway.confirmed[0]?.etag).toBe('"e"');
    expect(gateway.completed).toMatchObject({ missing: MissingFiles.WAIT, expectedEntries: 2 });
    expect([run.sentBytes, run.foundBytes, run.emptyFolders]).toEqual([18, 18, 1]);
  });

  test("sends pages of at most 1,000 entries and asks for at most 100 targets at a time", async () => {
    const gateway = new FakeGateway();
    const found = Array.from({ length: 2_500 }, (_, index) => file(`f${index}.txt`, "x"));
    await ingest(gateway, found);
    expect(Math.max(...gateway.pages.map(({ count }) => count))).toBeLessThanOrEqual(1_000);
    expect(Math.max(...gateway.issuedPages)).toBeLessThanOrEqual(100);
    expect(new Set(gateway.confirmed.map(({ ordinal }) => ordinal)).size).toBe(2_500);
  });

  test("sends a tree of many deep folders in smaller pages", async () => {
    const gateway = new FakeGateway();
    const down = Array.from({ length: 10 }, () => "down").join("/");
    const found = Array.from({ length: 1_000 }, (_, index) => file(`${index}/${down}/f.txt`, "x"));
    found.push({ kind: "empty-folder", path: "a/b" });
    const run = await ingest(gateway, found);
    expect(run.phase).toBe("completed");
    // Eleven folders each. A page also ends when it has waited long enough.
    const counts = gateway.pages.map(({ count }) => count);
    expect(Math.max(...counts)).toBeLessThanOrEqual(363);
    expect(counts.reduce((sum, count) => sum + count, 0)).toBe(1_001);
    expect(gateway.paths).toHaveLength(1_000);
  });

  test("repeats a call with the same request id when the gateway does not answer", async () => {
    const gateway = new FakeGateway();
    gateway.trouble = [new ConnectError("down", Code.Unavailable), new ConnectError("down", Code.Unavailable)];
    const run = await ingest(gateway, [file("a.txt")]);
    expect(run.phase).toBe("completed");
    expect(gateway.pages).toHaveLength(3);
    expect(new Set(gateway.pages.map(({ requestId }) => requestId)).size).toBe(1);
    expect(run.trouble).toBeUndefined();
  });

  test("leaves out an entry that is refused by name and sends its neighbours under a new request id", async () => {
    const gateway = new FakeGateway();
    gateway.refuse = (path) => (path.includes("bad") ? "is too long" : undefined);
    const run = await ingest(gateway, [file("a.txt"), file("bad.txt"), file("c.txt")]);
    expect(gateway.paths).toEqual(["a.txt", "c.txt"]);
    expect(run.notTaken).toEqual({ files: 1, folders: 0, named: [problem("bad.txt", "refused", "is too long")] });
    expect([run.foundFiles, run.foundBytes, run.sentBytes]).toEqual([2, 18, 18]);
    expect(new Set(gateway.pages.map(({ requestId }) => requestId)).size).toBe(2);
    expect(gateway.completed).toMatchObject({ missing: MissingFiles.WAIT, expectedEntries: 2 });
  });

  test("asks for another target when the store refuses the old one", async () => {
    const gateway = new FakeGateway();
    let puts = 0;
    await ingest(gateway, [file("a.txt")], async (target, blob, onProgress, signal) => {
      puts += 1;
      return puts === 1 ? { status: 403, etag: "", code: "AccessDenied" } : stored(target, blob, onProgress, signal);
    });
    expect(gateway.issuedPages).toEqual([1, 1]);
    expect(gateway.confirmed).toHaveLength(1);
  });

  test("asks again for a target that is not to be had at the moment", async () => {
    const gateway = new FakeGateway();
    const busy = { case: "error" as const, value: { code: Code.Unavailable, message: "not now" } };
    gateway.insteadOfPut = [busy, busy];
    const run = await ingest(gateway, [file("a.txt")]);
    expect(gateway.issuedPages).toEqual([1, 1, 1]);
    expect([run.notSent, run.confirmedFiles, run.sentBytes]).toEqual([[], 1, 9]);
  });

  test("takes a file as sent when the store had it although its answer was lost", async () => {
    const gateway = new FakeGateway();
    const ended: number[] = [];
    const run = await ingest(
      gateway,
      [file("a.txt")],
      async () => {
        gateway.insteadOfPut = [{ case: "held", value: {} }];
        return { status: 0, etag: "", code: "" };
      },
      { onUploadEnded: (ordinal) => ended.push(ordinal) },
    );
    expect([run.notSent, run.confirmedFiles, run.sentBytes, ended]).toEqual([[], 1, 9, [0]]);
    expect(gateway.completed).toMatchObject({ missing: MissingFiles.WAIT, expectedEntries: 1 });
  });

  test("opens a file again that could not be read for a moment, and names one that never can", async () => {
    const gateway = new FakeGateway();
    const shy = (path: string, failures: number): Found => {
      const whole = file(path) as Extract<Found, { kind: "file" }>;
      let opened = 0;
      const open = async () => {
        opened += 1;
        if (opened <= failures) throw new Error("the drive is away");
        return whole.open();
      };
      return { ...whole, open };
    };
    const run = await ingest(gateway, [shy("a.txt", 2), shy("b.txt", 99)]);
    expect(run.notSent).toEqual([{ ...problem("b.txt", "unreadable", "the drive is away"), isListed: true }]);
    expect(gateway.confirmed).toHaveLength(1);
  });

  test("gives up a file that changed, and completes without waiting for it", async () => {
    const gateway = new FakeGateway();
    const changing: Found = { ...file("a.txt"), open: async () => new File(["other size"], "a.txt") } as Found;
    const run = await ingest(gateway, [changing, file("b.txt")]);
    expect(run.notSent).toEqual([{ ...problem("a.txt", "changed"), isListed: true }]);
    expect(gateway.completed).toMatchObject({ missing: MissingFiles.FAIL, expectedEntries: 2 });
    expect(run.sentBytes).toBe(9);
  });

  test("gives a file up after its attempts and takes its bytes off again", async () => {
    const gateway = new FakeGateway();
    const run = await ingest(gateway, [file("a.txt")], async (_target, _blob, onProgress) => {
      onProgress(4);
      return { status: 503, etag: "", code: "SlowDown" };
    });
    const why = "the store answered 503 SlowDown";
    expect(run.notSent).toEqual([{ ...problem("a.txt", "upload-failed", why), isListed: true }]);
    expect(run.sentBytes).toBe(0);
    expect(run.phase).toBe("completed");
  });

  test("stops with words when the gateway refuses for good", async () => {
    const gateway = new FakeGateway();
    gateway.trouble = [new ConnectError("the batch is complete", Code.FailedPrecondition)];
    const run = await ingest(gateway, [file("a.txt"), file("b.txt")]);
    expect([run.phase, run.trouble]).toEqual(["stopped", { kind: "said", words: "the batch is complete" }]);
    expect(gateway.completed).toBeUndefined();
  });

  test("names what could not be read and goes on, and notes it on the batch", async () => {
    const gateway = new FakeGateway();
    const locked: Found = { kind: "unreadable", path: "locked", isFolder: true, why: "no permission" };
    const run = await ingest(gateway, [locked, { kind: "left-out", path: "Thumbs.db" }, file("a.txt")]);
    const named = [
      { ...problem("locked", "unreadable", "no permission"), isFolder: true },
      problem("Thumbs.db", "left-out"),
    ];
    expect(run.notTaken).toEqual({ files: 1, folders: 1, named });
    expect(gateway.completed).toMatchObject({ missing: MissingFiles.WAIT, expectedEntries: 1 });
    expect(notTakenIn(gateway.metadata)).toEqual(run.notTaken);
  });

  test("completes although the note is refused", async () => {
    const gateway = new FakeGateway();
    gateway.refusesNotes = true;
    const run = await ingest(gateway, [{ kind: "left-out", path: "Thumbs.db" }, file("a.txt")]);
    expect([run.phase, run.trouble, run.notTaken.files]).toEqual(["completed", undefined, 1]);
  });

  test("never merges two files whose names become one", async () => {
    const gateway = new FakeGateway();
    const run = await ingest(gateway, [file("ni\u00f1o.txt"), file("ni\u00f1o.txt"), file("b.txt")]);
    expect(gateway.paths).toEqual(["ni\u00f1o.txt", "b.txt"]);
    expect(run.notTaken.named).toEqual([problem("ni\u00f1o.txt", "same-name")]);
    expect(gateway.completed).toMatchObject({ expectedEntries: 2 });
  });

  test("tells a file that may not be read from one that changed", async () => {
    const silent: Put = async () => ({ status: 0, etag: "", code: "" });
    const opened = (modified: number): File => {
      const whole = new File(["some text"], "a.txt", { lastModified: modified });
      const slice = () => ({ arrayBuffer: async () => Promise.reject(new Error("NotReadableError")) });
      return Object.assign(whole, { slice });
    };
    for (const [times, kind] of [
      [[5, 5], "unreadable"],
      [[5, 6], "changed"],
    ] as const) {
      const rest = [...times];
      const closed: Found = { ...file("a.txt"), open: async () => opened(rest.shift() ?? 0) } as Found;
      const run = await ingest(new FakeGateway(), [closed], silent);
      expect(run.notSent).toEqual([{ ...problem("a.txt", kind), isListed: true }]);
    }
  });

  test("sends 5 to 10 files at the same time", async () => {
    const gateway = new FakeGateway();
    let now = 0;
    let most = 0;
    await ingest(
      gateway,
      Array.from({ length: 300 }, (_, index) => file(`f${index}.txt`, "x")),
      async (...args) => {
        now += 1;
        most = Math.max(most, now);
        await new Promise((resolve) => setTimeout(resolve, 1));
        now -= 1;
        return stored(...args);
      },
    );
    expect(most).toBeGreaterThanOrEqual(8);
    expect(most).toBeLessThanOrEqual(10);
  });
});

describe("the note of what was left out", () => {
  test("fits into the metadata of a batch and says how many there are", () => {
    const named = Array.from({ length: 5_000 }, (_, index) =>
      problem(`\u0001${"\u{1f3c4}".repeat(60)}/${index}`, "left-out"),
    );
    const note = noteOf({ files: 5_000, folders: 2, named });
    expect(new TextEncoder().encode(JSON.stringify(note)).length).toBeLessThan(16_384);
    const read = notTakenIn(note);
    expect([read.files, read.folders, read.named[0]]).toEqual([5_000, 2, named[0]]);
  });

  test("is read with care: anybody may have written it", () => {
    const nothing = { files: 0, folders: 0, named: [] };
    for (const metadata of [undefined, null, "x", {}, { left_out: 3 }, { left_out: { files: -1, names: "x" } }]) {
      expect(notTakenIn(metadata)).toEqual(nothing);
    }
    const names = [{ path: 5, kind: "refused" }, { path: "a", kind: "<b>" }, null, { path: "b", kind: "refused" }];
    expect(notTakenIn({ left_out: { files: 4, names } })).toEqual({
      files: 4,
      folders: 0,
      named: [problem("b", "refused")],
    });
  });
});

/** A refusal as it comes over the wire: google.rpc.BadRequest, encoded by hand. */
function badRequest(violations: { field: string; description: string }[]): ConnectError {
  const text = (field: number, value: string) => {
    const bytes = new TextEncoder().encode(value);
    return [(field << 3) | 2, bytes.length, ...bytes];
  };
  const value = violations.flatMap(({ field, description }) => {
    const inner = [...text(1, field), ...text(2, description)];
    return [(1 << 3) | 2, inner.length, ...inner];
  });
  const refusal = new ConnectError("the page is refused", Code.InvalidArgument);
  refusal.details.push({ type: "google.rpc.BadRequest", value: Uint8Array.from(value) });
  return refusal;
}
