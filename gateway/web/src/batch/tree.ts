/** Names of a batch in flat arrays: folders by an index of their own, files by their ordinal. The root is folder 0. */
export class BatchTree {
  folderPath: string[] = [""];
  folderName: string[] = [""];
  folderParent: number[] = [-1];
  folderLevel: number[] = [0];
  /** The number that the gateway gave it; -1 while it is not known. */
  folderOrdinal: number[] = [0];
  folderBytes: number[] = [0];
  folderFiles: number[][] = [[]];
  folderFolders: number[][] = [[]];

  fileName: (string | undefined)[] = [];
  fileFolder = new Int32Array(1024).fill(-1);
  fileSize = new Float64Array(1024);
  /** Files whose name is known. */
  fileCount = 0;
  /** Rises with each new name. */
  version = 0;

  private readonly byPath = new Map([["", 0]]);
  private readonly sorted = new Set<number>();
  private readonly order = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

  get folderCount(): number {
    return this.folderPath.length;
  }

  addFolder(path: string, ordinal = -1): number {
    const folder = this.folderAt(path);
    if (ordinal >= 0) this.folderOrdinal[folder] = ordinal;
    return folder;
  }

  /** Answers whether the file is new. */
  addFile(ordinal: number, path: string, size: number): boolean {
    if (this.fileName[ordinal] !== undefined) return false;
    const cut = path.lastIndexOf("/");
    const folder = this.folderAt(cut < 0 ? "" : path.slice(0, cut));
    if (ordinal >= this.fileFolder.length) {
      const length = Math.max(ordinal + 1, this.fileFolder.length * 2);
      const folders = new Int32Array(length).fill(-1);
      folders.set(this.fileFolder);
      this.fileFolder = folders;
      const sizes = new Float64Array(length);
      sizes.set(this.fileSize);
      this.fileSize = sizes;
    }
    this.fileName[ordinal] = path.slice(cut + 1);
    this.fileFolder[ordinal] = folder;
    this.fileSize[ordinal] = size;
    this.folderFiles[folder]?.push(ordinal);
    this.sorted.delete(folder);
    for (let at = folder; at >= 0; at = this.folderParent[at] ?? -1)
      this.folderBytes[at] = (this.folderBytes[at] ?? 0) + size;
    this.fileCount += 1;
    this.version += 1;
    return true;
  }

  folderOf(ordinal: number): number {
    return this.fileFolder[ordinal] ?? -1;
  }

  pathOf(ordinal: number): string | undefined {
    const name = this.fileName[ordinal];
    if (name === undefined) return undefined;
    const folder = this.folderPath[this.folderOf(ordinal)] ?? "";
    return folder === "" ? name : `${folder}/${name}`;
  }

  /** Sorted as a person would: 2 before 10, case aside. */
  childrenOf(folder: number): { folders: number[]; files: number[] } {
    const folders = this.folderFolders[folder] ?? [];
    const files = this.folderFiles[folder] ?? [];
    if (!this.sorted.has(folder)) {
      folders.sort((a, b) => this.order.compare(this.folderName[a] ?? "", this.folderName[b] ?? ""));
      files.sort((a, b) => this.order.compare(this.fileName[a] ?? "", this.fileName[b] ?? ""));
      this.sorted.add(folder);
    }
    return { folders, files };
  }

  private folderAt(path: string): number {
    const known = this.byPath.get(path);
    if (known !== undefined) return known;
    const cut = path.lastIndexOf("/");
    const parent = this.folderAt(cut < 0 ? "" : path.slice(0, cut));
    const folder = this.folderPath.length;
    this.folderPath.push(path);
    this.folderName.push(path.slice(cut + 1));
    this.folderParent.push(parent);
    this.folderLevel.push((this.folderLevel[parent] ?? 0) + 1);
    this.folderOrdinal.push(-1);
    this.folderBytes.push(0);
    this.folderFiles.push([]);
    this.folderFolders.push([]);
    this.folderFolders[parent]?.push(folder);
    this.sorted.delete(parent);
    this.byPath.set(path, folder);
    this.version += 1;
    return folder;
  }
}
