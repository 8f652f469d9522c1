import {
  type Caudal,
  Code,
  ConnectError,
  type Duration,
  durationMs,
  MissingFiles,
  type MultipartTarget,
  type RetryOptions,
  retrying,
  type UploadTarget,
  waitBefore,
} from "@caudal/client";
import { newRequestId } from "../identity";
import { type Dropped, type EmptyFolder, type FoundFile, wordsOf } from "../scan/found";
import { type Trouble, troubleOf } from "../trouble";
import { type Entered, type EnteredFile, entriesNamedIn, entryOf } from "./announce";
import { changedSince, isSame } from "./arrived";
import { isOfStore, isOtherContent, storeWords } from "./attempt";
import { HASHED_AT_ONCE, HASHED_UP_TO, type Hash, Hasher } from "./hash";
import type { Compared, Known, KnownFile } from "./known";
import { Lanes } from "./lanes";
import { PathLoad } from "./path-load";
import { causeOf, type NotTaken, noteOf, type Problem, type ProblemKind } from "./problems";
import { MOVED, type Put, type PutAnswer, type PutTo, putWithXhr } from "./put";
import { Queue } from "./queue";

const ENTRIES_A_PAGE = 1_000;
const PARTS_AT_ONCE = 4;
const ENTRIES_GATHER_MS = 60;
const TARGETS_A_PAGE = 100;
/** Targets that wait for a lane. They expire, so they are asked for just in time. */
const TARGETS_WAITING = 24;
const CONFIRMATIONS_A_PAGE = 1_000;
const CONFIRM_GATHER_MS = 80;
const COMPARED_A_PAGE = 1_000;
/** Somebody waits for it. */
const CAUSES_TOLD_WITHIN = 4;
/** So many are found ahead of those that are read for their checksums: how many there are is to be known soon. */
const FOUND_WAITING = 20_000;
/** How often the request of one file may be refused. What the store is in costs no file an attempt. */
const ATTEMPTS = 8;
/** What failed for want of its bytes is made ready for them by the gateway, which takes a moment. */
const REVIVING_ROUNDS = 40;
const REVIVED_A_CALL = 1_000;
/** A file on a network drive may be away for a moment. */
const READ_ATTEMPTS = 3;
/** A target is asked for anew when it expires sooner than this. */
const EXPIRY_MARGIN_MS = 30_000;

/** Codes of google.rpc.Status that a repetition may change: ABORTED and UNAVAILABLE. */
const PASSING = new Set([10, 14]);
const FAILED_PRECONDITION = 9;

export interface Listed {
  ordinal: number;
  path: string;
  size: number;
}

/** `short`: all that was dropped is sent, and the batch waits for more. */
export type Phase = "scanning" | "uploading" | "completing" | "completed" | "short" | "stopped";

/** Told as it happens; nothing here may throw. */
export interface IngestEvents {
  onListed?(files: Listed[], folders: { path: string; ordinal: number }[]): void;
  onUploadBegun?(ordinal: number, size: number): void;
  onUploadMoved?(ordinal: number, bytes: number): void;
  onUploadEnded?(ordinal: number): void;
  /** Something of the progress is new. */
  onProgress?(): void;
}

export interface IngestSetting extends RetryOptions {
  put?: Put;
  hash?: Hash;
  /** For a batch that was begun before: what it holds. */
  known?: () => Promise<Known | undefined>;
  /** Asked at the end: whether the batch is complete with what was dropped; without it, it is. */
  completes?: () => boolean;
}

/** What becomes an entry of the manifest. */
type Taken = FoundFile | EmptyFolder;

/** What was found at a path, and in which of what was dropped. */
interface Met {
  turn: number;
  size: number;
  modified: number;
  sha256?: Uint8Array;
}

interface Waiting {
  ordinal: number;
  file: FoundFile;
}

interface Assigned extends Waiting {
  target: Target;
}

/** Since when at the latest a target is good. The gateway says for how long, because its clock is not this one. */
type Target = UploadTarget & { askedAt: number };

interface Landed {
  ordinal: number;
  target: number;
  etag: string;
  path: string;
}

/**
 * Sends what is dropped into one batch: walks, lists, uploads, confirms and completes, all at the same time. Into a batch
 * that was begun before it sends what is not there yet, by path and size, and names what has changed since. Of such a batch
 * it gives no file up: the batch waits on for what could not be sent, until a person ends it without.
 */
export class Ingest {
  phase: Phase = "scanning";
  /** The walk is over. */
  isWalked = false;
  /** Files for the batch: those that were refused are taken off again. */
  foundFiles = 0;
  foundBytes = 0;
  emptyFolders = 0;
  listedFiles = 0;
  /** Of the bytes found, in the store; part of those under way included. */
  sentBytes = 0;
  confirmedFiles = 0;
  /** Files whose bytes this sent, as far as the gateway has said that it holds them. */
  sentFiles = 0;
  /** Files whose content the tenant held: nothing of them was sent. */
  unchangedFiles = 0;
  unchangedBytes = 0;
  /** Files that were listed and will not arrive. */
  givenUp = 0;
  /** What was dropped and is not in the batch. */
  readonly notTaken: NotTaken = { files: 0, folders: 0, named: [] };
  /** What is in the batch and could not be sent. */
  readonly notSent: Problem[] = [];
  /** What is in the batch as it was announced or arrived, which is not as it was dropped now. */
  readonly changedSince: Problem[] = [];
  /** While a call is tried again, or after this was stopped by an error. */
  trouble: Trouble | undefined;
  /** While the store takes nothing. */
  storeTrouble: Trouble | undefined;
  /** For a batch that was begun before. */
  compared: Compared | undefined;
  readonly ended: Promise<void>;

  private readonly stopping = new AbortController();
  private found = new Queue<Taken>(FOUND_WAITING);
  private reading = new Queue<Promise<Entered>>(HASHED_AT_ONCE);
  private read = new Queue<Entered>(ENTRIES_A_PAGE);
  private waiting = new Queue<Waiting>();
  private targets = new Queue<Assigned>(TARGETS_WAITING);
  private landed = new Queue<Landed>();
  private arrived = new Queue<Waiting>();
  private readonly lanes = new Lanes();
  private readonly put: Put;
  private readonly hasher = new Hasher();
  private readonly hash: Hash | undefined;
  /** What is to be sent after what is being sent. */
  private readonly dropped: Dropped[];
  /** Names that differ on the disk may be one once they are composed alike, and so may two folders from different places. */
  private readonly paths = new Map<string, Met>();
  /** Which of what was dropped is walked. */
  private turn = 0;
  private known: Known | undefined;
  private readonly askKnown: (() => Promise<Known | undefined>) | undefined;
  private readonly completes: () => boolean;
  /** Files of the batch that wait for bytes which nobody has sent yet. */
  private lacking: Set<number> | undefined;
  /** Of a batch that was begun before: what could not be sent, by ordinal with its cause. It is waited for on. */
  private readonly unsent = new Map<number, string>();
  /** Of those that are lacking: those that were dropped with another size. */
  private otherSize = 0;
  private readonly revived = new Set<number>();
  /** What was given up and is yet to be told to the batch. */
  private leftOut: { ordinal: number; cause: string }[] = [];
  private readonly retry: RetryOptions;

  constructor(
    private readonly callers: Pick<Caudal, "batches" | "files" | "uploads">,
    readonly batch: string,
    dropped: Dropped,
    private readonly events: IngestEvents = {},
    setting: IngestSetting = {},
  ) {
    const { put = putWithXhr, hash = Hasher.isPossible ? this.hasher.hash : undefined, known, ...rest } = setting;
    const { completes = () => true, ...retry } = rest;
    this.completes = completes;
    this.put = put;
    this.hash = hash;
    this.askKnown = known;
    this.dropped = [dropped];
    this.retry = {
      ...retry,
      signal: this.stopping.signal,
      onWait: (trouble) => {
        this.trouble = troubleOf(trouble);
        this.told();
      },
    };
    this.ended = this.run();
  }

  get isOver(): boolean {
    return this.phase === "completed" || this.phase === "short" || this.phase === "stopped";
  }

  /** Sends this too, into the same batch. Answers whether that is still possible. */
  add(dropped: Dropped): boolean {
    if (this.isOver || this.phase === "completing") return false;
    this.dropped.push(dropped);
    return true;
  }

  /** Stops sending. The batch stays open, and what arrived is processed. */
  stop(): void {
    this.stopping.abort(new Error("stopped"));
  }

  /** Tells the batch why files that it waits for have no bytes, before a person ends it without them. */
  async leaveOutUnsent(): Promise<void> {
    for (const [ordinal, cause] of this.unsent) this.leftOut.push({ ordinal, cause });
    this.unsent.clear();
    // This may have been stopped; and the batch can be ended without their causes.
    await this.tellLeftOut((call) => retrying(call, { attempts: CAUSES_TOLD_WITHIN })).catch(() => undefined);
  }

  private async run(): Promise<void> {
    try {
      this.known = await this.askKnown?.();
      if (this.known !== undefined) {
        this.lacking = new Set(this.known.waiting);
        this.compared = { matched: 0, changed: 0, arrived: 0, missing: 0 };
      }
      for (let dropped = this.dropped.shift(); dropped !== undefined; dropped = this.dropped.shift()) {
        await this.send(dropped);
      }
      this.phase = "completing";
      this.told();
      await this.noteWhatIsNotTaken();
      await this.complete();
    } catch (trouble) {
      this.phase = "stopped";
      this.trouble = troubleOf(trouble);
    } finally {
      this.hasher.close();
    }
    this.told();
  }

  private async send(dropped: Dropped): Promise<void> {
    this.found = new Queue(FOUND_WAITING);
    this.reading = new Queue(HASHED_AT_ONCE);
    this.read = new Queue(ENTRIES_A_PAGE);
    this.waiting = new Queue();
    this.targets = new Queue(TARGETS_WAITING);
    this.landed = new Queue();
    this.arrived = new Queue();
    this.isWalked = false;
    this.turn += 1;
    this.phase = "scanning";
    const steps = [this.walk(dropped), this.beginReading(), this.endReading(), this.list()];
    steps.push(this.issue(), this.upload(), this.confirm(), this.compare());
    await Promise.all(steps.map(this.orStop));
    await this.tellLeftOut();
  }

  /** A batch that was begun before is completed when nothing of it is missing: what is may come from another folder. */
  private async complete(): Promise<void> {
    if (!this.completes()) {
      this.phase = "short";
      return;
    }
    const isLacking = this.lacking?.size !== 0 || this.unsent.size > 0;
    if (this.known !== undefined && (!this.known.isOpen || isLacking)) {
      this.phase = "short";
      return;
    }
    const request = {
      name: this.batch,
      missing: this.givenUp > 0 ? MissingFiles.FAIL : MissingFiles.WAIT,
      expectedEntries: this.known === undefined ? this.listedFiles : 0,
      requestId: newRequestId(),
    };
    await this.call(() => this.callers.batches.completeBatch(request));
    this.phase = "completed";
  }

  /** One loop that fails ends the others, each at its next step. */
  private readonly orStop = async (loop: Promise<void>): Promise<void> => {
    try {
      await loop;
    } catch (trouble) {
      this.stopping.abort(trouble);
      const { found, reading, read, waiting, targets, landed, arrived } = this;
      for (const queue of [found, reading, read, waiting, targets, landed, arrived]) queue.close();
      throw trouble;
    }
  };

  private async call<T>(call: () => Promise<T>): Promise<T> {
    const answer = await retrying(call, this.retry);
    this.trouble = undefined;
    return answer;
  }

  private async walk(dropped: Dropped): Promise<void> {
    const { paths } = this;
    const reviving: Waiting[] = [];
    await dropped.walk(async (found) => {
      this.stopping.signal.throwIfAborted();
      const { path } = found;
      if (found.kind === "unreadable") this.leaveOut(path, "unreadable", found.why, found.isFolder);
      else if (found.kind === "left-out") this.leaveOut(path, "left-out", "", false);
      else if (found.kind === "by-rule" || found.kind === "not-utf8")
        this.leaveOut(path, found.kind, "", found.isFolder);
      else if (found.kind === "file") {
        const met = paths.get(path);
        if (met !== undefined) {
          if (!(await this.isMetAgain(found, met))) this.leaveOut(path, "same-name", "", false);
          return this.told();
        }
        paths.set(path, { turn: this.turn, size: found.size, modified: found.modified });
        const before = this.known?.find(path);
        if (before !== undefined) await this.goOnWith(found, before, reviving);
        else if (this.known?.isOpen === false) this.leaveOut(path, "not-in-batch", "", false);
        else await this.take(found);
      } else if (this.known?.isOpen !== false) await this.take(found);
      this.told();
    }, this.stopping.signal);
    await this.revive(reviving);
    this.isWalked = true;
    this.arrived.close();
    if (this.compared !== undefined) this.compared.missing = (this.lacking?.size ?? 0) - this.otherSize;
    if (this.phase === "scanning") this.phase = "uploading";
    this.found.close();
    this.told();
  }

  /** The same file in what was dropped later is in the batch as it is, and not left out. Its content says whether it is. */
  private async isMetAgain(found: FoundFile, met: Met): Promise<boolean> {
    if (met.turn === this.turn || met.size !== found.size) return false;
    if (met.sha256 === undefined) return met.modified === found.modified;
    const { sha256 } = await this.readFor(found);
    return sha256 !== undefined && isSame(sha256, met.sha256);
  }

  private async take(found: Taken): Promise<void> {
    if (found.kind === "file") {
      this.foundFiles += 1;
      this.foundBytes += found.size;
    } else this.emptyFolders += 1;
    await this.found.push(found);
  }

  /** A file that the batch holds already is sent when its bytes are not there and it is what was announced. */
  private async goOnWith(file: FoundFile, { ordinal, size, standing }: KnownFile, reviving: Waiting[]): Promise<void> {
    const compared = this.compared;
    if (compared === undefined) return;
    if (standing === "arrived") {
      if (file.size === size) await this.arrived.push({ ordinal, file });
      else this.isChangedSince(file.path);
      return;
    }
    if (file.size !== size) {
      compared.changed += 1;
      this.otherSize += 1;
      this.notSent.push({ path: file.path, kind: "other-size", why: "", isFolder: false, isListed: true });
      return;
    }
    compared.matched += 1;
    this.lacking?.delete(ordinal);
    this.foundFiles += 1;
    this.foundBytes += size;
    this.listedFiles += 1;
    if (standing === "waits") return this.waiting.push({ ordinal, file });
    reviving.push({ ordinal, file });
    if (reviving.length >= REVIVED_A_CALL) await this.revive(reviving);
  }

  /** What the batch has is compared while the rest is sent. */
  private async compare(): Promise<void> {
    const { compared, hash, known } = this;
    for (;;) {
      const page = await this.arrived.take(COMPARED_A_PAGE, ENTRIES_GATHER_MS);
      if (page.length === 0 || compared === undefined || known === undefined) return;
      const call = <T>(call: () => Promise<T>) => this.call(call);
      const asking = { callers: this.callers, batch: this.batch, isOpen: known.isOpen, call };
      const changed = hash === undefined ? [] : await changedSince(asking, page, hash);
      compared.arrived += page.length - changed.length;
      for (const { file } of changed) this.isChangedSince(file.path);
      this.told();
    }
  }

  private isChangedSince(path: string): void {
    this.changedSince.push({ path, kind: "changed-since", why: "", isFolder: false, isListed: true });
    this.told();
  }

  /** Files that failed for want of their bytes wait for them again. */
  private async revive(failed: Waiting[]): Promise<void> {
    const again = failed.splice(0);
    if (again.length === 0) return;
    const ordinals = again.map(({ ordinal }) => ordinal);
    const request = { selector: { batch: this.batch, ordinals }, requestId: newRequestId() };
    await this.call(() => this.callers.files.retryFiles(request));
    for (const one of again) {
      this.revived.add(one.ordinal);
      await this.waiting.push(one);
    }
  }

  /** Files are read some at a time and announced in their order. */
  private async beginReading(): Promise<void> {
    for (let found = await this.found.next(); found !== undefined; found = await this.found.next()) {
      await this.reading.push(this.withChecksum(found));
    }
    this.reading.close();
  }

  private async endReading(): Promise<void> {
    for (let read = await this.reading.next(); read !== undefined; read = await this.reading.next()) {
      await this.read.push(await read);
    }
    this.read.close();
  }

  /** A file that cannot be read, or is another than was found, is told of when it is sent. */
  private async withChecksum(found: Taken): Promise<Entered> {
    if (found.kind !== "file") return found;
    const read = await this.readFor(found);
    const met = this.paths.get(found.path);
    if (met !== undefined && read.sha256 !== undefined) met.sha256 = read.sha256;
    return read;
  }

  private async readFor(found: FoundFile): Promise<EnteredFile> {
    if (found.size > HASHED_UP_TO || this.hash === undefined) return found;
    try {
      const bytes = await found.open();
      if (bytes.size !== found.size) return found;
      return { ...found, sha256: await this.hash(bytes) };
    } catch {
      return found;
    }
  }

  private async list(): Promise<void> {
    let rest: Entered[] = [];
    for (;;) {
      if (rest.length === 0) rest = await this.read.take(ENTRIES_A_PAGE, ENTRIES_GATHER_MS);
      if (rest.length === 0) break;
      const load = new PathLoad();
      const full = rest.findIndex(({ kind, path }) => !load.add(path, kind === "empty-folder"));
      await this.listPage(rest.splice(0, full < 0 ? rest.length : full));
    }
    this.waiting.close();
  }

  /** Entries that the gateway refuses by name are reported and left out: one bad path must not cost its neighbours. */
  private async listPage(page: Entered[]): Promise<void> {
    while (page.length > 0) {
      const request = { batch: this.batch, entries: page.map(entryOf), requestId: newRequestId() };
      let answer: Awaited<ReturnType<Caudal["batches"]["addEntries"]>>;
      try {
        answer = await this.call(() => this.callers.batches.addEntries(request));
      } catch (thrown) {
        const refusal = ConnectError.from(thrown);
        const bad = entriesNamedIn(refusal, page.length);
        if (bad.size === 0) throw thrown;
        for (const [index, why] of bad) {
          const one = page[index];
          if (refusal.code === Code.AlreadyExists && one?.kind === "file" && one.sha256 !== undefined) {
            // Whoever announced it first may have given no checksum.
            one.sha256 = undefined;
            bad.delete(index);
          } else if (refusal.code === Code.AlreadyExists && one?.kind === "file") {
            this.takeOff(one);
            this.isChangedSince(one.path);
          } else this.refuse(one, why);
        }
        page = page.filter((_, index) => !bad.has(index));
        continue;
      }
      const held = new Set(answer.alreadyHeld);
      const files: Listed[] = [];
      const toSend: Waiting[] = [];
      for (const [index, found] of page.entries()) {
        if (found.kind !== "file") continue;
        const ordinal = answer.ordinals[files.length] ?? answer.firstOrdinal + files.length;
        files.push({ ordinal, path: found.path, size: found.size });
        if (held.has(index)) this.isUnchanged(found.size);
        else toSend.push({ ordinal, file: found });
      }
      this.listedFiles += files.length;
      this.events.onListed?.(
        files,
        answer.folders.map(({ path, folderOrdinal }) => ({ path, ordinal: folderOrdinal })),
      );
      this.told();
      for (const one of toSend) await this.waiting.push(one);
      return;
    }
  }

  private async issue(): Promise<void> {
    for (;;) {
      let page = await this.waiting.take(TARGETS_A_PAGE, ENTRIES_GATHER_MS);
      if (page.length === 0) break;
      for (let round = 1; page.length > 0; round += 1) {
        const targets = await this.targetsFor(page.map(({ ordinal }) => ordinal));
        const again: Waiting[] = [];
        for (const [index, waiting] of page.entries()) {
          const target = targets[index];
          const how = target?.how;
          if (target !== undefined && (how?.case === "put" || how?.case === "multipart")) {
            await this.targets.push({ ...waiting, target });
          } else if (how?.case === "held") this.arrivedBefore(waiting.file.size);
          else if (how?.case === "error" && this.mayPass(waiting.ordinal, how.value.code, round)) again.push(waiting);
          else if (how?.case === "error") this.giveUp(waiting, "refused", how.value.message);
          else this.giveUp(waiting, "upload-failed", "the gateway offers no way to upload that this page knows");
        }
        page = again;
        if (page.length > 0) await this.pauseBefore(round);
      }
    }
    this.targets.close();
  }

  private mayPass(ordinal: number, code: number, round: number): boolean {
    const isReviving = code === FAILED_PRECONDITION && this.revived.has(ordinal) && round < REVIVING_ROUNDS;
    return isReviving || PASSING.has(code);
  }

  private async targetsFor(ordinals: number[]): Promise<Target[]> {
    const askedAt = performance.now();
    const request = { batch: this.batch, files: { case: "ordinals" as const, value: { ordinals } }, parts: true };
    const { targets } = await this.call(() => this.callers.uploads.issueUploads(request));
    return targets.map((target) => ({ ...target, askedAt }));
  }

  private async upload(): Promise<void> {
    const running = new Set<Promise<void>>();
    for (;;) {
      while (running.size >= this.lanes.count) await Promise.race(running);
      const assigned = await this.targets.next();
      if (assigned === undefined) break;
      const run = this.uploadOne(assigned).finally(() => running.delete(run));
      running.add(run);
    }
    await Promise.all(running);
    this.landed.close();
  }

  private async uploadOne({ ordinal, file, target }: Assigned): Promise<void> {
    const { signal } = this.stopping;
    this.events.onUploadBegun?.(ordinal, file.size);
    let sent = 0;
    const moveTo = (bytes: number) => {
      const now = Math.min(bytes, file.size);
      this.sentBytes += now - sent;
      sent = now;
      this.events.onUploadMoved?.(ordinal, now);
      this.told();
    };
    const leave = (kind: ProblemKind, why: string) => {
      moveTo(0);
      this.giveUp({ ordinal, file }, kind, why);
      this.events.onUploadEnded?.(ordinal);
    };

    let failures = 0;
    let readFailures = 0;
    for (let attempt = 1; ; attempt += 1) {
      if (signal.aborted) return;
      let bytes: File;
      try {
        bytes = await file.open();
      } catch (trouble) {
        readFailures += 1;
        if (readFailures >= READ_ATTEMPTS) return leave("unreadable", wordsOf(trouble));
        await this.pauseBefore(attempt);
        continue;
      }
      if (bytes.size !== file.size) return leave("changed", "");

      const put = target.how.case === "put" ? target.how.value : undefined;
      const parts = target.how.case === "multipart" ? target.how.value : undefined;
      const validFor = put?.validFor ?? parts?.firstParts[0]?.validFor;
      let needsTarget = (put === undefined && parts === undefined) || expiresSoon(target, validFor);
      if (!needsTarget) {
        const answer =
          parts === undefined
            ? await this.put(put as PutTo, bytes, moveTo, signal)
            : await this.putParts(parts, bytes, moveTo, signal);
        if (answer.status >= 200 && answer.status < 300) {
          this.lanes.wentWell();
          this.storeTrouble = undefined;
          if (parts !== undefined && parts.firstParts.length > 0) {
            // These parts are there; the gateway knows whether more are missing.
            attempt = 0;
            const another = await this.anotherTarget(ordinal, file);
            if (another === undefined) return;
            if (another !== "not now") target = another;
            continue;
          }
          moveTo(file.size);
          await this.landed.push({ ordinal, target: target.target, etag: answer.etag, path: file.path });
          return;
        }
        moveTo(0);
        if (answer.status === 0 && !(await isReadable(bytes))) return leave(await whyUnreadable(file, bytes), "");
        // Whatever was read for the checksum, this is not it.
        if (isOtherContent(answer)) return leave(this.otherContentOf(file.path), "");
        this.lanes.hadTrouble();
        const isSilent = isOfStore(answer);
        const why = storeWords(answer);
        // The store may have come back elsewhere, which the gateway knows.
        needsTarget = answer.status === 403 || answer.status === 0;
        // An upload that is over is no place for its parts any more.
        if (parts !== undefined && answer.status === 404) needsTarget = true;
        if (!isSilent && !needsTarget) return leave("upload-failed", why);
        if (isSilent) this.storeTrouble = { kind: answer.code === MOVED ? "store-moved" : "store-silent" };
        else failures += 1;
        if (failures >= ATTEMPTS) return leave("upload-failed", why);
      }
      await this.pauseBefore(attempt);
      if (needsTarget || parts !== undefined) {
        const another = await this.anotherTarget(ordinal, file);
        if (another === undefined) return;
        if (another !== "not now") target = another;
      }
    }
  }

  /** Where the bytes go now; nothing when they go nowhere any more, which is noted. */
  private async anotherTarget(ordinal: number, file: FoundFile): Promise<Target | "not now" | undefined> {
    const [another] = await this.targetsFor([ordinal]);
    const leave = (kind: ProblemKind, why: string) => {
      this.giveUp({ ordinal, file }, kind, why);
      this.events.onUploadEnded?.(ordinal);
      return undefined;
    };
    switch (another?.how.case) {
      case "put":
      case "multipart":
        return another;
      case "held":
        // The store had taken them although its answer was lost, and the gateway found them there.
        this.arrivedBefore(file.size);
        this.events.onUploadEnded?.(ordinal);
        return undefined;
      case "error":
        return PASSING.has(another.how.value.code) ? "not now" : leave("refused", another.how.value.message);
      default:
        return leave("upload-failed", "the gateway offers no target for it");
    }
  }

  /** Sends the parts that are offered, some at a time. The first that fails is answered, and the others are left. */
  private async putParts(
    { firstParts, partSize, bytesLanded }: MultipartTarget,
    bytes: File,
    moveTo: (bytes: number) => void,
    signal: AbortSignal,
  ): Promise<PutAnswer> {
    const stopping = new AbortController();
    const stop = () => stopping.abort(signal.reason);
    signal.addEventListener("abort", stop);
    const moved = new Map<number, number>();
    const queue = [...firstParts];
    let failed: PutAnswer | undefined;
    const lane = async () => {
      for (let part = queue.shift(); part !== undefined && failed === undefined; part = queue.shift()) {
        const { number, size, url } = part;
        const from = (number - 1) * Number(partSize);
        const report = (sent: number) => {
          moved.set(number, Math.min(sent, Number(size)));
          moveTo([...moved.values()].reduce((sum, one) => sum + one, Number(bytesLanded)));
        };
        const answer = await this.put(
          { url, headers: [] },
          bytes.slice(from, from + Number(size)),
          report,
          stopping.signal,
        );
        if (answer.status < 200 || answer.status >= 300) {
          failed ??= answer;
          stopping.abort(new Error("another part failed"));
        } else report(Number(size));
      }
    };
    try {
      await Promise.all(Array.from({ length: PARTS_AT_ONCE }, lane));
    } catch (trouble) {
      if (signal.aborted || failed === undefined) throw trouble;
    } finally {
      signal.removeEventListener("abort", stop);
    }
    return failed ?? { status: 200, etag: "", code: "" };
  }

  private async confirm(): Promise<void> {
    for (;;) {
      let page = await this.landed.take(CONFIRMATIONS_A_PAGE, CONFIRM_GATHER_MS);
      if (page.length === 0) return;
      for (let round = 1; page.length > 0; round += 1) {
        const uploads = page.map(({ ordinal, target, etag }) => ({ ordinal, target, etag }));
        const request = { batch: this.batch, uploads, requestId: newRequestId() };
        const { confirmations } = await this.call(() => this.callers.uploads.confirmUploads(request));
        const again: Landed[] = [];
        for (const [index, one] of page.entries()) {
          const result = confirmations[index]?.result;
          if (result?.case !== "error") {
            this.confirmedFiles += 1;
            this.sentFiles += 1;
          } else if (PASSING.has(result.value.code)) {
            again.push(one);
            continue;
          } else {
            this.giveUp({ ordinal: one.ordinal, file: one }, "refused", result.value.message);
          }
          this.events.onUploadEnded?.(one.ordinal);
        }
        this.told();
        page = again;
        if (page.length > 0) await this.pauseBefore(round);
      }
      await this.tellLeftOut();
    }
  }

  /** Whoever looks at the batch later learns why these files have no bytes. */
  private async tellLeftOut(tell = (call: () => Promise<unknown>) => this.call(call)): Promise<void> {
    while (this.leftOut.length > 0) {
      const request = {
        batch: this.batch,
        files: this.leftOut.splice(0, CONFIRMATIONS_A_PAGE),
        requestId: newRequestId(),
      };
      await tell(() => this.callers.uploads.leaveOutFiles(request));
    }
  }

  private async pauseBefore(attempt: number): Promise<void> {
    const { signal } = this.stopping;
    const wait = waitBefore(attempt);
    this.told();
    if (this.retry.sleep !== undefined) return this.retry.sleep(wait, signal);
    await new Promise<void>((resolve) => {
      const end = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", end);
        resolve();
      };
      const timer = setTimeout(end, wait);
      signal.addEventListener("abort", end);
    });
  }

  /** Everything is sent, and the gateway has yet to say that it holds it. */
  get isConfirming(): boolean {
    return this.isWalked && !this.isOver && this.sentBytes >= this.foundBytes && this.confirmedFiles < this.foundFiles;
  }

  private isUnchanged(size: number): void {
    this.unchangedFiles += 1;
    this.unchangedBytes += size;
    this.arrivedBefore(size);
  }

  private arrivedBefore(size: number): void {
    this.sentBytes += size;
    this.confirmedFiles += 1;
  }

  /** What has another checksum than was announced: since this read it, or since the batch was begun. */
  private otherContentOf(path: string): ProblemKind {
    if (this.compared === undefined || this.known?.find(path) === undefined) return "changed";
    this.compared.matched -= 1;
    this.compared.changed += 1;
    return "other-content";
  }

  private takeOff(found: Taken): void {
    if (found.kind === "file") {
      this.foundFiles -= 1;
      this.foundBytes -= found.size;
    } else this.emptyFolders -= 1;
  }

  private refuse(found: Taken | undefined, why: string): void {
    if (found === undefined) return;
    this.takeOff(found);
    this.leaveOut(found.path, "refused", why, found.kind === "empty-folder");
  }

  private leaveOut(path: string, kind: ProblemKind, why: string, isFolder: boolean): void {
    if (isFolder) this.notTaken.folders += 1;
    else this.notTaken.files += 1;
    this.notTaken.named.push({ path, kind, why, isFolder, isListed: false });
    this.told();
  }

  private giveUp({ ordinal, file }: { ordinal: number; file: { path: string } }, kind: ProblemKind, why: string): void {
    if (this.known === undefined) {
      this.givenUp += 1;
      this.leftOut.push({ ordinal, cause: causeOf(kind, why) });
    } else this.unsent.set(ordinal, causeOf(kind, why));
    this.notSent.push({ path: file.path, kind, why, isFolder: false, isListed: true });
    this.told();
  }

  /** Whoever opens the batch later must not take it for the whole folder. */
  private async noteWhatIsNotTaken(): Promise<void> {
    if (this.notTaken.files + this.notTaken.folders === 0 || !this.completes()) return;
    const batch = { name: this.batch, metadata: noteOf(this.notTaken) };
    const request = { batch, updateMask: { paths: ["metadata"] }, requestId: newRequestId() };
    try {
      await this.call(() => this.callers.batches.updateBatch(request));
    } catch {
      this.stopping.signal.throwIfAborted();
      // This page says it all the same, and the files matter more than the note.
      this.trouble = undefined;
    }
  }

  private told(): void {
    this.events.onProgress?.();
  }
}

/** One without a time is tried: the store says when it takes it no more. */
function expiresSoon({ askedAt }: Target, validFor: Duration | undefined): boolean {
  return validFor !== undefined && performance.now() - askedAt + EXPIRY_MARGIN_MS > durationMs(validFor);
}

/** Browsers refuse to read what changed after it was opened as they refuse what may not be read at all. */
async function whyUnreadable(file: FoundFile, opened: File): Promise<ProblemKind> {
  try {
    const now = await file.open();
    const isSame = now.size === opened.size && now.lastModified === opened.lastModified;
    return isSame && !(await isReadable(now)) ? "unreadable" : "changed";
  } catch {
    return "changed";
  }
}

/** A file that changed on disk after it was opened cannot be read any more, which an upload shows as no answer. */
async function isReadable(file: File): Promise<boolean> {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}
