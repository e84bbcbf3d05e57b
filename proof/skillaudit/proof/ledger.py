"""Rows of the ledger, from one record alone.

The ledger is a pure function of a partition: each record, by its bytes and nothing else, gives rows or none, and they are
numbered in the order of the records. Not the consumer's clock, not what it remembers, not duplicates, conflicts or
purges, not what a later release learns to accept: so a rebuilt database has the same ledger, and has to meet the roots
that were sealed.

    start      a Writer's start: 1 event, the head through it computed from the record
    progress   a run that a heartbeat lists: its events and head so far
    finish     a Writer's finish: events and head as it says
    closed     a run that a `source.closed` lists; and after them one without a run, whose `events` are the runs that
               the source says it started in all

A bare Storage's records give none: there is nothing in them to prove.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final, NamedTuple

from skillaudit.contract.digests import START_FIELDS
from skillaudit.proof.grammar import Finish, Listing, Start, read

START: Final = "start"
PROGRESS: Final = "progress"
FINISH: Final = "finish"
CLOSED: Final = "closed"


class LedgerEntry(NamedTuple):
    """What a record says of a run, before it has its number."""

    kind: str
    run_id: str
    """Empty: the final count of a source."""
    source_id: str
    source_seq: int
    """0: the record does not say it."""
    events: int
    head: bytes | None
    """32 bytes; None of a final count."""


def rows_of(value: bytes | None) -> tuple[LedgerEntry, ...]:
    """The rows of one record's bytes, in order; none for a record that the frozen grammar refuses. Never raises."""
    reading = None if value is None else read(value)
    match reading:
        case Start():
            head = start_head(reading)
            return (LedgerEntry(START, reading.run_id, reading.source_id, reading.source_seq, 1, head),)
        case Finish(run_id, events, source_id, source_seq, head_hex):
            return (LedgerEntry(FINISH, run_id, source_id, source_seq, events, bytes.fromhex(head_hex)),)
        case Listing():
            return _listing_rows(reading)
        case None:
            return ()


_FIELDS: Final = tuple((b".%b\n" % n.encode(), b"\n%b\n" % n.encode(), n.encode()) for n in START_FIELDS)


def start_head(start: Start) -> bytes:
    """The head of a run of which there is only the start: SHA-256 of a manifest with that one event.

    What `contract.digests` says, written out for this one event: it is computed for every run, by the thread that
    writes. The golden vectors hold the two together.
    """
    stem = b"skillaudit salt 1\n%b\n0" % start.salt
    body: list[bytes] = []
    for (in_salt, in_digest, name), value in zip(_FIELDS, start.fields, strict=True):
        salt = sha256(stem + in_salt).hexdigest()[:32].encode()
        text = b"skillaudit field 1\n%b%b%d:%b" % (salt, in_digest, len(value), value)
        body.append(b"%b %b\n" % (name, sha256(text).hexdigest().encode()))
    salt = sha256(stem + b"\n").hexdigest()[:32].encode()
    digest = sha256(b"skillaudit event 1\n%b\n%b\n%b" % (salt, start.header, b"".join(body))).hexdigest()
    run_id = start.run_id.encode()
    line = b"%b %b\n" % (start.header, digest.encode())
    return sha256(b"skillaudit run 1\n%d:%b\n%b" % (len(run_id), run_id, line)).digest()


def _listing_rows(listing: Listing) -> tuple[LedgerEntry, ...]:
    kind = CLOSED if listing.closed else PROGRESS
    source_id = listing.source_id
    rows = tuple(
        LedgerEntry(kind, run.run_id, source_id, run.source_seq, run.events, bytes.fromhex(run.head))
        for run in listing.runs
    )
    if not listing.closed:
        return rows
    return (*rows, LedgerEntry(CLOSED, "", source_id, 0, listing.runs_started, None))
