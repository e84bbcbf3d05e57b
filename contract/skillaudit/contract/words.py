"""Words for people that depend on a number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

NAMES_SHOWN_MAX: Final = 3


def counted(number: int, noun: str, plural: str = "") -> str:
    """`1 run`, `2 runs`, `1,000 runs`: the number and its noun. `plural` where an s at the end does not make it."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def named(noun: str, names: Sequence[str], shown_max: int = NAMES_SHOWN_MAX) -> str:
    """`hold a`; `holds a, b`; `holds a, b, c and 4 more`."""
    more = len(names) - shown_max
    shown = ", ".join(names[:shown_max]) + (f" and {more:,} more" if more > 0 else "")
    return f"{noun if len(names) == 1 else noun + 's'} {shown}"
