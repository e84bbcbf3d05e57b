"""Import of recorded trajectories: each becomes a run, numbered and digested as a live one.

Deterministic, so that importing a file twice changes nothing: `source_id` from the file's digest, `source_seq` in the
order of the trajectories that are taken, `run_id` from the file's and the trajectory's digest, salts from an import key
in the data directory, times from the trajectories, else from `at`, else from the file at its first import, which is kept
beside the key. What was interrupted goes on behind the last record that reached the outbox; records of a log that keeps
none of its own (MemoryStorage) come again as exact duplicates, which readers drop.

    <data>/imports/key                32 random bytes in hexadecimal, mode 0600, made at first use; lose it, and a second
                                      import of a file would contradict the first
    <data>/imports/<source_id>.json   {"file", "at_us", "skill_id", "done", "runs", "events", ...}
"""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import orjson

from skillaudit.contract.clock import from_us, to_us
from skillaudit.contract.digests import SALT_BYTES
from skillaudit.contract.errors import (
    InvalidRecordError,
    OutboxCorruptError,
    RecordTooLargeError,
    RejectedError,
)
from skillaudit.contract.eventlog import EventLog, FlushReport, RecordKind
from skillaudit.contract.outbox.directory import ReaderPresence, source_status
from skillaudit.contract.outbox.files import create_exclusively, read_optional, write_atomically
from skillaudit.contract.outbox.reader import SourceReader, iter_lines
from skillaudit.contract.outbox.refused import list_refused
from skillaudit.contract.records import SkillRun
from skillaudit.contract.settings import Settings
from skillaudit.producer._drafting import draft_run
from skillaudit.producer._finish import FinishRequest, terminal_status
from skillaudit.producer._numbering import ENVELOPE_BYTES, Limits, LogEvent, NumberedRun
from skillaudit.producer.encoding import encode_object, encode_text
from skillaudit.producer.masking import Mask, apply_mask
from skillaudit.producer.messages import Mapped
from skillaudit.producer.outbox import OutboxLog
from skillaudit.producer.sink import FORWARDER_STOP_S, Forwarder, Sink
from skillaudit.producer.source import Item, Source
from skillaudit.producer.trajectories import Entry, Trajectory, parse_entry, read_entries

REFUSED_MAX: Final = 1_000
"""Refusals listed one by one; more are counted."""
_CHUNK_BYTES: Final = 1 << 20
_POLL_S: Final = 0.02

Progress = Callable[[int, int], None]
"""Called now and then with bytes read and bytes in all."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A trajectory that was not taken."""

    index: int
    """Its place in the file, from 0."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import did; `runs` and `events` (without starts and finishes) are those of the file that are recorded."""

    source_id: str
    runs: int
    events: int
    appended: int
    """Records that this import wrote; 0 where all were there already."""
    refused: tuple[Refusal, ...] = ()
    refused_count: int = 0
    flush: FlushReport = field(default_factory=lambda: FlushReport(acknowledged=0, pending=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What is fixed at a file's first import."""

    source_id: str
    at_us: int
    skill_id: str
    key: bytes
    mask: Mask | None
    strict: bool
    limits: Limits


def import_file(
    path: Path,
    target: Settings | Sink,
    *,
    at: datetime | None = None,
    skill_id: str = "",
    progress: Progress | None = None,
    block_ms_max: int = 60_000,
) -> ImportReport:
    """Record every trajectory of the file; see the module for what stays the same on a second import.

    `target`: settings (their outbox, forwarded as they say), or a Sink (its outbox, or its log, with its mask and
    encoding). `at` counts for what has no time of its own, at the file's first import. `skill_id` names runs whose
    trajectory names no skill; by default the file's name without its ending; the first import's counts, too. Trajectories that can't be taken are
    refused in the report, the rest goes in. Raises `LockedError` while another process imports the same file, and
    `OutboxFullError` when there is no room for `block_ms_max`: importing again goes on from there.
    """
    path = Path(path)
    settings = target if isinstance(target, Settings) else target.settings
    source_id = _digest_of(path)[:32]
    into_outbox = isinstance(target, Settings) or isinstance(target.log, OutboxLog)
    state = _State(settings.data / "imports", source_id)
    kept = state.read()
    at_us: int = kept.get("at_us") or (path.stat().st_mtime_ns // 1_000 if at is None else to_us(at))
    named = kept.get("skill_id") or skill_id or path.stem
    fixed = {"file": path.name, "at_us": at_us, "skill_id": named}
    if into_outbox and kept.get("done"):
        return replace(_report_of(kept, source_id), flush=_flush_again(target, settings, source_id))
    state.write({**fixed, "done": False})
    plan = _Plan(
        source_id=source_id,
        at_us=at_us,
        skill_id=named,
        key=state.key(),
        mask=target.mask if isinstance(target, Sink) else None,
        strict=isinstance(target, Sink) and target.strict,
        limits=Limits(
            record_bytes_max=settings.record_bytes_max,
            block_ms_max=block_ms_max,
        ),
    )
    outlet = _outlet(target, settings, source_id)
    try:
        report = _Import(plan, outlet).run(path, progress)
        report = replace(report, flush=outlet.flush(settings.flush_timeout_ms / 1_000))
    finally:
        outlet.close(0)
    if into_outbox:
        state.write({**fixed, "done": True, **_kept_of(report)})
    return report


class _Clock:
    """Stands where the trajectory is."""

    name = "import"

    def __init__(self, now_us: int) -> None:
        self.now_us = now_us

    def wall_us(self) -> int:
        return self.now_us

    def steady_us(self) -> int:
        return self.now_us


class _Import:
    """One pass over one file."""

    def __init__(self, plan: _Plan, outlet: _Outlet) -> None:
        self._plan = plan
        self._outlet = outlet
        self._clock = _Clock(plan.at_us)
        self._source = Source(outlet, self._clock, opened_by=("import", 0, ""))
        self._events = 0
        self._refused: list[Refusal] = []
        self._refused_count = 0

    def run(self, path: Path, progress: Progress | None) -> ImportReport:
        size, index = path.stat().st_size, 0
        try:
            for entry in read_entries(path):
                self._take(entry)
                index = entry.index + 1
                if progress is not None:
                    progress(entry.end, size)
        except InvalidRecordError as exc:  # of the file, not of one entry
            self._refuse(index, str(exc))
        self._clock.now_us = self._plan.at_us
        self._source.close(self._plan.at_us)
        return ImportReport(
            source_id=self._plan.source_id,
            runs=self._source.runs_started,
            events=self._events,
            appended=self._outlet.appended,
            refused=tuple(self._refused),
            refused_count=self._refused_count,
        )

    def _take(self, entry: Entry) -> None:
        try:
            trajectory = parse_entry(entry, self._plan.skill_id)
            events = [(at_us, self._encoded(trajectory, group)) for at_us, group in trajectory.events]
            finish = self._finish(trajectory)
            run = self._begun(entry, trajectory)
        except (InvalidRecordError, RecordTooLargeError) as exc:
            self._refuse(entry.index, str(exc))
            return
        for at_us, group in events:
            self._clock.now_us = max(self._clock.now_us, at_us or 0)
            run.write_together(group)
            self._events += len(group)
        self._clock.now_us = max(self._clock.now_us, trajectory.finished_us or 0)
        run.end(finish)

    def _begun(self, entry: Entry, trajectory: Trajectory) -> NumberedRun:
        """The run, its start written: the last that can be refused."""
        plan = self._plan
        self._clock.now_us = plan.at_us if trajectory.started_us is None else trajectory.started_us
        run_id = _run_id(plan.source_id, entry)
        salt = hmac.digest(plan.key, run_id.encode(), "sha256")[:SALT_BYTES].hex()
        run = SkillRun(
            id=run_id,
            skill_id=trajectory.skill_id,
            caller_id=trajectory.caller_id,
            channel_id=trajectory.channel_id,
            started_at=from_us(self._clock.now_us),
            inputs=trajectory.inputs,
            attributes=trajectory.attributes,
        )
        draft = draft_run(run, salt, plan.mask, strict=plan.strict)
        numbered = NumberedRun(self._source, draft, plan.limits, self._clock)
        numbered.begin()
        return numbered

    def _encoded(self, trajectory: Trajectory, group: Sequence[Mapped]) -> list[LogEvent]:
        plan, events = self._plan, list[LogEvent]()
        for kind, payload, counts in group:
            masked = apply_mask(plan.mask, payload, "payload", kind.name, trajectory.skill_id)
            body = encode_object(masked, strict=plan.strict)
            if len(body) + ENVELOPE_BYTES > plan.limits.record_bytes_max:
                raise RecordTooLargeError(
                    f"a {kind.name} of {len(body)} bytes; record_bytes_max is {plan.limits.record_bytes_max}"
                )
            events.append((kind, body, counts))
        return events

    def _finish(self, trajectory: Trajectory) -> FinishRequest:
        def text(field: str, value: Any) -> str:
            masked = (
                apply_mask(self._plan.mask, value, field, "finish", trajectory.skill_id) if value else value
            )
            return encode_text(masked, strict=self._plan.strict, field=field)

        return FinishRequest(
            status=terminal_status(trajectory.status, strict=self._plan.strict),
            output=text("output", trajectory.output),
            error=text("error", trajectory.error),
        )

    def _refuse(self, index: int, reason: str) -> None:
        self._refused_count += 1
        if len(self._refused) < REFUSED_MAX:
            self._refused.append(Refusal(index, reason))


class _Outlet:
    """The import's source in somebody's log, behind the records that are there already."""

    def __init__(
        self,
        log: EventLog,
        source_id: str,
        *,
        there: int = 0,
        forwarder: Forwarder | None = None,
        owned: bool = False,
    ) -> None:
        self.source_id = source_id
        self.appended = 0
        self._log = log
        self._there = there
        self._forwarder = forwarder
        self._owned = owned

    def append(self, key: str, record: bytes, kind: RecordKind, *, wait_ms: int) -> int:
        return self.append_many([(key, record, kind)], wait_ms=wait_ms)

    def append_many(self, items: Sequence[Item], *, wait_ms: int) -> int:
        skipped = min(self._there, len(items))
        position = self._log.append_many(items[skipped:], wait_ms=wait_ms) if skipped < len(items) else 0
        self._there -= skipped
        self.appended += len(items) - skipped
        return position

    def flush(self, timeout_s: float) -> FlushReport:
        """Also of what an earlier import left unacknowledged: the log itself knows only what it wrote."""
        if self._owned and not self.appended and isinstance(self._log, OutboxLog):
            return _await_source(self._log.settings, self._log.source_dir, timeout_s)
        return self._log.flush(timeout_s)

    def close(self, timeout_s: float) -> FlushReport:
        if self._forwarder is not None:
            self._forwarder.close(FORWARDER_STOP_S)
        return self._log.close(timeout_s) if self._owned else self._log.flush(timeout_s)


def _outlet(target: Settings | Sink, settings: Settings, source_id: str) -> _Outlet:
    if isinstance(target, Sink) and not isinstance(target.log, OutboxLog):
        if target.log is None:
            raise RejectedError("the sink is disabled (SKILLAUDIT_ENABLED=0): there is nowhere to import to")
        return _Outlet(target.log, source_id)
    log = OutboxLog(settings, source_id=source_id)
    forwarder: Forwarder | None = None
    if settings.uses_kafka and settings.forwarder in ("auto", "thread"):
        from skillaudit.producer.forwarder_thread import start_forwarder

        forwarder = start_forwarder(settings, log)
    return _Outlet(log, source_id, there=_records_in(log.source_dir), forwarder=forwarder, owned=True)


def _flush_again(target: Settings | Sink, settings: Settings, source_id: str) -> FlushReport:
    """Of a file that was imported before: what its first import left in the outbox may still be waiting."""
    outlet = _outlet(target, settings, source_id)
    try:
        return outlet.flush(settings.flush_timeout_ms / 1_000)
    finally:
        outlet.close(0)


def _await_source(settings: Settings, source_dir: Path, timeout_s: float) -> FlushReport:
    """As a flush of the source, by whoever reads it: at once where nobody does."""
    deadline = time.monotonic() + timeout_s
    presence = ReaderPresence(settings.outbox_dir)
    while True:
        status = source_status(source_dir)
        waits = settings.uses_kafka or presence.is_consumed(source_dir.name)
        if not status.backlog_records or not waits or time.monotonic() >= deadline:
            break
        time.sleep(_POLL_S)
    ack = status.acknowledgement
    return FlushReport(
        acknowledged=ack.records - ack.refused,
        pending=status.backlog_records,
        refused=list_refused(source_dir),
        positions=ack.positions,
    )


def _records_in(source_dir: Path) -> int:
    """Records that an earlier import left in its source."""
    if not source_dir.is_dir():
        return 0
    with SourceReader.resume(source_dir).reader as reader:
        for _ in iter_lines(reader):
            pass
        return reader.records


class _State:
    """What is kept beside the outbox: the import key, and for each file what is fixed at its first import."""

    def __init__(self, directory: Path, source_id: str) -> None:
        self._directory = directory
        self._path = directory / f"{source_id}.json"

    def key(self) -> bytes:
        return bytes.fromhex(
            create_exclusively(self._directory / "key", os.urandom(32).hex().encode()).decode()
        )

    def read(self) -> dict[str, Any]:
        data = read_optional(self._path)
        if data is None:
            return {}
        try:
            kept: dict[str, Any] = orjson.loads(data)
        except orjson.JSONDecodeError as exc:
            raise OutboxCorruptError(
                f"{self._path} is damaged; remove it if that file was never imported"
            ) from exc
        return kept

    def write(self, kept: dict[str, Any]) -> None:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self._path, orjson.dumps(kept))


def _kept_of(report: ImportReport) -> dict[str, Any]:
    return {
        "runs": report.runs,
        "events": report.events,
        "refused": [[refusal.index, refusal.reason] for refusal in report.refused],
        "refused_count": report.refused_count,
    }


def _report_of(kept: dict[str, Any], source_id: str) -> ImportReport:
    return ImportReport(
        source_id=source_id,
        runs=kept["runs"],
        events=kept["events"],
        appended=0,
        refused=tuple(Refusal(index, reason) for index, reason in kept["refused"]),
        refused_count=kept["refused_count"],
    )


def _digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _run_id(source_id: str, entry: Entry) -> str:
    """A UUID of version 8: the same for the same trajectory in the same place of the same file."""
    text = f"skillaudit import 1\n{source_id}\n{entry.index}\n{hashlib.sha256(entry.data).hexdigest()}\n"
    value = int.from_bytes(hashlib.sha256(text.encode()).digest()[:16])
    value = value & ~(0xF << 76) & ~(0b11 << 62) | 0x8 << 76 | 0b10 << 62
    digits = f"{value:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
