"""Runs with true digests, acts in hand, and what is left of both in a database file."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import orjson

from skillaudit.consumer.database import Database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.recording import take_acts
from skillaudit.contract import digests, events
from skillaudit.contract.digests import RunDigest
from skillaudit.contract.records import RunStats, SkillRun
from skillaudit.contract.sources import SourceRecord
from skillaudit.proof.acts import Act, ActKind, act_line

BASE_US = 1_700_000_000_000_000
SOURCE = "ab" * 16
CONTROL = "control/0"


class Run:
    """One Writer's run: its records as they are sent."""

    def __init__(self, run_id: str, *, number: int = 1, at_us: int = BASE_US, skill_id: str = "s") -> None:
        self.id = run_id
        self.at_us = at_us
        self._number = number
        self._digest = RunDigest(run_id, sha256(run_id.encode()).hexdigest()[:32])
        self._skill_id = skill_id
        self._seq = 0

    def start(self, *, caller: str = "c", inputs: dict[str, Any] | None = None) -> bytes:
        run = SkillRun(id=self.id, skill_id=self._skill_id, caller_id=caller, channel_id="ch")
        data = orjson.dumps(inputs or {})
        fields = [
            ("caller_id", caller.encode()),
            ("channel_id", b"ch"),
            ("inputs", data),
            ("attributes", b"{}"),
        ]
        header = digests.start_header(self.at_us, "", self._skill_id, SOURCE, self._number)
        tag = self._add(header, digests.fields_body(self._digest.run_salt, 0, fields))
        salt = self._digest.run_salt
        identity = events.StartIdentity(
            at_us=self.at_us, tag=tag, salt=salt, source_id=SOURCE, source_seq=self._number, clock="manual"
        )
        return events.encode_start(run, identity, data, b"{}")

    def log(self, **payload: Any) -> bytes:
        self._seq += 1
        body, at_us = orjson.dumps(payload), self.at_us + self._seq
        tag = self._add(digests.log_header(self._seq, at_us, "step"), body)
        return events.encode_log(orjson.dumps(self.id), self._seq, at_us, tag, b'"step"', body)

    def finish(self, *, output: str = "out", error: str = "") -> bytes:
        seq, at_us = self._seq + 1, self.at_us + self._seq + 1
        fields = [("output", output.encode()), ("error", error.encode())]
        header = digests.finish_header(seq, at_us, "ok", 0, 0, 0, 0, 0, "")
        digest = self._digest.digest(seq, header, digests.fields_body(self._digest.run_salt, seq, fields))
        head = self._digest.head_with(header, digest)
        identity = events.FinishIdentity(
            seq=seq,
            at_us=at_us,
            tag=digest[:16],
            source_id=SOURCE,
            source_seq=self._number,
            head=head,
            lost="",
        )
        return events.encode_finish(self.id, RunStats(status="ok", output=output, error=error), identity)

    def whole(self, *payloads: dict[str, Any]) -> list[bytes]:
        return [self.start(), *(self.log(**payload) for payload in payloads), self.finish()]

    def _add(self, header: bytes, body: bytes) -> str:
        digest = self._digest.digest(self._digest.events, header, body)
        self._digest.add(header, digest)
        return digest[:16]


class Control:
    """A control log in memory: acts in order, as records."""

    def __init__(self) -> None:
        self.records: list[SourceRecord] = []

    def add(
        self, kind: ActKind, *, policy: dict[str, Any] | None = None, at_us: int = 0, **members: Any
    ) -> Act:
        """`positions` may be among the members; everything else is the scope."""
        positions = members.pop("positions", {})
        number = len(self.records)
        act = Act(
            act_id=f"act-{number}",
            kind=kind,
            actor="tester",
            at_us=at_us or BASE_US + number,
            scope=members,
            policy=policy or {},
            positions=positions,
        )
        self.add_line(act_line(act))
        return act

    def add_line(self, line: bytes) -> None:
        number = len(self.records)
        self.records.append(SourceRecord(CONTROL, number, number + 1, 0, None, line))


def take(materializer: Materializer, control: Control) -> None:
    """Read the control log to its end."""
    take_acts(materializer, control.records, "control")


def rows(database: Database, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with contextlib.closing(database.cursor()) as cursor:
        return cursor.execute(query, parameters).fetchall()


def state(database: Database) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that has to be the same after a rebuild: no keys of this file, no times of this machine."""
    queries = {
        "runs": "SELECT * EXCLUDE (run_key, received_at, liveness) FROM runs ORDER BY topic, id",
        "events": "SELECT r.topic, r.id, e.* EXCLUDE (run_key) FROM events AS e JOIN runs AS r USING (run_key)"
        " ORDER BY 1, 2, sequence",
        "tombstones": "SELECT topic, id, source_id, source_seq, events_stored, records_dropped, started_at, violates,"
        " orphan FROM tombstones ORDER BY 1, 2",
        "orphans": "SELECT * EXCLUDE (run_key, first_received_at, liveness) FROM orphans ORDER BY topic, id",
        "redactions": "SELECT r.id, d.seq, d.field, d.digest, d.act_id FROM redactions AS d JOIN runs AS r"
        " USING (run_key) ORDER BY 1, 2, 3",
        "run_salts": "SELECT r.id, d.seq, d.field, d.salt FROM run_salts AS d JOIN runs AS r USING (run_key)"
        " ORDER BY 1, 2, 3",
        "conflicts": "SELECT run_id, kind, sequence, tag, record FROM conflicts ORDER BY ALL",
        "dead_letters": "SELECT partition, record_offset, record, state FROM dead_letters ORDER BY ALL",
        "acts": "SELECT control_offset, act_id, act FROM acts WHERE control_partition <> 'local/0' ORDER BY 1",
        "leaves": "SELECT leaf FROM journal WHERE kind = 'act' ORDER BY idx",
        "holds": "SELECT act_id, scope, released_by FROM holds ORDER BY 1",
        "purges": "SELECT act_id, runs, events, policy FROM purges ORDER BY 1",
        "ledger": "SELECT * FROM ledger ORDER BY partition, idx",
    }
    found: dict[str, list[tuple[Any, ...]]] = {}
    for name, query in queries.items():
        with contextlib.closing(database.cursor()) as cursor:
            found[name] = cursor.sql(query).to_arrow_table().to_pylist()
    return found


def hits(database: Database, secret: str) -> list[str]:
    """Tables of the database that hold the text in any column, as text or bytes."""
    found: list[str] = []
    tables = rows(
        database,
        "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = current_database()",
    )
    for schema, table in tables:
        with contextlib.closing(database.cursor()) as cursor:
            content = cursor.sql(f'SELECT * FROM "{schema}"."{table}"').to_arrow_table().to_pylist()
        if secret.encode() in repr(content).encode():
            found.append(f"{schema}.{table}")
    return found


def file_holds(path: Path, secret: str) -> bool:
    """Whether the bytes stand anywhere in the file or its log."""
    wal = path.with_name(path.name + ".wal")
    return any(secret.encode() in it.read_bytes() for it in (path, wal) if it.exists())


def head_of(database: Database, run_id: str) -> tuple[bytes, bytes]:
    """(the stored head, the head computed from what is left): a verifier's way, event by event."""
    columns = (
        "run_key, epoch_us(started_at), parent_run_id, skill_id, source_id, source_seq, caller_id, channel_id,"
        " inputs, attributes, output, error, epoch_us(finished_at), status, tool_calls_count, runtime_us,"
        " total_input_tokens, total_output_tokens, total_thinking_tokens, lost, finish_seq, head, hex(salt)"
    )
    (run,) = rows(database, f"SELECT {columns} FROM runs WHERE id = ?", run_id)
    key, finish_seq, head, salt = run[0], run[20], run[21], (run[22] or "").lower()
    gone = {(seq, name): bytes(digest).hex().encode() for seq, name, digest in rows(
        database, "SELECT seq, field, digest FROM redactions WHERE run_key = ?", key)}  # fmt: skip
    left = {(seq, name): text.encode() for seq, name, text in rows(
        database, "SELECT seq, field, salt FROM run_salts WHERE run_key = ?", key)}  # fmt: skip

    def salt_of(seq: int, name: str | None) -> bytes:
        if salt:
            return digests.field_salt(salt, seq, name) if name else digests.event_salt(salt, seq)
        return left[seq, name]

    def body(seq: int, fields: Sequence[tuple[str, str]]) -> bytes:
        lines = [
            (name, gone.get((seq, name)) or digests.field_digest(salt_of(seq, name), name, value.encode()))
            for name, value in fields
        ]
        return b"".join(b"%b %b\n" % (name.encode(), digest) for name, digest in lines)

    manifest = b"skillaudit run 1\n" + digests.T(run_id.encode()) + b"\n"
    header = digests.start_header(run[1], run[2], run[3], run[4], run[5])
    start = body(0, list(zip(digests.START_FIELDS, run[6:10], strict=True)))
    manifest += digests.manifest_line(header, digests.event_digest(salt_of(0, None), header, start))
    for seq, kind, at_us, payload in rows(
        database,
        "SELECT sequence, event_type, epoch_us(created_at), payload FROM events WHERE run_key = ? ORDER BY 1",
        key,
    ):
        header = digests.log_header(seq, at_us, kind)
        known = gone.get((seq, None))
        digest = (
            known.decode() if known else digests.event_digest(salt_of(seq, None), header, payload.encode())
        )
        manifest += digests.manifest_line(header, digest)
    header = digests.finish_header(finish_seq, run[12], *run[13:20])
    finish = body(finish_seq, list(zip(digests.FINISH_FIELDS, run[10:12], strict=True)))
    manifest += digests.manifest_line(header, digests.event_digest(salt_of(finish_seq, None), header, finish))
    return bytes(head), sha256(manifest).digest()


def checkpointed(path: Path) -> duckdb.DuckDBPyConnection:
    """The closed file, opened by nobody of ours."""
    return duckdb.connect(str(path), read_only=True)
