-- The views as the first schema made them: what a file of that release holds.
-- The interface for query, proof and analysts. Columns are only added within a major version.
CREATE OR REPLACE VIEW main.runs AS
SELECT run_key, run_hash, id, skill_id, caller_id, channel_id, inputs, started_at, finished_at, status, output, error,
       tool_calls_count, runtime_us, parent_run_id, total_input_tokens, total_output_tokens, total_thinking_tokens,
       attributes, source_id, source_seq, events_expected, events_stored, completeness, liveness, missing, lost,
       conflicts, last_event_at, topic, received_at, by_storage, clock, salt, start_tag, finish_seq, finish_tag, head
FROM store.runs;

CREATE OR REPLACE VIEW main.events AS
SELECT run_key, sequence, event_type, payload, created_at, tag FROM store.events_sealed
UNION ALL
SELECT run_key, sequence, event_type, payload, created_at, tag FROM store.events_hot_a
UNION ALL
SELECT run_key, sequence, event_type, payload, created_at, tag FROM store.events_hot_b;

CREATE OR REPLACE VIEW main.orphans AS
SELECT run_key, id, run_hash, events_stored, first_received_at, last_event_at, topic, received, lost, conflicts,
       completeness, liveness, missing, source_id
FROM store.orphans;

CREATE OR REPLACE VIEW main.sources AS
SELECT source_id, topic, partition, host, pid, boot_id, version, clock, opened_at, make_timestamptz(heard_us) AS heard_at,
       beat, beat_at, runs_started, runs_finished, backlog_records, backlog_bytes, oldest_us, refused, lost, closed_by,
       closed_at, state
FROM store.sources;

CREATE OR REPLACE VIEW main.positions AS
SELECT partition, next_offset, cluster, last_offset, last_digest, records,
       CASE WHEN received_us > 0 THEN make_timestamptz(received_us) END AS received_at,
       CASE WHEN read_to_us > 0 THEN make_timestamptz(read_to_us) END AS read_to, end_offset
FROM store.positions;

CREATE OR REPLACE VIEW main.conflicts AS
SELECT id, run_key, run_id, topic, kind, CASE WHEN sequence >= 0 THEN sequence END AS sequence, tag, reason, record,
       partition, record_offset, make_timestamptz(received_us) AS received_at
FROM store.conflicts;

CREATE OR REPLACE VIEW main.dead_letters AS
SELECT id, partition, record_offset, key, record, received_us, stored_at, error, state, changed_at
FROM store.dead_letters;

CREATE OR REPLACE VIEW main.purges AS
SELECT id, purged_at, cutoff, policy, runs, events FROM store.purges;

CREATE OR REPLACE VIEW main.tombstones AS
SELECT run_key, run_hash, id, topic, source_id, source_seq, purge_id, records_dropped, liveness, events_stored, missing,
       lost, conflicts, last_event_at
FROM store.tombstones;

CREATE OR REPLACE VIEW main.incidents AS
SELECT id, happened_at, kind, subject, detail FROM store.incidents;
