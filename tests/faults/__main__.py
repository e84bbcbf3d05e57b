"""`python -m tests.faults`: inject faults, row by row; resumes where the results file ends.

python -m tests.faults --list
python -m tests.faults agent-killed --count 1000 --seed 1
python -m tests.faults --share          what `make faults` runs
python -m tests.faults --full           the counts of the published table
python -m tests.faults ROW --off        show that it fails with each of its mechanisms switched off
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.faults.lanes import RunOne, run_lanes, run_unit, units
from tests.faults.one_row import run_one_row
from tests.faults.rows import Row, all_rows
from tests.faults.running import Resources

RESULTS = Path(__file__).parents[2] / "docs" / "faults" / "results.jsonl"
SHARE_RESULTS = Path(__file__).parents[2] / "build" / "faults.jsonl"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", help="names of rows; none: all")
    parser.add_argument("--count", type=int, help="injections in all, those of the results file included")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--first", type=int, help="number of the first case: repeat one that failed, with --count 1"
    )
    parser.add_argument(
        "--results", type=Path, help=f"default: {RESULTS.name} of docs/faults; --share: build/faults.jsonl"
    )
    parser.add_argument(
        "--jobs", type=int, default=1, help="rows at a time, each job with brokers of its own"
    )
    parser.add_argument("--share", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--off", action="store_true")
    parser.add_argument("--list", action="store_true")
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> int:
    """Exit code 0 if all passed, 1 if something failed, 2 for a row that is not there."""
    rows = all_rows()
    unknown = [name for name in options.rows if name not in rows]
    if unknown:
        print(f"no such row: {', '.join(unknown)}; --list names them", file=sys.stderr)
        return 2
    if options.list:
        for row in rows.values():
            print(f"{row.name:34} full {row.full:>7}  share {row.share:>6}  {row.about}")
        return 0
    results = options.results or (SHARE_RESULTS if options.share else RESULTS)
    if options.share and not options.results:
        results.unlink(missing_ok=True)
    chosen = [rows[name] for name in options.rows] if options.rows else list(rows.values())
    run_one = partial(run_one_row, options=options, results=results)
    if options.jobs > 1:
        failed = run_lanes(chosen, options.jobs, run_one)
    else:
        failed = asyncio.run(_run_all(chosen, run_one))
    print(f"{len(failed)} of {len(chosen)} rows failed" + (f": {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


async def _run_all(rows: Sequence[Row], run_one: RunOne) -> list[str]:
    """The names of those that did not pass."""
    names = [name for unit in units(rows) for name in unit]
    async with Resources() as resources:
        passed = {name async for name in run_unit(names, resources, run_one)}
    return [name for name in names if name not in passed]


if __name__ == "__main__":
    sys.exit(main(parse()))
