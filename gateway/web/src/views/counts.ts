import { type Batch, BatchState, type FileCounts } from "@caudal/client";
import { Bucket } from "../batch/buckets";
import { type NotTaken, notTakenIn } from "../upload/problems";
import type { Say, Words } from "../words";

/** A batch's own counters, by bucket. */
export function countOf(counts: FileCounts | undefined, bucket: Bucket): number {
  if (counts === undefined) return 0;
  switch (bucket) {
    case Bucket.Complete:
      return counts.complete;
    case Bucket.Partly:
      return counts.partial;
    case Bucket.Kept:
      return counts.storedOnly;
    case Bucket.Processing:
      return counts.processing;
    case Bucket.Failed:
      return counts.failed;
    case Bucket.Retrying:
      return counts.retrying;
    case Bucket.Waiting:
      return counts.uploaded + counts.queued;
    case Bucket.ToBeSent:
      return counts.pending;
    case Bucket.Uploading:
      return counts.uploading;
    case Bucket.Cancelled:
      return counts.cancelled;
    default:
      return 0;
  }
}

/** How much of what was dropped is not in the batch; empty when all of it is. */
export function leftOutWords({ files, folders }: NotTaken, words: Words, say: Say): string {
  const parts = [
    files > 0 && words.batch.leftOut(say.count(files)),
    folders > 0 && words.batch.foldersLeftOut(folders, say.count(folders)),
  ];
  return parts.filter(Boolean).join(", ");
}

/** The state of a batch in words, with its shape. */
export function batchStateOf(
  batch: Batch,
  words: Words,
  say: Say,
  notTaken: NotTaken = notTakenIn(batch.metadata),
): { bucket: Bucket; text: string } {
  const { batchState } = words;
  const counts = batch.counts;
  const leftOut = leftOutWords(notTaken, words, say);
  switch (batch.state) {
    case BatchState.SUCCEEDED: {
      const isPartly = (counts?.partial ?? 0) > 0;
      const text = isPartly ? batchState.partly : batchState.complete;
      // A folder of which something is missing is never just complete.
      if (leftOut !== "") return { bucket: Bucket.Partly, text: `${text} · ${leftOut}` };
      return { bucket: isPartly ? Bucket.Partly : Bucket.Complete, text };
    }
    case BatchState.FAILED:
      return { bucket: Bucket.Failed, text: batchState.failed(counts?.failed ?? 0, say.count(counts?.failed ?? 0)) };
    case BatchState.CANCELLED:
      return { bucket: Bucket.Cancelled, text: batchState.cancelled };
    default:
      if (batch.pause !== undefined) return { bucket: Bucket.Waiting, text: batchState.paused };
      if (batch.cancelling) return { bucket: Bucket.Processing, text: batchState.cancelling };
      if (batch.state === BatchState.OPEN) return { bucket: Bucket.Uploading, text: batchState.open };
      return { bucket: Bucket.Processing, text: batchState.running };
  }
}
