-- Where the ledger of a database made again begins, if its records no longer reach back to the first.

-- name: make_sealed
-- What a restored journal's seals say, by partition and row: of each partition only the seals since its offsets last began
-- anew. Nothing is sealed, so none are added, as long as anybody asks. The time is what the seal itself says.
CREATE TEMP TABLE IF NOT EXISTS sealed_ranges AS
WITH said AS (
    SELECT parts[2] AS partition, CAST(parts[3] AS BIGINT) AS first_row,
        CAST(parts[3] AS BIGINT) + CAST(parts[4] AS BIGINT) AS end_row, CAST(parts[6] AS BIGINT) AS next_offset, at_us
    FROM (
        SELECT string_split(line, ' ') AS parts, CAST(substr(at_line, 4) AS BIGINT) AS at_us
        FROM (
            SELECT unnest(lines) AS line, lines[2] AS at_line
            FROM (SELECT string_split(decode(leaf), chr(10)) AS lines FROM store.journal WHERE kind = 'seal')
        )
        WHERE starts_with(line, 'ledger ')
    )
),
lives AS (
    SELECT *, count(*) FILTER (next_offset <= before) OVER (PARTITION BY partition ORDER BY end_row) AS life
    FROM (SELECT *, lag(next_offset) OVER (PARTITION BY partition ORDER BY end_row) AS before FROM said)
)
SELECT partition, first_row, end_row, next_offset, at_us
FROM lives
QUALIFY life = max(life) OVER (PARTITION BY partition)

-- name: around
-- The seals next to a partition's first record that is left: the last one wholly before it, the first one behind its place.
SELECT
    w.partition, w.record_offset,
    coalesce(max(s.end_row) FILTER (s.next_offset <= w.record_offset), min(s.first_row)) AS before_row,
    coalesce(max(s.next_offset) FILTER (s.next_offset <= w.record_offset), 0) AS before_offset,
    min(s.end_row) FILTER (s.next_offset > w.record_offset) AS trial_row,
    min(s.next_offset) FILTER (s.next_offset > w.record_offset) AS trial_offset
FROM (SELECT unnest($partitions) AS partition, unnest($offsets) AS record_offset) AS w
JOIN sealed_ranges AS s ON w.partition = s.partition
GROUP BY w.partition, w.record_offset
ORDER BY 1

-- name: unbegun
-- Partitions with seals of which nothing was consumed, and that are not known to be empty.
SELECT partition, max(end_row), max(next_offset), max(at_us)
FROM sealed_ranges ANTI JOIN store.positions USING (partition) ANTI JOIN store.ledger_cuts USING (partition)
GROUP BY partition
ORDER BY 1

-- name: trials
SELECT partition, trial_row, trial_offset FROM store.ledger_cuts WHERE trial_row IS NOT NULL

-- name: cut_rows
SELECT partition, first_row FROM store.ledger_cuts WHERE trial_row IS NULL

-- name: forget_cut
DELETE FROM store.ledger_cuts WHERE partition = $partition

-- name: remember_cut
INSERT INTO store.ledger_cuts
VALUES ($partition, $first_row, $record_offset, $trial_row, $trial_offset, NULL)

-- name: cut_of
SELECT first_row, record_offset FROM store.ledger_cuts WHERE partition = $partition

-- name: rows_below
SELECT count(*) FROM store.ledger WHERE partition = $partition AND idx < $row

-- name: drop_rows
DELETE FROM store.ledger WHERE partition = $partition AND idx >= $row

-- name: unnamed
SELECT partition, first_row, record_offset FROM store.ledger_cuts
WHERE trial_row IS NULL AND journal_idx IS NULL
ORDER BY partition

-- name: named
UPDATE store.ledger_cuts SET journal_idx = $journal_idx WHERE list_contains($partitions, partition)
