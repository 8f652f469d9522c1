import { useSyncExternalStore } from "react";

export type Route = { view: "start" } | { view: "batch"; batch: string };

/** `#/` and `#/batches/{uuid}`. Anything else is the start. */
export function routeOf(hash: string): Route {
  const batch = /^#\/(batches\/[0-9a-f-]{36})$/i.exec(hash)?.[1];
  return batch === undefined ? { view: "start" } : { view: "batch", batch };
}

export const batchHref = (name: string): string => `#/${name}`;

export function go(href: string): void {
  window.location.hash = href;
}

export function useRoute(): Route {
  const hash = useSyncExternalStore(
    (changed) => {
      window.addEventListener("hashchange", changed);
      return () => window.removeEventListener("hashchange", changed);
    },
    () => window.location.hash,
  );
  return routeOf(hash);
}
