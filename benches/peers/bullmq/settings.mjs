// What the processes of the peer are told, by their environment.

function told(name) {
  const value = process.env[name];
  if (value === undefined) throw new Error(`${name} is not set`);
  return value;
}

// The stages of a file, in their order. Null stages record that they ran, and touch no object.
const STAGES = {
  real: ["verify-upload", "extract-text", "metadata"],
  null: ["null-1", "null-2", "null-3", "null-4"],
};

export const settings = {
  database: told("PEER_DATABASE_URL"),
  redis: { host: "127.0.0.1", port: Number(told("PEER_REDIS_PORT")) },
  s3: {
    endpoint: process.env.PEER_S3_ENDPOINT,
    bucket: process.env.PEER_S3_BUCKET,
    accessKeyId: process.env.PEER_S3_ACCESS_KEY,
    secretAccessKey: process.env.PEER_S3_SECRET_KEY,
  },
  stages: STAGES[told("PEER_WORK")],
  // Whether one job takes a file through all stages, where otherwise each stage has a queue and a file is a flow.
  oneJob: process.env.PEER_ONE_JOB === "1",
  // Jobs of one queue that one worker process has in hand.
  concurrency: Number(process.env.PEER_CONCURRENCY ?? 16),
  // Connections to Postgres of one process.
  connections: Number(process.env.PEER_CONNECTIONS ?? 16),
};
