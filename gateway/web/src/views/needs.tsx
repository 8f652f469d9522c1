import { useEffect } from "react";
import { Bucket } from "../batch/buckets";
import type { LiveBatch } from "../batch/live";
import { useSaid } from "../words";
import type { Beginning } from "./drop-anywhere";
import type { Narrowing } from "./grid";
import { PickFolder } from "./pick-folder";
import { Shape } from "./shape";

const NAMED_A_GROUP = 3;

interface NeedsYouProps {
  live: LiveBatch;
  beginning: Beginning;
  onOpen(ordinal: number): void;
  onShow(narrowing: Narrowing): void;
}

/** Files that failed, grouped by what helps them. */
export function NeedsYou({ live, beginning, onOpen, onShow }: NeedsYouProps) {
  const { words, say } = useSaid();
  const groups = [...live.failures].sort(([a, countA], [b, countB]) => countB - countA || a - b);
  const count = groups.reduce((sum, [, files]) => sum + files, 0);
  return (
    <section className="card needs" aria-labelledby="needs-title" data-needs>
      <h2 id="needs-title">{words.needs.title(count, say.count(count))}</h2>
      {groups.map(([reason, files]) => (
        <Group
          key={reason}
          live={live}
          beginning={beginning}
          reason={reason}
          count={files}
          onOpen={onOpen}
          onShow={onShow}
        />
      ))}
    </section>
  );
}

function Group({ live, beginning, reason, count, onOpen, onShow }: NeedsYouProps & { reason: number; count: number }) {
  const { words, say } = useSaid();
  const told = live.reasons.get(reason);
  useEffect(() => live.wantReason(reason));
  const title = words.reason[reason] ?? words.reasonUnknown;
  const named = live.failedFor(reason, NAMED_A_GROUP);
  return (
    <div className="group" data-reason={told?.code ?? reason}>
      <h3 className="fail">
        <Shape bucket={Bucket.Failed} />
        <span>
          <b>{say.count(count)}</b> · {title}
        </span>
      </h3>
      {told !== undefined && (
        <p className="mute small">
          <span data-words>{told.words}</span> <span data-remedy>{told.remedy}</span>
        </p>
      )}
      <ul className="named">
        {named.map((ordinal) => {
          const path = live.tree.pathOf(ordinal);
          return (
            path !== undefined && (
              <li key={ordinal}>
                <button type="button" className="link" title={path} onClick={() => onOpen(ordinal)}>
                  {live.tree.fileName[ordinal]}
                </button>
              </li>
            )
          );
        })}
      </ul>
      <div className="buttons">
        {count > NAMED_A_GROUP && (
          <button
            type="button"
            onClick={() =>
              onShow({ label: title, matches: (_, bucket, detail) => bucket === Bucket.Failed && detail === reason })
            }
          >
            {words.needs.show(count, say.count(count))}
          </button>
        )}
        {told?.needsBytes === true && (
          <PickFolder words={words.needs.again} onPicked={(dropped) => void beginning.begin(dropped, live)} />
        )}
      </div>
    </div>
  );
}
