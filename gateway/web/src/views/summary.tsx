import { timestampDate } from "@caudal/client";
import { type BAR_ORDER, Bucket } from "../batch/buckets";
import type { LiveBatch } from "../batch/live";
import { useSaid, type Words } from "../words";
import { Bar } from "./bar";
import { leftOutWords } from "./counts";
import { Shape, TONE } from "./shape";

/** The order in which a person asks. */
const LEGEND: (typeof BAR_ORDER)[number][] = [
  Bucket.Complete,
  Bucket.Partly,
  Bucket.Processing,
  Bucket.Waiting,
  Bucket.Uploading,
  Bucket.Failed,
  Bucket.Retrying,
  Bucket.Cancelled,
];

/** How far the batch is: files, and apart from that the upload and the processing. */
export function Summary({ live }: { live: LiveBatch }) {
  const { words, say } = useSaid();
  const { totals } = live.tally;
  const total = live.total;
  const finished = live.finished;
  const now = performance.now();
  const countOf = (bucket: Bucket) => totals[bucket] ?? 0;
  const isScanning = live.ingest?.phase === "scanning";
  const leftOut = leftOutWords(live.notTaken, words, say);

  return (
    <section className="card summary">
      <div className="headline">
        <p>
          <strong className="figure">
            {say.count(countOf(Bucket.Complete) + countOf(Bucket.Partly) + countOf(Bucket.Kept))}
          </strong>{" "}
          {words.batch.processedOf(say.count(total + live.notTaken.files))}
          {leftOut !== "" && ` · ${leftOut}`}
          {isScanning && <span className="mute"> · {words.batch.stillScanning}</span>}
        </p>
        <span className="push" />
        <TimeLeft live={live} />
      </div>
      <Bar
        of={countOf}
        total={total + live.notTaken.files}
        label={say.percent(total > 0 ? finished / (total + live.notTaken.files) : 0)}
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
  const now = performance.now();
  const { sent, total } = live.bytes;
  const processing = live.fileRate.secondsFor(live.total - live.finished, now);
  const upload = total > sent ? live.uploadRate.secondsFor(total - sent, now) : 0;
  if (processing === undefined || upload === undefined || live.ingest?.phase === "scanning") return null;
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
  const isWhole = live.isKnown && sent >= total && live.ingest?.phase !== "scanning";
  // What was given up does not arrive any more, and nothing is sent to a batch that has ended.
  const isOver = isWhole || live.hasEnded || live.ingest?.isOver === true;
  const rate = live.uploadRate.perSecond(now);
  const left = live.uploadRate.secondsFor(total - sent, now);
  const parts = isOver
    ? [isWhole ? words.batch.uploadDone(say.bytes(total)) : words.batch.uploadShort(say.bytes(sent), say.bytes(total))]
    : [
        words.batch.uploadOf(say.bytes(sent), say.bytes(total)),
        rate !== undefined && rate > 0 && words.batch.rate(say.bytes(rate)),
        left !== undefined && live.ingest?.phase !== "scanning" && words.batch.left(say.duration(left)),
      ];
  return (
    <p data-upload={isWhole ? "done" : isOver ? "short" : "running"}>
      <b>{words.batch.upload}</b> · {parts.filter(Boolean).join(" · ")}
    </p>
  );
}

function ProcessingLine({ live, now }: { live: LiveBatch; now: number }) {
  const { words, say } = useSaid();
  const rate = live.fileRate.perSecond(now);
  let slowest = 0;
  for (const [stage, count] of live.inStage) if (count > (live.inStage.get(slowest) ?? 0)) slowest = stage;
  const waiting = live.inStage.get(slowest) ?? 0;
  const parts = live.hasEnded
    ? [words.batch.processingDone]
    : [
        rate !== undefined && rate > 0 && words.batch.fileRate(say.rate(rate)),
        waiting > 0 && words.batch.slowest(words.stageName[slowest] ?? "", say.count(waiting)),
      ];
  const text = parts.filter(Boolean).join(" · ");
  return (
    <p>
      <b>{words.batch.processing}</b> · {text === "" ? words.batch.processingIdle : text}
    </p>
  );
}

function legendWord(bucket: (typeof BAR_ORDER)[number], count: number, words: Words): string {
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
    case Bucket.Uploading:
      return words.bucket.uploading;
    case Bucket.Cancelled:
      return words.bucket.cancelled;
  }
}
