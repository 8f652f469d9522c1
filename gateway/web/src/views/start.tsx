import { type ChangeEvent, useEffect, useRef, useState } from "react";
import { useDropzone } from "react-dropzone";
import type { Batches } from "../batches";
import { batchHref, go } from "../route";
import { takeDropped, takeFiles } from "../scan/dropped";
import type { Dropped } from "../scan/found";
import { keepLeavesOut, LEFT_BEHIND, leavesOut, withoutLeftBehind } from "../scan/left-out";
import { useSaid } from "../words";
import { Recent } from "./recent";

/** Where one drops, and what was dropped before. */
export function Start({ batches, onRefused }: { batches: Batches; onRefused(): void }) {
  const { words } = useSaid();
  const [complaint, setComplaint] = useState("");
  const [isCreating, setIsCreating] = useState(false);
  const folderInput = useRef<HTMLInputElement>(null);
  const fileInput = useRef<HTMLInputElement>(null);
  const [isLeavingOut, setIsLeavingOut] = useState(leavesOut);
  const [isPicking, setIsPicking] = useState(false);

  const begin = async (dropped: Dropped | null) => {
    if (dropped === null) return setComplaint(words.start.nothing);
    setComplaint("");
    setIsCreating(true);
    try {
      const wanted = isLeavingOut ? withoutLeftBehind(dropped) : dropped;
      go(batchHref(await batches.send(wanted, words.batch.severalThings)));
    } catch (trouble) {
      setComplaint(trouble instanceof Error ? trouble.message : String(trouble));
      setIsCreating(false);
    }
  };

  const { getRootProps, isDragActive } = useDropzone({
    noClick: true,
    noKeyboard: true,
    // The walk is our own: it keeps empty folders, bears unreadable files, and sends what it has found at once.
    getFilesFromEvent: async (event) => {
      if ("dataTransfer" in event && event.type === "drop") void begin(takeDropped(event.dataTransfer?.items));
      else if ("clipboardData" in event) {
        void begin(takeDropped((event as unknown as ClipboardEvent).clipboardData?.items));
      }
      return [];
    },
  });

  // The input, and not the browser's picker of handles: handles hide names that the browser holds for unsafe.
  const pickFolder = () => {
    setIsPicking(true);
    folderInput.current?.click();
  };
  useEffect(() => {
    const input = folderInput.current;
    const cancelled = () => setIsPicking(false);
    input?.addEventListener("cancel", cancelled);
    return () => input?.removeEventListener("cancel", cancelled);
  }, []);
  const picked = (event: ChangeEvent<HTMLInputElement>) => {
    const files = Array.from(event.target.files ?? []);
    event.target.value = "";
    setIsPicking(false);
    void begin(files.length > 0 ? takeFiles(files) : null);
  };

  return (
    <main id="content">
      <section
        {...getRootProps({
          className: `card drop${isDragActive ? " over" : ""}`,
          role: undefined,
          tabIndex: undefined,
          "aria-labelledby": "drop-title",
        })}
        data-drop
      >
        <h1 id="drop-title">{isDragActive ? words.start.over : words.start.title}</h1>
        <p className="mute">{words.start.lead}</p>
        <div className="buttons">
          <button type="button" className="primary" disabled={isCreating} onClick={pickFolder}>
            {isCreating ? words.start.creating : words.start.folder}
          </button>
          <button type="button" disabled={isCreating} onClick={() => fileInput.current?.click()}>
            {words.start.files}
          </button>
        </div>
        <label className="check small">
          <input
            type="checkbox"
            checked={isLeavingOut}
            onChange={({ target }) => {
              keepLeavesOut(target.checked);
              setIsLeavingOut(target.checked);
            }}
          />
          <span>
            {words.start.leaveOut} <span className="mute">({LEFT_BEHIND.join("  ")})</span>
          </span>
        </label>
        <p className="mute small">{words.start.pickerRemark}</p>
        <p className="mute" role="status">
          {isPicking && words.start.picking}
        </p>
        <p className="fail" role="alert">
          {complaint}
        </p>
        <input
          ref={folderInput}
          data-pick="folder"
          type="file"
          hidden
          multiple
          onChange={picked}
          {...{ webkitdirectory: "" }}
        />
        <input ref={fileInput} type="file" hidden multiple onChange={picked} />
      </section>
      <Recent batches={batches} onRefused={onRefused} />
    </main>
  );
}
