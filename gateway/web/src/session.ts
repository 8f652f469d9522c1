const STORED = "caudal-key";
const IN_FRAGMENT = /(^#|[?&#])(?:key|token)=([^&]*)&?/;

/** Whether an address brings a key, or an upload token. */
export function bringsKey(hash: string): boolean {
  return IN_FRAGMENT.test(hash);
}

/** The key of this tab. A key in the address is taken out of it at once, so that it is in no bookmark and no history. */
export function takeKey(): string {
  const { hash } = window.location;
  const given = IN_FRAGMENT.exec(hash);
  if (given?.[2]) {
    const key = decodeURIComponent(given[2]);
    const rest = hash.replace(IN_FRAGMENT, "$1").replace(/[?&]$/, "");
    window.history.replaceState(null, "", rest.startsWith("#/") ? rest : "#/");
    sessionStorage.setItem(STORED, key);
    return key;
  }
  return sessionStorage.getItem(STORED) ?? "";
}

export function keepKey(key: string): void {
  sessionStorage.setItem(STORED, key);
}

export function forgetKey(): void {
  sessionStorage.removeItem(STORED);
}
