import { BUCKETS, Bucket } from "./buckets";
import type { BatchTree } from "./tree";

/** Counts files by bucket, for the batch and for each folder's subtree, moving only what moved. */
export class Tally {
  readonly totals = new Uint32Array(BUCKETS);
  private buckets = new Uint8Array(1024);
  private counted = new Uint8Array(1024);
  private folders = new Uint32Array(64 * BUCKETS);

  constructor(private readonly tree: BatchTree) {}

  bucket(ordinal: number): Bucket {
    return this.buckets[ordinal] ?? Bucket.None;
  }

  of(folder: number, bucket: Bucket): number {
    return this.folders[folder * BUCKETS + bucket] ?? 0;
  }

  totalOf(folder: number): number {
    let total = 0;
    for (let bucket = 1; bucket < BUCKETS; bucket += 1) total += this.of(folder, bucket);
    return total;
  }

  move(ordinal: number, to: Bucket): void {
    this.reserve(ordinal);
    const from = this.buckets[ordinal] ?? Bucket.None;
    if (from === to) return;
    this.buckets[ordinal] = to;
    if (from !== Bucket.None) this.totals[from] = (this.totals[from] ?? 0) - 1;
    if (to !== Bucket.None) this.totals[to] = (this.totals[to] ?? 0) + 1;
    if (this.counted[ordinal] === 1) this.moveInFolders(ordinal, from, to);
  }

  /** The file's name is known now: from here on its folders count it. */
  named(ordinal: number): void {
    this.reserve(ordinal);
    if (this.counted[ordinal] === 1) return;
    this.counted[ordinal] = 1;
    this.moveInFolders(ordinal, Bucket.None, this.bucket(ordinal));
  }

  private moveInFolders(ordinal: number, from: Bucket, to: Bucket): void {
    for (let folder = this.tree.folderOf(ordinal); folder >= 0; folder = this.tree.folderParent[folder] ?? -1) {
      const at = folder * BUCKETS;
      if (at + BUCKETS > this.folders.length) {
        const folders = new Uint32Array(Math.max(at + BUCKETS, this.folders.length * 2));
        folders.set(this.folders);
        this.folders = folders;
      }
      if (from !== Bucket.None) this.folders[at + from] = (this.folders[at + from] ?? 0) - 1;
      if (to !== Bucket.None) this.folders[at + to] = (this.folders[at + to] ?? 0) + 1;
    }
  }

  private reserve(ordinal: number): void {
    if (ordinal < this.buckets.length) return;
    const length = Math.max(ordinal + 1, this.buckets.length * 2);
    const buckets = new Uint8Array(length);
    buckets.set(this.buckets);
    this.buckets = buckets;
    const counted = new Uint8Array(length);
    counted.set(this.counted);
    this.counted = counted;
  }
}
