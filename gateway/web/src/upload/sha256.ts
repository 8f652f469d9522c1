import { sha256 } from "@noble/hashes/sha2.js";

/** Above this a file is read in pieces: the browser's own digest is some ten times as fast, and wants all of it at once. */
const WHOLE_UP_TO = 8 * 1024 * 1024;
const PIECE_BYTES = 1024 * 1024;

/** The checksum of a file, in bounded memory. Browsers have a digest of their own only on https and on this machine. */
export async function sha256Of(file: Blob): Promise<Uint8Array<ArrayBuffer>> {
  const own = globalThis.crypto?.subtle;
  if (own !== undefined && file.size <= WHOLE_UP_TO) {
    return new Uint8Array(await own.digest("SHA-256", await file.arrayBuffer()));
  }
  const sum = sha256.create();
  for (let from = 0; from < file.size; from += PIECE_BYTES) {
    sum.update(new Uint8Array(await file.slice(from, from + PIECE_BYTES).arrayBuffer()));
  }
  return new Uint8Array(sum.digest());
}
