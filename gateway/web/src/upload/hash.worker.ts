// Reads files off the main thread and says what their checksums are.

import type { FromHasher, ToHasher } from "./hash-messages";
import { sha256Of } from "./sha256";

self.onmessage = async ({ data: { request, file } }: MessageEvent<ToHasher>) => {
  let answer: FromHasher = { request };
  try {
    answer = { request, sha256: await sha256Of(file) };
  } catch {
    // Whoever sends the file meets the same, and says it.
  }
  self.postMessage(answer);
};
