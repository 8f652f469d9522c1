/** A bounded queue between two loops: pushing waits for room, taking waits for something. */
export class Queue<T> {
  private items: T[] = [];
  private isClosed = false;
  private wakeUps: (() => void)[] = [];

  constructor(private readonly capacity = Number.POSITIVE_INFINITY) {}

  async push(item: T): Promise<void> {
    while (this.items.length >= this.capacity && !this.isClosed) await this.moved();
    if (this.isClosed) return;
    this.items.push(item);
    this.wake();
  }

  /** No more comes; what is there can still be taken. */
  close(): void {
    this.isClosed = true;
    this.wake();
  }

  /** The next item, `undefined` when the queue is closed and empty. */
  async next(): Promise<T | undefined> {
    const [item] = await this.take(1);
    return item;
  }

  /** At least one and at most so many items; waits `gatherMs` for a page to fill. Empty when closed and empty. */
  async take(most: number, gatherMs = 0): Promise<T[]> {
    while (this.items.length === 0) {
      if (this.isClosed) return [];
      await this.moved();
    }
    const until = performance.now() + gatherMs;
    for (
      let left = gatherMs;
      left > 0 && this.items.length < most && !this.isClosed;
      left = until - performance.now()
    ) {
      // Where the page would exceed the room, nothing more can come until it is taken.
      if (this.items.length >= this.capacity) break;
      await this.moved(left);
    }
    const taken = this.items.splice(0, most);
    this.wake();
    return taken;
  }

  private moved(withinMs?: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = withinMs === undefined ? undefined : setTimeout(resolve, withinMs);
      this.wakeUps.push(() => {
        clearTimeout(timer);
        resolve();
      });
    });
  }

  private wake(): void {
    const waiting = this.wakeUps;
    this.wakeUps = [];
    for (const wakeUp of waiting) wakeUp();
  }
}
