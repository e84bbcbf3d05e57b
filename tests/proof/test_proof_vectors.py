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


def test_duckdb_alone_computes_leaf_hashes_and_sealed_roots():
    """The SQL beside the vectors, from the columns of the ledger."""
    columns = {
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
    sealed = [r for entry in PROOF["journal"] for r in entry.get("ranges", ())]
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE ledger ({', '.join(' '.join(pair) for pair in columns.items())})")
        connection.executemany(
            f"INSERT INTO ledger VALUES ({', '.join('?' for _ in columns)})",
            [[row[name] for name in columns] for row in PROOF["ledger"]],
        )
        connection.execute("CREATE TABLE ranges (partition VARCHAR, first_idx BIGINT, row_count BIGINT)")
        connection.executemany(
            "INSERT INTO ranges VALUES (?, ?, ?)", [[r["partition"], r["first"], r["count"]] for r in sealed]
        )
        found = connection.execute((VECTORS / "proof.sql").read_text(encoding="utf-8")).fetchall()
    hashes = {(p, first + node): h for p, first, level, node, h, _ in found if level == 0}
    assert hashes == {(row["partition"], row["idx"]): row["hash"] for row in PROOF["ledger"]}
    roots = {(p, first): h for p, first, _, _, h, is_root in found if is_root}
    assert roots == {(r["partition"], r["first"]): r["root"] for r in sealed}


def test_a_go_program_agrees(go_proof):
    """Written from the format's page, with notes and proofs checked by golang.org/x/mod."""
    assert run(go_proof, "vectors", str(VECTORS / "proof.json")).endswith(", 0 differ\n")
