-- name: stage
-- Plain logs of a batch, decoded in the engine; everything it is not sure of has ok = false and goes to the strict
-- parser. {pattern} has four groups: beyond that the regular expression engine leaves its fast way (4x slower).
-- The payload is sliced from the bytes, because slicing text by characters costs three times as much.
CREATE OR REPLACE TEMP TABLE staged AS
WITH matched AS (
    SELECT idx, bytes, regexp_extract(record, '{pattern}', ['run_id', 'seq', 'at_us', 'kind']) AS m
    FROM incoming
),
sliced AS (
    SELECT
        idx,
        m,
        CASE WHEN m.run_id <> '' THEN decode(
            bytes[{fixed_bytes} + strlen(m.run_id) + strlen(m.seq) + strlen(m.at_us) + strlen(m.kind)
                  : octet_length(bytes) - 1]
        ) END AS payload
    FROM matched
),
judged AS (
    SELECT idx, m, payload, coalesce({guard}, false) AS ok
    FROM sliced
)
SELECT
    idx,
    ok,
    CASE WHEN ok THEN m.run_id END AS run_id,
    CASE WHEN ok THEN try_cast(m.seq AS BIGINT) END AS sequence,
    CASE WHEN ok THEN substr(m.kind, {event_type_from}) END AS event_type,
    CASE WHEN ok THEN make_timestamptz(try_cast(m.at_us AS BIGINT)) END AS created_at,
    CASE WHEN ok THEN try_cast('0x' || left(m.kind, 16) AS UBIGINT) END AS tag,
    CASE WHEN ok THEN payload END AS payload
FROM judged

-- name: guard
-- What the engine's JSON reader lets through and the format does not: trailing commas, NaN and infinities, numbers past
-- the range of a double, nesting too deep for parsers. Each pattern begins with one character: those are searched fast.
strlen(m.run_id) <= {run_id_bytes_max}
AND json_valid(payload)
AND NOT regexp_matches(payload, ',\s*(?:[}}\]]|{literal})')
AND NOT regexp_matches(payload, ':\s*{literal}')
AND NOT regexp_matches(payload, '\[\s*{literal}')
AND (
    strlen(payload) < 2 * {depth_max}
    OR 2 * strlen(payload) - strlen(replace(payload, '{{', '')) - strlen(replace(payload, '[', '')) < {depth_max}
)

-- name: refused
SELECT idx FROM staged WHERE NOT ok ORDER BY idx

-- name: by_run
SELECT run_id, list(sequence), max(epoch_us(created_at)), min(idx) FROM staged WHERE ok GROUP BY run_id ORDER BY min(idx)

-- name: logs_of_runs
-- The logs of runs that need judging one by one.
SELECT s.idx, s.run_id, s.sequence, epoch_us(s.created_at), s.event_type, s.tag
FROM staged AS s JOIN judged_runs AS j ON s.run_id = j.run_id
WHERE s.ok
ORDER BY s.idx
