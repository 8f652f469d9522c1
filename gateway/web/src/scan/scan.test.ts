import { afterEach, expect, test, vi } from "vitest";
import { takeDropped, takeFiles } from "./dropped";
import { walkEntries } from "./entries";
import type { Found } from "./found";
import { walkHandles } from "./handles";
import { isLeftBehind, withRules } from "./left-out";
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

/** The worker's own code, in this thread. */
async function stubWorker(): Promise<void> {
  let worker: { onmessage?: (event: { data: unknown }) => void } = {};
  const self: { onmessage?: (event: { data: unknown }) => void; postMessage(message: unknown): void } = {
    postMessage: (message) => worker.onmessage?.({ data: message }),
  };
  vi.stubGlobal("self", self);
  vi.stubGlobal(
    "Worker",
    class {
      constructor() {
        worker = this as typeof worker;
      }
      postMessage(message: unknown): void {
        self.onmessage?.({ data: message });
      }
      terminate(): void {}
    },
  );
  vi.resetModules();
  await import("./handles.worker");
}

afterEach(() => vi.unstubAllGlobals());

const FOLDER: Tree = {
  "read.txt": "hello",
  sub: { "a.txt": "1", "b.txt": "22", "c.txt": "333", deep: { "n\u0303.txt": "x" } },
  empty: {},
  locked: new Error("no permission"),
};

const shortly = (found: Found) =>
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

test("what handles hide is taken from the entries, and nothing twice", async () => {
  await stubWorker();
  const all: Tree = {
    ...FOLDER,
    "desktop.ini": "x",
    sub: { ...(FOLDER["sub"] as Tree), "a?.txt": "1" },
    nul: { "b.txt": "2" },
  };
  const item = {
    kind: "file",
    webkitGetAsEntry: () => entryOf("Contracts", all),
    getAsFileSystemHandle: async () => handleOf("Contracts", FOLDER),
  };
  const dropped = takeDropped([item] as unknown as DataTransferItemList);
  const found: Found[] = [];
  await dropped?.walk((one) => void found.push(one), new AbortController().signal);
  expect(found.map(shortly).sort()).toEqual([...EXPECTED, "desktop.ini 1", "nul/b.txt 1", "sub/a?.txt 1"].sort());
  for (const one of found) if (one.kind === "file") expect((await one.open()).size).toBe(one.size);
});

test("a drop whose handles fail or never come is taken by its entries", async () => {
  await stubWorker();
  vi.useFakeTimers();
  try {
    for (const handle of [Promise.reject(new Error("blocked")), new Promise<null>(() => undefined)]) {
      const item = {
        kind: "file",
        webkitGetAsEntry: () => entryOf("Contracts", FOLDER),
        getAsFileSystemHandle: () => handle,
      };
      const dropped = takeDropped([item] as unknown as DataTransferItemList);
      const found: string[] = [];
      const walk = dropped?.walk((one) => void found.push(shortly(one)), new AbortController().signal);
      await vi.advanceTimersByTimeAsync(2_000);
      await walk;
      expect(found.sort()).toEqual(EXPECTED);
    }
  } finally {
    vi.useRealTimers();
  }
});

test("a folder that cannot be read to its end keeps what was found and is named", async () => {
  let pages = 0;
  const readEntries = (good: (page: FileSystemEntry[]) => void, bad: (trouble: Error) => void) => {
    pages += 1;
    if (pages > 1) bad(new Error("the drive is away"));
    else good([entryOf("a.txt", "1")]);
  };
  const broken = { name: "broken", isDirectory: true, createReader: () => ({ readEntries }) };
  const found: Found[] = [];
  const roots = [{ entry: broken as unknown as FileSystemEntry, path: "broken" }];
  await walkEntries(roots, (one) => void found.push(one), new AbortController().signal);
  expect(found.map(shortly).sort()).toEqual(["broken/a.txt 1", "unreadable broken"]);
  expect(found.find(({ kind }) => kind === "unreadable")).toMatchObject({ isFolder: true, why: "the drive is away" });
});

test("of a folder that may not be read it is not said that somebody tried to write to it", async () => {
  const refusal = new DOMException("An attempt was made to write", "NoModificationAllowedError");
  const readEntries = (_good: unknown, bad: (trouble: Error) => void) => bad(refusal);
  const closed = { name: "closed", isDirectory: true, createReader: () => ({ readEntries }) };
  const found: Found[] = [];
  const roots = [{ entry: closed as unknown as FileSystemEntry, path: "closed" }];
  await walkEntries(roots, (one) => void found.push(one), new AbortController().signal);
  expect(found).toEqual([{ kind: "unreadable", path: "closed", isFolder: true, why: "" }]);
});

test("what has a name that is not UTF-8 is named, and such a folder is not entered: it leads back to where it is", async () => {
  // As Chromium shows them: without a name, and the folder as the one that it is in.
  const again = { entry: undefined as unknown as FileSystemEntry };
  const inner = {
    name: "in",
    isDirectory: true,
    createReader: () => {
      const rest = [entryOf("a.txt", "1"), entryOf("", new Error("not an entry")), again.entry];
      return { readEntries: (good: (page: FileSystemEntry[]) => void) => good(rest.splice(0, 2)) };
    },
  };
  again.entry = { ...inner, name: "" } as unknown as FileSystemEntry;
  const found: string[] = [];
  const stopping = new AbortController();
  const take = (one: Found) => {
    found.push(`${shortly(one)}${"isFolder" in one && one.isFolder ? "/" : ""}`);
    // Endless, if it is entered.
    if (found.length > 20) stopping.abort(new Error("in circles"));
  };
  await walkEntries([{ entry: inner as unknown as FileSystemEntry, path: "in" }], take, stopping.signal);
  expect(found.sort()).toEqual(["in/a.txt 1", "not-utf8 in/\u{fffd}", "not-utf8 in/\u{fffd}/"]);
});

test("handles pass over what has no name, which the entries name", async () => {
  const again = { handle: undefined as unknown as FileSystemHandle };
  const values = async function* () {
    yield handleOf("a.txt", "1");
    yield again.handle;
  };
  again.handle = { name: "", kind: "directory", values } as unknown as FileSystemHandle;
  const found: string[] = [];
  const take = ({ path }: { path: string }) => {
    found.push(path);
    if (found.length > 20) throw new Error("in circles");
  };
  await walkHandles([{ handle: { ...again.handle, name: "in" } as FileSystemHandle, path: "in" }], take);
  expect(found).toEqual(["in/a.txt"]);
});

test("a walk waits for whoever takes what it finds, and ends with their trouble", async () => {
  const files = Object.fromEntries(Array.from({ length: 300 }, (_, index) => [`${index}.txt`, "x"]));
  const root = { entry: entryOf("A", files), path: "" };
  let held = 0;
  let most = 0;
  const slowly = async () => {
    most = Math.max(most, ++held);
    await new Promise((resolve) => setTimeout(resolve, 1));
    held -= 1;
  };
  await walkEntries([root], slowly, new AbortController().signal);
  expect(most).toBeLessThanOrEqual(32);
  const full = async () => {
    throw new Error("full");
  };
  await expect(walkEntries([root], full, new AbortController().signal)).rejects.toThrow("full");
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

test("a picked name with a backslash keeps it", async () => {
  const file = (name: string, path: string) => Object.assign(new File(["x"], name), { webkitRelativePath: path });
  const dropped = takeFiles([file("a\\b.txt", "Plans/sub/a/b.txt"), file("c.txt", "Plans/c.txt")]);
  const paths: string[] = [];
  await dropped.walk((one) => void paths.push(one.path), new AbortController().signal);
  expect(paths).toEqual(["sub/a\\b.txt", "c.txt"]);
});

test("a picture that was pasted has no entry and is taken as a file", async () => {
  const item = { kind: "file", webkitGetAsEntry: () => null, getAsFile: () => new File(["x"], "image.png") };
  const dropped = takeDropped([item] as unknown as DataTransferItemList);
  const found: string[] = [];
  await dropped?.walk((one) => void found.push(shortly(one)), new AbortController().signal);
  expect([dropped?.name, ...found]).toEqual(["image.png", "image.png 1"]);
});

test("what systems and programs leave behind is told by name, and nothing else is", async () => {
  for (const name of [".DS_Store", "thumbs.DB", "desktop.ini", "~$plan.docx", "._photo.jpg", ".~lock.plan.odt#"]) {
    expect(isLeftBehind(name), name).toBe(true);
  }
  for (const name of [
    "DS_Store",
    "xThumbs.db",
    "desktop.ini.txt",
    "$plan.docx",
    ".gitignore",
    ".~lock.plan.odt",
    "~",
  ]) {
    expect(isLeftBehind(name), name).toBe(false);
  }
  const root = entryOf("A", { "desktop.ini": "x", sub: { ".DS_Store": "x", "a.txt": "1" }, "Thumbs.db": {} });
  const items = [{ kind: "file", webkitGetAsEntry: () => root }] as unknown as DataTransferItemList;
  const dropped = takeDropped(items);
  const found: string[] = [];
  if (dropped !== null) {
    await withRules(dropped, true).walk((one) => void found.push(shortly(one)), new AbortController().signal);
  }
  expect(found.sort()).toEqual([
    "empty-folder Thumbs.db",
    "left-out desktop.ini",
    "left-out sub/.DS_Store",
    "sub/a.txt 1",
  ]);
});

test("the rules at the top of a folder are those of a gitignore, and win over the list", async () => {
  const text = "# ours\n*.tmp\n!keep.tmp\n/build/\n!.DS_Store\n";
  const paths = ["a.tmp", "deep/b.tmp", "keep.tmp", "build/a.o", "web/build/b.o", ".DS_Store", "x/Thumbs.db", "..odd"];
  const dropped = {
    name: "A",
    rules: async () => text,
    walk: async (emit: (found: Found) => unknown) => {
      for (const path of paths) {
        await emit({ kind: "file", path, size: 1, modified: 0, open: async () => new File(["x"], "x") });
      }
    },
  };
  const found: string[] = [];
  await withRules(dropped, true).walk((one) => void found.push(shortly(one)), new AbortController().signal);
  expect(found).toEqual([
    "by-rule a.tmp",
    "by-rule deep/b.tmp",
    "keep.tmp 1",
    "by-rule build/a.o",
    "web/build/b.o 1",
    ".DS_Store 1",
    "left-out x/Thumbs.db",
    "..odd 1",
  ]);
  const picked = takeFiles([
    Object.assign(new File([text], ".caudalignore"), { webkitRelativePath: "Plans/.caudalignore" }),
    Object.assign(new File(["x"], "a.tmp"), { webkitRelativePath: "Plans/a.tmp" }),
  ]);
  expect(await picked.rules?.()).toBe(text);
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
