import { type FormEvent, useState } from "react";
import { useSaid } from "../words";

/** Asks for the API key. */
export function KeyForm({ isRefused, onKey }: { isRefused: boolean; onKey(key: string): void }) {
  const { words } = useSaid();
  const [key, setKey] = useState("");
  const [complaint, setComplaint] = useState(isRefused ? words.key.refused : "");
  const submit = (event: FormEvent) => {
    event.preventDefault();
    const given = key.trim();
    if (given.startsWith("caudal_")) onKey(given);
    else setComplaint(words.key.shape);
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
            aria-invalid={complaint !== ""}
            aria-describedby="key-complaint"
            onChange={(event) => setKey(event.target.value)}
          />
        </label>
        <p id="key-complaint" className="fail" role="alert">
          {complaint}
        </p>
        <button type="submit" className="primary">
          {words.key.open}
        </button>
      </form>
    </main>
  );
}
