import { type ChangeEvent, useEffect, useRef, useState } from "react";
import type { Batches } from "../batches";
import { takeFiles } from "../scan/dropped";
import { keepLeavesOut, LEFT_BEHIND, leavesOut } from "../scan/left-out";
import type { KeyRefusal } from "../trouble";
import { useSaid } from "../words";
import type { Beginning } from "./drop-anywhere";
import { Recent } from "./recent";

interface StartProps {
  batches: Batches;
  beginning: Beginning;
  onRefused(refusal: KeyRefusal): void;
}

/** Where one drops, and what was dropped before. */
export function Start({ batches, beginning, onRefused }: StartProps) {
  const { words } = useSaid();
  const { begin, isCreating, complaint } = beginning;
  const [isLeavingOut, setIsLeavingOut] = useState(leavesOut);
  const [isPicking, setIsPicking] = useState(false);
  const folderInput = useRef<HTMLInputElement>(null);
  const fileInput = useRef<HTMLInputElement>(null);

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
      <section className="card drop" aria-labelledby="drop-title" data-drop>
        <h1 id="drop-title">{words.start.title}</h1>
        <p className="mute">{words.start.lead}</p>
        <p className="mute small" data-anywhere>
          {words.start.anywhere}
        </p>
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
            {words.start.leaveOut} <span className="mute">({LEFT_BEHIND.join(", ")})</span>
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
