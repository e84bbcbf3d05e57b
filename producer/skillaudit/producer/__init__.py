"""Recording runs: `Sink`, the runs' `Writer`s, and what they take and give back."""

from skillaudit.contract.eventlog import EventLog, FlushReport
from skillaudit.contract.records import RunStats, SkillRun, Status
from skillaudit.contract.settings import Settings
from skillaudit.producer._state import State
from skillaudit.producer.masking import Mask
from skillaudit.producer.sink import Sink, SinkState
from skillaudit.producer.writer import Writer

__all__ = [
    "EventLog",
    "FlushReport",
    "Mask",
    "RunStats",
    "Settings",
    "Sink",
    "SinkState",
    "SkillRun",
    "State",
    "Status",
    "Writer",
]
