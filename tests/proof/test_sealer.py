"""The sealer: what it seals, that it goes on right after a crash anywhere, and what it never signs."""

import contextlib
import itertools

import orjson
import pytest
from tests.proof.support import (
    MINUTE_US,
    NAME,
    NOW_US,
    Countdown,
    Crash,
    CrashingDatabase,
    CrashingState,
    LedgerDatabase,
    MemoryState,
    signer,
)

from skillaudit.contract.errors import DatabaseError, RetryableError
from skillaudit.proof import merkle
from skillaudit.proof.checkpoint import open_checkpoint
from skillaudit.proof.errors import NoteError, SigningRefusedError
from skillaudit.proof.journal import Journal
from skillaudit.proof.leaves import encode_act, leaf_kind, parse_act, parse_seal
from skillaudit.proof.restoring import unmet_seals
from skillaudit.proof.sealer import (
    INCIDENTS_PER_SEAL_MAX,
    OBJECT_BYTES_MAX,
    FileState,
    Sealer,
    Signing,
)
from skillaudit.proof.sealing import SealPolicy


@pytest.fixture
def database():
    made = LedgerDatabase()
    yield made
    made.close()


def journal_of(database):
    with contextlib.closing(database.cursor()) as cursor:
        journal = Journal(cursor)
        return journal.leaves(0, journal.size())


def ranges_of(database):
    """Every sealed range, in the journal's order."""
    seals = [parse_seal(leaf) for leaf in journal_of(database) if leaf_kind(leaf) == "seal"]
    return [part for seal in seals for part in seal.ranges]


def notes_of(database):
    return [row[0] for row in database.read("SELECT note FROM store.checkpoints ORDER BY size")]


def check_all_is_sealed_once(database):
    """The ranges of each partition follow each other up to the ledger's end, and their roots are those of its leaves."""
    ends, ledger = {}, database.ledger_leaves()
    for part in ranges_of(database):
        assert part.first == ends.get(part.partition, 0)
        ends[part.partition] = part.end
        leaves = ledger[part.partition][part.first : part.end]
        assert merkle.root_of(b"".join(map(merkle.leaf_hash, leaves))) == part.root
    assert ends == dict(database.read("SELECT partition, ledger_next FROM store.positions"))


def check_checkpoints_are_right(database, keys):
    """Each is signed and is the root of the journal at its size; the last is of the whole journal."""
    leaves = journal_of(database)
    sizes = []
    for note in notes_of(database):
        checkpoint, by = open_checkpoint(note, [key.verifier for key in keys])
        assert by
        hashes = b"".join(map(merkle.leaf_hash, leaves[: checkpoint.size]))
        assert merkle.root_of(hashes) == checkpoint.root
        sizes.append(checkpoint.size)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == len(leaves)


def add_act(database, number):
    with database.transaction("append an act") as cursor:
        Journal(cursor).append(encode_act(b'{"n":%d}' % number), NOW_US)


def test_what_arrived_is_sealed_and_signed(database):
    """One leaf for all partitions that moved; nothing is done until the next minute, and nothing for nothing."""
    database.add_rows("topic/0", 5)
    database.add_rows("topic/1", 3)
    sealer = Sealer(database, signing=Signing(signers=[signer()], state=MemoryState()))
    report = sealer.step(NOW_US)
    assert (report.rows, report.leaves, report.behind_rows, report.more) == (8, (0,), 0, False)
    assert [checkpoint.size for checkpoint in report.signed] == [1]
    database.add_rows("topic/0", 2)
    waiting = sealer.step(NOW_US + MINUTE_US - 1)
    assert (waiting.rows, waiting.leaves, waiting.signed, waiting.behind_rows) == (0, (), (), 2)
    report = sealer.step(NOW_US + MINUTE_US)
    assert (report.rows, report.leaves) == (2, (1,))
    assert sealer.step(NOW_US + 3 * MINUTE_US).leaves == ()
    check_all_is_sealed_once(database)
    check_checkpoints_are_right(database, [signer()])
    assert parse_seal(journal_of(database)[1]).at_us == NOW_US + MINUTE_US
    assert [part.next_offset for part in ranges_of(database)] == [5, 3, 7]


def test_an_idle_hour_is_sealed_too(database):
    """An empty seal says that the sealer lives."""
    database.add_rows("topic/0", 1)
    sealer = Sealer(database)
    sealer.step(NOW_US)
    report = sealer.step(NOW_US + 60 * MINUTE_US)
    assert (report.rows, report.leaves) == (0, (1,))
    assert parse_seal(journal_of(database)[1]).ranges == ()


def test_seals_by_force_what_waits_but_no_nothing(database):
    """At the end of a service, or for somebody who wants a proof now."""
    sealer = Sealer(database)
    assert sealer.step(NOW_US, force=True).leaves == ()
    for number in range(3):
        database.add_rows("topic/0", 1)
        assert sealer.step(NOW_US + number, force=True).rows == 1
    assert sealer.step(NOW_US + 3, force=True).leaves == ()
    check_all_is_sealed_once(database)


def test_without_a_key_it_seals_and_signs_nothing(database):
    """The journal is there; what it proves is up to whoever keeps it."""
    database.add_rows("topic/0", 5)
    report = Sealer(database).step(NOW_US)
    assert (report.rows, report.signed) == (5, ())
    assert notes_of(database) == []
    check_all_is_sealed_once(database)


def test_behind_it_catches_up_in_bounded_seals(database):
    """Without waiting for the next minute; no partition starves, and no record is cut in two."""
    database.add_rows("topic/0", 700, per_record=9)
    database.add_rows("topic/1", 20)
    database.add_rows("topic/2", 1)
    sealer = Sealer(database, policy=SealPolicy(rows_max=100))
    for number in itertools.count(1):
        report = sealer.step(NOW_US + number)
        assert 0 < report.rows <= 100 + 3 * 9
        if not report.more:
            break
    assert sealer.step(NOW_US + 2 * MINUTE_US).behind_rows == 0
    check_all_is_sealed_once(database)
    cuts = {part.end for part in ranges_of(database) if part.partition == "topic/0"}
    assert cuts <= {*range(0, 700, 9), 700}


def test_offsets_that_begin_anew_are_sealed_by_their_rows(database):
    """A topic was made again and the loss of its history accepted: the ledger goes on, its offsets do not."""
    database.add_rows("topic/0", 500, per_record=4)
    with database.transaction("made again") as cursor:
        cursor.execute("UPDATE store.positions SET next_offset = 0")
    database.add_rows("topic/0", 700, per_record=7)
    sealer = Sealer(database, policy=SealPolicy(rows_max=190))
    for number in itertools.count(1):
        if not sealer.step(NOW_US + number * MINUTE_US).behind_rows:
            break
    check_all_is_sealed_once(database)
    parts = ranges_of(database)
    assert {part.next_offset for part in parts if part.end == 500} <= {125}
    assert parts[-1].next_offset == 100
    with contextlib.closing(database.cursor()) as cursor:
        assert list(unmet_seals(cursor, 0, len(parts))) == []


def test_many_partitions_become_several_leaves(database):
    """At most 500 in one; signed as one."""
    with database.transaction("rows") as cursor:
        cursor.execute(
            "INSERT INTO store.ledger SELECT 'outbox/' || lpad(n::VARCHAR, 32, '0'), 0, 'start', 'r', repeat('5', 32),"
            " 1, 1, NULL, 0, 7, NULL FROM range(1200) t(n)"
        )
        cursor.execute(
            "INSERT INTO store.positions (partition, cluster, next_offset, last_offset, last_digest, records, "
            "received_us, read_to_us, end_offset, ledger_next) "
            "SELECT partition, '', 8, 7, '', 1, 0, 0, 8, 1 FROM store.ledger"
        )
    report = Sealer(database, signing=Signing(signers=[signer()], state=MemoryState())).step(NOW_US)
    assert report.leaves == (0, 1, 2)
    assert [checkpoint.size for checkpoint in report.signed] == [3]
    check_all_is_sealed_once(database)


def test_acts_of_others_are_signed_with_the_next_step(database):
    """Whoever appended to the journal, in portions that an anchor takes."""
    database.add_rows("topic/0", 1)
    signing = Signing(signers=[signer()], state=MemoryState())
    sealer = Sealer(database, signing=signing)
    sealer.step(NOW_US)
    add_act(database, 1)
    assert [checkpoint.size for checkpoint in sealer.step(NOW_US + 1).signed] == [2]
    with database.transaction("large acts") as cursor:
        for number in range(25):
            Journal(cursor).append(encode_act(b'{"n":%d%b}' % (number, b" " * 60_000)), NOW_US)
    sizes = [checkpoint.size for checkpoint in sealer.step(NOW_US + 2).signed]
    assert sizes == [12, 22, 27]
    leaves = journal_of(database)
    for first, end in itertools.pairwise([2, *sizes]):
        assert sum(map(len, leaves[first:end])) <= OBJECT_BYTES_MAX


@pytest.mark.parametrize("at", range(13))
def test_after_a_crash_between_any_two_steps_it_goes_on_right(database, at):
    """Before and after the seal's commit, the remembering, and the checkpoint's row: nothing twice, nothing missing,
    nothing signed that is not there.
    """
    database.add_rows("topic/0", 5)
    state, countdown = MemoryState(), Countdown(at)
    key = signer()
    crashing = Signing(signers=[key], state=CrashingState(state, countdown))
    sealer = Sealer(CrashingDatabase(database, countdown), signing=crashing)
    with contextlib.suppress(Crash):
        sealer.step(NOW_US)
        database.add_rows("topic/0", 5)
        sealer.step(NOW_US + MINUTE_US)
    signed = state.note
    again = Sealer(database, signing=Signing(signers=[key], state=state))
    again.step(NOW_US + 2 * MINUTE_US)
    database.add_rows("topic/1", 5)
    again.step(NOW_US + 4 * MINUTE_US)
    check_all_is_sealed_once(database)
    check_checkpoints_are_right(database, [key])
    assert state.note == notes_of(database)[-1]
    assert signed is None or signed in notes_of(database)


def test_the_same_sealer_goes_on_after_a_failed_commit(database):
    """It forgets what it thought was sealed."""
    database.add_rows("topic/0", 5)
    sealer = Sealer(CrashingDatabase(database, Countdown(0)))
    with pytest.raises(Crash):
        sealer.step(NOW_US)
    assert journal_of(database) == []
    sealer._database = database
    assert sealer.step(NOW_US).rows == 5
    check_all_is_sealed_once(database)


CHANGES = {
    "an older copy": "DELETE FROM store.journal WHERE idx >= 2",
    "a leaf changed": "UPDATE store.journal SET leaf = 'skillaudit act 1\n{}\n'::BLOB WHERE idx = 1",
    "a leaf changed, and as many again": "UPDATE store.journal SET leaf = 'skillaudit seal 1\nat 1\n'::BLOB WHERE idx = 0",
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("anew", [True, False])
def test_what_does_not_continue_what_was_signed_is_never_signed(database, change, anew):
    """Nor is anything sealed onto it: not by the running sealer, and not by a new one."""
    state = MemoryState()
    signing = Signing(signers=[signer()], state=state)
    sealer = Sealer(database, signing=signing)
    for number in range(3):
        database.add_rows("topic/0", 2)
        sealer.step(NOW_US + number * MINUTE_US)
    signed, notes = state.note, notes_of(database)
    with database.transaction("change") as cursor:
        cursor.execute(change)
    database.add_rows("topic/0", 2)
    before = journal_of(database)
    sealer = Sealer(database, signing=signing) if anew else sealer
    for number in range(4, 7):
        with pytest.raises(SigningRefusedError, match="does not continue"):
            sealer.step(NOW_US + number * MINUTE_US)
    assert (state.note, notes_of(database), journal_of(database)) == (signed, notes, before)


def test_a_history_rewritten_behind_the_running_sealers_back_is_refused(database):
    """Also where somebody else appends to it, and no seal is due."""
    signing = Signing(signers=[signer()], state=MemoryState())
    sealer = Sealer(database, signing=signing)
    database.add_rows("topic/0", 2)
    sealer.step(NOW_US)
    with database.transaction("change") as cursor:
        cursor.execute("UPDATE store.journal SET leaf = 'skillaudit act 1\n{}\n'::BLOB WHERE idx = 0")
    add_act(database, 1)
    with pytest.raises(SigningRefusedError):
        sealer.step(NOW_US + 1)


def test_a_checkpoint_of_an_anchor_counts_as_signed(database):
    """A database and a state file that were both put back are not signed over."""
    state = MemoryState()
    signing = Signing(signers=[signer()], state=state)
    sealer = Sealer(database, signing=signing)
    for number in range(2):
        database.add_rows("topic/0", 2)
        sealer.step(NOW_US + number * MINUTE_US)
    old, newest = notes_of(database)
    sealer.meet(old)
    assert state.note == newest
    state.note = old
    with database.transaction("put back") as cursor:
        cursor.execute(
            "DELETE FROM store.journal WHERE idx = 1; DELETE FROM store.checkpoints WHERE size = 2"
        )
    with pytest.raises(SigningRefusedError, match="it has 1 leaf"):
        Sealer(database, signing=signing).meet(newest)
    with pytest.raises(NoteError, match="none of our keys"):
        Sealer(database, signing=Signing(signers=[signer(seed=7)], state=MemoryState())).meet(newest)
    Sealer(database).meet(newest)


def test_keys_change_by_signing_with_both(database):
    """New first, old dropped after the next seal. A key changed at once is refused, unless the former one is named."""
    old, new, state = signer(), signer(seed=2), MemoryState()
    database.add_rows("topic/0", 1)
    Sealer(database, signing=Signing(signers=[old], state=state)).step(NOW_US)
    database.add_rows("topic/0", 1)
    with pytest.raises(NoteError, match="sign with the old one, too"):
        Sealer(database, signing=Signing(signers=[new], state=state)).step(NOW_US + MINUTE_US)
    Sealer(database, signing=Signing(signers=[new, old], state=state)).step(NOW_US + MINUTE_US)
    database.add_rows("topic/0", 1)
    Sealer(database, signing=Signing(signers=[new], state=state)).step(NOW_US + 2 * MINUTE_US)
    by = [open_checkpoint(note, [old.verifier, new.verifier])[1] for note in notes_of(database)]
    assert by == [(old.verifier,), (new.verifier, old.verifier), (new.verifier,)]
    database.add_rows("topic/0", 1)
    newer = Signing(signers=[signer(seed=3)], state=state, former=[new.verifier])
    assert Sealer(database, signing=newer).step(NOW_US + 3 * MINUTE_US).signed
    other = Signing(signers=[signer("elsewhere")], state=state, former=[signer(seed=3).verifier])
    with pytest.raises(NoteError, match="the key's name is"):
        Sealer(database, signing=other).step(NOW_US + 4 * MINUTE_US)


def test_a_state_file_that_is_gone_begins_with_the_databases_newest_checkpoint(database, tmp_path):
    """And is written again."""
    state = FileState(tmp_path / "deep" / "signed")
    signing = Signing(signers=[signer()], state=state)
    database.add_rows("topic/0", 1)
    Sealer(database, signing=signing).step(NOW_US)
    note = state.read()
    assert note == notes_of(database)[0]
    assert note.startswith(NAME)
    (tmp_path / "deep" / "signed").unlink()
    assert state.read() is None
    Sealer(database, signing=signing).step(NOW_US + 1)
    assert state.read() == note


def test_a_state_file_that_can_not_be_kept_is_no_reason_to_sign_without(database, tmp_path):
    """Nothing is shown to anybody; once it can be written, it goes on."""
    (tmp_path / "blocked").write_text("")
    database.add_rows("topic/0", 1)
    state = FileState(tmp_path / "blocked" / "signed")
    sealer = Sealer(database, signing=Signing(signers=[signer()], state=state))
    with pytest.raises(RetryableError, match="signed last"):
        sealer.step(NOW_US)
    assert notes_of(database) == []
    (tmp_path / "blocked").unlink()
    assert [checkpoint.size for checkpoint in sealer.step(NOW_US + 1).signed] == [1]
    (tmp_path / "blocked" / "signed").write_bytes(b"\xff")
    with pytest.raises(NoteError, match="holds no checkpoint"):
        Sealer(database, signing=Signing(signers=[signer()], state=state)).step(NOW_US + 2)


def test_a_ledger_with_a_hole_is_not_sealed(database):
    """The count says that a row is there; it is not."""
    database.add_rows("topic/0", 9)
    for hole in (4, 8):
        with database.transaction("hole") as cursor:
            cursor.execute("DELETE FROM store.ledger WHERE idx = ?", [hole])
        with pytest.raises(DatabaseError, match="has not the rows"):
            Sealer(database).step(NOW_US)
    assert journal_of(database) == []


def test_rows_that_the_engine_renumbered_are_found(database):
    """Deleted rows and a checkpoint move row ids; the sealer's memory of where it was is only a shortcut."""
    sealer = Sealer(database)
    database.add_rows("topic/0", 500)
    database.add_rows("topic/1", 500)
    sealer.step(NOW_US)
    sealer._from_rowid = 1 << 40
    database.add_rows("topic/0", 5)
    assert sealer.step(NOW_US + MINUTE_US).rows == 5
    check_all_is_sealed_once(database)


class Finds:
    """A prover that finds as many mismatches as it is told."""

    def __init__(self, count):
        self.count = count
        self.seen = []

    def __call__(self, cursor, ranges, now_us):
        self.seen.append(list(ranges))
        assert cursor.execute("SELECT count(*) FROM store.ledger").fetchone()[0]
        return [orjson.dumps({"kind": "incident", "at": now_us, "n": n}) for n in range(self.count)]


def test_what_the_prover_finds_goes_into_the_journal_behind_the_seal(database):
    """In the same transaction, at most so many; it is asked once for each seal that has rows."""
    prover = Finds(INCIDENTS_PER_SEAL_MAX + 5)
    sealer = Sealer(database, prover=prover)
    database.add_rows("topic/0", 3)
    report = sealer.step(NOW_US)
    sealer.step(NOW_US + 60 * MINUTE_US)
    leaves = journal_of(database)
    assert report.incidents == INCIDENTS_PER_SEAL_MAX
    assert [leaf_kind(leaf) for leaf in leaves] == ["seal", *["act"] * INCIDENTS_PER_SEAL_MAX, "seal"]
    assert orjson.loads(parse_act(leaves[1])) == {"kind": "incident", "at": NOW_US, "n": 0}
    assert [[part.count for part in ranges] for ranges in prover.seen] == [[3]]
