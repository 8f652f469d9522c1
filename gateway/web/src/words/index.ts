import { createContext, useContext } from "react";
import { en, type Words } from "./en";
import { es } from "./es";

export type { Words } from "./en";
export type Language = "en" | "es";

export const LANGUAGES: readonly Language[] = ["en", "es"];

export const wordsIn: Record<Language, Words> = { en, es };

/** What the browser asks for, English otherwise. */
export function preferredLanguage(): Language {
  const saved = localStorage.getItem("caudal-language");
  if (saved === "en" || saved === "es") return saved;
  const asked = navigator.languages.map((tag) => tag.slice(0, 2));
  return (asked.find((tag) => tag === "en" || tag === "es") as Language | undefined) ?? "en";
}

/** The region decides how dates look: one of the browser's own, where the language is one of its own. */
export function localeOf(language: Language): string {
  return navigator.languages.find((tag) => tag.startsWith(language)) ?? language;
}

export interface Said {
  language: Language;
  words: Words;
  /** Numbers, sizes and times in that language. */
  say: Say;
}

/** Numbers, sizes and times for people. */
export class Say {
  private readonly whole: Intl.NumberFormat;
  private readonly oneDigit: Intl.NumberFormat;
  private readonly share: Intl.NumberFormat;
  private readonly day: Intl.DateTimeFormat;
  private readonly moment: Intl.DateTimeFormat;

  constructor(
    locale: string,
    private readonly words: Words,
  ) {
    this.whole = new Intl.NumberFormat(locale, { maximumFractionDigits: 0 });
    this.oneDigit = new Intl.NumberFormat(locale, { minimumFractionDigits: 1, maximumFractionDigits: 1 });
    this.share = new Intl.NumberFormat(locale, { style: "percent", maximumFractionDigits: 0 });
    this.day = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short" });
    this.moment = new Intl.DateTimeFormat(locale, { dateStyle: "medium", timeStyle: "medium" });
  }

  count(count: number): string {
    return this.whole.format(count);
  }

  percent(share: number): string {
    return this.share.format(share);
  }

  bytes(bytes: number): string {
    let value = bytes;
    let unit = 0;
    while (value >= 999.5 && unit < UNITS.length - 1) {
      value /= 1_000;
      unit += 1;
    }
    const number = unit > 0 && value < 9.95 ? this.oneDigit : unit >= 3 && value < 99.95 ? this.oneDigit : this.whole;
    return `${number.format(value)} ${UNITS[unit]}`.replace(/ /, "\u00a0");
  }

  rate(perSecond: number): string {
    return perSecond < 9.95 ? this.oneDigit.format(perSecond) : this.whole.format(Math.round(perSecond));
  }

  duration(seconds: number): string {
    const { time } = this.words;
    if (seconds < 99.5) return time.seconds(this.whole.format(Math.max(1, Math.round(seconds))));
    const minutes = Math.round(seconds / 60);
    if (minutes < 100) return time.minutes(this.whole.format(minutes));
    return time.hours(this.whole.format(Math.floor(minutes / 60)), this.whole.format(minutes % 60));
  }

  since(date: Date, now: Date): string {
    const { time } = this.words;
    const seconds = (now.getTime() - date.getTime()) / 1_000;
    if (seconds < 10) return time.now;
    if (seconds < 12 * 3_600) return time.ago(this.duration(seconds));
    const yesterday = new Date(now.getFullYear(), now.getMonth(), now.getDate() - 1);
    if (date.toDateString() === yesterday.toDateString()) return time.yesterday;
    if (date.toDateString() === now.toDateString()) return time.ago(this.duration(seconds));
    return this.day.format(date);
  }

  at(date: Date): string {
    return this.moment.format(date);
  }
}

const UNITS = ["B", "KB", "MB", "GB", "TB"];

export const SaidContext = createContext<Said>({ language: "en", words: en, say: new Say("en", en) });

export const useSaid = (): Said => useContext(SaidContext);
