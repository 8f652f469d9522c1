export interface ToHasher {
  request: number;
  file: File;
}

/** `sha256` is missing where the file could not be read. */
export interface FromHasher {
  request: number;
  sha256?: Uint8Array<ArrayBuffer>;
}
