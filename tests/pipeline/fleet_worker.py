"""One process of a test's fleet: records interleaved runs and keeps, outside the product, an account of what was safe.

`python fleet_worker.py ACCOUNT RUNS OPEN_AT_ONCE SEED`, settings from the environment. A line of the account is written
after the call returned: {"run", "seq", "type", "sha256"} for a log (hash of the payload's bytes), {"run", "end": n} for a
finish after n logs, {"positions": {...}} at the end, when all is acknowledged or, where nobody consumes, synced.
"""

import hashlib
import json
import os
import random
import sys

import orjson

from skillaudit.producer import Sink, SkillRun


def main() -> None:
    account_path, runs, open_at_once, seed = sys.argv[1], *map(int, sys.argv[2:5])
    chance = random.Random(seed)
    account = os.open(account_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(**entry):
        os.write(account, json.dumps(entry).encode() + b"\n")

    with Sink.from_settings() as sink:
        started, alive = 0, []
        while started < runs or alive:
            if started < runs and len(alive) < open_at_once:
                run = sink.start_run(SkillRun(skill_id=f"skill-{started % 7}", caller_id=f"process-{seed}"))
                note(run=run.run_id, begin=started)
                alive.append((run, chance.randint(1, 12)))
                started += 1
                continue
            run, left = alive.pop(chance.randrange(len(alive)))
            if left == 0:
                events = run.sequence
                run.finish(output=f"done by {seed}")
                note(run=run.run_id, end=events)
                continue
            payload = {"n": left, "text": "é" * chance.randint(0, 200), "seed": seed}
            run.log("step", payload)
            digest = hashlib.sha256(orjson.dumps(payload)).hexdigest()
            note(run=run.run_id, seq=run.sequence, type="step", sha256=digest)
            alive.append((run, left - 1))
        report = sink.flush(timeout_s=120)
    # Embedded, with the consumer away: on the disk, which is all that can be had then.
    if not report.complete and not report.synced:
        raise SystemExit(f"not everything was acknowledged: {report}")
    note(positions=dict(report.positions))


if __name__ == "__main__":
    main()
