"""The outbox's format on disk: what its writer, its forwarders and the embedded consumer agree on.

    <outbox>/id                     random id of this directory (32 hex digits)
    <outbox>/reader                 JSON: who reads this directory, {"identity": "kafka:<cluster>:<topic>" | "duckdb:<id>"}
    <outbox>/<source_id>/           one process's life; made at first use, never reopened for writing
        source.json                 {"source_id", "host", "pid", "boot_id", "version", "created_us"}
        writer                      lock: the appending process lives
        reader                      lock: who forwards, from before its first read through every acknowledgement
        partitions                  the topic's partition count when the first forwarder came, for this source's life
        ack                         the acknowledgement (temp, fsync, rename, directory fsync)
        refused/<position>          bytes and reason of a record the broker refused for good
        00000001.seg, 00000002.seg  segments

A segment is a preallocated file of lines `record TAB crc32 LF` (crc32 of the record, 8 hex digits); bytes not written
yet are NUL. Its first line, in the same form, is `skillaudit-segment 1 <source_id> <segment> <first line>`, where
`<first line>` counts the record lines of all earlier segments, plus one. A closed segment may be cut to its used length.

A position is one integer, `segment << 32 | byte`, of a line's first byte; it grows along the source and names a line
for good. The acknowledgement holds the position after the last acknowledged line.
"""
