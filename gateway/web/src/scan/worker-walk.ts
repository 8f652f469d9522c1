import type { Emit } from "./found";
import type { Root } from "./handles";
import type { FromWorker, ToWorker } from "./worker-messages";

/**
 * Walks in a Worker, which lives on to open files. Where there can be none it ends at once and nothing was emitted. It
 * throws only what `emit` throws, and when it is stopped.
 */
export async function walkInWorker(roots: Root[], emit: Emit, signal: AbortSignal): Promise<void> {
  const worker = new Worker(new URL("./handles.worker.ts", import.meta.url), { type: "module" });
  const opening = new Map<number, { resolve(file: File): void; reject(trouble: Error): void }>();
  let requests = 0;
  const post = (message: ToWorker) => worker.postMessage(message);
  const open = (id: number) =>
    new Promise<File>((resolve, reject) => {
      const request = requests++;
      opening.set(request, { resolve, reject });
      post({ kind: "open", id, request });
    });

  let emitted = Promise.resolve();
  await new Promise<void>((resolve, reject) => {
    signal.addEventListener("abort", () => {
      worker.terminate();
      for (const { reject } of opening.values()) reject(new Error("stopped"));
      reject(signal.reason);
    });
    worker.onerror = () => emitted.then(resolve, reject);
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      switch (data.kind) {
        case "found":
          emitted = emitted.then(async () => {
            for (const { id, ...row } of data.rows) await emit({ kind: "file", ...row, open: () => open(id) });
          });
          emitted.catch(reject);
          return;
        case "walked":
          emitted.then(resolve, reject);
          return;
        case "file":
          opening.get(data.request)?.resolve(data.file);
          opening.delete(data.request);
          return;
        case "no-file":
          opening.get(data.request)?.reject(new Error(data.why));
          opening.delete(data.request);
      }
    };
    post({ kind: "walk", roots });
  });
}
