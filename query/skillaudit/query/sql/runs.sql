-- Reading the view `runs`. Times travel as integer microseconds: a session's time zone can't touch them, and no
-- further package is needed to read them. `run_columns` is what rows.py takes apart, in this order.

-- fragment: run_columns
id, skill_id, caller_id, channel_id, inputs, epoch_us(started_at), parent_run_id, attributes,
epoch_us(finished_at), status, output, error, tool_calls_count, runtime_us,
total_input_tokens, total_output_tokens, total_thinking_tokens

-- fragment: run_filter
($status IS NULL OR status = $status)
AND ($skill_id IS NULL OR skill_id = $skill_id)
AND ($caller_id IS NULL OR caller_id = $caller_id)
AND ($channel_id IS NULL OR channel_id = $channel_id)
AND (NOT $top_level_only OR parent_run_id = '')
AND ($include_dry_run OR status <> 'dry_run')
AND ($since_us IS NULL OR started_at >= make_timestamptz($since_us))
AND ($until_us IS NULL OR started_at < make_timestamptz($until_us))

-- name: runs_of_hash
-- The hash alone: comparing the id as well makes the scan read every id (20 ms instead of 8 at a million runs). The
-- caller picks the right id among the one or two rows. The first to arrive first, where several topics share an id.
SELECT {run_columns}
FROM runs
WHERE run_hash = $run_hash
ORDER BY run_key

-- name: run_keys_of_hash
-- Runs whose start is not stored have events too, so both views are asked.
SELECT id, run_key FROM runs WHERE run_hash = $run_hash
UNION ALL
SELECT id, run_key FROM orphans WHERE run_hash = $run_hash
ORDER BY run_key

-- name: list_runs
-- Newest first; VARCHAR compares by bytes of UTF-8, which is code point order.
SELECT {run_columns}
FROM runs
WHERE {run_filter}
ORDER BY started_at DESC, id DESC
LIMIT $limit OFFSET $offset

-- name: count_runs
SELECT count(*)
FROM runs
WHERE {run_filter}

-- name: children
SELECT {run_columns}
FROM runs
WHERE parent_run_id = $parent_run_id AND parent_run_id <> ''
ORDER BY started_at, id

-- name: finished_before
SELECT {run_columns}
FROM runs
WHERE finished_at < make_timestamptz($cutoff_us)
ORDER BY finished_at, id
LIMIT $limit

-- name: last_run_by_skills
SELECT skill_id, max(epoch_us(started_at))
FROM runs
WHERE skill_id IN (SELECT unnest($skill_ids::VARCHAR[]))
  AND CASE WHEN $include_failed THEN status <> 'dry_run' ELSE status = 'ok' END
GROUP BY skill_id
