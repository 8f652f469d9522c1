import ignore from "ignore";
import list from "../../../../proto/sdk/left-out.txt?raw";
import type { Dropped } from "./found";

/** Names that systems and programs leave behind, as people know them. The list is the same for every client. */
export const LEFT_BEHIND: readonly string[] = list
  .split("\n")
  .map((line) => line.trim())
  .filter((line) => line !== "" && !line.startsWith("#"));

const STORED = "caudal-leave-out";
const matcher = new RegExp(`^(?:${LEFT_BEHIND.map(sourceOf).join("|")})$`, "iu");

/** Whether a file of this name is one that nobody means to hand over. */
export function isLeftBehind(name: string): boolean {
  return matcher.test(name);
}

/** The file of rules that a folder may have at its top, in the form of a `.gitignore`. */
export const RULES_FILE = ".caudalignore";

/**
 * The same, without what the folder's own rules name, and where that is wanted without what systems and programs leave
 * behind: each such file is told of and not opened any more.
 */
export function withRules(dropped: Dropped, leavesOutLeftBehind: boolean): Dropped {
  return {
    ...dropped,
    async walk(emit, signal) {
      const text = await dropped.rules?.();
      const own = text === undefined ? undefined : ignore({ allowRelativePaths: true }).add(text);
      await dropped.walk((found) => {
        const { kind, path } = found;
        const isFolder = kind === "empty-folder";
        if (kind !== "file" && !isFolder) return emit(found);
        const ruled = own?.test(isFolder ? `${path}/` : path);
        if (ruled?.ignored) return emit({ kind: "by-rule", path, isFolder });
        const isWanted =
          isFolder || !leavesOutLeftBehind || ruled?.unignored || !isLeftBehind(path.slice(path.lastIndexOf("/") + 1));
        return emit(isWanted ? found : { kind: "left-out", path });
      }, signal);
    },
  };
}

/** Whether this person leaves them out, which is so until it is said otherwise. */
export function leavesOut(): boolean {
  return localStorage.getItem(STORED) !== "no";
}

export function keepLeavesOut(leaves: boolean): void {
  localStorage.setItem(STORED, leaves ? "yes" : "no");
}

function sourceOf(pattern: string): string {
  return pattern
    .split("*")
    .map((piece) => piece.replace(/[.+?^${}()|[\]\\]/g, "\\$&"))
    .join(".*");
}
