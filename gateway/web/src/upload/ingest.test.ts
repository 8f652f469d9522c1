import { createHash } from "node:crypto";
import type { MessageInitShape } from "@bufbuild/protobuf";
import {
  AddEntriesResponseSchema,
  type Caudal,
  Code,
  ConfirmUploadsResponseSchema,
  ConnectError,
  create,
  durationFromMs,
  IssueUploadsResponseSchema,
  ListFilesResponseSchema,
  MissingFiles,
  timestampFromMs,
  type UploadTargetSchema,
} from "@caudal/client";
import { describe, expect, test, vi } from "vitest";
import type { Dropped, Found, FoundFile } from "../scan/found";
import { HASHED_UP_TO, type Hash } from "./hash";
import { Ingest, type IngestEvents } from "./ingest";
import type { KnownFile } from "./known";
import { noteOf, notTakenIn, type Problem, type ProblemKind } from "./problems";
import type { Put } from "./put";
import { sha256Of } from "./sha256";

const BATCH = "batches/0190c0de-0000-7000-8000-000000000001";

/** A gateway that keeps what it was sent. */
class FakeGateway {
  readonly paths: string[] = [];
  /** The checksums that were announced, by path. */
  readonly checksums = new Map<string, string | undefined>();
  /** Whether the tenant holds a content. */
  holds: (sha256: string) => boolean = () => false;
  readonly pages: { count: number; requestId: string }[] = [];
  readonly issuedPages: number[] = [];
  readonly confirmed: { ordinal: number; etag: string }[] = [];
  metadata: unknown;
  refusesNotes = false;
  firstOrdinal = 0;
  /** What it has read of files, by ordinal, and when they were changed last. */
  readonly contents = new Map<number, { text?: string; modified?: number }>();
  revived: number[] = [];
  refusedConfirmations = 0;
  readonly leftOut: { ordinal: number; cause: string }[] = [];
  /** For how long targets are good. */
  validForMs: number | undefined;
  completed: { missing?: MissingFiles; expectedEntries?: number } | undefined;
  refuse: (path: string) => string | undefined = () => undefined;
  /** The same for what is in the batch otherwise than it is announced now. */
  refuseAnnounced: (entry: { path: string; sha256: string | undefined }) => string | undefined = () => undefined;
  /** Answers to the next questions for a target, each of one file, in order. */
  insteadOfPut: MessageInitShape<typeof UploadTargetSchema>["how"][] = [];
  /** Thrown by the next calls, in order. */
  trouble: ConnectError[] = [];

  readonly callers = {
    batches: {
      addEntries: async (request: {
        entries: { path: string; kind: { case: string; value: { sha256?: Uint8Array } } }[];
        requestId: string;
      }) => {
        this.pages.push({ count: request.entries.length, requestId: request.requestId });
        this.throwTrouble();
        const violations = request.entries.flatMap(({ path }, index) => {
          const why = this.refuse(path);
          return why === undefined ? [] : [{ field: `entries[${index}].path`, description: why }];
        });
        if (violations.length > 0) throw badRequest(violations);
        const others = request.entries.flatMap(({ path, kind }, index) => {
          const sha256 = kind.value.sha256 && Buffer.from(kind.value.sha256).toString("hex");
          const why = this.refuseAnnounced({ path, sha256 });
          return why === undefined ? [] : [{ field: `entries[${index}].file.sha256`, description: why }];
        });
        if (others.length > 0) throw badRequest(others, Code.AlreadyExists);
        const firstOrdinal = this.firstOrdinal + this.paths.length;
        const files = request.entries.filter(({ kind }) => kind.case === "file");
        this.paths.push(...files.map(({ path }) => path));
        const alreadyHeld: number[] = [];
        for (const [index, { path, kind }] of request.entries.entries()) {
          const sha256 = kind.value.sha256 && Buffer.from(kind.value.sha256).toString("hex");
          this.checksums.set(path, sha256);
          if (sha256 !== undefined && this.holds(sha256)) alreadyHeld.push(index);
        }
        return create(AddEntriesResponseSchema, { firstOrdinal, newCount: files.length, alreadyHeld });
      },
      updateBatch: async ({ batch, updateMask }: { batch: { metadata: unknown }; updateMask: { paths: string[] } }) => {
        if (this.refusesNotes) throw new ConnectError("too large", Code.InvalidArgument);
        if (updateMask.paths.includes("metadata")) this.metadata = batch.metadata;
      },
      completeBatch: async (request: { missing: MissingFiles; expectedEntries: number }) => {
        this.completed = request;
      },
    },
    files: {
      listFiles: async ({ selector }: { selector: { ordinals: number[] } }) => {
        const files = selector.ordinals.map((ordinal) => {
          const { text, modified } = this.contents.get(ordinal) ?? {};
          return {
            ordinal,
            ...(text === undefined ? {} : { sha256: createHash("sha256").update(text).digest() }),
            ...(modified === undefined ? {} : { modifiedTime: timestampFromMs(modified) }),
          };
        });
        return create(ListFilesResponseSchema, { files });
      },
      retryFiles: async ({ selector }: { selector: { ordinals: number[] } }) => {
        this.revived.push(...selector.ordinals);
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
            how: this.insteadOfPut.shift() ?? { case: "put" as const, value: this.putTo(ordinal) },
          })),
        });
      },
      confirmUploads: async ({ uploads }: { uploads: { ordinal: number; etag: string }[] }) => {
        this.throwTrouble();
        if (this.refusedConfirmations > 0) {
          this.refusedConfirmations -= 1;
          const error = { case: "error" as const, value: { code: Code.Unavailable, message: "ask later" } };
          const confirmations = uploads.map(({ ordinal }) => ({ ordinal, result: error }));
          return create(ConfirmUploadsResponseSchema, { confirmations });
        }
        this.confirmed.push(...uploads);
        return create(ConfirmUploadsResponseSchema, {
          confirmations: uploads.map(({ ordinal }) => ({ ordinal, result: { case: "state" as const, value: 3 } })),
        });
      },
      leaveOutFiles: async ({ files }: { files: { ordinal: number; cause: string }[] }) => {
        this.leftOut.push(...files);
      },
    },
  } as unknown as Caudal;

  private putTo(ordinal: number) {
    const url = `http://store/${ordinal}`;
    if (this.validForMs === undefined) return { url };
    // The server's clock is years behind.
    return { url, expireTime: timestampFromMs(1_000_000), validFor: durationFromMs(this.validForMs) };
  }

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

/** What a Worker does, done here. */
const hash: Hash = async (whole) => sha256Of(whole);

describe("an ingest that reads files for their checksums", () => {
  const one = createHash("sha256").update("one").digest("hex");

  test("announces them in their order and sends nothing of what the tenant holds", async () => {
    const gateway = new FakeGateway();
    gateway.holds = (sha256) => sha256 === one;
    const found = [file("a", "one"), file("b", "two"), file("c", "one")];
    const setting = { put: stored, hash, sleep: async () => undefined };
    const run = new Ingest(gateway.callers, BATCH, dropped(found), {}, setting);
    await run.ended;
    expect(run.phase).toBe("completed");
    expect([...gateway.checksums.keys()]).toEqual(["a", "b", "c"]);
    expect(gateway.checksums.get("a")).toBe(one);
    expect(gateway.confirmed.map(({ ordinal }) => ordinal)).toEqual([1]);
    expect([run.unchangedFiles, run.unchangedBytes, run.sentFiles, run.confirmedFiles]).toEqual([2, 6, 1, 3]);
    expect(gateway.completed).toMatchObject({ expectedEntries: 3 });
  });

  test("leaves the checksum out where a file is too large, grew, or was announced without one before", async () => {
    const gateway = new FakeGateway();
    const large = file("large") as FoundFile;
    large.size = HASHED_UP_TO + 1;
    const grew = file("grew") as FoundFile;
    grew.size -= 1;
    const refusals: (string | undefined)[] = [];
    gateway.refuseAnnounced = ({ path, sha256 }) => {
      if (path !== "before") return undefined;
      refusals.push(sha256);
      return sha256 === undefined ? undefined : "is in the batch with no checksum";
    };
    const setting = { put: stored, hash, sleep: async () => undefined };
    const run = new Ingest(gateway.callers, BATCH, dropped([large, grew, file("before", "one")]), {}, setting);
    await run.ended;
    expect(refusals).toEqual([one, undefined]);
    expect([...gateway.checksums]).toEqual([
      ["large", undefined],
      ["grew", undefined],
      ["before", undefined],
    ]);
    expect(run.notTaken.named).toEqual([]);
  });
});

test("names a file that has other bytes by now than those that were read for its checksum", async () => {
  const gateway = new FakeGateway();
  const refuses: Put = async () => ({ status: 400, etag: "", code: "BadDigest" });
  const run = await ingest(gateway, [file("a.txt")], refuses);
  expect(run.notSent).toEqual([{ ...problem("a.txt", "changed"), isListed: true }]);
});

test("a checksum is the same in one piece, in many and without the browser's own digest", async () => {
  for (const size of [0, 1, 8 * 1024 * 1024 + 3]) {
    const bytes = Buffer.alloc(size, "caudal ");
    const wanted = createHash("sha256").update(bytes).digest("hex");
    expect(Buffer.from(await sha256Of(new Blob([bytes]))).toString("hex")).toBe(wanted);
  }
  vi.stubGlobal("crypto", {});
  const wanted = createHash("sha256").update("abc").digest("hex");
  expect(Buffer.from(await sha256Of(new Blob(["abc"]))).toString("hex")).toBe(wanted);
  vi.unstubAllGlobals();
});

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

  test("counts for how long a target is good, whatever the clock of the server says", async () => {
    const gateway = new FakeGateway();
    gateway.validForMs = 600_000;
    await ingest(gateway, [file("a.txt")]);
    expect([gateway.issuedPages, gateway.confirmed.length]).toEqual([[1], 1]);
    // Good for less than the margin: another is asked for first.
    const short = new FakeGateway();
    short.insteadOfPut = [{ case: "put", value: { url: "http://store/0", validFor: durationFromMs(5_000) } }];
    await ingest(short, [file("a.txt")]);
    expect([short.issuedPages, short.confirmed.length]).toEqual([[1, 1], 1]);
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
    expect(gateway.leftOut).toEqual([{ ordinal: 1, cause: "cannot be read: the drive is away" }]);
    expect(gateway.confirmed).toHaveLength(1);
  });

  test("gives up a file that changed, and completes without waiting for it", async () => {
    const gateway = new FakeGateway();
    const changing: Found = { ...file("a.txt"), open: async () => new File(["other size"], "a.txt") } as Found;
    const run = await ingest(gateway, [changing, file("b.txt")]);
    expect(run.notSent).toEqual([{ ...problem("a.txt", "changed"), isListed: true }]);
    expect(gateway.completed).toMatchObject({ missing: MissingFiles.FAIL, expectedEntries: 2 });
    expect(gateway.leftOut).toEqual([{ ordinal: 0, cause: "changed while it was uploaded" }]);
    expect(run.sentBytes).toBe(9);
  });

  test("gives a file up that the store refuses again and again, and takes its bytes off", async () => {
    const gateway = new FakeGateway();
    const run = await ingest(gateway, [file("a.txt")], async (_target, _blob, onProgress) => {
      onProgress(4);
      return { status: 403, etag: "", code: "AccessDenied" };
    });
    const why = "the store answered 403 AccessDenied";
    expect(run.notSent).toEqual([{ ...problem("a.txt", "upload-failed", why), isListed: true }]);
    expect(run.sentBytes).toBe(0);
    expect(run.phase).toBe("completed");
  });

  test("gives nothing up while the store is silent, says so once, and goes on by itself", async () => {
    const gateway = new FakeGateway();
    const said = new Set<string | undefined>();
    let refusals = 200;
    const says: [number, string][] = [
      [503, "SlowDown"],
      [500, "InternalError"],
      [507, "XMinioStorageFull"],
      [403, "InvalidAccessKeyId"],
      [0, ""],
    ];
    const run = new Ingest(
      gateway.callers,
      BATCH,
      dropped([file("a.txt"), file("b.txt"), file("c.txt")]),
      { onProgress: () => said.add(run?.storeTrouble?.kind) },
      {
        sleep: async () => undefined,
        put: async (...args) => {
          refusals -= 1;
          if (refusals < 0) return stored(...args);
          const [status, code] = says[refusals % says.length] ?? [0, ""];
          return { status, etag: "", code };
        },
      },
    );
    await run.ended;
    expect([run.phase, run.notSent, run.confirmedFiles]).toEqual(["completed", [], 3]);
    expect(said).toContain("store-silent");
    expect(run.storeTrouble).toBeUndefined();
  });

  test("asks again for as long as a confirmation may still pass", async () => {
    const gateway = new FakeGateway();
    gateway.refusedConfirmations = 30;
    const run = await ingest(gateway, [file("a.txt")]);
    expect([run.phase, run.confirmedFiles, run.notSent]).toEqual(["completed", 1, []]);
  });

  test("sends a large file in parts, only those that are missing, and confirms it without an ETag", async () => {
    const gateway = new FakeGateway();
    const part = (number: number, size: number) => ({ number, url: `http://store/part/${number}`, size: BigInt(size) });
    const parts = (firstParts: ReturnType<typeof part>[], landed: number) => ({
      case: "multipart" as const,
      value: { partSize: 4n, partCount: 3, firstParts, partsLanded: landed, bytesLanded: BigInt(landed * 4) },
    });
    // One of three was there, and one fails the first time.
    gateway.insteadOfPut = [parts([part(2, 4), part(3, 1)], 1), parts([part(3, 1)], 2), parts([], 3)];
    const puts: string[] = [];
    let failures = 1;
    const run = await ingest(gateway, [file("a.txt")], async ({ url }, blob, onProgress) => {
      puts.push(`${url.slice(-1)} ${await blob.text()}`);
      if (url.endsWith("3") && failures-- > 0) return { status: 503, etag: "", code: "SlowDown" };
      onProgress(blob.size);
      return { status: 200, etag: '"p"', code: "" };
    });
    expect(puts.sort()).toEqual(["2  tex", "3 t", "3 t"]);
    expect([run.phase, run.sentBytes, run.notSent]).toEqual(["completed", 9, []]);
    expect(gateway.confirmed).toMatchObject([{ ordinal: 0, etag: "" }]);
  });

  test("sends what is dropped while it sends, into the same batch, and completes it once", async () => {
    const gateway = new FakeGateway();
    const run = new Ingest(gateway.callers, BATCH, dropped([file("a.txt")]), {}, { put: stored });
    expect(run.add(dropped([file("a.txt", "another text"), file("b.txt")]))).toBe(true);
    await run.ended;
    expect([gateway.paths, run.phase, run.foundFiles]).toEqual([["a.txt", "b.txt"], "completed", 2]);
    expect(run.notTaken.named).toEqual([problem("a.txt", "same-name")]);
    expect(gateway.completed).toMatchObject({ expectedEntries: 2 });
    expect(run.add(dropped([]))).toBe(false);
  });

  test("does not call the same files left out that are dropped once more while they are sent", async () => {
    for (const reading of [{ hash }, {}]) {
      const gateway = new FakeGateway();
      const setting = { put: stored, ...reading };
      const run = new Ingest(gateway.callers, BATCH, dropped([file("a.txt"), file("b.txt")]), {}, setting);
      // Of the same size and time: another only where it is read.
      run.add(dropped([file("a.txt"), file("b.txt", "SOME text"), file("c.txt")]));
      run.add(dropped([{ ...file("a.txt"), modified: 5 } as Found]));
      await run.ended;
      const left = "hash" in reading ? ["b.txt"] : ["a.txt"];
      expect(run.notTaken.named).toEqual(left.map((path) => problem(path, "same-name")));
      expect([gateway.paths, run.foundFiles, run.phase]).toEqual([["a.txt", "b.txt", "c.txt"], 3, "completed"]);
    }
  });

  test("leaves the batch open where only a person knows whether that was all", async () => {
    const gateway = new FakeGateway();
    const setting = { put: stored, sleep: async () => undefined, known: async () => undefined, completes: () => false };
    const found = [file("a.txt"), { kind: "unreadable", path: "b.txt", why: "no", isFolder: false } as Found];
    const run = new Ingest(gateway.callers, BATCH, dropped(found), {}, setting);
    await run.ended;
    expect([run.phase, run.sentFiles, gateway.paths]).toEqual(["short", 1, ["a.txt"]]);
    expect([gateway.completed, run.notTaken.files]).toEqual([undefined, 1]);
  });

  test("stops with words when the gateway refuses for good", async () => {
    const gateway = new FakeGateway();
    gateway.trouble = [new ConnectError("the batch is complete", Code.FailedPrecondition)];
    const run = await ingest(gateway, [file("a.txt"), file("b.txt")]);
    expect([run.phase, run.trouble]).toEqual(["stopped", { kind: "said", words: "the batch is complete" }]);
    expect(gateway.completed).toBeUndefined();
  });

  test("names what is in the batch otherwise than it is here, where it knows nothing else of the batch", async () => {
    const gateway = new FakeGateway();
    gateway.refuseAnnounced = ({ path }) => (path === "a.txt" ? "is in the batch otherwise" : undefined);
    const setting = { put: stored, hash, sleep: async () => undefined, completes: () => false };
    const run = new Ingest(gateway.callers, BATCH, dropped([file("a.txt"), file("b.txt")]), {}, setting);
    await run.ended;
    expect(run.changedSince).toEqual([{ ...problem("a.txt", "changed-since"), isListed: true }]);
    expect([run.foundFiles, run.foundBytes, run.notTaken.files]).toEqual([1, 9, 0]);
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

  test("counts what is in a folder whose name is refused, and a folder that a rule leaves out as one", async () => {
    const gateway = new FakeGateway();
    gateway.refuse = (path) => (path.startsWith("no\\pe") ? "has a backslash" : undefined);
    const found: Found[] = [
      file("no\\pe/a.txt"),
      file("no\\pe/in/b.txt"),
      { kind: "empty-folder", path: "no\\pe/empty" },
      { kind: "by-rule", path: "build", isFolder: true },
      { kind: "by-rule", path: "x.tmp", isFolder: false },
      { kind: "not-utf8", path: "\u{fffd}", isFolder: true },
      { kind: "not-utf8", path: "\u{fffd}", isFolder: false },
      file("c.txt"),
    ];
    const run = await ingest(gateway, found);
    expect([gateway.paths, run.notTaken.files, run.notTaken.folders]).toEqual([["c.txt"], 4, 3]);
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

describe("an ingest that goes on with a batch", () => {
  const KNOWN: Record<string, KnownFile> = {
    "here.txt": { ordinal: 0, size: 9, standing: "arrived" },
    "waits.txt": { ordinal: 1, size: 9, standing: "waits" },
    "grown.txt": { ordinal: 2, size: 8, standing: "waits" },
    "gone.txt": { ordinal: 3, size: 9, standing: "waits" },
    "never.txt": { ordinal: 4, size: 9, standing: "failed" },
  };
  const DROPPED = ["here.txt", "waits.txt", "grown.txt", "never.txt", "new.txt"].map((path) => file(path));

  async function goOn(
    gateway: FakeGateway,
    isOpen: boolean,
    found: Found[],
    without: string[] = [],
    setting: { put?: Put; hash?: Hash; files?: Record<string, KnownFile> } = {},
  ) {
    const known = Object.entries(setting.files ?? KNOWN).filter(([path]) => !without.includes(path));
    const waiting = known.flatMap(([, { ordinal, standing }]) => (standing === "waits" ? [ordinal] : []));
    const map = new Map(known);
    const all = {
      put: setting.put ?? stored,
      ...(setting.hash === undefined ? {} : { hash: setting.hash }),
      sleep: async () => undefined,
      known: async () => ({ isOpen, waiting: new Set(waiting), find: (path: string) => map.get(path) }),
    };
    const run = new Ingest(gateway.callers, BATCH, dropped(found), {}, all);
    await run.ended;
    return run;
  }
  const sent = (gateway: FakeGateway) => gateway.confirmed.map(({ ordinal }) => ordinal).sort();

  test("sends only what is not there, adds what is new, and says what is missing and what changed", async () => {
    const gateway = new FakeGateway();
    gateway.firstOrdinal = 5;
    const run = await goOn(gateway, true, DROPPED);
    expect(run.trouble).toBeUndefined();
    expect(run.compared).toEqual({ matched: 2, changed: 1, arrived: 1, missing: 1 });
    expect([gateway.paths, sent(gateway), gateway.revived]).toEqual([["new.txt"], [1, 4, 5], [4]]);
    expect(run.notSent).toEqual([{ ...problem("grown.txt", "other-size"), isListed: true }]);
    expect([run.phase, gateway.completed]).toEqual(["short", undefined]);
  });

  test("completes the batch when nothing of it is missing any more", async () => {
    const gateway = new FakeGateway();
    const run = await goOn(gateway, true, [file("waits.txt")], ["grown.txt", "gone.txt"]);
    expect([run.phase, sent(gateway)]).toEqual(["completed", [1]]);
    expect(gateway.completed).toMatchObject({ missing: MissingFiles.WAIT, expectedEntries: 0 });
  });

  test("adds nothing to a batch that is complete, and names what is not in it", async () => {
    const gateway = new FakeGateway();
    const run = await goOn(gateway, false, DROPPED);
    expect([gateway.paths, sent(gateway)]).toEqual([[], [1, 4]]);
    expect(run.notTaken.named).toEqual([problem("new.txt", "not-in-batch")]);
    expect([run.phase, gateway.completed]).toEqual(["short", undefined]);
  });

  const arrivedAs = (names: string[]) =>
    Object.fromEntries(
      names.map((path, ordinal): [string, KnownFile] => [path, { ordinal, size: 9, standing: "arrived" }]),
    );
  const since = (path: string): Problem => ({ ...problem(path, "changed-since"), isListed: true });

  test("names what had arrived and has changed since, of another size and of the same, and leaves it as it is", async () => {
    for (const isOpen of [true, false]) {
      const gateway = new FakeGateway();
      gateway.contents.set(0, { text: "some text" });
      gateway.contents.set(1, { text: "some xext" });
      gateway.contents.set(3, { text: "some xext" });
      const gone: Found = { ...file("gone"), open: async () => Promise.reject(new Error("no")) } as Found;
      const found = [file("same"), file("other"), file("longer", "some longer text"), gone];
      const files = arrivedAs(["same", "other", "longer", "gone"]);
      const run = await goOn(gateway, isOpen, found, [], { hash, files });
      expect(run.changedSince).toEqual([since("longer"), since("other")]);
      // One that cannot be read now is not told from the one that arrived.
      expect(run.compared).toEqual({ matched: 0, changed: 0, arrived: 2, missing: 0 });
      expect([sent(gateway), gateway.paths, run.notSent, run.notTaken.files]).toEqual([[], [], [], 0]);
      expect(run.phase).toBe(isOpen ? "completed" : "short");
    }
  });

  test("asks an open batch for the checksum that was announced while nobody has read the content", async () => {
    const gateway = new FakeGateway();
    const right = createHash("sha256").update("some text").digest("hex");
    gateway.refuseAnnounced = ({ path, sha256 }) => {
      // One was announced with this checksum, one with another, and one without any.
      const announced = { same: right, other: "00", without: undefined }[path];
      return sha256 === announced ? undefined : "is in the batch otherwise";
    };
    const names = ["same", "other", "without"];
    const files = arrivedAs(names);
    const run = await goOn(
      gateway,
      true,
      names.map((path) => file(path)),
      [],
      { hash, files },
    );
    expect(run.trouble).toBeUndefined();
    expect([run.changedSince, run.compared?.arrived]).toEqual([[since("other")], 2]);
    const complete = new FakeGateway();
    await goOn(complete, false, [file("same")], [], { hash, files: arrivedAs(["same"]) });
    expect(complete.pages).toEqual([]);
  });

  test("reads a file that is long to read only where its time of change is another", async () => {
    const gateway = new FakeGateway();
    const read: string[] = [];
    const found = ["same", "touched"].map((path, ordinal) => {
      gateway.contents.set(ordinal, { text: "some xext", modified: 1_700_000_000_000 + ordinal * 1_000 });
      const size = HASHED_UP_TO + 1;
      const open = async () => {
        read.push(path);
        return { size } as File;
      };
      return { kind: "file" as const, path, size, modified: 1_700_000_000_000, open };
    });
    const files = arrivedAs(["same", "touched"]);
    for (const one of Object.values(files)) one.size = HASHED_UP_TO + 1;
    const other: Hash = async () => sha256Of(new Blob(["some text"]));
    const run = await goOn(gateway, true, found, [], { hash: other, files });
    expect([read, run.changedSince]).toEqual([["touched"], [since("touched")]]);
  });

  test("gives nothing up: what is not as it was announced is told of, the rest is sent, and the batch waits on", async () => {
    const gateway = new FakeGateway();
    const refusing: Put = async (target, blob, onProgress, signal) =>
      target.url.endsWith("/1")
        ? { status: 400, etag: "", code: "BadDigest" }
        : stored(target, blob, onProgress, signal);
    const found = [file("waits.txt"), file("gone.txt"), file("never.txt")];
    const run = await goOn(gateway, true, found, ["here.txt", "grown.txt"], { put: refusing });
    expect(run.notSent).toEqual([{ ...problem("waits.txt", "other-content"), isListed: true }]);
    expect(run.compared).toEqual({ matched: 2, changed: 1, arrived: 0, missing: 0 });
    expect(sent(gateway)).toEqual([3, 4]);
    expect([run.phase, gateway.completed, gateway.leftOut]).toEqual(["short", undefined, []]);
    // Until a person ends it without them.
    await run.leaveOutUnsent();
    expect(gateway.leftOut).toEqual([{ ordinal: 1, cause: "differs from what was announced" }]);
  });

  test("waits for the gateway to make a failed file ready for its bytes", async () => {
    const gateway = new FakeGateway();
    const notYet = { case: "error" as const, value: { code: Code.FailedPrecondition, message: "retry it" } };
    gateway.insteadOfPut = [notYet, notYet, notYet];
    const run = await goOn(gateway, false, [file("never.txt")]);
    expect([sent(gateway), run.notSent]).toEqual([[4], []]);
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
function badRequest(violations: { field: string; description: string }[], code = Code.InvalidArgument): ConnectError {
  const text = (field: number, value: string) => {
    const bytes = new TextEncoder().encode(value);
    return [(field << 3) | 2, bytes.length, ...bytes];
  };
  const value = violations.flatMap(({ field, description }) => {
    const inner = [...text(1, field), ...text(2, description)];
    return [(1 << 3) | 2, inner.length, ...inner];
  });
  const refusal = new ConnectError("the page is refused", code);
  refusal.details.push({ type: "google.rpc.BadRequest", value: Uint8Array.from(value) });
  return refusal;
}
