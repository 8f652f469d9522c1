import { type Theme, themeAfter } from "../theme";
import { LANGUAGES, type Language, useSaid } from "../words";

interface TopProps {
  theme: Theme;
  onTheme(theme: Theme): void;
  onLanguage(language: Language): void;
  onLeave?: (() => void) | undefined;
}

export function Top({ theme, onTheme, onLanguage, onLeave }: TopProps) {
  const { words, language } = useSaid();
  const next = LANGUAGES[(LANGUAGES.indexOf(language) + 1) % LANGUAGES.length] ?? "en";
  return (
    <header className="top">
      <a className="brand" href="#/">
        <svg viewBox="0 0 20 20" width="20" height="20" aria-hidden="true">
          <path d="M1.5 5.5c2-2 3.7-2 5.7 0s3.6 2 5.6 0 3.7-2 5.7 0M1.5 10.5c2-2 3.7-2 5.7 0s3.6 2 5.6 0 3.7-2 5.7 0M1.5 15.5c2-2 3.7-2 5.7 0s3.6 2 5.6 0 3.7-2 5.7 0" />
        </svg>
        Caudal
      </a>
      {onLeave !== undefined && (
        <nav>
          <a href="#/" aria-current="page">
            {words.nav.batches}
          </a>
        </nav>
      )}
      <span className="push" />
      {onLeave !== undefined && (
        <button type="button" className="quiet" onClick={onLeave}>
          {words.top.leave}
        </button>
      )}
      <button type="button" onClick={() => onLanguage(next)} title={words.top.language} lang={next}>
        <span className="for-readers">{words.top.language}: </span>
        {language.toUpperCase()}
      </button>
      <button
        type="button"
        className="icon"
        onClick={() => onTheme(themeAfter(theme))}
        title={words.top.theme[theme]}
        aria-label={words.top.theme[theme]}
      >
        <svg viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">
          {theme === "dark" ? (
            <path d="M11.7 8.7A5.3 5.3 0 1 1 5.3 2.3a4.3 4.3 0 0 0 6.4 6.4z" fill="currentColor" />
          ) : (
            <>
              <circle cx="7" cy="7" r="5" className="line" />
              {theme === "auto" && <path d="M7 2a5 5 0 0 0 0 10z" fill="currentColor" />}
            </>
          )}
        </svg>
      </button>
    </header>
  );
}
