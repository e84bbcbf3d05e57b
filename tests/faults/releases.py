"""Other releases of agents and consumers, as far as the format goes: what they would write, and what they would read.

A run's records are all of one kind, chosen by its id: as this release writes them; version 1 with members that this
release does not know; version 2, which names the number `sequence`. A newer agent writes types besides that this release
does not know. A consumer of that newer release reads all of it but the types.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

from tests.faults.agent import Notebook, Plan, record
from tests.faults.oracle import Account, read_accounts
from tests.faults.rows import Case

from skillaudit.consumer.staging import parse_value
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.eventlog import EventLog, RecordKind
from skillaudit.contract.settings import Settings
from skillaudit.contract.wire import Event
from skillaudit.producer import Sink
from skillaudit.producer.outbox import OutboxLog

EXTRA = (
    (b'"inputs":', b'"trace_id":"4bf92f3577b34da6","tenant":{"id":7,"name":"\xc3\xa9"},"inputs":'),
    (b'"payload":', b'"span":"00f067aa0ba902b7","cost_usd":0.0125,"payload":'),
    (b'"head":"', b'"carbon_g":[1.5,null],"head":"'),
    (b'"backlog_records":', b'"cpu_percent":12.5,"backlog_records":'),
)
PAUSED = b'{"v":1,"type":"run.paused","run_id":"%b","at_us":1,"reason":"a person is asked"}'
MOVED = b'{"v":1,"type":"source.moved","source_id":"%b","at_us":1,"to":"another host"}'
V2_MOVED = b'{"v":2,"type":"source.moved","source_id":"%b","when":"2031-01-01T00:00:00Z"}'
SAME, MORE, SECOND = "same", "more", "second"
KINDS = (SAME, MORE, SECOND)


def kind_of(key: str, kinds: Sequence[str] = KINDS) -> str:
    """Of which kind the records of a run are; a source's have members more."""
    return MORE if len(key) == 32 else kinds[crc32(key.encode()) % len(kinds)]


def newer(key: str, record: bytes, kinds: Sequence[str] = KINDS) -> bytes:
    """A record as the newer release writes it."""
    kind = kind_of(key, kinds)
    if kind == MORE:
        for before, after in EXTRA:
            record = record.replace(before, after, 1)
    elif kind == SECOND:
        record = record.replace(b'"v":1', b'"v":2', 1).replace(b'"seq":', b'"sequence":', 1)
    return record


def parse_newer(value: bytes | None) -> Event:
    """What the newer release's consumer reads: version 2, too."""
    if value is not None and value.startswith(b'{"v":2,"type":"run.'):
        value = value.replace(b'"v":2', b'"v":1', 1).replace(b'"sequence":', b'"seq":', 1)
    return parse_value(value)


def parse_demanding(value: bytes | None) -> Event:
    """A consumer that takes for granted what came later."""
    if value is not None and b'"trace_id":' not in value:
        raise InvalidRecordError("field trace_id is missing")
    return parse_value(value)


class NewerLog:
    """The event log of an agent of the newer release."""

    def __init__(self, log: EventLog, *, unknown_types: bool = True, kinds: Sequence[str] = KINDS) -> None:
        self._log = log
        self._unknown_types = unknown_types
        self._kinds = kinds
        self.unknown: list[bytes] = []
        """What it wrote that this release has no name for."""
        self.written: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    def append(self, key: str, record: bytes, kind: RecordKind, *, wait_ms: int) -> int:
        """As the log's."""
        return self.append_many([(key, record, kind)], wait_ms=wait_ms)

    def append_many(self, items: Sequence[tuple[str, bytes, RecordKind]], *, wait_ms: int) -> int:
        """As the log's."""
        made = [(key, newer(key, record, self._kinds), kind) for key, record, kind in items]
        for key, text, _ in list(made) if self._unknown_types else ():
            if b'"type":"run.started"' in text and crc32(text) % 3 == 0:
                made += [(key, unknown, RecordKind.LOG) for unknown in self._unknown(key)]
        self.written += [text for _, text, _ in made]
        return self._log.append_many(made, wait_ms=wait_ms)

    def _unknown(self, key: str) -> list[bytes]:
        source_id = self._log.source_id.encode()
        texts = [PAUSED % key.encode(), MOVED % source_id, V2_MOVED % source_id]
        self.unknown += texts
        return texts


PLAN = {"runs": 60, "open_at_once": 8, "logs_max": 8, "payload_bytes": 150}


def record_by(case: Case, settings: Settings, name: str, second: str) -> dict[str, Account]:
    """An agent in this process, which nobody forwards; what it noted. `second`: `all` of its runs are in version 2, or they
    are `mixed`; empty: none.
    """
    account = case.directory / f"account-{name}.jsonl"
    kinds = {"all": (SECOND,), "mixed": (SAME, SECOND), "": (SAME,)}[second]
    log = NewerLog(OutboxLog(settings), unknown_types=False, kinds=kinds)
    sink = Sink(log)
    plan = Plan(account=str(account), seed=case.seed, **(PLAN | ({"runs": 200} if second else {})))
    record(sink, plan, Notebook(str(account)), 0)
    sink.close(0)
    return read_accounts([account])
