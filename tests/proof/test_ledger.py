"""The ledger's rows: from one record's bytes alone, by a grammar that never changes."""

from __future__ import annotations

import json
import random
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.records import HEX, RECORDS, RUN, finished
from tests.contract.test_wire import NAMES, NASTY, NO_JSON, VALUES, WRONG, changed, spliced

from skillaudit.contract import wire
from skillaudit.contract.digests import RunDigest, fields_body, start_header
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.proof.ledger import LedgerEntry, rows_of

VECTORS = json.loads((Path(__file__).parent.parent / "vectors" / "digests.json").read_text(encoding="utf-8"))


def by_the_parser(value: bytes) -> tuple[LedgerEntry, ...]:
    """The rows as the product's parser of today would give them, made in the plainest way."""
    try:
        event = wire.parse_record(value)
    except InvalidRecordError:
        return ()
    match event:
        case wire.RunStarted() if not event.is_bare:
            return (LedgerEntry("start", event.run_id, event.source_id, event.source_seq, 1, _head(event)),)
        case wire.RunFinished() if not event.is_bare:
            head = bytes.fromhex(event.head)
            return (
                LedgerEntry("finish", event.run_id, event.source_id, event.source_seq, event.events, head),
            )
        case wire.SourceHeartbeat():
            return tuple(_listed("progress", event.source_id, run) for run in event.open)
        case wire.SourceClosed():
            count = LedgerEntry("closed", "", event.source_id, 0, event.runs_started, None)
            return (*(_listed("closed", event.source_id, run) for run in event.open), count)
        case _:
            return ()


def _head(start: wire.RunStarted) -> bytes:
    digest = RunDigest(start.run_id, start.salt)
    header = start_header(start.at_us, start.parent_run_id, start.skill_id, start.source_id, start.source_seq)
    fields = {
        "caller_id": start.caller_id.encode(),
        "channel_id": start.channel_id.encode(),
        "inputs": start.inputs_json,
        "attributes": start.attributes_json,
    }
    return bytes.fromhex(
        digest.head_with(header, digest.digest(0, header, fields_body(start.salt, 0, fields.items())))
    )


def _listed(kind: str, source_id: str, run: wire.OpenRun) -> LedgerEntry:
    return LedgerEntry(kind, run.run_id, source_id, run.source_seq, run.events, bytes.fromhex(run.head))


def test_a_start_gives_the_head_through_it() -> None:
    """The head of a run of which there is only the start: the golden vectors say which."""
    for run in VECTORS["runs"]:
        start = run["events"][0]
        [row] = rows_of(start["record"].encode())
        assert (row.kind, row.run_id, row.events, row.head.hex()) == (
            "start",
            run["run_id"],
            1,
            start["head"],
        )


def test_a_finish_gives_what_it_says() -> None:
    """Count and head are the record's."""
    head = bytes.fromhex(HEX)
    assert rows_of(finished()) == (LedgerEntry("finish", "run-1", HEX[:32], 7, 10, head),)


def test_listings_give_a_row_a_run_and_a_closing_the_final_count() -> None:
    """So that a run that is cut off below what its source said, and a source's last runs, are missed."""
    head = bytes.fromhex(HEX)
    runs = [("run-1", HEX[:32], 1, 4, head), ("run-2", HEX[:32], 2, 1, head)]
    assert rows_of(RECORDS["heartbeat"]) == tuple(LedgerEntry("progress", *run) for run in runs)
    count = LedgerEntry("closed", "", HEX[:32], 0, 3, None)
    assert rows_of(RECORDS["closed"]) == (*(LedgerEntry("closed", *run) for run in runs), count)


@pytest.mark.parametrize("name", sorted(set(RECORDS) - {"start", "finish", "heartbeat", "closed"}))
def test_other_records_give_none(name: str) -> None:
    """Logs are proven by their run's head; a bare Storage's records carry nothing to prove."""
    assert rows_of(RECORDS[name]) == ()


def test_no_value_gives_none() -> None:
    """A tombstone of Kafka's."""
    assert rows_of(None) == ()


# The frozen grammar accepts what the parser of the first release accepts, by either of its two ways.

PLAIN = {
    "start": spliced("start", '"q":"é"'.encode(), b'"q":"e"'),
    "finish": finished(),
}


@pytest.mark.parametrize("name", RECORDS)
def test_foreign_writing_of_a_record_gives_the_same_rows(name: str) -> None:
    """Another order, white space, escapes and members that the format does not name."""
    record = orjson.loads(RECORDS[name])
    backwards = dict(reversed([*record.items(), ("zz", {"v": 9, "deep": [[1]]})]))
    foreign = orjson.dumps(backwards, option=orjson.OPT_INDENT_2).replace(b"run", b"\\u0072un")
    assert rows_of(foreign) == by_the_parser(foreign)
    assert len(rows_of(foreign)) == len(rows_of(RECORDS[name]))


@pytest.mark.parametrize(("name", "field", "bad"), WRONG)
def test_a_wrong_member_gives_no_row(name: str, field: str, bad: object) -> None:
    """What the strict parser refuses makes none."""
    assert rows_of(changed(name, **{field: bad})) == ()


@pytest.mark.parametrize("value", NO_JSON.values(), ids=NO_JSON.keys())
def test_what_is_not_json_gives_no_row(value: bytes) -> None:
    """Nor in the place of a start's opaque members."""
    assert rows_of(value) == ()
    assert rows_of(value.replace(b"run.log", b"run.started")) == ()


@pytest.mark.parametrize(
    "opaque", [b"[]", b"{,}", b'{"a":NaN}', b'{"a":1,}', b'{"a":1e999}', b"{", b'{"a":"\\ud800"}']
)
def test_opaque_members_have_to_be_objects(opaque: bytes) -> None:
    """The pattern stops where they begin; they are judged all the same."""
    for member in ("inputs", "attributes"):
        old = b'"%b":%b' % (member.encode(), orjson.dumps(getattr(RUN, member)))
        value = spliced("start", old, b'"%b":%b' % (member.encode(), opaque))
        assert rows_of(value) == by_the_parser(value) == ()


@pytest.mark.parametrize("name", ["start", "finish", "heartbeat", "closed"])
def test_a_member_that_stands_twice_gives_no_row(name: str) -> None:
    """The second could say something else."""
    for source in (RECORDS[name], PLAIN.get(name, RECORDS[name])):
        for field, found in orjson.loads(source).items():
            twice = b',"%b":%b}' % (field.encode(), orjson.dumps(found))
            assert rows_of(source[:-1] + twice) == by_the_parser(source[:-1] + twice) == ()


@pytest.mark.parametrize("name", ["start", "finish", "heartbeat", "closed"])
def test_whatever_the_bytes_both_agree(name: str) -> None:
    """Bytes replaced, bits flipped, ends cut off, nasty texts in between."""
    rng = random.Random(name)
    for record in {RECORDS[name], PLAIN.get(name, RECORDS[name])}:
        for at in range(len(record)):
            for value in (
                record[:at] + bytes([rng.randrange(256)]) + record[at + 1 :],
                record[:at] + bytes([record[at] ^ 1 << rng.randrange(8)]) + record[at + 1 :],
                record[:at] + rng.choice(NASTY) + record[at + rng.randrange(9) :],
                record[:at],
            ):
                assert rows_of(value) == by_the_parser(value)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["start", "finish", "heartbeat", "closed"]),
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=3),
    st.booleans(),
)
def test_whatever_the_members_both_agree(name: str, members: dict[str, object], indented: bool) -> None:
    """Any JSON value in the place of any member, written as we do or otherwise."""
    option = orjson.OPT_INDENT_2 if indented else 0
    value = orjson.dumps(orjson.loads(RECORDS[name]) | members, option=option)
    assert rows_of(value) == by_the_parser(value)


def test_a_deep_record_gives_rows_up_to_the_bound() -> None:
    """As the parser: 512 levels."""
    for levels in (250, 256, 510, 511, 600, 1100):
        deep = b'"inputs":{"d":%b%b}' % (b"[" * (levels - 2), b"]" * (levels - 2))
        value = PLAIN["start"].replace(b'"inputs":{"q":"e","n":[1,2.5,null]}', deep)
        assert len(value) > len(PLAIN["start"])
        assert rows_of(value) == by_the_parser(value)
        assert bool(rows_of(value)) == (levels <= 511)
