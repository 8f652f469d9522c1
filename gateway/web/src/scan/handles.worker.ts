// Walks handles off the main thread and keeps them: the page asks for a file by its number when its turn has come.
import { wordsOf } from "./found";
import { type FoundHandle, walkHandles } from "./handles";
import type { FoundRow, FromWorker, ToWorker } from "./worker-messages";

const ROWS_A_MESSAGE = 500;
const LONGEST_WAIT_MS = 50;

const handles: FileSystemFileHandle[] = [];
const post = (message: FromWorker) => self.postMessage(message);

self.onmessage = async ({ data }: MessageEvent<ToWorker>) => {
  if (data.kind === "walk") {
    let rows: FoundRow[] = [];
    let sentAt = performance.now();
    const send = () => {
      if (rows.length > 0) post({ kind: "found", rows });
      rows = [];
      sentAt = performance.now();
    };
    const emit = ({ handle, ...row }: FoundHandle) => {
      rows.push({ ...row, id: handles.push(handle) - 1 });
      if (rows.length >= ROWS_A_MESSAGE || performance.now() - sentAt > LONGEST_WAIT_MS) send();
    };
    try {
      await walkHandles(data.roots, emit);
    } finally {
      send();
      post({ kind: "walked" });
    }
    return;
  }
  try {
    const handle = handles[data.id];
    if (handle === undefined) throw new Error("the file was never found");
    post({ kind: "file", request: data.request, file: await handle.getFile() });
  } catch (trouble) {
    post({ kind: "no-file", request: data.request, why: wordsOf(trouble) });
  }
};
