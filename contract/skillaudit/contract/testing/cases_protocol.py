"""Cases of the surface itself."""

from __future__ import annotations

import inspect

import pytest

from skillaudit.contract.storage import Storage, StorageAdmin, StorageReader, StorageWriter

METHODS = (
    "initialize",
    "start_run",
    "append_log",
    "finish_run",
    "get_run",
    "list_logs_by_run",
    "list_runs_by_skill",
    "list_runs_by_skill_paginated",
    "count_runs_by_skill",
    "list_runs_by_caller",
    "list_runs_filtered",
    "count_runs_filtered",
    "list_children_by_parent",
    "walk_parent_chain",
    "list_finished_runs_before",
    "last_run_by_skills",
    "purge_older_than",
)


class ProtocolCases:
    """The seventeen methods, by name and parameter."""

    async def test_it_is_a_storage(self, storage: Storage) -> None:
        """It has all three halves of the protocol."""
        for protocol in (StorageWriter, StorageReader, StorageAdmin, Storage):
            assert isinstance(storage, protocol)

    @pytest.mark.parametrize("name", METHODS)
    async def test_each_method_takes_what_the_protocol_says(self, storage: Storage, name: str) -> None:
        """Parameters have the protocol's names, order and defaults, so that calls may use either."""
        expected = list(inspect.signature(getattr(Storage, name)).parameters.values())[1:]
        actual = list(inspect.signature(getattr(storage, name)).parameters.values())
        assert [(p.name, p.default) for p in actual[: len(expected)]] == [
            (p.name, p.default) for p in expected
        ]
        assert all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in actual[len(expected) :])
