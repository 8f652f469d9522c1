/** Runs at most so many tasks at once. `add` waits until there is room, so the caller never runs ahead. */
export class Limit {
  private running = 0;
  private wakeUps: (() => void)[] = [];
  private failed: unknown;
  private hasFailed = false;

  constructor(private readonly most: number) {}

  async add(task: () => Promise<void>): Promise<void> {
    while (this.running >= this.most) await this.moved();
    this.throwIfFailed();
    this.running += 1;
    task()
      .catch((trouble: unknown) => {
        if (!this.hasFailed) this.failed = trouble;
        this.hasFailed = true;
      })
      .finally(() => {
        this.running -= 1;
        const waiting = this.wakeUps;
        this.wakeUps = [];
        for (const wakeUp of waiting) wakeUp();
      });
  }

  /** Waits for all of them; throws what the first that failed threw. */
  async ended(): Promise<void> {
    while (this.running > 0) await this.moved();
    this.throwIfFailed();
  }

  private moved(): Promise<void> {
    return new Promise((resolve) => this.wakeUps.push(resolve));
  }

  private throwIfFailed(): void {
    if (this.hasFailed) throw this.failed;
  }
}
