"""The record, made once; each attack gets a copy of its own.

`make test` runs a share of the attacks, every third and those named in `ALWAYS`; `make attacks` runs all of them, and the
fuzz to its full count.
"""

import os

import pytest
from tests.attacks.world import build, copy_of

ALL = os.environ.get("SKILLAUDIT_ATTACKS") == "all"
ALWAYS = (
    "untampered",
    "an_event_edited_in_place",
    "rewritten_with_its_ledger",
    "is_rolled_back",
    "lawful",
    "never_zero",
)
SHARE = 3


def pytest_collection_modifyitems(config, items):
    if ALL:
        return
    ours = [item for item in items if item.path.parent.name == "attacks"]
    kept = {
        id(item) for n, item in enumerate(ours) if n % SHARE == 0 or any(word in item.name for word in ALWAYS)
    }
    left_out = [item for item in ours if id(item) not in kept]
    if left_out and len(ours) > SHARE:  # one that was asked for by name runs
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    return build(tmp_path_factory.mktemp("world"))


@pytest.fixture
def attacked(world, tmp_path):
    """A copy of the database with plain SQL."""
    with copy_of(world, tmp_path) as tampered:
        yield tampered
