"""Where the parts of a JSON object or array stand in its bytes. For texts that are known to be valid JSON."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import orjson

_TOKEN: Final = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]', re.DOTALL)
_SPACE: Final = b" \t\n\r"


@dataclass(frozen=True, slots=True)
class Part:
    """A member of an object, or an element of an array (its `name` is empty): `value[low:high]`, white space trimmed."""

    name: str
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class Scan:
    """The parts of an object or array in order, members that stand twice included, and how deep it is nested."""

    parts: tuple[Part, ...]
    depth: int

    def repeated(self) -> str | None:
        """Name of a member that stands twice, None where there is none."""
        seen: set[str] = set()
        for part in self.parts:
            if part.name in seen:
                return part.name
            seen.add(part.name)
        return None


def scan(value: bytes) -> Scan:
    """The parts of `value`, the bytes of a JSON object or array. Constant stack however deep, linear in the size."""
    parts: list[Part] = []
    depth = deepest = low = 0
    name = text = b'""'
    for token in _TOKEN.finditer(value):
        mark = token.group()
        if mark in (b"{", b"["):
            depth += 1
            deepest = max(deepest, depth)
            if depth == 1:
                low = token.end()
        elif depth > 1:
            depth -= mark in (b"}", b"]")
        elif mark == b":":
            name, low = text, token.end()
        elif mark[:1] == b'"':
            text = mark
        else:  # a comma between parts, or the bracket after the last
            part = _trimmed(name, value, low, token.start())
            if part.low < part.high:
                parts.append(part)
            low = token.end()
    return Scan(tuple(parts), deepest)


def _trimmed(name: bytes, value: bytes, low: int, high: int) -> Part:
    text = value[low:high]
    low += len(text) - len(text.lstrip(_SPACE))
    return Part(orjson.loads(name), low, low + len(text.strip(_SPACE)))
