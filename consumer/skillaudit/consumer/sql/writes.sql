-- What a batch writes beside the plain logs. Every statement takes its rows from an Arrow table of the same name as the
-- statement, so that a batch costs as many statements as kinds of changes, not as changes.

-- name: new_runs
INSERT INTO store.runs BY NAME SELECT * FROM new_runs

-- name: touched_runs
UPDATE store.runs AS r
SET events_stored = t.events_stored, completeness = t.completeness, liveness = t.liveness, missing = t.missing,
    lost = t.lost, conflicts = t.conflicts, last_event_at = t.last_event_at, events_expected = t.events_expected,
    finish_seq = t.finish_seq, finish_tag = t.finish_tag, known = t.known, refused = t.refused, received = t.received
FROM touched_runs AS t
WHERE r.run_key = t.run_key

-- name: finished_runs
UPDATE store.runs AS r
SET events_stored = t.events_stored, completeness = t.completeness, liveness = t.liveness, missing = t.missing,
    lost = t.lost, conflicts = t.conflicts, last_event_at = t.last_event_at, events_expected = t.events_expected,
    finish_seq = t.finish_seq, finish_tag = t.finish_tag, known = t.known, refused = t.refused, received = t.received,
    finished_at = t.finished_at, status = t.status, output = t.output, error = t.error,
    tool_calls_count = t.tool_calls_count, runtime_us = t.runtime_us, total_input_tokens = t.total_input_tokens,
    total_output_tokens = t.total_output_tokens, total_thinking_tokens = t.total_thinking_tokens, head = t.head
FROM finished_runs AS t
WHERE r.run_key = t.run_key

-- name: gone_orphans
DELETE FROM store.orphans WHERE run_key IN (SELECT run_key FROM gone_orphans)

-- name: orphans
INSERT INTO store.orphans BY NAME SELECT * FROM orphans

-- name: gone_kept
DELETE FROM store.kept WHERE run_key IN (SELECT run_key FROM gone_kept)

-- name: kept
INSERT INTO store.kept BY NAME SELECT * FROM kept

-- name: gone_conflicts
DELETE FROM store.conflicts WHERE run_key IN (SELECT run_key FROM gone_conflicts)

-- name: conflicts
INSERT INTO store.conflicts BY NAME SELECT * FROM conflicts

-- name: calls
INSERT INTO store.calls BY NAME SELECT * FROM calls

-- name: dropped
UPDATE store.tombstones AS s SET records_dropped = s.records_dropped + t.records
FROM dropped AS t
WHERE s.run_key = t.run_key

-- name: dead_letters
INSERT INTO store.dead_letters BY NAME SELECT * FROM dead_letters

-- name: incidents
INSERT INTO store.incidents BY NAME SELECT * FROM incidents

-- name: ledger
INSERT INTO store.ledger BY NAME SELECT * FROM ledger

-- name: new_positions
INSERT INTO store.positions BY NAME SELECT * EXCLUDE (expected) FROM new_positions

-- name: moved_positions
-- The fence: a row that is not where this writer left it is not moved, and the count tells.
UPDATE store.positions AS p
SET cluster = m.cluster, next_offset = m.next_offset, last_offset = m.last_offset, last_digest = m.last_digest,
    records = m.records, received_us = m.received_us, read_to_us = m.read_to_us, end_offset = m.end_offset,
    ledger_next = m.ledger_next
FROM moved_positions AS m
WHERE p.partition = m.partition AND p.next_offset = m.expected

-- name: new_sources
INSERT INTO store.sources BY NAME SELECT * FROM new_sources

-- name: changed_sources
UPDATE store.sources AS s
SET topic = c.topic, partition = c.partition, host = c.host, pid = c.pid, boot_id = c.boot_id, version = c.version,
    clock = c.clock, opened_at = c.opened_at, heard_us = c.heard_us, beat = c.beat, beat_at = c.beat_at,
    runs_started = c.runs_started, runs_finished = c.runs_finished, backlog_records = c.backlog_records,
    backlog_bytes = c.backlog_bytes, oldest_us = c.oldest_us, refused = c.refused, lost = c.lost,
    closed_by = c.closed_by, closed_at = c.closed_at, state = c.state, claimed = c.claimed, due = c.due
FROM changed_sources AS c
WHERE s.source_id = c.source_id

-- name: turned_sources
-- Runs follow their source: what it left open is abandoned while it is gone, and open again when it is heard.
UPDATE store.runs AS r
SET liveness = t.liveness
FROM turned_sources AS t
WHERE r.source_id = t.source_id AND r.liveness <> 'finished' AND r.liveness <> t.liveness

-- name: removed_logs
DELETE FROM {table} AS e USING removed_logs AS r WHERE e.run_key = r.run_key AND e.sequence = r.sequence

-- name: plain_runs
-- Logs of runs that are taken as a whole; decoded in `staged`.
INSERT INTO {table} (run_key, sequence, event_type, created_at, tag, payload)
SELECT k.run_key, s.sequence, s.event_type, s.created_at, s.tag, s.payload
FROM staged AS s JOIN plain_runs AS k ON s.run_id = k.run_id
WHERE s.ok

-- name: judged_logs
-- Logs that were judged one by one; decoded in `staged`.
INSERT INTO {table} (run_key, sequence, event_type, created_at, tag, payload)
SELECT k.run_key, s.sequence, s.event_type, s.created_at, s.tag, s.payload
FROM staged AS s JOIN judged_logs AS k ON s.idx = k.idx

-- name: odd_logs
-- Logs whose payload is in hand.
INSERT INTO {table} BY NAME
SELECT run_key, sequence, event_type, created_at, tag, decode(payload) AS payload FROM odd_logs
