import { Bucket } from "../batch/buckets";
import type { LiveBatch } from "../batch/live";
import { folderOfRow, isFolderRow } from "../batch/rows";
import { useSaid } from "../words";
import { Bar, ShareBar } from "./bar";
import { Shape, TONE } from "./shape";
import { type FolderWords, fileStateOf, folderStateOf, type StateWords } from "./state-words";

export const ROW_HEIGHT = 34;

interface RowProps {
  id: string;
  live: LiveBatch;
  row: number;
  top: number;
  rowIndex: number;
  level: number;
  place: number;
  siblings: number;
  isExpanded: boolean;
  isChosen: boolean;
  isActive: boolean;
  showsPath: boolean;
  onOpen(row: number): void;
}

/** A folder or a file. The grid holds the focus, so a row itself is never focused. */
export function Row(props: RowProps) {
  const { words, say } = useSaid();
  const { live, row, level, isExpanded, isChosen, isActive } = props;
  const isFolder = isFolderRow(row);
  const folder = folderOfRow(row);
  const counted = isFolder ? folderStateOf(live, folder, words, say) : undefined;
  const shown: StateWords = counted ?? fileStateOf(live, row, words, say);
  const size = isFolder ? (live.tree.folderBytes[folder] ?? 0) : (live.tree.fileSize[row] ?? 0);
  const hasShape = shown.bucket !== Bucket.None;
  const className = `row${isFolder ? " folder" : ""}${isChosen ? " chosen" : ""}${isActive ? " active" : ""}`;
  return (
    <div
      id={props.id}
      className={className}
      style={{ transform: `translateY(${props.top}px)` }}
      role="row"
      aria-rowindex={props.rowIndex}
      aria-level={level}
      aria-posinset={props.place}
      aria-setsize={props.siblings}
      aria-expanded={isFolder ? isExpanded : undefined}
      aria-selected={isChosen}
      data-file={isFolder ? undefined : row}
      data-state={Bucket[shown.bucket]}
      onClick={() => props.onOpen(row)}
    >
      <span role="rowheader" className="name" style={{ paddingLeft: `calc(${level - 1} * var(--indent))` }}>
        {isFolder ? (
          <>
            <svg
              className={`chevron${isExpanded ? " open" : ""}`}
              viewBox="0 0 10 10"
              width="12"
              height="12"
              aria-hidden="true"
            >
              <path d="M3 1.5 7.5 5 3 8.5z" fill="currentColor" />
            </svg>
            <span className={level === 1 ? "strong text" : "text"} title={live.tree.folderPath[folder]}>
              {live.tree.folderName[folder]}
            </span>
          </>
        ) : (
          <FileName live={live} ordinal={row} showsPath={props.showsPath} />
        )}
      </span>
      <Cell>
        <span className={`state ${TONE[shown.bucket]}`} title={shown.text}>
          {hasShape && <Shape bucket={shown.bucket} />}
          <span className="text">{shown.text}</span>
        </span>
      </Cell>
      <Cell>
        {counted !== undefined && counted.total > 0 && <Bar of={counted.of} total={counted.total} label={shown.text} />}
        {shown.share !== undefined && <ShareBar share={shown.share} tone="upload" label={shown.text} />}
      </Cell>
      <Cell isNumber>{counted === undefined || counted.total === 0 ? "" : say.count(counted.total)}</Cell>
      <Cell isNumber>{counted === undefined ? say.bytes(size) : folderSize(counted, say.bytes(size))}</Cell>
    </div>
  );
}

/** Sizes come with the names: until all are there, their sum says nothing. */
function folderSize({ isEmpty, isPartlyKnown }: FolderWords, sum: string): string {
  if (isEmpty) return "";
  return isPartlyKnown ? "…" : sum;
}

function FileName({ live, ordinal, showsPath }: { live: LiveBatch; ordinal: number; showsPath: boolean }) {
  const name = live.tree.fileName[ordinal];
  const folder = live.tree.folderPath[live.tree.folderOf(ordinal)] ?? "";
  return (
    <span className={showsPath ? "text" : "text file"} title={live.tree.pathOf(ordinal)}>
      {name}
      {showsPath && folder !== "" && <span className="mute small"> · {folder}</span>}
    </span>
  );
}

function Cell({ children, isNumber = false }: { children: React.ReactNode; isNumber?: boolean }) {
  return (
    <span role="gridcell" className={isNumber ? "number" : undefined}>
      {children}
    </span>
  );
}
