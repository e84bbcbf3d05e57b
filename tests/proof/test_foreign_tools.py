"""What a real sealer wrote is accepted by other people's tools, and refused by them after any tampering."""

import base64
import contextlib
import json
import shutil

import pytest
from tests.proof.support import MINUTE_US, NAME, NOW_US, LedgerDatabase, MemoryState, signer
from tests.support.go import run

from skillaudit.proof import merkle
from skillaudit.proof.checkpoint import Checkpoint
from skillaudit.proof.exporting import export_log
from skillaudit.proof.journal import Journal
from skillaudit.proof.leaves import encode_act
from skillaudit.proof.sealer import Sealer, Signing

SIZES = (1, 7, 256, 300)


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A journal of seals and acts, its checkpoints by size, and its export."""
    database = LedgerDatabase()
    with contextlib.closing(database):
        sealer = Sealer(database, signing=Signing(signers=[signer()], state=MemoryState()))
        for number, size in enumerate(SIZES):
            with database.transaction("acts") as cursor:
                journal = Journal(cursor)
                while journal.size() < size - 1:
                    journal.append(encode_act(b'{"n":%d}' % journal.size()), NOW_US)
            database.add_rows("skillaudit.events/0", 5)
            sealer.step(NOW_US + number * MINUTE_US)
        notes = dict(database.read("SELECT size, note FROM store.checkpoints"))
        assert tuple(sorted(notes)) == SIZES
        directory = tmp_path_factory.mktemp("log")
        with contextlib.closing(database.cursor()) as cursor:
            journal = Journal(cursor)
            assert export_log(directory, journal, notes[300]) == 300
            yield journal, notes, directory


def hexes(proof):
    return [h.hex() for h in proof]


def judged(go_proof, path, cases):
    """All as expected, or the program ends with an error; the lines it printed."""
    path.write_text(json.dumps(cases))
    lines = run(go_proof, "judge", str(path)).splitlines()
    assert lines[-1] == f"judged {len(cases)} cases, 0 not as expected"
    return lines[:-1]


def case(name, kind, *, accept, notes=(), step=None, directory="", key=None):
    return {
        "name": name,
        "kind": kind,
        "accept": accept,
        "verifiers": [(key or signer()).verifier.text],
        "notes": list(notes),
        "step": step or {},
        "directory": str(directory),
    }


def test_checkpoints_and_proofs_are_accepted_and_their_forgeries_refused(go_proof, log, tmp_path):
    """By golang.org/x/mod's sumdb/note and sumdb/tlog."""
    journal, notes, _ = log
    cases = [case(f"checkpoint {size}", "note", accept=True, notes=[note]) for size, note in notes.items()]
    cases += [
        case("another key", "note", accept=False, notes=[notes[7]], key=signer(seed=9)),
        case("another size", "note", accept=False, notes=[notes[7].replace("\n7\n", "\n8\n")]),
        case("another root", "note", accept=False, notes=[notes[7].replace("\n7\n", "\n7\nA", 1)]),
        case("no signature", "note", accept=False, notes=[notes[7].partition("\N{EM DASH}")[0]]),
    ]
    for old, new in ((1, 7), (7, 256), (7, 300), (256, 300), (300, 300)):
        step = {"old": old, "proof": hexes(journal.consistency_proof(old, new))}
        pair = [notes[old], notes[new]]
        cases.append(case(f"{old} begins {new}", "consistency", accept=True, notes=pair, step=step))
        wrong = [*step["proof"][1:], "00" * 32]
        cases.append(
            case(
                f"{old} begins {new}, forged",
                "consistency",
                accept=False,
                notes=pair,
                step=step | {"proof": wrong},
            )
        )
    forked = Checkpoint(NAME, 7, merkle.leaf_hash(b"other")).signed([signer()])
    step = {"old": 7, "proof": hexes(journal.consistency_proof(7, 300))}
    cases += [
        case("rewritten history", "consistency", accept=False, notes=[forked, notes[300]], step=step),
        case("fork of one size", "consistency", accept=False, notes=[forked, notes[7]], step={"proof": []}),
    ]
    for index, size in ((0, 1), (3, 7), (255, 256), (0, 300), (299, 300)):
        leaf = journal.leaves(index, index + 1)[0]
        step = {
            "index": index,
            "leaf": base64.b64encode(leaf).decode(),
            "proof": hexes(journal.inclusion_proof(index, size)),
        }
        changed = step | {"leaf": base64.b64encode(leaf.replace(b" 1\n", b" 1\n ", 1)).decode()}
        moved = step | {"index": index + 1 if index + 1 < size else index - 1}
        cases += [
            case(f"leaf {index} in {size}", "inclusion", accept=True, notes=[notes[size]], step=step),
            case(f"leaf {index} changed", "inclusion", accept=False, notes=[notes[size]], step=changed),
            case(f"leaf {index} elsewhere", "inclusion", accept=False, notes=[notes[size]], step=moved),
        ]
    lines = judged(go_proof, tmp_path / "cases.json", cases)
    assert len(lines) == len(cases)


TAMPERINGS = {
    "tile/0/000": lambda data: data[:40] + b"\0" + data[41:],
    "tile/0/001.p/44": lambda data: data[::-1],
    "tile/1/000.p/1": lambda data: bytes(32),
    "tile/entries/000": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "tile/entries/001.p/44": lambda data: data[:-1],
    "checkpoint": lambda data: data.replace(b"\n300\n", b"\n299\n"),
}


def test_a_whole_log_is_accepted_and_any_changed_file_refused(go_proof, log, tmp_path):
    """By tessera's fsck, which makes every tile and the root again from the leaves."""
    directory = log[2]
    cases = [case("as it was written", "log", accept=True, directory=directory)]
    for number, (name, change) in enumerate(TAMPERINGS.items()):
        copy = tmp_path / str(number)
        shutil.copytree(directory, copy)
        before = (copy / name).read_bytes()
        (copy / name).write_bytes(change(before))
        assert (copy / name).read_bytes() != before
        cases.append(case(f"{name} changed", "log", accept=False, directory=copy))
        (copy / name).write_bytes(before)
        shutil.copytree(copy, tmp_path / f"{number} missing")
        (tmp_path / f"{number} missing" / name).unlink()
        cases.append(case(f"{name} missing", "log", accept=False, directory=tmp_path / f"{number} missing"))
        (copy / name).write_bytes(change(before))
    cases.append(case("signed by another", "log", accept=False, directory=directory, key=signer(seed=9)))
    lines = judged(go_proof, tmp_path / "cases.json", cases)
    assert lines[0] == "accepted as it was written: <nil>"
