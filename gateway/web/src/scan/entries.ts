import { type Emit, joined, wordsOf } from "./found";
import { Limit } from "./limit";

const FILES_AT_ONCE = 8;

export interface EntryRoot {
  entry: FileSystemEntry;
  path: string;
}

/** Walks the entries that every browser gives for a drop: slower than handles, but it sees empty folders too. */
export async function walkEntries(roots: EntryRoot[], emit: Emit, signal: AbortSignal): Promise<void> {
  const limit = new Limit(FILES_AT_ONCE);
  const pending = [...roots].reverse();
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    signal.throwIfAborted();
    const { entry, path } = next;
    if (entry.isFile) {
      await limit.add(() => takeFile(entry as FileSystemFileEntry, path, emit));
      continue;
    }
    try {
      const children = await childrenOf(entry as FileSystemDirectoryEntry);
      if (children.length === 0 && path !== "") await emit({ kind: "empty-folder", path });
      for (const child of children.reverse()) pending.push({ entry: child, path: joined(path, child.name) });
    } catch (trouble) {
      await emit({ kind: "unreadable", path, why: wordsOf(trouble) });
    }
  }
  await limit.ended();
}

async function takeFile(entry: FileSystemFileEntry, path: string, emit: Emit): Promise<void> {
  let file: File;
  try {
    file = await new Promise<File>((resolve, reject) => entry.file(resolve, reject));
  } catch (trouble) {
    await emit({ kind: "unreadable", path, why: wordsOf(trouble) });
    return;
  }
  await emit({ kind: "file", path, size: file.size, modified: file.lastModified, open: async () => file });
}

/** A reader answers in pages of at most a hundred, and with an empty one at the end. */
async function childrenOf(folder: FileSystemDirectoryEntry): Promise<FileSystemEntry[]> {
  const reader = folder.createReader();
  const children: FileSystemEntry[] = [];
  for (;;) {
    const page = await new Promise<FileSystemEntry[]>((resolve, reject) => reader.readEntries(resolve, reject));
    if (page.length === 0) return children;
    for (const entry of page) children.push(entry);
  }
}
