import { type Caudal, Code, ConnectError, FileView, type File as Held, timestampDate } from "@caudal/client";
import { newRequestId } from "../identity";
import type { FoundFile } from "../scan/found";
import { Limit } from "../scan/limit";
import { type EnteredFile, entriesNamedIn, entryOf } from "./announce";
import { HASHED_AT_ONCE, HASHED_UP_TO, type Hash } from "./hash";

/** Times of change come with different precision. */
const ROUNDED_MS = 1;

/** A file that was dropped again and whose bytes the batch has, of the same size. */
export interface Arrived {
  ordinal: number;
  file: FoundFile;
}

/** By what a batch may be asked, each call tried again while it may pass. */
export interface Asking {
  callers: Pick<Caudal, "batches" | "files">;
  batch: string;
  /** It takes announcements. */
  isOpen: boolean;
  call<T>(call: () => Promise<T>): Promise<T>;
}

/**
 * Which of these files are not what the batch holds of them, at most a page of a listing. Checksums are compared: that of
 * the content, and while nobody has read that yet, the one that was announced, which only an open batch is asked for. A
 * file of which neither is known, or that cannot be read now, is taken for the one that arrived.
 */
export async function changedSince(asking: Asking, arrived: Arrived[], hash: Hash): Promise<Arrived[]> {
  const { callers, batch, isOpen } = asking;
  const selector = { batch, ordinals: arrived.map(({ ordinal }) => ordinal) };
  const request = { selector, pageSize: arrived.length, view: FileView.BASIC };
  const { files } = await asking.call(() => callers.files.listFiles(request));
  const held = new Map(files.map((file) => [file.ordinal, file]));

  const changed: Arrived[] = [];
  const unread: { one: Arrived; hashed: EnteredFile }[] = [];
  const limit = new Limit(HASHED_AT_ONCE);
  for (const one of arrived) {
    const known = held.get(one.ordinal);
    if (known === undefined || !isToBeRead(one.file, known, isOpen)) continue;
    await limit.add(async () => {
      const bytes = await one.file.open().catch(() => undefined);
      if (bytes === undefined) return;
      const sha256 = bytes.size === one.file.size ? await hash(bytes) : undefined;
      if (bytes.size !== one.file.size) changed.push(one);
      else if (sha256 === undefined) return;
      else if (known.sha256.length === 0) unread.push({ one, hashed: { ...one.file, sha256 } });
      else if (!isSame(sha256, known.sha256)) changed.push(one);
    });
  }
  await limit.ended();

  const bad = await announcedOtherwise(
    asking,
    unread.map(({ hashed }) => hashed),
  );
  for (const { one, hashed } of unread) if (bad.has(hashed)) changed.push(one);
  return changed.sort((a, b) => a.ordinal - b.ordinal);
}

/** One that is long to read is read where its time of change is another than was announced. */
function isToBeRead(file: FoundFile, { sha256, modifiedTime }: Held, isOpen: boolean): boolean {
  if (file.size <= HASHED_UP_TO) return sha256.length > 0 || isOpen;
  if (sha256.length === 0) return false;
  return modifiedTime === undefined || Math.abs(timestampDate(modifiedTime).getTime() - file.modified) > ROUNDED_MS;
}

/** Those that an open batch refuses with their checksum and without one: they were announced with another. */
async function announcedOtherwise(asking: Asking, files: EnteredFile[]): Promise<ReadonlySet<EnteredFile>> {
  const refused = await refusedOf(asking, files);
  if (refused.length === 0) return new Set();
  // Whoever announced it first may have given no checksum.
  const without = new Map(refused.map((file) => [file.path, file]));
  const again = await refusedOf(
    asking,
    refused.map((file) => ({ ...file, sha256: undefined })),
  );
  return new Set(again.flatMap(({ path }) => without.get(path) ?? []));
}

/** Announces again what the manifest has, which adds nothing, until no more of it is refused as another. */
async function refusedOf({ callers, batch, call }: Asking, files: EnteredFile[]): Promise<EnteredFile[]> {
  const refused: EnteredFile[] = [];
  for (let page = files; page.length > 0; ) {
    const request = { batch, entries: page.map(entryOf), requestId: newRequestId() };
    try {
      await call(() => callers.batches.addEntries(request));
      break;
    } catch (thrown) {
      const refusal = ConnectError.from(thrown);
      // Nobody can tell any more: it was completed meanwhile.
      if (refusal.code === Code.FailedPrecondition) break;
      const bad = entriesNamedIn(refusal, page.length);
      if (refusal.code !== Code.AlreadyExists || bad.size === 0) throw thrown;
      refused.push(...page.filter((_, index) => bad.has(index)));
      page = page.filter((_, index) => !bad.has(index));
    }
  }
  return refused;
}

export function isSame(one: Uint8Array, other: Uint8Array): boolean {
  return one.length === other.length && one.every((byte, index) => byte === other[index]);
}
