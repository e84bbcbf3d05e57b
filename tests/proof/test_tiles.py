"""The layout of tiles."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaudit.contract.errors import InvalidRecordError
from skillaudit.proof import merkle
from skillaudit.proof.tiles import (
    Tile,
    complete_tiles_between,
    encode_entries,
    level_size,
    parse_entries,
    tile_root,
    tiles_between,
)


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        (Tile(0, 0), "tile/0/000"),
        (Tile(3, 1234067), "tile/3/x001/x234/067"),
        (Tile(0, 999), "tile/0/999"),
        (Tile(1, 1000), "tile/1/x001/000"),
        (Tile(0, 273, 112), "tile/0/273.p/112"),
        (Tile(2, 0, 1), "tile/2/000.p/1"),
    ],
)
def test_paths_are_those_of_the_specification(tile, path):
    """Groups of three digits, all but the last behind an x."""
    assert tile.path == path
    assert tile.entries_path == path.replace(f"tile/{tile.level}", "tile/entries")


def naive(size):
    """All tiles of a tree, level by level."""
    found, level, width = {}, 0, size
    while width:
        for index in range(-(-width // 256)):
            found[level, index] = min(256, width - 256 * index)
        level, width = level + 1, width // 256
    return {Tile(level, index, width) for (level, index), width in found.items()}


@settings(deadline=None)
@given(st.integers(0, 140_000), st.integers(0, 140_000))
def test_an_append_makes_the_tiles_that_the_larger_tree_has_and_the_smaller_had_not(one, other):
    """Whatever is complete stays."""
    old, new = sorted((one, other))
    made = list(tiles_between(old, new))
    assert set(made) == naive(new) - naive(old)
    assert made == sorted(made)
    assert list(complete_tiles_between(old, new)) == [tile for tile in made if tile.complete]
    assert not any(tile.complete for tile in naive(old) - naive(new))


def test_levels_hold_every_256th_power():
    """A tile of level L covers 256 to the L + 1 leaves."""
    assert [level_size(level, 70_000) for level in range(4)] == [70_000, 273, 1, 0]


def test_the_node_above_a_tile_is_the_root_of_its_hashes():
    """And follows its content."""
    hashes = b"".join(merkle.leaf_hash(b"%d" % n) for n in range(256))
    assert tile_root(hashes) == merkle.root_of(hashes)
    assert tile_root(hashes[::-1]) == merkle.root_of(hashes[::-1])
    with pytest.raises(ValueError, match="complete"):
        tile_root(hashes[:-32])


@settings(deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=256))
def test_a_bundle_is_read_back_as_it_was(leaves):
    """Each leaf behind its length in two bytes."""
    bundle = encode_entries(leaves)
    assert parse_entries(bundle) == tuple(leaves)
    assert len(bundle) == sum(len(leaf) + 2 for leaf in leaves)
    if leaves:
        with pytest.raises(InvalidRecordError):
            parse_entries(bundle[:-1])


def test_bundles_have_their_limits():
    """256 leaves of 65,535 bytes."""
    assert parse_entries(encode_entries([b"x" * 65_535])) == (b"x" * 65_535,)
    with pytest.raises(InvalidRecordError):
        encode_entries([b"x" * 65_536])
    with pytest.raises(ValueError, match="more than one bundle"):
        encode_entries([b""] * 257)
    with pytest.raises(InvalidRecordError):
        parse_entries(b"\0\0" * 257)
