import { type Artifact, type File, FileState, Outcome, type StageResult, timestampDate } from "@caudal/client";
import { type ReactNode, useEffect, useRef, useState } from "react";
import type { LiveBatch } from "../batch/live";
import { useSaid } from "../words";
import { Shape, TONE } from "./shape";
import { fileStateOf } from "./state-words";

/** Everything about one file. */
export function Drawer({ live, ordinal, onClose }: { live: LiveBatch; ordinal: number; onClose(): void }) {
  const { words, say, language } = useSaid();
  const [file, setFile] = useState<File | null>(null);
  const [isSilent, setIsSilent] = useState(false);
  const box = useRef<HTMLElement>(null);
  const name = `${live.name}/files/${ordinal}`;
  const state = live.stateOf(ordinal);
  const detail = live.detailOf(ordinal);

  // Read again whenever the file moved, and when the words must come in another language.
  // biome-ignore lint/correctness/useExhaustiveDependencies: state and detail are what "moved" means
  useEffect(() => {
    const leaving = new AbortController();
    live.callers.files.getFile({ name }, { signal: leaving.signal }).then(
      (read) => {
        setFile(read);
        setIsSilent(false);
      },
      () => leaving.signal.aborted || setIsSilent(true),
    );
    return () => leaving.abort();
  }, [live, name, state, detail, language]);

  // It comes first in its column, which may be scrolled to another card.
  useEffect(() => {
    if (box.current?.parentElement) box.current.parentElement.scrollTop = 0;
  }, []);
  useEffect(() => {
    const close = (event: KeyboardEvent) => event.key === "Escape" && !event.defaultPrevented && onClose();
    window.addEventListener("keydown", close);
    return () => window.removeEventListener("keydown", close);
  }, [onClose]);

  const path = file?.path ?? live.tree.pathOf(ordinal) ?? "";
  const isNamed = live.tree.fileName[ordinal] !== undefined;
  const size = file !== null ? Number(file.size) : isNamed ? live.tree.fileSize[ordinal] : undefined;
  const cut = path.lastIndexOf("/");
  const shown = fileStateOf(live, ordinal, words, say);
  const { drawer } = words;
  return (
    <section ref={box} className="card drawer" aria-labelledby="drawer-title" data-drawer={ordinal}>
      <div className="drawer-head">
        <h2 id="drawer-title">{path.slice(cut + 1)}</h2>
        <button type="button" className="icon quiet" aria-label={drawer.close} title={drawer.close} onClick={onClose}>
          <svg viewBox="0 0 14 14" width="12" height="12" aria-hidden="true">
            <path d="m2.5 2.5 9 9m0-9-9 9" className="line" />
          </svg>
        </button>
      </div>
      <dl>
        <Fact term={drawer.state}>
          <span className={`state ${TONE[shown.bucket]}`}>
            <Shape bucket={shown.bucket} />
            {shown.text}
          </span>
        </Fact>
        <Fact term={drawer.folder}>{cut < 0 ? drawer.topFolder : path.slice(0, cut).replaceAll("/", " / ")}</Fact>
        <Fact term={drawer.size}>{size === undefined ? "…" : say.bytes(size)}</Fact>
        {file?.mediaType && <Fact term={drawer.type}>{file.mediaType}</Fact>}
        {file?.reason !== undefined && (
          <>
            <Fact term={drawer.why} mark="why">
              {file.reason.words}
            </Fact>
            <Fact term={drawer.whatToDo} mark="remedy">
              {file.reason.remedy}
            </Fact>
            {file.reason.detail !== "" && (
              <Fact term={drawer.detail}>
                <span className="mute">{file.reason.detail}</span>
              </Fact>
            )}
          </>
        )}
        {file !== null && file.attempts > 1 && <Fact term={drawer.attempts}>{say.count(file.attempts)}</Fact>}
        {file?.changeTime !== undefined && <Fact term={drawer.since}>{say.at(timestampDate(file.changeTime))}</Fact>}
      </dl>
      {isSilent && <p className="fail small">{drawer.unreachable}</p>}
      {file !== null && file.warnings.length > 0 && (
        <>
          <h3>{drawer.notDone}</h3>
          <ul className="plain">
            {file.warnings.map((warning) => (
              <li
                key={`${warning.stage}-${warning.code}`}
                className={file.outcome === Outcome.PARTIAL ? "partial" : "mute"}
              >
                {warning.words}
              </li>
            ))}
          </ul>
        </>
      )}
      {file !== null && (
        <>
          <h3>{drawer.results}</h3>
          <Results live={live} file={file} onTrouble={() => setIsSilent(true)} />
        </>
      )}
      {file !== null && file.results.length > 0 && (
        <>
          <h3>{drawer.history}</h3>
          <ul className="steps">
            {file.results.map((result) => (
              <Step key={result.stage} result={result} />
            ))}
          </ul>
        </>
      )}
      <Metadata of={file} title={drawer.metadata} />
    </section>
  );
}

function Fact({ term, mark, children }: { term: string; mark?: string; children: ReactNode }) {
  return (
    <>
      <dt>{term}</dt>
      <dd data-fact={mark}>{children}</dd>
    </>
  );
}

function Results({ live, file, onTrouble }: { live: LiveBatch; file: File; onTrouble(): void }) {
  const { words, say } = useSaid();
  const { drawer } = words;
  if (file.artifacts.length === 0) {
    const hasEnded = file.state === FileState.FAILED || file.state === FileState.CANCELLED;
    return <p className="mute small">{hasEnded ? drawer.failedResults : drawer.noResults}</p>;
  }
  const nameOf = ({ name }: Artifact) =>
    name === "upload/original" ? drawer.original : (drawer.names[name.slice(name.indexOf("/") + 1)] ?? name);
  return (
    <ul className="results">
      {file.artifacts.map((artifact) => (
        <li key={artifact.name}>
          <button
            type="button"
            className="link"
            title={artifact.name}
            onClick={() => openArtifact(live, file.name, artifact).catch(onTrouble)}
          >
            {nameOf(artifact)}
          </button>
          <span className="mute small number">{say.bytes(Number(artifact.size))}</span>
        </li>
      ))}
    </ul>
  );
}

/** The address lives for minutes, so it is asked for when it is wanted. */
async function openArtifact(live: LiveBatch, name: string, artifact: Artifact): Promise<void> {
  const { url } = await live.callers.files.getArtifact({ name, artifact: artifact.name });
  const link = document.createElement("a");
  link.href = url;
  link.target = "_blank";
  link.rel = "noopener noreferrer";
  link.click();
}

function Step({ result }: { result: StageResult }) {
  const { words, say } = useSaid();
  const notes = [
    result.skipped && words.drawer.skipped,
    result.usage !== undefined && result.usage.bytes > 0n && say.bytes(Number(result.usage.bytes)),
  ];
  return (
    <li className={result.skipped ? "mute" : undefined}>
      <i className={result.skipped ? "wait" : "done"} aria-hidden="true" />
      <span title={result.version}>{words.stepName[result.stage] ?? result.stage}</span>
      <span className="mute small number">{notes.filter(Boolean).join(" · ")}</span>
    </li>
  );
}

const LONGEST_VALUE = 120;

/** What the record and the caller say of the file, as a plain list; nested values as JSON. */
function Metadata({ of, title }: { of: File | null; title: string }) {
  const record = (of?.record ?? {}) as Record<string, unknown>;
  const own = (record["metadata"] ?? of?.metadata ?? {}) as Record<string, unknown>;
  const facts = Object.entries({ ...record, ...own }).filter(([key, value]) => isTelling(key, value));
  if (facts.length === 0) return null;
  return (
    <details>
      <summary>{title}</summary>
      <dl className="metadata">
        {facts.map(([key, value]) => (
          <Fact key={key} term={key.replaceAll("_", " ")}>
            {shortened(value)}
          </Fact>
        ))}
      </dl>
    </details>
  );
}

function isTelling(key: string, value: unknown): boolean {
  if (value === null || value === "" || ["path", "size", "metadata", "warnings", "artifacts"].includes(key))
    return false;
  return typeof value !== "object" || Object.keys(value).length > 0;
}

function shortened(value: unknown): string {
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > LONGEST_VALUE ? `${text.slice(0, LONGEST_VALUE)}…` : text;
}
