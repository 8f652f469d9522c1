import { type Batch, BatchState, timestampDate } from "@caudal/client";
import { useEffect, useMemo, useState } from "react";
import type { Batches } from "../batches";
import { batchHref } from "../route";
import { type KeyRefusal, type Trouble, troubleOf, waitingWords } from "../trouble";
import { notTakenIn } from "../upload/problems";
import { useSaid } from "../words";
import { Bar } from "./bar";
import { batchStateOf, countOf } from "./counts";
import { Shape, TONE } from "./shape";

const PAGE = 25;
const WHILE_RUNNING_MS = 1_500;
const AT_REST_MS = 6_000;

/** The tenant's batches, newest first. */
export function Recent({ batches, onRefused }: { batches: Batches; onRefused(refusal: KeyRefusal): void }) {
  const { words, say } = useSaid();
  const [list, setList] = useState<Batch[] | null>(null);
  const [size, setSize] = useState(PAGE);
  const [hasMore, setHasMore] = useState(false);
  const [trouble, setTrouble] = useState<Trouble | null>(null);
  const [wanted, setWanted] = useState("");

  useEffect(() => {
    const leaving = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const look = async () => {
      let isRunning = false;
      try {
        const request = { pageSize: size };
        const page = await batches.callers.batches.listBatches(request, { signal: leaving.signal });
        isRunning = page.batches.some(({ state }) => state === BatchState.OPEN || state === BatchState.RUNNING);
        setList(page.batches);
        setHasMore(page.nextPageToken !== "");
        setTrouble(null);
      } catch (thrown) {
        if (leaving.signal.aborted) return;
        const trouble = troubleOf(thrown);
        if (trouble.kind === "key") return onRefused(trouble.refusal);
        setTrouble(trouble);
      }
      timer = setTimeout(lookIfSeen, isRunning ? WHILE_RUNNING_MS : AT_REST_MS);
    };
    const lookIfSeen = () => {
      if (document.visibilityState === "visible") void look();
    };
    const seen = () => {
      clearTimeout(timer);
      lookIfSeen();
    };
    void look();
    document.addEventListener("visibilitychange", seen);
    return () => {
      leaving.abort();
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
    };
  }, [batches, size, onRefused]);

  const shown = useMemo(() => {
    const part = wanted.trim().toLowerCase();
    return (list ?? []).filter(({ displayName }) => displayName.toLowerCase().includes(part));
  }, [list, wanted]);
  const { columns } = words.start;
  const now = new Date();

  return (
    <section className="card recent" aria-labelledby="recent-title">
      <div className="card-head">
        <h2 id="recent-title">{words.start.recent}</h2>
        {trouble !== null && (
          <span className="fail small" role="status" data-trouble={trouble.kind}>
            {waitingWords(trouble, words)}
          </span>
        )}
        <span className="push" />
        <input
          type="search"
          className="find"
          placeholder={words.start.find}
          aria-label={words.start.find}
          value={wanted}
          onChange={(event) => setWanted(event.target.value)}
        />
      </div>
      {list !== null && shown.length === 0 ? (
        <p className="empty mute">{list.length === 0 ? words.start.noBatches : words.start.noneFound}</p>
      ) : (
        <table className="table">
          <thead>
            <tr>
              <th scope="col">{columns.batch}</th>
              <th scope="col">{columns.state}</th>
              <th scope="col">{columns.progress}</th>
              <th scope="col" className="number">
                {columns.files}
              </th>
              <th scope="col" className="number">
                {columns.started}
              </th>
            </tr>
          </thead>
          <tbody>
            {shown.map((batch) => {
              const { bucket, text } = batchStateOf(batch, words, say);
              const total = batch.counts?.total ?? 0;
              const all = total + notTakenIn(batch.metadata).files;
              // Shares of a manifest that still grows are shares of nothing.
              const isGrowing = batch.state === BatchState.OPEN;
              const done =
                (batch.counts?.processed ?? 0) + (batch.counts?.failed ?? 0) + (batch.counts?.cancelled ?? 0);
              return (
                <tr key={batch.name}>
                  <th scope="row">
                    <a href={batchHref(batch.name)}>{batch.displayName || words.batch.untitled}</a>
                  </th>
                  <td>
                    <span className={`state ${TONE[bucket]}`}>
                      <Shape bucket={bucket} />
                      <span className="text">{text}</span>
                    </span>
                  </td>
                  <td>
                    <Bar
                      of={(one) => countOf(batch.counts, one)}
                      total={isGrowing ? 0 : all}
                      label={isGrowing ? text : say.percent(all > 0 ? done / all : 0)}
                    />
                  </td>
                  <td className="number">{isGrowing ? words.start.soFar(say.count(total)) : say.count(total)}</td>
                  <td className="number mute">
                    {batch.createTime !== undefined && (
                      <time title={say.at(timestampDate(batch.createTime))}>
                        {say.since(timestampDate(batch.createTime), now)}
                      </time>
                    )}
                  </td>
                </tr>
              );
            })}
          </tbody>
        </table>
      )}
      {hasMore && (
        <div className="card-foot">
          <button type="button" onClick={() => setSize((size) => Math.min(1_000, size * 4))}>
            {words.start.more}
          </button>
        </div>
      )}
    </section>
  );
}
