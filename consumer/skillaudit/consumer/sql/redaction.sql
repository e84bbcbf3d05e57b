-- Taking content out of runs. All statements run in the writer's transaction, with nothing being moved.

-- name: runs
-- Of these ids, as far as the act reaches: started in one of its partitions, below its position there.
SELECT r.run_key, r.id, hex(r.salt), r.by_storage, r.finish_seq, r.received, r.lost
FROM store.runs AS r JOIN reach AS a ON r.partition = a.partition AND r.record_offset < a.position
WHERE r.rowid IN (SELECT rowid FROM store.runs WHERE run_hash IN (SELECT unnest($hashes::UBIGINT[])))
  AND r.id IN (SELECT unnest($ids::VARCHAR[]))
ORDER BY r.run_key

-- name: runs_by_key
SELECT r.run_key, r.id, hex(r.salt), r.by_storage, r.finish_seq, r.received, r.lost
FROM store.runs AS r
WHERE r.run_key IN (SELECT unnest($keys::BIGINT[]))
ORDER BY r.run_key

-- name: content
SELECT caller_id, channel_id, inputs, attributes, output, error, finished_at IS NOT NULL
FROM store.runs WHERE run_key = $run_key

-- name: log
SELECT sequence, event_type, epoch_us(created_at), payload FROM main.events WHERE run_key = $run_key AND sequence = $seq

-- name: logs_left
-- Logs whose payload was not redacted yet.
SELECT sequence, event_type, epoch_us(created_at), payload FROM main.events AS e
WHERE run_key = $run_key AND NOT EXISTS (
    SELECT 1 FROM store.redactions AS d WHERE d.run_key = $run_key AND d.field IS NULL AND d.seq = e.sequence
)
ORDER BY sequence

-- name: take_logs
-- The rows again, without their content; before they are deleted and put back.
CREATE OR REPLACE TEMP TABLE blanked AS
SELECT run_key, sequence, event_type, created_at, tag, $payload::VARCHAR AS payload
FROM main.events
WHERE run_key = $run_key AND sequence IN (SELECT unnest($numbers::BIGINT[]))

-- name: delete_logs
DELETE FROM {table} WHERE run_key = $run_key AND sequence IN (SELECT unnest($numbers::BIGINT[]))

-- name: put_logs
INSERT INTO {table} BY NAME SELECT * FROM blanked

-- name: drop_logs
DROP TABLE blanked

-- name: blank_field
UPDATE store.runs SET {field} = $text WHERE run_key = $run_key

-- name: add_redaction
INSERT INTO store.redactions VALUES ($run_key, $seq, $field, $digest, $act_id)

-- name: redacted
SELECT seq, field FROM store.redactions WHERE run_key = $run_key

-- name: redacted_fields
SELECT seq, field FROM store.redactions WHERE run_key = $run_key AND field IS NOT NULL

-- name: taken_logs
INSERT INTO store.redactions BY NAME SELECT * FROM taken_logs

-- name: field_salt
SELECT salt FROM store.run_salts WHERE run_key = $run_key AND seq = $seq AND field = $field

-- name: delete_field_salt
DELETE FROM store.run_salts WHERE run_key = $run_key AND seq = $seq AND field = $field

-- name: event_salts
SELECT seq, salt FROM store.run_salts WHERE run_key = $run_key AND field IS NULL

-- name: delete_event_salts
DELETE FROM store.run_salts
WHERE run_key = $run_key AND field IS NULL AND seq IN (SELECT unnest($numbers::BIGINT[]))

-- name: left_salts
INSERT INTO store.run_salts BY NAME SELECT * FROM left_salts

-- name: forget_salt
UPDATE store.runs SET salt = NULL WHERE run_key = $run_key

-- name: mark
SELECT erased_by, settled FROM store.redacted_runs WHERE run_key = $run_key

-- name: add_mark
INSERT INTO store.redacted_runs VALUES ($run_key, $erased_by, $settled)

-- name: change_mark
UPDATE store.redacted_runs SET erased_by = $erased_by, settled = $settled WHERE run_key = $run_key

-- name: watched
-- Runs that must be looked at when something of them arrives, and the act that erased them.
SELECT run_key, erased_by FROM store.redacted_runs WHERE NOT settled OR erased_by <> ''

-- name: conflicts
-- Those that the act reaches; of an erased run all.
SELECT c.id, c.kind, c.sequence, c.record
FROM store.conflicts AS c LEFT JOIN reach AS a ON c.partition = a.partition
WHERE c.run_key = $run_key AND ($everything OR c.record_offset < a.position OR c.record_offset < 0)

-- name: replace_conflict
UPDATE store.conflicts SET record = $record WHERE id = $id

-- name: dead_letters
-- Those that the act reaches and that may hold something of the run: its id is their key, or stands in them, or they are
-- no text.
SELECT d.id, d.key, d.record
FROM store.dead_letters AS d JOIN reach AS a ON d.partition = a.partition AND d.record_offset < a.position
WHERE d.record IS NOT NULL AND (
    d.key = encode($run_id) OR TRY(decode(d.record)) IS NULL OR contains(TRY(decode(d.record)), $run_id)
    OR contains(TRY(decode(d.record)), '\\')
)

-- name: erased_ids
-- Erased runs of these partitions, by their ids.
SELECT r.partition, r.id
FROM store.runs AS r JOIN store.redacted_runs AS x ON r.run_key = x.run_key
WHERE x.erased_by <> '' AND r.partition IN (SELECT unnest($partitions::VARCHAR[]))

-- name: erase_letter_at
UPDATE store.dead_letters SET record = NULL, state = 'erased', changed_at = make_timestamptz($now_us::BIGINT)
WHERE partition = $partition AND record_offset = $record_offset AND record IS NOT NULL

-- name: erase_dead_letter
UPDATE store.dead_letters SET record = NULL, state = 'erased', changed_at = make_timestamptz($now_us::BIGINT) WHERE id = $id
