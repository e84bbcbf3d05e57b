"""Stored events against the records that brought them, as far as Kafka still holds these.

Partition by partition: runs never span them. The records are read up to where the database has consumed, as far as possible
before anything is compared; then one snapshot is opened, what a live consumer took meanwhile is read too, and all is compared
in that snapshot, set-wise. What differs is then judged number by number (`comparing.py`), by the consumer's own rules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

from skillaudit.contract.digests import run_hash
from skillaudit.contract.errors import SkillauditError
from skillaudit.contract.sources import SourceRecord, record_digest
from skillaudit.contract.words import counted
from skillaudit.proof.findings import Finding, Findings, Kind, Severity
from skillaudit.proof.verify.comparing import DoubtfulRun, StoredTag, judge_doubtful
from skillaudit.proof.verify.content import RunContent
from skillaudit.proof.verify.copying import CopiedPortion, CopiedRecord, Copier, What
from skillaudit.proof.verify.engine import Engine, told_where_not
from skillaudit.proof.verify.judging import CLOCK_AHEAD_US_MAX
from skillaudit.proof.verify.records import Bounds, Records
from skillaudit.proof.verify.request import VerifyRequest

FILE: Final = "against.sql"
NUMBERS_MAX: Final = 10_000
"""Differing numbers that are judged at once."""
BEHIND_RECORDS_MAX: Final = 10_000
"""A live consumer takes some more while the records are read: so few are read in the snapshot."""
ROUNDS_MAX: Final = 8
"""How often the reading follows a live consumer before the snapshot is opened all the same."""
EDGE_RECORDS: Final = 1_000
"""Where retention took the beginning: a batch may land before an earlier one, so that of a run that starts right behind it
earlier records may be gone."""


_COLUMNS: Final = ("run_hashes", "whats", "seqs", "tags", "digests", "sources", "offsets")


class NotComparableError(SkillauditError):
    """What Kafka holds is not what this database consumed; nothing can be said of its records."""

    exit_code = 7


class Position(NamedTuple):
    """How far the database has consumed a partition."""

    partition: str
    cluster: str
    next_offset: int
    last_offset: int
    last_digest: str

    @property
    def topic(self) -> str:
        """The partition's topic."""
        return self.partition.rpartition("/")[0]


@dataclass(slots=True, kw_only=True)
class Compared:
    """What was held against Kafka, for the report."""

    by: str
    """Who read the records."""
    cluster: str = ""
    runs: int = 0
    """In the scope."""
    compared: int = 0
    """Of these, those of which Kafka holds all;"""
    partly: int = 0
    """those of which it has no longer the beginning."""
    records: int = 0
    """Read."""
    beyond: int = 0
    """Records that Kafka holds and the database has not consumed."""
    partitions: dict[str, list[int]] = field(default_factory=dict[str, list[int]])
    """Partition -> the offsets that were compared: from the first on, below the second."""
    violations: int = 0
    unchecked: int = 0


@dataclass(slots=True)
class _Reading:
    """How far the records of a partition are read."""

    partition: str
    begin: int
    """Kafka holds nothing before it, or nothing before it is asked for."""
    at: int
    copier: Copier
    content: RunContent | None
    last: SourceRecord | None = None


class AgainstCheck:
    """One comparison; findings and totals grow as it goes."""

    def __init__(
        self, engine: Engine, request: VerifyRequest, records: Records, *, edge_records: int = EDGE_RECORDS
    ) -> None:
        """`records` stays the caller's."""
        self._engine = engine
        self._request = request
        self._records = records
        self._edge = edge_records
        self._time = {"since_us": request.since_us, "until_us": request.until_us}
        self._scope = {**self._time, "run_id": request.run_id}
        self._done = 0
        self._of = 0
        self.findings = Findings()
        self.totals = Compared(by=records.by)

    def check(self) -> None:
        """All that the request names."""
        with told_where_not(self.findings, "the records that Kafka holds"):
            self._check()
        self.totals.violations = self.findings.of(Severity.VIOLATION)
        self.totals.unchecked = self.findings.of(Severity.UNCHECKED)

    def _check(self) -> None:
        positions = self._positions()
        if not positions:
            raise NotComparableError(
                f"the database has consumed nothing of {', '.join(self._records.topics)}; name the topics that it consumed"
                " (SKILLAUDIT_KAFKA_TOPIC)"
            )
        bounds = self._records.bounds(sorted(positions))
        self.totals.cluster = self._records.cluster
        run_id = self._request.run_id
        if run_id is None:
            self._check_all(positions, bounds)
        elif not self._engine.rows(FILE, "purged_run", run_id=run_id)[0][0]:
            self._check_run(run_id, positions, bounds)
        self._count_runs()

    def _check_all(self, positions: Mapping[str, Position], bounds: Mapping[str, Bounds]) -> None:
        firsts = {name: self._first(it, bounds) for name, it in positions.items()}
        self._of = sum(_size(it, bounds, firsts[name]) for name, it in positions.items())
        for name, position in positions.items():
            self._take(self._try(position, bounds, firsts[name]))
        new = {name: it for name, it in self._positions().items() if name not in positions}
        if new:  # a live consumer has begun with them meanwhile
            bounds = self._records.bounds(sorted(new))
            for position in new.values():
                self._take(self._try(position, bounds, self._first(position, bounds)))

    def _check_run(
        self, run_id: str, positions: Mapping[str, Position], bounds: Mapping[str, Bounds]
    ) -> None:
        """First from where it is said to begin. What that says is said only if all that Kafka holds says it: records may have
        landed before the start, and where the run begins is what the database says.
        """
        rows = self._engine.rows(FILE, "places_of_run", run_id=run_id)
        places = [
            (positions[name], max(offset - self._edge, 0)) for _, name, offset in rows if name in positions
        ]
        self._of = sum(_size(it, bounds, first) for it, first in places)
        found = [self._try(position, bounds, first) for position, first in places]
        if not found or any(it.findings.counts or not it.totals.runs for it in found):
            self._of += sum(_size(it, bounds, 0) for it in positions.values())
            found = [self._try(position, bounds, 0) for position in positions.values()]
        for it in found:
            self._take(it)

    def _take(self, part: _Part) -> None:
        self.findings.take(part.findings)
        for name in ("runs", "compared", "partly", "records", "beyond"):
            setattr(self.totals, name, getattr(self.totals, name) + getattr(part.totals, name))
        self.totals.partitions |= part.totals.partitions

    def _try(self, position: Position, bounds: Mapping[str, Bounds], first: int) -> _Part:
        part = _Part(Findings(), Compared(by=self._records.by))
        with told_where_not(part.findings, f"{position.partition} against Kafka"):
            self._check_same(position, bounds.get(position.partition))
            self._partition(part, position, bounds[position.partition], first)
        return part

    # Which records.

    def _positions(self) -> dict[str, Position]:
        rows = (Position(*row) for row in self._engine.rows(FILE, "positions"))
        return {it.partition: it for it in rows if it.topic in self._records.topics}

    def _position(self, partition: str) -> Position:
        found = self._positions().get(partition)
        if found is None:
            raise NotComparableError("its position was given up meanwhile; check again")
        return found

    def _check_same(self, position: Position, bounds: Bounds | None) -> None:
        """Raise where the cluster or the topic is not the one that was consumed."""
        cluster = self._records.cluster
        if position.cluster not in {"", cluster}:
            raise NotComparableError(
                f"it was consumed from {position.cluster}, and this is {cluster}; set kafka_bootstrap_servers to the cluster"
                " that the database was consumed from"
            )
        if bounds is None:
            raise NotComparableError(f"{cluster} has no such partition; was the topic deleted?")
        if bounds.end < position.next_offset:
            raise NotComparableError(
                f"it ends at {bounds.end}, and the database has consumed to {position.next_offset}; was the topic made anew?"
                " What came before is in the database and its backups alone"
            )

    def _check_last(self, reading: _Reading, position: Position) -> None:
        """Raise where the record that was consumed last is another one now."""
        if position.last_offset < reading.begin or not position.last_digest:
            return
        last = reading.last
        if last is None or (last.offset, record_digest(last.value)) != position[3:]:
            raise NotComparableError(
                f"it holds another record at {position.last_offset} than was consumed there; was the topic made anew?"
            )

    def _first(self, position: Position, bounds: Mapping[str, Bounds]) -> int:
        """From which offset on the scope's runs can have records: from their starts on, as the database and the broker's
        times tell.
        """
        since_us = self._request.since_us
        if since_us is None or position.partition not in bounds:
            return 0
        at = self._records.at(position.partition, since_us - CLOCK_AHEAD_US_MAX)
        known = self._engine.rows(FILE, "first_of_scope", partition=position.partition, **self._time)[0][0]
        return max(min(at, at if known is None else known) - self._edge, 0)

    # One partition.

    def _partition(self, part: _Part, position: Position, bounds: Bounds, first: int) -> None:
        engine, partition = self._engine, position.partition
        at = min(max(first, bounds.begin), position.next_offset)
        run_id = self._request.run_id
        content = None if run_id is None else RunContent(engine, position.topic, run_id, partition)
        copier = Copier(lambda run_ids: self._salts(position.topic, run_ids), run_id)
        reading = _Reading(partition, at, at, copier, content)
        engine.run(FILE, "make_copied")
        try:
            for _ in range(ROUNDS_MAX):
                self._read(part, reading, position.next_offset)
                position = self._position(partition)
                if position.next_offset - reading.at <= BEHIND_RECORDS_MAX:
                    break
            with engine.snapshot():
                position = self._position(partition)
                self._read(part, reading, position.next_offset)
                self._check_last(reading, position)
                self._compare(part, reading, position)
        finally:
            engine.run(FILE, "drop_copied")
        part.totals.beyond = max(bounds.end - position.next_offset, 0)
        part.totals.partitions[partition] = [reading.begin, position.next_offset]

    def _read(self, part: _Part, reading: _Reading, end: int) -> None:
        if reading.at >= end:
            return
        for portion in self._records.read(reading.partition, reading.at, end):
            if portion.first > reading.at:
                reading.begin = portion.first  # what was read before is not all that there was
            copied = reading.copier.take(portion.records)
            self._keep(copied)
            if reading.content is not None:
                part.findings.add_all(reading.content.compare(copied))
            reading.copier.forget()
            reading.last = portion.records[-1] if portion.records else reading.last
            reading.at = max(portion.end, portion.first)
            part.totals.records += len(portion.records)
            self._done += len(portion.records)
            self._engine.tell("records of Kafka", self._done, max(self._of, self._done))

    def _salts(self, topic: str, run_ids: Any) -> dict[str, str]:
        hashes = [run_hash(run_id) for run_id in run_ids]
        return dict(self._engine.rows(FILE, "salts", topic=topic, run_hashes=hashes))

    def _keep(self, copied: CopiedPortion) -> None:
        if not copied.records:
            return
        columns = (copied.hashes, *zip(*copied.records, strict=True))
        texts = (" ".join(map(str, column)) for column in columns)
        self._engine.run(FILE, "keep_records", **dict(zip(_COLUMNS, texts, strict=True)))
        run_ids = list(copied.runs)
        hashes = [run_hash(run_id) for run_id in run_ids]
        started = list(copied.runs.values())
        self._engine.run(FILE, "keep_runs", run_hashes=hashes, run_ids=run_ids, started_us=started)

    # The comparison.

    def _compare(self, part: _Part, reading: _Reading, position: Position) -> None:
        engine, partition, topic = self._engine, reading.partition, position.topic
        engine.run(FILE, "forget_dead", partition=partition)
        edge = reading.begin + (self._edge if reading.begin else 0)
        history = engine.rows(FILE, "history_begins", partition=partition)[0][0]
        place = {"partition": partition, "topic": topic, "first": edge, "position": position.next_offset}
        engine.run(FILE, "make_compared", **place, history=history, **self._scope)
        engine.run(FILE, "make_differing")
        totals = part.totals
        totals.runs, totals.compared, totals.partly = engine.rows(FILE, "totals")[0]
        part.findings.add_all(self._absent(partition, topic))
        for (run_id,) in engine.rows(FILE, "unlisted"):
            says = f"is said to begin in what Kafka holds of {partition}, and no record there starts it"
            part.findings.add(Finding(Kind.RUN_UNLISTED, says, {"run_id": run_id}))
        differing = engine.rows(FILE, "count_differing")[0][0]
        for first in range(0, differing, NUMBERS_MAX):
            for run in self._doubtful(reading, first):
                part.findings.add_all(judge_doubtful(run))
            engine.tell("differing numbers", min(first + NUMBERS_MAX, differing), differing)

    def _absent(self, partition: str, topic: str) -> Iterator[Finding]:
        for run_id, records, offset, started in self._engine.rows(FILE, "missing", topic=topic, **self._time):
            what = "" if started else ", though not its start"
            says = f"Kafka holds {counted(records, 'record')} of it{what}, from {partition}@{offset} on; this database read past them, and it is not stored"
            yield Finding(Kind.RUN_MISSING, says, {"run_id": run_id})

    def _doubtful(self, reading: _Reading, first: int) -> list[DoubtfulRun]:
        """The runs of a chunk of differing numbers."""
        engine, chunk = self._engine, {"first": first, "numbers": NUMBERS_MAX}
        numbers = _by_run(engine.rows(FILE, "numbers_of_chunk", **chunk))
        copied = _by_run(engine.rows(FILE, "copied_of_chunk", **chunk, partition=reading.partition))
        stored = _by_run(sorted(engine.rows(FILE, "stored_of_chunk", **chunk), key=itemgetter(0, 1, 2)))
        conflicts = _by_run(sorted(engine.rows(FILE, "conflicts_of_chunk", **chunk)))
        refused = _by_run(sorted(engine.rows(FILE, "refused_of_chunk", **chunk)))
        found: list[DoubtfulRun] = []
        for run_key, rows in numbers.items():
            _, _, run_id, bare, held, source = rows[0]
            records = [(it[1], CopiedRecord(*it[2:])) for it in copied.get(run_key, ())]
            found.append(
                DoubtfulRun(
                    run_id=run_id,
                    partition=reading.partition,
                    bare=bare,
                    held=held,
                    source=source,
                    numbers=[it[1] for it in rows],
                    copied=[it for replayed, it in records if not replayed],
                    replayed=[it for replayed, it in records if replayed],
                    stored={
                        seq: [StoredTag(What(it[2]), *it[3:]) for it in them]
                        for seq, them in groupby(stored.get(run_key, ()), itemgetter(1))
                    },
                    conflicts={(it[1], it[2]) for it in conflicts.get(run_key, ())},
                    refused={it[1] for it in refused.get(run_key, ())},
                    differs={} if reading.content is None else reading.content.differs,
                )
            )
        return found

    def _count_runs(self) -> None:
        """Those of partitions that were compared are counted as they were then; the others may be more by now."""
        topics, read = list(self._records.topics), list(self.totals.partitions)
        where = {"topics": topics, "partitions": read, **self._scope}
        runs, elsewhere, others, names = self._engine.rows(FILE, "runs_in_scope", **where)[0]
        self.totals.runs = min(self.totals.runs + elsewhere, max(runs, self.totals.runs))
        if others:
            says = f"could not check {counted(others, 'run')} against Kafka: of {', '.join(names)}, and kafka_topic names {', '.join(topics)}; add them to it"
            self.findings.add(Finding(Kind.NOT_CHECKED, says))


class _Part(NamedTuple):
    """What one partition gave."""

    findings: Findings
    totals: Compared


def _size(position: Position, bounds: Mapping[str, Bounds], first: int) -> int:
    """Offsets to read, about."""
    there = bounds.get(position.partition)
    return 0 if there is None else max(position.next_offset - max(first, there.begin), 0)


def _by_run(rows: list[tuple[Any, ...]]) -> dict[int, list[tuple[Any, ...]]]:
    return {key: list(them) for key, them in groupby(rows, itemgetter(0))}
