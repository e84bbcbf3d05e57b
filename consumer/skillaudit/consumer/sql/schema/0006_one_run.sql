-- So that one run is checked without reading what is around it: rows of the ledger are found by a hash of the run's id
-- instead of the id itself, and of a long seal the roots of its blocks are kept, so that a row is proven by its block.
ALTER TABLE store.ledger ADD COLUMN run_hash UBIGINT;    -- as in store.runs
UPDATE store.ledger SET run_hash = ('0x' || left(sha256(run_id), 16))::UBIGINT;

-- Of a sealed range of more than 64 rows: the roots of its blocks of 64 rows, 32 bytes each; the range's root is over them.
-- Seals made before have none.
CREATE TABLE store.ledger_nodes (
    partition VARCHAR NOT NULL,
    first_row BIGINT NOT NULL,           -- the range's
    hashes BLOB NOT NULL
);
