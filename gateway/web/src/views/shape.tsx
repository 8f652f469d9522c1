import { Bucket } from "../batch/buckets";

/** Name of the colour and of the class of each bucket. */
export const TONE: Record<Bucket, string> = {
  [Bucket.None]: "wait",
  [Bucket.Complete]: "done",
  [Bucket.Partly]: "partial",
  [Bucket.Kept]: "kept",
  [Bucket.Processing]: "run",
  [Bucket.Failed]: "fail",
  [Bucket.Retrying]: "retry",
  [Bucket.Waiting]: "wait",
  [Bucket.ToBeSent]: "wait",
  [Bucket.Uploading]: "upload",
  [Bucket.Cancelled]: "wait",
};

/** The shape of a state: it reads without its colour. Words stand beside it, so it is hidden from screen readers. */
export function Shape({ bucket }: { bucket: Bucket }) {
  return (
    <svg className={`shape ${TONE[bucket]}`} viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">
      {drawing(bucket)}
    </svg>
  );
}

function drawing(bucket: Bucket) {
  switch (bucket) {
    case Bucket.Complete:
      return (
        <>
          <circle cx="7" cy="7" r="6" fill="currentColor" />
          <path d="M4.4 7.2 6.3 9l3.4-3.7" className="cut" />
        </>
      );
    case Bucket.Partly:
      return (
        <>
          <circle cx="7" cy="7" r="5.3" className="line" />
          <path d="M7 1.7a5.3 5.3 0 0 0 0 10.6z" fill="currentColor" />
        </>
      );
    case Bucket.Kept:
      return (
        <>
          <rect x="1.7" y="1.7" width="10.6" height="10.6" rx="2" className="line" />
          <path d="M1.9 5.2h10.2M5.7 8.1h2.6" className="line" />
        </>
      );
    case Bucket.Processing:
      return (
        <>
          <circle cx="7" cy="7" r="5.3" className="line faint" />
          <path d="M7 1.7A5.3 5.3 0 0 1 12.3 7" className="line turning" />
        </>
      );
    case Bucket.Failed:
      return (
        <>
          <rect x="1" y="1" width="12" height="12" rx="2.5" fill="currentColor" />
          <path d="m4.9 4.9 4.2 4.2m0-4.2L4.9 9.1" className="cut" />
        </>
      );
    case Bucket.Retrying:
      return <path d="M11.6 4.4A5.2 5.2 0 1 0 12.2 7.8M12 1.6v3.1H8.9" className="line" />;
    case Bucket.Uploading:
      return <path d="M7 12.2V2M3.1 5.8 7 1.9l3.9 3.9" className="line" />;
    case Bucket.ToBeSent:
      return (
        <>
          <circle cx="7" cy="7" r="5.3" className="line dashed" />
          <path d="M7 9.6V4.5M4.9 6.6 7 4.4l2.1 2.2" className="line" />
        </>
      );
    case Bucket.Cancelled:
      return (
        <>
          <circle cx="7" cy="7" r="5.3" className="line" />
          <path d="M4.6 7h4.8" className="line" />
        </>
      );
    default:
      return <circle cx="7" cy="7" r="5.3" className="line dashed" />;
  }
}
