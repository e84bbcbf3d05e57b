-- The ledger: its rows against the runs, against each other, against the seals and the sources.

-- fragment: leaf_hash
-- A row's leaf, as in leaves.py.
sha256(
    '\x00'::BLOB || encode(
        'skillaudit ' || l.kind || ' 1' || chr(10) || strlen(l.run_id) || ':' || l.run_id || ' ' || l.source_id
        || ' ' || l.source_seq || ' ' || l.events || ' ' || coalesce(lower(hex(l.head)), '-') || ' '
        || l.record_offset || ' ' || l.received_us || chr(10)
    )
)

-- fragment: given_up
(SELECT DISTINCT subject FROM incidents WHERE kind = 'history-loss-accepted')

-- name: ends
-- Per partition: how many rows there are, how they are numbered, and where the numbering should stand.
SELECT
    coalesce(l.partition, p.partition) AS partition, coalesce(l.rows, 0) AS rows, l.first, l.last,
    coalesce(l.numbers, 0) AS numbers, p.ledger_next,
    coalesce(l.partition, p.partition) IN {given_up} AS given_up
FROM (
    SELECT partition, count(*) AS rows, count(DISTINCT idx) AS numbers, min(idx) AS first, max(idx) AS last
    FROM ledger
    GROUP BY partition
) AS l
FULL JOIN positions AS p ON l.partition = p.partition
WHERE l.partition IS NULL OR p.ledger_next IS DISTINCT FROM l.last::HUGEINT + 1 OR l.rows <> l.last::HUGEINT + 1 OR l.numbers <> l.rows
    OR l.first <> 0
ORDER BY 1

-- name: from_when
-- Where an earlier release is said to have stored without rows, and that can't be: behind records that have rows, or more
-- runs than there were records. What is said there makes runs unproven that would be forged else.
WITH old AS (
    SELECT partition, regexp_replace(partition, '/[^/]*$', '') AS topic, record_offset, run_key FROM ledger_from
), known AS (
    SELECT topic, run_key FROM runs UNION ALL SELECT topic, run_key FROM tombstones UNION ALL SELECT topic, run_key FROM orphans
), room AS (
    SELECT topic, sum(record_offset::HUGEINT) AS records, max(run_key) AS run_key FROM old GROUP BY topic
)
SELECT o.partition
FROM old AS o JOIN ledger AS l ON l.partition = o.partition AND l.idx = 0
WHERE l.record_offset < o.record_offset
UNION
SELECT min(o.partition)
FROM room AS r JOIN known AS k ON k.topic = r.topic AND k.run_key < r.run_key JOIN old AS o ON o.topic = r.topic
GROUP BY r.topic, r.records
HAVING count(DISTINCT k.run_key) > r.records
ORDER BY 1

-- name: gaps
-- Numbers that no row has, from $begin on, as ranges.
SELECT idx::HUGEINT + 1 AS low, following - 1 AS high
FROM (
    SELECT idx, lead(idx) OVER (ORDER BY idx) AS following
    FROM (
        SELECT $begin - 1 AS idx
        UNION ALL
        SELECT idx FROM ledger WHERE partition = $partition AND (idx >= $begin OR $begin = 0)
    )
)
WHERE following > idx::HUGEINT + 1
ORDER BY 1
LIMIT $limit

-- name: repeated
SELECT idx FROM ledger WHERE partition = $partition GROUP BY idx HAVING count(*) > 1 ORDER BY 1 LIMIT $limit

-- name: out_of_order
-- Rows whose record comes before that of the row before them, or after what was consumed. Where the loss of a partition's
-- history was accepted, offsets begin anew: there the seals alone tell.
SELECT o.partition, o.idx
FROM (
    SELECT partition, idx, record_offset, lag(record_offset) OVER (PARTITION BY partition ORDER BY idx) AS before
    FROM ledger
) AS o
LEFT JOIN positions AS p ON o.partition = p.partition
ANTI JOIN {given_up} AS g ON g.subject = o.partition
WHERE o.record_offset < o.before OR p.partition IS NULL OR o.record_offset >= p.next_offset
ORDER BY 1, 2
LIMIT $limit

-- name: unstored
-- Runs of which the ledger has a start or a finish and that are nowhere: neither stored, nor purged, nor waiting for their
-- start. One that is only listed is missed by its number, when that is due.
SELECT
    l.run_id, count(*) FILTER (l.kind = 'start') AS starts, arg_min(l.partition || '#' || l.idx, l.idx) AS place,
    count(o.run_key) > 0 AS orphaned
FROM ledger AS l
LEFT JOIN (SELECT DISTINCT id, topic FROM runs) AS r ON r.id = l.run_id AND r.topic = regexp_replace(l.partition, '/[^/]*$', '')
LEFT JOIN (SELECT DISTINCT id, topic FROM tombstones) AS t
    ON t.id = l.run_id AND t.topic = regexp_replace(l.partition, '/[^/]*$', '')
LEFT JOIN orphans AS o ON o.id = l.run_id AND o.topic = regexp_replace(l.partition, '/[^/]*$', '')
WHERE l.run_id <> '' AND r.id IS NULL AND t.id IS NULL
GROUP BY l.run_id, regexp_replace(l.partition, '/[^/]*$', '')
HAVING starts > 0 OR (count(o.run_key) = 0 AND count(*) FILTER (l.kind = 'finish') > 0)
ORDER BY place

-- name: strays
-- Events whose run is nowhere.
SELECT e.run_key, count(*) AS events
FROM events AS e
ANTI JOIN runs AS r ON e.run_key = r.run_key
ANTI JOIN orphans AS o ON e.run_key = o.run_key
GROUP BY e.run_key
ORDER BY 1
LIMIT $limit

-- name: twice
-- Runs stored more than once, or both stored and purged, or both stored and waiting.
SELECT id, topic, count(*) AS times
FROM (
    SELECT id, topic FROM runs
    UNION ALL
    SELECT id, topic FROM tombstones
    UNION ALL
    SELECT id, topic FROM orphans
)
GROUP BY id, topic
HAVING count(*) > 1
ORDER BY 1
LIMIT $limit

-- name: keys_twice
SELECT run_key, count(*) FROM (SELECT run_key FROM runs UNION ALL SELECT run_key FROM orphans) GROUP BY run_key
HAVING count(*) > 1 ORDER BY 1 LIMIT $limit

-- name: listed_twice
-- Different statements about one run and one number of events. Rows that differ only in offset and time are one statement.
SELECT run_id, kind, count(*) AS statements, min(place) AS place
FROM (
    SELECT
        run_id, regexp_replace(partition, '/[^/]*$', '') AS topic,
        CASE WHEN kind IN ('start', 'finish') THEN kind ELSE 'listing' END AS kind, source_id, head,
        CASE WHEN kind = 'finish' THEN 0 ELSE events END AS prefix, CASE WHEN kind = 'finish' THEN events END AS events,
        min(partition || '#' || idx) AS place
    FROM ledger
    WHERE run_id <> ''
    GROUP BY ALL
)
GROUP BY run_id, topic, kind, prefix
HAVING count(*) > 1
ORDER BY run_id
LIMIT $limit

-- name: numbered_twice
-- One number of a source given to two runs, of which a record came or that it lists.
SELECT source_id, source_seq, count(DISTINCT run_id) AS runs, min(run_id), max(run_id), min(partition || '#' || idx) AS place
FROM ledger
WHERE run_id <> '' AND (source_seq > 0 OR kind IN ('start', 'finish'))
GROUP BY source_id, source_seq
HAVING count(DISTINCT run_id) > 1
ORDER BY 1, 2
LIMIT $limit

-- name: make_seals
-- What the seals say, one row per partition and seal. Lines of another form are `bad`.
CREATE OR REPLACE TEMP TABLE seals AS
SELECT
    idx AS journal_idx, place, TRY_CAST(substr(at_line, 4) AS BIGINT) AS at_us, parts[2] AS partition, TRY_CAST(parts[3] AS BIGINT) AS first,
    TRY_CAST(parts[4] AS BIGINT) AS rows, parts[5] AS root, TRY_CAST(parts[6] AS BIGINT) AS next_offset,
    NOT regexp_full_match(
        line,
        'ledger [!-~]+ (0|[1-9][0-9]{0,18}) [1-9][0-9]{0,18} [0-9a-f]{64} (0|[1-9][0-9]{0,18})'
    ) AS bad
FROM (
    SELECT idx, place, at_line, line, string_split(line, ' ') AS parts
    FROM (
        SELECT idx, lines[2] AS at_line, unnest(range(len(lines) - 3)) AS place, unnest(lines[3:-2]) AS line
        FROM (SELECT idx, string_split(TRY(decode(leaf)), chr(10)) AS lines FROM journal WHERE kind = 'seal')
    )
)
ORDER BY partition, first

-- name: bad_leaves
-- Leaves that are neither a seal nor an act of format 1, or are called by the wrong name, or stand in the wrong place.
SELECT idx
FROM journal
WHERE (CASE kind
    WHEN 'seal' THEN NOT regexp_full_match(TRY(decode(leaf)), 'skillaudit seal 1\nat (0|[1-9][0-9]{0,18})\n(ledger [^\n]+\n)*')
    WHEN 'act' THEN NOT regexp_full_match(TRY(decode(leaf)), 'skillaudit act 1\n\{[^\n]*\}\n')
    ELSE true
END) IS NOT FALSE
UNION
SELECT journal_idx FROM seals WHERE bad
ORDER BY 1
LIMIT $limit

-- name: seal_gaps
-- Seals that don't go on where the partition's seal before them ended.
SELECT partition, journal_idx, first, expected
FROM (
    SELECT
        partition, journal_idx, first,
        coalesce(lag(first::HUGEINT + rows) OVER (PARTITION BY partition ORDER BY journal_idx, place), 0) AS expected
    FROM seals
    WHERE NOT bad
)
WHERE first <> expected
ORDER BY journal_idx
LIMIT $limit

-- name: sealed_ends
-- Per partition: how far it is sealed, and how many rows it has.
SELECT l.partition, l.rows, coalesce(s.sealed, 0) AS sealed
FROM (SELECT partition, max(idx)::HUGEINT + 1 AS rows FROM ledger GROUP BY partition) AS l
LEFT JOIN (SELECT partition, max(first::HUGEINT + rows) AS sealed FROM seals WHERE NOT bad AND journal_idx < $size GROUP BY partition) AS s
    ON l.partition = s.partition
WHERE l.rows > coalesce(s.sealed, 0)
ORDER BY 1

-- name: old_seals
SELECT count(DISTINCT journal_idx) FROM seals WHERE NOT bad AND journal_idx < $from

-- name: sealed_rows
-- The hashes of each sealed range's rows as one value, and what the seal says of it: from a leaf on, and one in so many of
-- those before it. The position behind them goes by the last row: offsets begin anew where a lost history was accepted.
WITH chosen AS (
    SELECT * FROM seals WHERE NOT bad AND (journal_idx >= $from OR hash(journal_idx + $seed::BIGINT) % $one_in = 0)
), placed AS (
    SELECT s.journal_idx, s.place, l.idx, l.record_offset, {leaf_hash} AS leaf_hash
    FROM ledger AS l ASOF JOIN chosen AS s
        ON l.partition = s.partition AND l.idx >= s.first
    WHERE l.idx < s.first::HUGEINT + s.rows
), gathered AS (
    SELECT
        journal_idx, place, count(*) AS found, string_agg(leaf_hash, '' ORDER BY idx) AS hashes,
        arg_max(record_offset, idx) AS last_offset
    FROM placed
    GROUP BY journal_idx, place
)
SELECT
    s.journal_idx, s.partition, s.first, s.rows, s.root, coalesce(g.found, 0) AS found, coalesce(g.hashes, '') AS hashes,
    coalesce(g.last_offset + 1 = s.next_offset, false) AS within, n.hashes AS nodes
FROM chosen AS s
LEFT JOIN gathered AS g ON s.journal_idx = g.journal_idx AND s.place = g.place
LEFT JOIN ledger_nodes AS n ON n.partition = s.partition AND n.first_row = s.first

-- name: seals_between
SELECT idx, leaf FROM journal WHERE kind = 'seal' AND at_us >= $from_us AND at_us <= $to_us

-- name: misfiled
-- Rows that are not found by their run.
SELECT partition, idx FROM ledger WHERE run_hash IS DISTINCT FROM ('0x' || left(sha256(run_id), 16))::UBIGINT
ORDER BY 1, 2 LIMIT $limit

-- name: stray_nodes
SELECT n.partition, n.first_row FROM ledger_nodes AS n
ANTI JOIN (SELECT * FROM seals WHERE NOT bad) AS s ON n.partition = s.partition AND n.first_row = s.first
ORDER BY 1, 2 LIMIT $limit

-- name: rows_of_seal
SELECT
    {leaf_hash}
FROM ledger AS l
WHERE l.partition = $partition AND l.idx >= $first AND l.idx < $first + $rows
ORDER BY l.idx
