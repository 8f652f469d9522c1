import { Code, ConnectError } from "@connectrpc/connect";
import { BinaryReader } from "@bufbuild/protobuf/wire";

/** How a call is repeated. */
export interface RetryOptions {
  /** Ends the waiting and the call. */
  signal?: AbortSignal;
  /** Told before each wait: the trouble, and for how long in milliseconds. */
  onWait?: (trouble: ConnectError, milliseconds: number) => void;
  /** Gives up after so many attempts; without it the call is repeated until it goes well or fails for good. */
  attempts?: number;
  /** How to wait, for tests. */
  sleep?: (milliseconds: number, signal?: AbortSignal) => Promise<void>;
}

const FIRST_WAIT_MS = 200;
const LONGEST_WAIT_MS = 10_000;

/**
 * Calls until the answer is one that a repetition cannot change. The body must be the same each time: a mutation's
 * `request_id` is made before the first send, so a call whose answer was lost is not done twice.
 */
export async function retrying<T>(call: () => Promise<T>, options: RetryOptions = {}): Promise<T> {
  const sleep = options.sleep ?? pause;
  for (let attempt = 1; ; attempt += 1) {
    options.signal?.throwIfAborted();
    try {
      return await call();
    } catch (thrown) {
      if (options.signal?.aborted) throw thrown;
      const trouble = ConnectError.from(thrown);
      if (!isPassing(trouble) || attempt >= (options.attempts ?? Number.POSITIVE_INFINITY)) throw trouble;
      const wait = Math.max(waitBefore(attempt), pauseAsked(trouble));
      options.onWait?.(trouble, wait);
      await sleep(wait, options.signal);
    }
  }
}

/** Whether the same call may go well later. A browser tells a lost connection only as an unknown error. */
export function isPassing(trouble: ConnectError): boolean {
  switch (trouble.code) {
    case Code.Unavailable:
    case Code.Aborted:
    case Code.DeadlineExceeded:
    case Code.ResourceExhausted:
      return !isQuota(trouble);
    case Code.Unknown:
      return trouble.cause instanceof TypeError || /fetch|network/i.test(trouble.rawMessage);
    default:
      return false;
  }
}

/** Full jitter under a capped doubling, in milliseconds; never less than a tenth of the ceiling. */
export function waitBefore(attempt: number, random: () => number = Math.random): number {
  const ceiling = Math.min(LONGEST_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(attempt - 1, 16));
  return Math.round(ceiling * (0.1 + 0.9 * random()));
}

/** What the server asked to wait (google.rpc.RetryInfo), in milliseconds; 0 when it asked nothing. */
export function pauseAsked(trouble: ConnectError): number {
  const detail = detailOf(trouble, "google.rpc.RetryInfo");
  if (detail === undefined) return 0;
  let milliseconds = 0;
  eachField(detail, (field, reader, wireType) => {
    if (field !== 1) return reader.skip(wireType);
    eachField(reader.bytes(), (inner, duration, innerType) => {
      if (inner === 1) milliseconds += Number(duration.int64()) * 1_000;
      else if (inner === 2) milliseconds += duration.int32() / 1_000_000;
      else duration.skip(innerType);
    });
  });
  return milliseconds;
}

/** The fields that an answer names as bad (google.rpc.BadRequest), with what is wrong. */
export function violationsOf(trouble: ConnectError): { field: string; description: string }[] {
  const detail = detailOf(trouble, "google.rpc.BadRequest");
  const violations: { field: string; description: string }[] = [];
  if (detail === undefined) return violations;
  eachField(detail, (field, reader, wireType) => {
    if (field !== 1) return reader.skip(wireType);
    const violation = { field: "", description: "" };
    eachField(reader.bytes(), (inner, text, innerType) => {
      if (inner === 1) violation.field = text.string();
      else if (inner === 2) violation.description = text.string();
      else text.skip(innerType);
    });
    violations.push(violation);
  });
  return violations;
}

function isQuota(trouble: ConnectError): boolean {
  return trouble.code === Code.ResourceExhausted && detailOf(trouble, "google.rpc.RetryInfo") === undefined;
}

function detailOf(trouble: ConnectError, type: string): Uint8Array | undefined {
  for (const detail of trouble.details) {
    if ("type" in detail && detail.type === type && detail.value instanceof Uint8Array) return detail.value;
  }
  return undefined;
}

function eachField(
  bytes: Uint8Array,
  read: (field: number, reader: BinaryReader, wireType: ReturnType<BinaryReader["tag"]>[1]) => unknown,
): void {
  const reader = new BinaryReader(bytes);
  while (reader.pos < reader.len) {
    const [field, wireType] = reader.tag();
    read(field, reader, wireType);
  }
}

function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", stop);
      resolve();
    }, milliseconds);
    signal?.addEventListener("abort", stop, { once: true });
  });
}
