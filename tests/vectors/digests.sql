-- Digest and head of every event from what the tables hold, in DuckDB alone.
-- events(kind, run_id, run_salt, run_lost, seq, at_us, and the members of the records)
CREATE OR REPLACE TEMP MACRO T(x) AS strlen(x) || ':' || x;
CREATE OR REPLACE TEMP MACRO field_line(run_salt, seq, name, value) AS
    name || ' ' || sha256(
        'skillaudit field 1' || chr(10)
        || left(sha256('skillaudit salt 1' || chr(10) || run_salt || chr(10) || seq || '.' || name || chr(10)), 32)
        || chr(10) || name || chr(10) || T(value)
    ) || chr(10);
WITH hashed AS (
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
            WHEN 'start' THEN field_line(run_salt, 0, 'caller_id', caller_id)
                || field_line(run_salt, 0, 'channel_id', channel_id)
                || field_line(run_salt, 0, 'inputs', inputs) || field_line(run_salt, 0, 'attributes', attributes)
            WHEN 'log' THEN payload
            ELSE field_line(run_salt, seq, 'output', output) || field_line(run_salt, seq, 'error', error)
        END AS body,
        substr(
            sha256('skillaudit salt 1' || chr(10) || run_salt || chr(10) || (seq // 2) || chr(10)),
            1 + 32 * (seq % 2),
            32
        ) AS salt,
        list_filter(
            string_split(run_lost, ','),
            lambda part: part <> '' AND string_split(part, '-')[-1] = CAST(seq - 1 AS VARCHAR)
        )[1] AS lost_before
    FROM events
),
digested AS (
    SELECT
        *,
        sha256('skillaudit event 1' || chr(10) || salt || chr(10) || header || chr(10) || body) AS digest
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
