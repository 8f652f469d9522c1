import { type ChangeEvent, useRef, useState } from "react";
import { useDropzone } from "react-dropzone";
import type { Batches } from "../batches";
import { batchHref, go } from "../route";
import { takeDirectory, takeDropped, takeFiles } from "../scan/dropped";
import type { Dropped } from "../scan/found";
import { useSaid } from "../words";
import { Recent } from "./recent";

/** Where one drops, and what was dropped before. */
export function Start({ batches, onRefused }: { batches: Batches; onRefused(): void }) {
  const { words } = useSaid();
  const [complaint, setComplaint] = useState("");
  const [isCreating, setIsCreating] = useState(false);
  const folderInput = useRef<HTMLInputElement>(null);
  const fileInput = useRef<HTMLInputElement>(null);
  const hasFolderPicker = typeof window.showDirectoryPicker === "function";

  const begin = async (dropped: Dropped | null) => {
    if (dropped === null) return setComplaint(words.start.nothing);
    setComplaint("");
    setIsCreating(true);
    try {
      go(batchHref(await batches.send(dropped, words.batch.severalThings)));
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

  const pickFolder = async () => {
    if (window.showDirectoryPicker === undefined) return folderInput.current?.click();
    try {
      await begin(takeDirectory(await window.showDirectoryPicker({ mode: "read" })));
    } catch (trouble) {
      // Closing the picker is an answer too.
      if (!(trouble instanceof DOMException && trouble.name === "AbortError")) folderInput.current?.click();
    }
  };
  const picked = (event: ChangeEvent<HTMLInputElement>) => {
    const files = Array.from(event.target.files ?? []);
    event.target.value = "";
    if (files.length > 0) void begin(takeFiles(files));
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
          <button type="button" className="primary" disabled={isCreating} onClick={() => void pickFolder()}>
            {isCreating ? words.start.creating : words.start.folder}
          </button>
          <button type="button" disabled={isCreating} onClick={() => fileInput.current?.click()}>
            {words.start.files}
          </button>
        </div>
        {!hasFolderPicker && <p className="mute small">{words.start.pickerRemark}</p>}
        <p className="fail" role="alert">
          {complaint}
        </p>
        <input ref={folderInput} type="file" hidden multiple onChange={picked} {...{ webkitdirectory: "" }} />
        <input ref={fileInput} type="file" hidden multiple onChange={picked} />
      </section>
      <Recent batches={batches} onRefused={onRefused} />
    </main>
  );
}
