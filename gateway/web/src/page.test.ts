import { readFileSync } from "node:fs";
import { afterEach, expect, test, vi } from "vitest";
import { routeOf } from "./route";
import { bringsKey, takeKey } from "./session";
import { Say } from "./words";
import { en } from "./words/en";
import { es } from "./words/es";

afterEach(() => vi.unstubAllGlobals());

function openAt(hash: string) {
  const stored = new Map<string, string>();
  const replaced: string[] = [];
  vi.stubGlobal("window", {
    location: { hash },
    history: { replaceState: (_state: unknown, _title: string, url: string) => replaced.push(url) },
  });
  vi.stubGlobal("sessionStorage", {
    getItem: (key: string) => stored.get(key) ?? null,
    setItem: (key: string, value: string) => stored.set(key, value),
  });
  return { stored, replaced };
}

test("a key in the address is taken out of it at once and kept for the tab", () => {
  const { stored, replaced } = openAt("#key=caudal_abc_def");
  expect(takeKey()).toBe("caudal_abc_def");
  expect(replaced).toEqual(["#/"]);
  expect([...stored.values()]).toEqual(["caudal_abc_def"]);
});

test("an upload token in the address is taken as a key is", () => {
  const { stored, replaced } = openAt("#token=caudal_abc_def");
  expect(bringsKey("#token=caudal_abc_def")).toBe(true);
  expect(takeKey()).toBe("caudal_abc_def");
  expect([replaced, [...stored.values()]]).toEqual([["#/"], ["caudal_abc_def"]]);
  expect(bringsKey("#/batches/0190c0de-0000-7000-8000-000000000001")).toBe(false);
});

test("a link to a batch keeps its place when its key is taken out", () => {
  const { replaced } = openAt("#/batches/0190c0de-0000-7000-8000-000000000001?key=caudal_abc");
  expect(takeKey()).toBe("caudal_abc");
  expect(replaced).toEqual(["#/batches/0190c0de-0000-7000-8000-000000000001"]);
});

test("an address is a batch or the start", () => {
  expect(routeOf("#/batches/0190c0de-0000-7000-8000-000000000001")).toEqual({
    view: "batch",
    batch: "batches/0190c0de-0000-7000-8000-000000000001",
  });
  for (const hash of ["", "#/", "#/batches/../x", "#/other"]) expect(routeOf(hash)).toEqual({ view: "start" });
});

test("sizes and times read as a person would say them", () => {
  const say = new Say("en-GB", en);
  expect(
    [0, 999, 1_000, 4_100_000, 88_000_000, 14_200_000_000].map((bytes) => say.bytes(bytes).replace("\u00a0", " ")),
  ).toEqual(["0 B", "999 B", "1.0 KB", "4.1 MB", "88 MB", "14.2 GB"]);
  expect([0.2, 40, 150, 9_000].map((seconds) => say.duration(seconds))).toEqual(["1 s", "40 s", "3 min", "2 h 30 min"]);
});

test("every reason and warning that has English words has Spanish ones", () => {
  expect(Object.keys(es.reason)).toEqual(Object.keys(en.reason));
  expect(Object.keys(es.warning)).toEqual(Object.keys(en.warning));
  expect(Object.keys(es.stepName)).toEqual(Object.keys(en.stepName));
});

test("every reason of the catalogue has a short name on the page", () => {
  const catalogue = readFileSync(new URL("../../../docs/reasons.md", import.meta.url), "utf8");
  const numbers = [...catalogue.matchAll(/^\| `[A-Z_]+` \| (\d+) \|/gm)].map(([, number]) => Number(number));
  expect(numbers.length).toBeGreaterThan(20);
  expect(numbers.filter((number) => en.reason[number] === undefined)).toEqual([]);
});

test("every warning of the catalogue has short words on the page", () => {
  const catalogue = readFileSync(new URL("../../../docs/reasons.md", import.meta.url), "utf8");
  const codes = [...catalogue.matchAll(/^\| `([A-Z_]+)` \| [^|]+ \| (?:yes|no) \|$/gm)].map(([, code = ""]) => code);
  expect(codes.length).toBeGreaterThan(10);
  expect(codes.filter((code) => en.warning[code] === undefined)).toEqual([]);
});
