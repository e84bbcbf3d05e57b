-- Of a database made again from less than there was: where the ledger of a partition begins. What lies before was sealed by
-- another database, and no record that is left says it.
CREATE TABLE store.ledger_cuts (
    partition VARCHAR NOT NULL,
    first_row BIGINT NOT NULL,           -- rows below this one that are not here will not come
    record_offset BIGINT NOT NULL,       -- records below this one made no rows here, though some may be stored
    trial_row BIGINT,                    -- while it is open whether all rows of the next seal are left: where that ends,
    trial_offset BIGINT,                 -- and the position behind its records; NULL: it is settled
    journal_idx BIGINT                   -- the journal's leaf that says so; NULL: none yet
);
