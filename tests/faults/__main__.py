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
import time
import traceback
from pathlib import Path

from tests.faults.results import read
from tests.faults.rows import Row, all_rows
from tests.faults.running import Resources, run_off, run_row

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
    parser.add_argument("--share", action="store_true")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--off", action="store_true")
    parser.add_argument("--list", action="store_true")
    return parser.parse_args(arguments)


async def main(options: argparse.Namespace) -> int:
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
    async with Resources() as resources:
        failed = [row.name for row in chosen if not await _run(row, resources, options, results)]
    print(
        f"{len(chosen) - len(failed)} of {len(chosen)} rows passed"
        + (f"; failed: {', '.join(failed)}" if failed else "")
    )
    return 1 if failed else 0


async def _run(row: Row, resources: Resources, options: argparse.Namespace, results: Path) -> bool:
    """Whether it passed; a broker that does not start fails its row, not the others."""
    began_s = time.monotonic()
    if row.skipped_because:
        print(f"skipped {row.name}: {row.skipped_because}", flush=True)
        return True
    try:
        if not options.off:
            count = options.count or (row.share if options.share else row.full)
            made = await run_row(
                row, resources, count=count, seed=options.seed, results=results, first=options.first
            )
            took_s = time.monotonic() - began_s
            print(f"passed {row.name}: {made} injections now, {took_s:.1f} s", flush=True)
        in_share = options.share and row.off_in_share and not row.off_in_tests
        if options.off or options.full or in_share:
            await _show_off(row, resources, options, results)
    except Exception as exc:
        if not isinstance(exc, AssertionError):
            traceback.print_exc()
        print(f"FAILED {row.name}: {exc}", flush=True)
        return False
    return True


async def _show_off(row: Row, resources: Resources, options: argparse.Namespace, results: Path) -> None:
    shown = {result.off for result in read(results) if result.row == row.name}
    for mechanism in row.off:
        if mechanism in shown:
            continue
        told = await run_off(row, resources, mechanism, seed=options.seed, results=results)
        print(f"{row.name} without {mechanism} fails, as it must: {told[:160]}", flush=True)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(parse())))
