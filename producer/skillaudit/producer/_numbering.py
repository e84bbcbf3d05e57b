"""The numbering of one run: locks, numbers, digests, appends. `writer.Writer` is its surface.

An event's number, time, digest and append happen under the run's lock; the number is taken when the append has
returned, by plain statements that no signal divides. What interrupts an append without being an error of the log
(KeyboardInterrupt out of a signal handler) leaves the event *in doubt*: its very bytes are appended again before the
run's next event, and readers drop one of the two by number and tag. So an interrupted call's event may be in the
record, and is never there twice.

`_trouble` is None while nothing but the usual is to be done, so that the hot path asks one question. Otherwise it is
the event in doubt (a tuple), or says that the start or deferred calls are to be written, or that the run takes no more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock, get_ident
from typing import Final, TypeAlias

from skillaudit.contract import digests, events
from skillaudit.contract.clock import Clock
from skillaudit.contract.digests import RunDigest
from skillaudit.contract.errors import OutboxFullError, RecordTooLargeError, SkillauditError
from skillaudit.contract.eventlog import RecordKind, taken_at
from skillaudit.contract.events import FinishIdentity, OpenRun, StartIdentity
from skillaudit.contract.records import RunStats, SkillRun
from skillaudit.producer._finish import FinishRequest, shortened
from skillaudit.producer._kinds import Kind
from skillaudit.producer._reentrancy import BUSY, defer, leave
from skillaudit.producer._state import Act, State, next_state
from skillaudit.producer._waiting import Patience
from skillaudit.producer._warning import warn
from skillaudit.producer.source import Item, Source

Counts: TypeAlias = tuple[int, int, int, int]
"""What one event adds: tool calls, input, output and thinking tokens."""
LogEvent: TypeAlias = tuple[Kind, bytes, "Counts | None"]
_Doubt: TypeAlias = tuple[Sequence[Item], bytes, int, int, "Counts | None"]
"""Items, manifest lines, the next number (0: it is the finish), time, counts."""

LOST_RANGES_MAX: Final = 256
"""Separate losses that a run declares; the last one then goes on to the finish, as each record carries the list."""
DEFERRED_MAX: Final = 1_000
"""Calls of signal handlers and finalizers that wait behind one append."""
CLOCKS_APART_US_MAX: Final = 1_000
"""Between the readings of the two clocks that a run's times are made of."""
CLOCK_READINGS_MAX: Final = 100
"""After so many the last one has to do: the machine has other things to do."""
ENVELOPE_BYTES: Final = 1_024 + events.RUN_ID_BYTES_MAX * 6 + LOST_RANGES_MAX * 40
"""Of a record beside its payload, at most."""

_LOG: Final = RecordKind.LOG
_START: Final = "start"
_DEFERRED: Final = "deferred"
_CLOSED: Final = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a run keeps to."""

    record_bytes_max: int
    block_ms_max: int
    best_effort: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A start before it has a number: the run's texts are valid, its objects masked and encoded."""

    run: SkillRun
    started_us: int
    inputs: bytes
    attributes: bytes
    salt: str


class NumberedRun:
    """One run in one source. All methods without an underscore are safe from any thread, task or signal handler."""

    __slots__ = (
        "_append",
        "_base_us",
        "_deferred",
        "_digest",
        "_draft",
        "_draining",
        "_last_us",
        "_limits",
        "_lock",
        "_lost",
        "_lost_json",
        "_lost_tail",
        "_next",
        "_prefix",
        "_record_bytes_max",
        "_source",
        "_start_line",
        "_state",
        "_steady_us",
        "_steady_zero_us",
        "_sums",
        "_trouble",
        "run_id",
        "source_seq",
    )

    def __init__(self, source: Source, draft: Draft, limits: Limits, clock: Clock) -> None:
        self.run_id = draft.run.id
        self.source_seq = 0
        self._source = source
        self._draft = draft
        self._limits = limits
        self._record_bytes_max = limits.record_bytes_max
        self._append = source.log.append
        self._state = State.STARTING
        self._trouble: _Doubt | str | None = _START
        self._lock = Lock()
        self._deferred: deque[Callable[[], None]] = deque()
        self._draining = False
        self._digest = RunDigest(self.run_id, draft.salt)
        self._start_line = b""
        self._prefix = b'{"v":1,"type":"run.log","run_id":%b,"seq":' % events.json_string(self.run_id)
        self._next = 0
        self._sums = (0, 0, 0, 0)
        self._steady_us = clock.steady_us
        self._steady_zero_us = clock.steady_us()
        self._base_us = _wall_ahead_us(clock)
        self._last_us = draft.started_us
        self._lost: list[tuple[int, int]] = []
        self._lost_tail: tuple[int, int] | None = None
        """The range of lost events that no kept event has ended yet: not in the manifest so far."""
        self._lost_json = b""

    @property
    def state(self) -> State:
        """Where the run stands."""
        return self._state

    @property
    def sequence(self) -> int:
        """The number of the last event, 0 before the first."""
        return max(0, self._next - 1)

    def has_room(self) -> bool:
        """Whether the log takes logs now; logs that don't tell always do."""
        room = getattr(self._source.log, "has_room", None)
        return room is None or bool(room())

    # Events.

    def write(self, kind: Kind, body: bytes, counts: Counts | None = None) -> None:
        """Number and append one event. Raises `RunStateError`, `RecordTooLargeError` or `OutboxFullError`, and has then
        taken no number.
        """
        ident = get_ident()
        if ident in BUSY:
            self._defer_events([(kind, body, counts)])
            return
        patience: Patience | None = None
        while True:
            BUSY[ident] = None
            try:
                with self._lock:
                    self._write(kind, body, counts)
                return  # noqa: TRY300  the way on is the exception's
            except OutboxFullError as exc:
                full = exc
            finally:
                if BUSY[ident] is None:
                    del BUSY[ident]
                else:
                    leave(ident)
            patience = patience or Patience(self._limits.block_ms_max)
            patience.pause(full)

    def write_together(self, group: Sequence[LogEvent]) -> None:
        """As `write` for several events: all or none, with numbers in a row."""
        if get_ident() in BUSY:
            self._defer_events(group)
        else:
            self._guarded(lambda: self._write_group(group))

    def _write(self, kind: Kind, body: bytes, counts: Counts | None) -> None:
        if self._trouble is not None:
            self._recover(Act.LOG)
        seq = self._next
        at_us = self._base_us + self._steady_us()
        if at_us < self._last_us:  # noqa: PLR1730  a call less
            at_us = self._last_us
        digest = self._digest
        if not seq & 63:
            digest.fold()
        header = f"log {seq} {at_us} {kind.counted}"
        hexdigest = digest.digest(seq, header.encode(), body)
        record = b'%b%d,"at_us":%d,"tag":"%b","event_type":%b,%b"payload":%b}' % (
            self._prefix,
            seq,
            at_us,
            hexdigest[:16].encode(),
            kind.json,
            self._lost_json,
            body,
        )
        if len(record) > self._record_bytes_max:
            raise self._too_large(len(record))
        line = f"{header} {hexdigest}\n".encode()
        if self._lost_tail is not None:
            if len(self._lost) >= LOST_RANGES_MAX:
                self._declare_lost(1, counts)
                return
            line = digests.lost_line(*self._lost_tail) + line
        self._trouble = ((self.run_id, record, _LOG),), line, seq + 1, at_us, counts
        try:
            self._append(self.run_id, record, _LOG, wait_ms=0)
        except SkillauditError as exc:
            self._refused(exc, 1, counts)
            return
        # From here to the end: no call but the last, so that no signal divides it.
        self._trouble = self._lost_tail = None
        self._next = digest.events = seq + 1
        self._last_us = at_us
        if counts is not None:
            a, b, c, d = self._sums
            self._sums = (a + counts[0], b + counts[1], c + counts[2], d + counts[3])
        digest.lines.append(line)

    def _write_group(self, group: Sequence[LogEvent]) -> None:
        if len(group) == 1:
            self._write(*group[0])
            return
        if self._trouble is not None:
            self._recover(Act.LOG)
        at_us = max(self._last_us, self._base_us + self._steady_us())
        items: list[Item] = []
        lines: list[bytes] = []
        for seq, (kind, body, _) in enumerate(group, self._next):
            header = digests.log_header(seq, at_us, kind.name)
            digest = self._digest.digest(seq, header, body)
            record = b'%b%d,"at_us":%d,"tag":"%b","event_type":%b,%b"payload":%b}' % (
                (self._prefix, seq, at_us, digest[:16].encode(), kind.json, self._lost_json, body)
            )
            if len(record) > self._record_bytes_max:
                raise self._too_large(len(record))
            items.append((self.run_id, record, _LOG))
            lines.append(digests.manifest_line(header, digest))
        counts = _total(group)
        if self._lost_tail is not None:
            if len(self._lost) >= LOST_RANGES_MAX:
                self._declare_lost(len(group), counts)
                return
            lines.insert(0, digests.lost_line(*self._lost_tail))
        doubt = items, b"".join(lines), self._next + len(group), at_us, counts
        self._trouble = doubt
        try:
            self._source.log.append_many(items, wait_ms=0)
        except SkillauditError as exc:
            self._refused(exc, len(group), counts)
            return
        self._commit(doubt)

    def _commit(self, doubt: _Doubt) -> None:
        """The events are in the log; as in `_write`."""
        _, line, following, at_us, counts = doubt
        self._trouble = self._lost_tail = None
        self._next = self._digest.events = following
        self._last_us = at_us
        if counts is not None:
            a, b, c, d = self._sums
            self._sums = (a + counts[0], b + counts[1], c + counts[2], d + counts[3])
        self._digest.lines.append(line)

    def _refused(self, exc: SkillauditError, number: int, counts: Counts | None) -> None:
        """The log took nothing. Best effort: the events take their numbers and are declared lost."""
        doubt = self._trouble
        self._trouble = None
        if taken_at(exc) is not None and isinstance(doubt, tuple):  # it did, and its disk failed after that
            self._commit(doubt)
            raise exc
        if not (self._limits.best_effort and isinstance(exc, OutboxFullError)):
            raise exc
        self._declare_lost(number, counts)

    def _declare_lost(self, number: int, counts: Counts | None) -> None:
        first, last = self._next, self._next + number - 1
        if self._lost_tail is not None:
            first = self._lost.pop()[0]
        self._lost.append((first, last))
        self._lost_tail = (first, last)
        self._lost_json = b'"lost":"%b",' % events.format_ranges(self._lost).encode()
        self._next = last + 1
        if counts is not None:
            a, b, c, d = self._sums
            self._sums = (a + counts[0], b + counts[1], c + counts[2], d + counts[3])
        self._source.count_lost(number)

    def _too_large(self, size_bytes: int) -> RecordTooLargeError:
        return RecordTooLargeError(
            f"the event would have {size_bytes} bytes, record_bytes_max is {self._record_bytes_max};"
            " shorten it, or keep the large part elsewhere and record where"
        )

    # Start and finish.

    def begin(self) -> None:
        """Write the start. Raises `OutboxFullError` or `RecordTooLargeError`; the run then never was."""
        if get_ident() in BUSY:
            defer(self._drain)
        else:
            self._guarded(self._catch_up)

    def encode_start(self, source_id: str, source_seq: int) -> bytes:
        """The start's record under this number."""
        run, draft = self._draft.run, self._draft
        header = digests.start_header(
            draft.started_us, run.parent_run_id, run.skill_id, source_id, source_seq
        )
        fields = (run.caller_id.encode(), run.channel_id.encode(), draft.inputs, draft.attributes)
        body = digests.fields_body(draft.salt, 0, zip(digests.START_FIELDS, fields, strict=True))
        digest = self._digest.digest(0, header, body)
        self._start_line = digests.manifest_line(header, digest)
        identity = StartIdentity(
            at_us=draft.started_us,
            tag=digest[: digests.TAG_DIGITS],
            salt=draft.salt,
            source_id=source_id,
            source_seq=source_seq,
            clock=self._source.clock.name,
        )
        record = events.encode_start(run, identity, draft.inputs, draft.attributes)
        if len(record) > self._record_bytes_max:
            raise self._too_large(len(record))
        return record

    def commit_start(self, source_seq: int) -> None:
        """The start is in the log; plain statements only."""
        self.source_seq = source_seq
        self._state = State.OPEN if self._state is State.STARTING else self._state
        self._trouble = _DEFERRED if self._deferred else None
        self._next = self._digest.events = 1
        self._digest.lines.append(self._start_line)

    def end(self, request: FinishRequest) -> None:
        """Write the finish. Raises `RunStateError` or, when even the reserve is used up, `OutboxFullError`."""
        if get_ident() in BUSY:
            self._state = next_state(self._state, Act.DEFER_FINISH, self.run_id)
            self._defer(lambda: self._finish_deferred(request))
        else:
            self._guarded(lambda: self._write_finish(request))

    def _write_finish(self, request: FinishRequest) -> None:
        if self._trouble is not None:
            interrupted = self._state is State.OPEN
            self._recover(Act.FINISH)
            if interrupted and self._state is State.FINISHED:  # an interrupted finish was in doubt: it stands
                return
        next_state(self._state, Act.FINISH, self.run_id)
        at_us = max(self._last_us, self._base_us + self._steady_us())
        stats = self._stats(request)
        record = self._finish_record(stats, at_us)
        excess = len(record) - self._record_bytes_max
        if excess > 0:
            record = self._finish_record(shortened(stats, excess), at_us)
        doubt = ((self.run_id, record, RecordKind.RESERVED),), b"", 0, at_us, None
        self._trouble = doubt
        try:
            self._append(self.run_id, record, RecordKind.RESERVED, wait_ms=0)
        except SkillauditError as exc:
            self._trouble = None
            if taken_at(exc) is not None:
                self._commit_finish(at_us)
            raise
        self._commit_finish(at_us)

    def _commit_finish(self, at_us: int) -> None:
        self._state = State.FINISHED
        self._trouble = _CLOSED
        self._last_us = at_us
        self._source.finished(self.source_seq)

    def _stats(self, request: FinishRequest) -> RunStats:
        runtime_us = (
            self._steady_us() - self._steady_zero_us if request.runtime_us is None else request.runtime_us
        )
        tool_calls, tokens_in, tokens_out, tokens_thinking = self._sums
        return RunStats(
            status=request.status,
            output=request.output,
            error=request.error,
            tool_calls=tool_calls if request.tool_calls is None else request.tool_calls,
            runtime_seconds=max(0, runtime_us) / 1_000_000,
            input_tokens=tokens_in if request.input_tokens is None else request.input_tokens,
            output_tokens=tokens_out if request.output_tokens is None else request.output_tokens,
            thinking_tokens=tokens_thinking if request.thinking_tokens is None else request.thinking_tokens,
        )

    def _finish_record(self, stats: RunStats, at_us: int) -> bytes:
        seq, lost = self._next, events.format_ranges(self._lost)
        header = digests.finish_header(
            seq,
            at_us,
            stats.status,
            stats.tool_calls,
            events.runtime_us(stats.runtime_seconds),
            stats.input_tokens,
            stats.output_tokens,
            stats.thinking_tokens,
            lost,
        )
        fields = (stats.output.encode(), stats.error.encode())
        body = digests.fields_body(self._draft.salt, seq, zip(digests.FINISH_FIELDS, fields, strict=True))
        digest = self._digest.digest(seq, header, body)
        identity = FinishIdentity(
            seq=seq,
            at_us=at_us,
            tag=digest[: digests.TAG_DIGITS],
            source_id=self._source.source_id,
            source_seq=self.source_seq,
            head=self._digest.head_with(header, digest, self._lost_tail),
            lost=lost,
        )
        return events.encode_finish(self.run_id, stats, identity)

    # What the source asks.

    def progress(self) -> OpenRun | None:
        """Events and head so far; None once the run has finished."""
        with self._lock:
            if self._state not in (State.OPEN, State.FINISHING):
                return None
            return OpenRun(
                run_id=self.run_id,
                source_seq=self.source_seq,
                events=self._digest.events,
                head=self._digest.head(),
            )

    def release(self, *, forked: bool) -> None:
        """The run becomes inert, unless it has finished."""
        if forked:
            self._lock = Lock()  # its holder may be a thread that isn't here
        with self._lock:
            self._state = next_state(self._state, Act.FORKED if forked else Act.SINK_CLOSED, self.run_id)
            self._trouble = _CLOSED
            self._deferred.clear()

    # The unusual.

    def _guarded(self, work: Callable[[], None]) -> None:
        """Do `work` as `write` does its own: marked busy, under the lock, waiting for room outside it."""
        ident = get_ident()
        patience: Patience | None = None
        while True:
            BUSY[ident] = None
            try:
                with self._lock:
                    work()
                return  # noqa: TRY300  as in `write`
            except OutboxFullError as exc:
                full = exc
            finally:
                if BUSY[ident] is None:
                    del BUSY[ident]
                else:
                    leave(ident)
            patience = patience or Patience(self._limits.block_ms_max)
            patience.pause(full)

    def _recover(self, act: Act) -> None:
        if self._draining and self._trouble == _DEFERRED:
            # A deferred call is being written and a later one came, a finish maybe, which is not to hinder this one.
            self._trouble = None
            return
        if self._state is State.STARTING:
            self._catch_up()
        next_state(self._state, act, self.run_id)
        self._catch_up()
        if act is Act.LOG:  # a deferred finish may have been among it
            next_state(self._state, act, self.run_id)

    def _catch_up(self) -> None:
        """Write what stands before the next event: the start, the event in doubt, deferred calls; in this order."""
        if self.source_seq == 0 and self._state in (State.STARTING, State.FINISHING):
            self._source.start(self)
        trouble = self._trouble
        if isinstance(trouble, tuple):
            self._source.log.append_many(trouble[0], wait_ms=0)
            if trouble[2]:
                self._commit(trouble)
            else:
                self._commit_finish(trouble[3])
        if self._trouble == _DEFERRED:
            self._trouble = None
        if not self._draining:
            self._write_all_deferred()

    def _write_all_deferred(self) -> None:
        """In the order of the calls. One that comes while an earlier one is being written is written behind that: the
        event under way, which asks for what stands before it, is not to find it.
        """
        self._draining = True
        try:
            while self._deferred and self._state is not State.FINISHED:
                self._deferred.popleft()()
        finally:
            self._draining = False
            if self._deferred and self._trouble is None:  # an exception came in between
                self._trouble = _DEFERRED

    def _defer_events(self, group: Sequence[LogEvent]) -> None:
        next_state(self._state, Act.LOG, self.run_id)
        size_bytes = max(len(body) for _, body, _ in group) + ENVELOPE_BYTES
        if size_bytes > self._record_bytes_max:
            raise self._too_large(size_bytes)
        self._defer(lambda: self._write_deferred(group))

    def _defer(self, work: Callable[[], None]) -> None:
        if len(self._deferred) >= DEFERRED_MAX:
            raise OutboxFullError(f"{DEFERRED_MAX} calls wait behind one append; this one took no number")
        self._deferred.append(work)
        if self._trouble is None:
            self._trouble = _DEFERRED
        defer(self._drain)

    def _drain(self) -> None:
        try:
            with self._lock:
                if self._state is not State.INERT:
                    self._catch_up()
        except SkillauditError as exc:
            warn("a start that a signal handler asked for has to wait for the run's next call: %s", exc)

    def _write_deferred(self, group: Sequence[LogEvent]) -> None:
        """Nobody waits for the outcome any more: what can't be written is declared lost."""
        try:
            self._write_group(group)
        except SkillauditError as exc:
            self._declare_lost(len(group), _total(group))
            warn("an event that a signal handler recorded is lost, and declared as lost: %s", exc)

    def _finish_deferred(self, request: FinishRequest) -> None:
        try:
            self._write_finish(request)
        except SkillauditError as exc:
            self._state = next_state(self._state, Act.FINISH_REFUSED, self.run_id)
            warn("a run that a signal handler finished is still open: %s", exc)


def _wall_ahead_us(clock: Clock) -> int:
    """How far the wall clock is ahead of the steady one. A process that is stopped, or a machine that sleeps, between the two
    readings would have every event of the run in the future; so they are read again then.
    """
    ahead_us = 0
    for _ in range(CLOCK_READINGS_MAX):
        steady_us = clock.steady_us()
        ahead_us = clock.wall_us() - steady_us
        if clock.steady_us() - steady_us <= CLOCKS_APART_US_MAX:
            break
    return ahead_us


def _total(group: Sequence[LogEvent]) -> Counts | None:
    counts = [c for _, _, c in group if c is not None]
    return tuple(map(sum, zip(*counts, strict=True))) if counts else None  # type: ignore[return-value]
