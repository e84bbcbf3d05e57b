-- Runs whose start never came can be purged, too: an act reaches them by where their first record stands, and their age counts
-- from when that arrived.
ALTER TABLE store.orphans ADD COLUMN partition VARCHAR DEFAULT '';      -- of the first record
ALTER TABLE store.orphans ADD COLUMN record_offset BIGINT DEFAULT -1;   -- of the first record; -1: stored by an earlier release
ALTER TABLE store.orphans ADD COLUMN first_us BIGINT;                   -- when that arrived; without a broker's time when it was made
UPDATE store.orphans SET first_us = epoch_us(first_received_at);
UPDATE store.orphans AS o SET partition = k.partition
FROM (SELECT run_key, min(partition) AS partition FROM store.kept GROUP BY run_key) AS k WHERE o.run_key = k.run_key;

-- Of a run that was one of them before its start came, so that an act that came meanwhile finds it; else NULL.
ALTER TABLE store.runs ADD COLUMN first_offset BIGINT;
ALTER TABLE store.runs ADD COLUMN first_us BIGINT;

-- Whether no start had come when the act reached it; `started_at` is then what it counted as.
ALTER TABLE store.tombstones ADD COLUMN orphan BOOLEAN DEFAULT FALSE;
