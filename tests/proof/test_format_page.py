"""docs/proof-format.md is true: its examples are the golden vectors, its commands run, its tables are those of a new
database, its grammar is the one in force, its verifier verifies.
"""

import contextlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from tests.consumer.support import records
from tests.proof.support import MINUTE_US, NOW_US, LedgerDatabase, MemoryDatabase, MemoryState, signer

from skillaudit.consumer.database import open_database
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.planning import Plan
from skillaudit.consumer.recording import perform
from skillaudit.proof import acts, grammar
from skillaudit.proof.acts import Act, ActKind
from skillaudit.proof.anchors import open_anchor
from skillaudit.proof.anchors.file import OBJECTS_PER_DIRECTORY
from skillaudit.proof.journal import Journal
from skillaudit.proof.leaves import LEAF_BYTES_MAX, LEDGER_KINDS, SEAL_PARTITIONS_MAX, encode_act
from skillaudit.proof.publishing import Publisher
from skillaudit.proof.sealer import Sealer, Signing

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "proof-format.md").read_text(encoding="utf-8")
PROOF = json.loads((ROOT / "tests" / "vectors" / "proof.json").read_text(encoding="utf-8"))
DIGESTS = json.loads((ROOT / "tests" / "vectors" / "digests.json").read_text(encoding="utf-8"))
KEYS = [signer().verifier.text]
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


def table(heading):
    """A table's rows, by the text of its first cell."""
    lines = PAGE.split(f"{heading}\n")[1].split("\n\n")[0].splitlines()[1:]
    cells = (re.split(r"(?<!\\) \| ", line.strip("| ")) for line in lines)
    return {first.strip("`"): rest for first, *rest in cells}


def test_the_pages_tables_are_those_of_a_new_database():
    """Columns and types of the views that a verifier reads, in their order."""
    shown = table("| view | columns |")
    assert {"runs", "events", "ledger", "journal", "redactions", "holds", "ledger_nodes"} <= shown.keys()
    with contextlib.closing(MemoryDatabase()) as database, contextlib.closing(database.cursor()) as cursor:
        for view, (columns,) in shown.items():
            described = cursor.execute(f"DESCRIBE main.{view}").fetchall()
            made = [
                f"`{name}` {kind.replace('TIMESTAMP WITH TIME ZONE', 'TIMESTAMPTZ')}"
                for name, kind, *_ in described
            ]
            assert columns == ", ".join(made), view


WORDS = {
    "text": (["", "é\u0000"], [None, 1, {}]),
    "id": (["r", "x" * 512], ["", "x" * 513, "é" * 257, 1]),
    "ordinal": ([1, 2**63 - 1], [0, 2**63, True, 1.0, "1"]),
    "count": ([0, 2**63 - 1], [-1, 2**63, False, None]),
    "time": ([0, 253_402_300_799_999_999], [-1, 253_402_300_800_000_000, 1.0]),
    "object": ([{}, {"a": []}], [[], None, "{}"]),
    "ranges": (["", "1", "3-5,7"], ["0", "3-3", "7,3-5", "3-5,5", "03", "5-3", None]),
    "list": ([[]], [{}, None, [{}], [1]]),
    "0": ([0], [1, None]),
    "16 hex": (["0123456789abcdef"], ["0123456789ABCDEF", "0" * 15]),
    "32 hex": (["0" * 32], ["0" * 33, 0]),
    "64 hex": (["f" * 64], ["g" * 64]),
    '"process" or "adopter"': (["process", "adopter"], ["", "other", None]),
}


@pytest.mark.parametrize(
    ("shown", "checks"),
    [
        ("run.started", grammar._START_MEMBERS),
        ("run.finished", grammar._FINISH_MEMBERS),
        ("source.heartbeat", grammar._HEARTBEAT_MEMBERS),
        ("source.closed", grammar._CLOSED_MEMBERS),
        ("each entry of `open", grammar._ENTRY_MEMBERS),
    ],
)
def test_the_pages_grammar_is_the_one_in_force(shown, checks):
    """Members of each record that gives rows, and what each of the page's words takes and refuses."""
    (cell,) = table("| type | members |")[shown]
    members = dict(re.fullmatch(r"`(\w+)` (.+)", part).groups() for part in cell.split(", "))
    assert list(members) == list(checks)
    for name, word in members.items():
        taken, refused = WORDS[word]
        assert all(checks[name](value) for value in taken), name
        assert not any(checks[name](value) for value in refused), name
    assert f"{grammar.AT_US_MAX}" in PAGE
    assert f"at most {grammar.JSON_DEPTH_MAX} levels" in PAGE
    assert f"lists {grammar.HEARTBEAT_RUNS_MAX:,} runs" in PAGE


def test_the_page_says_what_each_acts_scope_holds():
    """Every kind, and by name every member that the parser takes."""
    shown = {
        name.strip("` "): rest[0]
        for key, rest in table("| kind | `scope` | what it does |").items()
        for name in key.split(",")
    }
    assert shown.keys() == set(ActKind)
    for kind, check in acts._SCOPES.items():
        choices = next(cell.cell_contents for cell in check.__closure__)
        assert set(re.findall(r"`(\w+)`", shown[kind])) == {name for choice in choices for name in choice}, (
            kind
        )
    assert all(f"`{name}`" in PAGE for name in acts._MEMBERS)


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
    journal = verifier["read_anchor"](directory, KEYS)
    assert len(journal) == 10
    assert verifier["check_seals"](journal, rows) == {
        partition: len(found) for partition, found in rows.items()
    }


@pytest.mark.parametrize("number", range(5))
def test_the_pages_verifier_names_a_row_that_was_altered(verifier, sealed, number):
    """By the seal that holds it."""
    directory, rows = sealed
    journal = verifier["read_anchor"](directory, KEYS)
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
        verifier["read_anchor"](copy, KEYS)


def test_the_pages_verifier_asks_for_a_key_that_it_knows(verifier, sealed, tmp_path):
    """Signed by none of its keys; and in the name of one, and not by it."""
    other = signer(seed=7).verifier.text
    with pytest.raises(AssertionError, match="signed by none of the keys"):
        verifier["read_anchor"](sealed[0], [other])
    assert verifier["read_anchor"](sealed[0], [other, *KEYS])
    copy = tmp_path / "anchor"
    shutil.copytree(sealed[0], copy)
    path = min(copy.glob("objects/*/*"))
    content = path.read_text()
    path.write_text(content[:-20] + ("B" if content[-20] == "A" else "A") + content[-19:])
    with pytest.raises(InvalidSignature):
        verifier["read_anchor"](copy, KEYS)


def test_the_pages_verifier_takes_the_golden_checkpoints(verifier):
    """One is signed by two keys, the others by one of them."""
    keys = [key["verifier"] for key in PROOF["keys"]]
    for checkpoint in PROOF["checkpoints"]:
        assert len(verifier["signed_by"](checkpoint["note"], keys)) == checkpoint["keys"]


@pytest.fixture
def stored(tmp_path):
    """A database into which the product took all golden records, and out of which acts took content."""
    database = open_database(tmp_path / "audit.duckdb")
    materializer = Materializer(database, identity="page")
    values = [event["record"].encode() for run in DIGESTS["runs"] for event in run["events"]]
    values += [record.encode() for run in DIGESTS["redacted"] for record in run["records"]]
    materializer.apply(records(values), {"t/0": len(values)})
    reach = {"positions": {"t/0": len(values)}, "actor": "ada", "at_us": NOW_US}
    made = []
    for run in DIGESTS["redacted"]:
        for act in run["acts"]:
            (seq, field), *more = act["places"]
            only = {} if field is None else {"field": field}
            scope = {"runs": [run["run_id"]]} if more else {"run": run["run_id"], "seq": seq, **only}
            kind = ActKind.ERASE if more else ActKind.REDACT
            made.append(Act(act_id=act["act_id"], kind=kind, scope=scope, **reach))
    for act in made:
        perform(materializer, lambda _, act=act: Plan([act]))
    with contextlib.closing(database.cursor()) as cursor:
        cursor.execute("SET TimeZone = 'UTC'")
        yield cursor
    materializer.close()
    database.close()


def test_the_product_keeps_of_a_redacted_run_what_the_golden_vectors_say(stored):
    """Digests of what was taken out, salts of all else, and no salt of the run."""
    for run in DIGESTS["redacted"]:
        ((key, salt),) = stored.execute(
            "SELECT run_key, salt FROM runs WHERE id = ?", [run["run_id"]]
        ).fetchall()
        assert salt is None
        taken = stored.execute(
            "SELECT seq, field, lower(hex(digest)), act_id FROM redactions WHERE run_key = ?", [key]
        ).fetchall()
        assert set(taken) == {tuple(it.values()) for it in run["redactions"]}
        salts = set(
            stored.execute("SELECT seq, field, salt FROM run_salts WHERE run_key = ?", [key]).fetchall()
        )
        assert salts == {tuple(it.values()) for it in run["run_salts"]}
        logs = stored.execute("SELECT sequence, payload FROM events WHERE run_key = ?", [key]).fetchall()
        kept = {it["stored"]["seq"]: it["stored"].get("payload") for it in run["events"]}
        assert all(kept[seq] == payload for seq, payload in logs)


def test_the_pages_verifier_computes_every_head(verifier, stored):
    """Of all golden runs from what a real database holds of them, of redacted and erased ones, too."""
    for run in DIGESTS["runs"] + DIGESTS["redacted"]:
        ((key,),) = stored.execute("SELECT run_key FROM runs WHERE id = ?", [run["run_id"]]).fetchall()
        found = verifier["heads"](stored, key)
        assert list(found.values()) == [event["head"] for event in run["events"]]
        rows = stored.execute(
            "SELECT events, lower(hex(head)) FROM ledger WHERE run_id = ? AND head IS NOT NULL",
            [run["run_id"]],
        ).fetchall()
        assert len(rows) == 2
        assert all(found[events] == head for events, head in rows)
