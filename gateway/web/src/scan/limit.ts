/** Runs at most so many tasks at once. `add` waits until there is room, so the caller never runs ahead. */
export class Limit {
  private readonly running = new Set<Promise<void>>();
  private failed: unknown;
  private hasFailed = false;

  constructor(private readonly most: number) {}

  async add(task: () => Promise<void>): Promise<void> {
    while (this.running.size >= this.most) await Promise.race(this.running);
    this.throwIfFailed();
    const run = task()
      .catch((trouble: unknown) => {
        if (!this.hasFailed) this.failed = trouble;
        this.hasFailed = true;
      })
      .finally(() => this.running.delete(run));
    this.running.add(run);
  }

  /** Waits for all of them; throws what the first that failed threw. */
  async ended(): Promise<void> {
    while (this.running.size > 0) await Promise.race(this.running);
    this.throwIfFailed();
  }

  private throwIfFailed(): void {
    if (this.hasFailed) throw this.failed;
  }
}
