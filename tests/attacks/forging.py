"""What a thorough attacker recomputes after a change: tags, heads, ledger rows, seals, checkpoints. He has the key."""

from typing import Any

from tests.attacks.world import SIGNER, Tampered

from skillaudit.contract.digests import (
    FINISH_FIELDS,
    START_FIELDS,
    RunDigest,
    fields_body,
    finish_header,
    log_header,
    start_header,
)
from skillaudit.proof import leaves, merkle
from skillaudit.proof.checkpoint import Checkpoint

RUN = """
    SELECT id, lower(hex(salt)) AS salt, epoch_us(started_at) AS started_us, parent_run_id, skill_id, source_id, source_seq,
        caller_id, channel_id, inputs, attributes, finish_seq, epoch_us(finished_at) AS finished_us, status,
        tool_calls_count, runtime_us, total_input_tokens, total_output_tokens, total_thinking_tokens, lost, output, error
    FROM store.runs WHERE run_key = ?
"""


def _row(t: Tampered, text: str, *parameters: Any) -> dict[str, Any]:
    found = t.connection.execute(text, list(parameters))
    names = [column[0] for column in found.description]
    return dict(zip(names, found.fetchone(), strict=True))


def forge_run(t: Tampered, run_key: int) -> dict[int, bytes]:
    """Recompute all tags and the head of a run from what is stored now; number of events -> head."""
    row = _row(t, RUN, run_key)
    salt, digest, heads = row["salt"], RunDigest(row["id"], row["salt"]), {}

    def add(seq: int, header: bytes, body: bytes) -> int:
        found = digest.digest(seq, header, body)
        digest.add(header, found)
        heads[digest.events] = bytes.fromhex(digest.head())
        return int(found[:16], 16)

    def fields(seq: int, fields_of: tuple[str, ...]) -> bytes:
        return fields_body(salt, seq, [(name, row[name].encode()) for name in fields_of])

    header = start_header(
        row["started_us"], row["parent_run_id"], row["skill_id"], row["source_id"], row["source_seq"]
    )
    t.sql(
        "UPDATE store.runs SET start_tag = ? WHERE run_key = ?",
        add(0, header, fields(0, START_FIELDS)),
        run_key,
    )
    rows = t.sql(
        "SELECT sequence, epoch_us(created_at), event_type, payload FROM events WHERE run_key = ? ORDER BY 1",
        run_key,
    )
    for seq, at_us, event_type, payload in rows:
        tag = add(seq, log_header(seq, at_us, event_type), payload.encode())
        t.events("UPDATE {events} SET tag = ? WHERE run_key = ? AND sequence = ?", tag, run_key, seq)
    if row["finish_seq"] is not None:
        seq = row["finish_seq"]
        header = finish_header(
            seq, row["finished_us"], row["status"], row["tool_calls_count"], row["runtime_us"],
            row["total_input_tokens"], row["total_output_tokens"], row["total_thinking_tokens"], row["lost"],
        )  # fmt: skip
        tag = add(seq, header, fields(seq, FINISH_FIELDS))
        t.sql(
            "UPDATE store.runs SET finish_tag = ?, head = ? WHERE run_key = ?",
            tag,
            heads[digest.events],
            run_key,
        )
    return heads


def forge_ledger(t: Tampered, run_id: str, heads: dict[int, bytes]) -> None:
    """Put the recomputed heads into the ledger."""
    for events, head in heads.items():
        t.sql("UPDATE store.ledger SET head = ? WHERE run_id = ? AND events = ?", head, run_id, events)


def renumber_ledger(t: Tampered) -> None:
    """Close the gaps that deleted rows left, and move the positions along."""
    t.sql(
        "CREATE OR REPLACE TEMP TABLE numbered AS SELECT partition, idx,"
        " row_number() OVER (PARTITION BY partition ORDER BY idx) - 1 AS place FROM store.ledger"
    )
    t.sql(
        "UPDATE store.ledger AS l SET idx = n.place FROM numbered AS n WHERE l.partition = n.partition AND l.idx = n.idx"
    )
    t.sql(
        "UPDATE store.positions AS p SET ledger_next ="
        " (SELECT count(*) FROM store.ledger AS l WHERE l.partition = p.partition)"
    )


def forge_seals(t: Tampered, *, shrink: bool = False) -> None:
    """Seal the ledger as it is now under the old times. `shrink`: ranges that end past the ledger's rows get shorter."""
    ends = dict(t.sql("SELECT partition, max(idx) + 1 FROM store.ledger GROUP BY partition"))
    reached: dict[str, int] = {}
    for idx, leaf in t.sql("SELECT idx, leaf FROM store.journal WHERE kind = 'seal' ORDER BY idx"):
        seal = leaves.parse_seal(bytes(leaf))
        ranges = []
        for part in seal.ranges:
            first = reached.get(part.partition, 0)
            end = min(part.end, ends.get(part.partition, 0)) if shrink else part.end
            reached[part.partition] = end
            if end > first:
                root = merkle.root_of(
                    b"".join(map(merkle.leaf_hash, ledger_leaves(t, part.partition, first, end)))
                )
                ranges.append(leaves.SealedRange(part.partition, first, end - first, root, part.next_offset))
        t.sql(
            "UPDATE store.journal SET leaf = ? WHERE idx = ?",
            leaves.SealLeaf(seal.at_us, tuple(ranges)).encode(),
            idx,
        )


def ledger_leaves(t: Tampered, partition: str, first: int, end: int) -> list[bytes]:
    rows = t.sql(
        "SELECT kind, run_id, source_id, source_seq, events, head, record_offset, received_us FROM store.ledger"
        " WHERE partition = ? AND idx >= ? AND idx < ? ORDER BY idx",
        partition, first, end,
    )  # fmt: skip
    names = ("kind", "run_id", "source_id", "source_seq", "events", "head", "offset", "received_us")
    return [leaves.LedgerLeaf(**dict(zip(names, row, strict=True))).encode() for row in rows]


def forge_checkpoints(t: Tampered) -> None:
    """Sign the journal as it is now, at every size."""
    hashes = [
        merkle.leaf_hash(bytes(leaf)) for (leaf,) in t.sql("SELECT leaf FROM store.journal ORDER BY idx")
    ]
    t.sql("DELETE FROM store.checkpoints WHERE size > ?", len(hashes))
    for (size,) in t.sql("SELECT size FROM store.checkpoints ORDER BY size"):
        root = merkle.root_of(b"".join(hashes[:size]))
        note = Checkpoint(SIGNER.verifier.name, size, root).signed([SIGNER])
        t.sql("UPDATE store.checkpoints SET note = ? WHERE size = ?", note, size)
