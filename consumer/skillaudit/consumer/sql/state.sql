-- name: poison
SELECT value FROM store.meta WHERE name = 'poison'

-- name: set_poison
INSERT INTO store.meta VALUES ('poison', $value) ON CONFLICT DO UPDATE SET value = excluded.value

-- name: poison_stop
SELECT value FROM store.meta WHERE name = 'poison_stop'

-- name: set_poison_stop
-- What the newest recorded stop by the poison limit did not take: partition -> offset behind it, as JSON.
INSERT INTO store.meta VALUES ('poison_stop', $value) ON CONFLICT DO UPDATE SET value = excluded.value

-- name: forget_poison_stop
DELETE FROM store.meta WHERE name = 'poison_stop'

-- name: newest_incident
SELECT kind, detail FROM store.incidents ORDER BY id DESC LIMIT 1

-- name: newest_of_kind
SELECT detail FROM store.incidents WHERE kind = $kind ORDER BY id DESC LIMIT 1

-- name: gone_sources
SELECT source_id FROM store.sources WHERE state IN ('silent', 'closed')

-- name: quiet_sources
-- Live ones not heard for so long that they may be gone.
SELECT s.source_id
FROM store.sources AS s JOIN store.positions AS p ON s.partition = p.partition
WHERE s.state = 'live' AND s.heard_us > 0 AND s.heard_us + $limit_us < p.read_to_us

-- name: read_to
UPDATE store.positions SET read_to_us = $read_to_us WHERE partition = $partition AND read_to_us < $read_to_us

-- name: any_orphans
SELECT 1 FROM store.orphans LIMIT 1

-- name: any_tombstones
SELECT 1 FROM store.tombstones LIMIT 1
