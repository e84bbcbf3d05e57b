"""One run's facts: what the tables hold of it, what its digests and head are when they are computed anew, what the ledger
says. Read in chunks and computed as it comes, so that a run of any length fits; judged in `judging`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import chain
from operator import itemgetter
from typing import Any, Final, NamedTuple

from skillaudit.contract import ranges
from skillaudit.contract.digests import (
    FINISH_FIELDS,
    START_FIELDS,
    TAG_DIGITS,
    T,
    event_digest,
    event_salts,
    field_digest,
    field_salt,
    finish_header,
    log_header,
    lost_line,
    manifest_line,
    run_hash,
    start_header,
)
from skillaudit.contract.events import format_ranges, parse_ranges
from skillaudit.contract.ranges import Ranges
from skillaudit.contract.redacted import JSON_FIELDS, REDACTED_TEXT, redacted_json
from skillaudit.proof.verify.engine import Engine

UNSALTED: Final = ""
"""Digest of an event whose salt is gone without anything in its place."""
SORTED_HERE_EVENTS_MAX: Final = 5_000
"""Of a run up to this long the engine need not sort the logs, which takes it longer to plan than to do."""
BROKERS_APART_US_MAX: Final = 10_000_000
"""Clocks of two brokers differ by no more: a run is cut where its partition is read so far beyond its listing."""
_LISTINGS: Final = frozenset({"progress", "closed"})
ALTERED_MAX: Final = 100
"""Altered events of one run that are told one by one."""


class Mark(NamedTuple):
    """What one row of the ledger says of a run."""

    kind: str
    partition: str
    idx: int
    source_id: str
    source_seq: int
    events: int
    head: bytes | None
    received_us: int
    offset: int

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"{self.partition}#{self.idx}"


class Redaction(NamedTuple):
    """What stands in the place of something taken out."""

    seq: int
    field: str | None
    digest: bytes
    act_id: str


class AlteredEvent(NamedTuple):
    """An event whose tag is not that of its content."""

    seq: int
    event_type: str
    at_us: int
    unsalted: bool


@dataclass(slots=True, kw_only=True)
class RunFacts:
    """Everything there is to judge about one run."""

    row: Mapping[str, Any]
    marks: Sequence[Mark] = ()
    ahead: frozenset[Mark] = frozenset()
    """Listings in other partitions, received after all that is known to be read of the run's own: what they count may
    still be on its way.
    """
    redactions: Sequence[Redaction] = ()
    refused: Ranges = ()
    declared: Ranges = ()
    """Declared lost by the agent: the run's `lost` without what the broker refused."""
    lost_readable: bool = True
    stored_conflicts: int = 0
    before_ledger: bool = False
    """The run may have started in what an earlier release stored without a ledger, or in a dead letter replayed later."""
    logs: Ranges = ()
    logs_stored: int = 0
    repeated: Ranges = ()
    altered: list[AlteredEvent] = field(default_factory=list[AlteredEvent])
    altered_more: int = 0
    backwards: int | None = None
    """The first event that is dated before its predecessor."""
    last_us: int | None = None
    heads: dict[int, bytes] = field(default_factory=dict[int, bytes])
    """Number of events -> the head through them, for each prefix that is whole and that a mark speaks of."""
    head: bytes | None = None
    """The head through everything stored."""

    @property
    def run_id(self) -> str:
        """The run."""
        return str(self.row["id"])

    @property
    def finished(self) -> bool:
        """Whether a finish is stored."""
        return self.row["finish_seq"] is not None


_LINES_MAX: Final = 256
"""Manifest lines kept unhashed: hashing many at once takes a tenth of the time."""


class _Manifest:
    """The manifest as it grows, and its heads at the prefixes asked for."""

    def __init__(self, run_id: str, wanted: set[int]) -> None:
        self._hash = sha256(b"skillaudit run 1\n%b\n" % T(run_id.encode()))
        self._lines: list[bytes] = []
        self._wanted = wanted
        self.covered = 0
        self.whole = True
        self.heads: dict[int, bytes] = {}

    def add(self, seq: int, numbers: int, line: bytes) -> None:
        self._lines.append(line)
        self.whole = self.whole and seq == self.covered
        self.covered += numbers
        if self.whole and self.covered in self._wanted:
            self.heads[self.covered] = self.head()
        elif len(self._lines) >= _LINES_MAX:
            self.head()

    def head(self) -> bytes:
        self._hash.update(b"".join(self._lines))
        self._lines.clear()
        return self._hash.digest()


class _Numbers:
    """Numbers as they come, nearly all in order and without gaps, and how many there were."""

    def __init__(self) -> None:
        self.count = 0
        self._ranges: Ranges = ranges.EMPTY
        self._low, self._high = 0, -1

    def add(self, number: int) -> None:
        if number == self._high + 1:
            self._high = number
        else:
            self._ranges = self.numbers()
            self._low = self._high = number
        self.count += 1

    def numbers(self) -> Ranges:
        return ranges.add_range(self._ranges, self._low, self._high)


class _Salts:
    """Salts and redactions of one run: derived from its own salt, or what a redaction left."""

    def __init__(
        self,
        run_salt: str | None,
        left: Sequence[tuple[int, str | None, str]],
        redactions: Sequence[Redaction],
    ) -> None:
        self._run_salt = run_salt
        self._pair = -1
        self._salts = b"", b""
        self._left = {(seq, name): salt for seq, name, salt in left}
        self.digests = {(it.seq, it.field): it.digest.hex() for it in redactions}
        self.acts = {(it.seq, it.field): it.act_id for it in redactions}
        self._plain = "" if left or redactions else run_salt or ""
        """The run's own salt where nothing else stands for any event's."""

    def of(self, seq: int, name: str | None = None) -> bytes | None:
        left = self._left.get((seq, name)) if self._left else None
        if left is not None:
            return left.encode()
        if self._run_salt is None:
            return None
        return self._of_event(self._run_salt, seq) if name is None else field_salt(self._run_salt, seq, name)

    def _of_event(self, run_salt: str, seq: int) -> bytes:
        """One hash gives the salts of two events that follow each other."""
        pair = seq // 2
        if pair != self._pair:
            self._pair, self._salts = pair, event_salts(run_salt, pair)
        return self._salts[seq % 2]

    def refilled(self, seq: int, name: str | None, content: str) -> bool:
        """Whether something else than the mark of the redaction stands in the place of what was taken out."""
        act_id = self.acts.get((seq, name)) if self.acts else None
        if act_id is None:
            return False
        plain = name is not None and name not in JSON_FIELDS
        return content != (REDACTED_TEXT if plain else redacted_json(act_id))

    def digest(self, seq: int, header: bytes, body: bytes | None) -> str:
        if self._plain and body is not None:  # mostly
            return event_digest(self._of_event(self._plain, seq), header, body)
        stood = self.digests.get((seq, None)) if self.digests else None
        if stood is not None:
            return stood
        salt = self.of(seq)
        return UNSALTED if salt is None or body is None else event_digest(salt, header, body)

    def fields(self, seq: int, names: Sequence[str], row: Mapping[str, Any]) -> bytes | None:
        """The body of a start or finish; None where a field's salt is gone without a digest in its place."""
        lines: list[bytes] = []
        for name in names:
            digest = self.digests.get((seq, name), "").encode()
            if not digest:
                salt = self.of(seq, name)
                if salt is None:
                    return None
                digest = field_digest(salt, name, str(row[name]).encode())
            lines.append(b"%b %b\n" % (name.encode(), digest))
        return b"".join(lines)


class _Line(NamedTuple):
    seq: int
    header: bytes
    body: bytes | None
    tag: int | None
    at_us: int
    event_type: str
    is_log: bool = True
    refilled: bool = False


def read_facts(
    engine: Engine, row: Mapping[str, Any], sealed: Callable[[], Sequence[Mark]] = tuple[Mark, ...]
) -> RunFacts:
    """All facts of the run of this row of `runs`, as the engine sees them: in its snapshot, where there is one. `sealed`: asked for the ledger's rows of runs of this
    id, as late as possible; they are read here unless it gives both ends of the run.
    """
    key = {"run_key": row["run_key"]}
    rest, events = _content(engine, row)
    found = sealed()
    marks = found if _has_ends(found, row) else _marks(engine, row)
    refused = engine.rows("one.sql", "refused_of_run", **key) if "kept" in rest else []
    facts = RunFacts(
        row=row,
        marks=[mark for mark in marks if mark.partition.rpartition("/")[0] == row["topic"]],
        redactions=[
            Redaction(seq, name, bytes.fromhex(digest), act_id)
            for seq, name, digest, act_id in rest.get("redaction", ())
        ],
        refused=ranges.of(seq for (seq,) in refused),
        stored_conflicts=sum(number for number, *_ in rest.get("conflicts", ())),
    )
    facts.before_ledger = _before_ledger(engine, facts)
    facts.ahead = _ahead(engine, facts)
    try:
        facts.declared = ranges.subtract(ranges.normalized(parse_ranges(row["lost"])), facts.refused)
    except ValueError:
        facts.lost_readable = False
    left = [(seq, name, salt) for seq, name, salt, _ in rest.get("salt", ())]
    _compute(facts, _Salts(row["salt"], left, facts.redactions), events)
    return facts


_Rows = Sequence[tuple[Any, ...]]


def _content(engine: Engine, row: Mapping[str, Any]) -> tuple[Mapping[str, _Rows], Iterable[tuple[Any, ...]]]:
    """The rest of the run by its kind, and the run's logs by number: read at once and sorted here where they are few, as
    its row says and it turns out.
    """
    key = {"run_key": row["run_key"]}
    if row["events_stored"] <= SORTED_HERE_EVENTS_MAX:
        whole = row["salt"] is not None and row["events_stored"] + 1 == row["finish_seq"]
        if whole and (sealed := _sealed(engine, row)) is not None:
            return {}, sealed
        name = "content_of_whole_run" if whole else "content_of_short_run"
        few: list[tuple[Any, ...]] = []
        for chunk in engine.chunks("one.sql", name, **key):
            few += chunk
            if len(few) > SORTED_HERE_EVENTS_MAX:
                break
        else:
            events = [found[1:6] for found in few if found[0] == "event"]
            rest = [
                (what, seq, name, text, act) for what, seq, name, _, _, text, act in few if what != "event"
            ]
            if whole and (len(events) != row["events_stored"] or any(it[0] == "redaction" for it in rest)):
                rest = engine.rows("one.sql", "rest_of_run", **key)
            return _by_kind(rest), sorted(events, key=itemgetter(0))
    rest = engine.rows("one.sql", "rest_of_run", **key)
    return _by_kind(rest), chain.from_iterable(engine.chunks("one.sql", "events_of_run", **key))


def _sealed(engine: Engine, row: Mapping[str, Any]) -> _Rows | None:
    """The run's logs, where they are all that is stored of it and have all been sealed: a statement of one table is done in
    half of the time of one of five, whose parts the engine hands from thread to thread. None: look at everything.
    """
    key = {"run_key": row["run_key"]}
    if engine.rows("one.sql", "beside_sealed", **key):
        return None
    events: list[tuple[Any, ...]] = []
    for chunk in engine.chunks("one.sql", "sealed_of_run", **key):
        events += chunk
        if len(events) > row["events_stored"]:
            return None
    return sorted(events, key=itemgetter(0)) if len(events) == row["events_stored"] else None


def _by_kind(rest: _Rows) -> Mapping[str, _Rows]:
    found: dict[str, list[tuple[Any, ...]]] = {}
    for what, *members in rest:
        found.setdefault(what, []).append(tuple(members))
    return found


def marks_of_run(engine: Engine, run_id: str) -> list[Mark]:
    """All that the ledger says of runs of this id, by partition and index."""
    return _sorted(engine.rows("one.sql", "marks_of_run", run_id=run_id))


def _marks(engine: Engine, row: Mapping[str, Any]) -> list[Mark]:
    """By the hash of the run's id: not believed where that does not give both ends of the run."""
    key = {"run_hash": run_hash(row["id"]), "run_id": row["id"]}
    found = _sorted(engine.rows("one.sql", "marks_of_hash", **key))
    return found if _has_ends(found, row) else marks_of_run(engine, row["id"])


def _has_ends(marks: Iterable[Mark], row: Mapping[str, Any]) -> bool:
    return row["finish_seq"] is not None and {mark.kind for mark in marks} >= {"start", "finish"}


def _sorted(rows: _Rows) -> list[Mark]:
    return sorted((Mark(*row) for row in rows), key=lambda mark: (mark.partition, mark.idx))


def _before_ledger(engine: Engine, facts: RunFacts) -> bool:
    """Asked only where a row of the ledger is missed: mostly none is."""
    kinds = {mark.kind for mark in facts.marks}
    if "start" in kinds and ("finish" in kinds or not facts.finished):
        return False
    names = ("run_key", "topic", "partition", "record_offset")
    place = {name: facts.row[name] for name in names}
    return bool(engine.rows("one.sql", "before_ledger", run_id=facts.run_id, **place)[0][0])


def _ahead(engine: Engine, facts: RunFacts) -> frozenset[Mark]:
    """A source's word is sent after what it counts; partitions are read independently, so it may be read before, and stamped
    by a broker whose clock is behind. What a source counted is all read once it is closed.
    """
    own = facts.row["partition"]
    apart = [mark for mark in facts.marks if mark.kind in _LISTINGS and mark.partition != own]
    if not apart or any(mark.kind == "finish" for mark in facts.marks):
        return frozenset()
    read_to_us, closed = engine.rows("one.sql", "read_to", partition=own, source_id=facts.row["source_id"])[0]
    if closed or not read_to_us:
        return frozenset()
    return frozenset(mark for mark in apart if mark.received_us + BROKERS_APART_US_MAX >= read_to_us)


def _compute(facts: RunFacts, salts: _Salts, events: Iterable[tuple[Any, ...]]) -> None:
    row = facts.row
    manifest = _Manifest(facts.run_id, {mark.events for mark in facts.marks})
    losses = iter(facts.declared)
    loss = next(losses, None)
    before_us: int | None = None
    last_us: int | None = None
    last_seq, logs = -1, _Numbers()
    for line in _lines(events, row, salts, facts.declared):
        while loss is not None and loss[0] < line.seq:
            manifest.add(loss[0], loss[1] - loss[0] + 1, lost_line(*loss))
            loss = next(losses, None)
        digest = salts.digest(line.seq, line.header, line.body)
        manifest.add(line.seq, 1, manifest_line(line.header, digest))
        wrong = digest == UNSALTED or line.tag is None or int(digest[:TAG_DIGITS], 16) != line.tag
        if wrong or line.refilled:
            _note_altered(facts, line, unsalted=digest == UNSALTED)
        if line.seq == last_seq:
            facts.repeated = ranges.add(facts.repeated, line.seq)
        elif before_us is not None and line.at_us < before_us and facts.backwards is None:
            facts.backwards = line.seq
        before_us, last_seq = line.at_us, line.seq
        if last_us is None or line.at_us > last_us:
            last_us = line.at_us
        if line.is_log:
            logs.add(line.seq)
    facts.logs, facts.logs_stored, facts.last_us = logs.numbers(), logs.count, last_us
    facts.heads, facts.head = manifest.heads, manifest.head()


def _note_altered(facts: RunFacts, line: _Line, *, unsalted: bool) -> None:
    if len(facts.altered) < ALTERED_MAX:
        facts.altered.append(AlteredEvent(line.seq, line.event_type, line.at_us, unsalted))
    else:
        facts.altered_more += 1


def _lines(
    events: Iterable[tuple[Any, ...]], row: Mapping[str, Any], salts: _Salts, declared: Ranges
) -> Iterator[_Line]:
    """Start, logs and finish in the order of their numbers; of equal numbers the logs first."""
    start = start_header(
        row["started_us"], row["parent_run_id"], row["skill_id"], row["source_id"], row["source_seq"]
    )
    body = salts.fields(0, START_FIELDS, row)
    refilled = any(salts.refilled(0, name, str(row[name])) for name in START_FIELDS)
    yield _Line(0, start, body, row["start_tag"], row["started_us"], "start", is_log=False, refilled=refilled)
    finish = _finish_line(row, salts, declared)
    for seq, event_type, at_us, tag, payload in events:
        if finish is not None and seq > finish.seq:
            yield finish
            finish = None
        refilled = bool(salts.acts) and salts.refilled(seq, None, payload)
        header = log_header(seq, at_us, event_type)
        yield _Line(seq, header, payload.encode(), tag, at_us, event_type, True, refilled)
    if finish is not None:
        yield finish


def _finish_line(row: Mapping[str, Any], salts: _Salts, declared: Ranges) -> _Line | None:
    seq = row["finish_seq"]
    if seq is None or row["finished_us"] is None:
        return None
    header = finish_header(
        seq,
        row["finished_us"],
        row["status"],
        row["tool_calls_count"],
        row["runtime_us"],
        row["total_input_tokens"],
        row["total_output_tokens"],
        row["total_thinking_tokens"],
        format_ranges(declared),
    )
    body = salts.fields(seq, FINISH_FIELDS, row)
    refilled = any(salts.refilled(seq, name, str(row[name])) for name in FINISH_FIELDS)
    return _Line(
        seq, header, body, row["finish_tag"], row["finished_us"], "finish", is_log=False, refilled=refilled
    )
