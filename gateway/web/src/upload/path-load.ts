/** Folders that the paths of a page may imply. */
const FOLDERS_A_PAGE = 4_000;
/** Bytes of the paths of a page, those of its folders included. */
const PATH_BYTES_A_PAGE = 2 << 20;
/** A UTF-16 unit is at most so many bytes of UTF-8. */
const BYTES_A_UNIT = 3;

/** What the paths of a page come to, as the gateway counts it and a little more: a path names all folders above it. */
export class PathLoad {
  private readonly folders = new Set<string>();
  private bytes = 0;

  /** Adds an entry, if the page has room for it. A page has room for any first one. */
  add(path: string, isFolder: boolean): boolean {
    const added: string[] = [];
    for (let end = path.indexOf("/"); end >= 0; end = path.indexOf("/", end + 1)) this.note(path.slice(0, end), added);
    if (isFolder) this.note(path, added);
    const units = added.reduce((sum, folder) => sum + folder.length, isFolder ? 0 : path.length);
    const bytes = this.bytes + units * BYTES_A_UNIT;
    if (this.folders.size + added.length > FOLDERS_A_PAGE || bytes > PATH_BYTES_A_PAGE) return false;
    for (const folder of added) this.folders.add(folder);
    this.bytes = bytes;
    return true;
  }

  private note(folder: string, added: string[]): void {
    if (!this.folders.has(folder)) added.push(folder);
  }
}
