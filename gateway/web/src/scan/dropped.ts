import { type EntryRoot, walkEntries } from "./entries";
import { type Dropped, type Emit, joined } from "./found";
import type { Root } from "./handles";
import { RULES_FILE } from "./left-out";
import { walkInWorker } from "./worker-walk";

declare global {
  interface DataTransferItem {
    getAsFileSystemHandle?(): Promise<FileSystemHandle | null>;
  }
}

/** A folder that the browser asks the person about gives no handle before the answer. It is taken without one. */
const HANDLES_WITHIN_MS = 2_000;
/** Sizes of picked files are read one after the other; the page is painted and answers at least this often. */
const LONGEST_TURN_MS = 12;

/**
 * Takes what lies in a drop or a paste, in two walks. Handles are fast and walked off the main thread, but Chromium hides
 * names from them that it holds for unsafe: `desktop.ini`, `a?b.txt`, each with a zero-width joiner, whole folders of such
 * names. Entries show every name; the walk of them takes what the handles did not show, and knows what is empty.
 *
 * It must be called in the event's own handler: the browser empties the list when that returns. `null` when nothing of it
 * is a file or a folder.
 */
export function takeDropped(items: DataTransferItemList | undefined): Dropped | null {
  const handles: Promise<FileSystemHandle | null>[] = [];
  const entries: FileSystemEntry[] = [];
  const loose: File[] = [];
  for (const item of items ?? []) {
    if (item.kind !== "file") continue;
    const entry = item.webkitGetAsEntry();
    // A picture that was pasted is a file without a place on a disk.
    const file = entry === null ? item.getAsFile() : null;
    if (entry !== null) {
      entries.push(entry);
      if (item.getAsFileSystemHandle !== undefined) handles.push(item.getAsFileSystemHandle().catch(() => null));
    } else if (file !== null) loose.push(file);
  }
  const count = entries.length + loose.length;
  if (count === 0) return null;

  const given = givenInTime(handles);
  return {
    handles: () => given,
    rules: () => rulesIn(count === 1 ? entries[0] : undefined),
    name: count === 1 ? (entries[0]?.name ?? loose[0]?.name ?? "") : "",
    async walk(emit, signal) {
      for (const file of loose) await emitFile(file, joined("", file.name), emit);
      const taken = new Set<string>();
      const roots = typeof Worker === "undefined" ? [] : handleRootsOf(await given, count);
      if (roots.length > 0) {
        const noting: Emit = (found) => {
          taken.add(found.path);
          return emit(found);
        };
        await walkInWorker(roots, noting, signal);
      }
      await walkEntries(rootsOf(entries, count), emit, signal, taken);
    },
  };
}

/** What a browser found again by its handles. Names that handles hide are not among it. */
export function takeHandles(handles: FileSystemHandle[]): Dropped {
  return {
    name: "",
    async rules() {
      const [root] = handles;
      if (handles.length !== 1 || root?.kind !== "directory") return undefined;
      const file = await (root as FileSystemDirectoryHandle).getFileHandle(RULES_FILE).catch(() => undefined);
      return (await file?.getFile())?.text();
    },
    walk: (emit, signal) => walkInWorker(handleRootsOf(handles, handles.length), emit, signal),
  };
}

/** What an input gives, of files or of a folder. Its list holds files only: empty folders are not in it. */
export function takeFiles(files: readonly File[]): Dropped {
  const first = files[0]?.webkitRelativePath.split("/")[0] ?? "";
  const isFolder = first !== "" && files.every((file) => file.webkitRelativePath.startsWith(`${first}/`));
  return {
    name: isFolder ? first : files.length === 1 ? (files[0]?.name ?? "") : "",
    rules: async () => files.find((file) => file.webkitRelativePath === `${first}/${RULES_FILE}`)?.text(),
    async walk(emit, signal) {
      let turnEnds = 0;
      for (const file of files) {
        if (performance.now() > turnEnds) {
          await new Promise((resolve) => setTimeout(resolve));
          turnEnds = performance.now() + LONGEST_TURN_MS;
        }
        signal.throwIfAborted();
        await emitFile(file, isFolder ? pathInFolder(file, first) : joined("", file.name), emit);
      }
    },
  };
}

async function rulesIn(entry: FileSystemEntry | undefined): Promise<string | undefined> {
  if (entry === undefined || !entry.isDirectory) return undefined;
  const folder = entry as FileSystemDirectoryEntry;
  if (folder.getFile === undefined) return undefined;
  const found = await new Promise<FileSystemEntry | undefined>((resolve) =>
    folder.getFile(RULES_FILE, {}, resolve, () => resolve(undefined)),
  );
  if (found === undefined) return undefined;
  const file = await new Promise<File | undefined>((resolve) =>
    (found as FileSystemFileEntry).file(resolve, () => resolve(undefined)),
  );
  return file?.text();
}

/** Chromium turns each backslash of a name into a slash; the name alone shows whether there is one. */
function pathInFolder(file: File, folder: string): string {
  const shown = file.webkitRelativePath.slice(folder.length + 1);
  const name = file.name.replaceAll("\\", "/");
  const path = shown.endsWith(name) ? shown.slice(0, shown.length - name.length) + file.name : shown;
  return path.normalize("NFC");
}

function emitFile(file: File, path: string, emit: Emit): Promise<void> | void {
  const { size, lastModified: modified } = file;
  return emit({ kind: "file", path, size, modified, open: async () => file });
}

async function givenInTime(handles: Promise<FileSystemHandle | null>[]): Promise<FileSystemHandle[]> {
  const none = new Promise<null>((resolve) => setTimeout(() => resolve(null), HANDLES_WITHIN_MS));
  const given = await Promise.all(handles.map((handle) => Promise.race([handle, none])));
  return given.filter((handle) => handle !== null);
}

function handleRootsOf(handles: FileSystemHandle[], count: number): Root[] {
  return handles.map((handle) => ({
    handle,
    path: count === 1 && handle.kind === "directory" ? "" : joined("", handle.name),
  }));
}

/** One folder becomes the batch itself; several things keep their names in it. */
function rootsOf(entries: FileSystemEntry[], count: number): EntryRoot[] {
  return entries.map((entry) => ({
    entry,
    path: count === 1 && entry.isDirectory ? "" : joined("", entry.name),
  }));
}
