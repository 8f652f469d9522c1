/** Where a file stands whose batch was begun before: its bytes are there, are waited for, or it failed for want of them. */
export type Standing = "arrived" | "waits" | "failed";

export interface KnownFile {
  ordinal: number;
  size: number;
  standing: Standing;
}

/** What a batch holds that was begun before, as of when its upload goes on. */
export interface Known {
  /** More may be added. */
  isOpen: boolean;
  find(path: string): KnownFile | undefined;
  /** Files of the batch whose bytes are not there. */
  waiting: ReadonlySet<number>;
}

/** How what was dropped again compares with what the batch waits for. */
export interface Compared {
  /** Their bytes were not there, and are sent. */
  matched: number;
  /** Waited for, of the same path, and of another size or content than announced. */
  changed: number;
  /** Their bytes were there, and are the same as far as is known. */
  arrived: number;
  /** Waited for and not among what was dropped; known when the walk is over. */
  missing: number;
}
