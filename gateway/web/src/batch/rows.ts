import type { BatchTree } from "./tree";

/** The rows that can be scrolled to, flat: a file by its ordinal, a folder as -(index + 1). */
export interface Rows {
  rows: number[];
  /** From 1, as `aria-level` counts. */
  levels: number[];
  /** Place among its siblings, from 1, and how many there are. */
  places: number[];
  siblings: number[];
}

export const folderRow = (folder: number): number => -(folder + 1);
export const folderOfRow = (row: number): number => -row - 1;
export const isFolderRow = (row: number): boolean => row < 0;

export function treeRows(tree: BatchTree, isExpanded: (folder: number) => boolean): Rows {
  const flat: Rows = { rows: [], levels: [], places: [], siblings: [] };
  const visit = (folder: number, level: number) => {
    const { folders, files } = tree.childrenOf(folder);
    const siblings = folders.length + files.length;
    let place = 0;
    for (const child of folders) {
      place += 1;
      add(flat, folderRow(child), level, place, siblings);
      if (isExpanded(child)) visit(child, level + 1);
    }
    for (const ordinal of files) {
      place += 1;
      add(flat, ordinal, level, place, siblings);
    }
  };
  visit(0, 1);
  return flat;
}

/** Only files that match, in the order of the tree. */
export function matchingRows(tree: BatchTree, matches: (ordinal: number) => boolean): Rows {
  const flat: Rows = { rows: [], levels: [], places: [], siblings: [] };
  const visit = (folder: number) => {
    const { folders, files } = tree.childrenOf(folder);
    for (const child of folders) visit(child);
    for (const ordinal of files) if (matches(ordinal)) flat.rows.push(ordinal);
  };
  visit(0);
  const count = flat.rows.length;
  flat.levels = new Array(count).fill(1);
  flat.places = Array.from({ length: count }, (_, index) => index + 1);
  flat.siblings = new Array(count).fill(count);
  return flat;
}

/** `*` within a part, `**` across parts; without a star: anywhere in the path, case aside. */
export function pathMatcher(pattern: string): (path: string) => boolean {
  const wanted = pattern.trim().toLowerCase();
  if (wanted === "") return () => true;
  if (!wanted.includes("*")) return (path) => path.toLowerCase().includes(wanted);
  const source = wanted
    .split(/(\*\*\/?|\*)/)
    .map((piece) => {
      if (piece === "*") return "[^/]*";
      if (piece === "**/") return "(?:.*/)?";
      if (piece === "**") return ".*";
      return piece.replace(/[.+?^${}()|[\]\\]/g, "\\$&");
    })
    .join("");
  // A pattern without a folder is meant for names, wherever they are.
  const anchored = new RegExp(wanted.includes("/") ? `^${source}$` : `^(?:.*/)?${source}$`);
  return (path) => anchored.test(path.toLowerCase());
}

function add(flat: Rows, row: number, level: number, place: number, siblings: number): void {
  flat.rows.push(row);
  flat.levels.push(level);
  flat.places.push(place);
  flat.siblings.push(siblings);
}
