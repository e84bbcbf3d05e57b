-- What the metrics tell of the database. Read beside the writer, every few seconds at most.

-- name: troubles
SELECT 'conflicts' AS name, '' AS label, count(*) AS number FROM store.conflicts
UNION ALL SELECT 'orphans', '', count(*) FROM store.orphans
UNION ALL SELECT 'dead_letters', state, count(*) FROM store.dead_letters GROUP BY state
UNION ALL SELECT 'incidents', kind, count(*) FROM store.incidents GROUP BY kind;

-- name: hosts
-- By host, as its agents' newest heartbeats say; what a closed source said last no longer waits for anybody.
SELECT host,
       count(*) FILTER (state = 'live') AS live,
       count(*) FILTER (state = 'silent') AS silent,
       coalesce(sum(backlog_records) FILTER (state <> 'closed'), 0)::BIGINT AS backlog_records,
       coalesce(sum(backlog_bytes) FILTER (state <> 'closed'), 0)::BIGINT AS backlog_bytes,
       coalesce(min(oldest_us) FILTER (state <> 'closed' AND oldest_us > 0), 0)::BIGINT AS oldest_us,
       coalesce(max(heard_us) FILTER (state <> 'closed'), 0)::BIGINT AS heard_us,
       sum(refused)::BIGINT AS refused,
       sum(lost)::BIGINT AS lost
FROM store.sources
GROUP BY host;

-- name: read_to
-- The broker's time up to which everything is consumed: of the partition that is furthest behind; embedded, where every
-- source is a partition and most are of processes long gone, the newest.
SELECT coalesce(min(read_to_us) FILTER (NOT starts_with(partition, 'outbox/')), max(read_to_us), 0)::BIGINT
FROM store.positions;
