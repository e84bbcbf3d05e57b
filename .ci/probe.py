"""Sends one run through a broker and reads it back from the consumer's HTTP surface, both named by the environment."""

import json
import subprocess
import sys
import time
from typing import Any

from skillaudit.producer import Sink, SkillRun

FLUSH_S_MAX = 30
READ_S_MAX = 30
ASK_AGAIN_S = 0.5


def record() -> str:
    sink = Sink.from_settings()
    with sink.start_run(
        SkillRun(skill_id="ci-probe", caller_id="ci", inputs={"question": "does it arrive?"})
    ) as run:
        run.step("looking", model="none")
        call = run.tool_call("search", {"query": "arrival"})
        run.tool_result("search", "found", call_id=call)
        run.finish(output="it does")
    report = sink.flush(timeout_s=FLUSH_S_MAX)
    if report.pending or report.refused or report.lost:
        sys.exit(f"probe: not everything was acknowledged: {report}")
    return run.run_id


def read_back(run_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + READ_S_MAX
    while True:
        answer = subprocess.run(
            ["skillaudit", "show", run_id, "--json"],
            check=False,
            capture_output=True,
            text=True,
            timeout=READ_S_MAX,
        )
        if answer.returncode == 0 and '"complete"' in answer.stdout:
            return json.loads(answer.stdout)
        if time.monotonic() > deadline:
            sys.exit(f"probe: exit {answer.returncode}\n{answer.stdout}\n{answer.stderr}")
        time.sleep(ASK_AGAIN_S)


def main() -> None:
    run_id = record()
    shown = read_back(run_id)
    if "it does" not in json.dumps(shown):
        sys.exit(f"probe: the output is missing in {shown}")
    print(f"probe: run {run_id} went through broker and consumer and reads complete")


main()
