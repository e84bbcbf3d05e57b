"""Sends one run through a broker and reads it back from the consumer's HTTP surface: probe.py BROKER URL."""

import json
import subprocess
import sys
import tempfile
import time

from skillaudit.contract import SkillRun
from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink

FLUSH_S_MAX = 30
READ_S_MAX = 30
ASK_AGAIN_S = 0.5


def record(broker: str, data: str) -> str:
    with Sink.from_settings(Settings.load({"kafka_bootstrap_servers": broker, "data": data})) as sink:
        with sink.start_run(
            SkillRun(skill_id="ci-probe", caller_id="ci", inputs={"question": "does it arrive?"})
        ) as run:
            run.step(content="looking", model="none")
            run.tool_call("search", {"query": "arrival"}, call_id="1")
            run.tool_result("search", "found", call_id="1")
            run.finish(output="it does")
        report = sink.flush(timeout_s=FLUSH_S_MAX)
        if report.pending or report.refused or report.lost:
            sys.exit(f"probe: not everything was acknowledged: {report}")
        return run.run_id


def read_back(url: str, run_id: str) -> dict:
    deadline = time.monotonic() + READ_S_MAX
    while True:
        answer = subprocess.run(
            ["skillaudit", "show", run_id, "--url", url, "--json"],
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
    broker, url = sys.argv[1:]
    with tempfile.TemporaryDirectory() as data:
        run_id = record(broker, data)
        shown = read_back(url, run_id)
    if "it does" not in json.dumps(shown):
        sys.exit(f"probe: the output is missing in {shown}")
    print(f"probe: run {run_id} went through and reads complete")


main()
