const FEWEST = 5;
const MOST = 10;
const FIRST = 8;
/** Good ones in a row that earn one more lane. */
const GOOD_FOR_ONE_MORE = 24;

/** How many uploads go on at once: one more after a good run, fewer after trouble, always 5 to 10. */
export class Lanes {
  private allowed = FIRST;
  private goodInARow = 0;

  get count(): number {
    return this.allowed;
  }

  wentWell(): void {
    this.goodInARow += 1;
    if (this.goodInARow < GOOD_FOR_ONE_MORE) return;
    this.goodInARow = 0;
    this.allowed = Math.min(MOST, this.allowed + 1);
  }

  hadTrouble(): void {
    this.goodInARow = 0;
    this.allowed = Math.max(FEWEST, this.allowed - 1);
  }
}
