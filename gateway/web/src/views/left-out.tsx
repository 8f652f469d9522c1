import type { Problem, ProblemKind } from "../upload/problems";
import { useSaid, type Words } from "../words";

const NAMED_A_GROUP = 5;
/** Reasons for which nobody has seen what is in a folder. Of others, each file is named and counted for itself. */
const UNSEEN: ReadonlySet<ProblemKind> = new Set<ProblemKind>(["unreadable", "not-utf8"]);

interface LeftOutProps {
  id: string;
  title: string;
  lead?: string;
  /** In order; the first of them when `count` says that there are more. */
  named: readonly Problem[];
  count: number;
}

/** What was dropped and is not there, each by its name and with the reason. */
export function LeftOut({ id, title, lead, named, count }: LeftOutProps) {
  const { words, say } = useSaid();
  const groups = new Map<ProblemKind, Problem[]>();
  for (const one of named) {
    const group = groups.get(one.kind);
    if (group === undefined) groups.set(one.kind, [one]);
    else group.push(one);
  }
  return (
    <section className="card needs" aria-labelledby={id} data-card={id}>
      <h2 id={id}>{title}</h2>
      {lead !== undefined && <p className="mute small lead">{lead}</p>}
      {[...groups].map(([kind, problems]) => (
        <div className="group" key={kind} data-left-out-kind={kind}>
          <h3>
            <span>
              <b>{say.count(problems.length)}</b> · {words.batch.notTakenWhy[kind]}
            </span>
          </h3>
          <ul className="left-out">
            {problems.slice(0, NAMED_A_GROUP).map(({ path, why, isFolder }, index) => (
              // biome-ignore lint/suspicious/noArrayIndexKey: the list only grows at its end
              <li key={index}>
                <bdi className="path">{isFolder ? `${path}/` : path}</bdi>
                {why !== "" && <span className="mute small">{why}</span>}
                {isFolder && UNSEEN.has(kind) && <span className="mute small">{words.batch.notCounted}</span>}
              </li>
            ))}
          </ul>
          {problems.length > NAMED_A_GROUP && (
            <p className="mute small">{words.batch.andMore(say.count(problems.length - NAMED_A_GROUP))}</p>
          )}
        </div>
      ))}
      {count > named.length && <p className="mute small">{words.batch.andMore(say.count(count - named.length))}</p>}
      <div className="buttons">
        <button type="button" onClick={() => saveList(named, words)}>
          {words.batch.saveList}
        </button>
      </div>
    </section>
  );
}

/** All of them as a table that a spreadsheet opens: the card names a few, and nobody must guess the others. */
function saveList(named: readonly Problem[], words: Words): void {
  const lines = named.map(({ path, kind, why }) => [path, words.batch.notTakenWhy[kind], why].map(quoted).join(","));
  const url = URL.createObjectURL(new Blob([`\ufeff${lines.join("\r\n")}\r\n`], { type: "text/csv" }));
  const link = document.createElement("a");
  link.href = url;
  link.download = words.batch.listName;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** A leading sign would be taken for a formula. */
function quoted(text: string): string {
  const safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return `"${safe.replaceAll('"', '""')}"`;
}
