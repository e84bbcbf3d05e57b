-- Runs, set-wise: digests and heads are computed anew from what the tables hold, and compared with the tags beside them
-- and with the ledger. Bytes as in contract.digests. A statement gives one row per run, with `wrong` where anything is off.

-- fragment: marks_columns
-- What the ledger says of a run, in one row. Rows that differ only in offset and time are one fact told again.
count(*) FILTER (l.kind = 'start') AS start_rows,
lower(hex(min(l.head) FILTER (l.kind = 'start'))) AS start_head,
lower(hex(max(l.head) FILTER (l.kind = 'start'))) AS start_head_other,
min(l.source_id) FILTER (l.kind = 'start') AS start_source_id,
min(l.source_seq) FILTER (l.kind = 'start') AS start_source_seq,
min(l.received_us) FILTER (l.kind = 'start') AS start_received_us,
min(l.partition) FILTER (l.kind = 'start') AS start_partition,
arg_min(l.record_offset, l.idx) FILTER (l.kind = 'start') AS start_offset,
max(l.events) FILTER (l.kind = 'finish') AS finish_events,
min(l.events) FILTER (l.kind = 'finish') AS finish_events_other,
lower(hex(min(l.head) FILTER (l.kind = 'finish'))) AS finish_head,
lower(hex(max(l.head) FILTER (l.kind = 'finish'))) AS finish_head_other,
min(l.partition || '#' || l.idx) FILTER (l.kind = 'finish') AS finish_place,
max(l.partition || '#' || l.idx) FILTER (l.kind IN ('start', 'progress', 'closed')) AS place,
max(l.events) FILTER (l.kind IN ('progress', 'closed') AND l.source_id = r.source_id) AS progress_events,
lower(hex(max_by(l.head, l.events) FILTER (l.kind IN ('progress', 'closed') AND l.source_id = r.source_id)))
    AS progress_head,
max(l.events) FILTER (l.kind = 'closed' AND l.source_id = r.source_id) AS closed_events

-- fragment: replayed
-- A dead letter that was replayed had its place in the ledger's order, and made no row there; nor did what was left of a seal
-- whose first records were gone when the database was made again.
(
    r.id IN (SELECT TRY(decode(key)) FROM dead_letters WHERE state = 'replayed' AND key IS NOT NULL)
    OR (r.partition, r.record_offset) IN (SELECT (partition, record_offset) FROM dead_letters WHERE state = 'replayed')
    OR EXISTS (
        SELECT 1 FROM ledger_cuts AS k WHERE k.partition = r.partition AND r.record_offset BETWEEN 0 AND k.record_offset - 1
    )
)

-- name: make_marks
-- The ledger's facts of all runs in the scope, in the order in which the chunks ask for them.
CREATE OR REPLACE TEMP TABLE marks AS
WITH topics AS (
    SELECT partition, regexp_replace(partition, '/[^/]*$', '') AS topic FROM (SELECT DISTINCT partition FROM ledger)
)
SELECT r.run_key, {marks_columns}
FROM ledger AS l
JOIN topics AS t ON l.partition = t.partition
JOIN runs AS r ON r.id = l.run_id AND r.topic = t.topic
WHERE r.run_key BETWEEN $first AND $last
GROUP BY r.run_key
ORDER BY r.run_key

-- name: forget_marks
-- Those of the runs that are looked at again: as old as the check.
DELETE FROM marks WHERE run_key IN (SELECT run_key FROM picked WHERE part = 'again')

-- name: marks_again
-- And those of the snapshot in which they are looked at again.
INSERT INTO marks
SELECT r.run_key, {marks_columns}
FROM runs AS r JOIN ledger AS l ON r.id = l.run_id AND r.topic = regexp_replace(l.partition, '/[^/]*$', '')
WHERE r.run_key IN (SELECT run_key FROM picked WHERE part = 'again')
GROUP BY r.run_key

-- name: drop_marks
DROP TABLE IF EXISTS marks

-- name: make_picked
-- Runs that a part of the check is about, by the name of the part.
CREATE OR REPLACE TEMP TABLE picked (run_key BIGINT, part VARCHAR)

-- name: drop_picked
DROP TABLE IF EXISTS picked

-- name: pick_again
INSERT INTO picked SELECT unnest($run_keys::BIGINT[]), 'again'

-- name: unpick_again
DELETE FROM picked WHERE part = 'again'

-- name: pick_new
-- Runs that are not finished, of which any row of the ledger lies behind the seals of an earlier check, of which content was
-- taken out since, or which lacked numbers then. The temporary table `seals` is the ledger's check's.
INSERT INTO picked
WITH ends AS (
    SELECT partition, max(first::HUGEINT + rows) AS row_end FROM seals WHERE journal_idx < $content_from GROUP BY partition
),
known AS (
    SELECT r.run_key
    FROM runs AS r
    JOIN ledger AS l ON r.id = l.run_id AND r.topic = regexp_replace(l.partition, '/[^/]*$', '')
    LEFT JOIN ends AS e ON e.partition = l.partition
    WHERE r.run_key IS NOT NULL
    GROUP BY r.run_key
    HAVING bool_or(l.kind = 'finish') AND bool_and(coalesce(l.idx < e.row_end, false))
),
taken AS (
    SELECT x.run_key
    FROM redactions AS x LEFT JOIN acts AS a ON x.act_id = a.act_id
    WHERE x.run_key IS NOT NULL AND (a.journal_idx IS NULL OR a.journal_idx >= $content_from)
)
SELECT run_key, 'new'
FROM runs
WHERE run_key IS NOT NULL AND NOT by_storage AND (
    finish_seq IS NULL OR run_key NOT IN (SELECT run_key FROM known) OR run_key IN (SELECT run_key FROM taken)
    OR run_key IN (SELECT unnest($unsettled::BIGINT[]))
)

-- name: unsettled
-- Finished runs that lack numbers, so that a record may still reach them that makes no row of the ledger: a log that was late.
SELECT run_key
FROM runs
WHERE run_key IS NOT NULL AND finish_seq IS NOT NULL AND NOT by_storage
    AND (missing <> '' OR lost <> '' OR completeness <> 'complete' OR run_key IN (SELECT run_key FROM refusals)) IS NOT FALSE
ORDER BY run_key
LIMIT $limit

-- name: bounds
-- The runs in the scope by their keys: how many, the first and the last, and how many events they have.
SELECT count(*), coalesce(min(run_key), 0), coalesce(max(run_key), -1), coalesce(sum(events_stored), 0)::BIGINT
FROM runs AS r
WHERE {in_scope}

-- name: orphans
-- Runs of which events came and no start: how many a Writer's, how many a bare Storage's, and some of their ids.
SELECT
    count(*) FILTER (NOT bare), (list(id ORDER BY run_key) FILTER (NOT bare))[:$examples],
    count(*) FILTER (bare), (list(id ORDER BY run_key) FILTER (bare))[:$examples]
FROM (SELECT run_key, id, completeness = 'unproven' AS bare FROM orphans WHERE NOT list_contains($cut::VARCHAR[], id))

-- fragment: in_scope
($since_us::BIGINT IS NULL OR r.started_at >= make_timestamptz($since_us::BIGINT))
AND ($until_us::BIGINT IS NULL OR r.started_at < make_timestamptz($until_us::BIGINT))
AND CASE $part::VARCHAR
    WHEN 'all' THEN true
    WHEN 'rest' THEN r.run_key NOT IN (SELECT run_key FROM picked WHERE part = 'new')
    ELSE r.run_key IN (SELECT run_key FROM picked WHERE part = $part::VARCHAR)
END

-- name: chunk_ends
-- The last key of each chunk: at most $runs runs and, unless one run alone has more, about $events events.
WITH weighed AS (
    SELECT run_key, row_number() OVER w - 1 AS place, sum(events_stored) OVER w AS weight
    FROM runs AS r
    WHERE {in_scope}
    WINDOW w AS (ORDER BY run_key ROWS UNBOUNDED PRECEDING)
)
SELECT max(run_key), count(*)
FROM weighed
GROUP BY place // $runs, weight // $events
ORDER BY 1

-- name: long_runs
SELECT run_key, events_stored FROM runs AS r WHERE run_key BETWEEN $first AND $last AND events_stored > $events AND {in_scope} ORDER BY 1

-- fragment: drawn
SELECT run_key FROM runs AS r WHERE NOT by_storage AND {in_scope} ORDER BY hash(run_key + $seed::BIGINT) LIMIT $number

-- name: sample_keys
{drawn}

-- name: pick_drawn
-- A sample that is too large to be looked at run by run.
INSERT INTO picked SELECT run_key, 'new' FROM ({drawn})

-- fragment: lines
-- One row per line of the manifest: start, logs, finish, and what the agent declared lost in its place.
chosen AS (
    SELECT r.*, lower(hex(r.salt)) AS run_salt, r.run_key IN (SELECT run_key FROM refusals) AS has_refusals
    FROM runs AS r
    WHERE r.run_key BETWEEN $first AND $last AND NOT r.by_storage AND {in_scope} AND NOT list_contains($long::BIGINT[], r.run_key)
),
loss AS (
    SELECT run_key, part, regexp_extract(part, '^[0-9]+')::BIGINT AS low, regexp_extract(part, '[0-9]+$')::BIGINT AS high
    FROM (SELECT run_key, unnest(string_split(lost, ',')) AS part FROM chosen WHERE lost <> '')
    WHERE regexp_full_match(part, '[0-9]{1,18}(-[0-9]{1,18})?')
),
-- A record that the broker refused counts as lost in the run's row, but not in its finish: it had a digest.
cuts AS (
    SELECT run_key, part, low - 1 AS cut FROM loss
    UNION ALL
    SELECT run_key, part, high + 1 FROM loss
    UNION ALL
    SELECT l.run_key, l.part, f.seq FROM loss AS l JOIN refusals AS f ON f.run_key = l.run_key AND f.seq BETWEEN l.low AND l.high
),
declared AS (
    SELECT run_key, low, high
    FROM (SELECT run_key, cut + 1 AS low, lead(cut) OVER (PARTITION BY run_key, part ORDER BY cut) - 1 AS high FROM cuts)
    WHERE low <= high
),
losses AS (
    SELECT
        run_key,
        string_agg(CASE WHEN low = high THEN low || '' ELSE low || '-' || high END, ',' ORDER BY low) AS lost_text
    FROM declared
    GROUP BY run_key
),
fields AS (
    SELECT
        r.run_key,
        r.seq,
        string_agg(
            r.name || ' ' || coalesce(
                lower(hex(x.digest)),
                sha256(
                    'skillaudit field 1' || chr(10)
                    || coalesce(
                        s.salt,
                        left(sha256('skillaudit salt 1' || chr(10) || r.run_salt || chr(10) || r.seq || '.' || r.name || chr(10)), 32)
                    )
                    || chr(10) || r.name || chr(10) || strlen(r.content) || ':' || r.content
                ),
                '-'
            ) || chr(10),
            ''
            ORDER BY r.place
        ) AS body,
        bool_or(
            x.digest IS NOT NULL AND r.content IS DISTINCT FROM CASE
                WHEN r.name IN ('inputs', 'attributes') THEN replace($redacted_json, '%s', x.act_id)
                ELSE $redacted_text
            END
        ) AS refilled
    FROM (
        SELECT run_key, run_salt, 0 AS seq, unnest([1, 2, 3, 4]) AS place,
            unnest(['caller_id', 'channel_id', 'inputs', 'attributes']) AS name,
            unnest([caller_id, channel_id, inputs, attributes]) AS content
        FROM chosen
        UNION ALL
        SELECT run_key, run_salt, finish_seq, unnest([5, 6]), unnest(['output', 'error']), unnest([output, error])
        FROM chosen
        WHERE finish_seq IS NOT NULL
    ) AS r
    LEFT JOIN redactions AS x ON x.run_key = r.run_key AND x.seq = r.seq AND x.field = r.name
    LEFT JOIN run_salts AS s ON s.run_key = r.run_key AND s.seq = r.seq AND s.field = r.name
    GROUP BY r.run_key, r.seq
),
stored AS (
    SELECT
        e.run_key, e.sequence AS seq, e.tag, epoch_us(e.created_at) AS at_us, r.run_salt, e.payload AS body, true AS is_log, false AS refilled,
        'log ' || e.sequence || ' ' || epoch_us(e.created_at) || ' ' || strlen(e.event_type) || ':' || e.event_type AS header
    FROM events AS e JOIN chosen AS r ON e.run_key = r.run_key
    WHERE e.run_key BETWEEN $first AND $last
    UNION ALL
    SELECT
        r.run_key, 0, r.start_tag, epoch_us(r.started_at), r.run_salt, f.body, false, f.refilled,
        'start 0 ' || epoch_us(r.started_at) || ' ' || strlen(r.parent_run_id) || ':' || r.parent_run_id || ' '
        || strlen(r.skill_id) || ':' || r.skill_id || ' ' || r.source_id || ' ' || r.source_seq
    FROM chosen AS r JOIN fields AS f ON f.run_key = r.run_key AND f.seq = 0
    UNION ALL
    SELECT
        r.run_key, r.finish_seq, r.finish_tag, epoch_us(r.finished_at), r.run_salt, f.body, false, f.refilled,
        'finish ' || r.finish_seq || ' ' || epoch_us(r.finished_at) || ' ' || strlen(r.status) || ':' || r.status || ' '
        || r.tool_calls_count || ' ' || r.runtime_us || ' ' || r.total_input_tokens || ' ' || r.total_output_tokens || ' '
        || r.total_thinking_tokens || ' ' || strlen(coalesce(l.lost_text, '')) || ':' || coalesce(l.lost_text, '')
    FROM chosen AS r
    JOIN fields AS f ON f.run_key = r.run_key AND f.seq = r.finish_seq AND r.finish_seq <> 0
    LEFT JOIN losses AS l ON l.run_key = r.run_key
),
digested AS (
    SELECT
        r.run_key, r.seq, r.tag, r.at_us, r.is_log, r.header,
        r.refilled OR (x.digest IS NOT NULL AND r.body <> replace($redacted_json, '%s', x.act_id)) AS refilled,
        coalesce(
            lower(hex(x.digest)),
            sha256(
                'skillaudit event 1' || chr(10)
                || coalesce(
                    s.salt,
                    substr(
                        sha256('skillaudit salt 1' || chr(10) || r.run_salt || chr(10) || (r.seq // 2) || chr(10)),
                        1 + 32 * (r.seq % 2),
                        32
                    )
                )
                || chr(10) || r.header || chr(10) || r.body
            ),
            ''
        ) AS digest
    FROM stored AS r
    LEFT JOIN redactions AS x ON x.run_key = r.run_key AND x.seq = r.seq AND x.field IS NULL
    LEFT JOIN run_salts AS s ON s.run_key = r.run_key AND s.seq = r.seq AND s.field IS NULL
),
lines AS (
    SELECT
        run_key, seq, at_us, is_log, 1::BIGINT AS numbers, header || ' ' || digest || chr(10) AS line,
        TRY_CAST('0x' || left(digest, 16) AS UBIGINT) IS DISTINCT FROM tag OR refilled AS bad
    FROM digested
    UNION ALL
    SELECT
        run_key, low, NULL, false, high - low + 1,
        CASE WHEN low = high THEN 'lost ' || low ELSE 'lost ' || low || '-' || high END || chr(10),
        false
    FROM declared
),
gathered AS (
    SELECT
        run_key,
        count(*) FILTER (is_log) AS logs,
        max(seq + numbers - 1) AS top,
        sum(numbers) AS covered,
        coalesce(sum(seq::HUGEINT * seq) FILTER (is_log), 0) AS squares,
        max(at_us) AS last_us,
        count(*) FILTER (bad) AS bad,
        list_sort(list({'seq': seq, 'line': line, 'at_us': at_us})) AS lines
    FROM lines
    GROUP BY run_key
),
judged AS (
    SELECT
        r.* EXCLUDE (inputs, attributes, output, error, caller_id, channel_id, prefix),
        strlen(r.output) + strlen(r.error) AS length_of_end, g.* EXCLUDE (run_key, lines),
        m.* EXCLUDE (run_key), coalesce(c.stored_conflicts, 0) AS stored_conflicts,
        coalesce(x.redactions, 0) AS redactions,
        r.run_key < coalesce(f.first_listed, 0) OR {replayed} AS before_ledger,
        sha256(prefix || array_to_string(list_transform(g.lines, lambda x: x.line), '')) AS head_now,
        sha256(prefix || g.lines[1].line) AS start_head_now,
        CASE WHEN r.lost = '' THEN
            list_sort(list_transform(g.lines, lambda x: x.at_us)) <> list_transform(g.lines, lambda x: x.at_us)
        ELSE
            list_sort(list_transform(list_filter(g.lines, lambda x: x.at_us IS NOT NULL), lambda x: x.at_us))
                <> list_transform(list_filter(g.lines, lambda x: x.at_us IS NOT NULL), lambda x: x.at_us)
        END AS backwards,
        CASE WHEN m.progress_events IS NOT NULL AND m.progress_events <> coalesce(m.finish_events, -1) THEN
            sha256(
                prefix || array_to_string(
                    list_transform(list_filter(g.lines, lambda x: x.seq < m.progress_events), lambda x: x.line), ''
                )
            )
        END AS progress_head_now,
        lower(hex(r.head)) AS head_stored
    FROM (SELECT *, 'skillaudit run 1' || chr(10) || strlen(id) || ':' || id || chr(10) AS prefix FROM chosen) AS r
    JOIN gathered AS g ON g.run_key = r.run_key
    LEFT JOIN (SELECT * FROM marks WHERE run_key BETWEEN $first AND $last) AS m ON m.run_key = r.run_key
    LEFT JOIN (SELECT run_key, count(*) AS stored_conflicts FROM conflicts GROUP BY run_key) AS c ON c.run_key = r.run_key
    LEFT JOIN (SELECT run_key, count(*) AS redactions FROM redactions GROUP BY run_key) AS x ON x.run_key = r.run_key
    LEFT JOIN (
        SELECT regexp_replace(partition, '/[^/]*$', '') AS topic, max(run_key) AS first_listed FROM ledger_from GROUP BY ALL
    ) AS f ON f.topic = r.topic
)

-- fragment: wrong_numbers
-- Of all these: what is not known to be false counts as wrong, since a value that is not there compares as neither.
-- The numbers are not those that the run's own row says are there; or they are to be told one by one.
logs IS DISTINCT FROM events_stored
OR (missing <> '' AND completeness <> 'incomplete')
OR CASE completeness
    WHEN 'complete' THEN
        top IS DISTINCT FROM finish_seq OR covered IS DISTINCT FROM finish_seq + 1
        OR squares IS DISTINCT FROM logs::HUGEINT * (logs + 1) * (2 * logs + 1) // 6 OR lost <> ''
    WHEN 'open' THEN (covered IS DISTINCT FROM top + 1 AND NOT has_refusals) OR finish_seq IS NOT NULL
    WHEN 'declared-loss' THEN (covered IS DISTINCT FROM finish_seq + 1 OR lost = '') AND NOT has_refusals
    WHEN 'incomplete' THEN false
    ELSE true
END

-- fragment: wrong_marks
(coalesce(start_rows, 0) = 0 AND NOT before_ledger)
OR start_head IS DISTINCT FROM start_head_other
OR (coalesce(start_rows, 0) > 0 AND (start_source_id IS DISTINCT FROM source_id OR start_source_seq IS DISTINCT FROM source_seq))
OR finish_head IS DISTINCT FROM finish_head_other
OR finish_events IS DISTINCT FROM finish_events_other
OR (finish_events IS DISTINCT FROM finish_seq + 1 AND NOT (finish_events IS NULL AND before_ledger))
OR (finish_head IS DISTINCT FROM head_stored AND NOT (finish_events IS NULL AND before_ledger))
OR coalesce(progress_events > top + 1, false)

-- fragment: wrong_columns
run_hash IS DISTINCT FROM TRY_CAST('0x' || left(sha256(id), 16) AS UBIGINT)
OR events_expected IS DISTINCT FROM finish_seq + 1
OR (finish_seq IS NULL) <> (finished_at IS NULL)
OR (finish_seq IS NULL) <> (finish_tag IS NULL)
OR liveness NOT IN ('open', 'abandoned', 'finished') OR (finish_seq IS NULL) = (liveness = 'finished')
OR (finish_seq IS NOT NULL AND redactions > 0 AND salt IS NOT NULL)
OR (finish_seq IS NULL AND (
    status <> 'running' OR length_of_end > 0 OR tool_calls_count <> 0 OR runtime_us <> 0 OR total_input_tokens <> 0
    OR total_output_tokens <> 0 OR total_thinking_tokens <> 0
))
OR conflicts <> stored_conflicts OR conflicts > 0
OR (coalesce(start_received_us, 0) > 0 AND epoch_us(received_at) <> start_received_us)
OR (coalesce(start_rows, 0) > 0 AND (partition IS DISTINCT FROM start_partition OR record_offset IS DISTINCT FROM start_offset))

-- fragment: wrong_content
bad > 0
OR (coalesce(start_rows, 0) > 0 AND start_head IS DISTINCT FROM start_head_now)
OR (finish_seq IS NOT NULL AND head_now IS DISTINCT FROM head_stored AND completeness <> 'incomplete' AND NOT has_refusals)
OR (progress_head_now IS NOT NULL AND progress_head_now IS DISTINCT FROM progress_head)
OR (epoch_us(last_event_at) IS DISTINCT FROM last_us AND NOT has_refusals)
OR backwards

-- fragment: answer
SELECT
    count(*) AS runs,
    coalesce(sum(logs), 0)::BIGINT AS events,
    list(run_key ORDER BY run_key) FILTER (off) AS off,
    list(run_key ORDER BY run_key) FILTER (told AND NOT off) AS told,
    count(*) FILTER (still AND NOT off AND NOT told) AS open,
    (list(id ORDER BY run_key) FILTER (still AND NOT off AND NOT told))[:$examples] AS open_ids,
    count(*) FILTER (abandoned AND NOT off AND NOT told) AS abandoned,
    (list(id ORDER BY run_key) FILTER (abandoned AND NOT off AND NOT told))[:$examples] AS abandoned_ids,
    count(*) FILTER (lossy AND NOT off AND NOT told) AS lossy,
    (list(id ORDER BY run_key) FILTER (lossy AND NOT off AND NOT told))[:$examples] AS lossy_ids,
    count(*) FILTER (ahead AND NOT off AND NOT told) AS ahead,
    (list(id ORDER BY run_key) FILTER (ahead AND NOT off AND NOT told))[:$examples] AS ahead_ids,
    count(*) FILTER (unlisted AND NOT off AND NOT told) AS unlisted,
    (list(id ORDER BY run_key) FILTER (unlisted AND NOT off AND NOT told))[:$examples] AS unlisted_ids,
    count(*) FILTER (redacted AND NOT off AND NOT told) AS redacted,
    (list(id ORDER BY run_key) FILTER (redacted AND NOT off AND NOT told))[:$examples] AS redacted_ids

-- fragment: classes
run_key, id, logs,
        finish_seq IS NULL AND NOT coalesce(liveness <> 'open' AND closed_events = covered, false) AS still,
        finish_seq IS NULL AND coalesce(liveness <> 'open' AND closed_events = covered, false) AS abandoned,
        lost <> '' AS lossy,
        coalesce(start_received_us > 0 AND epoch_us(started_at) > start_received_us + $ahead_us, false) AS ahead,
        coalesce(start_rows, 0) = 0 AS unlisted,
        redactions > 0 AS redacted,
        (has_refusals OR completeness NOT IN ('complete', 'open', 'declared-loss')) IS NOT FALSE AS told

-- name: chunk
-- Of a chunk: how many runs and events were looked at; the keys of the runs to be looked at one by one, those where
-- anything is off and those whose own row says that something is missing; and how many there are of what is no fault and
-- not proven, with some of their ids.
WITH {lines}
{answer}
FROM (
    SELECT
        {classes},
        ({wrong_marks} OR {wrong_columns} OR {wrong_content} OR ({wrong_numbers})) IS NOT FALSE AS off
    FROM judged
)

-- name: only_refused
-- Of these runs, those that are told for what the broker refused of them and miss nothing else.
SELECT count(*) FROM runs
WHERE list_contains($run_keys::BIGINT[], run_key) AND missing = '' AND completeness IN ('complete', 'open', 'declared-loss')

-- name: bare
-- Runs written through a bare Storage: nothing proves them, unless they have what only a Writer's run has.
SELECT count(*), (list(r.id ORDER BY r.run_key))[:$examples], list(r.run_key ORDER BY r.run_key) FILTER (
    r.salt IS NOT NULL OR r.head IS NOT NULL OR r.source_id <> '' OR m.run_key IS NOT NULL
)
FROM runs AS r LEFT JOIN marks AS m ON m.run_key = r.run_key
WHERE r.by_storage AND r.run_key BETWEEN $first AND $last AND {in_scope}

-- name: chunk_quickly
-- As `chunk`, without hashing: numbers, counts, and heads as they are stored.
WITH chosen AS (
    SELECT r.*, r.run_key IN (SELECT run_key FROM refusals) AS has_refusals
    FROM runs AS r
    WHERE r.run_key BETWEEN $first AND $last AND NOT r.by_storage AND {in_scope} AND NOT list_contains($long::BIGINT[], r.run_key)
),
numbers AS (
    SELECT
        run_key, count(*) AS logs, max(sequence) AS top_log, sum(sequence::HUGEINT * sequence) AS squares,
        epoch_us(max(created_at)) AS last_log_us
    FROM events
    WHERE run_key BETWEEN $first AND $last
    GROUP BY run_key
),
loss AS (
    SELECT run_key, sum(high - low + 1) AS lost_numbers
    FROM (
        SELECT run_key, regexp_extract(part, '^[0-9]+')::BIGINT AS low, regexp_extract(part, '[0-9]+$')::BIGINT AS high
        FROM (SELECT run_key, unnest(string_split(lost, ',')) AS part FROM chosen WHERE lost <> '')
        WHERE regexp_full_match(part, '[0-9]{1,18}(-[0-9]{1,18})?')
    )
    GROUP BY run_key
),
judged AS (
    SELECT
        r.*, strlen(r.output) + strlen(r.error) AS length_of_end, m.* EXCLUDE (run_key),
        coalesce(c.stored_conflicts, 0) AS stored_conflicts, coalesce(x.redactions, 0) AS redactions, coalesce(n.logs, 0) AS logs, coalesce(n.squares, 0) AS squares,
        greatest(coalesce(n.top_log, 0), coalesce(r.finish_seq, 0)) AS top,
        coalesce(n.logs, 0) + 1 + (r.finish_seq IS NOT NULL)::BIGINT + coalesce(l.lost_numbers, 0) AS covered,
        greatest(epoch_us(r.started_at), epoch_us(r.finished_at), n.last_log_us) AS last_us,
        r.run_key < coalesce(f.first_listed, 0) OR {replayed} AS before_ledger, lower(hex(r.head)) AS head_stored
    FROM chosen AS r
    LEFT JOIN numbers AS n ON n.run_key = r.run_key
    LEFT JOIN loss AS l ON l.run_key = r.run_key
    LEFT JOIN (SELECT * FROM marks WHERE run_key BETWEEN $first AND $last) AS m ON m.run_key = r.run_key
    LEFT JOIN (SELECT run_key, count(*) AS stored_conflicts FROM conflicts GROUP BY run_key) AS c ON c.run_key = r.run_key
    LEFT JOIN (SELECT run_key, count(*) AS redactions FROM redactions GROUP BY run_key) AS x ON x.run_key = r.run_key
    LEFT JOIN (
        SELECT regexp_replace(partition, '/[^/]*$', '') AS topic, max(run_key) AS first_listed FROM ledger_from GROUP BY ALL
    ) AS f ON f.topic = r.topic
)
{answer}
FROM (
    SELECT
        {classes},
        ({wrong_marks} OR {wrong_columns} OR ({wrong_numbers})
            OR (epoch_us(last_event_at) IS DISTINCT FROM last_us AND NOT has_refusals)) IS NOT FALSE AS off
    FROM judged
)
