import { FileState, Outcome } from "@caudal/client";
import { Bucket } from "../batch/buckets";
import type { LiveBatch } from "../batch/live";
import type { Say, Words } from "../words";

export interface StateWords {
  bucket: Bucket;
  text: string;
  /** 0 to 1 where a bar says more. */
  share?: number;
}

/** How a file stands, in words. */
export function fileStateOf(live: LiveBatch, ordinal: number, words: Words, say: Say): StateWords {
  const bucket = live.tally.bucket(ordinal);
  const detail = live.detailOf(ordinal);
  const { fileState } = words;
  switch (live.stateOf(ordinal)) {
    case FileState.PENDING:
    case FileState.UPLOADING: {
      const sent = live.sentOf(ordinal);
      if (sent === undefined) {
        return { bucket, text: bucket === Bucket.Uploading ? fileState.uploading : fileState.toBeSent };
      }
      const size = live.tree.fileSize[ordinal] ?? 0;
      const share = size > 0 ? sent / size : 1;
      if (share >= 1) return { bucket: Bucket.Uploading, text: fileState.confirming, share };
      return { bucket: Bucket.Uploading, text: fileState.uploadingPercent(say.percent(share)), share };
    }
    case FileState.UPLOADED:
      return { bucket, text: fileState.waiting };
    case FileState.QUEUED:
      return { bucket, text: detail > 1 ? fileState.waitingFor(words.stageName[detail] ?? "") : fileState.waiting };
    case FileState.PROCESSING:
      return { bucket, text: words.stageDoing[detail] ?? fileState.unknown };
    case FileState.RETRYING:
      return { bucket, text: fileState.retrying(words.stageName[detail] ?? "") };
    case FileState.PROCESSED: {
      if (detail === Outcome.COMPLETE) return { bucket, text: fileState.complete };
      if (detail === Outcome.STORED_ONLY) return { bucket, text: fileState.storedOnly };
      const why = words.warning[live.warnings.get(ordinal) ?? ""];
      return { bucket, text: why === undefined ? fileState.partly : fileState.partlyWhy(why) };
    }
    case FileState.FAILED:
      return { bucket, text: words.reason[detail] ?? words.reasonUnknown };
    case FileState.CANCELLED:
      return { bucket, text: fileState.cancelled };
    default:
      return { bucket: Bucket.Waiting, text: fileState.unknown };
  }
}

export interface FolderWords extends StateWords {
  total: number;
  /** Nothing is in it, as far as is known. */
  isEmpty: boolean;
  /** The names of some files in it are still to come, and so are their sizes. */
  isPartlyKnown: boolean;
  of(bucket: Bucket): number;
}

/** How a folder stands: its whole subtree. */
export function folderStateOf(live: LiveBatch, folder: number, words: Words, say: Say): FolderWords {
  const { tally } = live;
  const known = tally.totalOf(folder);
  const counters = live.countersOf(folder);
  // While names are still coming the gateway's own counters say more than what was counted here, but not how well the
  // processed ones ended: only where all of the batch are complete they are.
  const isPartlyKnown = counters === undefined ? live.areNamesComing : counters.total > known;
  const { totals } = tally;
  const hasAnyQueued =
    (totals[Bucket.Processing] ?? 0) + (totals[Bucket.Retrying] ?? 0) + (totals[Bucket.Waiting] ?? 0) > 0;
  const rest = hasAnyQueued ? Bucket.Waiting : Bucket.ToBeSent;
  const areComplete = tally.totals[Bucket.Partly] === 0 && tally.totals[Bucket.Kept] === 0;
  const of = (bucket: Bucket): number => {
    if (!isPartlyKnown || counters === undefined) return tally.of(folder, bucket);
    if (bucket === Bucket.Complete) return areComplete ? counters.processed : 0;
    if (bucket === Bucket.Failed) return counters.failed;
    if (bucket === Bucket.Cancelled) return counters.cancelled;
    if (bucket !== rest) return 0;
    return counters.total - counters.processed - counters.failed - counters.cancelled;
  };
  const total = isPartlyKnown && counters !== undefined ? counters.total : known;
  const { folderState } = words;
  const says = (bucket: Bucket, text: string) => ({ bucket, text, total, of, isEmpty: total === 0, isPartlyKnown });
  if (total === 0) {
    const hasFolders = (live.tree.folderFolders[folder] ?? []).length > 0;
    return says(Bucket.None, hasFolders ? folderState.onlyFolders : folderState.empty);
  }
  const isWorkedOn = of(Bucket.Processing) + of(Bucket.Retrying) > 0;
  const queued = of(Bucket.Waiting);
  const open = queued + of(Bucket.ToBeSent) + of(Bucket.Uploading) + of(Bucket.Processing) + of(Bucket.Retrying);
  if (open === 0) {
    if (of(Bucket.Failed) > 0) return says(Bucket.Failed, folderState.failed(say.count(of(Bucket.Failed))));
    if (of(Bucket.Cancelled) === total) return says(Bucket.Cancelled, folderState.cancelled);
    if (isPartlyKnown && (counters === undefined || !areComplete)) return says(Bucket.None, folderState.processed);
    if (of(Bucket.Partly) > 0) return says(Bucket.Partly, folderState.partly(say.count(of(Bucket.Partly))));
    if (of(Bucket.Kept) > 0) return says(Bucket.Kept, folderState.kept(say.count(of(Bucket.Kept))));
    return says(Bucket.Complete, folderState.complete);
  }
  if (isWorkedOn || (queued > 0 && open < total)) return says(Bucket.Processing, folderState.processing);
  if (of(Bucket.Uploading) > 0) return says(Bucket.Uploading, folderState.uploading);
  if (queued > 0) return says(Bucket.Waiting, folderState.waiting);
  // Whatever else is in it has ended: what is left waits for its bytes, and nothing is being done.
  return says(Bucket.ToBeSent, folderState.toBeSent);
}
