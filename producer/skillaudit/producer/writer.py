"""A run's Writer: what an agent calls for each event of a run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from skillaudit.contract.errors import InvalidRecordError, OutboxFullError, RunStateError, SkillauditError
from skillaudit.contract.records import SkillRun, Status
from skillaudit.producer._finish import FinishRequest, count_of, runtime_of, terminal_status, token_counts
from skillaudit.producer._kinds import ERROR, STEP, TOOL_CALL, TOOL_RESULT, Kind, kind_of
from skillaudit.producer._numbering import Counts, LogEvent, NumberedRun
from skillaudit.producer._state import State
from skillaudit.producer.encoding import encode_object, encode_text
from skillaudit.producer.masking import Mask, apply_mask

if TYPE_CHECKING:
    from skillaudit.producer.messages import MessageMapper
    from skillaudit.producer.sink import Sink

_ONE_CALL: Final[Counts] = (1, 0, 0, 0)
_DRAIN_PAUSE_S: Final = 0.01


class Writer:
    """Records one run. Get it from `Sink.start_run`; use it as `with` or `async with`, or call `finish` yourself.

    All methods are plain functions, safe in threads, tasks and signal handlers; each returns once its event is in the
    log. Events are numbered 1, 2, 3 ... in the order of the calls. A call that raises has taken no number and changed
    nothing: `RunStateError` (the run is finished, or belongs to the process before a fork), `RecordTooLargeError`,
    `OutboxFullError`, with `encoding="strict"` `InvalidRecordError`.

    Leaving the block by an exception finishes the run as `error`, as `timeout` for a TimeoutError, as `preempted` for
    what is no Exception (cancellation, KeyboardInterrupt, SystemExit, GeneratorExit); leaving it normally without
    `finish` as `ok`. In a forked child, leaving the block does nothing.
    """

    __slots__ = (
        "__weakref__",
        "_call_ids",
        "_mapper",
        "_mask",
        "_run",
        "_sink",
        "_skill_id",
        "_strict",
        "run_id",
    )

    def __init__(self, sink: Sink, run: NumberedRun, skill_id: str, mask: Mask | None, strict: bool) -> None:
        """Made by `Sink.start_run`."""
        self.run_id = run.run_id
        self._sink = sink
        self._run = run
        self._skill_id = skill_id
        self._mask = mask
        self._strict = strict
        self._call_ids = count(1)
        self._mapper: MessageMapper | None = None

    def __repr__(self) -> str:
        """Run, state and events so far."""
        return f"<Writer {self.run_id} {self.state.value} sequence={self.sequence}>"

    @property
    def state(self) -> State:
        """Where the run stands."""
        return self._run.state

    @property
    def sequence(self) -> int:
        """The number of the last event, 0 before the first."""
        return self._run.sequence

    def step(  # noqa: C901  flat on purpose: the most frequent call
        self,
        content: Any = None,
        *,
        model: str | None = None,
        finish_reason: str | None = None,
        input_tokens: int = 0,
        output_tokens: int = 0,
        thinking_tokens: int = 0,
        **more: Any,
    ) -> None:
        """One model completion, with its token usage. What is None or 0 is left out of the payload."""
        payload: dict[str, Any] = {}
        if model is not None:
            payload["model"] = model
        if content is not None:
            payload["content"] = content
        if finish_reason is not None:
            payload["finish_reason"] = finish_reason
        counts = None
        if input_tokens or output_tokens or thinking_tokens:
            counts = token_counts(input_tokens, output_tokens, thinking_tokens)
            _, tokens_in, tokens_out, tokens_thinking = counts
            if tokens_in:
                payload["input_tokens"] = tokens_in
            if tokens_out:
                payload["output_tokens"] = tokens_out
            if tokens_thinking:
                payload["thinking_tokens"] = tokens_thinking
        if more:
            payload.update(more)
        if self._mapper is not None and self._mapper.waiting:
            self._write_mapped([(STEP, payload, counts)])
            return
        if self._mask is not None:
            payload = apply_mask(self._mask, payload, "payload", "step", self._skill_id)
        self._run.write(STEP, encode_object(payload, strict=self._strict), counts)

    def tool_call(self, name: str, arguments: Any = None, call_id: str | None = None, **more: Any) -> str:
        """A tool is called. Returns the call_id, made for this run where none is given, for `tool_result`."""
        if call_id is None:
            call_id = f"call-{next(self._call_ids)}"
        payload: dict[str, Any] = {"name": name, "call_id": call_id, "arguments": arguments, **more}
        if arguments is None:
            payload["arguments"] = {}
        self._log(TOOL_CALL, payload, _ONE_CALL)
        return call_id

    def tool_result(
        self, name: str, content: Any = None, call_id: str | None = None, is_error: bool = False, **more: Any
    ) -> None:
        """What a tool gave back."""
        payload: dict[str, Any] = {"name": name}
        if call_id is not None:
            payload["call_id"] = call_id
        payload["content"] = content
        if more:
            payload.update(more)
        if is_error:
            payload["is_error"] = True
        self._log(TOOL_RESULT, payload)

    def error(self, error: str | BaseException, message: str | None = None, **more: Any) -> None:
        """Something went wrong and the run goes on: an exception, or a type and a message."""
        if isinstance(error, BaseException):
            payload = {"type": type(error).__name__, "message": message or text_of(error), **more}
        else:
            payload = {"type": error, "message": message or "", **more}
        self._log(ERROR, payload)

    def log(self, event_type: str, payload: Mapping[str, Any]) -> None:
        """Any event. `event_type` is best one of step, tool_call, tool_result, error; only those are counted in sums,
        and only by their own methods.
        """
        self._log(kind_of(event_type), payload)

    def message(
        self,
        message: Any,
        *,
        model: str | None = None,
        usage: Any = None,
        finish_reason: str | None = None,
        **more: Any,
    ) -> None:
        """A chat message, a dict or an SDK's object: an assistant's becomes one step and its tool calls, all or none, a
        tool's a tool_result. Others (system, user) wait and go into the next step as its `input`: `messages` says how.
        """
        if self._mapper is None:
            from skillaudit.producer.messages import (
                MessageMapper,
            )  # here: who never calls this doesn't load it

            self._mapper = MessageMapper()
        group = self._mapper.map(message, model=model, usage=usage, finish_reason=finish_reason, more=more)
        if group:
            self._write_mapped(group)

    def start_child(self, run: SkillRun) -> Writer:
        """Start a run whose `parent_run_id` is this run. Raises `RunStateError` once this run has ended."""
        if self.state not in (State.OPEN, State.STARTING):
            raise RunStateError(f"run {self.run_id!r} is {self.state.value}: it starts no child runs")
        if run.parent_run_id not in ("", self.run_id):
            raise InvalidRecordError("parent_run_id names another run; leave it empty, start_child sets it")
        return self._sink.start_run(replace(run, parent_run_id=self.run_id))

    def finish(
        self,
        status: str = Status.OK,
        output: Any = "",
        error: Any = "",
        *,
        tool_calls: int | None = None,
        runtime_seconds: float | None = None,
        input_tokens: int | None = None,
        output_tokens: int | None = None,
        thinking_tokens: int | None = None,
    ) -> None:
        """End the run. Counts that are None are what the Writer added up; output and error that are no text become
        their JSON, and are cut, marked, where the record would exceed `record_bytes_max`.
        """
        request = FinishRequest(
            status=terminal_status(status, strict=self._strict),
            output=self._text("output", output),
            error=self._text("error", error),
            tool_calls=None if tool_calls is None else count_of("tool_calls", tool_calls),
            runtime_us=None if runtime_seconds is None else runtime_of(runtime_seconds),
            input_tokens=None if input_tokens is None else count_of("input_tokens", input_tokens),
            output_tokens=None if output_tokens is None else count_of("output_tokens", output_tokens),
            thinking_tokens=None if thinking_tokens is None else count_of("thinking_tokens", thinking_tokens),
        )
        if self._mapper is not None and self._mapper.waiting:
            self._write_mapped([(STEP, {}, None)])
        self._run.end(request)

    async def drain(self, timeout_s: float | None = None) -> None:
        """Wait until the log has room, without standing in the event loop's way: for as long as that takes, or at most
        `timeout_s`, then `OutboxFullError`. Room is what `outbox_bytes_max` and `outbox_free_bytes_min` leave.
        """
        import asyncio

        begun_s = time.monotonic()
        while not self._run.has_room():  # other threads and processes make room, nobody here tells
            left_s = _DRAIN_PAUSE_S if timeout_s is None else begun_s + timeout_s - time.monotonic()
            if left_s <= 0:
                raise OutboxFullError(
                    f"the log has had no room for {timeout_s} s; is the forwarder or consumer running, is the disk full?"
                )
            await asyncio.sleep(min(left_s, _DRAIN_PAUSE_S))

    def __enter__(self) -> Self:
        """The Writer itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish the run, unless it is finished or not this process's; never hides the block's own exception."""
        if self.state not in (State.OPEN, State.STARTING):
            return
        try:
            self.finish(outcome_of(exc), error="" if exc is None else f"{type(exc).__name__}: {text_of(exc)}")
        except SkillauditError as failure:
            if exc is None:
                raise
            exc.add_note(f"skillaudit could not finish run {self.run_id}: {failure}")

    async def __aenter__(self) -> Self:
        """The Writer itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """As `__exit__`."""
        self.__exit__(kind, exc, trace)

    def _log(self, kind: Kind, payload: Any, counts: Counts | None = None) -> None:
        self._run.write(kind, self._encoded(kind, payload), counts)

    def _encoded(self, kind: Kind, payload: Any) -> bytes:
        if self._mask is not None:
            payload = apply_mask(self._mask, payload, "payload", kind.name, self._skill_id)
        return encode_object(payload, strict=self._strict)

    def _write_mapped(self, group: list[tuple[Kind, dict[str, Any], Counts | None]]) -> None:
        """Write a message's events; the messages that waited go into its first step, or wait on when it fails."""
        mapper = self._mapper
        assert mapper is not None  # noqa: S101  only message() makes groups
        taken = mapper.take() if group[0][0] is STEP else []
        try:
            if taken:
                group[0][1]["input"] = taken
            events: list[LogEvent] = [
                (kind, self._encoded(kind, payload), counts) for kind, payload, counts in group
            ]
            self._run.write_together(events)
        except BaseException:
            mapper.give_back(taken)
            raise

    def _text(self, field: str, value: Any) -> str:
        masked = apply_mask(self._mask, value, field, "finish", self._skill_id) if value else value
        return encode_text(masked, strict=self._strict, field=field)


class NullWriter(Writer):
    """What a disabled Sink hands out: takes every call and does nothing."""

    __slots__ = ()

    def __init__(self, sink: Sink, run_id: str) -> None:
        """Made by `Sink.start_run`."""
        self.run_id = run_id
        self._sink = sink
        self._call_ids = count(1)

    @property
    def state(self) -> State:
        """Always open."""
        return State.OPEN

    @property
    def sequence(self) -> int:
        """Nothing is numbered."""
        return 0

    def step(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def tool_call(self, name: str, arguments: Any = None, call_id: str | None = None, **more: Any) -> str:  # noqa: ARG002
        """Nothing; the call_id as a Writer gives it."""
        return f"call-{next(self._call_ids)}" if call_id is None else call_id

    def tool_result(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def error(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def log(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def message(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def start_child(self, run: SkillRun) -> Writer:
        """Another of its kind."""
        return NullWriter(self._sink, run.id)

    def finish(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    async def drain(self, timeout_s: float | None = None) -> None:
        """Nothing."""

    def __exit__(self, *_: object) -> None:
        """Nothing."""


def outcome_of(exc: BaseException | None) -> str:
    """The status of a run whose block ended by `exc`."""
    if exc is None:
        return Status.OK
    if not isinstance(exc, Exception):
        return Status.PREEMPTED
    return Status.TIMEOUT if isinstance(exc, TimeoutError) else Status.ERROR


def text_of(exc: BaseException) -> str:
    """An exception's text; never raises."""
    try:
        return str(exc)
    except Exception:  # noqa: BLE001  a broken __str__ must not keep the run from ending
        return "(its text can't be had)"
