"""`python -m benchmarks [NAME ...] [--kafka host:port]`: run the benchmarks, print them, write results.json and docs/benchmarks.md.

Each module has a `main()` that returns its results. Those of a broker take its address from SKILLAUDIT_BENCH_KAFKA
(or --kafka); without one they are left out, and said to be.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from importlib import import_module
from typing import Any

from benchmarks.harness import RESULTS, reaches
from benchmarks.page import PAGE, benchmark_page

MODULES = {
    "imports": ("import_ms, import_mb", False),
    "append": ("append_1kb_us, append_8_threads, step_1kb_us", False),
    "forward": ("forward_rate", True),
    "materialize": ("materialize_rate, apply_rate", True),
    "seal": ("seal_rate, seal_idle_ms, seal_minute_ms, seal_publish_ms", False),
    "ledger": ("digest_1kb_us, ledger_cost, proof_bytes_share", False),
    "beside": ("sealed_freshness_p99_ms, sealed_rate, seal_catch_up_ms", False),
    "verify": ("verify_run_ms, verify_full_us, verify_full_1m_runs_s, verify_quick_1m_runs_s", False),
    "against": ("against_kafka_rate, against_kafka_cpu_us", True),
    "freshness": ("freshness_p50_ms, freshness_p99_ms", True),
}


def run(names: list[str], kafka: str) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    for name in names:
        measures, needs_broker = MODULES[name]
        if needs_broker and not kafka:
            print(f"left out: {name} ({measures}): no broker; give --kafka host:port", file=sys.stderr)
            continue
        started = time.monotonic()
        print(f"{name} ({measures}) ...", file=sys.stderr, flush=True)
        found = import_module(f"benchmarks.{name}").main()
        print(f"{name} took {time.monotonic() - started:.0f} s", file=sys.stderr)
        results += found
    return results


def merge(new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    old = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    names = {result["name"] for result in new}
    return sorted([*new, *(r for r in old if r["name"] not in names)], key=lambda r: r["name"])


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODULES)}; all by default")
    parser.add_argument("--kafka", default=os.environ.get("SKILLAUDIT_BENCH_KAFKA", ""), metavar="HOST:PORT")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(MODULES):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    if arguments.kafka:
        os.environ["SKILLAUDIT_BENCH_KAFKA"] = arguments.kafka
    results = run(arguments.names or list(MODULES), arguments.kafka)
    for r in results:
        baseline = (
            f"  ({r['ratio']:.2f} of {r['baseline']}: {r['baseline_value']} {r['unit']})"
            if r["ratio"]
            else ""
        )
        goal = {None: "", True: f"  goal {r['goal']}: reached", False: f"  goal {r['goal']}: MISSED"}[
            reaches(r)
        ]
        print(f"{r['name']:28} {r['value']:>12} {r['unit']}{baseline}{goal}")
    RESULTS.write_text(json.dumps(merge(results), indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(benchmark_page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
