import { type Emit, joined, wordsOf } from "./found";
import { Limit } from "./limit";

const FILES_AT_ONCE = 32;
/** Stands for a name that the browser cannot say, because it is not UTF-8: it gives an empty one. */
const UNSPEAKABLE = "\u{fffd}";

/** An entry and the path under which its content is kept; an empty path keeps the content without its folder. */
export interface EntryRoot {
  entry: FileSystemEntry;
  path: string;
}

interface Folder {
  entry: FileSystemDirectoryEntry;
  path: string;
}

/**
 * Walks entries, which show every name that the disk has, and takes each file whose path is not in `taken` yet. Files go
 * on as they are found; nothing but the names of open folders is kept. Each answer of the browser comes as a task of its
 * own, so the page is painted in between.
 */
export async function walkEntries(
  roots: EntryRoot[],
  emit: Emit,
  signal: AbortSignal,
  taken: ReadonlySet<string> = new Set(),
): Promise<void> {
  const limit = new Limit(FILES_AT_ONCE);
  const pending: Folder[] = [];
  const take = async (entry: FileSystemEntry, path: string, folders: Folder[]) => {
    signal.throwIfAborted();
    if (entry.isDirectory) folders.push({ entry: entry as FileSystemDirectoryEntry, path });
    else if (!taken.has(path)) await limit.add(() => takeFile(entry as FileSystemFileEntry, path, emit));
  };
  for (const { entry, path } of roots) await take(entry, path, pending);
  pending.reverse();
  for (let folder = pending.pop(); folder !== undefined; folder = pending.pop()) {
    const { entry, path } = folder;
    const below: Folder[] = [];
    let isEmpty = true;
    try {
      for await (const child of childrenOf(entry)) {
        isEmpty = false;
        if (child.name !== "") await take(child, joined(path, child.name), below);
        // Never entered: a folder without a name leads back to the folder that it is in, and so on without an end.
        else await emit({ kind: "not-utf8", path: joined(path, UNSPEAKABLE), isFolder: child.isDirectory });
      }
      if (isEmpty && path !== "") await emit({ kind: "empty-folder", path });
    } catch (trouble) {
      signal.throwIfAborted();
      if (!(trouble instanceof NotListed)) throw trouble;
      await emit({ kind: "unreadable", path, isFolder: true, why: whyNotListed(trouble.cause) });
    }
    for (const one of below.reverse()) pending.push(one);
  }
  await limit.ended();
}

async function takeFile(entry: FileSystemFileEntry, path: string, emit: Emit): Promise<void> {
  // The file is asked for again when its turn has come: an entry costs less memory than a file.
  const open = () => new Promise<File>((resolve, reject) => entry.file(resolve, reject));
  let file: File;
  try {
    file = await open();
  } catch (trouble) {
    await emit({ kind: "unreadable", path, isFolder: false, why: wordsOf(trouble) });
    return;
  }
  await emit({ kind: "file", path, size: file.size, modified: file.lastModified, open });
}

/** Of a folder that may not be read Chromium says that somebody tried to write to it. */
function whyNotListed(trouble: unknown): string {
  return trouble instanceof Error && trouble.name === "NoModificationAllowedError" ? "" : wordsOf(trouble);
}

/** The folder itself failed, and not whoever takes what is in it. */
class NotListed extends Error {}

/** A reader answers in pages of at most a hundred, and with an empty one at the end. */
async function* childrenOf(folder: FileSystemDirectoryEntry): AsyncGenerator<FileSystemEntry, void> {
  const reader = folder.createReader();
  for (;;) {
    let page: FileSystemEntry[];
    try {
      page = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    } catch (cause) {
      throw new NotListed("", { cause });
    }
    if (page.length === 0) return;
    yield* page;
  }
}
