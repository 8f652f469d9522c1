import type { PutTarget } from "@caudal/client";

/** What the store said. Status 0: it did not answer. */
export interface PutAnswer {
  status: number;
  etag: string;
  /** The store's own code of its trouble, such as `AccessDenied`. */
  code: string;
}

/** Where a PUT goes: a whole file, or a part of one. */
export type PutTo = Pick<PutTarget, "url" | "headers">;

export type Put = (
  target: PutTo,
  file: Blob,
  onProgress: (bytes: number) => void,
  signal: AbortSignal,
) => Promise<PutAnswer>;

/** The code of a PUT that this page may not send: the store is at another address than when the page was loaded. */
export const MOVED = "moved";

/** Origins that the browser keeps this page from, by the policy that it was loaded with. */
const blocked = new Set<string>();
if (typeof document !== "undefined") {
  document.addEventListener("securitypolicyviolation", ({ blockedURI }) => {
    if (URL.canParse(blockedURI)) blocked.add(new URL(blockedURI).origin);
  });
}

/** A PUT that moves no byte for so long is given up and tried again. */
const STALLED_MS = 60_000;

/** Sends one file. XMLHttpRequest, because fetch tells nothing of how far an upload is. */
export const putWithXhr: Put = (target, file, onProgress, signal) =>
  new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    let stalled: ReturnType<typeof setTimeout> | undefined;
    const watchForStall = () => {
      clearTimeout(stalled);
      stalled = setTimeout(() => request.abort(), STALLED_MS);
    };
    const stop = () => request.abort();
    const end = (settle: () => void) => {
      clearTimeout(stalled);
      signal.removeEventListener("abort", stop);
      settle();
    };
    const noAnswer = () =>
      end(() => {
        const code = URL.canParse(target.url) && blocked.has(new URL(target.url).origin) ? MOVED : "";
        if (signal.aborted) reject(signal.reason);
        else resolve({ status: 0, etag: "", code });
      });

    request.open("PUT", target.url);
    for (const { name, value } of target.headers) {
      // The browser sets these itself and lets nobody else.
      if (name !== "host" && name !== "content-length") request.setRequestHeader(name, value);
    }
    request.upload.onprogress = (event) => {
      watchForStall();
      onProgress(event.loaded);
    };
    request.onload = () =>
      end(() =>
        resolve({
          status: request.status,
          // Asked for by name, an ETag that the store does not expose is an error in the browser's console for every file.
          etag: /^etag: *(.*?)\r?$/im.exec(request.getAllResponseHeaders())?.[1] ?? "",
          code: /<Code>([^<]+)<\/Code>/.exec(request.responseText)?.[1] ?? "",
        }),
      );
    request.onerror = noAnswer;
    request.onabort = noAnswer;
    signal.addEventListener("abort", stop, { once: true });
    watchForStall();
    request.send(file);
  });
