import { BatchState } from "@caudal/client";
import { useEffect } from "react";
import type { LiveBatch } from "../batch/live";
import type { Say, Words } from "../words";
import { batchStateOf } from "./counts";

/** How it ended, for those who look at the tab only. */
export type Ending = "well" | "needs-you" | "cancelled" | undefined;

export function endingOf(live: LiveBatch): Ending {
  if (!live.hasEnded) return undefined;
  if (live.watched.batch.state === BatchState.CANCELLED) return "cancelled";
  const isWell =
    live.watched.batch.state === BatchState.SUCCEEDED &&
    live.notTaken.folders === 0 &&
    live.notTaken.named.every(({ kind }) => kind === "left-out");
  return isWell ? "well" : "needs-you";
}

/** What it is called; that it has no name is known only when it is known. */
export function nameOf(live: LiveBatch, words: Words): string {
  return live.displayName || (live.isKnown ? words.batch.untitled : words.batch.loading);
}

const SIGN = { well: "\u2713", "needs-you": "!", cancelled: "\u2715" };
const ICON = { well: "/caudal-done.svg", "needs-you": "/caudal-needs-you.svg", cancelled: "/caudal.svg" };

/** The title of the tab: how far, while that is known, and in the end how it ended. */
export function titleOf(live: LiveBatch, words: Words, say: Say): string {
  const name = nameOf(live, words);
  const ending = endingOf(live);
  if (ending !== undefined) return `${SIGN[ending]} ${name}`;
  if (live.isPaused) return `${words.batchState.paused} · ${name}`;
  if (live.total === 0) return name;
  if (live.isGrowing) return `${words.batch.foundSoFar(say.count(live.total))} · ${name}`;
  return `${say.percent(live.finished / live.total)} · ${name}`;
}

/** Shows it in the tab: in its title and in its picture. */
export function useTab(title: string, ending: Ending): void {
  useEffect(() => {
    document.title = `${title} – Caudal`;
    const icon = document.querySelector<HTMLLinkElement>("link[rel=icon]");
    icon?.setAttribute("href", ending === undefined ? "/caudal.svg" : ICON[ending]);
    return () => {
      document.title = "Caudal";
      icon?.setAttribute("href", "/caudal.svg");
    };
  }, [title, ending]);
}

/** Whether the browser may still be asked. It is asked only when somebody wants it. */
export function mayAskToNotify(): boolean {
  return typeof Notification === "function" && Notification.permission === "default";
}

/** Tells whoever is elsewhere that a batch has ended, where they have allowed it. */
export function notifyOfEnd(live: LiveBatch, words: Words, say: Say): void {
  if (!document.hidden || typeof Notification !== "function" || Notification.permission !== "granted") return;
  const { batch } = live.watched;
  const title = nameOf(live, words);
  try {
    const notification = new Notification(title, {
      body: batchStateOf(batch, words, say, live.notTaken).text,
      icon: "/caudal.svg",
      tag: live.name,
    });
    notification.onclick = () => {
      window.focus();
      window.location.hash = `#/${live.name}`;
    };
  } catch {
    // Some browsers have the name and let only a service worker use it.
  }
}
