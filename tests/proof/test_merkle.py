"""The tree of RFC 6962, against the recursion as the RFC writes it."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.proof.support import naive_consistency, naive_inclusion, naive_root

from skillaudit.proof import merkle

LEAVES = [f"leaf {n}".encode() for n in range(70)]
SIZES = st.integers(1, len(LEAVES))


def reader(leaves):
    def read(level, index):
        part = leaves[index << level : (index + 1) << level]
        assert len(part) == 1 << level
        return naive_root(part)

    return read


def packed(leaves):
    return b"".join(map(merkle.leaf_hash, leaves))


def test_the_roots_of_certificate_transparencys_own_examples():
    """Eight leaves whose roots the implementations of RFC 6962 share."""
    leaves = [bytes.fromhex(h) for h in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657")]
    leaves.append(bytes.fromhex("606162636465666768696a6b6c6d6e6f"))
    roots = {
        1: "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        2: "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        3: "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        7: "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        8: "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    }
    for size, root in roots.items():
        assert merkle.root_of(packed(leaves[:size])).hex() == root


def test_roots_agree_with_the_recursion_however_they_are_made():
    """From packed hashes, from subtrees, and leaf by leaf."""
    grown = merkle.CompactRange()
    for size in range(len(LEAVES) + 1):
        root = naive_root(LEAVES[:size])
        assert merkle.root_of(packed(LEAVES[:size])) == root
        assert merkle.root(size, reader(LEAVES[:size])) == root
        assert (grown.size, grown.root()) == (size, root)
        grown.append(merkle.leaf_hash(LEAVES[size % len(LEAVES)]))


@settings(deadline=None)
@given(first=st.integers(0, 1 << 40), count=st.integers(1, 1 << 40))
def test_a_range_is_covered_by_complete_subtrees_without_gap_or_overlap(first, count):
    """At most two per level."""
    parts = merkle.subtrees(first, first + count)
    bounds = [(index << level, (index + 1) << level) for level, index in parts]
    assert bounds[0][0] == first
    assert bounds[-1][1] == first + count
    assert all(left[1] == right[0] for left, right in pairwise(bounds))
    assert len(parts) <= 2 * count.bit_length()


@settings(deadline=None)
@given(data=st.data(), size=SIZES)
def test_inclusion_proofs_are_those_of_the_rfc_and_lead_to_the_root(data, size):
    """And to no other: any other leaf, place, size or hash is refused."""
    index = data.draw(st.integers(0, size - 1))
    leaves = LEAVES[:size]
    proof = merkle.inclusion_proof(index, size, reader(leaves))
    assert list(proof) == naive_inclusion(index, leaves)
    leaf, root = merkle.leaf_hash(leaves[index]), naive_root(leaves)
    assert merkle.verify_inclusion(leaf, index, size, proof, root)
    assert not merkle.verify_inclusion(merkle.leaf_hash(b"other"), index, size, proof, root)
    assert not merkle.verify_inclusion(leaf, index, size, proof, merkle.leaf_hash(b"other"))
    assert not merkle.verify_inclusion(leaf, index, size, [*proof, root], root)
    assert not merkle.verify_inclusion(leaf, size, size, proof, root)
    assert not merkle.verify_inclusion(leaf, -1, size, proof, root)
    for at in range(len(proof)):
        changed = [*proof[:at], merkle.leaf_hash(b"other"), *proof[at + 1 :]]
        assert not merkle.verify_inclusion(leaf, index, size, changed, root)
        assert not merkle.verify_inclusion(leaf, index, size, [*proof[:at], *proof[at + 1 :]], root)
    for other in set(range(size)) - {index}:
        assert not merkle.verify_inclusion(leaf, other, size, proof, root)


@settings(deadline=None)
@given(data=st.data(), new=SIZES)
def test_consistency_proofs_are_those_of_the_rfc_and_show_the_beginning(data, new):
    """And nothing else: another root, size or hash is refused."""
    old = data.draw(st.integers(1, new))
    leaves = LEAVES[:new]
    proof = merkle.consistency_proof(old, new, reader(leaves))
    assert list(proof) == naive_consistency(old, leaves)
    roots = naive_root(leaves[:old]), naive_root(leaves)
    assert merkle.verify_consistency(old, roots[0], new, roots[1], proof)
    other = merkle.leaf_hash(b"other")
    assert not merkle.verify_consistency(old, other, new, roots[1], proof)
    assert not merkle.verify_consistency(old, roots[0], new, other, proof)
    assert not merkle.verify_consistency(old, roots[0], new, roots[1], [*proof, other])
    for at in range(len(proof)):
        changed = [*proof[:at], other, *proof[at + 1 :]]
        assert not merkle.verify_consistency(old, roots[0], new, roots[1], changed)
        assert not merkle.verify_consistency(old, roots[0], new, roots[1], proof[:at])


def test_a_rewritten_history_has_no_consistency_proof():
    """The proof of the rewritten tree does not fit what was signed before."""
    rewritten = [b"rewritten", *LEAVES[1:]]
    for old in (1, 7, 32, 69):
        proof = merkle.consistency_proof(old, 70, reader(rewritten))
        assert not merkle.verify_consistency(old, naive_root(LEAVES[:old]), 70, naive_root(rewritten), proof)


def test_the_empty_tree_begins_every_tree_and_nothing_begins_before_it():
    """Only by its own root and without a proof."""
    root = naive_root(LEAVES[:3])
    assert merkle.verify_consistency(0, merkle.EMPTY_ROOT, 3, root, [])
    assert not merkle.verify_consistency(0, root, 3, root, [])
    assert not merkle.verify_consistency(0, merkle.EMPTY_ROOT, 3, root, [root])
    assert not merkle.verify_consistency(4, root, 3, root, [])
    assert not merkle.verify_consistency(3, root, 3, merkle.EMPTY_ROOT, [])


def test_what_is_no_tree_is_refused():
    """Callers' mistakes raise; a verifier's input never does."""
    read = reader(LEAVES)
    for index, size in ((0, 0), (3, 3), (-1, 3)):
        with pytest.raises(ValueError, match="no leaf"):
            merkle.inclusion_proof(index, size, read)
    for old, new in ((0, 3), (4, 3)):
        with pytest.raises(ValueError, match="no proof"):
            merkle.consistency_proof(old, new, read)
    with pytest.raises(ValueError, match="whole number"):
        merkle.root_of(b"x" * 33)
    assert not merkle.verify_inclusion(b"short", 0, 1, [], b"short")
    assert not merkle.verify_inclusion(merkle.leaf_hash(b""), 0, 2, [b"short"], b"")
    assert not merkle.verify_consistency(1, merkle.leaf_hash(b""), 2, b"", [b"short"])
    assert not merkle.verify_consistency(3, merkle.leaf_hash(b""), 5, b"", [])
