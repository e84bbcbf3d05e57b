"""A typed column that says other than the body that was hashed: readers see the column, so it is held against the digest."""

import pytest
from tests.attacks.test_attacks import KEY, run_id
from tests.attacks.world import told, violations

COLUMNS = {
    "skill_id": (0, "'other'"),
    "caller_id": (0, "'other'"),
    "channel_id": (0, "'other'"),
    "inputs": (0, "'{}'"),
    "attributes": (0, "'{}'"),
    "parent_run_id": (0, "'r-0'"),
    "started_at": (0, "started_at - INTERVAL 1 MICROSECOND"),
    "status": (None, "'failed'"),
    "output": (None, "output || ' '"),
    "error": (None, "'no'"),
    "finished_at": (None, "finished_at + INTERVAL 1 MICROSECOND"),
    "tool_calls_count": (None, "tool_calls_count + 1"),
    "runtime_us": (None, "runtime_us + 1"),
    "total_input_tokens": (None, "total_input_tokens + 1"),
    "total_output_tokens": (None, "total_output_tokens + 1"),
    "total_thinking_tokens": (None, "total_thinking_tokens + 1"),
}
"""Which event says it, 0 the start and None the finish; and what an attacker writes there."""


@pytest.mark.parametrize("column", COLUMNS)
def test_a_typed_column_that_differs_from_its_event_is_named_with_the_event(attacked, column):
    """Whatever the column holds was hashed with the start or the finish, and that event is named by its number."""
    seq, value = COLUMNS[column]
    if seq is None:
        seq = attacked.one("SELECT finish_seq FROM store.runs WHERE run_key = ?", KEY)
    attacked.sql(f"UPDATE store.runs SET {column} = {value} WHERE run_key = ?", KEY)
    run = run_id(attacked)
    for options in ({}, {"run_id": run}):
        report = attacked.verify(**options)
        assert (report.exit_code, violations(report)) == (5, {"EVENT_ALTERED"}), told(report)
        named = [(it["run_id"], it["sequence"]) for it in report.findings if it["kind"] == "EVENT_ALTERED"]
        assert named == [(run, seq)], told(report)
