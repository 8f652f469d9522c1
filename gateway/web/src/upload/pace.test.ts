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
