"""Records that are no events: between good ones, and nothing else any more."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
from tests.faults import fuzz, stream
from tests.faults.fuse import FusedCursor, open_fused
from tests.faults.oracle import BrokenError, must
from tests.faults.rows import Case, row
from tests.faults.switches import cursor_kind

from skillaudit.consumer.materializer import Materializer, MaterializerPolicy
from skillaudit.consumer.poison import PoisonPolicy
from skillaudit.consumer.staging import parse_value
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.runrecord import Outcome
from skillaudit.contract.sources import SourceRecord
from skillaudit.contract.wire import Event, RunEvent, RunLog, RunRefused, RunStarted, parse_record

FUZZED_IN_CASE = 20_000
FUZZED_WITHOUT = 3_000
"""Where a mechanism is switched off: enough to notice."""
BATCHES = (1, 9, 300, 1_400, 1_600, 4_000, 10_000)
CPU_US_PER_RECORD_MAX = 2_000
"""A bound, not a figure: a good record costs some 10 us, a refused one ten times that."""


def lenient(value: bytes | None) -> Event:
    """What many consumers do: take what can be taken, make the rest fit."""
    try:
        record = json.loads((value or b"").decode(errors="replace"))
        if record.get("type") == "run.log":
            return RunLog(str(record["run_id"]), int(record["seq"]), int(record["at_us"]), int(str(record["tag"]), 16),
                          str(record["event_type"]), json.dumps(record["payload"]).encode())  # fmt: skip
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as exc:
        raise InvalidRecordError("no JSON") from exc
    return parse_record(value or b"")


class WithoutSuspicion(FusedCursor):
    """Trusts the engine's own judgement of JSON."""

    def execute(self, query: str, *parameters: Any) -> Any:
        """As the engine's, without the patterns that it is not trusted with."""
        if "TEMP TABLE staged" in query:
            begin = query.index("AND NOT (regexp_matches")
            query = query[:begin] + query[query.index("\n", begin) :]
        return super().execute(query, *parameters)


@dataclass(slots=True)
class Sent:
    """What went in, and what must come of it."""

    good_runs: int = 0
    records: list[SourceRecord] = field(default_factory=list[SourceRecord])
    refused: dict[int, bytes | None] = field(default_factory=dict[int, bytes | None])
    """Offset -> bytes."""
    accepted: dict[int, Event] = field(default_factory=dict[int, Event])
    """Fuzzed and still events."""


def mix(case: Case, wanted: int) -> Sent:
    """Fuzzed records, so many, between the records of good runs; all of them with keys of any kind."""
    chance, sent = case.random, Sent()
    keys = random.Random(f"{case.seed} keys")
    good: list[bytes] = []
    fuzzed = 0
    while fuzzed < wanted or good:
        if not good and fuzzed < wanted:
            good = list(fuzz.good(sent.good_runs))
            sent.good_runs += 1
        offset = len(sent.records)
        if fuzzed < wanted and chance.random() < 0.6:
            value = fuzz.fuzzed(chance)
            fuzzed += 1
            _judge(sent, offset, value)
        else:
            value = good.pop(0)
        key = fuzz.record_key(keys, sent.good_runs)
        # Kafka's clients send no record without key and value.
        key = b"" if key is value is None else key
        sent.records.append(SourceRecord(stream.PARTITION, offset, offset + 1, 0, key, value))
    return sent


def _judge(sent: Sent, offset: int, value: bytes | None) -> None:
    try:
        sent.accepted[offset] = parse_value(value)
    except InvalidRecordError:
        sent.refused[offset] = value
    else:
        if not fuzz.is_sound(value):
            raise BrokenError(f"the strict parser takes what is no sound record: {value!r:.300}")


def _batches(case: Case, records: Sequence[SourceRecord]) -> Iterator[Sequence[SourceRecord]]:
    chance, at = case.random, 0
    while at < len(records):
        size = chance.choice(BATCHES)
        yield records[at : at + size]
        at += size


@row(
    "poison-fuzzed",
    about="Fuzzed records (bytes flipped, truncated, wrong types, 1.5 and true as numbers, members twice, NaN, deep JSON, NUL, lone surrogates, invalid UTF-8, unknown versions, hostile members, huge numbers), and keys of any kind (none, empty, of 1 MiB, no text, another run's id), between good ones, in batches that are decoded in Python and in the engine",
    judge="every good record is stored once; every other one is a dead letter with its bytes, or still an event and stored",
    synthetic=True,
    full=1_000_000,
    share=20_000,
    case_s_max=900,
    test=20_000,
    off={
        "strict-parser": "records are judged by json.loads, and made to fit",
        "suspicion": "the engine's json_valid alone judges payloads",
    },
)
async def fuzzed(case: Case) -> None:
    """Each costs itself only: the good ones are stored, the others are dead letters with their bytes, or still events."""
    await asyncio.to_thread(_fuzzed, case)


def _fuzzed(case: Case) -> None:
    sent = mix(case, FUZZED_WITHOUT if case.switched_off else FUZZED_IN_CASE)
    kind = WithoutSuspicion if case.switched_off == "suspicion" else cursor_kind(case.switched_off)
    policy = MaterializerPolicy(poison=PoisonPolicy(1 << 62, 101), seal_rows=5_000)
    outcomes: Counter[Outcome] = Counter()
    database = open_fused(case.directory / "audit.duckdb", kind=kind)
    parse = lenient if case.switched_off == "strict-parser" else parse_value
    materializer = Materializer(database, policy=policy, parse=parse)
    began_s = time.process_time()
    for batch in _batches(case, sent.records):
        outcomes += _applied(materializer, batch)
        if materializer.sealer.due:
            materializer.sealer.seal()
    cpu_us = (time.process_time() - began_s) * 1e6 / len(sent.records)
    materializer.close()
    cursor = database.cursor()
    assert_buried(cursor, sent)
    assert_good(cursor, sent)
    must(sum(outcomes.values()) == len(sent.records), f"{outcomes} of {len(sent.records)} records")
    assert_accepted(cursor, sent)
    must(cpu_us < CPU_US_PER_RECORD_MAX, f"{cpu_us:.0f} us a record")
    database.close()
    case.injections = FUZZED_IN_CASE
    case.events += len(sent.records)
    case.note(refused=len(sent.refused), still_events=len(sent.accepted), cpu_us=round(cpu_us), cases=1)


def _applied(materializer: Materializer, batch: Sequence[SourceRecord]) -> Counter[Outcome]:
    try:
        return materializer.apply(batch).outcomes
    except Exception as exc:
        raise BrokenError(f"a batch of {len(batch)} ended the consumer: {exc!r:.300}") from exc


def assert_buried(
    cursor: duckdb.DuckDBPyConnection, sent: Sent, expected_partition: str = stream.PARTITION
) -> None:
    """Dead letters: exactly those, byte for byte, with their keys and origin, once."""
    rows = cursor.execute(
        "SELECT partition, record_offset, record, error, key FROM store.dead_letters"
    ).fetchall()
    found = {offset: value for _, offset, value, *_ in rows}
    must(len(found) == len(rows), "a record is buried twice")
    missing, more = sent.refused.keys() - found.keys(), found.keys() - sent.refused.keys()
    if missing:
        raise BrokenError(f"{len(missing)} taken that are no events: {sent.refused[min(missing)]!r:.300}")
    if more:
        raise BrokenError(f"{len(more)} buried that are events: {found[min(more)]!r:.300}")
    altered = [offset for offset, value in sent.refused.items() if found[offset] != value]
    if altered:
        raise BrokenError(
            f"{len(altered)} altered: {found[altered[0]]!r:.200} instead of {sent.refused[altered[0]]!r:.200}"
        )
    must(
        all(partition == expected_partition and error for partition, _, _, error, _ in rows),
        "a dead letter has another partition, or says no cause",
    )
    rekeyed = [offset for _, offset, _, _, key in rows if key != sent.records[offset].key]
    must(not rekeyed, f"{len(rekeyed)} dead letters have other keys than were sent")


_GOOD = """
SELECT r.id, r.completeness, r.liveness, r.conflicts,
       (SELECT list(payload ORDER BY sequence) FROM main.events e WHERE e.run_key = r.run_key)
FROM main.runs r WHERE r.id LIKE 'run-%' ORDER BY r.id
"""


def assert_good(cursor: duckdb.DuckDBPyConnection, sent: Sent) -> None:
    """Every good record, byte for byte, once."""
    rows = cursor.execute(_GOOD).fetchall()
    expected = [
        (f"run-{run:09d}", "complete", "finished", 0,
         [stream.payload(run, seq).decode() for seq in range(1, stream.LOGS + 1)])
        for run in range(sent.good_runs)
    ]  # fmt: skip
    wrong = [(row, wanted) for row, wanted in zip(rows, expected, strict=True) if row != wanted]
    if wrong:
        raise BrokenError(f"{len(wrong)} good runs are not what was sent: {wrong[0]!r:.400}")


_STORED = """
SELECT o.id, e.sequence, e.payload FROM main.events e JOIN main.orphans o USING (run_key)
UNION ALL SELECT r.id, e.sequence, e.payload FROM main.events e JOIN main.runs r USING (run_key) WHERE r.id NOT LIKE 'run-%'
"""


def assert_accepted(cursor: duckdb.DuckDBPyConnection, sent: Sent) -> None:
    """A fuzzed record that still is an event is somewhere: a row, a conflict, kept for an orphan, or the same as another."""
    stored = {(run_id, seq, text.encode()) for run_id, seq, text in cursor.execute(_STORED).fetchall()}
    aside = {row[0] for row in cursor.execute("SELECT record_offset FROM store.conflicts").fetchall()}
    aside |= {row[0] for row in cursor.execute("SELECT record_offset FROM store.kept").fetchall()}
    known = {
        row[0]
        for row in cursor.execute("SELECT id FROM main.runs UNION ALL SELECT id FROM main.orphans").fetchall()
    }
    before: set[tuple[Any, ...]] = set()
    for offset, event in sent.accepted.items():
        if not isinstance(event, RunEvent):
            continue
        if isinstance(event, RunStarted) and event.run_id not in known:
            raise BrokenError(f"the start at {offset} has no run")
        same = _same(event)
        if isinstance(event, RunLog) and not same & before and offset not in aside:
            row = (event.run_id, event.seq, event.payload_json)
            if row not in stored:
                raise BrokenError(f"the log at {offset} is nowhere: {event!r:.300}")
        before |= same


def _same(event: RunEvent) -> set[tuple[Any, ...]]:
    """By what a record counts as delivered before."""
    if isinstance(event, RunRefused) or not event.is_bare:
        return {(event.run_id, event.seq, event.tag)}
    numbers = {(event.run_id, "bare", event.seq)} if isinstance(event, RunLog) else set()
    return {(event.run_id, event.call_id)} | numbers
