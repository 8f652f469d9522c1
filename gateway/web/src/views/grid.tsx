import { useVirtualizer } from "@tanstack/react-virtual";
import { type KeyboardEvent, type RefObject, useCallback, useEffect, useMemo, useRef, useState } from "react";
import { BAR_ORDER, Bucket } from "../batch/buckets";
import type { LiveBatch } from "../batch/live";
import { folderOfRow, folderRow, isFolderRow, matchingRows, pathMatcher, type Rows, treeRows } from "../batch/rows";
import { useSaid, type Words } from "../words";
import { ROW_HEIGHT, Row } from "./row";

/** Batches up to so many files show all of them at once; larger ones begin with their folders closed. */
const OPEN_UP_TO = 100;
/** The list follows new names and filters this often at most: rows must not jump while they are read. */
const RESHAPE_EVERY_MS = 400;
const PARTLY_ASKED = 60;

/** A choice made outside of the grid, such as a group of failures. */
export interface Narrowing {
  label: string;
  matches(ordinal: number, bucket: Bucket, detail: number): boolean;
}

interface GridProps {
  live: LiveBatch;
  chosen: number | null;
  onChosen(ordinal: number): void;
  narrowing: Narrowing | null;
  onNarrowing(narrowing: Narrowing | null): void;
  focusRef: RefObject<() => void>;
}

/** The folders and files of a batch: only the rows in sight are in the document, every row can be reached by keys. */
export function Grid({ live, chosen, onChosen, narrowing, onNarrowing, focusRef }: GridProps) {
  const { words, say } = useSaid();
  const [pattern, setPattern] = useState("");
  const [bucketWanted, setBucketWanted] = useState<Bucket | 0>(0);
  const [toggled, setToggled] = useState<ReadonlyMap<number, boolean>>(new Map());
  const scroller = useRef<HTMLDivElement>(null);
  const [active, setActive] = useState<number | null>(null);
  const isNarrowed = pattern.trim() !== "" || bucketWanted !== 0 || narrowing !== null;

  const hasGrownLarge = useRef(false);
  if (live.total > OPEN_UP_TO) hasGrownLarge.current = true;
  const isExpanded = useCallback((folder: number) => toggled.get(folder) ?? !hasGrownLarge.current, [toggled]);
  const shape = useThrottled(isNarrowed ? live.version : live.tree.version, RESHAPE_EVERY_MS);
  // biome-ignore lint/correctness/useExhaustiveDependencies: `shape` stands for what changes inside `live`
  const rows: Rows = useMemo(() => {
    if (!isNarrowed) return treeRows(live.tree, isExpanded);
    const isPathWanted = pathMatcher(pattern);
    return matchingRows(live.tree, (ordinal) => {
      const bucket = live.tally.bucket(ordinal);
      if (bucket === Bucket.None || (bucketWanted !== 0 && bucket !== bucketWanted)) return false;
      if (narrowing !== null && !narrowing.matches(ordinal, bucket, live.detailOf(ordinal))) return false;
      const path = live.tree.pathOf(ordinal);
      return path !== undefined && isPathWanted(path);
    });
  }, [live, isNarrowed, isExpanded, pattern, bucketWanted, narrowing, shape]);

  const virtualizer = useVirtualizer({
    count: rows.rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => ROW_HEIGHT,
    overscan: 12,
  });
  useAnchor(rows, scroller);
  const items = virtualizer.getVirtualItems();

  useEffect(() => {
    const partly: number[] = [];
    for (const { index } of items) {
      const row = rows.rows[index] ?? -1;
      if (row >= 0 && live.tally.bucket(row) === Bucket.Partly && partly.length < PARTLY_ASKED) partly.push(row);
    }
    live.wantWarnings(partly);
  });

  // A file that was opened from elsewhere is shown in its folder.
  const revealing = useRef<number | null>(null);
  useEffect(() => {
    if (chosen === null) return;
    setActive(chosen);
    revealing.current = chosen;
    const closed: number[] = [];
    for (let at = live.tree.folderOf(chosen); at > 0; at = live.tree.folderParent[at] ?? -1) closed.push(at);
    setToggled((before) => {
      const after = new Map(before);
      for (const folder of closed) after.set(folder, true);
      return after;
    });
  }, [chosen, live]);
  useEffect(() => {
    if (revealing.current === null) return;
    const index = rows.rows.indexOf(revealing.current);
    revealing.current = null;
    if (index >= 0) virtualizer.scrollToIndex(index, { align: "auto" });
  }, [rows, virtualizer]);
  focusRef.current = () => scroller.current?.focus();

  const toggle = (folder: number, open: boolean) => setToggled((before) => new Map(before).set(folder, open));
  const activeIndex = active === null ? -1 : rows.rows.indexOf(active);
  const moveTo = (index: number) => {
    const at = Math.max(0, Math.min(rows.rows.length - 1, index));
    const row = rows.rows[at];
    if (row === undefined) return;
    setActive(row);
    virtualizer.scrollToIndex(at);
  };
  const open = (row: number) => {
    setActive(row);
    if (isFolderRow(row)) toggle(folderOfRow(row), !isExpanded(folderOfRow(row)));
    else onChosen(row);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    const page = Math.max(1, Math.floor((scroller.current?.clientHeight ?? 0) / ROW_HEIGHT) - 2);
    const folder = active !== null && isFolderRow(active) ? folderOfRow(active) : undefined;
    const parent =
      active === null ? -1 : folder === undefined ? live.tree.folderOf(active) : (live.tree.folderParent[folder] ?? -1);
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    switch (event.key) {
      case "ArrowDown":
        moveTo(activeIndex + 1);
        break;
      case "ArrowUp":
        moveTo(activeIndex - 1);
        break;
      case "PageDown":
        moveTo(activeIndex + page);
        break;
      case "PageUp":
        moveTo(activeIndex - page);
        break;
      case "Home":
        moveTo(0);
        break;
      case "End":
        moveTo(rows.rows.length - 1);
        break;
      case "ArrowRight":
        if (folder === undefined) break;
        if (isExpanded(folder)) moveTo(activeIndex + 1);
        else toggle(folder, true);
        break;
      case "ArrowLeft":
        if (folder !== undefined && isExpanded(folder)) toggle(folder, false);
        else if (parent > 0 && !isNarrowed) moveTo(rows.rows.indexOf(folderRow(parent)));
        break;
      case "Enter":
      case " ":
        if (active !== null) open(active);
        break;
      default:
        return;
    }
    event.preventDefault();
  };

  const { columns } = words.grid;
  const nameless = live.watched.fileCount - live.tree.fileCount;
  return (
    <section className="card grid-card">
      <div className="filters">
        <input
          type="search"
          placeholder={words.grid.filter}
          aria-label={words.grid.filter}
          value={pattern}
          onChange={(event) => setPattern(event.target.value)}
        />
        <select
          aria-label={words.grid.columns.state}
          value={bucketWanted}
          onChange={(event) => setBucketWanted(Number(event.target.value))}
        >
          <option value={0}>{words.grid.states}</option>
          {BAR_ORDER.map((bucket) => (
            <option key={bucket} value={bucket}>
              {bucketName(bucket, words)}
            </option>
          ))}
        </select>
      </div>
      {narrowing !== null && (
        <p className="narrowed">
          {words.grid.filteredBy(narrowing.label)}
          <button type="button" className="link" onClick={() => onNarrowing(null)}>
            {words.grid.clear}
          </button>
        </p>
      )}
      <div
        className="grid"
        role="treegrid"
        aria-label={words.grid.label}
        aria-rowcount={rows.rows.length + 1}
        aria-colcount={5}
        aria-activedescendant={activeIndex >= 0 ? rowId(rows.rows[activeIndex] ?? 0) : undefined}
        aria-describedby="grid-keys"
        tabIndex={0}
        ref={scroller}
        onKeyDown={onKeyDown}
        onFocus={() => active === null && setActive(rows.rows[0] ?? null)}
      >
        <div className="row head" role="row" aria-rowindex={1}>
          <Head>{columns.name}</Head>
          <Head>{columns.state}</Head>
          <Head>{columns.progress}</Head>
          <Head isNumber>{columns.files}</Head>
          <Head isNumber>{columns.size}</Head>
        </div>
        <div className="rows" style={{ height: virtualizer.getTotalSize() }} role="presentation">
          {items.map(({ index, start }) => {
            const row = rows.rows[index] ?? 0;
            return (
              <Row
                key={row}
                id={rowId(row)}
                live={live}
                row={row}
                top={start}
                rowIndex={index + 2}
                level={rows.levels[index] ?? 1}
                place={rows.places[index] ?? 1}
                siblings={rows.siblings[index] ?? 1}
                isExpanded={isFolderRow(row) && isExpanded(folderOfRow(row))}
                isChosen={row === chosen}
                isActive={row === active}
                showsPath={isNarrowed}
                onOpen={open}
              />
            );
          })}
        </div>
        {rows.rows.length === 0 && isNarrowed && <p className="empty mute">{words.grid.noneMatch}</p>}
      </div>
      {nameless > 0 && live.isKnown && live.mayRead && (
        <p className="names mute small">
          {words.grid.loadingNames(say.count(live.tree.fileCount), say.count(live.watched.fileCount))}
        </p>
      )}
      <p id="grid-keys" className="for-readers">
        {words.grid.keys}
      </p>
    </section>
  );
}

function Head({ children, isNumber = false }: { children: string; isNumber?: boolean }) {
  return (
    <span role="columnheader" className={isNumber ? "number" : undefined}>
      {children}
    </span>
  );
}

const rowId = (row: number): string => (isFolderRow(row) ? `folder-${folderOfRow(row)}` : `file-${row}`);

function bucketName(bucket: Bucket, words: Words): string {
  const names: Record<Bucket, string> = {
    [Bucket.None]: "",
    [Bucket.Complete]: words.bucket.complete,
    [Bucket.Partly]: words.bucket.partly,
    [Bucket.Kept]: words.bucket.kept(1),
    [Bucket.Processing]: words.bucket.processing,
    [Bucket.Failed]: words.bucket.failed,
    [Bucket.Retrying]: words.bucket.retrying,
    [Bucket.Waiting]: words.bucket.waiting(1),
    [Bucket.ToBeSent]: words.bucket.toBeSent,
    [Bucket.Uploading]: words.bucket.uploading,
    [Bucket.Cancelled]: words.bucket.cancelled,
  };
  const name = names[bucket];
  return name.charAt(0).toUpperCase() + name.slice(1);
}

/** A value that follows at most so often, and always ends with the last one. */
function useThrottled(value: number, everyMs: number): number {
  const [shown, setShown] = useState(value);
  const changedAt = useRef(0);
  useEffect(() => {
    if (value === shown) return;
    const wait = Math.max(0, changedAt.current + everyMs - performance.now());
    const timer = setTimeout(() => {
      changedAt.current = performance.now();
      setShown(value);
    }, wait);
    return () => clearTimeout(timer);
  }, [value, shown, everyMs]);
  return shown;
}

/** Keeps the first row in sight where it is when rows come in above it. */
function useAnchor(rows: Rows, scroller: RefObject<HTMLDivElement | null>): void {
  const before = useRef<Rows>(rows);
  useEffect(() => {
    const box = scroller.current;
    const old = before.current;
    before.current = rows;
    if (box === null || old === rows || box.scrollTop < ROW_HEIGHT) return;
    const oldIndex = Math.floor(box.scrollTop / ROW_HEIGHT);
    const row = old.rows[oldIndex];
    if (row === undefined || rows.rows[oldIndex] === row) return;
    const index = rows.rows.indexOf(row);
    if (index >= 0) box.scrollTop += (index - oldIndex) * ROW_HEIGHT;
  }, [rows, scroller]);
}
