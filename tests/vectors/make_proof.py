r"""Makes proof.json: the bytes of the proof beyond events, with everything that is hashed and signed on the way.

Written from docs/proof-format.md alone, with hashlib, string formatting and an Ed25519 of somebody else; it must not
import the project, or the vectors would prove nothing. `python tests/vectors/make_proof.py` writes the file; a test says
when it is stale.
"""

import base64
import json
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FILE = Path(__file__).parent / "proof.json"
AT = 1_763_800_000_000_000
SOURCE = "5" * 32
OTHER_SOURCE = "a0" * 16


def t(text):
    return f"{len(text.encode())}:{text}"


def leaf_hash(leaf):
    return sha256(b"\x00" + leaf).digest()


def node_hash(left, right):
    return sha256(b"\x01" + left + right).digest()


def split(count):
    half = 1
    while 2 * half < count:
        half *= 2
    return half


def root(hashes):
    """RFC 6962, 2.1."""
    if not hashes:
        return sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    half = split(len(hashes))
    return node_hash(root(hashes[:half]), root(hashes[half:]))


def inclusion(index, hashes):
    """RFC 6962, 2.1.1."""
    if len(hashes) == 1:
        return []
    half = split(len(hashes))
    if index < half:
        return [*inclusion(index, hashes[:half]), root(hashes[half:])]
    return [*inclusion(index - half, hashes[half:]), root(hashes[:half])]


def consistency(old, hashes, whole=True):
    """RFC 6962, 2.1.2."""
    if old == len(hashes):
        return [] if whole else [root(hashes)]
    half = split(len(hashes))
    if old <= half:
        return [*consistency(old, hashes[:half], whole), root(hashes[half:])]
    return [*consistency(old - half, hashes[half:], False), root(hashes[:half])]


def ledger_row(  # noqa: PLR0917
    partition, idx, kind, run_id, source, seq, events, head, offset, received_us
):
    leaf = f"skillaudit {kind} 1\n{t(run_id)} {source} {seq} {events} {head or '-'} {offset} {received_us}\n"
    return {
        "partition": partition,
        "idx": idx,
        "kind": kind,
        "run_id": run_id,
        "source_id": source,
        "source_seq": seq,
        "events": events,
        "head": head,
        "record_offset": offset,
        "received_us": received_us,
        "leaf": leaf,
        "hash": leaf_hash(leaf.encode()).hex(),
    }


def head(number):
    return sha256(b"head %d" % number).hexdigest()


def ledger():
    topic, outbox = "skillaudit.events/3", f"outbox/{OTHER_SOURCE}"
    uuid = "0199f0a0-0000-7000-8000-000000000001"
    most = 9_223_372_036_854_775_807
    rows = [
        (topic, 0, "start", uuid, SOURCE, 1, 1, head(0), 0, AT),
        (topic, 1, "progress", uuid, SOURCE, 0, 4, head(1), 3, AT + 1),
        (topic, 2, "progress", "Lauf-Ünïcode-日本-🦆", SOURCE, 0, 2, head(2), 3, AT + 1),
        (topic, 3, "finish", uuid, SOURCE, 1, 5, head(3), 7, AT + 2_000_000),
        (topic, 4, "start", 'a "run"\nwith 5 0 - 1 2\n', SOURCE, 2, 1, head(4), 8, AT + 2_000_000),
        (topic, 5, "closed", 'a "run"\nwith 5 0 - 1 2\n', SOURCE, 0, 3, head(5), 12, AT + 3_000_000),
        (topic, 6, "closed", "", SOURCE, 0, 2, None, 12, AT + 3_000_000),
        (outbox, 0, "start", "r", OTHER_SOURCE, most, 1, head(6), 0, 0),
        (outbox, 1, "finish", "r", OTHER_SOURCE, most, most, head(7), most - 1, 0),
    ]
    return [ledger_row(*row) for row in rows]


def sealed_range(rows, partition, first, end):
    part = [row for row in rows if row["partition"] == partition and first <= row["idx"] < end]
    return {
        "partition": partition,
        "first": first,
        "count": len(part),
        "root": root([bytes.fromhex(row["hash"]) for row in part]).hex(),
        "next_offset": part[-1]["record_offset"] + 1,
    }


def seal(at_us, ranges):
    lines = [
        f"ledger {r['partition']} {r['first']} {r['count']} {r['root']} {r['next_offset']}\n" for r in ranges
    ]
    leaf = f"skillaudit seal 1\nat {at_us}\n{''.join(lines)}"
    return {"kind": "seal", "at_us": at_us, "ranges": ranges, "leaf": leaf}


def act(line):
    return {"kind": "act", "line": line, "leaf": f"skillaudit act 1\n{line}\n"}


def journal(rows):
    partitions = sorted({row["partition"] for row in rows})
    outbox, topic = partitions
    leaves = [
        act(
            '{"act_id":"a1","kind":"genesis","actor":"root","at":1763800000000000,"reason":"","scope":{},"policy":{},"positions":{}}'
        ),
        seal(AT + 60_000_000, [sealed_range(rows, topic, 0, 3)]),
        act('{ "kind":"purge", "reason":"\\u00fc and ü, verbatim" }'),
        seal(AT + 120_000_000, [sealed_range(rows, outbox, 0, 2), sealed_range(rows, topic, 3, 7)]),
        seal(AT + 3_720_000_000, []),
    ]
    for leaf in leaves:
        leaf["hash"] = leaf_hash(leaf["leaf"].encode()).hex()
    return leaves


def tree():
    """300 leaves "leaf 0", "leaf 1", ...: roots, proofs, and the digests of its tiles and bundles."""
    leaves = [b"leaf %d" % number for number in range(300)]
    hashes = [leaf_hash(leaf) for leaf in leaves]
    sizes = [0, 1, 2, 3, 4, 5, 7, 8, 255, 256, 257, 300]
    pairs = [(0, 1), (0, 2), (1, 2), (2, 3), (6, 7), (0, 300), (255, 256), (256, 257), (255, 300), (299, 300)]
    grown = [
        (1, 1),
        (1, 2),
        (2, 3),
        (3, 7),
        (4, 7),
        (6, 7),
        (7, 8),
        (8, 300),
        (255, 256),
        (256, 300),
        (257, 300),
    ]
    bundles = [leaves[:256], leaves[256:]]
    tiles = {
        "tile/0/000": b"".join(hashes[:256]),
        "tile/0/001.p/44": b"".join(hashes[256:]),
        "tile/1/000.p/1": root(hashes[:256]),
        "tile/entries/000": b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in bundles[0]),
        "tile/entries/001.p/44": b"".join(len(leaf).to_bytes(2, "big") + leaf for leaf in bundles[1]),
    }
    return {
        "leaf": "leaf <number>",
        "size": len(leaves),
        "roots": {str(size): root(hashes[:size]).hex() for size in sizes},
        "inclusion": [
            {"index": i, "size": n, "proof": [h.hex() for h in inclusion(i, hashes[:n])]} for i, n in pairs
        ],
        "consistency": [
            {"old": m, "new": n, "proof": [h.hex() for h in consistency(m, hashes[:n])]} for m, n in grown
        ],
        "tiles": {path: sha256(content).hexdigest() for path, content in tiles.items()},
    }


def _encoded(key_bytes):
    return base64.b64encode(b"\x01" + key_bytes).decode()


def key(name, seed):
    private = Ed25519PrivateKey.from_private_bytes(seed)
    public = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    key_id = sha256(name.encode() + b"\n\x01" + public).digest()[:4]
    return {
        "name": name,
        "private": f"PRIVATE+KEY+{name}+{key_id.hex()}+{_encoded(seed)}",
        "verifier": f"{name}+{key_id.hex()}+{_encoded(public)}",
    }


def note(text, keys):
    lines = []
    for made in keys:
        seed = base64.b64decode(made["private"].rpartition("+")[2])[1:]
        signature = Ed25519PrivateKey.from_private_bytes(seed).sign(text.encode())
        key_id = bytes.fromhex(made["verifier"].split("+")[1])
        lines.append(f"\N{EM DASH} {made['name']} {base64.b64encode(key_id + signature).decode()}\n")
    return f"{text}\n{''.join(lines)}"


def checkpoints(leaves):
    keys = [key("audit.example.org/fleet-1", bytes(range(32))), key("audit.example.org/fleet-1", bytes(32))]
    made = []
    for size, signers in ((2, keys[1:]), (4, keys), (5, keys[:1])):
        found = root([bytes.fromhex(leaf["hash"]) for leaf in leaves[:size]])
        text = f"audit.example.org/fleet-1\n{size}\n{base64.b64encode(found).decode()}\n"
        made.append(
            {
                "size": size,
                "root": found.hex(),
                "text": text,
                "note": note(text, signers),
                "keys": len(signers),
            }
        )
    return keys, made


def anchor_object(first, size, leaves, made):
    found = next(checkpoint for checkpoint in made if checkpoint["size"] == size)
    part = [leaf["leaf"] for leaf in leaves[first:size]]
    content = f"skillaudit anchor 1\nleaves {first} {len(part)}\n"
    content += "".join(f"{t(leaf)}\n" for leaf in part) + found["note"]
    return {"first": first, "size": size, "content": content}


def text():
    rows = ledger()
    leaves = journal(rows)
    keys, made = checkpoints(leaves)
    content = {
        "format": 1,
        "ledger": rows,
        "journal": leaves,
        "tree": tree(),
        "keys": keys,
        "checkpoints": made,
        "objects": [
            anchor_object(0, 2, leaves, made),
            anchor_object(2, 4, leaves, made),
            anchor_object(4, 5, leaves, made),
        ],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
