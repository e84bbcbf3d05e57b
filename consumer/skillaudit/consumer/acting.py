"""Applying acts to the database, each exactly once, and so that a rebuild applies them to the same things.

An act is recorded when it is read from the control log: its line, its leaf in the journal and the log's position in one
transaction, with its effect on everything that is stored. It reaches, per partition of the events, as far as the position
it names. In a rebuilt database, or behind a consumer that is ahead, these events are still to come: the act is pending
there, the materializer stops a batch exactly at that position, and the act is applied before anything behind it is taken.
So the order of acts and events is the same everywhere, partition by partition; and runs never span partitions.

    problem                                              solution
    two acts of two consumers, the later one reaching    an act waits at least for the position that earlier ones wait
    less far                                             for: their order is the log's
    a partition that ends before the position, or lost   nothing waits for an act but what lies behind its position;
    its beginning                                        it stays pending, or is applied where the log goes on
    an erased run whose events are still on their way    it is watched: what arrives is taken out in its transaction
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import duckdb
import orjson

from skillaudit.consumer import purging
from skillaudit.consumer.redaction import Moment, Redactor, find_runs, find_runs_by_key, holds_any
from skillaudit.consumer.statements import statements
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.sources import SourceRecord
from skillaudit.proof.acts import LIFE, OWN, Act, ActKind, parse_act
from skillaudit.proof.journal import Journal
from skillaudit.proof.leaves import encode_act

LOCAL_PARTITION: Final = "local/0"
"""Where acts stand that are in no control log: of a database of its own, and what a database does to itself."""
RESULTS_MAX: Final = 1_000
_SQL: Final = statements("acts.sql")
_REDACTION: Final = statements("redaction.sql")


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where an act stands in a control log."""

    partition: str
    offset: int


@dataclass(slots=True, kw_only=True)
class ActResult:
    """What an act did to what was stored when it came."""

    runs: int = 0
    events: int = 0
    held: int = 0
    young: int = 0
    holds: tuple[str, ...] = ()
    """Holds that stood in its way, by their acts, where any kept a run."""
    rows: int = 0
    """Rows that were put into the hot table."""


@dataclass(slots=True)
class _Pending:
    """An act that has partitions to reach."""

    act: Act
    positions: dict[str, int] = field(default_factory=dict[str, int])


class Acting:
    """Acts on one database. A cache of it, as `Remembered`: after a failed transaction it is loaded again."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, *, journal: bool = True) -> None:
        """`journal`: whether acts go into the journal now. Not before it was taken forward from where it is anchored: what
        stands there comes first.
        """
        self.journal = journal
        self._pending: list[_Pending] = []
        self._watched: dict[int, str] = {}
        self.results: dict[str, ActResult] = {}
        """Of the acts recorded last, for whoever asked for them."""
        self.load(cursor)

    def __repr__(self) -> str:
        """What is left to do."""
        return f"<Acting pending={len(self._pending)} watched={len(self._watched)}>"

    def load(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Read again what is pending and what is watched."""
        found: dict[str, _Pending] = {}
        for line, partition, position in cursor.execute(_SQL["pending"]).fetchall():
            act = parse_act(line.encode())
            found.setdefault(act.act_id, _Pending(act)).positions[partition] = position
        self._pending = list(found.values())
        self._watched = dict(cursor.execute(_REDACTION["watched"]).fetchall())

    # acts and batches

    @property
    def pending(self) -> bool:
        """Whether an act waits for events."""
        return bool(self._pending)

    def steps(self, records: Sequence[SourceRecord]) -> list[Sequence[SourceRecord]]:
        """The records in portions, in order: before each but the first an act may be due."""
        cuts = self._cuts()
        if not any(record.partition in cuts for record in records):
            return [records]
        found: dict[int, list[SourceRecord]] = {}
        for record in records:
            step = bisect_right(cuts.get(record.partition, ()), record.offset)
            found.setdefault(step, []).append(record)
        return [found[step] for step in sorted(found)]

    def due(self, reached: Mapping[str, int]) -> bool:
        """Whether `settle` would do something."""
        return any(
            reached.get(partition, 0) >= position
            for pending in self._pending
            for partition, position in pending.positions.items()
        )

    def settle(
        self, cursor: duckdb.DuckDBPyConnection, reached: Mapping[str, int], moment: Moment
    ) -> ActResult:
        """Apply pending acts to the partitions that have reached their positions, in the order of the acts."""
        total = ActResult()
        for pending in self._pending:
            reach = {
                p: pending.act.positions[p] for p, at in pending.positions.items() if reached.get(p, 0) >= at
            }
            if not reach:
                continue
            result = self._apply(cursor, pending.act, reach, moment)
            total.runs += result.runs
            total.rows += result.rows
            for partition in reach:
                del pending.positions[partition]
                cursor.execute(_SQL["end_pending"], {"act_id": pending.act.act_id, "partition": partition})
        self._pending = [pending for pending in self._pending if pending.positions]
        return total

    def after_batch(self, cursor: duckdb.DuckDBPyConnection, touched: Collection[int], moment: Moment) -> int:
        """What a batch brought of watched runs is taken out again, and their salts go when they are finished. Returns the
        rows put into the hot table; nothing of it is ever in the other one.
        """
        keys = self._watched.keys() & touched if self._watched else ()
        if not keys:
            return 0
        rows = 0
        purging.register_reach(cursor, {"": 0})
        for run in find_runs_by_key(cursor, keys):
            act_id = self._watched[run.run_key]
            redactor = Redactor(cursor, act_id, moment)
            if redactor.again(run, erased=bool(act_id)) and not act_id:
                del self._watched[run.run_key]
            rows += redactor.rows
        cursor.unregister("reach")
        return rows

    def after_dead_letters(
        self, cursor: duckdb.DuckDBPyConnection, letters: Sequence[SourceRecord], moment: Moment
    ) -> None:
        """What a batch brought that is no event, and that may hold something of an erased run, loses its bytes, too."""
        if not letters or not any(self._watched.values()):
            return
        which = {"partitions": sorted({letter.partition for letter in letters})}
        erased: dict[str, set[str]] = {}
        for partition, run_id in cursor.execute(_REDACTION["erased_ids"], which).fetchall():
            erased.setdefault(partition, set()).add(run_id)
        for letter in letters:
            if holds_any(letter.key, letter.value or b"", erased.get(letter.partition, ())):
                place = {"partition": letter.partition, "record_offset": letter.offset}
                cursor.execute(_REDACTION["erase_letter_at"], {**place, "now_us": moment.now_us})

    def _cuts(self) -> dict[str, list[int]]:
        cuts: dict[str, set[int]] = {}
        for pending in self._pending:
            for partition, position in pending.positions.items():
                cuts.setdefault(partition, set()).add(position)
        return {partition: sorted(positions) for partition, positions in cuts.items()}

    # acts

    def known(self, cursor: duckdb.DuckDBPyConnection, act_id: str) -> bool:
        """Whether the act was recorded before: a line may be written twice."""
        return bool(cursor.execute(_SQL["known"], {"act_id": act_id}).fetchall())

    def record(
        self,
        cursor: duckdb.DuckDBPyConnection,
        act: Act,
        line: bytes,
        origin: Origin | None,
        reached: Mapping[str, int],
        moment: Moment,
    ) -> ActResult:
        """Store the act and apply it as far as `reached` goes, in the caller's transaction, with nothing being moved.

        `origin` None: it is in no control log.
        """
        self._store(cursor, act, line, origin or self._local(cursor), moment.now_us)
        self._place(cursor, act)
        pending = _Pending(act, self._waits_for(act))
        reach = {p: act.positions[p] for p, at in pending.positions.items() if reached.get(p, 0) >= at}
        for partition, position in pending.positions.items():
            if partition not in reach:
                where = {"act_id": act.act_id, "partition": partition, "position": position}
                cursor.execute(_SQL["add_pending"], where)
        pending.positions = {p: at for p, at in pending.positions.items() if p not in reach}
        if pending.positions:
            self._pending.append(pending)
        result = self._apply(cursor, act, reach, moment) if reach else ActResult()
        self._remember(act.act_id, result)
        return result

    def _store(
        self, cursor: duckdb.DuckDBPyConnection, act: Act, line: bytes, origin: Origin, now_us: int
    ) -> None:
        index: int | None = None
        if self.journal:
            index = _journaled(cursor, line, now_us)
        row = {
            "control_partition": origin.partition,
            "control_offset": origin.offset,
            "act_id": act.act_id,
            "kind": act.kind.value,
            "act": line.decode(),
            "journal_idx": index,
            "applied_us": now_us,
        }
        cursor.execute(_SQL["add"], row)

    def journal_deferred(
        self, cursor: duckdb.DuckDBPyConnection, now_us: int, logged: Collection[bytes]
    ) -> list[str]:
        """Append the leaves of acts that were recorded without, in their order: of those in `logged`, and of what a database
        says of its own life. Returns the ids of the others.
        """
        refused: list[str] = []
        for act_id, _, partition, line in cursor.execute(_SQL["not_in_journal"]).fetchall():
            if not _has_place(partition, line.encode(), logged):
                refused.append(act_id)
                continue
            index = _journaled(cursor, line.encode(), now_us)
            cursor.execute(_SQL["journaled"], {"act_id": act_id, "journal_idx": index})
        return refused

    @staticmethod
    def _local(cursor: duckdb.DuckDBPyConnection) -> Origin:
        which = {"control_partition": LOCAL_PARTITION}
        offset = cursor.execute(_SQL["next_local"], which).fetchall()[0][0]
        return Origin(partition=LOCAL_PARTITION, offset=int(offset))

    @staticmethod
    def _place(cursor: duckdb.DuckDBPyConnection, act: Act) -> None:
        """Holds stand by themselves: they concern what is still to come, too."""
        if act.kind is ActKind.HOLD:
            scope = orjson.dumps(act.scope).decode()
            cursor.execute(_SQL["add_hold"], {"act_id": act.act_id, "scope": scope, "placed_us": act.at_us})
        elif act.kind is ActKind.RELEASE:
            cursor.execute(_SQL["release_hold"], {"act_id": act.scope["hold"], "released_by": act.act_id})

    def _waits_for(self, act: Act) -> dict[str, int]:
        """Partition -> position from which on it applies there; not before an earlier act that waits."""
        positions = dict(act.positions)
        for pending in self._pending:
            for partition in positions.keys() & pending.positions.keys():
                positions[partition] = max(positions[partition], pending.positions[partition])
        return positions

    def _apply(
        self, cursor: duckdb.DuckDBPyConnection, act: Act, reach: Mapping[str, int], moment: Moment
    ) -> ActResult:
        if act.kind not in {ActKind.PURGE, ActKind.REDACT, ActKind.ERASE}:
            return ActResult()
        purging.register_reach(cursor, reach)
        try:
            if act.kind is ActKind.PURGE:
                found = purging.purge(cursor, act, moment.now_us)
                return ActResult(
                    runs=found.runs,
                    events=found.events,
                    held=found.held,
                    young=found.young,
                    holds=found.holds,
                )
            return self._redact(cursor, act, moment)
        finally:
            cursor.unregister("reach")

    def _redact(self, cursor: duckdb.DuckDBPyConnection, act: Act, moment: Moment) -> ActResult:
        purging.choose_named(cursor, act.runs)
        purging.mark_held(cursor, act.act_id)
        held = purging.held_keys(cursor)
        result, redactor = ActResult(held=len(held)), Redactor(cursor, act.act_id, moment)
        for run in find_runs(cursor, act.runs):
            if run.run_key in held and not act.force:
                continue
            if act.kind is ActKind.ERASE:
                places = redactor.erase(run)
            else:
                places = redactor.redact(run, act.scope["seq"], act.scope.get("field"))
            result.runs += 1
            result.events += places
        self._watch(cursor)
        result.rows = redactor.rows
        return result

    def _watch(self, cursor: duckdb.DuckDBPyConnection) -> None:
        self._watched = dict(cursor.execute(_REDACTION["watched"]).fetchall())

    def _remember(self, act_id: str, result: ActResult) -> None:
        self.results[act_id] = result
        while len(self.results) > RESULTS_MAX:
            del self.results[next(iter(self.results))]


def _has_place(partition: str, line: bytes, logged: Collection[bytes]) -> bool:
    """Whether an act that was recorded without a leaf gets one: what the log holds, and what a database says of its own life. A
    cut never does by this way: who decides one names it in the journal himself.
    """
    try:
        kind = parse_act(line).kind
    except InvalidRecordError:
        return False
    return (partition == LOCAL_PARTITION and kind in LIFE) or (kind not in OWN and line in logged)


def _journaled(cursor: duckdb.DuckDBPyConnection, line: bytes, now_us: int) -> int:
    """The act's place in the journal: where it is already, or a new leaf."""
    leaf = encode_act(line)
    found = cursor.execute(_SQL["in_journal"], {"leaf": leaf}).fetchall()
    return int(found[0][0]) if found else Journal(cursor).append(leaf, now_us)
