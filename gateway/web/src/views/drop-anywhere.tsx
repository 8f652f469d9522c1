import { type ReactNode, useState } from "react";
import { useDropzone } from "react-dropzone";
import type { LiveBatch } from "../batch/live";
import type { Batches } from "../batches";
import { batchHref, go } from "../route";
import { takeDropped } from "../scan/dropped";
import type { Dropped } from "../scan/found";
import { leavesOut, withRules } from "../scan/left-out";
import { failedWords, type KeyRefusal, troubleOf } from "../trouble";
import { useSaid } from "../words";

/** Makes a batch of what was dropped or picked, and goes there; or sends it into the batch that is shown. */
export interface Beginning {
  begin(dropped: Dropped | null, into?: LiveBatch): Promise<void>;
  isCreating: boolean;
  complaint: string;
}

export function useBeginning(batches: Batches | null, onRefused: (refusal: KeyRefusal) => void): Beginning {
  const { words } = useSaid();
  const [complaint, setComplaint] = useState("");
  const [isCreating, setIsCreating] = useState(false);
  const begin = async (dropped: Dropped | null, into?: LiveBatch) => {
    if (batches === null) return;
    if (dropped === null) return setComplaint(words.start.nothing);
    setComplaint("");
    const wanted = withRules(dropped, leavesOut());
    if (into?.takesMore) return batches.sendMore(into, wanted);
    setIsCreating(true);
    try {
      go(batchHref(await batches.send(wanted, words.batch.severalThings)));
    } catch (thrown) {
      const trouble = troubleOf(thrown);
      if (trouble.kind === "key") onRefused(trouble.refusal);
      else setComplaint(failedWords(trouble, words));
    } finally {
      setIsCreating(false);
    }
  };
  return { begin, isCreating, complaint };
}

interface DropAnywhereProps {
  beginning: Beginning;
  /** The batch that is shown. */
  shown(): LiveBatch | undefined;
  /** What a drop begins, in words; nothing where nothing can begin. */
  wordsFor(shown: LiveBatch | undefined): string | undefined;
  children: ReactNode;
}

/** The whole window takes a drop: nobody has to hit a card. */
export function DropAnywhere({ beginning, shown, wordsFor, children }: DropAnywhereProps) {
  const { getRootProps, isDragActive } = useDropzone({
    noClick: true,
    noKeyboard: true,
    // The walk is our own: it keeps empty folders, bears unreadable files, and sends what it has found at once.
    getFilesFromEvent: async (event) => {
      if ("dataTransfer" in event && event.type === "drop")
        void beginning.begin(takeDropped(event.dataTransfer?.items), shown());
      else if ("clipboardData" in event) {
        void beginning.begin(takeDropped((event as unknown as ClipboardEvent).clipboardData?.items), shown());
      }
      return [];
    },
  });
  const words = isDragActive ? wordsFor(shown()) : undefined;
  return (
    <div {...getRootProps({ className: "app", role: undefined, tabIndex: undefined })}>
      {children}
      {words !== undefined && (
        <div className="over-all" data-over>
          <p>{words}</p>
        </div>
      )}
    </div>
  );
}
