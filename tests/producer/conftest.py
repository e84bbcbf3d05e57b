"""Fixtures of the recording surface's tests."""

import pytest
from tests.producer.support import FullLog, ListLog

from skillaudit.contract.clock import ManualClock
from skillaudit.contract.settings import Settings
from skillaudit.producer import Sink


@pytest.fixture
def log():
    return ListLog()


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def settings():
    return Settings(heartbeat_interval_ms=3_600_000, outbox_block_ms_max=0)


@pytest.fixture
def sink(log, settings):
    with Sink(log, settings=settings) as sink:
        yield sink


@pytest.fixture
def full_log():
    return FullLog()
