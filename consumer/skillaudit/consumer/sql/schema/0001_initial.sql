-- The consumer's own tables. Nobody else reads them: the views in `main` are the interface.
-- No index and no primary key on events and runs: see "Tables" in ARCHITECTURE.md. Uniqueness of (run, sequence) is the
-- materializer's.

-- One row per run whose start is stored, updated in place by run_key. Everything a list shows is in this one table,
-- because any join in the view `runs` takes the engine's top-N away (newest 50 of 3M runs: 14 ms; with a join 160).
CREATE TABLE store.runs (
    run_key BIGINT NOT NULL,             -- in order of arrival
    run_hash UBIGINT NOT NULL,           -- contract.digests.run_hash
    id VARCHAR NOT NULL,
    topic VARCHAR NOT NULL,              -- namespace of the id
    skill_id VARCHAR NOT NULL,
    caller_id VARCHAR NOT NULL,
    channel_id VARCHAR NOT NULL,
    inputs VARCHAR NOT NULL,             -- byte for byte
    started_at TIMESTAMPTZ NOT NULL,
    finished_at TIMESTAMPTZ,
    status VARCHAR NOT NULL,
    output VARCHAR NOT NULL,
    error VARCHAR NOT NULL,
    tool_calls_count BIGINT NOT NULL,
    runtime_us BIGINT NOT NULL,
    parent_run_id VARCHAR NOT NULL,
    total_input_tokens BIGINT NOT NULL,
    total_output_tokens BIGINT NOT NULL,
    total_thinking_tokens BIGINT NOT NULL,
    attributes VARCHAR NOT NULL,         -- byte for byte
    source_id VARCHAR NOT NULL,          -- empty: written through a bare Storage
    source_seq BIGINT NOT NULL,
    events_expected BIGINT,              -- the finish's count, start and finish included
    events_stored BIGINT NOT NULL,       -- logs
    completeness VARCHAR NOT NULL,
    liveness VARCHAR NOT NULL,
    missing VARCHAR NOT NULL,
    lost VARCHAR NOT NULL,
    conflicts BIGINT NOT NULL,
    last_event_at TIMESTAMPTZ,
    received_at TIMESTAMPTZ NOT NULL,    -- of the start
    by_storage BOOLEAN NOT NULL,
    clock VARCHAR NOT NULL,
    salt BLOB,
    start_tag UBIGINT NOT NULL,
    finish_seq BIGINT,
    finish_tag UBIGINT,
    head BLOB,
    known BIGINT NOT NULL,               -- numbers below this one exist, as the run's source said
    refused BOOLEAN NOT NULL,            -- store.kept holds run.refused records of it
    received VARCHAR                     -- ranges of the numbers stored; NULL: finished, and all of 0 .. finish_seq
);

-- Runs of which events are stored but no start. They leave this table for store.runs when the start arrives.
CREATE TABLE store.orphans (
    run_key BIGINT NOT NULL,
    run_hash UBIGINT NOT NULL,
    id VARCHAR NOT NULL,
    topic VARCHAR NOT NULL,
    plain BOOLEAN NOT NULL,              -- only plain logs of a Writer: nothing in store.kept or store.conflicts
    bare BOOLEAN NOT NULL,
    source_id VARCHAR NOT NULL,          -- of the finish, where one is there
    events_expected BIGINT,
    events_stored BIGINT NOT NULL,
    completeness VARCHAR NOT NULL,
    liveness VARCHAR NOT NULL,
    missing VARCHAR NOT NULL,
    lost VARCHAR NOT NULL,
    conflicts BIGINT NOT NULL,
    received VARCHAR NOT NULL,
    known VARCHAR NOT NULL,              -- JSON: source_id -> numbers below this one exist
    first_received_at TIMESTAMPTZ NOT NULL,
    last_event_at TIMESTAMPTZ
);

-- Records kept as they came because rules need them later: of an orphan everything but plain logs, until the start
-- tells how to judge it; of any run its run.refused, which hold a number and a tag. `id` counts on with
-- store.conflicts: together they are in order of arrival.
CREATE TABLE store.kept (
    id BIGINT NOT NULL,
    run_key BIGINT NOT NULL,
    record BLOB NOT NULL,
    partition VARCHAR NOT NULL,
    record_offset BIGINT NOT NULL,
    received_us BIGINT NOT NULL
);

-- The finishing calls of bare Storages that were applied to a run: they are deduplicated by their ids.
CREATE TABLE store.calls (run_key BIGINT NOT NULL, call_id VARCHAR NOT NULL);

-- Events of kind log. Batches go into one hot table; a full one is moved, sorted, into the sealed table, whose payloads
-- are compressed. Rows are never UPDATEd: an update of a hot row while a seal copies it would be silently undone.
CREATE TABLE store.events_hot_a (
    run_key BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    event_type VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    tag UBIGINT NOT NULL,
    payload VARCHAR NOT NULL
);
CREATE TABLE store.events_hot_b (
    run_key BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    event_type VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    tag UBIGINT NOT NULL,
    payload VARCHAR NOT NULL
);
CREATE TABLE store.events_sealed (
    run_key BIGINT NOT NULL,
    sequence BIGINT NOT NULL,
    event_type VARCHAR NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    tag UBIGINT NOT NULL,
    payload VARCHAR NOT NULL USING COMPRESSION zstd
);

-- How far each partition was consumed. The key makes two writers' first rows of a partition conflict.
CREATE TABLE store.positions (
    partition VARCHAR PRIMARY KEY,
    cluster VARCHAR NOT NULL,
    next_offset BIGINT NOT NULL,
    last_offset BIGINT NOT NULL,
    last_digest VARCHAR NOT NULL,
    records BIGINT NOT NULL,
    received_us BIGINT NOT NULL,         -- newest broker time consumed
    read_to_us BIGINT NOT NULL,          -- broker time up to which everything appended is consumed
    end_offset BIGINT NOT NULL           -- the end last seen
);

CREATE TABLE store.sources (
    source_id VARCHAR PRIMARY KEY,
    topic VARCHAR NOT NULL,
    partition VARCHAR NOT NULL,
    host VARCHAR NOT NULL,
    pid BIGINT NOT NULL,
    boot_id VARCHAR NOT NULL,
    version VARCHAR NOT NULL,
    clock VARCHAR NOT NULL,
    opened_at TIMESTAMPTZ,
    heard_us BIGINT NOT NULL,            -- broker time of the newest sign of life
    beat BIGINT NOT NULL,
    beat_at TIMESTAMPTZ,
    runs_started BIGINT NOT NULL,
    runs_finished BIGINT NOT NULL,
    backlog_records BIGINT NOT NULL,
    backlog_bytes BIGINT NOT NULL,
    oldest_us BIGINT NOT NULL,
    refused BIGINT NOT NULL,
    lost BIGINT NOT NULL,
    closed_by VARCHAR NOT NULL,          -- '', 'process' or 'adopter'
    closed_at TIMESTAMPTZ,
    state VARCHAR NOT NULL               -- live, silent, closed
);

CREATE TABLE store.conflicts (
    id BIGINT NOT NULL,
    run_key BIGINT NOT NULL,
    run_id VARCHAR NOT NULL,
    topic VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,               -- the record's type
    sequence BIGINT NOT NULL,            -- -1: it has none
    tag UBIGINT NOT NULL,
    reason VARCHAR NOT NULL,
    record BLOB NOT NULL,
    partition VARCHAR NOT NULL,
    record_offset BIGINT NOT NULL,       -- -1: unknown, the record was made again from its stored event
    received_us BIGINT NOT NULL
);

CREATE TABLE store.dead_letters (
    id BIGINT NOT NULL,
    partition VARCHAR NOT NULL,
    record_offset BIGINT NOT NULL,
    next_offset BIGINT NOT NULL,
    key BLOB,
    record BLOB,                         -- NULL: a tombstone of Kafka's
    received_us BIGINT NOT NULL,
    stored_at TIMESTAMPTZ NOT NULL,
    error VARCHAR NOT NULL,
    state VARCHAR NOT NULL,              -- waiting, replayed, discarded
    changed_at TIMESTAMPTZ NOT NULL
);

CREATE TABLE store.purges (
    id BIGINT NOT NULL,
    purged_at TIMESTAMPTZ NOT NULL,
    cutoff TIMESTAMPTZ NOT NULL,
    policy VARCHAR NOT NULL,
    runs BIGINT NOT NULL,
    events BIGINT NOT NULL
);

-- A purged run's records may be delivered again as long as the topic or an outbox holds them: counted, not stored.
CREATE TABLE store.tombstones (
    run_key BIGINT NOT NULL,
    run_hash UBIGINT NOT NULL,
    id VARCHAR NOT NULL,
    topic VARCHAR NOT NULL,
    source_id VARCHAR NOT NULL,
    source_seq BIGINT NOT NULL,
    liveness VARCHAR NOT NULL,           -- from here on: as it was when the run was purged
    events_stored BIGINT NOT NULL,
    missing VARCHAR NOT NULL,
    lost VARCHAR NOT NULL,
    conflicts BIGINT NOT NULL,
    last_event_at TIMESTAMPTZ,
    purge_id BIGINT NOT NULL,
    records_dropped BIGINT NOT NULL      -- records that came later
);

CREATE TABLE store.incidents (
    id BIGINT NOT NULL,
    happened_at TIMESTAMPTZ NOT NULL,
    kind VARCHAR NOT NULL,
    subject VARCHAR NOT NULL,
    detail VARCHAR NOT NULL
);
