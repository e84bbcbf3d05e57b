"""A journal long enough for tiles, held against them, its checkpoints and its anchors."""

import contextlib

import pytest
from tests.proof.support import NAME, NOW_US, LedgerDatabase, signer

from skillaudit.proof import merkle
from skillaudit.proof.checkpoint import Checkpoint
from skillaudit.proof.findings import Findings
from skillaudit.proof.journal import Journal
from skillaudit.proof.keys import Signer
from skillaudit.proof.leaves import SealLeaf
from skillaudit.proof.policy import Grade, Policy
from skillaudit.proof.verify.engine import Engine
from skillaudit.proof.verify.journal import check_journal
from skillaudit.proof.verify.request import VerifyRequest
from skillaudit.proof.verify.tip import JournalTip
from skillaudit.proof.verify.witness import Anchored, AnchorReading, signers

LEAVES = 300


@pytest.fixture
def database():
    with contextlib.closing(LedgerDatabase()) as made:
        with made.transaction("append") as cursor:
            leaves = [SealLeaf(NOW_US + n).encode() for n in range(LEAVES)]
            cursor.execute(
                "INSERT INTO store.journal SELECT unnest(range(?)), 0, 'seal', unnest(?::BLOB[])",
                [LEAVES - 45, leaves[:-45]],
            )
            for leaf in leaves[-45:]:  # the tile becomes complete on the way
                Journal(cursor).append(leaf, NOW_US)
        yield made


def check(database, request=None):
    """(findings, state) of the journal alone."""
    findings = Findings()
    with contextlib.closing(database.cursor()) as cursor:
        engine = Engine(cursor)
        with engine.snapshot():
            state = check_journal(engine, request or VerifyRequest(), findings, NOW_US + LEAVES)
    return set(map(str, findings.counts)), state


def change(database, text):
    with database.transaction("tamper") as cursor:
        cursor.execute(text)


def hashes(database):
    return [merkle.leaf_hash(row[0]) for row in database.read("SELECT leaf FROM journal ORDER BY idx")]


def test_a_journal_agrees_with_its_tiles(database):
    names, state = check(database)
    assert (names, state.size) == (set(), LEAVES)
    assert state.root == merkle.root_of(b"".join(hashes(database))).hex()


@pytest.mark.parametrize(
    "text",
    [
        "UPDATE store.journal_nodes SET hashes = hashes || '\\x00'::BLOB",
        "UPDATE store.journal_nodes SET hashes = unhex(repeat('00', 8192))",
        "UPDATE store.journal_nodes SET idx = 1",
        "UPDATE store.journal_nodes SET level = 1",
        "DELETE FROM store.journal_nodes",
        "INSERT INTO store.journal_nodes SELECT * FROM store.journal_nodes",
        "UPDATE store.journal SET idx = 400 WHERE idx = 299",
        "DELETE FROM store.journal WHERE idx = 0",
    ],
)
def test_tiles_and_numbers_are_held_against_the_leaves(database, text):
    """A tile that is not that of the leaves, one too few or too many; a leaf with another number."""
    change(database, text)
    assert check(database)[0] == {"JOURNAL_ALTERED"}


def test_every_prefix_that_was_signed_must_be_the_journals(database):
    """Checkpoints at any size, the newest signed one proves."""
    found = hashes(database)
    for size in (1, 255, 256, 257, LEAVES):
        note = Checkpoint(NAME, size, merkle.root_of(b"".join(found[:size]))).signed([signer()])
        with database.transaction("sign") as cursor:
            cursor.execute("INSERT INTO store.checkpoints VALUES (?, ?, 0, '{}')", [size, note])
    policy = Policy(grade=Grade.SIGNED, keys=(signer().verifier.text,))
    names, state = check(database, VerifyRequest(policy=policy))
    assert (names, state.signed_size) == (set(), LEAVES)
    change(
        database,
        "UPDATE store.journal SET leaf = (SELECT leaf FROM store.journal WHERE idx = 7) WHERE idx = 270",
    )
    names, state = check(database, VerifyRequest(policy=policy))
    assert (names, state.signed_size) == ({"JOURNAL_REWRITTEN"}, 257)


def test_an_anchor_in_the_same_hands_raises_no_grade(database):
    """`trust = "same"`: what it holds is compared, and counts as much as the database."""
    root = merkle.root_of(b"".join(hashes(database)))
    seen = Anchored(NAME, LEAVES, root, NOW_US, "there", (), False, LEAVES, ())
    for trust, anchored in (("other", LEAVES), ("same", 0), ("memory", 0)):
        reading = AnchorReading(uri="file:/x", trust=trust, checkpoints=(seen,))
        names, state = check(database, VerifyRequest(policy=Policy(grade=Grade.ANCHORED), anchors=(reading,)))
        assert state.anchored_size == anchored
        assert names == (set() if anchored else {"NOT_ANCHORED"})


# The look of one run's check: roots by tiles, single leaves by inclusion proofs.


def prove(database, request=None):
    """(state, and whether the journal's own and other leaves are held) of the quick look; None where it says no."""
    findings = Findings()
    with contextlib.closing(database.cursor()) as cursor:
        engine = Engine(cursor)
        with engine.snapshot():
            state = JournalTip().prove(engine, request or VerifyRequest(), findings, NOW_US + LEAVES)
            if state is None:
                return None
            leaves = [bytes(row[0]) for row in database.read("SELECT leaf FROM journal ORDER BY idx")]
            held = [idx for idx, leaf in enumerate(leaves) if state.holds(idx, leaf)]
            others = [idx for idx, leaf in enumerate(leaves) if state.holds(idx, leaf + b"\n")]
            return state, held, others


def sign(database, size):
    note = Checkpoint(NAME, size, merkle.root_of(b"".join(hashes(database)[:size]))).signed([signer()])
    with database.transaction("sign") as cursor:
        cursor.execute("INSERT INTO store.checkpoints VALUES (?, ?, 0, '{}')", [size, note])


@pytest.mark.parametrize("size", [1, 255, 256, 257, LEAVES])
def test_tiles_prove_what_all_leaves_prove(database, size):
    """The same state as the look at all leaves, whatever was signed; every leaf is held, by its own bytes alone."""
    sign(database, size)
    request = VerifyRequest(policy=Policy(grade=Grade.SIGNED, keys=(signer().verifier.text,)))
    state, held, others = prove(database, request)
    thorough = check(database, request)[1]
    assert (state.size, state.root, state.signed_size) == (LEAVES, thorough.root, thorough.signed_size)
    assert (held, others) == (list(range(LEAVES)), [])


@pytest.mark.parametrize(
    "text",
    [
        "UPDATE store.journal_nodes SET hashes = hashes || '\\x00'::BLOB",
        "UPDATE store.journal_nodes SET hashes = unhex(repeat('00', 8192))",
        "UPDATE store.journal_nodes SET idx = 1",
        "DELETE FROM store.journal_nodes",
        "UPDATE store.journal SET idx = 400 WHERE idx = 299",
        "DELETE FROM store.journal WHERE idx = 0",
        "DELETE FROM store.journal WHERE idx = 299",
        "UPDATE store.journal SET leaf = (SELECT leaf FROM store.journal WHERE idx = 7) WHERE idx = 270",
        "UPDATE store.checkpoints SET note = replace(note, '300', '299')",
    ],
)
def test_where_anything_is_off_the_quick_look_says_nothing(database, text):
    """What is wrong is said by the look at all leaves alone."""
    sign(database, LEAVES)
    assert prove(database) is not None
    change(database, text)
    assert prove(database) is None


def test_a_changed_leaf_below_an_intact_tile_is_not_held(database):
    """The tile agrees with what was signed, the leaf does not lead to it."""
    sign(database, LEAVES)
    change(
        database,
        "UPDATE store.journal SET leaf = (SELECT leaf FROM store.journal WHERE idx = 7) WHERE idx = 70",
    )
    _, held, others = prove(database)
    assert (70 in held, 71 in held, others) == (False, True, [])


def test_of_an_anchor_the_newest_checkpoint_is_enough(database):
    """What is below it is proven with it; one that the journal doesn't reach, or that differs, is looked at thoroughly."""
    found = hashes(database)

    def seen(size, root):
        return Anchored(NAME, size, root, NOW_US + size, "there", (), False, size, ())

    right = [seen(size, merkle.root_of(b"".join(found[:size]))) for size in (200, LEAVES)]
    cases = [
        (right, True),
        ([right[0], seen(LEAVES, bytes(32))], False),
        ([*right, seen(LEAVES + 1, bytes(32))], False),
    ]
    for checkpoints, proven in cases:
        reading = AnchorReading(uri="file:/x", checkpoints=tuple(checkpoints))
        request = VerifyRequest(policy=Policy(grade=Grade.ANCHORED), anchors=(reading,))
        answer = prove(database, request)
        assert (answer is not None) == proven
        if answer:
            assert (answer[0].anchored_size, answer[0].anchors) == (LEAVES, ["file:/x"])


@pytest.mark.parametrize(("origin", "fork"), [(NAME, True), ("elsewhere/log", False)])
def test_a_fork_is_of_one_origin(database, origin, fork):
    """Two checkpoints of one size: of one log they contradict each other; another log's is merely not this one's."""
    root = merkle.root_of(b"".join(hashes(database)))
    with database.transaction("checkpoint") as cursor:
        note = Checkpoint(NAME, LEAVES, root).signed([signer()])
        cursor.execute("INSERT INTO store.checkpoints VALUES (?, ?, 0, '{}')", [LEAVES, note])
    seen = Anchored(origin, LEAVES, bytes(32), NOW_US, "there", (), False, LEAVES, ())
    request = VerifyRequest(anchors=(AnchorReading(uri="file:/x", checkpoints=(seen,)),))
    names, _ = check(database, request)
    assert names == {"JOURNAL_REWRITTEN"} | ({"CHECKPOINT_FORK"} if fork else set())


def test_a_signature_is_remembered_by_note_and_keys():
    """Asked again, with one byte changed, with another key or with none, each has its own answer."""
    note = Checkpoint(NAME, 7, bytes(32)).signed([signer()])
    ours, other = signer().verifier.text, Signer("other.example.org/log", bytes(32)).verifier.text
    for _ in range(2):
        assert signers(note, (ours,)) == ((NAME,), False)
        assert signers(note.replace("\n7\n", "\n8\n"), (ours,)) == ((), True)
        assert signers(note, (other,)) == ((), False)
        assert signers(note, ()) == ((), False)
