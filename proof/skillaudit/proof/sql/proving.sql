-- name: finished
-- Of the rows in the ranges: the runs that finished with them, of which everything is stored as it came. What lacks events,
-- salts or agreement among its records is for `skillaudit verify`, which can name it.
WITH ranges AS (
    SELECT unnest($partitions) AS partition, unnest($firsts) AS first_idx, unnest($ends) AS end_idx
),
finishes AS (
    SELECT l.partition, l.idx, l.run_id, l.events, l.head, regexp_replace(l.partition, '/[^/]*$', '') AS topic,
        CAST('0x' || left(sha256(l.run_id), 16) AS UBIGINT) AS run_hash
    FROM store.ledger AS l
    JOIN ranges AS r ON l.partition = r.partition AND l.idx >= r.first_idx AND l.idx < r.end_idx
    WHERE l.kind = 'finish'
)
SELECT r.run_key, any_value(r.id), min(f.partition || '#' || f.idx), any_value(f.head), any_value(r.events_stored) + 2
FROM finishes AS f JOIN store.runs AS r ON r.run_hash = f.run_hash AND r.id = f.run_id AND r.topic = f.topic
WHERE r.completeness = 'complete' AND NOT r.by_storage AND r.salt IS NOT NULL AND r.conflicts = 0 AND NOT r.refused
    AND r.run_key NOT IN (SELECT run_key FROM store.redactions)
GROUP BY r.run_key
ORDER BY r.run_key

-- name: heads
-- The head of each of the runs, made again from its row and its events, and how many events disagree with their tags.
WITH chosen AS (
    SELECT r.*, lower(hex(r.salt)) AS run_salt
    FROM store.runs AS r
    WHERE r.run_key BETWEEN $first AND $last AND r.run_key IN (SELECT unnest($keys))
),
fields AS (
    SELECT run_key, run_salt, 0 AS seq, unnest([1, 2, 3, 4]) AS place,
        unnest(['caller_id', 'channel_id', 'inputs', 'attributes']) AS name,
        unnest([caller_id, channel_id, inputs, attributes]) AS content
    FROM chosen
    UNION ALL
    SELECT run_key, run_salt, finish_seq, unnest([5, 6]), unnest(['output', 'error']), unnest([output, error])
    FROM chosen
),
bodies AS (
    SELECT run_key, seq, string_agg(
        name || ' ' || sha256(
            'skillaudit field 1' || chr(10)
            || left(sha256('skillaudit salt 1' || chr(10) || run_salt || chr(10) || seq || '.' || name || chr(10)), 32)
            || chr(10) || name || chr(10) || strlen(content) || ':' || content
        ) || chr(10),
        '' ORDER BY place
    ) AS body
    FROM fields
    GROUP BY run_key, seq
),
stored AS (
    SELECT c.run_key, c.run_salt, e.sequence AS seq, e.tag, e.payload AS body,
        'log ' || e.sequence || ' ' || epoch_us(e.created_at) || ' ' || strlen(e.event_type) || ':' || e.event_type AS header
    FROM main.events AS e JOIN chosen AS c ON e.run_key = c.run_key
    WHERE e.run_key BETWEEN $first AND $last
    UNION ALL
    SELECT c.run_key, c.run_salt, 0, c.start_tag, b.body,
        'start 0 ' || epoch_us(c.started_at) || ' ' || strlen(c.parent_run_id) || ':' || c.parent_run_id || ' '
        || strlen(c.skill_id) || ':' || c.skill_id || ' ' || c.source_id || ' ' || c.source_seq
    FROM chosen AS c JOIN bodies AS b ON b.run_key = c.run_key AND b.seq = 0
    UNION ALL
    SELECT c.run_key, c.run_salt, c.finish_seq, c.finish_tag, b.body,
        'finish ' || c.finish_seq || ' ' || epoch_us(c.finished_at) || ' ' || strlen(c.status) || ':' || c.status || ' '
        || c.tool_calls_count || ' ' || c.runtime_us || ' ' || c.total_input_tokens || ' ' || c.total_output_tokens
        || ' ' || c.total_thinking_tokens || ' 0:'
    FROM chosen AS c JOIN bodies AS b ON b.run_key = c.run_key AND b.seq = c.finish_seq
),
digested AS (
    SELECT run_key, seq, tag, header, sha256(
        'skillaudit event 1' || chr(10)
        || substr(sha256('skillaudit salt 1' || chr(10) || run_salt || chr(10) || (seq // 2) || chr(10)), 1 + 32 * (seq % 2), 32)
        || chr(10) || header || chr(10) || body
    ) AS digest
    FROM stored
),
manifests AS (
    SELECT run_key, string_agg(header || ' ' || digest || chr(10), '' ORDER BY seq) AS lines,
        count(*) FILTER (CAST('0x' || left(digest, 16) AS UBIGINT) IS DISTINCT FROM tag) AS altered
    FROM digested
    GROUP BY run_key
)
SELECT c.run_key, unhex(sha256('skillaudit run 1' || chr(10) || strlen(c.id) || ':' || c.id || chr(10) || m.lines)), m.altered
FROM chosen AS c JOIN manifests AS m ON m.run_key = c.run_key
ORDER BY c.run_key
