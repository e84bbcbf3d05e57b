"""The record, made once; each attack gets a copy of its own."""

import shutil

import pytest
from tests.attacks.world import Tampered, build


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def attacked(world, tmp_path):
    """A copy of the database with plain SQL."""
    path = tmp_path / "copy.duckdb"
    shutil.copy(world.path, path)
    tampered = Tampered(world, path)
    yield tampered
    tampered.close()
