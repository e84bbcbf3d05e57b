"""Long seals: one run is proven by its block of 64 rows, found by the hash of its id; whatever of that is altered, the run
is proven by all rows of the seal instead, and the check of everything names it.
"""

import contextlib
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import duckdb
import pytest
from tests.attacks.world import SIGNER, Collected, Store, Topic

from skillaudit.contract.records import SkillRun
from skillaudit.producer import Sink
from skillaudit.proof.merkle import BLOCK_LEAVES, HASH_BYTES
from skillaudit.proof.policy import Grade, Policy
from skillaudit.proof.verify import Depth, Memory, Verifier, VerifyRequest
from skillaudit.proof.verify.engine import VerifyStoppedError

RUNS = 500
WAIT_S = 30.0
OTHER_HASH = "UPDATE store.ledger SET run_hash = run_hash + 1 WHERE run_id = ? AND kind = ?"


@pytest.fixture(scope="module", name="original")
def recorded(tmp_path_factory):
    """One partition whose ledger has 1,000 rows and more, sealed at once."""
    path = tmp_path_factory.mktemp("blocks") / "audit.duckdb"
    topic, store, log = Topic(), Store(path), Collected("1" * 32)
    with contextlib.closing(Sink(log)) as sink, sink.start_run(SkillRun(skill_id="long", caller_id="u")):
        for number in range(RUNS):
            with sink.start_run(SkillRun(skill_id="s", caller_id="u")) as run:
                run.step(f"thought {number}")
    topic.ends = {"skillaudit.events/0": 0}
    store.take(topic, topic.append([(b"", value) for _, value in log.items]))
    store.seal()
    store.close()
    return path


class Watched:
    """A cursor that remembers how many rows of the ledger each statement asked for, and so do those beside it."""

    def __init__(self, cursor, of=None):
        self._cursor = cursor
        self.spans: list[int] = of.spans if of else []
        self.made: list[object] = of.made if of else []

    @property
    def statements(self):
        return len(self.made)

    def cursor(self):
        return Watched(self._cursor.cursor(), self)

    def __getattr__(self, name):
        return getattr(self._cursor, name)

    def execute(self, statement, parameters=None):
        if parameters and {"partition", "first", "end"} <= parameters.keys():
            blocks = parameters.get("blocks")
            self.spans.append(
                BLOCK_LEAVES * len(blocks) if blocks else parameters["end"] - parameters["first"]
            )
        self.made.append(statement)
        return self._cursor.execute(statement, parameters)


class Opened:
    """A copy of the file in anybody's hands."""

    def __init__(self, original: Path, path: Path) -> None:
        shutil.copy(original, path)
        self.connection = duckdb.connect(str(path))
        self.spans: list[int] = []

    def sql(self, text, *parameters):
        return self.connection.execute(text, list(parameters)).fetchall()

    def run_id(self, number):
        return self.sql("SELECT id FROM runs ORDER BY run_key LIMIT 1 OFFSET ?", number)[0][0]

    def verify(self, **options):
        """`spans`: how many rows of the ledger were hashed at once."""
        with contextlib.closing(Watched(self.connection.cursor())) as cursor:
            report = Verifier(cursor).check(VerifyRequest(**options), time.time_ns() // 1000)
            self.spans = cursor.spans
            return report


@pytest.fixture
def opened(original, tmp_path):
    found = Opened(original, tmp_path / "audit.duckdb")
    yield found
    found.connection.close()


def nodes(opened):
    """(number of blocks, where they begin)."""
    return [
        (len(hashes) // HASH_BYTES, first)
        for first, hashes in opened.sql("SELECT first_row, hashes FROM ledger_nodes")
    ]


def test_a_run_is_proven_by_its_block(opened):
    """First, last and any run: 64 rows are hashed, not the whole seal's."""
    rows = opened.sql("SELECT count(*) FROM ledger")[0][0]
    assert rows > 2 * RUNS
    assert nodes(opened) == [(-(-rows // BLOCK_LEAVES), 0)]
    for number in (0, 200, RUNS - 1):
        report = opened.verify(run_id=opened.run_id(number))
        assert (report.exit_code, report.run["integrity"]) == (0, "verified")
        assert 0 < sum(opened.spans) <= 2 * BLOCK_LEAVES


def test_a_long_run_is_proven_by_the_blocks_of_its_ends(opened):
    """What lies between them is not read."""
    assert opened.sql("SELECT max(idx) - min(idx) > 900 FROM ledger WHERE run_id = ?", opened.run_id(0))[0][0]
    assert opened.verify(run_id=opened.run_id(0)).exit_code == 0
    assert opened.spans == [2 * BLOCK_LEAVES]


def test_a_run_at_the_edge_of_a_block_is_proven_by_both(opened):
    """Its start is the last row of one block, its finish the first of the next."""
    edge = "SELECT run_id FROM ledger WHERE idx IN (63, 64) GROUP BY run_id HAVING count(*) = 2"
    report = opened.verify(run_id=opened.sql(edge)[0][0])
    assert (report.exit_code, opened.spans) == (0, [2 * BLOCK_LEAVES])


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE store.ledger_nodes SET hashes = unhex(repeat('00', octet_length(hashes)))",
        "UPDATE store.ledger_nodes SET hashes = hashes[1:33]",
        "UPDATE store.ledger_nodes SET first_row = 1",
        "UPDATE store.ledger_nodes SET partition = 'skillaudit.events/1'",
        "INSERT INTO store.ledger_nodes SELECT partition, first_row, hashes || hashes FROM store.ledger_nodes",
    ],
)
def test_altered_hashes_of_blocks_prove_nothing_and_are_named(opened, change):
    """The run is proven by all rows of its seal; the check of everything says what was altered."""
    opened.sql(change)
    assert opened.verify(run_id=opened.run_id(3)).exit_code == 0
    assert max(opened.spans) > BLOCK_LEAVES
    report = opened.verify(depth=Depth.QUICK)
    assert (report.exit_code, set(report.counts) & {"LEDGER_ALTERED"}) == (5, {"LEDGER_ALTERED"})


def test_without_the_hashes_of_blocks_everything_is_proven_as_before(opened):
    """Seals of earlier releases have none, and a database made again does not either."""
    opened.sql("DELETE FROM store.ledger_nodes")
    assert opened.verify(run_id=opened.run_id(3)).exit_code == 0
    assert opened.verify(depth=Depth.QUICK).exit_code == 0


def test_an_altered_row_of_the_runs_block_is_named(opened):
    """Whichever row it is: the block is not what was sealed."""
    run_id = opened.run_id(3)
    opened.sql("UPDATE store.ledger SET received_us = received_us + 1 WHERE idx = 40")
    report = opened.verify(run_id=run_id)
    assert (report.exit_code, set(report.counts)) == (5, {"LEDGER_ALTERED"})


@pytest.mark.parametrize("kind", ["start", "finish"])
def test_a_row_filed_elsewhere_is_found_all_the_same(opened, kind):
    """The run is looked for by its id where the hash does not give both its ends; the row is named by the check of all."""
    run_id = opened.run_id(3)
    opened.sql(OTHER_HASH, run_id, kind)
    assert opened.verify(run_id=run_id).exit_code == 0
    report = opened.verify(depth=Depth.QUICK)
    assert (report.exit_code, set(report.counts)) == (5, {"LEDGER_ALTERED"})


def test_a_cut_run_whose_finish_is_filed_elsewhere_is_cut(opened):
    """Hiding the ledger's word of the end hides nothing."""
    run_id = opened.run_id(3)
    opened.sql(OTHER_HASH, run_id, "finish")
    opened.sql(
        "UPDATE store.runs SET finish_seq = NULL, finish_tag = NULL, finished_at = NULL, status = 'running', liveness = 'open',"
        " completeness = 'pending', head = NULL WHERE id = ?",
        run_id,
    )
    assert opened.verify(run_id=run_id).exit_code == 5


def test_a_kept_verifier_sees_what_is_signed_later(original, tmp_path):
    """A journal that has not grown is not read again; a checkpoint of it that comes later counts all the same."""
    path = tmp_path / "audit.duckdb"
    shutil.copy(original, path)
    with contextlib.closing(duckdb.connect(str(path))) as connection:
        note = connection.execute("SELECT note FROM checkpoints").fetchall()
        connection.execute("CREATE TEMP TABLE kept_back AS SELECT * FROM store.checkpoints")
        connection.execute("DELETE FROM store.checkpoints")
        run_id = connection.execute("SELECT id FROM runs ORDER BY run_key LIMIT 1 OFFSET 9").fetchone()[0]
        request = VerifyRequest(
            run_id=run_id, policy=Policy(grade=Grade.SIGNED, keys=(SIGNER.verifier.text,))
        )
        verifier = Verifier(connection)
        assert verifier.check(request, time.time_ns() // 1000).grade == "self"
        connection.execute("INSERT INTO store.checkpoints SELECT * FROM kept_back")
        assert len(note) == 1
        for _ in range(2):
            report = verifier.check(request, time.time_ns() // 1000)
            assert (report.exit_code, report.grade) == (0, "signed")


@pytest.fixture
def kept(opened):
    """A verifier that has checked a run of the same seal; `kept(number)` checks another: its report, and how many statements that took."""
    cursor = Watched(opened.connection.cursor())
    verifier = Verifier(cursor)

    def check(number):
        before = cursor.statements
        report = verifier.check(VerifyRequest(run_id=opened.run_id(number)), time.time_ns() // 1000)
        return report, cursor.statements - before

    first, _ = check(7)
    assert first.exit_code == 0
    yield check
    cursor.close()


def test_a_kept_verifier_reads_no_seal_twice(kept):
    """Its row, its events, sealed or not, where the ledger has it and its blocks, and the journal's size."""
    for number in (0, 3, 200, RUNS - 1):
        report, statements = kept(number)
        assert (report.exit_code, report.run["integrity"]) == (0, "verified")
        assert [it["kind"] for it in report.run["sealed"]] == ["start", "finish"]
        assert statements == 6


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE store.ledger SET received_us = received_us + 1 WHERE idx = 40",
        "UPDATE store.ledger SET head = sha256('x')::BLOB WHERE idx = 41",
        "DELETE FROM store.ledger WHERE idx = 40",
        "INSERT INTO store.ledger SELECT * FROM store.ledger WHERE idx = 40",
    ],
)
def test_a_kept_verifier_names_what_was_altered_since(opened, kept, change):
    """Only seals are remembered, and the hashes under them: rows never are."""
    number = opened.sql("SELECT run_key FROM runs WHERE id = (SELECT run_id FROM ledger WHERE idx = 39)")[0][
        0
    ]
    place = opened.sql("SELECT count(*) FROM runs WHERE run_key < ?", number)[0][0]
    assert kept(place)[0].exit_code == 0
    opened.sql(change)
    report, _ = kept(place)
    assert (report.exit_code, set(report.counts) & {"LEDGER_ALTERED"}) == (5, {"LEDGER_ALTERED"})


def test_a_kept_verifier_takes_no_other_runs_rows(opened, kept):
    """Ids whose hashes begin alike: a row counts for the run that it names."""
    mine, other = opened.run_id(3), opened.run_id(9)
    opened.sql(
        "UPDATE store.ledger SET run_hash = (SELECT any_value(run_hash) FROM store.ledger WHERE run_id = ?) WHERE run_id = ?",
        mine,
        other,
    )
    for number in (3, 9):
        assert kept(number)[0].exit_code == 0


def test_a_kept_verifier_finds_a_row_filed_elsewhere(opened, kept):
    """As one that knows nothing yet."""
    opened.sql(OTHER_HASH, opened.run_id(3), "finish")
    assert kept(3)[0].exit_code == 0


class Endless:
    """A cursor beside which another is asked something that only an interrupt ends."""

    def __init__(self, cursor, asked=None):
        self._cursor = cursor
        self.asked = asked or threading.Event()
        self._endless = asked is not None

    def cursor(self):
        return Endless(self._cursor.cursor(), self.asked)

    def __getattr__(self, name):
        return getattr(self._cursor, name)

    def execute(self, statement, parameters=None):
        if self._endless:
            self.asked.set()
            statement, parameters = "SELECT count(*) FROM range(1_000_000_000_000) WHERE random() < 0", None
        return self._cursor.execute(statement, parameters)


def test_stop_ends_what_is_asked_beside(opened):
    """Whoever asked has its answer at once, and the thread beside is free for the next check."""
    memory, request = Memory(), VerifyRequest(run_id=opened.run_id(7))
    with contextlib.closing(opened.connection.cursor()) as cursor:
        assert Verifier(cursor, memory=memory).check(request, time.time_ns() // 1000).exit_code == 0
        endless = Endless(cursor)
        verifier = Verifier(endless, memory=memory)
        with ThreadPoolExecutor(1) as pool:
            check = pool.submit(verifier.check, request, time.time_ns() // 1000)
            assert endless.asked.wait(WAIT_S)
            while not check.done():
                verifier.stop()
                wait([check], 0.01)
            with pytest.raises(VerifyStoppedError):
                check.result()
        assert Verifier(cursor, memory=memory).check(request, time.time_ns() // 1000).exit_code == 0
