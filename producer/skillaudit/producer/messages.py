"""From chat messages to events: the mapping of `run.message`, and of `skillaudit import`. Nothing of a message is lost.

    assistant   one `step` {model, content, finish_reason, input_tokens, output_tokens, thinking_tokens}, then one
                `tool_call` {name, call_id, arguments} for each of its tool calls: arguments parsed where they are a
                JSON object, else the string as it came
    tool        one `tool_result` {name, call_id, content}; a missing name is that of the call it answers
    others      (system, developer, user ...) are what the next completion was given. They wait, and the next step
                carries them, in order and verbatim, as its member `input`: a list of messages. What still waits when
                the run is finished becomes a last `step` that has `input` alone

Further members of a message, a call or a usage are kept under their names. Members that are None are left out. Taken
as well: a whole chat completion (its first choice), legacy `function_call`, and Anthropic's content blocks (`tool_use`
of an assistant, `tool_result` of a user) and usage. Messages are dicts, or objects with `model_dump`, dataclass fields
or attributes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple, cast

from skillaudit.contract.errors import InvalidRecordError
from skillaudit.producer._finish import count_of
from skillaudit.producer._kinds import STEP, TOOL_CALL, TOOL_RESULT, Kind
from skillaudit.producer._numbering import Counts

ASSISTANT_ROLES: Final = frozenset({"assistant", "model"})
TOOL_ROLES: Final = frozenset({"tool", "function"})
CALL_NAMES_MAX: Final = 10_000
"""Calls remembered so that their results can be named."""

Mapped = tuple[Kind, dict[str, Any], Counts | None]


class Tokens(NamedTuple):
    """Token usage in this project's terms."""

    input_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0


class MessageMapper:
    """The mapping's memory within one run: the messages that wait for a step, and the names of open calls."""

    __slots__ = ("_call_names", "_made", "waiting")

    def __init__(self) -> None:
        self.waiting: list[dict[str, Any]] = []
        self._call_names: dict[str, str] = {}
        self._made = 0

    def map(
        self,
        message: Any,
        *,
        model: str | None = None,
        usage: Any = None,
        finish_reason: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> list[Mapped]:
        """The events of one message; an empty list where it waits for the next step. Raises `InvalidRecordError`."""
        plain = _unwrapped(as_dict(message))
        model = model if model is not None else plain.pop("model", None)
        usage = usage if usage is not None else plain.pop("usage", None)
        reasons = [plain.pop(name, None) for name in ("finish_reason", "stop_reason")]
        reason = next((r for r in (finish_reason, *reasons) if r is not None), None)
        plain.update(more or {})
        role = plain.get("role")
        if role in ASSISTANT_ROLES:
            return self._assistant(plain, model, usage, reason)
        if role in TOOL_ROLES:
            return [self._tool_result(plain)]
        if not isinstance(role, str):
            raise InvalidRecordError("a message has a role such as assistant, tool, user or system; add it")
        known = {"model": model, "usage": usage, "finish_reason": reason}
        plain.update({name: value for name, value in known.items() if value is not None})
        return self._other(plain)

    def take(self) -> list[dict[str, Any]]:
        """The messages that wait, for the step that is about to be written."""
        taken, self.waiting = self.waiting, []
        return taken

    def give_back(self, taken: list[dict[str, Any]]) -> None:
        """The step could not be written: they wait on."""
        self.waiting = taken + self.waiting

    def _assistant(self, plain: dict[str, Any], model: Any, usage: Any, reason: Any) -> list[Mapped]:
        del plain["role"]
        calls = [_call(entry) for entry in _entries(plain, "tool_calls")]
        if isinstance(plain.get("function_call"), Mapping):
            calls.append(_call({"function": plain.pop("function_call")}))
        plain["content"], used = _split_blocks(plain.get("content"), "tool_use")
        calls += [_call_of_block(block) for block in used]
        tokens = tokens_of(usage)
        payload: dict[str, Any] = {"model": model, "content": plain.pop("content"), "finish_reason": reason}
        payload.update({name: number for name, number in zip(Tokens._fields, tokens, strict=True) if number})
        payload.update(plain)
        payload["usage"] = _further_usage(usage)
        step = {name: value for name, value in payload.items() if value is not None}
        return [
            (STEP, step, (0, tokens[0], tokens[1], tokens[2]) if any(tokens) else None),
            *(self._tool_call(call) for call in calls),
        ]

    def _tool_call(self, call: dict[str, Any]) -> Mapped:
        if call.get("call_id") is None:
            self._made += 1
            call = {**call, "call_id": f"message-call-{self._made}"}
        if len(self._call_names) < CALL_NAMES_MAX:
            self._call_names[str(call["call_id"])] = str(call["name"])
        return TOOL_CALL, call, (1, 0, 0, 0)

    def _tool_result(self, plain: dict[str, Any]) -> Mapped:
        del plain["role"]
        call_id = plain.pop("tool_call_id", None)
        name = plain.pop("name", None)
        if name is None and call_id is not None:
            name = self._call_names.get(str(call_id))
        payload = {"name": name, "call_id": call_id, **plain}
        return TOOL_RESULT, {key: value for key, value in payload.items() if value is not None}, None

    def _other(self, plain: dict[str, Any]) -> list[Mapped]:
        content, results = _split_blocks(plain.get("content"), "tool_result")
        mapped: list[Mapped] = []
        for block in results:
            rest = {name: value for name, value in block.items() if name not in ("type", "tool_use_id")}
            mapped.append(
                self._tool_result({"role": "tool", **rest, "tool_call_id": block.get("tool_use_id")})
            )
        if not results or content:
            self.waiting = [*self.waiting, {**plain, "content": content} if results else plain]
        return mapped


def as_dict(value: Any) -> dict[str, Any]:
    """A message, call or usage as a dict of its own, without what is None. Raises `InvalidRecordError`."""
    dump = getattr(value, "model_dump", None)
    if isinstance(value, Mapping):
        members: dict[str, Any] = dict(cast("Mapping[str, Any]", value))
    elif callable(dump):
        members = cast("dict[str, Any]", dump())
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        members = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
    elif hasattr(value, "__dict__") and not isinstance(value, type):
        attributes = cast("dict[str, Any]", vars(value))
        members = {name: item for name, item in attributes.items() if not name.startswith("_")}
    else:
        raise InvalidRecordError(
            f"a chat message is a dict or an SDK's message object, not {type(value).__name__}"
        )
    return {name: item for name, item in members.items() if item is not None}


def tokens_of(usage: Any) -> Tokens:
    """Token counts of an OpenAI or Anthropic usage; zeros where there is none."""
    if usage is None:
        return Tokens()
    plain = as_dict(usage)
    thinking: Any = plain.get("thinking_tokens")
    for details in _USAGE_DETAILS:
        if thinking is None and plain.get(details) is not None:
            thinking = as_dict(plain[details]).get("reasoning_tokens")
    return Tokens(
        count_of("input_tokens", plain.get("prompt_tokens", plain.get("input_tokens"))),
        count_of("output_tokens", plain.get("completion_tokens", plain.get("output_tokens"))),
        count_of("thinking_tokens", thinking),
    )


_USAGE_DETAILS: Final = ("completion_tokens_details", "output_tokens_details")
_USAGE_MAPPED: Final = frozenset(
    {"prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "thinking_tokens", "total_tokens"}
)


def _further_usage(usage: Any) -> dict[str, Any] | None:
    """The usage as it came, where it says more than the three counts (cached tokens, say)."""
    if usage is None:
        return None
    plain = as_dict(usage)
    further = {name: value for name, value in plain.items() if name not in _USAGE_MAPPED}
    details = [further.pop(name) for name in _USAGE_DETAILS if name in further]
    said = [
        *further.values(),
        *(v for d in details for k, v in as_dict(d).items() if k != "reasoning_tokens"),
    ]
    return plain if any(said) else None


def _unwrapped(plain: dict[str, Any]) -> dict[str, Any]:
    """The message of a whole chat completion, with what the completion says of it; other messages as they are."""
    if "role" in plain or not isinstance(plain.get("choices"), Sequence) or not plain["choices"]:
        return plain
    choice = as_dict(plain["choices"][0])
    message = as_dict(choice.get("message"))
    outer = {"finish_reason": choice.get("finish_reason"), **{k: plain.get(k) for k in ("model", "usage")}}
    return message | {name: value for name, value in outer.items() if value is not None}


def _entries(plain: dict[str, Any], name: str) -> list[Any]:
    """The list under `name`, taken out; what is no list stays where it is."""
    entries = plain.get(name)
    if not isinstance(entries, list | tuple):
        return []
    del plain[name]
    return list(cast("Iterable[Any]", entries))


def _call(entry: Any) -> dict[str, Any]:
    """A tool call's payload: {name, call_id, arguments} and whatever else it says."""
    plain = as_dict(entry)
    function = as_dict(plain.pop("function", {}))
    call_id = plain.pop("id", None)
    if plain.get("type") == "function":
        del plain["type"]
    arguments = parsed_arguments(function.pop("arguments", plain.pop("arguments", None)))
    name = function.pop("name", plain.pop("name", ""))
    return {"name": name, "call_id": call_id, "arguments": arguments, **function, **plain}


def _call_of_block(block: dict[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in block.items() if name not in ("type", "id", "name", "input")}
    return {
        "name": block.get("name", ""),
        "call_id": block.get("id"),
        "arguments": block.get("input", {}),
        **rest,
    }


def _split_blocks(content: Any, kind: str) -> tuple[Any, list[dict[str, Any]]]:
    """Content without its blocks of one type, and those blocks; content without any is returned as it is."""
    if not isinstance(content, list | tuple):
        return content, []
    blocks: list[Any] = list(cast("Iterable[Any]", content))
    found = [as_dict(block) for block in blocks if _block_type(block) == kind]
    if not found:
        return cast("Any", content), []
    return [block for block in blocks if _block_type(block) != kind] or None, found


def _block_type(block: Any) -> Any:
    return (
        cast("Mapping[str, Any]", block).get("type")
        if isinstance(block, Mapping)
        else getattr(block, "type", None)
    )


def parsed_arguments(arguments: Any) -> Any:
    """A tool call's arguments: parsed where they are the text of a JSON object that parsing keeps whole."""
    if arguments is None:
        return {}
    if not isinstance(arguments, str):
        return arguments
    import json  # not orjson: it makes long integers floats and drops repeated members silently

    try:
        parsed = json.loads(arguments, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return arguments
    return cast("Any", parsed) if isinstance(parsed, dict) else arguments


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a member stands twice")
    return members


def _refuse(constant: str) -> Any:
    raise ValueError(constant)
