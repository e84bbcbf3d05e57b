"""Recognizing plain logs by one pattern, in Python and in SQL."""

from __future__ import annotations

from typing import Final

JSON_DEPTH_MAX: Final = 512
"""Levels of nesting in a record at most, its own object counted: parsers stop or crash at bounds of their own."""

LOG_PREFIX_PATTERN: Final = (
    r'^\{"v":1,"type":"run\.log","run_id":"(?P<run_id>[ !#-\[\]-~]+)","seq":(?P<seq>[1-9][0-9]{0,17}),'
    r'"at_us":(?P<at_us>0|[1-9][0-9]{0,16}),"tag":"(?P<tag>[0-9a-f]{16})",'
    r'"event_type":"(?P<event_type>[ !#-\[\]-~]*)",(?:"lost":"(?P<lost>[0-9,-]+)",)?'
    r'"payload":(?P<payload>\{)'
)
"""Start of a log as our Writers send it: fixed order, no white space, no escapes, plain integers.

Anchored, RE2-compatible; works on bytes and on text. The payload begins at the group of that name (its first brace)
and ends before the record's last brace, if the record is what the pattern makes it look like.
"""
