"""`StorageConformance`: what every `Storage` must do, as one pytest class. See the package's docstring for its use."""

from __future__ import annotations

import pytest

from skillaudit.contract.testing.cases_concurrency import ConcurrencyCases, OwnWritesCases
from skillaudit.contract.testing.cases_filters import FilterCases
from skillaudit.contract.testing.cases_lists import (
    FinishedBeforeCases,
    LastRunCases,
    ListCases,
    PageCases,
    SkillCases,
)
from skillaudit.contract.testing.cases_logs import LogCases, OrphanCases
from skillaudit.contract.testing.cases_protocol import ProtocolCases
from skillaudit.contract.testing.cases_purge import PurgeCases
from skillaudit.contract.testing.cases_runs import RunCases
from skillaudit.contract.testing.cases_tree import ChainCases, ChildrenCases
from skillaudit.contract.testing.cases_values import IdCases, JsonCases, ScalarCases
from skillaudit.contract.testing.shared import Shared
from skillaudit.contract.testing.support import Scope


class StorageConformance(
    ProtocolCases,
    RunCases,
    LogCases,
    OrphanCases,
    IdCases,
    JsonCases,
    ScalarCases,
    ListCases,
    PageCases,
    SkillCases,
    LastRunCases,
    FinishedBeforeCases,
    FilterCases,
    ChildrenCases,
    ChainCases,
    PurgeCases,
    ConcurrencyCases,
    OwnWritesCases,
):
    """All cases. A subclass, or its module, supplies the fixture `storage`: an initialized `Storage`."""

    @pytest.fixture
    def scope(self) -> Scope:
        """Fresh names for one case."""
        return Scope()

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls) -> Shared:
        """Runs that several cases read, written once per storage."""
        return Shared()
