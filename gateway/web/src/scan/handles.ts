import { joined, wordsOf } from "./found";
import { Limit } from "./limit";

/** Sizes asked for at once: measured, more gains nothing and fewer loses a lot. */
const FILES_AT_ONCE = 32;

/** What the walk of handles finds; the handle stays where it was found, so that only names travel. */
export type FoundHandle =
  | { kind: "file"; path: string; size: number; modified: number; handle: FileSystemFileHandle }
  | { kind: "empty-folder"; path: string }
  | { kind: "unreadable"; path: string; why: string };

/** A handle and the path under which its content is kept; an empty path keeps the content without its folder. */
export interface Root {
  handle: FileSystemHandle;
  path: string;
}

/** Walks handles of the File System Access API: the fast way, and the only one that also works in a Worker. */
export async function walkHandles(roots: Root[], emit: (found: FoundHandle) => void): Promise<void> {
  const limit = new Limit(FILES_AT_ONCE);

  const takeFile = (handle: FileSystemFileHandle, path: string) =>
    limit.add(async () => {
      try {
        const file = await handle.getFile();
        emit({ kind: "file", path, size: file.size, modified: file.lastModified, handle });
      } catch (trouble) {
        emit({ kind: "unreadable", path, why: wordsOf(trouble) });
      }
    });

  const pending: { handle: FileSystemDirectoryHandle; path: string }[] = [];
  for (const { handle, path } of roots) {
    if (handle.kind === "directory") pending.push({ handle: handle as FileSystemDirectoryHandle, path });
    else await takeFile(handle as FileSystemFileHandle, path);
  }
  for (let folder = pending.pop(); folder !== undefined; folder = pending.pop()) {
    let isEmpty = true;
    try {
      for await (const child of folder.handle.values()) {
        isEmpty = false;
        const path = joined(folder.path, child.name);
        if (child.kind === "directory") pending.push({ handle: child as FileSystemDirectoryHandle, path });
        else await takeFile(child as FileSystemFileHandle, path);
      }
      if (isEmpty && folder.path !== "") emit({ kind: "empty-folder", path: folder.path });
    } catch (trouble) {
      emit({ kind: "unreadable", path: folder.path, why: wordsOf(trouble) });
    }
  }
  await limit.ended();
}
