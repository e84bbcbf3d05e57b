"""Fixtures of the proof's tests."""

import pytest
from tests.support.go import go_program


@pytest.fixture(scope="session")
def go_proof(tmp_path_factory):
    """The Go program under `tests/vectors/go/proof`."""
    return go_program(tmp_path_factory.mktemp("go"))
