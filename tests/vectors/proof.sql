-- From rows of the ledger and lines of acts to the journal's roots, with proofs of inclusion, in DuckDB alone.
-- ledger(partition, idx, kind, run_id, source_id, source_seq, events, head [hex or NULL], received_us, record_offset)
-- entries(idx, kind [seal or act], at_us, line)                   the journal's leaves before they have bytes
-- ranges(entry, partition, first_idx, row_count)                  what each seal takes in
-- sample(tree, node, leaf)                                        other trees, by name
-- wanted(tree, node)                                              leaves whose inclusion is to be proven
-- Makes the tables hashes, sealed, leaves, nodes, roots and inclusions.

CREATE OR REPLACE TEMP MACRO leaf_hash(leaf) AS unhex(sha256('\x00'::BLOB || encode(leaf)));
CREATE OR REPLACE TEMP MACRO node_hash(l, r) AS unhex(sha256('\x01'::BLOB || l || r));
-- Every node of some trees, given as (tree, node, hash) of their leaves: a node without a neighbour goes up as it is.
CREATE OR REPLACE TEMP MACRO grown(leaves) AS TABLE
WITH RECURSIVE tree (tree, level, node, hash, width) AS (
    SELECT tree, 0, node, hash, count(*) OVER (PARTITION BY tree) FROM query_table(leaves)
    UNION ALL
    SELECT
        tree, any_value(level) + 1, node // 2,
        CASE WHEN count(*) = 2 THEN node_hash(min_by(hash, node), max_by(hash, node)) ELSE any_value(hash) END,
        any_value((width + 1) // 2)
    FROM tree
    WHERE width > 1
    GROUP BY tree, node // 2
)
SELECT * FROM tree;

-- Rows of the ledger, and the tree of each sealed range.
CREATE OR REPLACE TEMP TABLE hashes AS
SELECT partition, idx, record_offset, leaf_hash(
    'skillaudit ' || kind || ' 1' || chr(10) || strlen(run_id) || ':' || run_id || ' ' || source_id
    || ' ' || source_seq || ' ' || events || ' ' || coalesce(head, '-') || ' ' || record_offset
    || ' ' || received_us || chr(10)
) AS hash
FROM ledger;
CREATE OR REPLACE TEMP TABLE range_leaves AS
SELECT r.entry || ' ' || r.partition AS tree, h.idx - r.first_idx AS node, h.hash
FROM hashes AS h
JOIN ranges AS r ON h.partition = r.partition AND h.idx >= r.first_idx AND h.idx < r.first_idx + r.row_count;
CREATE OR REPLACE TEMP TABLE sealed AS
SELECT r.*, lower(hex(g.hash)) AS root, h.record_offset + 1 AS next_offset
FROM ranges AS r
JOIN grown('range_leaves') AS g ON g.tree = r.entry || ' ' || r.partition AND g.width = 1
JOIN hashes AS h ON h.partition = r.partition AND h.idx = r.first_idx + r.row_count - 1;

-- The journal's leaves.
CREATE OR REPLACE TEMP TABLE leaves AS
SELECT e.idx, CASE e.kind
    WHEN 'act' THEN 'skillaudit act 1' || chr(10) || e.line || chr(10)
    ELSE 'skillaudit seal 1' || chr(10) || 'at ' || e.at_us || chr(10) || coalesce((
        SELECT string_agg(
            'ledger ' || partition || ' ' || first_idx || ' ' || row_count || ' ' || root || ' ' || next_offset || chr(10),
            '' ORDER BY encode(partition)
        )
        FROM sealed WHERE entry = e.idx
    ), '')
END AS leaf
FROM entries AS e;

-- The journal as it was at each size, and the other trees.
CREATE OR REPLACE TEMP TABLE tree_leaves AS
SELECT 'journal ' || s.size AS tree, l.idx AS node, leaf_hash(l.leaf) AS hash
FROM leaves AS l JOIN (SELECT idx + 1 AS size FROM leaves) AS s ON l.idx < s.size
UNION ALL
SELECT tree, node, leaf_hash(leaf) FROM sample;
CREATE OR REPLACE TEMP TABLE nodes AS SELECT * FROM grown('tree_leaves');
CREATE OR REPLACE TEMP TABLE roots AS
SELECT tree, lower(hex(hash)) AS root FROM nodes WHERE width = 1;

-- A leaf's inclusion: its neighbours on the way up; and what comes out of leaf, number, size and these alone.
CREATE OR REPLACE TEMP TABLE proofs AS
SELECT
    w.tree, w.node, (SELECT count(*) FROM tree_leaves AS t WHERE t.tree = w.tree) AS size,
    coalesce(list(lower(hex(n.hash)) ORDER BY n.level) FILTER (n.hash IS NOT NULL), []) AS proof
FROM wanted AS w
LEFT JOIN nodes AS n ON n.tree = w.tree AND n.node = xor(w.node >> n.level, 1) AND n.width > 1
GROUP BY w.tree, w.node;
CREATE OR REPLACE TEMP TABLE inclusions AS
WITH RECURSIVE climbed (tree, node, place, last, taken, hash) AS (
    SELECT p.tree, p.node, p.node, p.size - 1, 0::BIGINT, t.hash
    FROM proofs AS p JOIN tree_leaves AS t ON t.tree = p.tree AND t.node = p.node
    UNION ALL
    SELECT
        c.tree, c.node, c.place // 2, c.last // 2, c.taken + (c.place % 2 = 1 OR c.place < c.last)::BIGINT,
        CASE
            WHEN c.place % 2 = 1 THEN node_hash(unhex(p.proof[c.taken + 1]), c.hash)
            WHEN c.place < c.last THEN node_hash(c.hash, unhex(p.proof[c.taken + 1]))
            ELSE c.hash
        END
    FROM climbed AS c JOIN proofs AS p ON p.tree = c.tree AND p.node = c.node
    WHERE c.last > 0
)
SELECT p.*, lower(hex(c.hash)) AS root, c.taken = len(p.proof) AS used
FROM proofs AS p JOIN climbed AS c ON c.tree = p.tree AND c.node = p.node AND c.last = 0
