import { create } from "@bufbuild/protobuf";
import { durationMs } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Caudal } from "./client.js";
import {
  type Batch,
  BatchSchema,
  BatchState,
  type Changes,
  ClosingReason,
  type FileColumns,
  type FolderColumns,
  type Snapshot,
} from "./gen/caudal/v1/batch_pb.js";
import { pauseAsked, waitBefore } from "./retry.js";

/** A file moved: its row before and after. A state of 0 means that there is none. */
export type FileMoved = (ordinal: number, state: number, detail: number, oldState: number, oldDetail: number) => void;

/** Counters of a folder's whole subtree, four numbers a folder. */
const COUNTERS = 4;
/** A file that no manifest can hold is a fault of the sender; it must not cost the page its memory. */
const MOST_FILES = 50_000_000;
const MOST_FOLDERS = 50_000_000;

/** What a watch knows of its batch, in flat arrays: three bytes a file, sixteen a folder. */
export class WatchedBatch {
  batch: Batch = create(BatchSchema);
  states = new Uint8Array(1024);
  details = new Uint16Array(1024);
  /** Rows of files: every ordinal below. */
  fileCount = 0;
  /** By folder ordinal: total, processed, failed, cancelled. */
  folders = new Uint32Array(64 * COUNTERS);
  folderCount = 0;
  /** A whole snapshot is in. */
  isWhole = false;
  private known = 0n;
  private snapshotEnd = 0;

  constructor(private readonly onFile?: FileMoved) {}

  /** Everything up to this revision is known; 0 before the first whole snapshot. */
  get revision(): bigint {
    return this.isWhole ? this.known : 0n;
  }

  /** Takes a part of a snapshot; answers whether it is whole now. What was shown stays until it is overwritten. */
  applySnapshot(part: Snapshot): boolean {
    if (part.batch !== undefined) {
      this.batch = part.batch;
      this.snapshotEnd = 0;
      this.isWhole = false;
    }
    this.known = part.revision;
    if (part.files !== undefined) this.snapshotEnd = Math.max(this.snapshotEnd, this.applyFiles(part.files));
    if (part.folders !== undefined) this.applyFolders(part.folders);
    if (part.last) {
      for (let ordinal = this.snapshotEnd; ordinal < this.fileCount; ordinal += 1) this.set(ordinal, 0, 0);
      this.isWhole = true;
    }
    return part.last;
  }

  /** Takes what moved. */
  applyChanges(changes: Changes): void {
    if (changes.revision > this.known) this.known = changes.revision;
    const now = changes.batch;
    if (now !== undefined) {
      this.batch.state = now.state;
      this.batch.run = now.run;
      this.batch.revision = now.revision;
      if (now.counts !== undefined) this.batch.counts = now.counts;
      if (now.bytes !== undefined) this.batch.bytes = now.bytes;
      if (now.pause === undefined) delete this.batch.pause;
      else this.batch.pause = now.pause;
    }
    if (changes.files !== undefined) this.applyFiles(changes.files);
    if (changes.folders !== undefined) this.applyFolders(changes.folders);
  }

  /** Answers the ordinal after the last row. */
  private applyFiles(columns: FileColumns): number {
    let ordinal = columns.firstOrdinal;
    const isDense = columns.ordinalDelta.length === 0;
    for (let row = 0; row < columns.state.length; row += 1) {
      if (isDense) ordinal += row > 0 ? 1 : 0;
      else ordinal += columns.ordinalDelta[row] ?? 1;
      if (ordinal >= MOST_FILES) return ordinal;
      this.set(ordinal, columns.state[row] ?? 0, columns.detail[row] ?? 0);
    }
    return columns.state.length === 0 ? 0 : ordinal + 1;
  }

  private set(ordinal: number, state: number, detail: number): void {
    if (ordinal >= this.fileCount) {
      if (state === 0) return;
      this.fileCount = ordinal + 1;
      if (ordinal >= this.states.length) {
        const length = Math.max(ordinal + 1, this.states.length * 2);
        this.states = grown(this.states, new Uint8Array(length));
        this.details = grown(this.details, new Uint16Array(length));
      }
    }
    const oldState = this.states[ordinal] ?? 0;
    const oldDetail = this.details[ordinal] ?? 0;
    if (oldState === state && oldDetail === detail) return;
    this.states[ordinal] = state;
    this.details[ordinal] = detail;
    this.onFile?.(ordinal, state, detail, oldState, oldDetail);
  }

  private applyFolders(columns: FolderColumns): void {
    let ordinal = 0;
    for (let row = 0; row < columns.ordinalDelta.length; row += 1) {
      ordinal += columns.ordinalDelta[row] ?? 0;
      if (ordinal >= MOST_FOLDERS) return;
      if ((ordinal + 1) * COUNTERS > this.folders.length) {
        const length = Math.max((ordinal + 1) * COUNTERS, this.folders.length * 2);
        this.folders = grown(this.folders, new Uint32Array(length));
      }
      this.folderCount = Math.max(this.folderCount, ordinal + 1);
      const at = ordinal * COUNTERS;
      this.folders[at] = columns.total[row] ?? 0;
      this.folders[at + 1] = columns.processed[row] ?? 0;
      this.folders[at + 2] = columns.failed[row] ?? 0;
      this.folders[at + 3] = columns.cancelled[row] ?? 0;
    }
  }
}

function grown<A extends { set(from: A): void }>(from: A, to: A): A {
  to.set(from);
  return to;
}

/** Whether the batch has ended. A replay may take it up again later. */
export function hasEnded(batch: Batch): boolean {
  return (
    batch.state === BatchState.SUCCEEDED || batch.state === BatchState.FAILED || batch.state === BatchState.CANCELLED
  );
}

/** What a step of a watch brought. `reconnecting`: the stream broke or ended; nothing is lost. */
export type FollowEvent =
  | { kind: "snapshot" }
  | { kind: "part" }
  | { kind: "changes" }
  | { kind: "reconnecting"; trouble: string; milliseconds: number };

const GONE_FOR_GOOD = new Set([
  Code.NotFound,
  Code.Unauthenticated,
  Code.PermissionDenied,
  Code.InvalidArgument,
  Code.FailedPrecondition,
  Code.Unimplemented,
]);
/** A stream that breaks is never waited for longer than this. */
const LONGEST_WAIT_MS = 3_000;
/** The gateway says so often that a stream is alive of which nothing else is told. */
const SIGN_OF_LIFE_MS = 15_000;
/** A stream that says nothing for so long is cut somewhere, though nobody said so. */
const SILENT_FOR_MS = 3 * SIGN_OF_LIFE_MS;

/** How a batch is followed. */
export interface FollowOptions {
  /** A stream that says nothing for so long is taken for cut; for tests. */
  silentForMs?: number;
}

/**
 * Follows a batch for ever, or until `signal`. Connects again from the revision it knows, so a restart of the
 * gateway loses nothing. `onConnected` is told when the gateway has taken a watch: where nothing moves, no message
 * follows.
 *
 * @throws ConnectError when the batch is gone, the credential is not accepted, or the gateway does not serve watches.
 */
export async function* followBatch(
  callers: Pick<Caudal, "batches">,
  name: string,
  known: WatchedBatch,
  signal: AbortSignal,
  onConnected?: () => void,
  { silentForMs = SILENT_FOR_MS }: FollowOptions = {},
): AsyncGenerator<FollowEvent, void> {
  let failures = 0;
  while (!signal.aborted) {
    let asked = 0;
    let trouble = "the stream was cut on its way";
    const line = new Line(signal, silentForMs);
    const onHeader = () => {
      line.heard();
      onConnected?.();
    };
    try {
      const request = { name, afterRevision: known.revision };
      const stream = callers.batches.watchBatch(request, { signal: line.signal, onHeader });
      for await (const { message } of stream) {
        line.heard();
        failures = 0;
        if (message.case === "snapshot") {
          yield { kind: known.applySnapshot(message.value) ? "snapshot" : "part" };
        } else if (message.case === "changes") {
          known.applyChanges(message.value);
          yield { kind: "changes" };
        } else if (message.case === "closing") {
          const { reason, retryAfter } = message.value;
          if (reason === ClosingReason.REVOKED) throw new ConnectError("the API key was revoked", Code.Unauthenticated);
          if (reason === ClosingReason.DELETED) throw new ConnectError("the batch was erased", Code.NotFound);
          asked = retryAfter === undefined ? 0 : durationMs(retryAfter);
          trouble =
            reason === ClosingReason.MAX_AGE
              ? "the gateway ended the stream because of its age"
              : "the gateway ended the stream to be restarted";
          break;
        }
      }
    } catch (thrown) {
      if (signal.aborted) return;
      const error = ConnectError.from(thrown);
      if (!line.isSilent && GONE_FOR_GOOD.has(error.code)) throw error;
      trouble = line.isSilent
        ? `nothing came for ${silentForMs / 1_000} s, so the stream is cut somewhere`
        : error.rawMessage;
      asked = pauseAsked(error);
    } finally {
      line.close();
    }
    if (signal.aborted) return;
    failures += 1;
    const milliseconds = Math.max(asked, Math.min(LONGEST_WAIT_MS, waitBefore(failures)));
    yield { kind: "reconnecting", trouble, milliseconds };
    await sleepOrAbort(milliseconds, signal);
  }
}

/** One stream's signal: it aborts with the caller's, or when nothing is heard for too long. */
class Line {
  isSilent = false;
  private readonly stopping = new AbortController();
  private timer: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly outer: AbortSignal,
    private readonly silentForMs: number,
  ) {
    outer.addEventListener("abort", this.stop, { once: true });
    this.heard();
  }

  get signal(): AbortSignal {
    return this.stopping.signal;
  }

  heard(): void {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.isSilent = true;
      this.stopping.abort(new Error("nothing came"));
    }, this.silentForMs);
  }

  close(): void {
    clearTimeout(this.timer);
    this.outer.removeEventListener("abort", this.stop);
  }

  private readonly stop = (): void => this.stopping.abort(this.outer.reason);
}

function sleepOrAbort(milliseconds: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener("abort", done, { once: true });
  });
}
