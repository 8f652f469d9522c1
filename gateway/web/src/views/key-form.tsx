import { type FormEvent, useState } from "react";
import type { KeyRefusal } from "../trouble";
import { useSaid } from "../words";

/** Asks for the API key, and says why the last one opened nothing. */
export function KeyForm({ refusal, onKey }: { refusal: KeyRefusal | null; onKey(key: string): void }) {
  const { words } = useSaid();
  const [key, setKey] = useState("");
  const [complaint, setComplaint] = useState<KeyRefusal | "shape" | null>(refusal);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    const given = key.trim();
    if (given.startsWith("caudal_")) onKey(given);
    else setComplaint("shape");
  };
  return (
    <main id="content" className="key-page">
      <form className="card key-form" onSubmit={submit}>
        <h1>{words.key.title}</h1>
        <p className="mute">{words.key.lead}</p>
        <label>
          <span>{words.key.label}</span>
          <input
            type="password"
            autoComplete="off"
            spellCheck={false}
            placeholder={words.key.placeholder}
            value={key}
            // biome-ignore lint/a11y/noAutofocus: it is the only thing to do here
            autoFocus
            aria-invalid={complaint !== null}
            aria-describedby="key-complaint"
            onChange={(event) => setKey(event.target.value)}
          />
        </label>
        <p id="key-complaint" className="fail" role="alert">
          {complaint === "shape" ? words.key.shape : complaint !== null && words.key.refusal[complaint]}
        </p>
        <button type="submit" className="primary">
          {words.key.open}
        </button>
        <p className="mute small">{words.key.source}</p>
      </form>
    </main>
  );
}
