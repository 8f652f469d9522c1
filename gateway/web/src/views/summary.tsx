import { timestampDate } from "@caudal/client";
import { Bucket, LEGEND } from "../batch/buckets";
import type { LiveBatch } from "../batch/live";
import { useSaid, type Words } from "../words";
import { Bar } from "./bar";
import { leftOutWords } from "./counts";
import { Shape, TONE } from "./shape";

/** How far the batch is: files, and apart from that the upload and the processing. */
export function Summary({ live }: { live: LiveBatch }) {
  const { words, say } = useSaid();
  const total = live.total;
  const finished = live.finished;
  const now = performance.now();
  const countOf = (bucket: Bucket) => live.countOf(bucket);
  const isScanning = live.ingest?.phase === "scanning";
  const { isGrowing } = live;
  const all = total + live.notTaken.files;
  const leftOut = leftOutWords(live.notTaken, words, say);
  // Before anything is known there are no figures, and a nought is one.
  if (!live.isKnown && live.ingest === undefined) return <p className="card empty mute">{words.batch.loading}</p>;

  return (
    <section className="card summary">
      <div className="headline">
        <p>
          <strong className="figure">
            {say.count(countOf(Bucket.Complete) + countOf(Bucket.Partly) + countOf(Bucket.Kept))}
          </strong>{" "}
          {isGrowing ? words.batch.processedSoFar(say.count(total)) : words.batch.processedOf(say.count(all))}
          {leftOut !== "" && ` · ${leftOut}`}
          {isScanning && <span className="mute"> · {words.batch.stillScanning}</span>}
        </p>
        <span className="push" />
        <TimeLeft live={live} />
      </div>
      {/* A bar is a share, and of a number that still grows there is none. */}
      <Bar
        of={countOf}
        total={isGrowing ? 0 : all}
        label={isGrowing ? words.batch.foundSoFar(say.count(total)) : say.percent(all > 0 ? finished / all : 0)}
      />
      <ul className="legend">
        {LEGEND.filter((bucket) => countOf(bucket) > 0).map((bucket) => (
          <li key={bucket}>
            <Shape bucket={bucket} />
            <b>{say.count(countOf(bucket))}</b>{" "}
            <span className={TONE[bucket]}>{legendWord(bucket, countOf(bucket), words)}</span>
          </li>
        ))}
        {live.isKnown && total === 0 && !isScanning && <li className="mute">{words.batch.empty}</li>}
      </ul>
      <div className="progresses">
        <UploadLine live={live} now={now} />
        <ProcessingLine live={live} now={now} />
      </div>
    </section>
  );
}

function TimeLeft({ live }: { live: LiveBatch }) {
  const { words, say } = useSaid();
  const { createTime, endTime } = live.watched.batch;
  if (live.hasEnded) {
    if (createTime === undefined || endTime === undefined) return null;
    const seconds = (timestampDate(endTime).getTime() - timestampDate(createTime).getTime()) / 1_000;
    return <span className="mute">{words.batch.took(say.duration(seconds))}</span>;
  }
  if (live.isPaused || live.isGrowing || live.isInterrupted) return null;
  const now = performance.now();
  const { sent, total } = live.bytes;
  const processing = live.fileRate.secondsFor(live.total - live.finished, now);
  const upload = total > sent ? live.uploadRate.secondsFor(total - sent, now) : 0;
  if (processing === undefined || upload === undefined) return null;
  const [before, time, after] = words.batch.timeLeft(say.duration(Math.max(processing, upload)));
  return (
    <span className="mute">
      {before} <b>{time}</b> {after}
    </span>
  );
}

function UploadLine({ live, now }: { live: LiveBatch; now: number }) {
  const { words, say } = useSaid();
  const { sent, total } = live.bytes;
  const { isGrowing } = live;
  const isConfirming = live.ingest?.isConfirming === true;
  const isWhole = live.isKnown && sent >= total && !isGrowing && !isConfirming;
  // What was given up does not arrive any more, and nothing is sent to a batch that has ended.
  const isOver = isWhole || live.hasEnded || live.ingest?.isOver === true;
  const { unchangedFiles = 0, sentFiles = 0 } = live.ingest ?? {};
  const unchanged = unchangedFiles > 0 && words.batch.unchanged(say.count(unchangedFiles), say.count(sentFiles));
  return (
    <p data-upload={isWhole ? "done" : isOver ? "short" : "running"}>
      <b>{words.batch.upload}</b> · {[...parts(), unchanged].filter(Boolean).join(" · ")}
    </p>
  );

  function parts() {
    if (isWhole) return [words.batch.uploadDone(say.bytes(total))];
    if (isOver) return [words.batch.uploadShort(say.bytes(sent), say.bytes(total))];
    if (isGrowing) return [words.batch.uploadSoFar(say.bytes(sent))];
    if (isConfirming) return [words.batch.uploadConfirming(say.bytes(total))];
    const rate = live.isPaused ? undefined : live.uploadRate.perSecond(now);
    const left = live.isPaused ? undefined : live.uploadRate.secondsFor(total - sent, now);
    return [
      words.batch.uploadOf(say.bytes(sent), say.bytes(total)),
      rate !== undefined && rate > 0 && words.batch.rate(say.bytes(rate)),
      left !== undefined && words.batch.left(say.duration(left)),
    ];
  }
}

function ProcessingLine({ live, now }: { live: LiveBatch; now: number }) {
  const { words, say } = useSaid();
  return (
    <p>
      <b>{words.batch.processing}</b> · {parts().filter(Boolean).join(" · ") || words.batch.processingIdle}
    </p>
  );

  function parts() {
    if (live.hasEnded) return [words.batch.processingDone];
    if (live.isPaused) return [words.batch.processingPaused];
    const rate = live.isGrowing ? undefined : live.fileRate.perSecond(now);
    let slowest = 0;
    for (const [stage, count] of live.inStage) if (count > (live.inStage.get(slowest) ?? 0)) slowest = stage;
    const waiting = live.inStage.get(slowest) ?? 0;
    return [
      rate !== undefined && rate > 0 && words.batch.fileRate(say.rate(rate)),
      waiting > 0 && words.batch.slowest(words.stageName[slowest] ?? "", say.count(waiting)),
    ];
  }
}

function legendWord(bucket: (typeof LEGEND)[number], count: number, words: Words): string {
  switch (bucket) {
    case Bucket.Complete:
      return words.bucket.complete;
    case Bucket.Partly:
      return words.bucket.partly;
    case Bucket.Kept:
      return words.bucket.kept(count);
    case Bucket.Processing:
      return words.bucket.processing;
    case Bucket.Failed:
      return words.bucket.failed;
    case Bucket.Retrying:
      return words.bucket.retrying;
    case Bucket.Waiting:
      return words.bucket.waiting(count);
    case Bucket.ToBeSent:
      return words.bucket.toBeSent;
    case Bucket.Uploading:
      return words.bucket.uploading;
    case Bucket.Cancelled:
      return words.bucket.cancelled;
  }
}
