"""docs/proof-format.md is true: its examples are the golden vectors, its commands run, its verifier verifies."""

import contextlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.proof.support import MINUTE_US, NOW_US, LedgerDatabase, MemoryState, signer

from skillaudit.proof.anchors import open_anchor
from skillaudit.proof.anchors.file import OBJECTS_PER_DIRECTORY
from skillaudit.proof.journal import Journal
from skillaudit.proof.leaves import LEAF_BYTES_MAX, LEDGER_KINDS, SEAL_PARTITIONS_MAX, encode_act
from skillaudit.proof.publishing import Publisher
from skillaudit.proof.sealer import Sealer, Signing

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "proof-format.md").read_text(encoding="utf-8")
PROOF = json.loads((ROOT / "tests" / "vectors" / "proof.json").read_text(encoding="utf-8"))
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, flags=re.DOTALL)


def blocks(language):
    return [text for found, text in BLOCKS if found == language]


def test_the_examples_are_golden_vectors():
    """Each of them, byte for byte."""
    known = {entry["leaf"] for entry in PROOF["journal"]}
    known |= {checkpoint["note"] for checkpoint in PROOF["checkpoints"]}
    known |= {f"{key['verifier']}\n" for key in PROOF["keys"]}
    known |= {stored["content"] for stored in PROOF["objects"]}
    known |= {f"{row['hash']}  -\n" for row in PROOF["ledger"]}
    shown = blocks("text")
    assert len(shown) == 6
    assert set(shown) <= known


def test_the_command_prints_what_the_page_says():
    """With tools that everybody has."""
    (command,) = blocks("bash")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout in blocks("text")


def test_the_page_names_the_codes_bounds_and_kinds():
    """Partitions of a seal, bytes of a leaf, names of files."""
    assert f"At most {SEAL_PARTITIONS_MAX} partitions and {LEAF_BYTES_MAX:,} bytes" in PAGE
    assert f"size // {OBJECTS_PER_DIRECTORY}" in PAGE
    assert all(f"| `{kind}` |" in PAGE for kind in LEDGER_KINDS)


def test_the_pages_digests_are_those_of_the_code():
    """The grammar of events stands there as it stands in the module that computes them."""
    source = (ROOT / "contract" / "skillaudit" / "contract" / "digests.py").read_text(encoding="utf-8")
    for text in re.findall(r'"skillaudit [a-z]+ 1\\n"', source):
        assert text in PAGE


@pytest.fixture(scope="module")
def verifier():
    """The page's Python, as somebody would copy it."""
    (code,) = blocks("python")
    names = {}
    exec(compile(code, "docs/proof-format.md", "exec"), names)
    return names


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """A directory that a real sealer and publisher made, and the ledger's leaves."""
    database = LedgerDatabase()
    directory = tmp_path_factory.mktemp("format") / "anchor"
    with contextlib.closing(database):
        sealer = Sealer(database, signing=Signing(signers=[signer()], state=MemoryState()))
        publisher = Publisher(database, [open_anchor(f"file:{directory}")])
        for number in range(5):
            database.add_rows("skillaudit.events/0", 3, per_record=2)
            database.add_rows(f"skillaudit.events/{number}", 2)
            with database.transaction("an act") as cursor:
                Journal(cursor).append(encode_act(b'{"n":%d}' % number), NOW_US)
            sealer.step(NOW_US + number * MINUTE_US)
            publisher.step(NOW_US + number * MINUTE_US)
        yield directory, database.ledger_leaves()


def test_the_pages_verifier_accepts_what_is_right(verifier, sealed):
    """All rows of all partitions turn out sealed."""
    directory, rows = sealed
    journal = verifier["read_anchor"](directory)
    assert len(journal) == 10
    assert verifier["check_seals"](journal, rows) == {
        partition: len(found) for partition, found in rows.items()
    }


@pytest.mark.parametrize("number", range(5))
def test_the_pages_verifier_names_a_row_that_was_altered(verifier, sealed, number):
    """By the seal that holds it."""
    directory, rows = sealed
    journal = verifier["read_anchor"](directory)
    partition = f"skillaudit.events/{number}"
    altered = [*rows[partition][:1], rows[partition][1].replace(b" 1\n", b" 1\n ", 1), *rows[partition][2:]]
    with pytest.raises(AssertionError, match=f"{partition} was altered"):
        verifier["check_seals"](journal, rows | {partition: altered})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.unlink(), "were taken away"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b'{"n":1}', b'{"n":7}')), "another history"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"\n4\n", b"\n5\n")), "another size"),
    ],
)
def test_the_pages_verifier_names_an_anchor_that_was_changed(verifier, sealed, tmp_path, change, says):
    """By the object."""
    copy = tmp_path / "anchor"
    shutil.copytree(sealed[0], copy)
    change(sorted(copy.glob("objects/*/*"))[1])
    with pytest.raises(AssertionError, match=says):
        verifier["read_anchor"](copy)
