"""One row as the command asks for it: its cases, what happens without its mechanisms, and a line for each."""

from __future__ import annotations

import argparse
import time
import traceback
from pathlib import Path

from tests.faults.results import read
from tests.faults.rows import Row
from tests.faults.running import Resources, run_off, run_row


async def run_one_row(row: Row, resources: Resources, *, options: argparse.Namespace, results: Path) -> bool:
    """Whether it passed; a broker that does not start fails its row, not the others."""
    began_s = time.monotonic()
    if row.skipped_because:
        print(f"skipped {row.name}: {row.skipped_because}", flush=True)
        return True
    if options.share and not row.share:
        print(f"left out {row.name}: in the full run only", flush=True)
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
