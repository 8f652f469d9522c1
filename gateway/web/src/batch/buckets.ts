import { FileState, Outcome } from "@caudal/client";

/** What the page tells apart: each has its shape, its colour and its word. */
export enum Bucket {
  None = 0,
  Complete = 1,
  Partly = 2,
  Processing = 3,
  Failed = 4,
  Retrying = 5,
  Waiting = 6,
  Uploading = 7,
  Cancelled = 8,
  Kept = 9,
  /** Waits for bytes that nobody sends at the moment. */
  ToBeSent = 10,
}

export const BUCKETS = 11;

/** In the order in which bars are drawn. */
export const BAR_ORDER = [
  Bucket.Complete,
  Bucket.Partly,
  Bucket.Kept,
  Bucket.Processing,
  Bucket.Failed,
  Bucket.Retrying,
  Bucket.Cancelled,
  Bucket.Waiting,
  Bucket.Uploading,
  Bucket.ToBeSent,
] as const;

/** In the order in which a person asks. */
export const LEGEND = [
  Bucket.Complete,
  Bucket.Partly,
  Bucket.Kept,
  Bucket.Processing,
  Bucket.Waiting,
  Bucket.Uploading,
  Bucket.ToBeSent,
  Bucket.Failed,
  Bucket.Retrying,
  Bucket.Cancelled,
] as const;

export function bucketOf(state: number, detail: number, isBeingSent: boolean): Bucket {
  switch (state) {
    case FileState.PENDING:
      return isBeingSent ? Bucket.Uploading : Bucket.ToBeSent;
    case FileState.UPLOADING:
      return Bucket.Uploading;
    case FileState.UPLOADED:
    case FileState.QUEUED:
      return Bucket.Waiting;
    case FileState.PROCESSING:
      return Bucket.Processing;
    case FileState.RETRYING:
      return Bucket.Retrying;
    case FileState.PROCESSED:
      if (detail === Outcome.STORED_ONLY) return Bucket.Kept;
      return detail === Outcome.COMPLETE ? Bucket.Complete : Bucket.Partly;
    case FileState.FAILED:
      return Bucket.Failed;
    case FileState.CANCELLED:
      return Bucket.Cancelled;
    default:
      return Bucket.None;
  }
}

/** Processed or given up: nothing more happens by itself. */
export function isFinal(bucket: Bucket): boolean {
  return (
    bucket === Bucket.Complete ||
    bucket === Bucket.Partly ||
    bucket === Bucket.Kept ||
    bucket === Bucket.Failed ||
    bucket === Bucket.Cancelled
  );
}
