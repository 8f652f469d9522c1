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

/** The same, without what systems and programs leave behind: each such file is told of and not opened any more. */
export function withoutLeftBehind(dropped: Dropped): Dropped {
  return {
    name: dropped.name,
    walk: (emit, signal) =>
      dropped.walk((found) => {
        const isWanted = found.kind !== "file" || !isLeftBehind(found.path.slice(found.path.lastIndexOf("/") + 1));
        return emit(isWanted ? found : { kind: "left-out", path: found.path });
      }, signal),
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
