-- What the peer keeps. Rows of files are updated in place: room on their page keeps the updates out of the indexes.
CREATE TABLE batches (
    id uuid PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE files (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    batch_id uuid NOT NULL REFERENCES batches,
    path text NOT NULL,
    size bigint NOT NULL,
    sha256 text,
    object_key text NOT NULL,
    state text NOT NULL DEFAULT 'PENDING',
    confirmed_at timestamptz,
    processed_at timestamptz,
    UNIQUE (batch_id, path)
) WITH (fillfactor = 60);
CREATE TABLE results (
    file_id bigint NOT NULL REFERENCES files,
    stage text NOT NULL,
    facts jsonb NOT NULL,
    artifact_key text,
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (file_id, stage)
);
