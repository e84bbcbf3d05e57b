-- The interface for query, proof and analysts. Columns are only added within a major version.
CREATE OR REPLACE VIEW main.runs AS
SELECT run_key, run_hash, id, skill_id, caller_id, channel_id, inputs, started_at, finished_at, status, output, error,
       tool_calls_count, runtime_us, parent_run_id, total_input_tokens, total_output_tokens, total_thinking_tokens,
       attributes, source_id, source_seq, events_expected, events_stored, completeness, liveness, missing, lost,
       conflicts, last_event_at, topic, received_at, by_storage, clock, salt, start_tag, finish_seq, finish_tag, head,
       partition, record_offset
FROM store.runs;

CREATE OR REPLACE VIEW main.events AS
SELECT run_key, sequence, event_type, payload, created_at, tag FROM store.events_sealed
UNION ALL
SELECT run_key, sequence, event_type, payload, created_at, tag FROM store.events_hot_a
UNION ALL
SELECT run_key, sequence, event_type, payload, created_at, tag FROM store.events_hot_b;

CREATE OR REPLACE VIEW main.orphans AS
SELECT run_key, id, run_hash, events_stored, first_received_at, last_event_at, topic, received, lost, conflicts,
       completeness, liveness, missing, source_id, partition, record_offset, first_us
FROM store.orphans;

CREATE OR REPLACE VIEW main.sources AS
SELECT source_id, topic, partition, host, pid, boot_id, version, clock, opened_at, make_timestamptz(heard_us) AS heard_at,
       beat, beat_at, runs_started, runs_finished, backlog_records, backlog_bytes, oldest_us, refused, lost, closed_by,
       closed_at, state, claimed, due
FROM store.sources;

CREATE OR REPLACE VIEW main.positions AS
SELECT partition, next_offset, cluster, last_offset, last_digest, records,
       CASE WHEN received_us > 0 THEN make_timestamptz(received_us) END AS received_at,
       CASE WHEN read_to_us > 0 THEN make_timestamptz(read_to_us) END AS read_to, end_offset,
       ledger_next
FROM store.positions;

CREATE OR REPLACE VIEW main.conflicts AS
SELECT id, run_key, run_id, topic, kind, CASE WHEN sequence >= 0 THEN sequence END AS sequence, tag, reason, record,
       partition, record_offset, make_timestamptz(received_us) AS received_at
FROM store.conflicts;

CREATE OR REPLACE VIEW main.dead_letters AS
SELECT id, partition, record_offset, key, record, received_us, stored_at, error, state, changed_at
FROM store.dead_letters;

CREATE OR REPLACE VIEW main.purges AS
SELECT id, purged_at, cutoff, policy, runs, events, act_id FROM store.purges;

CREATE OR REPLACE VIEW main.tombstones AS
SELECT run_key, run_hash, id, topic, source_id, source_seq, purge_id, records_dropped, liveness, events_stored, missing,
       lost, conflicts, last_event_at, started_at, received_at, violates, orphan
FROM store.tombstones;

CREATE OR REPLACE VIEW main.incidents AS
SELECT id, happened_at, kind, subject, detail FROM store.incidents;

CREATE OR REPLACE VIEW main.ledger AS
SELECT partition, idx, kind, run_id, source_id, source_seq, events, head, received_us, record_offset, run_hash FROM store.ledger;

CREATE OR REPLACE VIEW main.ledger_nodes AS
SELECT partition, first_row, hashes FROM store.ledger_nodes;

CREATE OR REPLACE VIEW main.ledger_from AS
SELECT partition, record_offset, run_key FROM store.ledger_from;

CREATE OR REPLACE VIEW main.ledger_cuts AS
SELECT partition, first_row, record_offset, journal_idx FROM store.ledger_cuts WHERE trial_row IS NULL;

CREATE OR REPLACE VIEW main.journal AS
SELECT idx, at_us, kind, leaf FROM store.journal;

CREATE OR REPLACE VIEW main.journal_nodes AS
SELECT level, idx, hashes FROM store.journal_nodes;

CREATE OR REPLACE VIEW main.checkpoints AS
SELECT size, note, signed_us, published FROM store.checkpoints;

CREATE OR REPLACE VIEW main.acts AS
SELECT control_partition, control_offset, act_id, kind, act, journal_idx, applied_us FROM store.acts;

CREATE OR REPLACE VIEW main.pending_acts AS
SELECT act_id, partition, position FROM store.pending_acts;

CREATE OR REPLACE VIEW main.redacted_runs AS
SELECT run_key, erased_by, settled FROM store.redacted_runs;

CREATE OR REPLACE VIEW main.redactions AS
SELECT run_key, seq, field, digest, act_id FROM store.redactions;

CREATE OR REPLACE VIEW main.run_salts AS
SELECT run_key, seq, field, salt FROM store.run_salts;

CREATE OR REPLACE VIEW main.holds AS
SELECT act_id, scope, placed_us, released_by FROM store.holds;

-- Numbers of runs of which a start or a finish arrived: by the ledger, and of what was stored without a row there, before
-- there was a ledger or by a dead letter replayed later, by the run or by what is left of it. And of which other events arrived
-- that were purged, where their source lists them. `verify` asks it, too: what counts as arrived is one rule.
CREATE OR REPLACE VIEW main.source_arrivals AS
WITH old AS (
    SELECT regexp_replace(partition, '/[^/]*$', '') AS topic, max(run_key) AS first_listed FROM store.ledger_from GROUP BY ALL
)
SELECT source_id, source_seq FROM store.ledger WHERE kind IN ('start', 'finish') AND run_id <> ''
UNION
SELECT r.source_id, r.source_seq FROM store.runs AS r JOIN old AS o ON r.topic = o.topic AND r.run_key < o.first_listed
WHERE r.source_id <> ''
UNION
SELECT r.source_id, r.source_seq FROM store.tombstones AS r JOIN old AS o ON r.topic = o.topic AND r.run_key < o.first_listed
WHERE r.source_id <> ''
UNION
SELECT r.source_id, r.source_seq FROM store.runs AS r
JOIN store.dead_letters AS d ON d.state = 'replayed' AND d.partition = r.partition AND d.record_offset = r.record_offset
WHERE r.source_id <> ''
UNION
SELECT l.source_id, l.source_seq FROM store.ledger AS l
JOIN store.tombstones AS t ON l.run_hash = t.run_hash AND l.run_id = t.id AND regexp_replace(l.partition, '/[^/]*$', '') = t.topic
WHERE t.orphan AND l.source_seq > 0;

-- Numbers of runs that their source counted, that are due, and of which neither start nor finish ever arrived: as ranges,
-- so that no number a source claims makes this large.
CREATE OR REPLACE VIEW main.source_gaps AS
WITH numbers AS (
    SELECT source_id, source_seq FROM main.source_arrivals
    UNION ALL
    SELECT source_id, 0 FROM store.sources
), next_numbers AS (
    SELECT source_id, source_seq, lead(source_seq) OVER (PARTITION BY source_id ORDER BY source_seq) AS next_seq
    FROM numbers
)
SELECT s.source_id, n.source_seq + 1 AS first_seq, least(s.due, coalesce(n.next_seq - 1, s.due)) AS last_seq,
       s.due, s.partition, s.topic
FROM store.sources AS s JOIN next_numbers AS n ON s.source_id = n.source_id
WHERE n.source_seq < s.due AND (n.next_seq IS NULL OR n.next_seq > n.source_seq + 1);

-- Records that are kept aside, by run.
CREATE OR REPLACE VIEW main.kept AS
SELECT run_key, record FROM store.kept;

-- Numbers that the broker refused: their record is nowhere, but it had a digest, and the run's head holds it.
CREATE OR REPLACE VIEW main.refusals AS
-- What is no record of that form is none of them.
SELECT run_key, TRY_CAST(TRY(json_extract_string(decode(record), '$.seq')) AS BIGINT) AS seq
FROM store.kept
WHERE TRY(json_extract_string(decode(record), '$.type')) = 'run.refused' AND seq IS NOT NULL;
