-- Deleting runs, and remembering that they were there. All statements run in one transaction, with no seal in flight.

-- name: choose
CREATE OR REPLACE TEMP TABLE purged AS
SELECT run_key FROM store.runs
WHERE epoch_us(started_at) < $cutoff_us AND (NOT $by_receipt OR epoch_us(received_at) < $cutoff_us)

-- name: counts
SELECT count(*), coalesce(sum(events_stored), 0)::BIGINT FROM store.runs SEMI JOIN purged USING (run_key)

-- name: tombstones
INSERT INTO store.tombstones BY NAME
SELECT run_key, run_hash, id, topic, source_id, source_seq, liveness, events_stored, missing, lost, conflicts, last_event_at,
       started_at, received_at, $purge_id::BIGINT AS purge_id, 0::BIGINT AS records_dropped
FROM store.runs SEMI JOIN purged USING (run_key)

-- name: purge
INSERT INTO store.purges (id, purged_at, cutoff, policy, runs, events) VALUES
    ($purge_id, make_timestamptz($now_us::BIGINT), make_timestamptz($cutoff_us::BIGINT), $policy, $runs, $events)

-- name: delete_events_hot_a
DELETE FROM store.events_hot_a WHERE run_key IN (SELECT run_key FROM purged)

-- name: delete_events_hot_b
DELETE FROM store.events_hot_b WHERE run_key IN (SELECT run_key FROM purged)

-- name: delete_events_sealed
DELETE FROM store.events_sealed WHERE run_key IN (SELECT run_key FROM purged)

-- name: delete_kept
DELETE FROM store.kept WHERE run_key IN (SELECT run_key FROM purged)

-- name: delete_conflicts
DELETE FROM store.conflicts WHERE run_key IN (SELECT run_key FROM purged)

-- name: delete_calls
DELETE FROM store.calls WHERE run_key IN (SELECT run_key FROM purged)

-- name: delete_runs
DELETE FROM store.runs WHERE run_key IN (SELECT run_key FROM purged)
