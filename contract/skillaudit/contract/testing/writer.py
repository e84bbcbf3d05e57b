"""`WriterConformance`: what is read of the runs that a Sink recorded, whatever lies between the Sink and the reader.

A subclass, or its module, supplies the fixture `recorder`: a pair of a Sink with the encoding "coerce" and no mask, and
an `AuditReader` that reads what that Sink has recorded without being told to wait. Loop scopes are as in
`testing.storage`. The Writer's methods are plain functions, so cases may call them between two awaits.
"""

from __future__ import annotations

import pytest

from skillaudit.contract.testing.cases_writer_ends import NullSinkCases, WriterCrowdCases, WriterEndCases
from skillaudit.contract.testing.cases_writer_events import WriterEventCases, WriterMessageCases
from skillaudit.contract.testing.support import Recorder, Scope

__all__ = ["Recorder", "WriterConformance"]


class WriterConformance(
    WriterEventCases, WriterMessageCases, WriterEndCases, WriterCrowdCases, NullSinkCases
):
    """Recording a run."""

    @pytest.fixture
    def scope(self) -> Scope:
        """Fresh names for one case."""
        return Scope()
