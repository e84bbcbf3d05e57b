"""The oracle of pipeline tests: what the fleet's processes noted, compared with what is stored."""

import hashlib
import json
from collections import defaultdict
from pathlib import Path

from skillaudit.contract import AuditReader, Completeness, Liveness


def read_accounts(paths: list[Path]) -> dict[str, dict]:
    """Run id -> {"logs": [sha256 in order], "end": n or None}."""
    runs: dict[str, dict] = defaultdict(lambda: {"logs": [], "end": None})
    for path in paths:
        for line in path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                continue
            entry = json.loads(line)
            run = runs[entry["run"]]
            if "sha256" in entry:
                run["logs"].append(entry["sha256"])
                assert entry["seq"] == len(run["logs"]), "the account itself is out of order"
            elif "end" in entry:
                run["end"] = entry["end"]
    return dict(runs)


async def assert_stored(reader: AuditReader, accounts: dict[str, dict]) -> None:
    """Everything noted as safe is stored exactly once, in order, byte for byte; what was not finished is named so."""
    states = await reader.list_run_states(list(accounts))
    for run_id, account in accounts.items():
        logs = await reader.list_logs_by_run(run_id)
        assert [log.sequence for log in logs] == list(range(1, len(logs) + 1)), run_id
        stored = [hashlib.sha256(log.payload_json).hexdigest() for log in logs]
        assert stored[: len(account["logs"])] == account["logs"], run_id
        if account["end"] is not None:
            assert len(logs) == account["end"], run_id
            assert states[run_id].completeness is Completeness.COMPLETE, states[run_id]
            assert states[run_id].liveness is Liveness.FINISHED, states[run_id]
        assert states[run_id].conflicts == 0
