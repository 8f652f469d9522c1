/** A file that was dropped. `open` may be asked late and more than once; each time it answers the file as it is then. */
export interface FoundFile {
  kind: "file";
  /** Relative to the batch, parts joined by `/`, NFC. */
  path: string;
  size: number;
  /** Milliseconds since 1970; 0 when it is not known. */
  modified: number;
  open(): Promise<File>;
}

/** A folder with nothing in it: others are implied by the paths of their files. */
export interface EmptyFolder {
  kind: "empty-folder";
  path: string;
}

/** Something that could not be read, and does not become part of the batch. */
export interface Unreadable {
  kind: "unreadable";
  path: string;
  /** Nobody knows what is in a folder that could not be read. */
  isFolder: boolean;
  why: string;
}

/** Something whose name is not UTF-8: no browser can say it, nor reach what has it. */
export interface NotUtf8 {
  kind: "not-utf8";
  /** With a sign in the place of the name. */
  path: string;
  isFolder: boolean;
}

/** A file that systems and programs leave behind, and that the person wants left out. */
export interface LeftOut {
  kind: "left-out";
  path: string;
}

/** A file, or an empty folder, that the rules of its folder leave out. */
export interface LeftOutByRule {
  kind: "by-rule";
  path: string;
  isFolder: boolean;
}

export type Found = FoundFile | EmptyFolder | Unreadable | NotUtf8 | LeftOut | LeftOutByRule;

/** Takes what a walk found; the walk waits for it, so that a slow network does not fill the memory. */
export type Emit = (found: Found) => Promise<void> | void;

/** What a person dropped or picked, ready to be walked once. */
export interface Dropped {
  /** A name for the batch; empty when there is no obvious one. */
  name: string;
  walk(emit: Emit, signal: AbortSignal): Promise<void>;
  /** The text of the rules that stand at the top of what was dropped; nothing where there are none. */
  rules?: () => Promise<string | undefined>;
  /** By which a browser may find the same again after the page was loaded anew; where it gives any. */
  handles?: () => Promise<FileSystemHandle[]>;
}

/** macOS gives decomposed names, others composed ones: one of the two must win, and the gateway stores NFC. */
export function joined(parent: string, name: string): string {
  const part = name.normalize("NFC");
  return parent === "" ? part : `${parent}/${part}`;
}

export function wordsOf(trouble: unknown): string {
  return trouble instanceof Error ? trouble.message : String(trouble);
}
