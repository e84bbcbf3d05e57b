"""What a finish says, and how it is shortened so that a run can always end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import index
from typing import Any, Final

from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.events import json_string
from skillaudit.contract.records import RunStats, Status
from skillaudit.producer.encoding import encode_text

COUNT_MAX: Final = (1 << 63) - 1
_MARKER: Final = "... [{} more characters were cut]"
_MARKER_BYTES_MAX: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishRequest:
    """What `finish` was asked to write; None: the Writer's own sum."""

    status: str
    output: str
    error: str
    tool_calls: int | None = None
    runtime_us: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    thinking_tokens: int | None = None


def terminal_status(status: object, *, strict: bool) -> str:
    """The status as text; raises `InvalidRecordError` for one that is not terminal."""
    text = encode_text(status, strict=strict, field="status")
    if not text or text == Status.RUNNING:
        raise InvalidRecordError("status: a run finishes with a terminal status such as ok, error or timeout")
    return text


def count_of(name: str, value: object) -> int:
    """A count as an integer, None as 0; raises `InvalidRecordError`."""
    if type(value) is int and 0 <= value <= COUNT_MAX:
        return value
    if value is None:
        return 0
    try:
        number = index(value)  # type: ignore[arg-type]  # bool, numpy's integers; TypeError for the rest
    except TypeError:
        number = -1
    if not 0 <= number <= COUNT_MAX:
        raise InvalidRecordError(f"{name} is a whole number from 0 to 2^63-1, not {type(value).__name__}")
    return number


def token_counts(tokens_in: Any, tokens_out: Any, tokens_thinking: Any) -> tuple[int, int, int, int]:
    """What a step adds to its run's sums; raises `InvalidRecordError`."""
    plain = type(tokens_in) is int and type(tokens_out) is int and type(tokens_thinking) is int
    if (
        plain
        and 0 <= tokens_in <= COUNT_MAX
        and 0 <= tokens_out <= COUNT_MAX
        and 0 <= tokens_thinking <= COUNT_MAX
    ):
        return (0, tokens_in, tokens_out, tokens_thinking)
    return (
        0,
        count_of("input_tokens", tokens_in),
        count_of("output_tokens", tokens_out),
        count_of("thinking_tokens", tokens_thinking),
    )


def runtime_of(seconds: float) -> int:
    """Seconds as microseconds; raises `InvalidRecordError`."""
    if isinstance(seconds, int | float) and 0 <= seconds <= COUNT_MAX / 1_000_000:  # pyright: ignore[reportUnnecessaryIsInstance]
        return round(seconds * 1_000_000)
    raise InvalidRecordError("runtime_seconds is a finite number of seconds from 0 on")


def shortened(stats: RunStats, excess_bytes: int) -> RunStats:
    """The stats with output and error cut, marked, so that their record has at least `excess_bytes` less."""
    output_bytes, error_bytes = len(json_string(stats.output)), len(json_string(stats.error))
    room = max(0, output_bytes + error_bytes - excess_bytes)
    for_error = min(error_bytes, max(room // 2, room - output_bytes))
    return replace(stats, output=_cut(stats.output, room - for_error), error=_cut(stats.error, for_error))


def _cut(text: str, json_bytes_max: int) -> str:
    if len(json_string(text)) <= json_bytes_max:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if len(json_string(text[:middle])) + _MARKER_BYTES_MAX <= json_bytes_max:
            low = middle
        else:
            high = middle - 1
    return text[:low] + _MARKER.format(len(text) - low)
