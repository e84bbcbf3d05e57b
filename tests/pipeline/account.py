"""What a fleet's processes noted, compared with what readers answer; `tests.faults.oracle` compares it with the rows."""

import asyncio
import hashlib

import duckdb
from tests.faults.oracle import Account

from skillaudit.contract import AuditReader, Completeness, Liveness


async def assert_stored(reader: AuditReader, accounts: dict[str, Account]) -> None:
    """Everything noted as safe is stored exactly once, in order, byte for byte; what was not finished is named so."""
    states = await reader.list_run_states(list(accounts))

    async def check(account: Account) -> None:
        logs = await reader.list_logs_by_run(account.run_id)
        _compare(account, [log.sequence for log in logs], [log.payload_json for log in logs])
        state = states[account.run_id]
        assert state.conflicts == 0, state
        if account.end is not None:
            assert (state.completeness, state.liveness) == (Completeness.COMPLETE, Liveness.FINISHED), state

    await asyncio.gather(*map(check, accounts.values()))


def _compare(account: Account, sequences: list[int], payloads: list[bytes]) -> None:
    assert sequences == list(range(1, len(sequences) + 1)), account.run_id
    stored = {n: hashlib.sha256(payload).hexdigest() for n, payload in zip(sequences, payloads, strict=True)}
    assert account.logs.items() <= stored.items(), account.run_id
    assert account.end in (None, len(sequences)), account.run_id


def content(cursor: duckdb.DuckDBPyConnection) -> list[tuple]:
    """Every run with its events, without what may differ between two databases that consumed the same."""
    return cursor.execute(CONTENT).fetchall()


CONTENT = """
SELECT r.id, r.skill_id, r.caller_id, r.status, r.output, epoch_us(r.started_at), epoch_us(r.finished_at), r.source_id,
       r.source_seq, r.events_expected, r.events_stored, r.completeness, r.liveness, r.head,
       (SELECT list(struct_pack(n := e.sequence, t := e.event_type, p := e.payload, at := epoch_us(e.created_at), g := e.tag)
                    ORDER BY e.sequence)
        FROM main.events e WHERE e.run_key = r.run_key) AS events
FROM main.runs r
ORDER BY r.id
"""
