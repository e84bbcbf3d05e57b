-- No table changes: the views are made again, for `source_arrivals` is new among them.
SELECT 1;
