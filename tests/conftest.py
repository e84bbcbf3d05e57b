"""Fixtures of the whole suite."""

import gc
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

import pytest

# A process that ran Hypothesis beside the engine (tests/contract/test_wire_fast.py) may end with nanobind's list of what
# was "leaked": instances of `DuckDBPyType`, as `duckdb.sqltypes` makes 29 at its import, and the types and functions
# behind them. No connection has been among those listed, and no command prints it. It is not silenced: the switch is in the binding's
# C++ (`set_leak_warnings`, https://nanobind.readthedocs.io/en/latest/refleaks.html; the binding is nanobind's since
# https://github.com/duckdb/duckdb-python/pull/522), and to filter stderr would hide a connection that is really left.


@dataclass(frozen=True)
class TopicNames:
    """Names of topics that no other test uses; making the topics is the test's business."""

    events: str
    control: str


@pytest.fixture
def topic_names() -> TopicNames:
    """Topic names of this test alone, so that tests can share a broker."""
    mark = secrets.token_hex(6)
    return TopicNames(events=f"test.{mark}.events", control=f"test.{mark}.control")


@pytest.fixture(scope="session")
def broker_support() -> ModuleType:
    """`tests.support.broker`, where Docker is at hand: for tests that start and stop brokers of their own.

    Without Docker they are skipped, but not in CI, where a skip would look like a pass.
    """
    with _foreign_warnings_ignored():
        from tests.support import broker

        problem = broker.docker_problem()
    if problem is None:
        return broker
    if os.environ.get("CI") == "true":
        pytest.fail(f"CI=true and no broker: {problem}", pytrace=False)
    pytest.skip(
        f"{problem}; start Docker (SKILLAUDIT_TEST_KAFKA=host:port serves the tests that share a broker)"
    )


@pytest.fixture(scope="session")
def kafka_bootstrap(request: pytest.FixtureRequest) -> Iterator[str]:
    """host:port of a real broker: SKILLAUDIT_TEST_KAFKA where it is set, else a container for this session."""
    given = os.environ.get("SKILLAUDIT_TEST_KAFKA")
    if given:
        yield given
        return
    support = request.getfixturevalue("broker_support")
    with _foreign_warnings_ignored():
        container = support.KafkaContainer().start()
    try:
        yield container.bootstrap
    finally:
        with _foreign_warnings_ignored():
            container.stop()


@contextmanager
def _foreign_warnings_ignored() -> Iterator[None]:
    # What Docker's client and testcontainers deprecate or leave to the garbage collector is not this project's.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            # Now, while they are ignored: later they would be blamed on whichever test runs when the collector comes.
            gc.collect()
