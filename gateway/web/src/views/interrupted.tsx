import { BatchState } from "@caudal/client";
import { useEffect, useState } from "react";
import type { LiveBatch } from "../batch/live";
import { failedWords, troubleOf } from "../trouble";
import { useSaid } from "../words";
import type { Beginning } from "./drop-anywhere";
import { PickFolder } from "./pick-folder";

const LOOK_EVERY_MS = 5_000;

/** Files wait for bytes that nobody sends: says so, with what to do. */
export function Interrupted({ live, beginning }: { live: LiveBatch; beginning: Beginning }) {
  const { words, say } = useSaid();
  const [trouble, setTrouble] = useState("");
  useEffect(() => {
    // That nothing moves is told by no message.
    const looking = setInterval(live.changed, LOOK_EVERY_MS);
    return () => clearInterval(looking);
  }, [live]);
  const { compared } = live.ingest ?? {};
  const changedSince = live.ingest?.changedSince.length ?? 0;
  if (!live.isInterrupted) {
    if (compared === undefined || live.ingest?.isOver !== false) return null;
    return (
      <p className="card pause" role="status" data-comparing>
        <span>{words.interrupted.compared(say.count(compared.matched), say.count(compared.arrived))}</span>
        {compared.changed > 0 && (
          <span>{words.interrupted.changed(compared.changed, say.count(compared.changed))}</span>
        )}
        {changedSince > 0 && <span>{words.interrupted.changedSince(changedSince, say.count(changedSince))}</span>}
      </p>
    );
  }
  const waiting = live.waitingForBytes;
  const total = live.watched.batch.counts?.total ?? 0;
  const act = (doing: Promise<unknown>) => {
    setTrouble("");
    doing.catch((thrown) => setTrouble(failedWords(troubleOf(thrown), words)));
  };
  const goOn = async () => {
    if (!(await live.goOn())) setTrouble(words.interrupted.notAllowed);
  };
  return (
    <section className="card pause interrupted" role="status" data-interrupted>
      <b>{words.interrupted.title(say.count(waiting), say.count(total))}</b>
      {compared !== undefined && (
        <span data-compared>
          {words.interrupted.compared(say.count(compared.matched), say.count(compared.arrived))}{" "}
          {compared.changed > 0 && words.interrupted.changed(compared.changed, say.count(compared.changed))}{" "}
          {changedSince > 0 && words.interrupted.changedSince(changedSince, say.count(changedSince))}{" "}
          {compared.missing > 0 && words.interrupted.missing(compared.missing, say.count(compared.missing))}
        </span>
      )}
      <span className="mute">{words.interrupted.lead}</span>
      <div className="buttons">
        {live.remembered.length > 0 && (
          <button type="button" className="primary" data-go-on onClick={() => act(goOn())}>
            {words.interrupted.goOn}
          </button>
        )}
        <PickFolder
          words={words.interrupted.choose}
          className={live.remembered.length > 0 ? undefined : "primary"}
          onPicked={(dropped) => void beginning.begin(dropped, live)}
        />
        {(waiting > 0 || live.watched.batch.state === BatchState.OPEN) && (
          <button type="button" data-end-without onClick={() => act(live.endWithout())}>
            {waiting > 0 ? words.interrupted.without(say.count(waiting)) : words.interrupted.end}
          </button>
        )}
      </div>
      {trouble !== "" && (
        <span className="fail" role="alert">
          {trouble}
        </span>
      )}
    </section>
  );
}
