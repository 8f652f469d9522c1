import { BatchState, caudal } from "@caudal/client";
import { type ReactNode, useCallback, useEffect, useMemo, useState } from "react";
import type { LiveBatch } from "./batch/live";
import { Batches } from "./batches";
import { batchHref, go, useRoute } from "./route";
import { bringsKey, forgetKey, keepKey, takeKey } from "./session";
import { applyTheme, savedTheme } from "./theme";
import type { KeyRefusal } from "./trouble";
import { BatchView } from "./views/batch";
import { DropAnywhere, useBeginning } from "./views/drop-anywhere";
import { notifyOfEnd } from "./views/ending";
import { KeyForm } from "./views/key-form";
import { Start } from "./views/start";
import { Top } from "./views/top";
import { type Language, localeOf, preferredLanguage, SaidContext, Say, useSaid, wordsIn } from "./words";

/** The language of the calls; they are made outside of React. */
let languageNow: Language = "en";

export function App({ firstKey }: { firstKey: string }) {
  const [key, setKey] = useState(firstKey);
  const [refusal, setRefusal] = useState<KeyRefusal | null>(null);
  const [theme, setTheme] = useState(savedTheme);
  const [language, setLanguage] = useState(preferredLanguage);
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
      if (bringsKey(window.location.hash)) setKey(takeKey());
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
    if (batches !== null) batches.onEnded = (live) => notifyOfEnd(live, said.words, said.say);
  }, [batches, said]);
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
  const refuse = useCallback(
    async (refusal: KeyRefusal) => {
      // An upload token opens its batch and nothing else.
      const own = refusal === "no-tenant" ? await batches?.ownBatch() : undefined;
      if (own !== undefined) return go(batchHref(own));
      setRefusal(refusal);
      leave();
    },
    [leave, batches],
  );
  const open = (given: string) => {
    keepKey(given);
    setRefusal(null);
    setKey(given);
  };

  return (
    <SaidContext value={said}>
      <Page
        batches={batches}
        refusal={refusal}
        onRefused={(refusal) => void refuse(refusal)}
        onKey={open}
        top={
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
        }
      />
    </SaidContext>
  );
}

interface PageProps {
  batches: Batches | null;
  refusal: KeyRefusal | null;
  onRefused(refusal: KeyRefusal): void;
  onKey(key: string): void;
  top: ReactNode;
}

/** The view that the address names, in a window that takes a drop wherever it falls. */
function Page({ batches, refusal, onRefused, onKey, top }: PageProps) {
  const { words } = useSaid();
  const route = useRoute();
  const beginning = useBeginning(batches, onRefused);
  const isStart = route.view === "start";
  const shown = () => (route.view === "batch" ? batches?.followed(route.batch) : undefined);
  const wordsFor = (live: LiveBatch | undefined) => {
    if (batches === null) return undefined;
    if (isStart) return words.start.over;
    if (!live?.takesMore) return words.start.overBatch;
    return live.watched.batch.state === BatchState.OPEN ? words.start.overOpen : words.start.overMissing;
  };
  return (
    <DropAnywhere beginning={beginning} shown={shown} wordsFor={wordsFor}>
      <button type="button" className="skip" onClick={skipToContent}>
        {words.nav.skip}
      </button>
      {top}
      {beginning.complaint !== "" && !isStart && (
        <p className="complaint fail" role="alert">
          {beginning.complaint}
        </p>
      )}
      {batches === null ? (
        <KeyForm key={refusal} refusal={refusal} onKey={onKey} />
      ) : route.view === "batch" ? (
        <BatchView key={route.batch} batches={batches} name={route.batch} beginning={beginning} onRefused={onRefused} />
      ) : (
        <Start batches={batches} beginning={beginning} onRefused={onRefused} />
      )}
    </DropAnywhere>
  );
}

/** A button and no link: the fragment is the address of a view. */
function skipToContent(): void {
  const content = document.getElementById("content");
  content?.setAttribute("tabindex", "-1");
  content?.focus();
}
