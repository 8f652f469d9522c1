import type { Root } from "./handles";

export type ToWorker = { kind: "walk"; roots: Root[] } | { kind: "open"; id: number; request: number };

export type FromWorker =
  | {
      kind: "found";
      rows: (
        | { kind: "file"; path: string; size: number; modified: number; id: number }
        | { kind: "empty-folder"; path: string }
        | { kind: "unreadable"; path: string; why: string }
      )[];
    }
  | { kind: "walked" }
  | { kind: "broken"; why: string }
  | { kind: "file"; request: number; file: File }
  | { kind: "no-file"; request: number; why: string };
