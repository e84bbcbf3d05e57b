"""What a dead process can no longer say of itself: how many runs it began and ended, and where its open runs stand.

An adopter that read a source to its end publishes `source.closed` with the last number and head of each open run. The
head needs every event of the run, but acknowledged segments are deleted as they are consumed. So before a segment
goes, the manifest lines of the runs that are still open are carried over into the source's file `tally`; what is in
`tally` and in the segments that are left is always the whole of every open run. Runs that end within their segment,
the usual case, cost nothing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import orjson

from skillaudit.contract import digests, events
from skillaudit.contract.errors import OutboxCorruptError
from skillaudit.producer.forwarder_core import classify, is_bare_start
from skillaudit.producer.source import CLOSED_RUNS_MAX

MANIFEST_BYTES_MAX: Final = 8 * 1024 * 1024
"""Manifest lines carried at most, about 130 bytes an event. Past it the longest run is closed without a head: it is
not listed, and its tail reads unknown, never complete.
"""

_LOG: Final = re.compile(
    rb'\{"v":1,"type":"run\.log","run_id":"[^"\\]*(?:\\.[^"\\]*)*","seq":(\d+),"at_us":(\d+),"tag":"([0-9a-f]{16})",'
    rb'"event_type":("[^"\\]*(?:\\.[^"\\]*)*"),(?:"lost":"([0-9,-]+)",)?"payload":'
)
_START_FIELDS_END: Final = '"inputs":'


@dataclass(slots=True)
class CarriedRun:
    """An open run: its manifest so far."""

    salt: str
    source_seq: int
    manifest: bytearray
    events: int = 0
    known: bool = True
    """False once its head can't be computed: a number missing, a tag that disagrees, or no room."""

    def add(self, seq: int, header: bytes, body: bytes, tag: str) -> None:
        """Append an event."""
        digest = digests.event_digest(digests.event_salt(self.salt, seq), header, body)
        if seq != self.events or digest[: digests.TAG_DIGITS] != tag:
            self.forget()
        if self.known:
            self.manifest += digests.manifest_line(header, digest)
            self.events += 1

    def add_lost(self, first: int, last: int) -> None:
        """Put a declared loss in its place; one that doesn't follow what is known makes the head unknown."""
        if first == self.events <= last:
            self.manifest += digests.lost_line(first, last)
            self.events = last + 1
        else:
            self.forget()

    def forget(self) -> None:
        """Give the head up."""
        self.known = False
        self.manifest.clear()


@dataclass(slots=True)
class Tally:
    """Counts and open runs of one source through some segment."""

    through_segment: int = 0
    """Everything in segments up to this one is counted."""
    runs_started: int = 0
    runs_finished: int = 0
    runs: dict[bytes, CarriedRun] = field(default_factory=dict[bytes, CarriedRun])
    manifest_bytes_max: int = MANIFEST_BYTES_MAX

    def count(self, records: Iterable[bytes], needed: frozenset[bytes] | None = None) -> None:
        """Count the next records of the source, and carry the runs in `needed` (those still open later; None: all)."""
        for record in records:
            self._count(record, needed)

    def _count(self, record: bytes, needed: frozenset[bytes] | None) -> None:
        try:
            kind, key = classify(record)
        except ValueError:
            return  # no event: the consumer keeps it among its dead letters
        if kind == events.STARTED and not is_bare_start(record):
            try:
                self._begin(key, record, needed)
            except (ValueError, TypeError, KeyError, AttributeError):
                self.runs.pop(key, None)  # not as this version writes it: closed without a head
        elif kind == events.FINISHED:
            self.runs_finished += b'"by":"storage"' not in record[: len(key) * 6 + 128]
            self.runs.pop(key, None)
        elif kind == events.LOG and (run := self.runs.get(key)) is not None and run.known:
            _add_log(run, record)
            self._bound(run)

    def _begin(self, key: bytes, record: bytes, needed: frozenset[bytes] | None) -> None:
        members = orjson.loads(record)
        self.runs_started = max(self.runs_started, int(members["source_seq"]))
        if needed is None or key in needed:
            run = CarriedRun(members["salt"], members["source_seq"], _manifest_start(key))
            _add_start(run, record, members)
            self.runs[key] = run

    def keep(self, needed: frozenset[bytes]) -> None:
        """Forget the runs that ended later."""
        self.runs = {key: run for key, run in self.runs.items() if key in needed}

    def _bound(self, run: CarriedRun) -> None:
        if len(run.manifest) * len(self.runs) > self.manifest_bytes_max:
            total = sum(len(r.manifest) for r in self.runs.values())
            if total > self.manifest_bytes_max:
                max(self.runs.values(), key=lambda r: len(r.manifest)).forget()

    def counts(self) -> events.SourceCounts:
        """What `source.closed` says. At most `CLOSED_RUNS_MAX` open runs, the oldest first."""
        known = [(key, run) for key, run in self.runs.items() if run.known]
        return events.SourceCounts(
            runs_started=self.runs_started,
            runs_finished=self.runs_finished,
            open=tuple(
                events.OpenRun(
                    run_id=key.decode(),
                    source_seq=run.source_seq,
                    events=run.events,
                    head=sha256(run.manifest).hexdigest(),
                )
                for key, run in known[:CLOSED_RUNS_MAX]
            ),
        )

    def encode(self) -> bytes:
        """As kept in the file `tally`."""
        return orjson.dumps(
            {
                "through_segment": self.through_segment,
                "runs_started": self.runs_started,
                "runs_finished": self.runs_finished,
                "runs": [
                    {
                        "run_id": key.decode(),
                        "salt": run.salt,
                        "source_seq": run.source_seq,
                        "events": run.events,
                        "known": run.known,
                        "manifest": run.manifest.decode(),
                    }
                    for key, run in self.runs.items()
                ],
            }
        )

    @classmethod
    def decode(cls, text: bytes) -> Tally:
        """Inverse of `encode`; raises `OutboxCorruptError`."""
        try:
            members: dict[str, Any] = orjson.loads(text)
            runs = {
                r["run_id"].encode(): CarriedRun(
                    r["salt"], r["source_seq"], bytearray(r["manifest"].encode()), r["events"], r["known"]
                )
                for r in members.pop("runs")
            }
            return cls(runs=runs, **members)
        except (ValueError, TypeError, KeyError, AttributeError) as exc:
            raise OutboxCorruptError(
                f"a source's file `tally` is damaged ({exc}); remove it: open runs are then closed without heads"
            ) from exc


def _manifest_start(key: bytes) -> bytearray:
    return bytearray(b"skillaudit run 1\n%b\n" % digests.T(key))


def _add_start(run: CarriedRun, record: bytes, members: dict[str, Any]) -> None:
    inputs, attributes = _last_two_objects(record)
    values = {
        "caller_id": members["caller_id"].encode(),
        "channel_id": members["channel_id"].encode(),
        "inputs": inputs,
        "attributes": attributes,
    }
    header = digests.start_header(
        members["at_us"],
        members["parent_run_id"],
        members["skill_id"],
        members["source_id"],
        members["source_seq"],
    )
    body = digests.fields_body(run.salt, 0, [(name, values[name]) for name in digests.START_FIELDS])
    run.add(0, header, body, members["tag"])


def _last_two_objects(record: bytes) -> tuple[bytes, bytes]:
    """The bytes of `inputs` and `attributes`, which end a start: everything before them holds no raw quote but those
    of JSON strings, so the first `"inputs":` outside a string's content is the member (a quote inside is escaped).
    """
    text = record.decode()
    begin = text.index(_START_FIELDS_END) + len(_START_FIELDS_END)
    _, end = json.JSONDecoder().raw_decode(text, begin)
    rest = text[end:]
    return text[begin:end].encode(), rest[len(',"attributes":') : -1].encode()


def _add_log(run: CarriedRun, record: bytes) -> None:
    match = _LOG.match(record)
    if match is None:
        run.forget()
        return
    seq = int(match[1])
    if match[5] and seq != run.events:
        run.add_lost(*events.parse_ranges(match[5].decode())[-1])
    header = digests.log_header(seq, int(match[2]), orjson.loads(match[4]))
    run.add(seq, header, record[match.end() : -1], match[3].decode())
