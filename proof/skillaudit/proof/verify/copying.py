"""What a record of Kafka says of its run, as far as it is compared: its number, its tag, and the tag that its content has.

Digests are computed from the record's own content and the salt that its run's start in Kafka carries; where that start is not
read, from the salt of the run's row. Where neither is known, the record's own tag is all there is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from skillaudit.contract.digests import (
    FINISH_FIELDS,
    START_FIELDS,
    TAG_DIGITS,
    event_digest,
    event_salt,
    event_salts,
    fields_body,
    finish_header,
    log_header,
    run_hash,
    start_header,
)
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.sources import SourceRecord
from skillaudit.contract.wire import (
    RunEvent,
    RunFinished,
    RunLog,
    RunRefused,
    RunStarted,
    fast_log,
    parse_record,
)

SALTS_MAX: Final = 50_000
"""Runs whose salt is remembered; of one that was put out for others it is asked for again."""


class What(IntEnum):
    """What a record is. From `BARE` on a bare Storage's: nothing proves these."""

    __str__ = int.__repr__

    START = 0
    LOG = 1
    FINISH = 2
    REFUSED = 3
    BARE_START = 10
    BARE_LOG = 11
    BARE_FINISH = 12


BARE: Final = 10


class CopiedRecord(NamedTuple):
    """One record, as it is kept for the comparison."""

    what: int
    seq: int
    tag: int
    """As the record says."""
    digest: int
    """The tag of the record's content; `tag` where the run's salt is not known."""
    source: int
    """Of starts and finishes, the hash of the source's id; else 0."""
    offset: int


@dataclass(slots=True)
class CopiedPortion:
    """Column by column, as the engine takes them."""

    runs: dict[str, int | None] = field(default_factory=dict[str, int | None])
    """Runs of which it holds records -> when they started, where it holds the start."""
    hashes: list[int] = field(default_factory=list[int])
    records: list[CopiedRecord] = field(default_factory=list[CopiedRecord])
    events: list[RunEvent] = field(default_factory=list[RunEvent])
    """The records of `records`."""


AskSalts = Callable[[Collection[str]], Mapping[str, str]]
"""Run ids -> the salts of their rows, 32 hex digits; a run that has none is left out."""


class Copier:
    """Takes the records of one partition in the order of their offsets."""

    def __init__(self, ask_salts: AskSalts, run_id: str | None = None) -> None:
        """`run_id`: only this run's."""
        self._ask_salts = ask_salts
        self._run_id = run_id
        self._salts = OrderedDict[str, _Salts]()
        self.unread = 0
        """Records that are no events of this format: dead letters of whoever reads them."""

    def take(self, records: Collection[SourceRecord]) -> CopiedPortion:
        """What they say."""
        found = [(it.offset, event) for it in records if (event := self._event(it)) is not None]
        self._learn(found)
        portion = CopiedPortion()
        hashes = dict[str, int]()
        for offset, event in found:
            run_id = event.run_id
            known = hashes.get(run_id)
            if known is None:
                known = hashes[run_id] = run_hash(run_id)
                portion.runs.setdefault(run_id, None)
            if isinstance(event, RunStarted) and portion.runs[run_id] is None:
                portion.runs[run_id] = event.at_us
            portion.hashes.append(known)
            portion.records.append(self._copied(event, offset))
            portion.events.append(event)
        return portion

    def _event(self, record: SourceRecord) -> RunEvent | None:
        value = record.value
        if value is None:
            self.unread += 1
            return None
        if self._run_id is not None and self._run_id.encode() not in value and b"\\" not in value:
            return None  # an id that is written otherwise has an escape
        try:
            event = fast_log(value) or parse_record(value)
        except InvalidRecordError:
            self.unread += 1
            return None
        if not isinstance(event, RunStarted | RunLog | RunFinished | RunRefused):
            return None
        return event if self._run_id in {None, event.run_id} else None

    def _learn(self, found: Collection[tuple[int, RunEvent]]) -> None:
        """The salts of these runs, from their starts, which mostly come first, or else from the database."""
        wanted = set[str]()
        for _, event in found:
            if event.run_id in self._salts:
                continue
            if isinstance(event, RunStarted):
                self._salts[event.run_id] = _Salts(event.salt)
                wanted.discard(event.run_id)
            else:
                wanted.add(event.run_id)
        if wanted:
            asked = self._ask_salts(wanted)
            self._salts.update((run_id, _Salts(asked.get(run_id, ""))) for run_id in sorted(wanted))

    def _copied(self, event: RunEvent, offset: int) -> CopiedRecord:
        if isinstance(event, RunRefused):
            return CopiedRecord(What.REFUSED, event.seq, event.tag, event.tag, 0, offset)
        what = _WHAT[type(event)]
        if event.is_bare:
            return CopiedRecord(what + BARE, event.seq, 0, 0, 0, offset)
        digest = self._salts[event.run_id].digest(event) or event.tag
        source = 0 if isinstance(event, RunLog) else run_hash(event.source_id)
        return CopiedRecord(what, event.seq, event.tag, digest, source, offset)

    def forget(self) -> None:
        """Between portions: salts of the runs that were met first, where there are too many."""
        while len(self._salts) > SALTS_MAX:
            self._salts.popitem(last=False)


_WHAT: Final = {RunStarted: What.START, RunLog: What.LOG, RunFinished: What.FINISH}


class _Salts:
    """A run's salt, and those of two events that follow each other."""

    __slots__ = ("_pair", "_run_salt", "_salts")

    def __init__(self, run_salt: str) -> None:
        self._run_salt = run_salt
        self._pair = -1
        self._salts = b"", b""

    def digest(self, event: RunStarted | RunLog | RunFinished) -> int | None:
        """The tag of its content."""
        if not self._run_salt:
            return None
        if isinstance(event, RunLog):
            pair = event.seq // 2
            if pair != self._pair:
                self._pair, self._salts = pair, event_salts(self._run_salt, pair)
            header = log_header(event.seq, event.at_us, event.event_type)
            return _tag(event_digest(self._salts[event.seq % 2], header, event.payload_json))
        header = _start_of(event) if isinstance(event, RunStarted) else _finish_of(event)
        body = fields_body(self._run_salt, event.seq, fields_of(event).items())
        return _tag(event_digest(event_salt(self._run_salt, event.seq), header, body))


def fields_of(event: RunStarted | RunFinished) -> dict[str, bytes]:
    """The redactable fields of a start or a finish, in their order."""
    if isinstance(event, RunStarted):
        caller, channel = event.caller_id.encode(), event.channel_id.encode()
        values = (caller, channel, event.inputs_json, event.attributes_json)
        return dict(zip(START_FIELDS, values, strict=True))
    return dict(zip(FINISH_FIELDS, (event.output.encode(), event.error.encode()), strict=True))


def _start_of(event: RunStarted) -> bytes:
    return start_header(event.at_us, event.parent_run_id, event.skill_id, event.source_id, event.source_seq)


def _finish_of(event: RunFinished) -> bytes:
    tokens = event.input_tokens, event.output_tokens, event.thinking_tokens
    counts = event.tool_calls, event.runtime_us, *tokens
    return finish_header(event.seq, event.at_us, event.status, *counts, event.lost)


def _tag(digest: str) -> int:
    return int(digest[:TAG_DIGITS], 16)
