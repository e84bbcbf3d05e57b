-- Digest and head of every event from what the tables hold, in DuckDB alone.
-- events(kind, run_id, run_salt, run_lost, seq, at_us, and the members of the records); of a run of which content was taken out
-- run_salt is NULL, and there are redactions(run_id, seq, field, digest) and run_salts(run_id, seq, field, salt), in hex
CREATE OR REPLACE TEMP MACRO T(x) AS strlen(x) || ':' || x;
CREATE OR REPLACE TEMP MACRO field_line(run_salt, seq, name, value, gone, salts) AS
    name || ' ' || coalesce(gone[name], sha256(
        'skillaudit field 1' || chr(10)
        || coalesce(
            salts[name],
            left(sha256('skillaudit salt 1' || chr(10) || run_salt || chr(10) || seq || '.' || name || chr(10)), 32)
        )
        || chr(10) || name || chr(10) || T(value)
    )) || chr(10);
WITH taken AS (
    SELECT run_id, seq, map(list(coalesce(field, '')), list(digest)) AS gone FROM redactions GROUP BY run_id, seq
),
left_over AS (
    SELECT run_id, seq, map(list(coalesce(field, '')), list(salt)) AS salts FROM run_salts GROUP BY run_id, seq
),
known AS (
    SELECT
        e.*, coalesce(g.gone, MAP {}::MAP(VARCHAR, VARCHAR)) AS gone, coalesce(s.salts, MAP {}::MAP(VARCHAR, VARCHAR)) AS salts
    FROM events AS e
    LEFT JOIN taken AS g ON g.run_id = e.run_id AND g.seq = e.seq
    LEFT JOIN left_over AS s ON s.run_id = e.run_id AND s.seq = e.seq
),
hashed AS (
    SELECT
        *,
        CASE kind
            WHEN 'start' THEN 'start 0 ' || at_us || ' ' || T(parent_run_id) || ' ' || T(skill_id) || ' ' || source_id
                || ' ' || source_seq
            WHEN 'log' THEN 'log ' || seq || ' ' || at_us || ' ' || T(event_type)
            ELSE 'finish ' || seq || ' ' || at_us || ' ' || T(status) || ' ' || tool_calls || ' ' || runtime_us || ' '
                || input_tokens || ' ' || output_tokens || ' ' || thinking_tokens || ' ' || T(lost)
        END AS header,
        CASE kind
            WHEN 'start' THEN field_line(run_salt, 0, 'caller_id', caller_id, gone, salts)
                || field_line(run_salt, 0, 'channel_id', channel_id, gone, salts)
                || field_line(run_salt, 0, 'inputs', inputs, gone, salts)
                || field_line(run_salt, 0, 'attributes', attributes, gone, salts)
            WHEN 'log' THEN payload
            ELSE field_line(run_salt, seq, 'output', output, gone, salts)
                || field_line(run_salt, seq, 'error', error, gone, salts)
        END AS body,
        coalesce(
            salts[''],
            substr(
                sha256('skillaudit salt 1' || chr(10) || run_salt || chr(10) || (seq // 2) || chr(10)),
                1 + 32 * (seq % 2),
                32
            )
        ) AS salt,
        list_filter(
            string_split(run_lost, ','),
            lambda part: part <> '' AND string_split(part, '-')[-1] = CAST(seq - 1 AS VARCHAR)
        )[1] AS lost_before
    FROM known
),
digested AS (
    SELECT
        *,
        coalesce(gone[''], sha256('skillaudit event 1' || chr(10) || salt || chr(10) || header || chr(10) || body)) AS digest
    FROM hashed
)
SELECT
    run_id,
    seq,
    header,
    digest,
    CAST('0x' || left(digest, 16) AS UBIGINT) AS tag,
    sha256(
        'skillaudit run 1' || chr(10) || T(run_id) || chr(10)
        || string_agg(coalesce('lost ' || lost_before || chr(10), '') || header || ' ' || digest || chr(10), '')
            OVER (PARTITION BY run_id ORDER BY seq)
    ) AS head
FROM digested
ORDER BY run_id, seq
