import type { FromHasher, ToHasher } from "./hash-messages";

/**
 * Files up to this size are read for their checksum before they are announced, so that content which the tenant holds is not
 * sent. A larger one would keep those behind it waiting for a second and more, and is sent in parts, which may be gone on with.
 */
export const HASHED_UP_TO = 64 * 1024 * 1024;
/** Files that are read at once; the memory that this takes is so many times what one is read in. */
export const HASHED_AT_ONCE = 4;
/** One core for what is being read in pieces, and one for the small files beside it. */
const WORKERS = 2;

/** What a file's checksum is; nothing where it could not be read. */
export type Hash = (file: File) => Promise<Uint8Array<ArrayBuffer> | undefined>;

/** Reads files in Workers of its own, which go when it is closed. */
export class Hasher {
  /** Where there are no Workers, files are sent without their checksums. */
  static readonly isPossible = typeof Worker !== "undefined";

  private readonly workers: Worker[] = [];
  private readonly waiting = new Map<number, (sha256: FromHasher["sha256"]) => void>();
  private requests = 0;
  private isBroken = false;

  readonly hash: Hash = (file) =>
    new Promise((resolve) => {
      const request = this.requests++;
      const worker = this.workerFor(request);
      if (worker === undefined) return resolve(undefined);
      this.waiting.set(request, resolve);
      const message: ToHasher = { request, file };
      worker.postMessage(message);
    });

  close(): void {
    for (const worker of this.workers.splice(0)) worker.terminate();
    this.answerAll();
  }

  private workerFor(request: number): Worker | undefined {
    if (this.isBroken) return undefined;
    const index = request % WORKERS;
    const existing = this.workers[index];
    if (existing !== undefined) return existing;
    const worker = new Worker(new URL("./hash.worker.ts", import.meta.url), { type: "module" });
    worker.onmessage = ({ data }: MessageEvent<FromHasher>) => {
      this.waiting.get(data.request)?.(data.sha256);
      this.waiting.delete(data.request);
    };
    // So, too, where one cannot begin.
    worker.onerror = () => {
      this.isBroken = true;
      this.answerAll();
    };
    this.workers[index] = worker;
    return worker;
  }

  private answerAll(): void {
    for (const resolve of this.waiting.values()) resolve(undefined);
    this.waiting.clear();
  }
}
