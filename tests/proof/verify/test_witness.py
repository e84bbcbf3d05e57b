"""What the verifier reads of an anchor, counted."""

from tests.proof.support import WrappedAnchor, signer

from skillaudit.proof import merkle
from skillaudit.proof.anchors import AnchorObject, open_anchor
from skillaudit.proof.checkpoint import Checkpoint
from skillaudit.proof.policy import AnchorPolicy, Policy
from skillaudit.proof.verify.witness import WINDOW_LEAVES, read_anchor, read_anchors

LEAF = b"skillaudit seal 1\nat 0\n"
OBJECTS = 60
LEAVES_EACH = 100


class Counted(WrappedAnchor):
    """An anchor that counts the objects it is asked for."""

    def __init__(self, inner):
        super().__init__(inner)
        self.read = 0

    def newest(self):
        self.read += 1
        return super().newest()

    def objects(self, after=0):
        for stored in super().objects(after):
            self.read += 1
            yield stored


def long_anchor(directory):
    """So many objects that a check should not read all of them."""
    tree, made = merkle.CompactRange(), []
    for number in range(OBJECTS):
        for _ in range(LEAVES_EACH):
            tree.append(merkle.leaf_hash(LEAF))
        note = Checkpoint("a/b", tree.size, tree.root()).signed([signer()])
        made.append(AnchorObject(number * LEAVES_EACH, (LEAF,) * LEAVES_EACH, note))
    anchor = open_anchor(f"file:{directory}")
    anchor.publish(made)
    return Counted(anchor)


def test_the_check_of_one_run_reads_the_newest_object(tmp_path):
    """Everything below it is proven with it."""
    anchor = long_anchor(tmp_path)
    reading = read_anchor(anchor, AnchorPolicy(anchor.uri), Policy(), newest_only=True)
    assert [it.size for it in reading.checkpoints] == [OBJECTS * LEAVES_EACH]
    assert anchor.read == 1


def test_the_check_of_all_reads_a_bounded_window(tmp_path):
    """So far back that what was changed is named leaf by leaf, and no further."""
    anchor = long_anchor(tmp_path)
    reading = read_anchor(anchor, AnchorPolicy(anchor.uri), Policy())
    assert len(reading.checkpoints) == WINDOW_LEAVES // LEAVES_EACH
    assert anchor.read == 1 + WINDOW_LEAVES // LEAVES_EACH


def test_a_directory_that_is_not_there_is_out_of_reach(tmp_path):
    """A disk that is not mounted is no anchor without objects; one that is there and holds none is."""
    policy = Policy(anchors=(AnchorPolicy(f"file:{tmp_path / 'away'}"), AnchorPolicy(f"file:{tmp_path}")))
    away, empty = read_anchors(policy)
    assert "is it mounted" in away.error
    assert not away.altered
    assert (empty.error, empty.checkpoints) == ("", ())
