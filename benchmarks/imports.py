"""import_ms and import_mb: what `import skillaudit.producer` costs an agent's process over a bare interpreter."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

from benchmarks.harness import median, result

ROUNDS = 15
_PEAK = "import resource, sys; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


def once(code: str) -> tuple[float, float]:
    """(milliseconds, megabytes at the peak) of one interpreter's life."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{_PEAK}"], capture_output=True, text=True, check=True, timeout=60
    )
    return (time.perf_counter() - started) * 1000, int(done.stdout) / 1024


def main() -> list[dict[str, Any]]:
    with_it, bare = [], []
    once("import skillaudit.producer")
    for _ in range(ROUNDS):
        bare.append(once("pass"))
        with_it.append(once("import skillaudit.producer"))
    ms, bare_ms = median([t for t, _ in with_it]), median([t for t, _ in bare])
    mb, bare_mb = median([m for _, m in with_it]), median([m for _, m in bare])
    return [
        result(
            "import_ms",
            ms - bare_ms,
            "ms",
            baseline="bare interpreter",
            baseline_value=bare_ms,
            ratio=ms / bare_ms,
        ),
        result(
            "import_mb",
            mb - bare_mb,
            "MB",
            baseline="bare interpreter",
            baseline_value=bare_mb,
            ratio=mb / bare_mb,
        ),
    ]
