import type { Root } from "./handles";

export type ToWorker = { kind: "walk"; roots: Root[] } | { kind: "open"; id: number; request: number };

export interface FoundRow {
  path: string;
  size: number;
  modified: number;
  id: number;
}

export type FromWorker =
  | { kind: "found"; rows: FoundRow[] }
  | { kind: "walked" }
  | { kind: "file"; request: number; file: File }
  | { kind: "no-file"; request: number; why: string };
