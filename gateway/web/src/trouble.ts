import { Code, ConnectError, isPassing } from "@caudal/client";
import { wordsOf } from "./scan/found";
import type { Words } from "./words";

/** Why a key opens nothing: nobody knows it, or it belongs to no tenant, as an operator's does. */
export type KeyRefusal = "unknown" | "no-tenant";

/** What stands between the page and an answer. Three things that a person would do something different about. */
export type Trouble =
  | { kind: "key"; refusal: KeyRefusal }
  | { kind: "silent" }
  /** The store takes no bytes at the moment. */
  | { kind: "store-silent" }
  /** The store is at an address that this page was not told of when it was loaded. */
  | { kind: "store-moved" }
  /** As much goes on as this tenant may have at once; the gateway says of what. */
  | { kind: "limited"; words: string }
  /** The gateway answers, with these words. */
  | { kind: "said"; words: string };

export function troubleOf(thrown: unknown): Trouble {
  if (!(thrown instanceof ConnectError)) return { kind: "said", words: wordsOf(thrown) };
  const error = thrown;
  switch (error.code) {
    case Code.Unauthenticated:
      return { kind: "key", refusal: "unknown" };
    case Code.PermissionDenied:
      return { kind: "key", refusal: "no-tenant" };
    case Code.ResourceExhausted:
      return isPassing(error)
        ? { kind: "limited", words: error.rawMessage }
        : { kind: "said", words: error.rawMessage };
    case Code.DeadlineExceeded:
      return { kind: "silent" };
    case Code.Unknown:
      return hasNoAnswer(error) ? { kind: "silent" } : { kind: "said", words: error.rawMessage };
    default:
      return { kind: "said", words: error.rawMessage };
  }
}

/** What a person reads while the page tries again by itself. */
export function waitingWords(trouble: Trouble, words: Words): string {
  switch (trouble.kind) {
    case "silent":
      return words.trouble.silent;
    case "store-silent":
      return words.trouble.storeSilent;
    case "store-moved":
      return words.trouble.storeMoved;
    case "key":
      return words.key.refusal[trouble.refusal];
    case "limited":
      return words.trouble.limited(trouble.words);
    case "said":
      return words.trouble.said(trouble.words);
  }
}

/** The same for an act that is not tried again. */
export function failedWords(trouble: Trouble, words: Words): string {
  return trouble.kind === "silent" ? words.trouble.silentForNow : waitingWords(trouble, words);
}

/** A browser tells a lost connection only as an error of its own, in its own language. */
function hasNoAnswer(error: ConnectError): boolean {
  return error.cause instanceof TypeError || /fetch|network/i.test(error.rawMessage);
}
