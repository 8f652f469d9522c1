import { type ChangeEvent, useRef } from "react";
import { takeFiles } from "../scan/dropped";
import type { Dropped } from "../scan/found";

interface PickFolderProps {
  words: string;
  onPicked(dropped: Dropped): void;
  className?: string | undefined;
}

/** A button that asks for a folder. */
export function PickFolder({ words, onPicked, className }: PickFolderProps) {
  const input = useRef<HTMLInputElement>(null);
  const picked = ({ target }: ChangeEvent<HTMLInputElement>) => {
    const files = Array.from(target.files ?? []);
    target.value = "";
    if (files.length > 0) onPicked(takeFiles(files));
  };
  return (
    <>
      <button type="button" className={className} onClick={() => input.current?.click()}>
        {words}
      </button>
      <input ref={input} data-pick="again" type="file" hidden multiple onChange={picked} {...{ webkitdirectory: "" }} />
    </>
  );
}
