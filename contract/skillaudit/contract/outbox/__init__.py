"""The outbox's format on disk: what its writer, its forwarders and the embedded consumer agree on.

    <outbox>/id                     random id of this directory (32 hex digits)
    <outbox>/consumer.lock          lock: an embedded consumer runs
    <outbox>/reader                 JSON: who reads this directory, {"identity": "kafka:<cluster>:<topic>" | "duckdb:<id>"}
    <outbox>/forwarder.lock         lock: the host's forwarder
    <outbox>/.removed-<source_id>/  a finished source on its way out
    <outbox>/<source_id>/           one process's life; made at first use, never reopened for writing
        source.json                 {"source_id", "host", "pid", "boot_id", "version", "created_us", ...} (identity.py);
                                    written once the writer's lock is held: a directory without it is just being
                                    made, or has lost it (nobody holds that lock, and there are segments)
        writer                      lock: the appending process lives
        reader                      lock: who forwards, from before its first read through every acknowledgement
        partitions                  the topic's partition count when the first forwarder came, for this source's life
        ack                         the acknowledgement (temp, fsync, rename, directory fsync)
        refused/<position>          bytes and reason of a record the broker refused for good
        tally                       a forwarder's: what deleted segments said of runs that are still open
        closed                      an adopter's `source.closed`, written before it is sent, so that it is sent the same
        incidents.jsonl             what forwarders found damaged or had refused, one JSON object a line
        00000001.seg, 00000002.seg  segments

A segment is a preallocated file of lines `record TAB crc32 LF` (crc32 of the record, 8 lower-case hex digits; the
record holds no LF and no NUL); bytes not written yet are NUL. Its first line, in the same form, is
`skillaudit-segment 1 <source_id> <segment> <first line>`, where `<first line>` counts the record lines of all earlier
segments, plus one. What a writer keeps to, and readers (reader.py) build on:

* a segment gets its name once its header is written;
* a byte goes from NUL to its final value once, and lines are completed in order: no line before the one in front of it;
* nothing is written to a segment whose successor is there; it may then be cut to its used length.

A position is one integer, `segment << 32 | byte`, of a line's first byte; it grows along the source and names a line
for good. The acknowledgement holds the position after the last acknowledged line.

`<data>/archive/<source_id>/` holds what an embedded consumer has taken in, for a rebuild: `<segment>.seg.gz` (the
segment's used bytes, gzip) beside `source.json` and the last `ack`.
"""
