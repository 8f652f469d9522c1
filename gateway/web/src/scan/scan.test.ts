import { expect, test } from "vitest";
import { takeDropped, takeFiles } from "./dropped";
import { walkEntries } from "./entries";
import type { Found } from "./found";
import { type FoundHandle, walkHandles } from "./handles";
import { Limit } from "./limit";

type Tree = { [name: string]: Tree | string | Error };

function entryOf(name: string, content: Tree | string | Error): FileSystemEntry {
  if (typeof content === "string" || content instanceof Error) {
    const give = (good: (file: File) => void, bad: (trouble: Error) => void) =>
      typeof content === "string" ? good(new File([content], name)) : bad(content);
    return { name, isFile: true, isDirectory: false, file: give } as unknown as FileSystemEntry;
  }
  const createReader = () => {
    const rest = Object.entries(content).map(([child, inner]) => entryOf(child, inner));
    // At most two a page, as browsers give at most a hundred.
    return { readEntries: (good: (page: FileSystemEntry[]) => void) => good(rest.splice(0, 2)) };
  };
  return { name, isFile: false, isDirectory: true, createReader } as unknown as FileSystemEntry;
}

function handleOf(name: string, content: Tree | string | Error): FileSystemHandle {
  if (typeof content === "string" || content instanceof Error) {
    const getFile = async () => {
      if (content instanceof Error) throw content;
      return new File([content], name, { lastModified: 5 });
    };
    return { name, kind: "file", getFile } as unknown as FileSystemHandle;
  }
  const values = async function* () {
    for (const [child, inner] of Object.entries(content)) yield handleOf(child, inner);
  };
  return { name, kind: "directory", values } as unknown as FileSystemHandle;
}

const FOLDER: Tree = {
  "read.txt": "hello",
  sub: { "a.txt": "1", "b.txt": "22", "c.txt": "333", deep: { "n\u0303.txt": "x" } },
  empty: {},
  locked: new Error("no permission"),
};

const shortly = (found: Found | FoundHandle) =>
  found.kind === "file" ? `${found.path} ${found.size}` : `${found.kind} ${found.path}`;

const EXPECTED = [
  "empty-folder empty",
  "read.txt 5",
  "sub/a.txt 1",
  "sub/b.txt 2",
  "sub/c.txt 3",
  "sub/deep/\u00f1.txt 1",
  "unreadable locked",
];

test("entries are walked through all pages, with empty folders, NFC names and what cannot be read", async () => {
  const found: string[] = [];
  const root = { entry: entryOf("Contracts", FOLDER), path: "" };
  await walkEntries([root], (one) => void found.push(shortly(one)), new AbortController().signal);
  expect(found.sort()).toEqual(EXPECTED);
});

test("handles are walked to the same result", async () => {
  const found: string[] = [];
  await walkHandles([{ handle: handleOf("Contracts", FOLDER), path: "" }], (one) => found.push(shortly(one)));
  expect(found.sort()).toEqual(EXPECTED);
});

test("one dropped folder becomes the batch, several things keep their names in it", async () => {
  const item = (name: string, content: Tree | string) => ({
    kind: "file",
    webkitGetAsEntry: () => entryOf(name, content),
  });
  const walked = async (items: ReturnType<typeof item>[]) => {
    const dropped = takeDropped(items as unknown as DataTransferItemList);
    const paths: string[] = [];
    await dropped?.walk((one) => void paths.push(one.path), new AbortController().signal);
    return { name: dropped?.name, paths: paths.sort() };
  };
  expect(await walked([item("A", { "x.txt": "1" })])).toEqual({ name: "A", paths: ["x.txt"] });
  expect(await walked([item("A", { "x.txt": "1" }), item("y.txt", "2")])).toEqual({
    name: "",
    paths: ["A/x.txt", "y.txt"],
  });
  expect(takeDropped([] as unknown as DataTransferItemList)).toBeNull();
});

test("a picked folder gives its name to the batch and its files keep their paths below it", async () => {
  const file = (path: string) => Object.assign(new File(["x"], "x"), { webkitRelativePath: path });
  const dropped = takeFiles([file("Plans/a.txt"), file("Plans/north/b.txt")]);
  const paths: string[] = [];
  await dropped.walk((one) => void paths.push(one.path), new AbortController().signal);
  expect([dropped.name, ...paths]).toEqual(["Plans", "a.txt", "north/b.txt"]);
});

test("a limit never runs more than it may and tells the first failure", async () => {
  const limit = new Limit(3);
  let now = 0;
  let most = 0;
  for (let task = 0; task < 20; task += 1) {
    await limit.add(async () => {
      most = Math.max(most, ++now);
      await new Promise((resolve) => setTimeout(resolve, 1));
      now -= 1;
    });
  }
  await limit.ended();
  expect(most).toBe(3);
  await limit.add(async () => {
    throw new Error("broken");
  });
  await expect(limit.ended()).rejects.toThrow("broken");
});
