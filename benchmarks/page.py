"""docs/benchmarks.md, made of results.json: every figure with its goal and the machine it was measured on."""

from __future__ import annotations

import json
from typing import Any, Final

from benchmarks.harness import RESULTS, reaches

PAGE: Final = RESULTS.parents[1] / "docs" / "benchmarks.md"
_HEAD: Final = """# Benchmarks

Made by `python -m benchmarks` (`make bench`) of its last results; what a figure is, its module in `benchmarks/` says. A ratio is of
the same run's baseline. Wall times include whatever else the machine did; where a figure is of processor time, its unit says so.
Goals are those of the project, for a machine of two cores that does nothing else.

| figure | value | baseline | goal | |
| --- | --- | --- | --- | --- |
"""
_WORDS: Final = {None: "", True: "reached", False: "missed"}


def benchmark_page() -> str:
    """The whole page."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    rows = "".join(map(_row, results))
    machines = "; ".join(sorted({found["machine"] for found in results}))
    return f"{_HEAD}{rows}\nMeasured on: {machines}.\n"


def _row(found: dict[str, Any]) -> str:
    value = f"{found['value']:,.6g} {found['unit']}"
    baseline = f"{found['ratio']:g} of {found['baseline']}" if found["baseline"] else ""
    return (
        f"| `{found['name']}` | {value} | {baseline} | {found.get('goal', '')} | {_WORDS[reaches(found)]} |\n"
    )
