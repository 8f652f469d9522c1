import { timestampDate } from "@caudal/client";
import type { LiveBatch } from "../batch/live";
import { useSaid } from "../words";

/** What parts of the installation are waited for: nothing is lost, and it goes on by itself. */
export function Waits({ live }: { live: LiveBatch }) {
  const { words, say } = useSaid();
  if (live.waits.length === 0) return null;
  return (
    <p className="card pause" role="status" data-waits>
      <b>{words.batch.waits}</b>
      {live.waits.map((wait) => (
        <span key={`${wait.stage} ${wait.for}`}>
          {words.batch.waitsFor(wait.stage, wait.words)}{" "}
          {wait.sinceTime !== undefined && (
            <span className="mute">{words.batch.pausedSince(say.at(timestampDate(wait.sinceTime)))}</span>
          )}
        </span>
      ))}
    </p>
  );
}
