import { BatchState, timestampDate } from "@caudal/client";
import { useCallback, useEffect, useRef, useState, useSyncExternalStore } from "react";
import { Bucket } from "../batch/buckets";
import type { LiveBatch } from "../batch/live";
import type { Batches } from "../batches";
import { failedWords, type KeyRefusal, waitingWords } from "../trouble";
import { useSaid } from "../words";
import { Bring } from "./bring";
import { batchStateOf, leftOutWords } from "./counts";
import { Drawer } from "./drawer";
import type { Beginning } from "./drop-anywhere";
import { endingOf, mayAskToNotify, nameOf, titleOf, useTab } from "./ending";
import { Grid, type Narrowing } from "./grid";
import { Interrupted } from "./interrupted";
import { LeftOut } from "./left-out";
import { NeedsYou } from "./needs";
import { Shape, TONE } from "./shape";
import { Summary } from "./summary";
import { Waits } from "./waits";

const ANNOUNCE_EVERY_MS = 5_000;

type OnRefused = (refusal: KeyRefusal) => void;

interface BatchViewProps {
  batches: Batches;
  name: string;
  beginning: Beginning;
  onRefused: OnRefused;
}

/** One batch: how far it is, whether anything needs a person, and every file of it. */
export function BatchView({ batches, name, beginning, onRefused }: BatchViewProps) {
  const [live, setLive] = useState<LiveBatch | null>(null);
  useEffect(() => {
    setLive(batches.take(name));
    return () => batches.release(name);
  }, [batches, name]);
  return live === null ? <main id="content" /> : <Known live={live} beginning={beginning} onRefused={onRefused} />;
}

interface KnownProps {
  live: LiveBatch;
  beginning: Beginning;
  onRefused: OnRefused;
}

function Known({ live, beginning, onRefused }: KnownProps) {
  useSyncExternalStore(live.subscribe, live.snapshot);
  const { words, say } = useSaid();
  const [chosen, setChosen] = useState<number | null>(null);
  const [narrowing, setNarrowing] = useState<Narrowing | null>(null);
  const gridFocus = useRef<() => void>(() => undefined);
  const refusal = live.line === "no-key" && live.trouble?.kind === "key" ? live.trouble.refusal : undefined;
  useEffect(() => {
    if (refusal !== undefined) onRefused(refusal);
  }, [refusal, onRefused]);

  const { batch } = live.watched;
  const total = live.total;
  useTab(titleOf(live, words, say), endingOf(live));
  const announced = useAnnouncement(
    words.live(say.count(live.finished), say.count(total), say.count(live.tally.totals[Bucket.Failed] ?? 0)),
  );
  const closeDrawer = useCallback(() => {
    setChosen(null);
    gridFocus.current();
  }, []);

  if (live.line === "gone" || live.line === "refused") {
    return (
      <main id="content">
        <p className="card empty">
          {live.line === "gone" || live.trouble === undefined ? words.batch.gone : failedWords(live.trouble, words)}
        </p>
      </main>
    );
  }

  const failed = live.failures.size > 0 && live.mayRead;
  const { notTaken } = live;
  const { notSent = [], changedSince = [] } = live.ingest ?? {};
  const hasLeftOut = notTaken.files + notTaken.folders > 0;
  const hasSide = failed || hasLeftOut || notSent.length + changedSince.length > 0 || chosen !== null;
  const state = stateShown(live, words, say);
  return (
    <main id="content" className="batch">
      {live.mayRead && (
        <p className="crumb">
          <a href="#/">{words.nav.batches}</a>
        </p>
      )}
      <div className="title">
        <h1>{nameOf(live, words)}</h1>
        {live.isKnown && (
          <span className={`state ${TONE[state.bucket]}`} data-batch-state={BatchState[batch.state]}>
            <Shape bucket={state.bucket} />
            {state.text}
          </span>
        )}
        <span className="push" />
        <Trouble live={live} />
        {live.isKnown && !live.hasEnded && <TellMe />}
      </div>
      <Pause live={live} />
      <Waits live={live} />
      {live.mayRead ? <Interrupted live={live} beginning={beginning} /> : <Bring live={live} beginning={beginning} />}
      <Summary live={live} />
      <div className={`columns${hasSide ? " with-side" : ""}`}>
        <Grid
          live={live}
          chosen={chosen}
          onChosen={(ordinal) => live.mayRead && setChosen(ordinal)}
          narrowing={narrowing}
          onNarrowing={setNarrowing}
          focusRef={gridFocus}
        />
        {hasSide && (
          <aside>
            {chosen !== null && <Drawer key={chosen} live={live} ordinal={chosen} onClose={closeDrawer} />}
            {failed && <NeedsYou live={live} beginning={beginning} onOpen={setChosen} onShow={setNarrowing} />}
            {notSent.length > 0 && (
              <LeftOut
                id="not-sent"
                title={words.batch.notSent(notSent.length, say.count(notSent.length))}
                lead={words.batch.notSentLead(notSent.length)}
                named={notSent}
                count={notSent.length}
              />
            )}
            {changedSince.length > 0 && (
              <LeftOut
                id="changed-since"
                title={words.batch.changedSince(changedSince.length, say.count(changedSince.length))}
                lead={words.batch.changedSinceLead(changedSince.length)}
                named={changedSince}
                count={changedSince.length}
              />
            )}
            {hasLeftOut && (
              <LeftOut
                id="left-out"
                title={leftOutWords(notTaken, words, say)}
                named={notTaken.named}
                count={notTaken.files + notTaken.folders}
              />
            )}
          </aside>
        )}
      </div>
      <p className="for-readers" role="status">
        {announced}
      </p>
    </main>
  );
}

/** What stands in the way, quietly: nothing here is lost. */
function Trouble({ live }: { live: LiveBatch }) {
  const { words } = useSaid();
  const { ingest } = live;
  if (ingest?.phase === "stopped") {
    return (
      <span className="notice fail" role="alert">
        {words.batch.stopped(ingest.trouble === undefined ? "" : failedWords(ingest.trouble, words))}
      </span>
    );
  }
  if (live.line === "reconnecting") return <span className="notice">{words.batch.reconnecting}</span>;
  const trouble = ingest?.trouble ?? ingest?.storeTrouble;
  if (trouble !== undefined && !ingest?.isOver) {
    return (
      <span className="notice" data-trouble={trouble.kind}>
        {waitingWords(trouble, words)}
      </span>
    );
  }
  return null;
}

/** That the batch is held, since when and why. */
function Pause({ live }: { live: LiveBatch }) {
  const { words, say } = useSaid();
  const { pause } = live.watched.batch;
  if (!live.isPaused || pause === undefined) return null;
  return (
    <p className="card pause" role="status" data-pause>
      <b>{words.batch.isPaused}</b>
      {pause.note !== "" && <span>{words.batch.pausedNote(pause.note)}</span>}
      {pause.since !== undefined && (
        <span className="mute">{words.batch.pausedSince(say.at(timestampDate(pause.since)))}</span>
      )}
    </p>
  );
}

/** Asks the browser for its leave, when somebody wants that and at no other time. */
function TellMe() {
  const { words } = useSaid();
  const [mayAsk, setMayAsk] = useState(mayAskToNotify);
  if (!mayAsk) return null;
  return (
    <button
      type="button"
      className="quiet"
      onClick={() => void Notification.requestPermission().finally(() => setMayAsk(false))}
    >
      {words.batch.tellMe}
    </button>
  );
}

function stateShown(
  live: LiveBatch,
  ...[words, say]: [ReturnType<typeof useSaid>["words"], ReturnType<typeof useSaid>["say"]]
) {
  if (live.ingest?.phase === "scanning") return { bucket: Bucket.Processing, text: words.batchState.scanning };
  if (live.isInterrupted) return { bucket: Bucket.Waiting, text: words.batchState.interrupted };
  return batchStateOf(live.watched.batch, words, say, live.notTaken);
}

/** The text, but never newer more often than a screen reader can bear. */
function useAnnouncement(text: string): string {
  const [said, setSaid] = useState("");
  const latest = useRef(text);
  latest.current = text;
  useEffect(() => {
    const timer = setInterval(() => setSaid(latest.current), ANNOUNCE_EVERY_MS);
    return () => clearInterval(timer);
  }, []);
  return said;
}
