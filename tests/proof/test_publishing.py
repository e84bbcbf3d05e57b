"""The publisher: everything signed gets to every anchor, whatever happens to them in between."""

import contextlib

import orjson
import pytest
from tests.proof.support import (
    MINUTE_US,
    NOW_US,
    Countdown,
    Crash,
    CrashingDatabase,
    LedgerDatabase,
    MemoryState,
    WrappedAnchor,
    signer,
)

from skillaudit.contract.errors import UnreachableError
from skillaudit.proof.anchors import open_anchor
from skillaudit.proof.errors import AnchorConflictError, NewestUnknownError
from skillaudit.proof.journal import Journal
from skillaudit.proof.leaves import encode_act
from skillaudit.proof.publishing import RETRY_PAUSE_MS_MAX, AnchorState, Publisher
from skillaudit.proof.restoring import restore_journal, unmet_from
from skillaudit.proof.sealer import OBJECT_LEAVES_MAX, Sealer, Signing


@pytest.fixture
def database():
    made = LedgerDatabase()
    yield made
    made.close()


@pytest.fixture
def anchor(tmp_path):
    return open_anchor(f"file:{tmp_path}/anchor")


def sealed(database, state, rounds, start=0):
    """A sealer that has sealed so often."""
    sealer = Sealer(database, signing=Signing(signers=[signer()], state=state))
    for number in range(start, start + rounds):
        database.add_rows("topic/0", 2)
        sealer.step(NOW_US + number * MINUTE_US)
    return sealer


def journal_of(database):
    with contextlib.closing(database.cursor()) as cursor:
        journal = Journal(cursor)
        return journal.leaves(0, journal.size())


def check_anchor_has_the_journal(anchor, database):
    """Its objects, one after the other, are the journal."""
    leaves = []
    for stored in anchor.objects():
        assert stored.content.first == len(leaves)
        leaves += stored.content.leaves
    assert leaves == journal_of(database)


class OutOfReach(WrappedAnchor):
    """Does not answer for so many calls; what it was given may have arrived."""

    def __init__(self, inner, calls, *, arrives=False):
        super().__init__(inner)
        self.calls, self.arrives = calls, arrives

    def _ask(self):
        if self.calls > 0:
            self.calls -= 1
            raise UnreachableError("no answer")

    def newest(self):
        self._ask()
        return super().newest()

    def publish(self, objects):
        if self.arrives and self.calls:
            super().publish(objects)
        self._ask()
        return super().publish(objects)


def test_each_checkpoint_gets_to_every_anchor(database, tmp_path):
    """With the leaves since the one before; where they are is written down for people."""
    anchors = [open_anchor(f"file:{tmp_path}/{name}") for name in "ab"]
    publisher = Publisher(database, anchors)
    assert [status.state for status in publisher.step(NOW_US)] == [AnchorState.REACHED] * 2
    state = MemoryState()
    for number in range(3):
        sealed(database, state, 1, number)
        for status in publisher.step(NOW_US):
            assert (status.published, status.behind, status.error) == (number + 1, 0, "")
    for anchor in anchors:
        check_anchor_has_the_journal(anchor, database)
        assert len(list(anchor.objects())) == 3
    published = [
        orjson.loads(row[0]) for row in database.read("SELECT published FROM store.checkpoints ORDER BY size")
    ]
    assert [set(known) for known in published] == [{anchor.uri for anchor in anchors}] * 3
    assert published[2][anchors[0].uri]["receipt"] == anchors[0].newest().place
    publisher.close()


def test_an_anchor_out_of_reach_holds_nobody_up(database, tmp_path, caplog):
    """Sealing and the other anchor go on; it is tried again after growing, bounded pauses, and gets all of it in few
    objects. Said once.
    """
    away, there = OutOfReach(open_anchor(f"file:{tmp_path}/a"), calls=10), open_anchor(f"file:{tmp_path}/b")
    publisher, state, now_us, pauses = Publisher(database, [away, there]), MemoryState(), NOW_US, []
    for number in range(14):
        sealed(database, state, 1, number)
        first, second = publisher.step(now_us)
        assert (second.published, second.behind) == (number + 1, 0)
        if first.failures > len(pauses):
            pauses.append((first.next_try_us - now_us) // 1000)
            assert (first.state, first.behind, first.error) == (AnchorState.AWAY, number + 1, "no answer")
        now_us += RETRY_PAUSE_MS_MAX * 1000
    assert pauses == [min(1000 << n, RETRY_PAUSE_MS_MAX) for n in range(10)]
    assert (first.state, first.behind, first.failures) == (AnchorState.REACHED, 0, 0)
    check_anchor_has_the_journal(away, database)
    assert len(list(away.objects())) == 1 + 14 - 11
    assert [record.levelname for record in caplog.records if "no answer" in record.message] == ["WARNING"]


def test_no_step_asks_before_the_pause_is_over(database, anchor):
    """However often it is called."""
    away = OutOfReach(anchor, calls=2)
    publisher = Publisher(database, [away])
    for _ in range(5):
        publisher.step(NOW_US)
    assert away.calls == 1


def test_what_arrived_though_the_answer_was_lost_is_not_sent_again(database, anchor):
    """The anchor itself is asked what it has."""
    publisher = Publisher(database, [OutOfReach(anchor, calls=0)])
    publisher.step(NOW_US)
    publisher._anchors[0].calls, publisher._anchors[0].arrives = 1, True
    sealed(database, MemoryState(), 1)
    assert publisher.step(NOW_US)[0].state is AnchorState.AWAY
    assert publisher.step(NOW_US + 1_000_000)[0].published == 1
    check_anchor_has_the_journal(anchor, database)


def test_after_a_crash_before_the_note_it_goes_on_from_what_the_anchor_has(database, anchor):
    """What the database knows of anchors is for people only."""
    state = MemoryState()
    sealed(database, state, 2)
    with pytest.raises(Crash):
        Publisher(CrashingDatabase(database, Countdown(0)), [anchor]).step(NOW_US)
    sealed(database, state, 1, start=2)
    assert Publisher(database, [anchor]).step(NOW_US)[0].published == 3
    check_anchor_has_the_journal(anchor, database)


def test_an_anchor_with_another_journal_gets_nothing(database, anchor, caplog):
    """An older copy of the database, or another one: a person has to look. The other anchors go on."""
    sealed(database, MemoryState(), 3)
    Publisher(database, [anchor]).step(NOW_US)
    before = [stored.content for stored in anchor.objects()]
    other = LedgerDatabase()
    with contextlib.closing(other):
        publisher = Publisher(other, [anchor])
        for _ in range(2):
            (status,) = publisher.step(NOW_US)
            assert status.state is AnchorState.CONFLICT
            assert "older copy" in status.error
        other.add_rows("topic/9", 7)
        Sealer(other, signing=Signing(signers=[signer()], state=MemoryState())).step(NOW_US)
        assert publisher.step(NOW_US)[0].behind == 1
    assert [stored.content for stored in anchor.objects()] == before
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_an_anchor_that_holds_something_unreadable_gets_nothing(database, anchor, tmp_path, caplog):
    """It is for a person to look at, not to write over."""
    sealed(database, MemoryState(), 1)
    Publisher(database, [anchor]).step(NOW_US)
    path = next((tmp_path / "anchor" / "objects").rglob("*1"))
    path.write_text("something")
    assert Publisher(database, [anchor]).step(NOW_US)[0].state is AnchorState.CONFLICT
    assert len(caplog.records) == 1


def test_many_leaves_go_in_bounded_objects(database, anchor):
    """At most so many leaves in one, and at most so many objects in a step."""
    sealed(database, MemoryState(), 1)
    with database.transaction("acts") as cursor:
        rows = [(n, encode_act(b'{"n":%d}' % n)) for n in range(1, 1_040)]
        journal = Journal(cursor)
        for _, leaf in rows:
            journal.append(leaf, NOW_US)
    state = MemoryState()
    state.note = database.read("SELECT note FROM store.checkpoints")[0][0]
    Sealer(database, signing=Signing(signers=[signer()], state=state)).step(NOW_US + 1)
    publisher = Publisher(database, [anchor])
    publisher.step(NOW_US)
    check_anchor_has_the_journal(anchor, database)
    assert all(len(stored.content.leaves) <= OBJECT_LEAVES_MAX for stored in anchor.objects())


# The journal made again


def rebuilt(rows):
    made = LedgerDatabase()
    if rows:
        made.add_rows("topic/0", rows)
    return made


def test_a_journal_is_made_again_from_its_anchor_and_the_ledger_has_to_meet_it(database, anchor):
    """Nothing is sealed until the ledger has all that was sealed, and agrees; then it goes on where it was."""
    state = MemoryState()
    sealed(database, state, 3)
    Publisher(database, [anchor]).step(NOW_US)
    again = rebuilt(3)
    with contextlib.closing(again):
        checkpoint = restore_journal(again, anchor.objects(), [signer().verifier])
        assert checkpoint.size == 3
        assert journal_of(again) == journal_of(database)
        assert again.read("SELECT note FROM store.checkpoints") == [(state.note,)]
        sealer = Sealer(again, signing=Signing(signers=[signer()], state=state))
        for _ in range(2):
            assert sealer.step(NOW_US + 60 * MINUTE_US, force=True).leaves == ()
        again.add_rows("topic/0", 5)
        report = sealer.step(NOW_US + 61 * MINUTE_US)
        assert (report.rows, report.leaves) == (2, (3,))
        with contextlib.closing(again.cursor()) as cursor:
            assert unmet_from(cursor) is None
        assert Publisher(again, [anchor]).step(NOW_US)[0].published == 4
        check_anchor_has_the_journal(anchor, again)


def test_a_ledger_that_is_not_the_sealed_one_stops_the_sealer(database, anchor):
    """The finding names partition, rows and the seal."""
    state = MemoryState()
    sealed(database, state, 3)
    Publisher(database, [anchor]).step(NOW_US)
    again = rebuilt(6)
    with contextlib.closing(again):
        with again.transaction("another record") as cursor:
            cursor.execute("UPDATE store.ledger SET events = 99 WHERE idx = 3")
        restore_journal(again, anchor.objects(), [signer().verifier])
        sealer = Sealer(again, signing=Signing(signers=[signer()], state=state))
        for _ in range(2):
            with pytest.raises(Exception, match="topic/0 rows 2 to 3, sealed in journal 1: another root"):
                sealer.step(NOW_US + 60 * MINUTE_US)


def test_an_end_that_was_lost_is_put_back(database, anchor):
    """A crash lost the last transactions: the sealer refuses, the anchor has the leaves, the ledger comes again."""
    state = MemoryState()
    sealed(database, state, 3)
    Publisher(database, [anchor]).step(NOW_US)
    with database.transaction("lose the end") as cursor:
        cursor.execute(
            "DELETE FROM store.journal WHERE idx >= 1; DELETE FROM store.checkpoints WHERE size > 1"
        )
        cursor.execute("DELETE FROM store.ledger WHERE idx >= 2")
        cursor.execute("UPDATE store.positions SET ledger_next = 2, next_offset = 2")
    with pytest.raises(Exception, match="does not continue"):
        Sealer(database, signing=Signing(signers=[signer()], state=state)).step(NOW_US)
    restore_journal(database, anchor.objects(), [signer().verifier])
    database.add_rows("topic/0", 5)
    sealer = Sealer(database, signing=Signing(signers=[signer()], state=state))
    assert sealer.step(NOW_US + 9 * MINUTE_US).rows == 1


def test_only_signed_and_unbroken_objects_restore_a_journal(database, anchor, tmp_path):
    """Whatever is missing or not signed by a key that the caller trusts is named; restoring twice changes nothing."""
    sealed(database, MemoryState(), 3)
    publisher = Publisher(database, [anchor])
    publisher.step(NOW_US)
    before = journal_of(database)
    restore_journal(database, anchor.objects(), [signer().verifier])
    assert journal_of(database) == before
    again = LedgerDatabase()
    with contextlib.closing(again):
        with pytest.raises(Exception, match="signed by none of the keys"):
            restore_journal(again, anchor.objects(), [signer(seed=5).verifier])
        assert restore_journal(again, [], [signer().verifier]) is None
        sealed(database, MemoryState(), 0)
        sealer_state = MemoryState()
        sealer_state.note = database.read("SELECT note FROM store.checkpoints ORDER BY size DESC")[0][0]
        sealed(database, sealer_state, 1, start=3)
        publisher.step(NOW_US)
        with pytest.raises(Exception, match="the ones from 0 on are missing"):
            restore_journal(again, anchor.objects(after=3), [signer().verifier])
        with again.transaction("another journal") as cursor:
            Journal(cursor).append(encode_act(b"{}"), NOW_US)
        with pytest.raises(AnchorConflictError, match="another root"):
            restore_journal(again, anchor.objects(), [signer().verifier])
        assert len(journal_of(again)) == 1


class UndatedAnchor(WrappedAnchor):
    """By its times it can't tell its newest object."""

    def newest(self):
        raise NewestUnknownError("a clock was wrong once")


def test_an_anchor_that_cannot_tell_its_newest_object_by_its_times_is_published_to(database, anchor):
    """By the sizes of what it has; one that has nothing gets all."""
    state = MemoryState()
    sealed(database, state, 3)
    Publisher(database, [UndatedAnchor(anchor)]).step(NOW_US)
    sealed(database, state, 2, start=3)
    [status] = Publisher(database, [UndatedAnchor(anchor)]).step(NOW_US)
    assert (status.state, status.behind, status.published) == (AnchorState.REACHED, 0, 5)
    check_anchor_has_the_journal(anchor, database)
