// What this browser was sending, so that it can go on after the page was loaded anew. Without a place to keep it, it asks.

const DATABASE = "caudal";
const STORE = "uploads";
const KEPT = 50;

interface Remembered {
  batch: string;
  /** Rises with each one that is kept. */
  turn: number;
  handles: FileSystemHandle[];
}

/** Keeps that this browser sends the batch, and by which handles it finds the files again. */
export async function remember(batch: string, handles: FileSystemHandle[]): Promise<void> {
  await inStore("readwrite", async (store) => {
    const all = await answerOf<Remembered[]>(store.getAll());
    const turn = Math.max(0, ...all.map((one) => one.turn)) + 1;
    for (const one of all) if (one.turn <= turn - KEPT) store.delete(one.batch);
    const kept: Remembered = { batch, turn, handles };
    await answerOf(store.put(kept));
  });
}

/** The handles of a batch that this browser was sending; nothing where it was another. */
export async function recall(batch: string): Promise<FileSystemHandle[] | undefined> {
  const found = await inStore("readonly", (store) => answerOf<Remembered | undefined>(store.get(batch)));
  return found?.handles;
}

/** All of it has arrived. */
export async function forget(batch: string): Promise<void> {
  await inStore("readwrite", (store) => answerOf(store.delete(batch)));
}

/** Marks the batch as being sent by this browser until `ended`, for its other tabs. */
export function holdWhile(batch: string, ended: Promise<void>): void {
  navigator.locks?.request(lockOf(batch), () => ended).catch(() => undefined);
}

/** Whether a tab of this browser is sending it; nothing where the browser cannot tell. */
export async function isHeld(batch: string): Promise<boolean | undefined> {
  const state = await navigator.locks?.query();
  return state?.held?.some(({ name }) => name === lockOf(batch));
}

function lockOf(batch: string): string {
  return `caudal-upload-${batch}`;
}

async function inStore<T>(
  mode: IDBTransactionMode,
  act: (store: IDBObjectStore) => Promise<T>,
): Promise<T | undefined> {
  try {
    const opening = indexedDB.open(DATABASE, 1);
    opening.onupgradeneeded = () => opening.result.createObjectStore(STORE, { keyPath: "batch" });
    const database = await answerOf(opening);
    try {
      return await act(database.transaction(STORE, mode).objectStore(STORE));
    } finally {
      database.close();
    }
  } catch {
    // A private window, or a browser that keeps nothing.
    return undefined;
  }
}

function answerOf<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
