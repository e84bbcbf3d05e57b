"""Event types with the bytes that every event of the type repeats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from skillaudit.contract.digests import T
from skillaudit.contract.errors import InvalidRecordError
from skillaudit.contract.events import json_string
from skillaudit.producer.encoding import is_encodable

KINDS_MAX: Final = 256
"""Event types remembered; more are taken and encoded anew each time."""


@dataclass(frozen=True, slots=True)
class Kind:
    """An event type."""

    name: str
    json: bytes
    """As it stands in a record, quotes included."""
    counted: str
    """As it stands in a header, with its length."""


_known: Final[dict[str, Kind]] = {}


def kind_of(name: str) -> Kind:
    """The kind of an event type, any text but the empty one; raises `InvalidRecordError`."""
    kind = _known.get(name)
    if kind is None:
        if not isinstance(name, str) or not name or not is_encodable(name):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise InvalidRecordError(
                "event_type is text such as step or tool_call, not empty, of valid characters"
            )
        name = str.__str__(name)
        kind = Kind(name, json_string(name), T(name.encode()).decode())
        if len(_known) < KINDS_MAX:
            _known[name] = kind
    return kind


STEP: Final = kind_of("step")
TOOL_CALL: Final = kind_of("tool_call")
TOOL_RESULT: Final = kind_of("tool_result")
ERROR: Final = kind_of("error")
