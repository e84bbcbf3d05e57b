"""Recorded trajectories: reading them from a file, one at a time, and what each becomes.

A file is a JSON list of trajectories, JSON Lines of them, or one alone. A trajectory is a list of chat messages, or an
object that holds one as `messages`, `traj`, `trajectory` or `conversations`. Such an object may also say, about its run,
`skill_id`, `caller_id` (or `user_id`), `channel_id`, `started_at`, `finished_at`, `status`, `error`, `output`, and
messages may have times of their own. Nothing is lost: what the model was given before its first message becomes the
run's `inputs` {"messages"}, messages behind its last one the attribute `messages_after`, and every other member of the
object (reward, task, info ...) an attribute of its name.
"""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

from skillaudit.contract.clock import to_us
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.producer._kinds import STEP
from skillaudit.producer.messages import ASSISTANT_ROLES, TOOL_ROLES, Mapped, MessageMapper

ENTRY_BYTES_MAX: Final = 64 * 1024 * 1024
"""Bytes of one trajectory at most."""
MESSAGE_MEMBERS: Final = ("messages", "traj", "trajectory", "conversations", "conversation")
_TIMES: Final = ("timestamp", "created_at", "created", "time", "started_at")
_STARTS: Final = ("started_at", "start_time", "created_at", "timestamp", "created")
_ENDS: Final = ("finished_at", "ended_at", "end_time")
_FROM: Final = {"human": "user", "gpt": "assistant", "bot": "assistant", "observation": "tool"}
_SPACE: Final = b" \t\r\n"
_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],]', re.DOTALL)
_MS_FROM: Final = 100_000_000_000
"""Numbers from here on are milliseconds since the epoch, below seconds (the year 5138)."""


Parts: TypeAlias = Generator[tuple[int, int], None, None]
"""Where entries begin and end."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One trajectory's bytes, and where the file is after them."""

    index: int
    data: bytes
    """Empty where it is too large."""
    end: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trajectory:
    """What one trajectory becomes. Times are microseconds; None: not given."""

    skill_id: str
    caller_id: str
    channel_id: str
    started_us: int | None
    finished_us: int | None
    inputs: dict[str, Any]
    attributes: dict[str, Any]
    events: tuple[tuple[int | None, list[Mapped]], ...]
    """One message's events each, with the message's own time."""
    status: str
    output: Any
    error: Any


def read_entries(path: Path) -> Iterator[Entry]:
    """The trajectories of a file, in order, one in memory at a time. Raises `InvalidRecordError` where the file ends
    inside of one or holds something else.
    """
    with path.open("rb") as file:
        if not file.seek(0, 2):
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            low = _skip_space(data, 3 if data[:3] == b"\xef\xbb\xbf" else 0)
            if low == len(data):
                return
            if _is_lines(data, low):
                parts = _lines(data, low)
            elif data[low] == ord("[") and not _is_message_list(data, low):
                parts = _elements(data, low)
            else:
                parts = _whole(data, low)
            with closing(parts):  # before the map: a search under way holds on to it
                for index, (start, end) in enumerate(parts):
                    fits = end - start <= ENTRY_BYTES_MAX
                    yield Entry(index, data[start:end].strip(_SPACE) if fits else b"", end, end - start)


def parse_entry(source: Entry, skill_id: str) -> Trajectory:
    """What one trajectory becomes; `skill_id` where it names none. Raises `InvalidRecordError`."""
    if not source.data:
        raise InvalidRecordError(
            f"{source.size} bytes; a trajectory has at most {ENTRY_BYTES_MAX}, and not none"
        )
    entry = _parsed(source.data)
    members: dict[str, Any] = {}
    messages = entry
    if isinstance(entry, dict):
        members = cast("dict[str, Any]", entry)
        name = next((name for name in MESSAGE_MEMBERS if isinstance(members.get(name), list)), None)
        if name is None:
            raise InvalidRecordError(
                f"no list of messages; a trajectory has one as {', '.join(MESSAGE_MEMBERS)}"
            )
        messages = members.pop(name)
    if not isinstance(messages, list):
        raise InvalidRecordError("neither an object nor a list of messages; see what a trajectory is")
    return _trajectory(members, [_normal(m, n) for n, m in enumerate(cast("Any", messages))], skill_id)


def _trajectory(members: dict[str, Any], messages: list[dict[str, Any]], skill_id: str) -> Trajectory:
    given = next(
        (n for n, m in enumerate(messages) if m.get("role") in ASSISTANT_ROLES | TOOL_ROLES), len(messages)
    )
    mapper = MessageMapper()
    events: list[tuple[int | None, list[Mapped]]] = []
    for number, message in enumerate(messages[given:], given):
        group = _mapped(mapper, message, number)
        if group:
            events.append((_first_time(message, _TIMES), group))
    taken: dict[str, Any] = {
        name: members.pop(name, None) for name in ("skill_id", "caller_id", "channel_id", "status")
    }
    started_us, finished_us = _first_time(members, _STARTS), _first_time(members, _ENDS)
    if started_us is None and messages:
        started_us = _first_time(messages[0], _TIMES)
    error, output = members.pop("error", None), members.pop("output", None)
    after = mapper.take()
    return Trajectory(
        skill_id=str(taken["skill_id"] or skill_id),
        caller_id=str(taken["caller_id"] or members.get("user_id") or ""),
        channel_id=str(taken["channel_id"] or ""),
        started_us=started_us,
        finished_us=finished_us,
        inputs={"messages": messages[:given]} if given else {},
        attributes={**members, "messages_after": after} if after else members,
        events=tuple(events),
        status=str(taken["status"] or ("error" if error else "ok")),
        output=_last_answer(messages) if output is None else output,
        error=error,
    )


def _mapped(mapper: MessageMapper, message: dict[str, Any], number: int) -> list[Mapped]:
    try:
        group = mapper.map(message)
    except InvalidRecordError as exc:
        raise InvalidRecordError(f"message {number}: {exc}") from exc
    if group and group[0][0] is STEP and (given := mapper.take()):
        group[0][1]["input"] = given
    return group


def _normal(message: Any, number: int) -> dict[str, Any]:
    """A message with a role; `{"from", "value"}` in those words."""
    if not isinstance(message, dict):
        raise InvalidRecordError(f"message {number} is no object; a message has a role and a content")
    plain = cast("dict[str, Any]", message)
    if "role" not in plain and isinstance(plain.get("from"), str) and "value" in plain:
        speaker = plain.pop("from")
        plain = {"role": _FROM.get(speaker, speaker), "content": plain.pop("value"), **plain}
    if not isinstance(plain.get("role"), str):
        raise InvalidRecordError(f"message {number} has no role; say assistant, tool, user or system")
    return plain


def _last_answer(messages: list[dict[str, Any]]) -> str:
    for message in reversed(messages):
        if message["role"] in ASSISTANT_ROLES and isinstance(message.get("content"), str):
            return str(message["content"])
    return ""


def _first_time(members: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    """The first of these members that is a time; seconds, milliseconds or ISO 8601."""
    for name in names:
        value = members.get(name)
        try:
            if isinstance(value, str):
                at = datetime.fromisoformat(value)
                at_us = to_us(at if at.tzinfo else at.replace(tzinfo=UTC))
            elif isinstance(value, int | float) and not isinstance(value, bool):
                at_us = round(value * (1_000 if value >= _MS_FROM else 1_000_000))
            else:
                continue
        except (ValueError, OverflowError):
            continue
        if 0 < at_us < _MS_FROM * 1_000_000:
            return at_us
    return None


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data.decode(), object_pairs_hook=_unique)  # orjson would make long integers floats
    except UnicodeDecodeError as exc:
        raise InvalidRecordError(f"not UTF-8 at byte {exc.start}; convert the file") from exc
    except json.JSONDecodeError as exc:
        raise InvalidRecordError(f"not JSON: {exc.msg} at character {exc.pos}") from exc
    except RecursionError as exc:
        raise InvalidRecordError("nested too deeply") from exc


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise InvalidRecordError("a member stands twice in one object; keep one of them")
    return members


# Where the entries of a file are.


def _skip_space(data: mmap.mmap, at: int) -> int:
    while at < len(data) and data[at] in _SPACE:
        at += 1
    return at


def _is_lines(data: mmap.mmap, low: int) -> bool:
    """Whether the first line is a JSON value of its own with something behind it."""
    end = data.find(b"\n", low)
    if end < 0 or end - low > ENTRY_BYTES_MAX or _skip_space(data, end) == len(data):
        return False
    try:
        json.loads(data[low:end])
    except (ValueError, RecursionError):
        return data[low] not in b"[{"  # a broken line among others, not a document
    return True


def _whole(data: mmap.mmap, low: int) -> Parts:
    yield low, len(data)


def _lines(data: mmap.mmap, low: int) -> Parts:
    while low < len(data):
        end = data.find(b"\n", low)
        end = len(data) if end < 0 else end
        if _skip_space(data, low) < end:
            yield low, end
        low = end + 1


def _is_message_list(data: mmap.mmap, low: int) -> bool:
    """Whether the document's list is one trajectory: its first element is a message."""
    first = next(_elements(data, low), None)
    if first is None or first[1] - first[0] > ENTRY_BYTES_MAX:
        return False
    try:
        element = json.loads(data[first[0] : first[1]])
    except (ValueError, RecursionError):
        return False
    if not isinstance(element, dict) or any(name in element for name in MESSAGE_MEMBERS):
        return False
    return "role" in element or ("from" in element and "value" in element)


def _elements(data: mmap.mmap, low: int) -> Parts:
    """The elements of the list that begins at `low`."""
    depth = 0
    start = low + 1
    for token in _TOKEN.finditer(data, low):
        mark = token.group()
        if mark in (b"{", b"["):
            depth += 1
        elif mark in (b"}", b"]"):
            depth -= 1
        if depth == 0 or (depth == 1 and mark == b","):
            if data[start : token.start()].strip(_SPACE) or depth == 1:
                yield start, token.start()
            start = token.end()
        if depth == 0:
            if _skip_space(data, start) < len(data):
                raise InvalidRecordError(
                    f"something follows the list at byte {start}; give one list, or JSON Lines"
                )
            return
    raise InvalidRecordError("the file ends inside its list: it was cut off; get the whole file")
