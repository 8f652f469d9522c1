export type Theme = "auto" | "light" | "dark";

const STORED = "caudal-theme";
const ORDER: Theme[] = ["auto", "light", "dark"];

export function savedTheme(): Theme {
  const saved = localStorage.getItem(STORED);
  return saved === "light" || saved === "dark" ? saved : "auto";
}

export function applyTheme(theme: Theme): void {
  document.documentElement.dataset["theme"] = theme;
  localStorage.setItem(STORED, theme);
}

export const themeAfter = (theme: Theme): Theme => ORDER[(ORDER.indexOf(theme) + 1) % ORDER.length] ?? "auto";
