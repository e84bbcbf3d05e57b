"""Decoding in the engine: a record that is not valid, in whatever way, costs itself only."""

import duckdb
import pytest

from skillaudit.consumer.staging import decode
from skillaudit.contract.sources import SourceRecord

PREFIX = '{"v":1,"type":"run.log","run_id":"r","seq":1,"at_us":1700000000000000,"tag":"0123456789abcdef","event_type":"step","payload":'
GOOD = (PREFIX + '{"text":"é"}}').encode()
BAD = {
    "cut off inside a payload, behind a character of two bytes": (PREFIX + '{"a":"é').encode(),
    "cut off inside a character": (PREFIX + '{"a":"é').encode()[:-1],
    "a number beyond a double": (PREFIX + '{"a":' + "9" * 299 + "e99}}").encode(),
    "NaN": (PREFIX + '{"a":NaN}}').encode(),
    "a trailing comma": (PREFIX + '{"a":1,}}').encode(),
    "a member behind the payload": (PREFIX + '{"a":1},"b":2}').encode()[:-1] + b"}}",
    "invalid UTF-8": GOOD.replace("é".encode(), b"\xff"),
    "no value": None,
    "nothing": b"",
}


@pytest.fixture
def cursor():
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


@pytest.mark.parametrize("small", [0, 100], ids=["in the engine", "in Python"])
@pytest.mark.parametrize("bad", BAD.values(), ids=list(BAD))
def test_a_bad_record_costs_itself_only(cursor, bad, small):
    """The good records around it are decoded; it is a failure, by name, and never a row."""
    records = [SourceRecord("t/0", n, n + 1, 0, b"r", value) for n, value in enumerate([GOOD, bad, GOOD])]
    decoded = decode(cursor, records, small)
    assert [index for index, _ in decoded.failures] == [1]
    assert [list(logs.numbers) for logs in decoded.logs] == [[1, 1]]
