"""The golden vectors are the specification of leaves, trees and checkpoints: Python, DuckDB and Go agree on them."""

import importlib.util
import json
from hashlib import sha256
from pathlib import Path

import duckdb
import pytest
from tests.support.go import run

from skillaudit.proof import merkle
from skillaudit.proof.anchors.base import AnchorObject, parse_object
from skillaudit.proof.checkpoint import open_checkpoint
from skillaudit.proof.keys import generate_key, parse_verifier, read_key
from skillaudit.proof.leaves import (
    LedgerLeaf,
    SealedRange,
    SealLeaf,
    encode_act,
    parse_act,
    parse_ledger,
    parse_seal,
)
from skillaudit.proof.tiles import encode_entries, tiles_between

VECTORS = Path(__file__).parent.parent / "vectors"
PROOF = json.loads((VECTORS / "proof.json").read_text(encoding="utf-8"))
TREE = PROOF["tree"]
LEAVES = [f"leaf {number}".encode() for number in range(TREE["size"])]
HASHES = [merkle.leaf_hash(leaf) for leaf in LEAVES]
LEDGER_FIELDS = ("kind", "run_id", "source_id", "source_seq", "events", "received_us")


def read(level, index):
    return merkle.root_of(b"".join(HASHES[index << level : (index + 1) << level]))


def test_the_file_is_what_its_generator_makes():
    """proof.json is current; the generator is independent of the project."""
    source = VECTORS / "make_proof.py"
    assert "import skillaudit" not in source.read_text(encoding="utf-8")
    assert "from skillaudit" not in source.read_text(encoding="utf-8")
    spec = importlib.util.spec_from_file_location("make_proof", source)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.text() == (VECTORS / "proof.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("row", PROOF["ledger"], ids=lambda row: f"{row['kind']}-{row['idx']}")
def test_python_makes_and_reads_each_ledger_leaf(row):
    """Both ways, byte for byte."""
    leaf = LedgerLeaf(
        **{name: row[name] for name in LEDGER_FIELDS},
        head=bytes.fromhex(row["head"]) if row["head"] else None,
        offset=row["record_offset"],
    )
    assert leaf.encode() == row["leaf"].encode()
    assert parse_ledger(row["leaf"].encode()) == leaf
    assert merkle.leaf_hash(leaf.encode()).hex() == row["hash"]


@pytest.mark.parametrize("entry", PROOF["journal"], ids=lambda entry: entry["kind"])
def test_python_makes_and_reads_each_leaf_of_the_journal(entry):
    """Seals with the roots of their rows, acts verbatim."""
    leaf = entry["leaf"].encode()
    if entry["kind"] == "act":
        assert encode_act(entry["line"].encode()) == leaf
        assert parse_act(leaf).decode() == entry["line"]
    else:
        ranges = tuple(
            SealedRange(r["partition"], r["first"], r["count"], bytes.fromhex(r["root"]), r["next_offset"])
            for r in entry["ranges"]
        )
        assert SealLeaf(entry["at_us"], ranges).encode() == leaf
        assert parse_seal(leaf) == SealLeaf(entry["at_us"], ranges)
        for part in ranges:
            rows = [row for row in PROOF["ledger"] if row["partition"] == part.partition]
            hashes = b"".join(bytes.fromhex(row["hash"]) for row in rows[part.first : part.end])
            assert merkle.root_of(hashes) == part.root
    assert merkle.leaf_hash(leaf).hex() == entry["hash"]


def test_python_makes_the_trees_roots_proofs_and_tiles():
    """And takes them."""
    roots = {int(size): bytes.fromhex(root) for size, root in TREE["roots"].items()}
    for size, root in roots.items():
        assert merkle.root(size, read) == root
    for part in TREE["inclusion"]:
        index, size = part["index"], part["size"]
        proof = [bytes.fromhex(h) for h in part["proof"]]
        assert list(merkle.inclusion_proof(index, size, read)) == proof
        assert merkle.verify_inclusion(HASHES[index], index, size, proof, merkle.root(size, read))
    for part in TREE["consistency"]:
        old, new = part["old"], part["new"]
        proof = [bytes.fromhex(h) for h in part["proof"]]
        assert list(merkle.consistency_proof(old, new, read)) == proof
        roots = merkle.root(old, read), merkle.root(new, read)
        assert merkle.verify_consistency(old, roots[0], new, roots[1], proof)
    content = {}
    for tile in tiles_between(0, len(LEAVES)):
        nodes = [read(8 * tile.level, index) for index in range(tile.first, tile.first + tile.width)]
        content[tile.path] = b"".join(nodes)
        if tile.level == 0:
            content[tile.entries_path] = encode_entries(LEAVES[tile.first : tile.first + tile.width])
    assert {path: sha256(data).hexdigest() for path, data in content.items()} == TREE["tiles"]


def test_python_signs_and_opens_the_checkpoints(tmp_path):
    """Ed25519 signs the same text the same way, so that notes are equal byte for byte."""
    keys = []
    for number, made in enumerate(PROOF["keys"]):
        path = tmp_path / str(number)
        generate_key(path, made["name"])
        path.write_text(made["private"] + "\n")
        keys.append(read_key(path))
        assert keys[-1].verifier == parse_verifier(made["verifier"])
        assert keys[-1].verifier.text == made["verifier"]
    verifiers = [key.verifier for key in keys]
    for vector in PROOF["checkpoints"]:
        checkpoint, by = open_checkpoint(vector["note"], verifiers)
        assert (checkpoint.size, checkpoint.root.hex(), checkpoint.text) == (
            vector["size"],
            vector["root"],
            vector["text"],
        )
        assert len(by) == vector["keys"]
        assert checkpoint.signed([key for key in keys if key.verifier in by]) == vector["note"]
        hashes = b"".join(bytes.fromhex(entry["hash"]) for entry in PROOF["journal"][: vector["size"]])
        assert merkle.root_of(hashes) == checkpoint.root


def test_python_makes_and_reads_the_anchors_objects():
    """Leaves and note, together the journal."""
    for vector in PROOF["objects"]:
        found = parse_object(vector["content"].encode(), "vector")
        leaves = [entry["leaf"].encode() for entry in PROOF["journal"][vector["first"] : vector["size"]]]
        assert found == AnchorObject(vector["first"], tuple(leaves), found.note)
        assert found.encode() == vector["content"].encode()
        assert found.checkpoint.size == vector["size"]


@pytest.fixture(scope="module")
def by_sql():
    """A connection in which the SQL beside the vectors ran, over the columns of the ledger and the lines of acts."""
    ledger = {
        "partition": "VARCHAR",
        "idx": "BIGINT",
        "kind": "VARCHAR",
        "run_id": "VARCHAR",
        "source_id": "VARCHAR",
        "source_seq": "BIGINT",
        "events": "BIGINT",
        "head": "VARCHAR",
        "received_us": "BIGINT",
        "record_offset": "BIGINT",
    }
    entries = [
        (number, it["kind"], it.get("at_us"), it.get("line")) for number, it in enumerate(PROOF["journal"])
    ]
    ranges = [
        (number, it["partition"], it["first"], it["count"])
        for number, entry in enumerate(PROOF["journal"])
        for it in entry.get("ranges", ())
    ]
    sizes = {int(size) for size in TREE["roots"]} | {it["size"] for it in TREE["inclusion"]}
    sample = [(f"sample {size}", node, f"leaf {node}") for size in sizes for node in range(size)]
    wanted = [(f"sample {it['size']}", it["index"]) for it in TREE["inclusion"]]
    wanted += [(f"journal {size}", node) for size in range(1, len(entries) + 1) for node in range(size)]
    with duckdb.connect() as connection:
        for name, columns, rows in (
            ("ledger", ledger, [[row[column] for column in ledger] for row in PROOF["ledger"]]),
            ("entries", {"idx": "BIGINT", "kind": "VARCHAR", "at_us": "BIGINT", "line": "VARCHAR"}, entries),
            (
                "ranges",
                {"entry": "BIGINT", "partition": "VARCHAR", "first_idx": "BIGINT", "row_count": "BIGINT"},
                ranges,
            ),
            ("sample", {"tree": "VARCHAR", "node": "BIGINT", "leaf": "VARCHAR"}, sample),
            ("wanted", {"tree": "VARCHAR", "node": "BIGINT"}, wanted),
        ):
            connection.execute(
                f"CREATE TABLE {name} ({', '.join(' '.join(pair) for pair in columns.items())})"
            )
            connection.executemany(f"INSERT INTO {name} VALUES ({', '.join('?' * len(columns))})", rows)
        connection.execute((VECTORS / "proof.sql").read_text(encoding="utf-8"))
        yield connection


def test_duckdb_alone_computes_the_ledgers_hashes_and_sealed_roots(by_sql):
    """From the columns of the ledger."""
    found = by_sql.execute("SELECT partition, idx, lower(hex(hash)) FROM hashes").fetchall()
    assert set(found) == {(row["partition"], row["idx"], row["hash"]) for row in PROOF["ledger"]}
    found = by_sql.execute("SELECT partition, first_idx, root, next_offset FROM sealed").fetchall()
    sealed = [r for entry in PROOF["journal"] for r in entry.get("ranges", ())]
    assert set(found) == {(r["partition"], r["first"], r["root"], r["next_offset"]) for r in sealed}


def test_duckdb_alone_computes_the_bytes_of_seals_and_acts(by_sql):
    """Leaf by leaf, a seal of several partitions and one of none among them."""
    found = by_sql.execute(
        "SELECT leaf, sha256('\\x00'::BLOB || encode(leaf)) FROM leaves ORDER BY idx"
    ).fetchall()
    assert found == [(entry["leaf"], entry["hash"]) for entry in PROOF["journal"]]


def test_duckdb_alone_computes_the_roots_that_are_signed(by_sql):
    """The journal's at each checkpoint, and those of the sample tree."""
    roots = dict(by_sql.execute("SELECT tree, root FROM roots").fetchall())
    assert len({it["size"] for it in PROOF["checkpoints"]}) == 3
    for checkpoint in PROOF["checkpoints"]:
        assert roots[f"journal {checkpoint['size']}"] == checkpoint["root"]
    for size, root in TREE["roots"].items():
        assert roots.get(f"sample {size}", sha256(b"").hexdigest()) == root


def test_duckdb_alone_proves_inclusion(by_sql):
    """The neighbours on the way up are the vectors' proofs; and by a leaf, its number, the size and these the root comes out."""
    found = by_sql.execute("SELECT tree, node, size, proof, root, used FROM inclusions").fetchall()
    roots = dict(by_sql.execute("SELECT tree, root FROM roots").fetchall())
    assert all((root, used) == (roots[tree], True) for tree, _, _, _, root, used in found)
    proofs = {(tree, node): (size, proof) for tree, node, size, proof, _, _ in found}
    for it in TREE["inclusion"]:
        assert proofs.pop((f"sample {it['size']}", it["index"])) == (it["size"], it["proof"])
    assert len(proofs) == 15


def test_a_go_program_agrees(go_proof):
    """Written from the format's page, with notes and proofs checked by golang.org/x/mod."""
    assert run(go_proof, "vectors", str(VECTORS / "proof.json")).endswith(", 0 differ\n")
