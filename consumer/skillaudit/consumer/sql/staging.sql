-- name: stage
-- Plain logs of a batch, decoded in the engine by contract.wire_fast, which fails for no record; everything it is
-- not sure of has ok = false and goes to the strict parser.
CREATE OR REPLACE TEMP TABLE staged AS
SELECT
    idx,
    payload IS NOT NULL AS ok,
    run_id,
    seq AS sequence,
    event_type,
    make_timestamptz(at_us) AS created_at,
    tag,
    payload
FROM ({logs})

-- name: refused
SELECT idx FROM staged WHERE NOT ok ORDER BY idx

-- name: by_run
SELECT run_id, list(sequence), max(epoch_us(created_at)), min(idx) FROM staged WHERE ok GROUP BY run_id ORDER BY min(idx)

-- name: made
SELECT epoch_us(created_at) FROM staged WHERE idx = $idx

-- name: logs_of_runs
-- The logs of runs that need judging one by one.
SELECT s.idx, s.run_id, s.sequence, epoch_us(s.created_at), s.event_type, s.tag
FROM staged AS s JOIN judged_runs AS j ON s.run_id = j.run_id
WHERE s.ok
ORDER BY s.idx
