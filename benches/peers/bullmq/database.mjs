// The rows of the peer. Each statement is one transaction and one round trip, and is planned once a connection.
import pg from "pg";

import { settings } from "./settings.mjs";

const pool = new pg.Pool({ connectionString: settings.database, max: settings.connections });

function statement(name, text) {
  return async (...values) => (await pool.query({ name, text, values })).rows;
}

export const addBatch = statement("add-batch", "INSERT INTO batches (id) VALUES ($1)");

export const addFiles = statement(
  "add-files",
  `INSERT INTO files (batch_id, path, size, sha256, object_key)
   SELECT $1::uuid, entry.path, entry.size, entry.sha256, entry.object_key
   FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[]) AS entry (path, size, sha256, object_key)
   ON CONFLICT (batch_id, path) DO NOTHING
   RETURNING id, path, object_key`,
);

export const confirmFiles = statement(
  "confirm-files",
  `UPDATE files SET state = 'UPLOADED', confirmed_at = clock_timestamp()
   WHERE id = ANY ($2::bigint[]) AND batch_id = $1 AND state = 'PENDING'
   RETURNING id, size, sha256, object_key`,
);

// Results of stages, and where the file is now: a job that runs again writes the same.
const record = statement(
  "record-results",
  `WITH result AS (
     INSERT INTO results (file_id, stage, facts, artifact_key)
     SELECT $1, result.stage, result.facts, result.artifact_key
     FROM unnest($2::text[], $3::jsonb[], $4::text[]) AS result (stage, facts, artifact_key)
     ON CONFLICT (file_id, stage) DO UPDATE SET facts = excluded.facts, artifact_key = excluded.artifact_key
   )
   UPDATE files SET state = $5::text,
     processed_at = CASE WHEN $5::text = 'PROCESSED' THEN clock_timestamp() END
   WHERE id = $1`,
);

// `results` are of { stage, facts, artifact }.
export async function recordResults(file, results, state) {
  await record(
    file,
    results.map((result) => result.stage),
    results.map((result) => JSON.stringify(result.facts)),
    results.map((result) => result.artifact ?? null),
    state,
  );
}

export const failFile = statement("fail-file", "UPDATE files SET state = 'FAILED' WHERE id = $1");

export const countFiles = statement(
  "count-files",
  `SELECT count(*)::int AS files, (count(*) FILTER (WHERE state = 'PROCESSED'))::int AS processed,
     (count(*) FILTER (WHERE state = 'FAILED'))::int AS failed, extract(epoch FROM max(processed_at))::float8 AS ended
   FROM files WHERE batch_id = $1`,
);

export async function close() {
  await pool.end();
}
