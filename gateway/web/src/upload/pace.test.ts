import { expect, test } from "vitest";
import { Lanes } from "./lanes";
import { Queue } from "./queue";
import { Rate } from "./rate";

test("lanes stay between 5 and 10, whatever happens", () => {
  const lanes = new Lanes();
  expect(lanes.count).toBe(8);
  for (let put = 0; put < 1_000; put += 1) lanes.wentWell();
  expect(lanes.count).toBe(10);
  for (let put = 0; put < 1_000; put += 1) lanes.hadTrouble();
  expect(lanes.count).toBe(5);
});

test("a queue gives what is there in pages and ends when it is closed and empty", async () => {
  const queue = new Queue<number>();
  for (const item of [1, 2, 3]) await queue.push(item);
  queue.close();
  expect(await queue.take(2)).toEqual([1, 2]);
  expect(await queue.take(2, 1_000)).toEqual([3]);
  expect(await queue.take(2)).toEqual([]);
});

test("a full queue makes its filler wait until something is taken", async () => {
  const queue = new Queue<number>(1);
  await queue.push(1);
  let isPushed = false;
  const pushing = queue.push(2).then(() => {
    isPushed = true;
  });
  await Promise.resolve();
  expect(isPushed).toBe(false);
  expect(await queue.next()).toBe(1);
  await pushing;
  expect(await queue.next()).toBe(2);
});

test("no time is reckoned from what has only begun", () => {
  const rate = new Rate();
  rate.note(0, 0);
  for (let at = 100; at <= 2_900; at += 100) rate.note(at * 1_000, at);
  // Not from the first seconds, and then not from less than a hundredth.
  expect([rate.perSecond(2_900), rate.secondsFor(1_000, 2_900)]).toEqual([undefined, undefined]);
  const slow = new Rate();
  for (let at = 0; at <= 4_000; at += 100) slow.note(at * 4, at);
  expect(slow.perSecond(4_000)).toBeCloseTo(4_000, -2);
  expect(slow.secondsFor(60_000_000, 4_000)).toBeUndefined();
  for (let at = 4_100; at <= 160_000; at += 100) slow.note(at * 4, at);
  expect(slow.secondsFor(60_000_000, 160_000)).toBeCloseTo(15_000, -3);
  // A batch that was begun before had its share already.
  const resumed = new Rate();
  for (let at = 0; at <= 4_000; at += 100) resumed.note(30_000_000 + at, at);
  expect(resumed.secondsFor(30_000_000, 4_000)).toBeUndefined();
});

test("a rate is known after a moment, follows the last seconds and begins anew when the total falls", () => {
  const rate = new Rate();
  rate.note(0, 0);
  expect(rate.perSecond(100)).toBeUndefined();
  for (let at = 100; at <= 10_000; at += 100) rate.note(at, at);
  expect(rate.perSecond(10_000)).toBeCloseTo(1_000, -1);
  expect(rate.secondsFor(5_000, 10_000)).toBeCloseTo(5, 0);
  rate.note(10, 10_100);
  expect(rate.perSecond(10_200)).toBeUndefined();
});
