import { BAR_ORDER, type Bucket } from "../batch/buckets";
import { TONE } from "./shape";

/** A bar of shares. What is not counted yet stays empty. */
export function Bar({ of, total, label }: { of: (bucket: Bucket) => number; total: number; label: string }) {
  return (
    <div className="bar" role="img" aria-label={label}>
      {BAR_ORDER.map((bucket) => {
        const share = total > 0 ? of(bucket) / total : 0;
        return (
          <i
            key={bucket}
            className={`${TONE[bucket]}-bar`}
            style={{ width: `${share * 100}%`, minWidth: share > 0 ? 2 : 0 }}
          />
        );
      })}
    </div>
  );
}

/** A bar of one share. */
export function ShareBar({ share, tone, label }: { share: number; tone: string; label: string }) {
  return (
    <div className="bar" role="img" aria-label={label}>
      <i className={`${tone}-bar`} style={{ width: `${Math.min(1, share) * 100}%` }} />
    </div>
  );
}
