import { type EntryRoot, walkEntries } from "./entries";
import { type Dropped, type Emit, joined } from "./found";
import type { Root } from "./handles";
import { walkInWorker } from "./worker-walk";

declare global {
  interface DataTransferItem {
    getAsFileSystemHandle?(): Promise<FileSystemHandle | null>;
  }
  interface Window {
    showDirectoryPicker?(options?: { mode?: "read"; id?: string }): Promise<FileSystemDirectoryHandle>;
  }
}

/**
 * Takes what lies in a drop or a paste. It must be called in the event's own handler: the browser empties the list
 * when that returns. `null` when nothing of it is a file or a folder.
 */
export function takeDropped(items: DataTransferItemList | undefined): Dropped | null {
  const handles: Promise<FileSystemHandle | null>[] = [];
  const entries: FileSystemEntry[] = [];
  for (const item of items ?? []) {
    if (item.kind !== "file") continue;
    if (item.getAsFileSystemHandle !== undefined) handles.push(item.getAsFileSystemHandle());
    const entry = item.webkitGetAsEntry();
    if (entry !== null) entries.push(entry);
  }
  if (handles.length === 0 && entries.length === 0) return null;
  // A promise that fails before the walk looks at it must not count as unhandled.
  for (const handle of handles) handle.catch(() => undefined);

  const only = entries.length === 1 ? entries[0] : undefined;
  return {
    name: only?.name ?? "",
    async walk(emit, signal) {
      const roots = rootsOf((await Promise.allSettled(handles)).map(valueOrNull));
      if (roots !== null && (entries.length === 0 || roots.length === entries.length)) {
        let hasEmitted = false;
        const noting: Emit = (found) => {
          hasEmitted = true;
          return emit(found);
        };
        try {
          return await walkInWorker(roots, noting, signal);
        } catch (trouble) {
          if (hasEmitted || signal.aborted || entries.length === 0) throw trouble;
        }
      }
      await walkEntries(entryRootsOf(entries), emit, signal);
    },
  };
}

/** What the directory picker of Chromium gives: it sees empty folders, as a drop does. */
export function takeDirectory(handle: FileSystemDirectoryHandle): Dropped {
  return { name: handle.name, walk: (emit, signal) => walkInWorker([{ handle, path: "" }], emit, signal) };
}

/** What an input gives, of files or of a folder. Its list holds files only: empty folders are not in it. */
export function takeFiles(files: readonly File[]): Dropped {
  const first = files[0]?.webkitRelativePath.split("/")[0] ?? "";
  const isFolder = first !== "" && files.every((file) => file.webkitRelativePath.startsWith(`${first}/`));
  return {
    name: isFolder ? first : files.length === 1 ? (files[0]?.name ?? "") : "",
    async walk(emit, signal) {
      for (const file of files) {
        signal.throwIfAborted();
        const path = isFolder ? file.webkitRelativePath.slice(first.length + 1) : file.name;
        await emit({
          kind: "file",
          path: path.normalize("NFC"),
          size: file.size,
          modified: file.lastModified,
          open: async () => file,
        });
      }
    },
  };
}

/** One folder becomes the batch itself; several things keep their names in it. */
function rootsOf(handles: (FileSystemHandle | null)[]): Root[] | null {
  if (handles.length === 0 || typeof Worker === "undefined") return null;
  const roots: Root[] = [];
  for (const handle of handles) {
    if (handle === null) return null;
    const isBatch = handles.length === 1 && handle.kind === "directory";
    roots.push({ handle, path: isBatch ? "" : joined("", handle.name) });
  }
  return roots;
}

function entryRootsOf(entries: FileSystemEntry[]): EntryRoot[] {
  return entries.map((entry) => ({
    entry,
    path: entries.length === 1 && entry.isDirectory ? "" : joined("", entry.name),
  }));
}

function valueOrNull<T>(settled: PromiseSettledResult<T | null>): T | null {
  return settled.status === "fulfilled" ? settled.value : null;
}
