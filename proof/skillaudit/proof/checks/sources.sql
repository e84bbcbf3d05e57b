-- The numbering of runs per source: what never arrived.

-- name: gaps
-- Numbers that a source gave or counted and of whose run nothing arrived, as ranges: those that are due, and those that
-- may still be on their way.
WITH arrived AS (
    SELECT source_id, source_seq FROM source_arrivals
), counted AS (
    SELECT source_id, max(source_seq) AS count FROM ledger WHERE run_id <> '' GROUP BY source_id
    UNION ALL
    SELECT source_id, max(events) FROM ledger WHERE run_id = '' GROUP BY source_id
    UNION ALL
    SELECT source_id, greatest(claimed, runs_started, due) FROM sources
), ends AS (
    SELECT c.source_id, max(c.count) AS claimed, coalesce(max(s.due), 0) AS due, max(a.top) AS top
    FROM counted AS c
    LEFT JOIN sources AS s ON c.source_id = s.source_id
    LEFT JOIN (SELECT source_id, max(source_seq) AS top FROM arrived GROUP BY source_id) AS a ON c.source_id = a.source_id
    GROUP BY c.source_id
), numbers AS (
    SELECT source_id, source_seq FROM arrived
    UNION
    SELECT source_id, 0 FROM ends
    UNION
    SELECT source_id, claimed + 1 FROM ends
), spans AS (
    SELECT source_id, source_seq + 1 AS low, lead(source_seq) OVER (PARTITION BY source_id ORDER BY source_seq) - 1 AS high
    FROM numbers
)
SELECT p.source_id, p.low, p.high, e.due, coalesce(p.low > e.top, true) AS tail
FROM spans AS p JOIN ends AS e ON p.source_id = e.source_id
WHERE p.high >= p.low AND p.low <= e.claimed
ORDER BY 1, 2

-- name: listed
-- Runs that a heartbeat or a last word lists and of which neither start nor finish ever came.
SELECT l.source_id, l.source_seq, min(l.run_id), max(l.events), arg_min(l.partition || '#' || l.idx, l.idx)
FROM ledger AS l
ANTI JOIN source_arrivals AS a
    ON l.source_id = a.source_id AND l.source_seq = a.source_seq
WHERE l.kind IN ('progress', 'closed') AND l.run_id <> ''
GROUP BY l.source_id, l.source_seq
ORDER BY 1, 2
LIMIT $limit

-- name: altered
-- Sources whose row contradicts what the ledger proves of them.
SELECT
    coalesce(s.source_id, l.source_id) AS source_id, s.source_id IS NULL AS missing, l.final, s.claimed, s.runs_started,
    s.closed_by, s.state
FROM (
    SELECT
        source_id, max(events) FILTER (run_id = '') AS final,
        arg_max(events, idx) FILTER (run_id = '') AS last_final
    FROM ledger
    GROUP BY source_id
) AS l
FULL JOIN sources AS s ON l.source_id = s.source_id
WHERE s.source_id IS NULL
   OR s.claimed IS NULL OR s.due IS NULL
   OR s.claimed < coalesce(l.final, 0)
   OR s.due > s.claimed
   OR s.runs_started > s.claimed
   -- An embedded source that died is closed by whoever read it to its end: no record says so, and no row.
   OR (s.closed_by <> '' AND l.last_final IS NOT NULL AND s.runs_started <> l.last_final
        AND NOT (s.closed_by = 'adopter' AND s.topic = 'outbox'))
   OR (s.closed_by = 'process' AND l.last_final IS NULL AND s.topic NOT IN (
        SELECT regexp_replace(partition, '/[^/]*$', '') FROM ledger_from
   ) AND s.partition NOT IN (SELECT partition FROM ledger_cuts))
   OR (s.state = 'closed') <> (s.closed_by <> '' AND s.state <> 'closing')
ORDER BY 1

-- name: silent
-- Sources that went away without a last word.
SELECT source_id, runs_started, host FROM sources WHERE state = 'silent' ORDER BY 1

-- name: unknown
-- Sources whose opening never arrived, and whether the ledger has their last word, with the count of their runs.
SELECT source_id, host, source_id IN (SELECT source_id FROM ledger WHERE kind = 'closed' AND run_id = '')
FROM sources
WHERE opened_at IS NULL
ORDER BY 1

-- name: number
-- How far the numbers of a source are due, and which other run was received under one of them.
SELECT
    coalesce((SELECT max(due) FROM sources WHERE source_id = $source_id), 0),
    (
        SELECT min(run_id) FROM ledger
        WHERE source_id = $source_id AND source_seq = $source_seq AND kind IN ('start', 'finish') AND run_id NOT IN ('', $run_id)
    )

-- name: totals
SELECT
    (SELECT count(*) FROM sources),
    (SELECT count(*) FROM (SELECT DISTINCT source_id, source_seq FROM ledger WHERE kind = 'start')),
    (SELECT count(*) FROM sources WHERE state = 'live')

-- name: hosts
SELECT DISTINCT host FROM sources
