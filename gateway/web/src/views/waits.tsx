import { type QueuePlace, timestampDate } from "@caudal/client";
import type { LiveBatch } from "../batch/live";
import { useSaid } from "../words";

/** Whose turn comes first, while nothing of a batch is worked on. */
function Turn({ queue }: { queue: QueuePlace }) {
  const { words } = useSaid();
  const about = queue.about === undefined ? "" : words.batch.aboutSeconds(Number(queue.about.seconds));
  return (
    <p className="card" role="status" data-queue>
      {words.batch.behind(queue.stage, queue.batchesOfOthers, queue.ownBatches)}
      {about}
    </p>
  );
}

/** What the operator said: it stands after the first colon. */
function noteOf(said: string): string {
  const at = said.indexOf(": ");
  return at < 0 ? "" : said.slice(at + 2);
}

/** What parts of the installation are waited for: nothing is lost, and it goes on by itself. */
export function Waits({ live }: { live: LiveBatch }) {
  const { words, say } = useSaid();
  if (live.queue !== undefined) return <Turn queue={live.queue} />;
  if (live.waits.length === 0) return null;
  return (
    <p className="card pause" role="status" data-waits>
      {live.waits.some(({ stage }) => stage !== "") && <b>{words.batch.waits}</b>}
      {live.waits.map((wait) => (
        <span key={`${wait.stage} ${wait.for}`}>
          {wait.stage === ""
            ? words.batch.tenantIsPaused(noteOf(wait.words))
            : words.batch.waitsFor(wait.stage, wait.words)}{" "}
          {wait.sinceTime !== undefined && (
            <span className="mute">{words.batch.pausedSince(say.at(timestampDate(wait.sinceTime)))}</span>
          )}
        </span>
      ))}
    </p>
  );
}
