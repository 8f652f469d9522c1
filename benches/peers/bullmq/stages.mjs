// What each stage does with a file, of which it is given what the job says, and a way to ask what the stage before told. A stage gives its facts, and the key of what it wrote where it wrote something.
import { UnrecoverableError } from "bullmq";

import * as store from "./store.mjs";

const utf8 = new TextDecoder("utf-8", { fatal: true });

// The store has taken no other bytes than those of the checksum in the URL: whether they are there is left to ask.
async function verifyUpload(data) {
  const found = await store.head(data.key);
  if (found.size !== data.size) {
    throw new UnrecoverableError(`${data.key} is not what was declared`);
  }
  return { facts: { size: found.size, sha256: data.sha256, etag: found.etag } };
}

async function extractText(data) {
  const text = utf8.decode(await store.getBytes(data.key));
  if (text.includes("\0")) throw new UnrecoverableError(`${data.key} is no text`);
  const artifact = `${data.key}/text.txt`;
  await store.putText(artifact, text);
  const words = text.match(/\S+/g)?.length ?? 0;
  return {
    facts: { format: "text/plain", encoding: "utf-8", words, characters: text.length },
    artifact,
  };
}

// Judges by what the stage before told.
async function metadata(_, factsBefore) {
  const text = await factsBefore();
  return { facts: { outcome: text?.words > 0 ? "COMPLETE" : "STORED_ONLY" } };
}

async function nothing() {
  return { facts: {} };
}

const work = { "verify-upload": verifyUpload, "extract-text": extractText, metadata };

export function stage(name) {
  return work[name] ?? nothing;
}
