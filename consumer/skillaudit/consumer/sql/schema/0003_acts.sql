-- What acts need: where a run's start came from, since an act reaches as far as a position; acts that wait for a partition
-- to reach theirs; and which runs had content taken out.

ALTER TABLE store.runs ADD COLUMN partition VARCHAR DEFAULT '';        -- of the start
ALTER TABLE store.runs ADD COLUMN record_offset BIGINT DEFAULT -1;     -- of the start; -1: stored by an earlier release
UPDATE store.runs SET partition = topic || '/' || source_id WHERE topic = 'outbox';
UPDATE store.runs AS r SET partition = s.partition
FROM store.sources AS s WHERE r.source_id = s.source_id AND r.topic = s.topic AND r.topic <> 'outbox';

-- An act that is recorded and has not reached all of its partitions: of these the events are still to come.
CREATE TABLE store.pending_acts (
    act_id VARCHAR NOT NULL,
    partition VARCHAR NOT NULL,
    position BIGINT NOT NULL             -- it is applied when the partition has reached this one
);

-- Runs of which content was redacted. `settled`: the run's salt is gone, run_salts holds what is left.
CREATE TABLE store.redacted_runs (
    run_key BIGINT NOT NULL,
    erased_by VARCHAR NOT NULL,          -- the act; empty: only single events or fields
    settled BOOLEAN NOT NULL
);

-- What stood against a purge that was forced: empty, 'hold' or 'minimum'.
ALTER TABLE store.tombstones ADD COLUMN violates VARCHAR DEFAULT '';
