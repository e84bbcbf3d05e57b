"""Dead letters beyond one page: a bad deployment leaves thousands, and none of them may be out of reach."""

import json

import pytest
from tests.conformance.compositions import settings_at

from skillaudit.consumer.database import open_database
from skillaudit.consumer.materializer import Materializer, MaterializerPolicy
from skillaudit.consumer.poison import PoisonPolicy
from skillaudit.contract import SkillRun
from skillaudit.contract.events import encode_storage_start
from skillaudit.contract.sources import SourceRecord

LETTERS = 1_100
"""More than two pages."""


@pytest.fixture
def settings(tmp_path):
    """A database with so many; the last one can be repaired."""
    settings = settings_at(tmp_path / "data")
    records = [SourceRecord("t/0", n, n + 1, 0, None, b"{%d" % n) for n in range(LETTERS)]
    with open_database(settings.database) as database:
        materializer = Materializer(
            database, policy=MaterializerPolicy(poison=PoisonPolicy(1 << 40, 101), small_batch_records=0)
        )
        materializer.apply(records)
        good = encode_storage_start(SkillRun(id="repaired", skill_id="s"), 1, "c")
        with materializer.transaction("repair") as cursor:  # as an upgraded parser would
            cursor.execute(
                "UPDATE store.dead_letters SET record = ? WHERE record_offset = ?", [good, LETTERS - 1]
            )
        materializer.close()
    return settings


def test_all_means_all(command, settings):
    """Those that are malformed still keep none behind them from their turn."""
    said = command("dead-letters", "replay", "--all", settings=settings)
    assert said.code == 4
    assert said.out.startswith(f"1 replayed, {LETTERS - 1} still malformed: 1, 2, 3")
    assert len(said.out) < 200, "told in one line that a person can read"
    assert command("show", "repaired", settings=settings).code == 0
    said = command("dead-letters", "discard", "--all", "--json", settings=settings)
    assert json.loads(said.out) == {"discarded": LETTERS - 1}


def test_the_next_page(command, settings):
    """Behind the last id of the page before."""
    said = command("dead-letters", "list", "--json", "--limit", "500", "--after", "1000", settings=settings)
    assert [letter["id"] for letter in json.loads(said.out)] == list(range(1_001, LETTERS + 1))
