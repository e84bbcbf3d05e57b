-- What is stored of acts. Their order is the order in which they were applied: no row is deleted.

-- name: known
SELECT 1 FROM store.acts WHERE act_id = $act_id

-- name: add
INSERT INTO store.acts VALUES
    ($control_partition, $control_offset, $act_id, $kind, $act, $journal_idx, $applied_us)

-- name: in_journal
-- A journal that was taken over from an anchor holds the leaves of acts that are applied again.
SELECT idx FROM store.journal WHERE kind = 'act' AND leaf = $leaf

-- name: schema
SELECT value FROM store.meta WHERE name = 'schema_version'

-- name: life
SELECT act FROM store.acts WHERE kind IN ('genesis', 'schema') ORDER BY rowid DESC

-- name: not_in_journal
SELECT act_id, kind, control_partition, act FROM store.acts WHERE journal_idx IS NULL ORDER BY rowid

-- name: told
SELECT subject FROM store.incidents WHERE kind = $kind

-- name: journaled
UPDATE store.acts SET journal_idx = $journal_idx WHERE act_id = $act_id

-- name: next_local
SELECT coalesce(max(control_offset), -1) + 1 FROM store.acts WHERE control_partition = $control_partition

-- name: list
SELECT act_id, kind, act, applied_us, journal_idx, control_partition, control_offset,
       EXISTS (SELECT 1 FROM store.pending_acts AS p WHERE p.act_id = a.act_id)
FROM store.acts AS a
WHERE $kind::VARCHAR IS NULL OR kind = $kind
ORDER BY a.rowid DESC
LIMIT $limit

-- name: pending
SELECT a.act, p.partition, p.position
FROM store.pending_acts AS p JOIN store.acts AS a ON p.act_id = a.act_id
ORDER BY a.rowid, p.partition

-- name: add_pending
INSERT INTO store.pending_acts VALUES ($act_id, $partition, $position)

-- name: end_pending
DELETE FROM store.pending_acts WHERE act_id = $act_id AND partition = $partition

-- name: add_hold
INSERT INTO store.holds VALUES ($act_id, $scope, $placed_us, NULL)

-- name: release_hold
UPDATE store.holds SET released_by = $released_by WHERE act_id = $act_id AND released_by IS NULL

-- name: hold
SELECT scope, released_by FROM store.holds WHERE act_id = $act_id

-- name: holds
SELECT h.act_id, h.scope, h.placed_us, h.released_by, a.act
FROM store.holds AS h JOIN store.acts AS a ON h.act_id = a.act_id
WHERE $released OR h.released_by IS NULL
ORDER BY a.rowid

-- name: last_hold
-- The newest hold, in the order of acts.
SELECT coalesce(arg_max(act_id, rowid), '') FROM store.acts WHERE kind = 'hold'

-- name: holds_before
-- In force when the act came, in the order of acts; for no act those in force now. `unseen`: placed behind $last_hold, where
-- that is given; all are, where no hold of that name was placed.
WITH moment AS (
    SELECT coalesce((SELECT rowid FROM store.acts WHERE act_id = $act_id), 9223372036854775807) AS place
)
SELECT h.act_id, h.scope,
    $last_hold::VARCHAR IS NOT NULL
        AND p.rowid > coalesce((SELECT rowid FROM store.acts WHERE act_id = $last_hold AND kind = 'hold'), -1) AS unseen
FROM store.holds AS h
JOIN store.acts AS p ON p.act_id = h.act_id
LEFT JOIN store.acts AS r ON r.act_id = h.released_by
WHERE p.rowid < (SELECT place FROM moment) AND (r.rowid IS NULL OR r.rowid > (SELECT place FROM moment))
ORDER BY p.rowid

-- name: bury
INSERT INTO store.dead_letters
VALUES (?, ?, ?, ?, ?::BLOB, ?::BLOB, ?, make_timestamptz(?::BIGINT), ?, 'waiting', make_timestamptz(?::BIGINT))

-- name: incident
INSERT INTO store.incidents VALUES (?, make_timestamptz(?::BIGINT), 'no-act', ?, ?)
