"""A database with a ledger, keys, and the small faults that tests put behind the interfaces."""

import contextlib
import itertools
from hashlib import sha256

import duckdb

from skillaudit.consumer.database import open_database
from skillaudit.consumer.statements import migrations
from skillaudit.contract.views import views_text
from skillaudit.proof.anchors.base import AnchorTrust
from skillaudit.proof.keys import Signer, generate_key
from skillaudit.proof.leaves import LedgerLeaf

NAME = "audit.example.org/fleet-1"
NOW_US = 1_763_800_000_000_000
MINUTE_US = 60_000_000


def signer(name=NAME, seed=1):
    return Signer(name, bytes([seed]) * 32)


def sealing(directory, name=NAME):
    """Members of the settings of a consumer that seals every second, signs with a key and tells an anchor, both in there."""
    generate_key(directory / "key", name)
    return {
        "seal_key_file": directory / "key",
        "seal_interval_ms": 1_000,
        "anchors": f"file:{directory / 'anchor'}",
    }


class MemoryDatabase:
    """What `open_database` makes, without a disk."""

    def __init__(self):
        self._connection = duckdb.connect()
        self._connection.execute(
            "CREATE SCHEMA store; CREATE TABLE store.meta (name VARCHAR PRIMARY KEY, value VARCHAR)"
        )
        for _, _, text in migrations():
            self._connection.execute(text)
        self._connection.execute(views_text())

    def cursor(self):
        return self._connection.cursor()

    def close(self):
        self._connection.close()


class LedgerDatabase:
    """`ProofDatabase` with the consumer's schema, over a real file or, where a test needs no file, in memory."""

    def __init__(self, path=None):
        self.database = open_database(path) if path else MemoryDatabase()

    def cursor(self):
        return self.database.cursor()

    @contextlib.contextmanager
    def transaction(self, doing):
        with contextlib.closing(self.cursor()) as cursor:
            cursor.execute("BEGIN")
            try:
                yield cursor
                cursor.execute("COMMIT")
            except BaseException:
                cursor.execute("ROLLBACK")
                raise

    def close(self):
        self.database.close()

    def read(self, sql, parameters=None):
        with contextlib.closing(self.cursor()) as cursor:
            return cursor.execute(sql, parameters).fetchall()

    def add_rows(self, partition, count, *, per_record=1):
        """Append rows to a partition's ledger, several per record where asked, and move its position."""
        known = self.read(
            "SELECT ledger_next, next_offset FROM store.positions WHERE partition = ?", [partition]
        )
        first, offset = known[0] if known else (0, 0)
        rows = [row_of(partition, first + n, offset + n // per_record) for n in range(count)]
        with self.transaction("add rows") as cursor:
            cursor.executemany("INSERT INTO store.ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)", rows)
            cursor.execute("DELETE FROM store.positions WHERE partition = ?", [partition])
            cursor.execute(
                "INSERT INTO store.positions (partition, cluster, next_offset, last_offset, last_digest, records, "
                "received_us, read_to_us, end_offset, ledger_next) VALUES (?, '', ?, 0, '', 0, 0, 0, 0, ?)",
                [partition, rows[-1][-1] + 1, first + count],
            )

    def ledger_leaves(self):
        """The ledger's leaves by the product's encoder, row by row, of each partition."""
        rows = self.read(
            "SELECT partition, kind, run_id, source_id, source_seq, events, head, received_us, record_offset"
            " FROM store.ledger ORDER BY partition, idx"
        )
        names = ("kind", "run_id", "source_id", "source_seq", "events", "head", "received_us", "offset")
        found = {}
        for partition, *values in rows:
            leaf = LedgerLeaf(**dict(zip(names, values, strict=True))).encode()
            found.setdefault(partition, []).append(leaf)
        return found


def row_of(partition, index, offset):
    kind = ("start", "progress", "finish", "closed")[index % 4]
    head = None if index % 8 == 7 else sha256(f"{partition} {index}".encode()).digest()
    run_id = "" if head is None else f"run-{index}-ü"
    return (partition, index, kind, run_id, "5" * 32, index, 3 * index, head, NOW_US + index, offset)


class MemoryState:
    """`CheckpointState` in memory; outlives the sealer like the file does."""

    def __init__(self):
        self.note = None

    def read(self):
        return self.note

    def write(self, note):
        self.note = note


class MemoryCuts:
    """`CutState` in memory; outlives database and sealer like the file does."""

    def __init__(self):
        self.cuts = {}

    def read(self):
        return self.cuts

    def write(self, cuts):
        self.cuts = dict(cuts)


class Crash(BaseException):
    """The process ends here."""


class Countdown:
    """Ends the process at the given one of the points it is asked at."""

    def __init__(self, at):
        self.left = at

    def point(self):
        self.left -= 1
        if self.left < 0:
            raise Crash


class CrashingDatabase:
    """`ProofDatabase` that ends the process before or after a commit."""

    def __init__(self, inner, countdown):
        self.inner, self.countdown = inner, countdown

    def cursor(self):
        return self.inner.cursor()

    @contextlib.contextmanager
    def transaction(self, doing):
        with self.inner.transaction(doing) as cursor:
            yield cursor
            self.countdown.point()
        self.countdown.point()


class CrashingState:
    """`CheckpointState` that ends the process before or after it has written."""

    def __init__(self, inner, countdown):
        self.inner, self.countdown = inner, countdown

    def read(self):
        return self.inner.read()

    def write(self, note):
        self.countdown.point()
        self.inner.write(note)
        self.countdown.point()


class WrappedAnchor:
    """An anchor around another; what a subclass changes is the fault."""

    trust = AnchorTrust.HOST

    def __init__(self, inner):
        self.inner = inner
        self.uri = inner.uri

    def publish(self, objects):
        return self.inner.publish(objects)

    def newest(self):
        return self.inner.newest()

    def objects(self, after=0):
        return self.inner.objects(after)

    def at(self, size):
        return self.inner.at(size)

    def close(self):
        self.inner.close()


def naive_root(leaves):
    """RFC 6962, 2.1, as it stands there."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return sha256(b"\x00" + leaves[0]).digest()
    half = split(len(leaves))
    return sha256(b"\x01" + naive_root(leaves[:half]) + naive_root(leaves[half:])).digest()


def naive_inclusion(index, leaves):
    """RFC 6962, 2.1.1."""
    if len(leaves) == 1:
        return []
    half = split(len(leaves))
    if index < half:
        return [*naive_inclusion(index, leaves[:half]), naive_root(leaves[half:])]
    return [*naive_inclusion(index - half, leaves[half:]), naive_root(leaves[:half])]


def naive_consistency(old, leaves, whole=True):
    """RFC 6962, 2.1.2."""
    if old == len(leaves):
        return [] if whole else [naive_root(leaves)]
    half = split(len(leaves))
    if old <= half:
        return [*naive_consistency(old, leaves[:half], whole), naive_root(leaves[half:])]
    return [*naive_consistency(old - half, leaves[half:], False), naive_root(leaves[:half])]


def split(count):
    return next(1 << k for k in itertools.count() if 1 << k < count <= 2 << k)
