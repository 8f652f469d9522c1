// What an attempt to send a file came to, as the store answered it: what the store is in, or what it says of this file. The Rust
// client reads answers in the same way.
import type { PutAnswer } from "./put";

/** Codes of stores for bytes that do not have the checksum that came with them. */
const OTHER_CONTENT = new Set(["BadDigest", "XAmzContentChecksumMismatch"]);
/** Codes of stores for what no request of this installation gets past: the bucket, the keys, the clock, and no room. */
const REFUSES_EVERYONE = new Set([
  "NoSuchBucket",
  "InvalidBucketName",
  "InvalidAccessKeyId",
  "SignatureDoesNotMatch",
  "InvalidToken",
  "AccountProblem",
  "AllAccessDisabled",
  "InvalidSecurity",
  "RequestTimeTooSkewed",
  "SlowDown",
  "ServiceUnavailable",
  "QuotaExceeded",
  "InsufficientStorage",
  "XMinioStorageFull",
]);

/** Whether the store is away, busy, broken or full, or refuses whoever asks: it says nothing of this file. */
export function isOfStore({ status, code }: PutAnswer): boolean {
  return status === 0 || status === 408 || status === 429 || status >= 500 || REFUSES_EVERYONE.has(code);
}

/** Whether these bytes are not those that the file was announced with. */
export function isOtherContent({ code }: PutAnswer): boolean {
  return OTHER_CONTENT.has(code);
}

export function storeWords({ status, code }: PutAnswer): string {
  return status === 0 ? "the store does not answer" : `the store answered ${status} ${code}`.trim();
}
