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
import type { Put } from "./put";

const BATCH = "batches/0190c0de-0000-7000-8000-000000000001";

/** A gateway that keeps what it was sent. */
class FakeGateway {
  readonly paths: string[] = [];
  readonly pages: { count: number; requestId: string }[] = [];
  readonly issuedPages: number[] = [];
  readonly confirmed: { ordinal: number; etag: string }[] = [];
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
    expect(run.trouble).toBe("");
  });

  test("leaves out an entry that is refused by name and sends its neighbours under a new request id", async () => {
    const gateway = new FakeGateway();
    gateway.refuse = (path) => (path.includes("bad") ? "is too long" : undefined);
    const run = await ingest(gateway, [file("a.txt"), file("bad.txt"), file("c.txt")]);
    expect(gateway.paths).toEqual(["a.txt", "c.txt"]);
    expect(run.problems).toEqual([{ path: "bad.txt", kind: "refused", why: "is too long" }]);
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
    expect([run.problems, run.confirmedFiles, run.sentBytes]).toEqual([[], 1, 9]);
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
    expect([run.problems, run.confirmedFiles, run.sentBytes, ended]).toEqual([[], 1, 9, [0]]);
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
    expect(run.problems).toEqual([{ path: "b.txt", kind: "unreadable", why: "the drive is away" }]);
    expect(gateway.confirmed).toHaveLength(1);
  });

  test("gives up a file that changed, and completes without waiting for it", async () => {
    const gateway = new FakeGateway();
    const changing: Found = { ...file("a.txt"), open: async () => new File(["other size"], "a.txt") } as Found;
    const run = await ingest(gateway, [changing, file("b.txt")]);
    expect(run.problems).toEqual([{ path: "a.txt", kind: "changed", why: "" }]);
    expect(gateway.completed).toMatchObject({ missing: MissingFiles.FAIL, expectedEntries: 2 });
    expect(run.sentBytes).toBe(9);
  });

  test("gives a file up after its attempts and takes its bytes off again", async () => {
    const gateway = new FakeGateway();
    const run = await ingest(gateway, [file("a.txt")], async (_target, _blob, onProgress) => {
      onProgress(4);
      return { status: 503, etag: "", code: "SlowDown" };
    });
    expect(run.problems).toEqual([{ path: "a.txt", kind: "upload-failed", why: "the store answered 503 SlowDown" }]);
    expect(run.sentBytes).toBe(0);
    expect(run.phase).toBe("completed");
  });

  test("stops with words when the gateway refuses for good", async () => {
    const gateway = new FakeGateway();
    gateway.trouble = [new ConnectError("the batch is complete", Code.FailedPrecondition)];
    const run = await ingest(gateway, [file("a.txt"), file("b.txt")]);
    expect([run.phase, run.trouble]).toEqual(["stopped", "the batch is complete"]);
    expect(gateway.completed).toBeUndefined();
  });

  test("lists what could not be read and goes on", async () => {
    const gateway = new FakeGateway();
    const run = await ingest(gateway, [{ kind: "unreadable", path: "locked", why: "no permission" }, file("a.txt")]);
    expect(run.problems).toEqual([{ path: "locked", kind: "unreadable", why: "no permission" }]);
    expect(gateway.completed).toMatchObject({ missing: MissingFiles.WAIT, expectedEntries: 1 });
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
