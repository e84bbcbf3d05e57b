"""The journal in the database, against a plain list of leaves."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proof.support import NOW_US, LedgerDatabase

from skillaudit.contract.errors import DatabaseError, InvalidRecordError
from skillaudit.proof import merkle
from skillaudit.proof.journal import Journal
from skillaudit.proof.leaves import SealLeaf, encode_act
from skillaudit.proof.tiles import Tile, parse_entries


@pytest.fixture
def database():
    made = LedgerDatabase()
    yield made
    made.close()


def leaf(number):
    return encode_act(b'{"n":%d}' % number) if number % 3 else SealLeaf(number).encode()


def fill(database, count):
    """A journal as `append` leaves it, written set-wise where that is quicker."""
    hashes = [merkle.leaf_hash(leaf(number)) for number in range(count)]
    with database.transaction("fill") as cursor:
        rows = [(number, NOW_US, "act" if number % 3 else "seal", leaf(number)) for number in range(count)]
        cursor.execute("CREATE TEMP TABLE rows (idx BIGINT, at_us BIGINT, kind VARCHAR, leaf BLOB)")
        for at in range(0, count, 1000):
            part = rows[at : at + 1000]
            columns = [list(column) for column in zip(*part, strict=True)]
            cursor.execute(
                "INSERT INTO store.journal SELECT unnest(?), unnest(?), unnest(?), unnest(?)", columns
            )
        level = 0
        while len(hashes) >= 256:
            tiles = [b"".join(hashes[at : at + 256]) for at in range(0, len(hashes) - 255, 256)]
            for index, tile in enumerate(tiles):
                cursor.execute("INSERT INTO store.journal_nodes VALUES (?, ?, ?)", [level, index, tile])
            hashes, level = [merkle.root_of(tile) for tile in tiles], level + 1


def test_appended_leaves_give_the_trees_root_and_tiles(database):
    """One by one over two tiles' borders, opened anew each time; the stored tiles are the complete ones."""
    leaves = [leaf(number) for number in range(530)]
    fill(database, 250)
    for number, content in enumerate(leaves[250:], 250):
        with database.transaction("append") as cursor:
            assert Journal(cursor).append(content, NOW_US) == number
        if number in {250, 254, 255, 256, 400, 511, 512}:
            with contextlib.closing(database.cursor()) as cursor:
                expected = merkle.root_of(b"".join(map(merkle.leaf_hash, leaves[: number + 1])))
                assert Journal(cursor).root() == expected
    assert [row[:2] for row in database.read("FROM store.journal_nodes ORDER BY ALL")] == [(0, 0), (0, 1)]
    with contextlib.closing(database.cursor()) as cursor:
        journal = Journal(cursor, "main")
        assert list(journal.iterate(3, 520)) == leaves[3:520]
        assert parse_entries(journal.entries(Tile(0, 2, 18))) == tuple(leaves[512:])
        assert journal.tile(Tile(1, 0, 2)) == b"".join(
            merkle.root_of(journal.tile(Tile(0, index))) for index in (0, 1)
        )


@settings(max_examples=8, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=6))
def test_what_is_rolled_back_leaves_nothing_behind(steps):
    """Appends that are committed, in transactions of several; the others never were."""
    database = LedgerDatabase()
    model = []
    with contextlib.closing(database):
        for count, kept in steps:
            new = [leaf(1000 * len(model) + number) for number in range(count)]
            with contextlib.suppress(KeyboardInterrupt), database.transaction("append") as cursor:
                for number, content in enumerate(new):
                    assert Journal(cursor).append(content, NOW_US) == len(model) + number
                if not kept:
                    raise KeyboardInterrupt
            model += new if kept else []
            with contextlib.closing(database.cursor()) as cursor:
                journal = Journal(cursor)
                assert journal.size() == len(model)
                assert journal.root() == merkle.root_of(b"".join(map(merkle.leaf_hash, model)))


def test_roots_and_proofs_of_a_large_journal_at_any_size(database):
    """Over the border of a tile of the second level, where tiles of three levels take part."""
    count = 66_000
    fill(database, count)
    leaves = [leaf(number) for number in range(count)]
    sizes = (1, 255, 256, 257, 1000, 65_535, 65_536, 65_537, count)
    roots = {size: merkle.root_of(b"".join(map(merkle.leaf_hash, leaves[:size]))) for size in sizes}
    with contextlib.closing(database.cursor()) as cursor:
        journal = Journal(cursor)
        for size, root in roots.items():
            assert journal.root(size) == root
            for index in {0, size // 2, size - 1}:
                proof = journal.inclusion_proof(index, size)
                assert merkle.verify_inclusion(merkle.leaf_hash(leaves[index]), index, size, proof, root)
            for old in sizes:
                if old <= size:
                    proof = journal.consistency_proof(old, size)
                    assert merkle.verify_consistency(old, roots[old], size, root, proof)
    with database.transaction("append") as cursor:
        journal = Journal(cursor)
        for number in range(count, count + 50):
            journal.append(leaf(number), NOW_US)
        leaves += [leaf(number) for number in range(count, count + 50)]
        assert journal.root() == merkle.root_of(b"".join(map(merkle.leaf_hash, leaves)))


def read_all(journal):
    journal.size()
    journal.tile(Tile(1, 0, 2))
    journal.leaves(256, 512)


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM store.journal WHERE idx = 300",
        "DELETE FROM store.journal_nodes WHERE idx = 1",
        "UPDATE store.journal_nodes SET hashes = 'short'::BLOB WHERE idx = 1",
        "UPDATE store.journal SET idx = 1000 WHERE idx = 599",
    ],
)
def test_a_journal_with_holes_is_named_not_guessed(database, damage):
    """No root is made of what is not there."""
    fill(database, 600)
    with database.transaction("damage") as cursor:
        cursor.execute(damage)
    with contextlib.closing(database.cursor()) as cursor, pytest.raises(DatabaseError, match="verify"):
        read_all(Journal(cursor))


def test_only_leaves_of_a_known_kind_are_appended(database):
    """And only into the journal's own tables."""
    with database.transaction("append") as cursor:
        with pytest.raises(InvalidRecordError):
            Journal(cursor).append(b"something", NOW_US)
        with pytest.raises(ValueError, match="at most"):
            Journal(cursor).append(b"skillaudit act 1\n" + b"x" * 65_535, NOW_US)
        with pytest.raises(ValueError, match="store or main"):
            Journal(cursor, "elsewhere")
        assert Journal(cursor).size() == 0
        assert Journal(cursor).root() == merkle.EMPTY_ROOT
