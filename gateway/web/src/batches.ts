import { type Caudal, Code, ConnectError, retrying } from "@caudal/client";
import { LiveBatch } from "./batch/live";
import { newRequestId } from "./identity";
import type { Dropped } from "./scan/found";

/** A view that is left and entered again within this time goes on with the same watch. */
const LINGER_MS = 4_000;
const LONGEST_NAME = 200;
/** The name by which an upload token asks for its batch. */
const OWN_BATCH = "batches/-";

/** The batches that this page follows or sends, each once, whatever view is shown. */
export class Batches {
  /** Told when a batch has ended that this page follows. */
  onEnded: ((batch: LiveBatch) => void) | undefined;
  private readonly live = new Map<string, { batch: LiveBatch; holders: number }>();

  constructor(readonly callers: Caudal) {}

  /** Follows a batch until it is released as often as it was taken; one that is being sent stays. */
  take(name: string): LiveBatch {
    const held = this.live.get(name) ?? { batch: this.follow(name), holders: 0 };
    held.holders += 1;
    this.live.set(name, held);
    held.batch.watch();
    return held.batch;
  }

  release(name: string): void {
    const held = this.live.get(name);
    if (held === undefined) return;
    held.holders -= 1;
    setTimeout(() => {
      const { batch, holders } = held;
      if (holders > 0 || (batch.ingest !== undefined && !batch.ingest.isOver)) return;
      if (this.live.get(name) !== held) return;
      this.live.delete(name);
      batch.leave();
    }, LINGER_MS);
  }

  /** The one batch that an upload token is good for; nothing for a key. */
  async ownBatch(): Promise<string | undefined> {
    try {
      const { name } = await retrying(() => this.callers.batches.getBatch({ name: OWN_BATCH }));
      return name;
    } catch (thrown) {
      const { code } = ConnectError.from(thrown);
      if (code === Code.PermissionDenied || code === Code.InvalidArgument || code === Code.NotFound) return undefined;
      throw thrown;
    }
  }

  /** Makes a batch for what was dropped and begins to send it. Answers the batch's name. */
  async send(dropped: Dropped, fallbackName: string): Promise<string> {
    const displayName = Array.from((dropped.name || fallbackName).normalize("NFC"))
      .slice(0, LONGEST_NAME)
      .join("");
    const request = { batch: { displayName }, requestId: newRequestId() };
    const { name } = await retrying(() => this.callers.batches.createBatch(request), { attempts: 5 });
    // Kept once more than any view holds it, until all is sent.
    const live = this.take(name);
    live.givenName = displayName;
    void live.send(dropped).ended.then(() => this.release(name));
    return name;
  }

  /** Sends more into a batch that is shown. */
  sendMore(live: LiveBatch, dropped: Dropped): void {
    this.take(live.name);
    void live.sendMore(dropped).finally(() => this.release(live.name));
  }

  /** The batch of this name, where this page follows it. */
  followed(name: string): LiveBatch | undefined {
    return this.live.get(name)?.batch;
  }

  private follow(name: string): LiveBatch {
    const batch = new LiveBatch(this.callers, name);
    batch.onEnded = () => this.onEnded?.(batch);
    return batch;
  }

  /** Whether closing the page would lose something. */
  get isSending(): boolean {
    for (const { batch } of this.live.values()) if (batch.ingest !== undefined && !batch.ingest.isOver) return true;
    return false;
  }

  forgetWords(): void {
    for (const { batch } of this.live.values()) batch.forgetWords();
  }

  leave(): void {
    for (const { batch } of this.live.values()) batch.leave();
    this.live.clear();
  }
}
