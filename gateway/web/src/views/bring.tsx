import { BatchState } from "@caudal/client";
import { type ChangeEvent, useRef, useState } from "react";
import type { LiveBatch } from "../batch/live";
import { takeFiles } from "../scan/dropped";
import { failedWords, troubleOf } from "../trouble";
import { useSaid } from "../words";
import type { Beginning } from "./drop-anywhere";
import { PickFolder } from "./pick-folder";

/** For whoever was given an upload token: what to bring, and how to say that it was all. */
export function Bring({ live, beginning }: { live: LiveBatch; beginning: Beginning }) {
  const { words } = useSaid();
  const [trouble, setTrouble] = useState("");
  const input = useRef<HTMLInputElement>(null);
  if (!live.isKnown) return null;
  if (live.watched.batch.state !== BatchState.OPEN) {
    return (
      <p className="card pause" role="status" data-brought>
        {words.bring.closed}
      </p>
    );
  }
  const picked = ({ target }: ChangeEvent<HTMLInputElement>) => {
    const files = Array.from(target.files ?? []);
    target.value = "";
    if (files.length > 0) void beginning.begin(takeFiles(files), live);
  };
  const isSending = live.ingest !== undefined && !live.ingest.isOver;
  const complete = () => {
    setTrouble("");
    live.completeNow().catch((thrown) => setTrouble(failedWords(troubleOf(thrown), words)));
  };
  return (
    <section className="card pause" data-bring>
      <b>{words.bring.title}</b>
      <span className="mute">{words.bring.lead}</span>
      <div className="buttons">
        <PickFolder
          words={words.start.folder}
          className="primary"
          onPicked={(dropped) => void beginning.begin(dropped, live)}
        />
        <button type="button" onClick={() => input.current?.click()}>
          {words.start.files}
        </button>
        <input ref={input} data-pick="files" type="file" hidden multiple onChange={picked} />
        <button type="button" data-that-is-all disabled={isSending} onClick={complete}>
          {words.bring.all}
        </button>
      </div>
      {trouble !== "" && (
        <span className="fail" role="alert">
          {trouble}
        </span>
      )}
    </section>
  );
}
