-- What is stored of runs that the materializer does not remember. By the hash alone, and by the row's number in a second
-- step: else the scan would read every column of every run (5M runs: 300 ms instead of 30).

-- name: runs
SELECT id, topic, run_key, run_hash, by_storage, source_id, received, lost, events_stored, conflicts,
       epoch_us(last_event_at), finished_at IS NOT NULL, finish_seq, events_expected, start_tag, finish_tag, refused,
       known, epoch_us(received_at)
FROM store.runs
WHERE rowid IN (SELECT rowid FROM store.runs WHERE run_hash IN (SELECT unnest($hashes::UBIGINT[])))

-- name: orphans
SELECT id, topic, run_key, run_hash, bare, source_id, received, lost, events_stored, conflicts,
       epoch_us(last_event_at), events_expected IS NOT NULL, events_expected, plain, known, epoch_us(first_received_at),
       partition, record_offset, first_us
FROM store.orphans
WHERE rowid IN (SELECT rowid FROM store.orphans WHERE run_hash IN (SELECT unnest($hashes::UBIGINT[])))

-- name: tombstones
SELECT id, topic, run_key, run_hash
FROM store.tombstones
WHERE run_hash IN (SELECT unnest($hashes::UBIGINT[]))

-- name: tags
-- Of the numbers in question only.
SELECT e.run_key, e.sequence, e.tag
FROM main.events AS e JOIN wanted AS w ON e.run_key = w.run_key AND e.sequence = w.sequence

-- name: events_of_run
SELECT sequence, event_type, epoch_us(created_at), tag, payload
FROM main.events
WHERE run_key = $run_key
ORDER BY sequence

-- name: kept
SELECT run_key, id, record, partition, record_offset, received_us
FROM store.kept
WHERE run_key IN (SELECT unnest($run_keys::BIGINT[]))
ORDER BY id

-- name: conflicts
SELECT run_key, id, record, partition, record_offset, received_us
FROM store.conflicts
WHERE run_key IN (SELECT unnest($run_keys::BIGINT[]))
ORDER BY id

-- name: calls
SELECT run_key, call_id
FROM store.calls
WHERE run_key IN (SELECT unnest($run_keys::BIGINT[]))

-- name: sources
SELECT source_id, topic, partition, host, pid, boot_id, version, clock, epoch_us(opened_at), heard_us, beat,
       epoch_us(beat_at), runs_started, runs_finished, backlog_records, backlog_bytes, oldest_us, refused, lost,
       closed_by, epoch_us(closed_at), state, claimed, due
FROM store.sources
WHERE source_id IN (SELECT unnest($source_ids::VARCHAR[]))

-- name: claims
SELECT source_id, claimed, state = 'closing', topic FROM store.sources WHERE claimed > due OR state = 'closing'

-- name: positions
SELECT partition, cluster, next_offset, last_offset, last_digest, records, received_us, read_to_us, end_offset,
       ledger_next
FROM store.positions

-- name: ledger_ends
-- Of partitions whose position was given up: their numbering goes on. And of those that were found empty in a rebuild.
SELECT partition, max(row_next)
FROM (
    SELECT partition, idx + 1 AS row_next FROM store.ledger
    UNION ALL
    SELECT partition, first_row FROM store.ledger_cuts
) ANTI JOIN store.positions USING (partition)
GROUP BY partition

-- name: next_run_key
SELECT greatest(
    (SELECT coalesce(max(run_key), -1) FROM store.runs),
    (SELECT coalesce(max(run_key), -1) FROM store.orphans),
    (SELECT coalesce(max(run_key), -1) FROM store.tombstones)
) + 1

-- name: next_record_id
SELECT greatest(
    (SELECT coalesce(max(id), -1) FROM store.kept),
    (SELECT coalesce(max(id), -1) FROM store.conflicts)
) + 1

-- name: next_dead_letter_id
SELECT coalesce(max(id), 0) + 1 FROM store.dead_letters

-- name: next_incident_id
SELECT coalesce(max(id), 0) + 1 FROM store.incidents

-- name: next_purge_id
SELECT coalesce(max(id), 0) + 1 FROM store.purges

-- name: hashes
SELECT run_hash FROM store.runs
UNION ALL
SELECT run_hash FROM store.orphans
UNION ALL
SELECT run_hash FROM store.tombstones
ORDER BY run_hash
