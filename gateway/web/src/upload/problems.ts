/** Why something that was dropped is not in the batch, or its bytes are not. */
export type ProblemKind =
  | "left-out"
  | "by-rule"
  | "same-name"
  | "unreadable"
  | "not-utf8"
  | "refused"
  | "changed"
  | "other-size"
  | "other-content"
  | "changed-since"
  | "not-in-batch"
  | "upload-failed";

export interface Problem {
  path: string;
  kind: ProblemKind;
  /** More in the words of whoever refused it; may be empty. */
  why: string;
  isFolder: boolean;
  /** It is in the batch, and only its bytes are missing. */
  isListed: boolean;
}

/** How much of what was dropped did not become part of the batch. */
export interface NotTaken {
  files: number;
  /** Folders that could not be read or were refused: nobody knows what is in them. */
  folders: number;
  /** In order; not all of them where the batch is shown by another page than the one that sent it. */
  named: Problem[];
}

export const NOTHING_LEFT_OUT: NotTaken = { files: 0, folders: 0, named: [] };

const LONGEST_CAUSE = 500;

/** Why the bytes of a file that is in the batch will not come, as the batch's record says it, in one language for all. */
export function causeOf(kind: ProblemKind, why: string): string {
  const said = why === "" ? "" : `: ${why}`;
  const words: Partial<Record<ProblemKind, string>> = {
    unreadable: "cannot be read",
    changed: "changed while it was uploaded",
    "other-content": "differs from what was announced",
    refused: "was refused",
    "upload-failed": "could not be uploaded",
  };
  // Counted in letters as the gateway does, not in halves of them.
  return [...`${words[kind] ?? kind}${said}`].slice(0, LONGEST_CAUSE).join("");
}

const NOTE = "left_out";
const NAMES_IN_NOTE = 100;
/** The metadata of a batch may have 16 KiB, and a letter up to six bytes as JSON. */
const LETTERS_IN_NOTE = 2_500;
const KINDS: ReadonlySet<string> = new Set<ProblemKind>([
  "left-out",
  "by-rule",
  "same-name",
  "unreadable",
  "not-utf8",
  "refused",
  "not-in-batch",
]);

/** What the batch itself keeps of it, so that whoever looks at it later knows that the folder held more. */
export function noteOf({ files, folders, named }: NotTaken) {
  const names: { path: string; kind: string; why: string; folder: boolean }[] = [];
  let letters = 0;
  for (const { path, kind, why, isFolder } of named) {
    letters += path.length + why.length + 24;
    if (letters > LETTERS_IN_NOTE || names.length >= NAMES_IN_NOTE) break;
    names.push({ path, kind, why, folder: isFolder });
  }
  return { [NOTE]: { files, folders, names } };
}

/** Reads the note of a batch. Anybody may have written it. */
export function notTakenIn(metadata: unknown): NotTaken {
  const note = fieldOf(metadata, NOTE);
  const files = countOf(fieldOf(note, "files"));
  const folders = countOf(fieldOf(note, "folders"));
  const names = fieldOf(note, "names");
  if (files + folders === 0) return NOTHING_LEFT_OUT;
  const named: Problem[] = [];
  for (const one of Array.isArray(names) ? names.slice(0, NAMES_IN_NOTE) : []) {
    const path = fieldOf(one, "path");
    const kind = fieldOf(one, "kind");
    const why = fieldOf(one, "why");
    if (typeof path !== "string" || typeof kind !== "string" || !KINDS.has(kind)) continue;
    named.push({
      path,
      kind: kind as ProblemKind,
      why: typeof why === "string" ? why : "",
      isFolder: fieldOf(one, "folder") === true,
      isListed: false,
    });
  }
  return { files, folders, named };
}

function fieldOf(of: unknown, name: string): unknown {
  return typeof of === "object" && of !== null ? (of as Record<string, unknown>)[name] : undefined;
}

function countOf(value: unknown): number {
  return typeof value === "number" && Number.isInteger(value) && value > 0 ? value : 0;
}
