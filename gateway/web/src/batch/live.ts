import {
  BatchState,
  type Caudal,
  Code,
  ConnectError,
  FileState,
  FileView,
  followBatch,
  hasEnded,
  MissingFiles,
  type QueuePlace,
  type Reason,
  retrying,
  type Wait,
  WatchedBatch,
} from "@caudal/client";
import { newRequestId } from "../identity";
import { takeHandles } from "../scan/dropped";
import type { Dropped } from "../scan/found";
import { leavesOut, withRules } from "../scan/left-out";
import { type Trouble, troubleOf } from "../trouble";
import { Ingest } from "../upload/ingest";
import type { Known, KnownFile } from "../upload/known";
import { NOTHING_LEFT_OUT, type NotTaken, notTakenIn } from "../upload/problems";
import { Rate } from "../upload/rate";
import { forget, holdWhile, isHeld, recall, remember } from "../upload/remembered";
import { Bucket, bucketOf } from "./buckets";
import { Tally } from "./tally";
import { BatchTree } from "./tree";

const NAMES_A_PAGE = 1_000;
const WARNINGS_A_PAGE = 100;
const FOLDERS_AGAIN_MS = 2_000;
/** Nobody reads faster, and the machine has files to send. */
const LEAST_BETWEEN_PAINTS_MS = 60;
/** Nobody feeds a batch that waits for bytes and gets none for so long. */
const FED_WITHIN_MS = 60_000;
const NAMES_AGAIN_MS = 200;
/** What a batch waits for is asked for so often while it runs. */
const WAITS_AGAIN_MS = 10_000;
/** Reasons of this range are for want of the right bytes. */
const WANT_OF_BYTES = { first: 101, last: 106 };

/** How the watch stands. `no-key`: the key opens nothing here. */
export type Line = "connecting" | "live" | "reconnecting" | "gone" | "no-key" | "refused";

declare global {
  interface FileSystemHandle {
    requestPermission?(descriptor: { mode: "read" }): Promise<PermissionState>;
  }
}

/**
 * One batch as the page shows it: what the watch tells, the names, and what this page itself is sending. It lives
 * outside React and tells its listeners at most once a frame.
 */
export class LiveBatch {
  readonly tree = new BatchTree();
  readonly tally = new Tally(this.tree);
  readonly watched: WatchedBatch;
  /** By the number of a reason: how many files failed for it. */
  readonly failures = new Map<number, number>();
  /** By the number of a stage: how many files are in it or wait for it. */
  readonly inStage = new Map<number, number>();
  /** By the number of a reason: its words, once they were asked for. */
  readonly reasons = new Map<number, Reason>();
  /** By ordinal: code of the first warning of a file that was done in part. */
  readonly warnings = new Map<number, string>();
  readonly uploadRate = new Rate();
  readonly fileRate = new Rate();
  /** The name that it was made with here, before the watch tells it. */
  givenName = "";
  line: Line = "connecting";
  /** What its stages wait for now. */
  waits: Wait[] = [];
  /** Whose turn comes before this batch's, while nothing of it is worked on. */
  queue: QueuePlace | undefined = undefined;
  trouble: Trouble | undefined;
  ingest: Ingest | undefined;
  /** Rises with each painting. */
  version = 0;

  private notedAs: { metadata: unknown; notTaken: NotTaken } = { metadata: undefined, notTaken: NOTHING_LEFT_OUT };
  /** Told once for each time that it ends while it is watched. */
  onEnded: (() => void) | undefined;
  private wasRunning = false;
  /** A watch that begins anew sends everything again; what is shown stays known meanwhile. */
  private wasWhole = false;
  /** Since nobody else can have fed it: this browser did, and does not any more. */
  private isAbandoned = false;
  /** When a file was last announced or its bytes arrived, as seen from here. */
  private fedAt = performance.now();
  /** By which this browser finds again what it was sending. */
  remembered: FileSystemHandle[] = [];
  private readonly sending = new Map<number, number>();
  private readonly listeners = new Set<() => void>();
  private readonly leaving = new AbortController();
  private isPainting = false;
  private paintedAt = 0;
  private isWatching = false;
  /** An upload token sends and follows: names, reasons and what others sent are not for it. */
  mayRead = true;
  private areNamesLoading = false;
  private namesFrom = 0;
  private foldersLoadedAt = Number.NEGATIVE_INFINITY;
  private foldersLoaded = 0;
  private readonly askedReasons = new Set<number>();
  private readonly askedWarnings = new Set<number>();
  private wantedWarnings: number[] = [];
  private askedEndOfRun = -1;

  constructor(
    readonly callers: Caudal,
    readonly name: string,
  ) {
    this.watched = new WatchedBatch(this.fileMoved);
  }

  /** Follows the batch until `leave`. */
  watch(): void {
    if (this.isWatching) return;
    this.isWatching = true;
    void this.follow();
    void this.lookForSender();
    const asking = setInterval(() => void this.learnWaits(), WAITS_AGAIN_MS);
    this.leaving.signal.addEventListener("abort", () => clearInterval(asking));
  }

  /** Sends what was dropped into this batch, which was made for it. */
  send(dropped: Dropped): Ingest {
    return this.begin(dropped, undefined);
  }

  /** Sends what this batch lacks of what was dropped, and adds what is new while it is open. */
  sendMore(dropped: Dropped): Promise<void> {
    const { ingest } = this;
    if (ingest?.add(dropped)) return ingest.ended;
    const before = ingest?.ended ?? Promise.resolve();
    return before.then(() => this.begin(dropped, this.askKnown).ended);
  }

  /** Goes on with what this browser was sending, once the person allows it to read that again. */
  async goOn(): Promise<boolean> {
    for (const handle of this.remembered) {
      const may = await handle.requestPermission?.({ mode: "read" });
      if (may !== "granted") return false;
    }
    await this.sendMore(withRules(takeHandles(this.remembered), leavesOut()));
    return true;
  }

  /** Ends the upload without what is missing. */
  async endWithout(): Promise<void> {
    await this.ingest?.leaveOutUnsent();
    const request = { name: this.name, missing: MissingFiles.FAIL, expectedEntries: 0, requestId: newRequestId() };
    await this.ask(() => this.callers.batches.completeBatch(request));
    await forget(this.name);
  }

  /** Says that nothing more comes, as whoever holds an upload token may. */
  async completeNow(): Promise<void> {
    const request = { name: this.name, missing: MissingFiles.WAIT, expectedEntries: 0, requestId: newRequestId() };
    await this.ask(() => this.callers.batches.completeBatch(request));
    await forget(this.name);
  }

  private begin(dropped: Dropped, known: (() => Promise<Known | undefined>) | undefined): Ingest {
    const setting = { completes: () => this.mayRead, ...(known === undefined ? {} : { known }) };
    const events = {
      onListed: (
        files: { ordinal: number; path: string; size: number }[],
        folders: { path: string; ordinal: number }[],
      ) => {
        for (const { path, ordinal } of folders) this.tree.addFolder(path, ordinal);
        for (const { ordinal, path, size } of files) this.nameFile(ordinal, path, size);
        this.changed();
      },
      onUploadBegun: (ordinal: number) => this.sentSoFar(ordinal, 0),
      onUploadMoved: (ordinal: number, bytes: number) => this.sentSoFar(ordinal, bytes),
      onUploadEnded: (ordinal: number) => {
        this.sending.delete(ordinal);
        this.rebucket(ordinal);
      },
      onProgress: this.changed,
    };
    const ingest = new Ingest(this.callers, this.name, dropped, events, setting);
    this.ingest = ingest;
    this.isAbandoned = false;
    holdWhile(this.name, ingest.ended);
    void dropped.handles?.().then((handles) => this.keep(handles));
    if (dropped.handles === undefined) this.keep([]);
    void ingest.ended.then(() => {
      this.fedAt = performance.now();
      if (ingest.phase === "completed") void forget(this.name);
      void this.loadNames();
    });
    return ingest;
  }

  private keep(handles: FileSystemHandle[]): void {
    this.remembered = [...this.remembered, ...handles];
    if (this.ingest?.isOver !== true) void remember(this.name, this.remembered);
  }

  /** Whether this browser was sending it, and does not any more. */
  private async lookForSender(): Promise<void> {
    const handles = await recall(this.name);
    if (handles === undefined || this.ingest !== undefined) return;
    this.remembered = handles;
    this.isAbandoned = (await isHeld(this.name)) === false;
    this.changed();
  }

  /** What the batch holds, with all its names. */
  private readonly askKnown = async (): Promise<Known | undefined> => {
    while (this.mayRead && (!this.isKnown || this.areNamesComing)) {
      this.leaving.signal.throwIfAborted();
      if (this.isKnown) await this.loadNames(true);
      if (!this.isKnown || this.areNamesComing) await new Promise((resolve) => setTimeout(resolve, NAMES_AGAIN_MS));
    }
    // What it announces again is found by its path, whoever announced it first.
    if (!this.mayRead) return undefined;
    const byPath = new Map<string, number>();
    const waiting = new Set<number>();
    for (let ordinal = 0; ordinal < this.watched.fileCount; ordinal += 1) {
      const path = this.tree.pathOf(ordinal);
      if (path !== undefined) byPath.set(path, ordinal);
      if (this.standingOf(ordinal) === "waits") waiting.add(ordinal);
    }
    return {
      isOpen: this.watched.batch.state === BatchState.OPEN,
      waiting,
      find: (path) => {
        const ordinal = byPath.get(path);
        if (ordinal === undefined) return undefined;
        return { ordinal, size: this.tree.fileSize[ordinal] ?? 0, standing: this.standingOf(ordinal) };
      },
    };
  };

  private standingOf(ordinal: number): KnownFile["standing"] {
    const state = this.stateOf(ordinal);
    if (state === FileState.PENDING || state === FileState.UPLOADING) return "waits";
    return state === FileState.FAILED && isWantOfBytes(this.detailOf(ordinal)) ? "failed" : "arrived";
  }

  leave(): void {
    this.leaving.abort();
    this.ingest?.stop();
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  readonly snapshot = (): number => this.version;

  get isKnown(): boolean {
    return this.wasWhole || this.watched.isWhole;
  }

  get displayName(): string {
    return this.watched.batch.displayName || this.givenName;
  }

  get hasEnded(): boolean {
    return this.isKnown && hasEnded(this.watched.batch);
  }

  get isPaused(): boolean {
    return this.isKnown && !this.hasEnded && this.watched.batch.pause !== undefined;
  }

  /** Files whose bytes are not there. */
  get waitingForBytes(): number {
    const counts = this.watched.batch.counts;
    return (counts?.pending ?? 0) + (counts?.uploading ?? 0);
  }

  /** Files that failed for want of their bytes. */
  get failedForBytes(): number {
    let count = 0;
    for (const [reason, files] of this.failures) if (isWantOfBytes(reason)) count += files;
    return count;
  }

  /** Whether what is dropped here goes into this batch. */
  get takesMore(): boolean {
    const { batch } = this.watched;
    if (!this.isKnown || batch.cancelling || batch.state === BatchState.CANCELLED) return false;
    if (!this.mayRead) return batch.state === BatchState.OPEN;
    return batch.state === BatchState.OPEN || this.waitingForBytes > 0 || this.failedForBytes > 0;
  }

  /** Bytes are waited for and nobody sends them. */
  get isInterrupted(): boolean {
    const { ingest } = this;
    if (!this.isKnown || this.hasEnded || this.watched.batch.cancelling || !this.mayRead) return false;
    if (ingest !== undefined && !ingest.isOver) return false;
    if (this.waitingForBytes === 0 && this.watched.batch.state !== BatchState.OPEN) return false;
    if (this.isAbandoned || ingest?.phase === "short" || ingest?.phase === "stopped") return true;
    return performance.now() - this.fedAt > FED_WITHIN_MS;
  }

  /** More files may come: no total is final, and nothing that is reckoned from one is true. */
  get isGrowing(): boolean {
    if (this.hasEnded) return false;
    if (this.ingest !== undefined) return !this.ingest.isWalked;
    return !this.isKnown || this.watched.batch.state === BatchState.OPEN;
  }

  /** There are files whose names and sizes are not known here yet. */
  get areNamesComing(): boolean {
    return this.mayRead && this.watched.fileCount > this.tree.fileCount;
  }

  /** Files in this state; those that were found and are not listed yet are to be sent. */
  countOf(bucket: Bucket): number {
    const count = this.tally.totals[bucket] ?? 0;
    if (bucket !== Bucket.ToBeSent) return count;
    let known = 0;
    for (const one of this.tally.totals) known += one;
    return count + Math.max(0, this.total - known);
  }

  stateOf(ordinal: number): number {
    return this.watched.states[ordinal] ?? 0;
  }

  detailOf(ordinal: number): number {
    return this.watched.details[ordinal] ?? 0;
  }

  /** Bytes of a file that this page is sending. */
  sentOf(ordinal: number): number | undefined {
    return this.sending.get(ordinal);
  }

  /** The gateway's own counters of a folder: total, processed, failed, cancelled. */
  countersOf(folder: number): { total: number; processed: number; failed: number; cancelled: number } | undefined {
    const ordinal = this.tree.folderOrdinal[folder] ?? -1;
    if (ordinal < 0 || ordinal >= this.watched.folderCount) return undefined;
    const [total = 0, processed = 0, failed = 0, cancelled = 0] = this.watched.folders.subarray(
      ordinal * 4,
      ordinal * 4 + 4,
    );
    return { total, processed, failed, cancelled };
  }

  /** Files of the batch, those that are found and not yet listed included. */
  get total(): number {
    const listed = this.watched.batch.counts?.total ?? 0;
    return Math.max(listed, this.ingest?.foundFiles ?? 0);
  }

  /** What was dropped and is not in the batch: as this page saw it, else as the batch itself says. */
  get notTaken(): NotTaken {
    if (this.ingest !== undefined) return this.ingest.notTaken;
    const { metadata } = this.watched.batch;
    if (this.notedAs.metadata !== metadata) this.notedAs = { metadata, notTaken: notTakenIn(metadata) };
    return this.notedAs.notTaken;
  }

  get finished(): number {
    const { totals } = this.tally;
    return (
      (totals[Bucket.Complete] ?? 0) +
      (totals[Bucket.Partly] ?? 0) +
      (totals[Bucket.Kept] ?? 0) +
      (totals[Bucket.Failed] ?? 0) +
      (totals[Bucket.Cancelled] ?? 0)
    );
  }

  /** Bytes in the store and bytes in all. */
  get bytes(): { sent: number; total: number } {
    const bytes = this.watched.batch.bytes;
    const ours = this.ingest;
    return {
      sent: Math.max(Number(bytes?.uploaded ?? 0n), ours?.sentBytes ?? 0),
      total: Math.max(Number(bytes?.declared ?? 0n), ours?.foundBytes ?? 0),
    };
  }

  /** A file that failed for this reason, with others of the same to name. */
  failedFor(reason: number, most: number): number[] {
    const ordinals: number[] = [];
    for (let ordinal = 0; ordinal < this.watched.fileCount && ordinals.length < most; ordinal += 1) {
      if (this.stateOf(ordinal) === FileState.FAILED && this.detailOf(ordinal) === reason) ordinals.push(ordinal);
    }
    return ordinals;
  }

  /** Asks once for the words of a reason, by way of a file that failed for it. */
  wantReason(reason: number): void {
    if (!this.mayRead || this.askedReasons.has(reason)) return;
    const [ordinal] = this.failedFor(reason, 1);
    if (ordinal === undefined) return;
    this.askedReasons.add(reason);
    const request = { name: `${this.name}/files/${ordinal}` };
    this.ask(() => this.callers.files.getFile(request)).then(
      (file) => {
        if (file.reason !== undefined) this.reasons.set(reason, file.reason);
        this.changed();
      },
      () => this.askedReasons.delete(reason),
    );
  }

  /** Words come in the language of the request: another language asks anew. */
  forgetWords(): void {
    this.reasons.clear();
    this.askedReasons.clear();
    this.changed();
  }

  /** Asks once for what was not done to files that are shown as done in part. */
  wantWarnings(ordinals: number[]): void {
    const wanted = ordinals.filter((ordinal) => !this.askedWarnings.has(ordinal));
    if (wanted.length === 0 || !this.mayRead) return;
    for (const ordinal of wanted) this.askedWarnings.add(ordinal);
    const isAsking = this.wantedWarnings.length > 0;
    this.wantedWarnings.push(...wanted);
    if (!isAsking) setTimeout(() => void this.loadWarnings(), 120);
  }

  private async loadWarnings(): Promise<void> {
    while (this.wantedWarnings.length > 0) {
      const ordinals = this.wantedWarnings.splice(0, WARNINGS_A_PAGE);
      const request = { selector: { batch: this.name, ordinals }, pageSize: WARNINGS_A_PAGE, view: FileView.FULL };
      try {
        const { files } = await this.ask(() => this.callers.files.listFiles(request));
        for (const file of files) this.warnings.set(file.ordinal, file.warnings[0]?.code ?? "");
        this.changed();
      } catch {
        // Without them the row says that the file was done in part, which is true as well.
        this.wantedWarnings = [];
      }
    }
  }

  private async follow(): Promise<void> {
    try {
      const following = followBatch(this.callers, this.name, this.watched, this.leaving.signal, this.connected);
      for await (const event of following) {
        if (event.kind === "reconnecting") {
          this.line = "reconnecting";
        } else {
          const now = performance.now();
          if (event.kind === "snapshot") this.wasWhole = true;
          this.fileRate.note(this.finished, now);
          if (event.kind !== "part") void this.loadNames();
          if (this.hasEnded && this.wasRunning) this.onEnded?.();
          if (this.isKnown) this.wasRunning = !this.hasEnded;
          if (this.hasEnded && this.watched.batch.endTime === undefined) void this.learnEnd();
        }
        this.changed();
      }
    } catch (thrown) {
      const { code } = ConnectError.from(thrown);
      this.trouble = troubleOf(thrown);
      if (this.trouble.kind === "key") this.line = "no-key";
      else this.line = code === Code.NotFound || code === Code.InvalidArgument ? "gone" : "refused";
      this.changed();
    }
  }

  private readonly connected = (): void => {
    this.line = "live";
    this.trouble = undefined;
    this.changed();
  };

  /** Asks what the batch waits for, unless nothing of it is to be done. */
  async learnWaits(): Promise<void> {
    const { finished, total } = this;
    const asks = this.line === "live" && this.isKnown && !this.hasEnded && finished < total;
    try {
      const batch = asks ? await this.callers.batches.getBatch({ name: this.name }) : undefined;
      const waits = batch?.waits ?? [];
      const queue = waits.length === 0 ? batch?.queue : undefined;
      if (waits.length === 0 && this.waits.length === 0 && queue === undefined && this.queue === undefined) return;
      this.waits = waits;
      this.queue = queue;
      this.changed();
    } catch {
      // What was told stands until the next answer.
    }
  }

  /** Changes carry no times; when it ended is asked for. */
  private async learnEnd(): Promise<void> {
    if (this.askedEndOfRun === this.watched.batch.run) return;
    this.askedEndOfRun = this.watched.batch.run;
    try {
      const { endTime } = await this.ask(() => this.callers.batches.getBatch({ name: this.name }));
      if (endTime !== undefined) this.watched.batch.endTime = endTime;
      this.changed();
    } catch {
      // How long it took is left out then.
    }
  }

  private readonly fileMoved = (
    ordinal: number,
    state: number,
    detail: number,
    oldState: number,
    oldDetail: number,
  ): void => {
    if (oldState === 0 || oldState === FileState.PENDING || oldState === FileState.UPLOADING) {
      this.fedAt = performance.now();
    }
    if (oldState === FileState.FAILED) add(this.failures, oldDetail, -1);
    if (state === FileState.FAILED) add(this.failures, detail, 1);
    if (isInStage(oldState)) add(this.inStage, oldDetail, -1);
    if (isInStage(state)) add(this.inStage, detail, 1);
    this.tally.move(ordinal, bucketOf(state, detail, this.sending.has(ordinal)));
  };

  private rebucket(ordinal: number): void {
    this.tally.move(ordinal, bucketOf(this.stateOf(ordinal), this.detailOf(ordinal), this.sending.has(ordinal)));
    this.changed();
  }

  private sentSoFar(ordinal: number, bytes: number): void {
    const isNew = !this.sending.has(ordinal);
    this.sending.set(ordinal, bytes);
    if (isNew) this.rebucket(ordinal);
  }

  private nameFile(ordinal: number, path: string, size: number): void {
    if (this.tree.addFile(ordinal, path, size)) this.tally.named(ordinal);
  }

  /** Names of files that this page did not list itself, in order, in pages; again whenever there are more. */
  private async loadNames(isWanted = false): Promise<void> {
    const isListing = this.ingest !== undefined && !this.ingest.isOver;
    if (!this.mayRead || this.areNamesLoading || (isListing && !isWanted)) return;
    this.areNamesLoading = true;
    try {
      await this.loadFolders();
      while (this.namesFrom < this.watched.fileCount && !this.leaving.signal.aborted) {
        const ordinals: number[] = [];
        let ordinal = this.namesFrom;
        for (; ordinal < this.watched.fileCount && ordinals.length < NAMES_A_PAGE; ordinal += 1) {
          if (this.tree.fileName[ordinal] === undefined && this.stateOf(ordinal) !== 0) ordinals.push(ordinal);
        }
        if (ordinals.length > 0) {
          const request = { selector: { batch: this.name, ordinals }, pageSize: NAMES_A_PAGE, view: FileView.BASIC };
          const { files } = await this.ask(() => this.callers.files.listFiles(request));
          for (const file of files) this.nameFile(file.ordinal, file.path, Number(file.size));
          this.changed();
        }
        this.namesFrom = ordinal;
      }
    } catch (thrown) {
      if (ConnectError.from(thrown).code === Code.PermissionDenied) {
        this.mayRead = false;
        this.changed();
      } else if (!this.leaving.signal.aborted) this.trouble = troubleOf(thrown);
    } finally {
      this.areNamesLoading = false;
    }
  }

  /** Folders come by themselves too: an empty one is in no file's path. */
  private async loadFolders(): Promise<void> {
    const now = performance.now();
    const hasMore = this.watched.folderCount > this.foldersLoaded;
    if (!hasMore || now - this.foldersLoadedAt < FOLDERS_AGAIN_MS) return;
    this.foldersLoadedAt = now;
    let pageToken = "";
    do {
      const request = { parent: this.name, pageSize: NAMES_A_PAGE, pageToken };
      const page = await this.ask(() => this.callers.batches.listFolders(request));
      for (const { path, ordinal } of page.folders) {
        this.tree.addFolder(path, ordinal);
        this.foldersLoaded = Math.max(this.foldersLoaded, ordinal + 1);
      }
      pageToken = page.nextPageToken;
      this.changed();
    } while (pageToken !== "" && !this.leaving.signal.aborted);
  }

  private ask<T>(call: () => Promise<T>): Promise<T> {
    return retrying(call, { signal: this.leaving.signal });
  }

  readonly changed = (): void => {
    if (this.isPainting) return;
    this.isPainting = true;
    setTimeout(
      () => requestFrame(this.paint),
      Math.max(0, this.paintedAt + LEAST_BETWEEN_PAINTS_MS - performance.now()),
    );
  };

  private readonly paint = (): void => {
    const now = performance.now();
    this.isPainting = false;
    this.paintedAt = now;
    this.version += 1;
    // What was not sent is no measure of how fast sending is.
    if (this.ingest !== undefined) this.uploadRate.note(this.ingest.sentBytes - this.ingest.unchangedBytes, now);
    else if (this.isKnown) this.uploadRate.note(this.bytes.sent, now);
    for (const listener of this.listeners) listener();
  };
}

function isWantOfBytes(reason: number): boolean {
  return reason >= WANT_OF_BYTES.first && reason <= WANT_OF_BYTES.last;
}

function isInStage(state: number): boolean {
  return state === FileState.QUEUED || state === FileState.PROCESSING || state === FileState.RETRYING;
}

function add(counts: Map<number, number>, key: number, by: number): void {
  const count = (counts.get(key) ?? 0) + by;
  if (count <= 0) counts.delete(key);
  else counts.set(key, count);
}

/** A page in the background paints no frames, but its title must still move. */
function requestFrame(paint: () => void): void {
  if (typeof requestAnimationFrame !== "function") {
    setTimeout(paint, 16);
    return;
  }
  const frame = requestAnimationFrame(() => {
    clearTimeout(timer);
    paint();
  });
  const timer = setTimeout(() => {
    cancelAnimationFrame(frame);
    paint();
  }, 500);
}
