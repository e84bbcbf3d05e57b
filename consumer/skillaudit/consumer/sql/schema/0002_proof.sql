-- What the proof is made of: the ledger, written with the records it is computed from, and what is made of it. See
-- "Proof" in ARCHITECTURE.md; what the bytes mean stands in proof/.

-- One row per start, finish and listing of a run, computed from one record alone and numbered per partition without
-- gaps, in offset order. Never changed: it is what a rebuilt database has to meet.
CREATE TABLE store.ledger (
    partition VARCHAR NOT NULL,
    idx BIGINT NOT NULL,
    kind VARCHAR NOT NULL,               -- start, progress, finish, closed
    run_id VARCHAR NOT NULL,             -- empty: the final count of a source.closed
    source_id VARCHAR NOT NULL,
    source_seq BIGINT NOT NULL,          -- 0: the record does not say it
    events BIGINT NOT NULL,              -- start and finish included; of a final count the runs started
    head BLOB,                           -- 32 bytes, through these events; NULL of a final count
    received_us BIGINT NOT NULL,         -- the broker's append time, 0 where there is none
    record_offset BIGINT NOT NULL
);

-- From which record on a partition has its ledger: what an earlier release stored has no rows and stays unproven.
CREATE TABLE store.ledger_from (
    partition VARCHAR NOT NULL,
    record_offset BIGINT NOT NULL,       -- records below this one were stored without rows
    run_key BIGINT NOT NULL              -- runs below this one may have started among them
);
INSERT INTO store.ledger_from
SELECT partition, next_offset, (
    SELECT greatest(
        (SELECT coalesce(max(run_key), -1) FROM store.runs),
        (SELECT coalesce(max(run_key), -1) FROM store.orphans),
        (SELECT coalesce(max(run_key), -1) FROM store.tombstones)
    ) + 1
)
FROM store.positions
WHERE next_offset > 0;

-- The journal: seals of the ledger and administrative acts, in order. Only appended to.
CREATE TABLE store.journal (
    idx BIGINT NOT NULL,
    at_us BIGINT NOT NULL,
    kind VARCHAR NOT NULL,               -- seal, act
    leaf BLOB NOT NULL
);

-- Complete tiles of the journal's tree: 256 hashes of 32 bytes. Level 0 holds the leaves' hashes.
CREATE TABLE store.journal_nodes (level BIGINT NOT NULL, idx BIGINT NOT NULL, hashes BLOB NOT NULL);

-- Signed states of the journal, and where they are published.
CREATE TABLE store.checkpoints (
    size BIGINT NOT NULL,
    note VARCHAR NOT NULL,
    signed_us BIGINT NOT NULL,
    published VARCHAR NOT NULL           -- JSON: anchor -> {at_us, receipt}
);

-- Every act applied, in order.
CREATE TABLE store.acts (
    control_partition VARCHAR NOT NULL,
    control_offset BIGINT NOT NULL,
    act_id VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    act VARCHAR NOT NULL,                -- its one line of JSON, as it came
    journal_idx BIGINT,
    applied_us BIGINT NOT NULL
);

-- What was taken out of runs: the digest stays, the content and its salt are gone.
CREATE TABLE store.redactions (
    run_key BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    field VARCHAR,                       -- NULL: the whole payload
    digest BLOB NOT NULL,
    act_id VARCHAR NOT NULL
);

-- Of runs with a redaction: the salts that are left, for the run's own salt is gone.
CREATE TABLE store.run_salts (
    run_key BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    field VARCHAR,                       -- NULL: the event's own
    salt VARCHAR NOT NULL
);

-- What must not be purged or redacted.
CREATE TABLE store.holds (
    act_id VARCHAR NOT NULL,
    scope VARCHAR NOT NULL,              -- JSON
    placed_us BIGINT NOT NULL,
    released_by VARCHAR                  -- the act that ended it
);

-- The next row's number in the partition's ledger: it moves with the position, by the same compare-and-set.
ALTER TABLE store.positions ADD COLUMN ledger_next BIGINT DEFAULT 0;

-- How many runs the source said it started, and how many of these are due: see "Sources" in ARCHITECTURE.md.
ALTER TABLE store.sources ADD COLUMN claimed BIGINT DEFAULT 0;
ALTER TABLE store.sources ADD COLUMN due BIGINT DEFAULT 0;
UPDATE store.sources SET claimed = runs_started;

-- Whom to ask about a purged run, and how old it was.
ALTER TABLE store.purges ADD COLUMN act_id VARCHAR DEFAULT '';
ALTER TABLE store.tombstones ADD COLUMN started_at TIMESTAMPTZ;
ALTER TABLE store.tombstones ADD COLUMN received_at TIMESTAMPTZ;
