"""What the benchmarks share: a result, and a description of the machine that says enough and names nothing."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results.json"


def machine() -> str:
    python = ".".join(str(part) for part in sys.version_info[:3])
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {python}"


def result(
    name: str,
    value: float,
    unit: str,
    *,
    baseline: str = "",
    baseline_value: float = 0.0,
    ratio: float | None = None,
    goal: str = "",
) -> dict[str, Any]:
    """`ratio` is value / baseline_value unless given (medians of paired runs are better than ratios of medians).

    `goal`: what is wanted of one of the members, such as `value <= 10` or `ratio >= 0.9`.
    """
    if ratio is None:
        ratio = value / baseline_value if baseline_value else 0.0
    return {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "baseline": baseline,
        "baseline_value": round(baseline_value, 3),
        "ratio": round(ratio, 3),
        "goal": goal,
        "machine": machine(),
    }


def reaches(found: dict[str, Any]) -> bool | None:
    """Whether a result reaches its goal; None where it has none."""
    if not found.get("goal"):
        return None
    member, sign, limit = found["goal"].split()
    return found[member] <= float(limit) if sign == "<=" else found[member] >= float(limit)


def median(values: list[float]) -> float:
    return statistics.median(values)
