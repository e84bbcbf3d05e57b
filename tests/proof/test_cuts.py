"""A database made again from records that no longer reach back to the first: its ledger begins at a seal, what is before is
named everywhere, and what comes after is met as ever.
"""

import contextlib
from collections import defaultdict

import pytest
from tests.attacks.world import SIGNER, TOPIC, Store, Tampered, World, build

from skillaudit.proof.anchors import open_anchor
from skillaudit.proof.cuts import end_empty
from skillaudit.proof.leaves import leaf_kind, parse_seal
from skillaudit.proof.restoring import restore_journal, unmet_from


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Four stages, a seal after each."""
    return build(tmp_path_factory.mktemp("cuts"))


def rows(store, query, *parameters):
    with contextlib.closing(store.cursor()) as cursor:
        return cursor.execute(query, parameters).fetchall()


def seals_of(world):
    """Partition -> its sealed ranges, in order."""
    found = defaultdict(list)
    for stored in open_anchor(f"file:{world.anchor}").objects():
        for leaf in stored.content.leaves:
            if leaf_kind(leaf) == "seal":
                for sealed in parse_seal(leaf).ranges:
                    found[sealed.partition].append(sealed)
    return found


class Again:
    """A new database, with the journal from a copy of the anchor and the records from some position on."""

    def __init__(self, world, directory, begins, path=None):
        self.world, self.begins = world, begins
        self.store = Store(path or directory / "again.duckdb")
        self.anchor = directory / "anchor"
        if not self.anchor.exists():
            copy_tree(world.anchor, self.anchor)
        with contextlib.closing(open_anchor(f"file:{self.anchor}")) as anchor:
            restore_journal(self.store, anchor.objects(0), [SIGNER.verifier])
            newest = anchor.newest()
        self.store.sealer.meet(newest.content.note)

    def left(self):
        return [r for r in self.world.topic.records if r.offset >= self.begins.get(r.partition, 0)]

    def take(self, portion=1_000_000):
        left = self.left()
        for at in range(0, len(left), portion):
            batch = sorted(left[at : at + portion], key=lambda record: record.partition)
            self.store.materializer.apply(batch, self.world.topic.ends)
        self.store.materializer.look(self.world.topic.ends, self.store.materializer.to_ask())
        self.store.materializer.tick(self.world.topic.ends)

    def end_empty(self):
        with self.store.transaction("find empty partitions") as cursor:
            return end_empty(cursor, self.world.topic.ends, lambda _name, _us: False)

    def seal(self):
        self.store.seal(f"file:{self.anchor}")

    def is_met(self):
        with contextlib.closing(self.store.cursor()) as cursor:
            return unmet_from(cursor) is None

    def verify(self, **options):
        self.close()
        world = World(self.store.database.path, self.anchor, self.world.topic, self.store.database.path, "")
        with contextlib.closing(Tampered(world, world.path)) as tampered:
            return tampered.verify(**options)

    def close(self):
        if self.store is not None:
            with contextlib.suppress(Exception):
                self.store.close()


def copy_tree(source, target):
    import shutil

    shutil.copytree(source, target)


@pytest.fixture
def again(world, tmp_path):
    made = []

    def make(begins, **options):
        made.append(Again(world, tmp_path, begins, **options))
        return made[-1]

    yield make
    for it in made:
        it.close()


P = f"{TOPIC}/0"


def first_row(store, partition):
    return rows(store, "SELECT min(idx) FROM ledger WHERE partition = ?", partition)[0][0]


@pytest.mark.parametrize("portion", [40, 1_000_000])
def test_cut_within_a_seal(again, world, portion):
    """Numbering goes on with the next seal's first row; the rest of that seal's records are stored, and make no rows."""
    second = seals_of(world)[P][1]
    begin = next(
        r.offset for r in world.topic.records if r.partition == P and r.offset > second.next_offset - 20
    )
    it = again({P: begin})
    it.take(portion)
    it.seal()
    assert it.is_met()
    assert rows(it.store, "SELECT partition, first_row, record_offset FROM ledger_cuts") == [
        (P, second.end, second.next_offset)
    ]
    assert first_row(it.store, P) == second.end
    assert first_row(it.store, f"{TOPIC}/1") == 0
