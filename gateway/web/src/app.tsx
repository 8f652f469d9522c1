import { caudal } from "@caudal/client";
import { useCallback, useEffect, useMemo, useState } from "react";
import { Batches } from "./batches";
import { useRoute } from "./route";
import { forgetKey, keepKey, takeKey } from "./session";
import { applyTheme, savedTheme } from "./theme";
import { BatchView } from "./views/batch";
import { KeyForm } from "./views/key-form";
import { Start } from "./views/start";
import { Top } from "./views/top";
import { type Language, localeOf, preferredLanguage, SaidContext, Say, wordsIn } from "./words";

/** The language of the calls; they are made outside of React. */
let languageNow: Language = "en";

export function App({ firstKey }: { firstKey: string }) {
  const [key, setKey] = useState(firstKey);
  const [isRefused, setIsRefused] = useState(false);
  const [theme, setTheme] = useState(savedTheme);
  const [language, setLanguage] = useState(preferredLanguage);
  const route = useRoute();
  languageNow = language;

  const said = useMemo(() => {
    const words = wordsIn[language];
    return { language, words, say: new Say(localeOf(language), words) };
  }, [language]);
  const batches = useMemo(() => {
    if (key === "") return null;
    return new Batches(caudal({ gateway: window.location.origin, apiKey: key, language: () => languageNow }));
  }, [key]);

  useEffect(() => applyTheme(theme), [theme]);
  useEffect(() => {
    // A link with a key may be opened in a tab that shows the page already.
    const look = () => {
      if (window.location.hash.includes("key=")) setKey(takeKey());
    };
    window.addEventListener("hashchange", look);
    return () => window.removeEventListener("hashchange", look);
  }, []);
  useEffect(() => {
    document.documentElement.lang = language;
    localStorage.setItem("caudal-language", language);
    batches?.forgetWords();
  }, [language, batches]);
  useEffect(() => {
    if (batches === null) return;
    const warn = (event: BeforeUnloadEvent) => {
      if (batches.isSending) event.preventDefault();
    };
    window.addEventListener("beforeunload", warn);
    return () => {
      window.removeEventListener("beforeunload", warn);
      batches.leave();
    };
  }, [batches]);

  const leave = useCallback(() => {
    forgetKey();
    setKey("");
  }, []);
  const refuse = useCallback(() => {
    setIsRefused(true);
    leave();
  }, [leave]);
  const open = (given: string) => {
    keepKey(given);
    setIsRefused(false);
    setKey(given);
  };

  return (
    <SaidContext value={said}>
      <button type="button" className="skip" onClick={skipToContent}>
        {said.words.nav.skip}
      </button>
      <Top
        theme={theme}
        onTheme={setTheme}
        onLanguage={setLanguage}
        onLeave={
          batches === null
            ? undefined
            : () => {
                if (!batches.isSending || window.confirm(said.words.batch.leaveWarning)) leave();
              }
        }
      />
      {batches === null ? (
        <KeyForm key={String(isRefused)} isRefused={isRefused} onKey={open} />
      ) : route.view === "batch" ? (
        <BatchView key={route.batch} batches={batches} name={route.batch} onRefused={refuse} />
      ) : (
        <Start batches={batches} onRefused={refuse} />
      )}
    </SaidContext>
  );
}

/** A button and no link: the fragment is the address of a view. */
function skipToContent(): void {
  const content = document.getElementById("content");
  content?.setAttribute("tabindex", "-1");
  content?.focus();
}
