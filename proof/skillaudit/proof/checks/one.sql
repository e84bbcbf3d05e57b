-- One run, read row by row: it is checked in the interpreter, which takes less time than planning the set-wise check. Few
-- rows are sorted there, too. What is asked of every run is asked of the tables that the views show: binding a view takes as
-- long as reading it. That they show these, and nothing else, is what the check of the catalog is for.

-- fragment: run_columns
run_key, run_hash, id, topic, by_storage, skill_id, caller_id, channel_id, inputs, attributes, parent_run_id, source_id,
source_seq, epoch_us(started_at) AS started_us, epoch_us(finished_at) AS finished_us, status, output, error,
tool_calls_count, runtime_us, total_input_tokens, total_output_tokens, total_thinking_tokens, events_expected,
events_stored, completeness, liveness, missing, lost, conflicts, epoch_us(last_event_at) AS last_event_us,
epoch_us(received_at) AS received_us, lower(hex(salt)) AS salt, start_tag, finish_seq, finish_tag, head,
partition, record_offset

-- name: run_of_key
SELECT {run_columns} FROM store.runs WHERE run_key = $run_key

-- name: runs_of_hash
-- Whether one is of this id is looked at outside: a second filter takes a tenth of the time.
SELECT {run_columns} FROM store.runs WHERE run_hash = $run_hash

-- name: runs_of_id
-- The slow way, for a row whose hash is not that of its id.
SELECT {run_columns} FROM store.runs WHERE id = $run_id

-- name: tombstones_of_hash
SELECT t.run_key, t.id, t.topic, t.source_id, t.source_seq, t.purge_id,
    (SELECT any_value(p.act_id) FROM purges AS p WHERE p.id = t.purge_id)
FROM tombstones AS t
WHERE t.run_hash = $run_hash AND t.id = $run_id

-- name: leaves_of_acts
-- Where the journal holds these acts.
SELECT act_id, min(journal_idx) FROM acts WHERE list_contains($act_ids, act_id) GROUP BY act_id

-- name: orphans_of_hash
SELECT run_key, id, topic, completeness, missing FROM orphans WHERE run_hash = $run_hash AND id = $run_id

-- name: events_of_run
SELECT sequence, event_type, epoch_us(created_at), tag, payload FROM events WHERE run_key = $run_key ORDER BY sequence

-- fragment: event_columns
'event' AS what, sequence AS seq, event_type AS name, epoch_us(created_at) AS at_us, tag, payload AS content, NULL AS act_id

-- fragment: content
SELECT {event_columns} FROM store.events_sealed WHERE run_key = $run_key
UNION ALL
SELECT {event_columns} FROM store.events_hot_a WHERE run_key = $run_key
UNION ALL
SELECT {event_columns} FROM store.events_hot_b WHERE run_key = $run_key
UNION ALL
SELECT 'conflicts', 1, NULL, NULL, NULL, NULL, NULL FROM store.conflicts WHERE run_key = $run_key
UNION ALL
SELECT 'redaction', seq, field, NULL, NULL, hex(digest), act_id FROM store.redactions WHERE run_key = $run_key

-- name: content_of_short_run
-- Its events and `rest_of_run` in one statement, since what takes the time is that there is one. Unsorted.
{content}
UNION ALL
SELECT 'salt', seq, field, NULL, NULL, salt, NULL FROM store.run_salts WHERE run_key = $run_key
UNION ALL
SELECT 'kept', NULL, NULL, NULL, NULL, NULL, NULL FROM store.kept WHERE run_key = $run_key

-- name: content_of_whole_run
-- The same where the run has its own salt and all its events: single salts, and what is kept aside, say nothing then.
{content}

-- name: beside_sealed
-- A row for whatever there is of it but sealed events.
SELECT 1 FROM store.events_hot_a WHERE run_key = $run_key
UNION ALL
SELECT 1 FROM store.events_hot_b WHERE run_key = $run_key
UNION ALL
SELECT 1 FROM store.conflicts WHERE run_key = $run_key
UNION ALL
SELECT 1 FROM store.redactions WHERE run_key = $run_key

-- name: sealed_of_run
SELECT sequence, event_type, epoch_us(created_at), tag, payload FROM store.events_sealed WHERE run_key = $run_key

-- fragment: leaf_columns
idx, kind, run_id, source_id, source_seq, events, head, record_offset, received_us

-- name: rows_between
SELECT {leaf_columns} FROM store.ledger WHERE partition = $partition AND idx >= $first AND idx < $end

-- name: rows_of_blocks
-- Of some blocks of a seal, from the first of them to the last.
SELECT {leaf_columns} FROM store.ledger
WHERE partition = $partition AND idx >= $first AND idx < $end AND list_contains($blocks, (idx - $seal_first) // $leaves)

-- name: roots_of_blocks
SELECT hashes FROM store.ledger_nodes WHERE partition = $partition AND first_row = $first

-- name: marks_of_hash
SELECT kind, partition, idx, source_id, source_seq, events, head, received_us, record_offset
FROM store.ledger WHERE run_hash = $run_hash AND run_id = $run_id

-- name: places_of_hash
-- What their blocks tell need not be read twice: ids and heads take most of the time.
SELECT partition, idx FROM store.ledger WHERE run_hash = $run_hash

-- name: marks_of_run
-- The slow way, by what the hash is of.
SELECT kind, partition, idx, source_id, source_seq, events, head, received_us, record_offset
FROM ledger WHERE run_id = $run_id

-- name: read_to
-- The broker's time up to which a partition is known to be read; and whether all that the source counted is. 0 where no time
-- is said, or one before what the ledger has of the partition: that is no consumer's word, and excuses nothing.
SELECT CASE WHEN said >= proven THEN said ELSE 0 END, closed
FROM (
    SELECT
        coalesce((SELECT epoch_us(max(read_to)) FROM positions WHERE partition = $partition), 0) AS said,
        coalesce((SELECT max(received_us) FROM ledger WHERE partition = $partition), 0) AS proven,
        EXISTS (SELECT 1 FROM sources WHERE source_id = $source_id AND state = 'closed') AS closed
)

-- name: rest_of_run
-- What there may be of it beside its row, its events and the ledger's rows; mostly nothing. One kind a branch.
SELECT 'conflicts', count(*), NULL, NULL, NULL FROM conflicts WHERE run_key = $run_key
UNION ALL
SELECT 'redaction', seq, field, hex(digest), act_id FROM redactions WHERE run_key = $run_key
UNION ALL
SELECT 'salt', seq, field, salt, NULL FROM run_salts WHERE run_key = $run_key
UNION ALL
SELECT 'kept', NULL, NULL, NULL, NULL FROM kept WHERE run_key = $run_key

-- name: refused_of_run
-- A number that is stored was not refused: whichever came first stays, and the other is a duplicate or a conflict.
SELECT seq FROM refusals
WHERE run_key = $run_key AND seq NOT IN (SELECT sequence FROM events WHERE run_key = $run_key) AND seq > 0
    AND seq NOT IN (SELECT finish_seq FROM runs WHERE run_key = $run_key AND finish_seq IS NOT NULL)

-- name: before_ledger
-- Whether it may have started without a row of the ledger.
SELECT
    (SELECT coalesce(max(run_key), 0) FROM ledger_from WHERE regexp_replace(partition, '/[^/]*$', '') = $topic) > $run_key
        OR (SELECT count(*) FROM ledger_cuts WHERE partition = $partition AND $record_offset BETWEEN 0 AND record_offset - 1) > 0
        OR (
            SELECT count(*) FROM dead_letters
            WHERE state = 'replayed' AND (TRY(decode(key)) = $run_id OR (partition = $partition AND record_offset = $record_offset))
        ) > 0
