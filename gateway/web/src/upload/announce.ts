import { type ConnectError, timestampFromMs, violationsOf } from "@caudal/client";
import type { EmptyFolder, FoundFile } from "../scan/found";

/** A file with its checksum, where it was read. */
export type EnteredFile = FoundFile & { sha256?: Uint8Array<ArrayBuffer> | undefined };

/** What becomes an entry of the manifest. */
export type Entered = EnteredFile | EmptyFolder;

/** As it is announced. */
export function entryOf(found: Entered) {
  if (found.kind === "empty-folder") return { path: found.path, kind: { case: "directory" as const, value: {} } };
  const value = {
    size: BigInt(found.size),
    ...(found.sha256 === undefined ? {} : { sha256: found.sha256 }),
    ...(found.modified > 0 ? { modifiedTime: timestampFromMs(found.modified) } : {}),
  };
  return { path: found.path, kind: { case: "file" as const, value } };
}

/** Entries that a refusal names as `entries[i]…`, with what is wrong. */
export function entriesNamedIn(refusal: ConnectError, count: number): Map<number, string> {
  const named = new Map<number, string>();
  for (const { field, description } of violationsOf(refusal)) {
    const index = Number(/^entries\[(\d+)\]/.exec(field)?.[1] ?? Number.NaN);
    if (index < count && !named.has(index)) named.set(index, description);
  }
  return named;
}
