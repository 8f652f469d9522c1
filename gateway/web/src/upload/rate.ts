const WINDOW_MS = 6_000;
/** From less no pace can be told. */
const LEAST_MS = 3_000;
/** Of what is to be done, so much has to be done before a time is reckoned from it. */
const LEAST_SHARE = 0.01;
const MOST_SAMPLES = 128;

/** How fast a total grows, over the last seconds: quick enough to follow, slow enough to be read. */
export class Rate {
  private samples: { at: number; total: number }[] = [];
  /** The total that it began with. */
  private first = 0;

  /** Notes the total as it is now. A total that fell begins anew. */
  note(total: number, at: number): void {
    const last = this.samples.at(-1);
    if (last !== undefined && total < last.total) this.samples = [];
    if (this.samples.length === 0) this.first = total;
    // Samples closer than a fraction of the window say nothing more.
    if (last !== undefined && at - last.at < WINDOW_MS / MOST_SAMPLES) return;
    this.samples.push({ at, total });
    while (this.samples.length > 2 && at - (this.samples[1]?.at ?? at) > WINDOW_MS) this.samples.shift();
  }

  /** A second; `undefined` while too little is known. */
  perSecond(at: number): number | undefined {
    const first = this.samples[0];
    const last = this.samples.at(-1);
    if (first === undefined || last === undefined) return undefined;
    const span = Math.max(at, last.at) - first.at;
    if (span < LEAST_MS) return undefined;
    return ((last.total - first.total) * 1_000) / span;
  }

  /** Seconds until so much more is done; `undefined` when it does not move, or has only begun to. */
  secondsFor(rest: number, at: number): number | undefined {
    const rate = this.perSecond(at);
    const done = (this.samples.at(-1)?.total ?? 0) - this.first;
    if (rate === undefined || rate <= 0 || done < LEAST_SHARE * (done + rest)) return undefined;
    return rest / rate;
  }
}
