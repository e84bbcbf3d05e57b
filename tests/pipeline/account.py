"""What a fleet's processes noted, compared with what readers answer; `tests.faults.oracle` compares it with the rows."""

import asyncio

import duckdb
import orjson
from tests.faults.notes import finish_digest, log_digest, start_digest
from tests.faults.oracle import Account

from skillaudit.contract import AuditReader, Completeness, Liveness, SkillRunLog
from skillaudit.contract.clock import to_us


async def assert_stored(reader: AuditReader, accounts: dict[str, Account]) -> None:
    """Everything noted as safe is stored exactly once, in order, byte for byte; what was not finished is named so."""
    states = await reader.list_run_states(list(accounts))

    async def check(account: Account) -> None:
        logs = await reader.list_logs_by_run(account.run_id)
        _compare(account, logs)
        run = await reader.get_run(account.run_id)
        objects = [orjson.dumps(given).decode() for given in (run.inputs, run.attributes)]
        start = (run.skill_id, run.caller_id, run.channel_id, run.parent_run_id, *objects)
        assert not account.begun or start_digest(*start, to_us(run.started_at)) == account.start, run
        counts = (
            run.tool_calls_count,
            run.total_input_tokens,
            run.total_output_tokens,
            run.total_thinking_tokens,
        )
        finish = finish_digest(run.status, run.output, run.error, *counts)
        assert account.end is None or finish == account.finish, run
        state = states[account.run_id]
        assert state.conflicts == 0, state
        if account.end is not None:
            assert (state.completeness, state.liveness) == (Completeness.COMPLETE, Liveness.FINISHED), state

    await asyncio.gather(*map(check, accounts.values()))


def _compare(account: Account, logs: list[SkillRunLog]) -> None:
    assert [log.sequence for log in logs] == list(range(1, len(logs) + 1)), account.run_id
    stored = {log.sequence: log_digest(log.event_type, log.payload_json) for log in logs}
    assert account.logs.items() <= stored.items(), account.run_id
    assert account.end in (None, len(logs)), account.run_id
    for log in logs:
        span = account.span_of(log.sequence)
        assert span is None or span[0] <= to_us(log.created_at) <= span[1], (account.run_id, log.sequence)


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
