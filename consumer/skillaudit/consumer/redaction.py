"""Taking content out of a run: one payload, one field, or all of it. What proves the run stays.

Of everything taken out the digest is kept, so that the run's head can still be computed, and the salt that went into the
digest is forgotten, so that nobody can find the content by trying. The run has one salt, from which those of all its
events are derived: it is replaced by the derived ones of what is left. That is done when the run is finished; until then
its events still to come need it.

Rows of the events are deleted and inserted again, never updated, and only while no seal moves them. What another record
claims the same place with (`conflicts`) and what was no event (`dead_letters`) holds the content too, and loses it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, Final, NamedTuple, TypeAlias, cast

import duckdb
import orjson

from skillaudit.consumer.arrow import Kind, make_table
from skillaudit.consumer.changes import EVENT_TABLES
from skillaudit.consumer.statements import statements
from skillaudit.contract import ranges
from skillaudit.contract.digests import (
    FINISH_FIELDS,
    START_FIELDS,
    event_digest,
    event_salt,
    field_digest,
    field_salt,
    log_header,
    run_hash,
)
from skillaudit.contract.events import FINISHED, LOG, STARTED, parse_ranges
from skillaudit.contract.redacted import JSON_FIELDS, REDACTED_TEXT, redacted_json

_SQL: Final = statements("redaction.sql")
MISSING_SALTS_MAX: Final = 10_000
"""Numbers of a run that never arrived and whose salts are kept nevertheless, should they come."""
Columns: TypeAlias = Mapping[str, Kind]
_SALTS: Final[Columns] = {"run_key": Kind.I64, "seq": Kind.I64, "field": Kind.TEXT, "salt": Kind.TEXT}
_TAKEN: Final[Columns] = {
    "run_key": Kind.I64,
    "seq": Kind.I64,
    "field": Kind.TEXT,
    "digest": Kind.BLOB,
    "act_id": Kind.TEXT,
}
_FIELDS_OF: Final = {STARTED: START_FIELDS, FINISHED: FINISH_FIELDS}


@dataclass(frozen=True, slots=True)
class Moment:
    """What applying an act depends on beside the database."""

    hot: str
    """The table that events are put back into."""
    now_us: int


class Target(NamedTuple):
    """One place of a run: the payload of a log, or a field of the start or finish."""

    seq: int
    field: str | None = None


@dataclass(frozen=True, slots=True)
class RunRow:
    """What redacting needs to know of a run."""

    run_key: int
    id: str
    salt: str
    """32 hex digits; empty where it is forgotten, or the run never had one."""
    bare: bool
    finish_seq: int | None
    received: ranges.Ranges
    lost: ranges.Ranges

    @property
    def finish(self) -> int:
        """Number of the finish; a bare Storage's has none and counts as -1."""
        return -1 if self.finish_seq is None else self.finish_seq

    def numbers(self) -> list[int]:
        """All numbers whose salts may be needed: those received, and of the missing a bounded count."""
        last = max(self.finish, 0)
        known = ranges.subtract(((0, last),), self.lost)
        missing = ranges.subtract(known, self.received)
        return [*_each(self.received), *islice(_each(missing), MISSING_SALTS_MAX)]


def _each(found: ranges.Ranges) -> Iterator[int]:
    return chain.from_iterable(range(low, high + 1) for low, high in found)


def find_runs(cursor: duckdb.DuckDBPyConnection, ids: Sequence[str]) -> list[RunRow]:
    """The stored runs of these ids that the registered `reach` covers."""
    found = {"ids": list(ids), "hashes": [run_hash(run_id) for run_id in ids]}
    return [_run(row) for row in cursor.execute(_SQL["runs"], found).fetchall()]


def find_runs_by_key(cursor: duckdb.DuckDBPyConnection, keys: Iterable[int]) -> list[RunRow]:
    """The same by their keys."""
    return [_run(row) for row in cursor.execute(_SQL["runs_by_key"], {"keys": list(keys)}).fetchall()]


def _run(row: Sequence[Any]) -> RunRow:
    run_key, run_id, salt, bare, finish_seq, received, lost = row
    return RunRow(
        run_key=run_key,
        id=run_id,
        salt=(salt or "").lower(),
        bare=bare,
        finish_seq=finish_seq,
        received=((0, finish_seq),) if received is None else parse_ranges(received),
        lost=parse_ranges(lost),
    )


class Redactor:
    """Redacts within one transaction of the writer's, for one act."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, act_id: str, moment: Moment) -> None:
        """`reach` is registered: copies of the content that came later are not this act's."""
        self._cursor = cursor
        self._act_id = act_id
        self._moment = moment
        self._json = redacted_json(act_id)
        self.rows = 0
        """Rows put into the hot table."""

    def redact(self, run: RunRow, seq: int, field: str | None) -> int:
        """One payload, or one field of a start or finish; without `field` all fields of these. Returns how many."""
        targets = self._targets(run, seq, field)
        done = self._take_out(run, targets)
        self._blank_conflicts(run, targets)
        self._blank_dead_letters(run, seq)
        self._mark(run, erased=False)
        return done

    def erase(self, run: RunRow) -> int:
        """Everything that can be redacted and is not yet, of what is stored now. Returns how many places."""
        done = self._erase(run)
        self._blank_dead_letters(run, None)
        return done

    def again(self, run: RunRow, *, erased: bool) -> bool:
        """Something of a run came after content was taken out of it: of an erased one it goes the same way, and the salt
        of one that is finished now is forgotten. Returns whether it is.
        """
        if erased:
            self._erase(run)
        return self._mark(run, erased=erased)

    def _erase(self, run: RunRow) -> int:
        fields = [Target(0, name) for name in START_FIELDS]
        finished = self._execute("content", run_key=run.run_key)[0][6]
        if finished:
            fields += [Target(run.finish, name) for name in FINISH_FIELDS]
        done = self._take_out_fields(run, fields)
        done += self._take_out_logs(run, self._execute("logs_left", run_key=run.run_key))
        self._blank_conflicts(run, None)
        self._mark(run, erased=True)
        return done

    def _settle(self, run: RunRow) -> bool:
        """Replace the salt of a finished run by those of what is left; whether that is done."""
        if run.salt and run.finish_seq is None:
            return False
        if run.salt:
            gone = set(self._execute("redacted", run_key=run.run_key))
            rows = [
                (run.run_key, number, field, salt)
                for number, field, salt in _salts(run)
                if (number, field) not in gone
            ]
            if rows:
                self._write("left_salts", _SALTS, rows)
            self._execute("forget_salt", run_key=run.run_key)
        return True

    # what is taken out

    def _targets(self, run: RunRow, seq: int, field: str | None) -> list[Target]:
        if field is not None:
            return [Target(run.finish if field in FINISH_FIELDS else 0, field)]
        if seq == 0 and not run.bare:
            return [Target(0, name) for name in START_FIELDS]
        if seq == run.finish:
            return [Target(seq, name) for name in FINISH_FIELDS]
        return [Target(seq)]

    def _take_out(self, run: RunRow, targets: Sequence[Target]) -> int:
        logs = [target.seq for target in targets if target.field is None]
        rows = (
            [row for row in self._execute("logs_left", run_key=run.run_key) if row[0] in logs] if logs else []
        )
        fields = [target for target in targets if target.field is not None]
        return self._take_out_fields(run, fields) + self._take_out_logs(run, rows)

    def _take_out_fields(self, run: RunRow, targets: Sequence[Target]) -> int:
        """Those that are not taken out yet; returns how many."""
        done = set(self._execute("redacted_fields", run_key=run.run_key))
        left = [target for target in targets if tuple(target) not in done]
        names = (*START_FIELDS, *FINISH_FIELDS)
        content: dict[str, str] = dict(
            zip(names, self._execute("content", run_key=run.run_key)[0], strict=False)
        )
        for seq, name in left:
            assert name is not None  # noqa: S101  fields only
            salt = self._field_salt(run, seq, name)
            digest = bytes.fromhex(field_digest(salt, name, content[name].encode()).decode()) if salt else b""
            text = self._json if name in JSON_FIELDS else REDACTED_TEXT
            statement = _SQL["blank_field"].format(field=name)
            self._cursor.execute(statement, {"run_key": run.run_key, "text": text})
            where = {"run_key": run.run_key, "seq": seq, "field": name}
            self._execute("add_redaction", **where, digest=digest, act_id=self._act_id)
            self._execute("delete_field_salt", **where)
        return len(left)

    def _field_salt(self, run: RunRow, seq: int, field: str) -> bytes:
        """Of one field; empty where none is known: a bare Storage's run has none."""
        if run.salt:
            return field_salt(run.salt, seq, field)
        found = self._execute("field_salt", run_key=run.run_key, seq=seq, field=field)
        return str(found[0][0]).encode() if found else b""

    def _take_out_logs(self, run: RunRow, rows: Sequence[tuple[int, str, int, str]]) -> int:
        """Rows of the events: number, type, time, payload. A run may have very many: a few statements for all."""
        if not rows:
            return 0
        known: dict[int, str] = {} if run.salt else dict(self._execute("event_salts", run_key=run.run_key))
        taken: list[tuple[int, int, str | None, bytes, str]] = []
        for seq, event_type, at_us, payload in rows:
            salt = event_salt(run.salt, seq) if run.salt else known.get(seq, "").encode()
            header = log_header(seq, at_us, event_type)
            digest = bytes.fromhex(event_digest(salt, header, payload.encode())) if salt else b""
            taken.append((run.run_key, seq, None, digest, self._act_id))
        self._write("taken_logs", _TAKEN, taken)
        numbers = [row[1] for row in taken]
        self._execute("delete_event_salts", run_key=run.run_key, numbers=numbers)
        self._put_back(run, numbers)
        return len(taken)

    def _put_back(self, run: RunRow, numbers: Sequence[int]) -> None:
        which = {"run_key": run.run_key, "numbers": list(numbers)}
        self._cursor.execute(_SQL["take_logs"], {**which, "payload": self._json})
        for table in EVENT_TABLES:
            self._cursor.execute(_SQL["delete_logs"].format(table=table), which)
        self._cursor.execute(_SQL["put_logs"].format(table=self._moment.hot))
        self._cursor.execute(_SQL["drop_logs"])
        self.rows += len(numbers)

    def _mark(self, run: RunRow, *, erased: bool) -> bool:
        """Remember that the run lost content, and forget its salt if it can be; whether it is forgotten."""
        stored = self._execute("mark", run_key=run.run_key)
        erased_by, settled = stored[0] if stored else ("", False)
        changed = (erased_by or (self._act_id if erased else ""), settled or self._settle(run))
        if not stored or changed != (erased_by, settled):
            self._execute(
                "change_mark" if stored else "add_mark",
                run_key=run.run_key,
                erased_by=changed[0],
                settled=changed[1],
            )
        return changed[1]

    def _write(self, statement: str, columns: Columns, rows: Sequence[Sequence[Any]]) -> None:
        self._cursor.register(statement, make_table(columns, rows))
        self._cursor.execute(_SQL[statement])
        self._cursor.unregister(statement)

    # copies

    def _blank_conflicts(self, run: RunRow, targets: Sequence[Target] | None) -> None:
        """`targets` None: all of the run."""
        found = self._execute("conflicts", run_key=run.run_key, everything=targets is None)
        for number, kind, sequence, record in found:
            names = _members_to_blank(kind, sequence, targets)
            if names:
                members = orjson.loads(record)
                members.update({name: self._blank(name) for name in names if name in members})
                self._execute("replace_conflict", id=number, record=orjson.dumps(members))

    def _blank(self, name: str) -> object:
        return orjson.Fragment(self._json) if name in {*JSON_FIELDS, "payload"} else REDACTED_TEXT

    def _blank_dead_letters(self, run: RunRow, seq: int | None) -> None:
        for number, key, record in self._execute("dead_letters", run_id=run.id):
            if _may_hold(key, bytes(record), run.id, seq):
                self._execute("erase_dead_letter", id=number, now_us=self._moment.now_us)

    def _execute(self, statement: str, **parameters: Any) -> list[tuple[Any, ...]]:
        return self._cursor.execute(_SQL[statement], parameters).fetchall()


def _salts(run: RunRow) -> Iterable[tuple[int, str | None, str]]:
    """Number, field, salt of everything that the run's salt gives."""
    fields_of: Mapping[int, Sequence[str]] = {0: START_FIELDS, run.finish: FINISH_FIELDS}
    for number in run.numbers():
        yield number, None, event_salt(run.salt, number).decode()
        for name in fields_of.get(number, ()):
            yield number, name, field_salt(run.salt, number, name).decode()


def _members_to_blank(kind: str, sequence: int, targets: Sequence[Target] | None) -> list[str]:
    """The members of a conflicting record that hold what is redacted."""
    if kind == LOG:
        hit = targets is None or Target(sequence) in targets
        return ["payload"] if hit else []
    names = _FIELDS_OF.get(kind, ())
    return [name for name in names if targets is None or any(name == target.field for target in targets)]


def _may_hold(key: bytes | None, record: bytes, run_id: str, seq: int | None) -> bool:
    """Whether a dead letter may hold something of the run's event `seq` (None: of the run)."""
    members = _members(record)
    own, number = members.get("run_id"), members.get("seq")
    if own == run_id:
        return seq is None or not isinstance(number, int) or number == seq
    if isinstance(own, str) and key != run_id.encode():
        return False
    return key == run_id.encode() or _names(record, run_id)


def holds_any(key: bytes | None, record: bytes, run_ids: Collection[str]) -> bool:
    """Whether a dead letter may hold something of one of these runs: as `_may_hold` of each, and parsed once."""
    own = _members(record).get("run_id")
    if key is not None and key.decode(errors="replace") in run_ids:
        return True
    return own in run_ids if isinstance(own, str) else any(_names(record, run_id) for run_id in run_ids)


def _names(record: bytes, run_id: str) -> bool:
    """Whether the id stands somewhere in it, as it is or as JSON writes it."""
    return run_id.encode() in record or orjson.dumps(run_id)[1:-1] in record


def _members(record: bytes) -> dict[str, Any]:
    """Of a record that may be anything; empty where it is no JSON object."""
    try:
        found = orjson.loads(record)
    except orjson.JSONDecodeError:
        return {}
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}
