"""What the benchmarks share: a result, and a description of the machine that says enough and names nothing."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from typing import Any


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
) -> dict[str, Any]:
    """`ratio` is value / baseline_value unless given (medians of paired runs are better than ratios of medians)."""
    if ratio is None:
        ratio = value / baseline_value if baseline_value else 0.0
    return {
        "name": name,
        "value": round(value, 3),
        "unit": unit,
        "baseline": baseline,
        "baseline_value": round(baseline_value, 3),
        "ratio": round(ratio, 3),
        "machine": machine(),
    }


def median(values: list[float]) -> float:
    return statistics.median(values)
