"""Mutation fuzz: one stored value is changed by as little as there is, and verify must not answer 0.

    python -m tests.attacks.fuzz [--flips 5000] [--seed 1] [--workers 2]

The record is copied into memory; a flip is one UPDATE of one column of one row, undone afterwards by another. Every column
of every table of the proof is either fuzzed or named in `UNCOVERED` with the reason; a test holds the two lists against
the schema. What is checked is `verify --all` stage by stage (its findings are the union of its stages', so the first
stage that finds something is enough), and `verify RUN` for a run whose own rows were changed, or the ledger's of it: by
a verifier that knows nothing yet, and by one that is kept, as a server's is, from the first flip to the last.
"""

import argparse
import contextlib
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import duckdb
from tests.attacks.world import SIGNER, TOPIC, Collected, Store, Topic, build

from skillaudit.consumer.planning import plan_erase, plan_hold, plan_purge_of, plan_redact, plan_release
from skillaudit.consumer.recording import perform
from skillaudit.contract.admin import ActOrder, HoldScope
from skillaudit.contract.records import SkillRun
from skillaudit.producer import Sink
from skillaudit.proof.findings import Findings
from skillaudit.proof.merkle import BLOCK_LEAVES
from skillaudit.proof.policy import Grade, Policy
from skillaudit.proof.tiles import TILE_WIDTH
from skillaudit.proof.verify import Memory, Verifier, VerifyRequest
from skillaudit.proof.verify.acts import check_acts
from skillaudit.proof.verify.engine import Engine, told_where_not
from skillaudit.proof.verify.journal import check_journal
from skillaudit.proof.verify.ledger import check_ledger
from skillaudit.proof.verify.runs import RunsCheck, RunTotals
from skillaudit.proof.verify.sources import check_sources
from skillaudit.proof.verify.witness import read_anchors

HOUR_US = 3_600_000_000
EVENT_COLUMNS = ("run_key", "sequence", "event_type", "created_at", "tag", "payload")
COVERED: dict[str, tuple[str, ...]] = {
    "events_hot_a": EVENT_COLUMNS,
    "events_sealed": EVENT_COLUMNS,
    "runs": (
        "run_key", "run_hash", "id", "topic", "skill_id", "caller_id", "channel_id", "inputs", "started_at", "finished_at",
        "status", "output", "error", "tool_calls_count", "runtime_us", "parent_run_id", "total_input_tokens",
        "total_output_tokens", "total_thinking_tokens", "attributes", "source_id", "source_seq", "events_expected",
        "events_stored", "completeness", "liveness", "missing", "lost", "conflicts", "last_event_at", "received_at",
        "by_storage", "salt", "start_tag", "finish_seq", "finish_tag", "head", "partition", "record_offset",
    ),
    "ledger": (
        "partition", "idx", "kind", "run_id", "source_id", "source_seq", "events", "head", "received_us", "record_offset",
        "run_hash",
    ),
    "positions": ("ledger_next",),
    "journal": ("idx", "kind", "leaf"),
    "checkpoints": ("size", "note"),
    "acts": ("act_id", "kind", "act", "journal_idx"),
    "redactions": ("run_key", "seq", "field", "digest", "act_id"),
    "run_salts": ("run_key", "seq", "field", "salt"),
    "holds": ("act_id", "scope", "placed_us", "released_by"),
    "tombstones": ("run_hash", "id", "topic", "source_id", "source_seq", "purge_id", "violates", "orphan"),
    "purges": ("id", "act_id"),
    "sources": ("source_id", "runs_started", "claimed"),
}  # fmt: skip
LONG: dict[str, tuple[str, ...]] = {
    "events_hot_b": EVENT_COLUMNS,
    "journal_nodes": ("level", "idx", "hashes"),
    "ledger_nodes": ("partition", "first_row", "hashes"),
}
"""What only a longer record has: its journal has a complete tile, its first seal has more than one block."""
LONG_ONE_IN = 20
"""Flips of the longer record."""
PORTION_FLIPS = 100
"""Done one after the other by one worker; then it is told how far it is."""
ASKED_WHOLE_ONE_IN = 20
"""Flips after which the whole `verify --all` is asked, too, besides its stages."""
ELSEWHERE: dict[str, str] = {
    "ledger_cuts": "nothing is cut of these records; tests/proof/test_cuts.py moves one",
}
"""Covered by a proof, and not fuzzed here."""
UNCOVERED: dict[str, str] = {
    "orphans": "runs without a start have no salt: nothing of them can be checked",
    "kept": "records kept aside; their numbers and tags stand in the run's head",
    "calls": "of bare Storages: unproven",
    "conflicts": "records that the run does not hold; that there are some is in the run's row, and in the ledger",
    "dead_letters": "records that are no events",
    "incidents": "for people",
    "meta": "the schema's version and the database's id",
    "ledger_from": "where an earlier release ended: moving it makes runs unproven, never proven",
    "pending_acts": "what is still to be done",
    "redacted_runs": "what is still to be done",
    "runs.clock": "the name of the clock, in no digest",
    "runs.known": "a cache of the ledger's listings",
    "runs.refused": "a cache",
    "runs.received": "a cache of the events' numbers",
    "runs.first_offset": "where acts find it that came before its start",
    "runs.first_us": "how old it counted as before its start came",
    "positions.*": "how far Kafka was read: read again and compared at the next start",
    "journal.at_us": "for lists; the leaf has the time",
    "checkpoints.signed_us": "for lists",
    "checkpoints.published": "for people; the anchors are asked themselves",
    "acts.control_partition": "where the control log holds it",
    "acts.control_offset": "where the control log holds it",
    "acts.applied_us": "for lists",
    "tombstones.*": "what the run was when it was purged: its content is gone",
    "purges.*": "counts, for lists; the act says the rest",
    "sources.*": "what a source said of itself beside its counts",
}
"""Not covered by any proof; `proof.verify.explain` tells the same to people."""

REWRITTEN = ("positions", "sources")
"""Tables with a key: an update moves their rows, so they are put back whole."""


@dataclass
class Outcome:
    """What one worker did."""

    flips: int = 0
    skipped: int = 0
    """Columns whose value could not be changed by the drawn mutation."""
    by_column: Counter[str] = field(default_factory=Counter)
    passed: list[str] = field(default_factory=list)
    """Flips that verify answered 0 to: must be empty."""


@dataclass(frozen=True)
class Record:
    """A proven database, and what is flipped in it."""

    path: Path
    policy: Policy
    covered: dict[str, tuple[str, ...]]


def make_record(directory: Path) -> Record:
    """The fleet's record with a purge, a redaction, an erasure, and a hold placed and released."""
    world = build(directory)
    store = Store(world.path)
    with contextlib.closing(store.cursor()) as cursor:
        store.state.note = cursor.execute(
            "SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1"
        ).fetchone()[0]
        ids = [row[0] for row in cursor.execute("SELECT id FROM runs ORDER BY run_key").fetchall()]
    order = ActOrder(actor="dpo", reason="asked for")
    try:
        held = perform(store.materializer, plan_hold(order, HoldScope(runs=(ids[9],)))).acts[0]
        perform(store.materializer, plan_hold(order, HoldScope(skill_id="skill-9")))
        for plan in (
            plan_release(order, held),
            plan_redact(order, ids[12], 3, None),
            plan_redact(order, ids[13], 0, "inputs"),
            plan_erase(order, [ids[20]]),
            plan_purge_of(order, [ids[6], ids[9]]),
        ):
            perform(store.materializer, plan)
        store.seal(f"file:{world.anchor}")
    finally:
        store.close()
    return Record(world.path, world.policy, COVERED)


def make_long_record(directory: Path) -> Record:
    """One partition, so many runs that its seal has two blocks, so many seals that the journal has a complete tile."""
    directory.mkdir(parents=True)
    topic, store, log = Topic(), Store(directory / "audit.duckdb"), Collected("1" * 32)
    topic.ends = {f"{TOPIC}/0": 0}
    try:
        with contextlib.closing(Sink(log)) as sink:
            for number in range(BLOCK_LEAVES // 2 + 1):
                with sink.start_run(SkillRun(skill_id="long", caller_id="u")) as writer:
                    writer.step(f"thought {number}")
        store.take(topic, topic.append([(b"", value) for _, value in log.items]))
        with store.materializer.transaction("move the hot rows") as cursor:
            cursor.execute("INSERT INTO store.events_hot_b SELECT * FROM store.events_hot_a")
            cursor.execute("DELETE FROM store.events_hot_a")
        now_us = time.time_ns() // 1000
        for number in range(TILE_WIDTH):
            store.sealer.step(now_us - (TILE_WIDTH - number) * HOUR_US)
    finally:
        store.close()
    return Record(directory / "audit.duckdb", Policy(grade=Grade.SIGNED, keys=(SIGNER.verifier.text,)), LONG)


UNASKED = frozenset({"id", "run_key", "ledger.run_id", "ledger.run_hash"})
"""Columns in which a change makes a row that of another run."""


class Bench:
    """The record in memory, and one flip at a time."""

    def __init__(self, record: Record, seed: int) -> None:
        self.random = random.Random(seed)
        self.covered = record.covered
        self.connection = duckdb.connect(config={"threads": 1})
        self.connection.execute("SET TimeZone = 'UTC'")
        # What is planned for millions of rows takes longer to plan than to do here: half of the time. The attacks run
        # the same statements with the optimizer.
        self.connection.execute("PRAGMA disable_optimizer")
        self.connection.execute(f"ATTACH '{record.path}' AS record (READ_ONLY)")
        self.connection.execute("COPY FROM DATABASE record TO memory")
        self.connection.execute("DETACH record")
        self.request = VerifyRequest(policy=record.policy, anchors=read_anchors(record.policy))
        self.types = {
            (table, column): kind
            for table, column, kind in self.connection.execute(
                "SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE schema_name = 'store'"
            ).fetchall()
        }
        self.memory = Memory()
        self.connection.execute("CREATE SCHEMA original")
        for table in REWRITTEN:
            self.connection.execute(f"CREATE TABLE original.{table} AS SELECT * FROM store.{table}")

    def verify(self, table: str) -> bool:
        """Whether any stage finds something that is no note; those first that know the table best."""
        engine = Engine(self.connection)
        first = {"journal": 0, "checkpoints": 0, "ledger": 1, "positions": 1, "sources": 2}.get(table)
        first = 3 if table in {"acts", "redactions", "holds", "tombstones", "purges"} else first
        order = sorted(range(len(STAGES)), key=lambda n: (n != (4 if first is None else first), n))
        for stage in order:
            findings = Findings()
            with told_where_not(findings, "a stage"):  # as verify does
                STAGES[stage](engine, self.request, findings)
            if findings.exit_code():
                return True
        return False

    def ask(self, run_id: str | None = None, memory: Memory | None = None) -> int:
        """The exit code of `verify RUN`, or of `verify --all`."""
        with contextlib.closing(self.connection.cursor()) as cursor:
            request = replace(self.request, run_id=run_id)
            return Verifier(cursor, memory=memory).check(request, time.time_ns() // 1000).exit_code

    def ask_of_run(self, run_id: str, name: str, outcome: Outcome) -> None:
        for memory, who in ((None, "RUN"), (self.memory, "kept: RUN")):
            if self.ask(run_id, memory) == 0:
                outcome.passed.append(f"{who} {run_id}: {name}")

    def flip(self, outcome: Outcome) -> None:
        """One flip, checked and undone."""
        table = self.random.choices(list(self.covered), weights=map(len, self.covered.values()))[0]
        column = self.random.choice(self.covered[table])
        rows = self.connection.execute(f"SELECT rowid FROM store.{table}").fetchall()
        rowid = self.random.choice(rows)[0]
        where = f"FROM store.{table} WHERE rowid = {rowid}"
        kind = self.types[table, column]
        read = f"epoch_us({column})" if kind.startswith("TIMESTAMP") else column
        before = self.connection.execute(f"SELECT {read} {where}").fetchone()[0]
        after = mutated(self.random, kind, before)
        if after == before or (after is None and not self._nullable(table, column)):
            outcome.skipped += 1
            return
        run_id = self._run_of(table, rowid)
        if run_id is not None:
            self.ask(run_id, self.memory)
        try:
            self._set(table, column, kind, rowid, after)
        except duckdb.ConstraintException:  # another row has that key: the engine refuses it, whoever asks
            outcome.skipped += 1
            return
        try:
            outcome.flips += 1
            outcome.by_column[f"{table}.{column}"] += 1
            name = f"{table}.{column} row {rowid}: {before!r} -> {after!r}"
            if not self.verify(table) or (self.random.randrange(ASKED_WHOLE_ONE_IN) == 0 and self.ask() == 0):
                outcome.passed.append(name)
            if run_id is not None and not UNASKED & {column, f"{table}.{column}"}:
                self.ask_of_run(run_id, name, outcome)
        finally:
            self._undo(table, column, kind, rowid, before)

    def _nullable(self, table: str, column: str) -> bool:
        found = self.connection.execute(
            "SELECT is_nullable FROM duckdb_columns() WHERE schema_name = 'store' AND table_name = ? AND column_name = ?",
            [table, column],
        ).fetchone()
        return bool(found[0])

    def _run_of(self, table: str, rowid: int) -> str | None:
        """The run whose own rows are changed, or the ledger's of its start or finish, which are what proves it."""
        if table == "runs":
            return self.connection.execute(f"SELECT id FROM store.runs WHERE rowid = {rowid}").fetchone()[0]
        if table == "ledger":
            found = self.connection.execute(
                f"SELECT id FROM store.runs WHERE id ="
                f" (SELECT run_id FROM store.ledger WHERE rowid = {rowid} AND kind IN ('start', 'finish'))"
            ).fetchone()
            return None if found is None else found[0]
        if not table.startswith("events"):
            return None
        found = self.connection.execute(
            f"SELECT id FROM store.runs WHERE run_key = (SELECT run_key FROM store.{table} WHERE rowid = {rowid})"
        ).fetchone()
        return None if found is None else found[0]

    def _undo(self, table: str, column: str, kind: str, rowid: int, before: Any) -> None:
        if table not in REWRITTEN:
            self._set(table, column, kind, rowid, before)
            return
        self.connection.execute(f"DELETE FROM store.{table}")
        self.connection.execute(f"INSERT INTO store.{table} SELECT * FROM original.{table}")

    def _set(self, table: str, column: str, kind: str, rowid: int, value: Any) -> None:
        new = "make_timestamptz(?::BIGINT)" if kind.startswith("TIMESTAMP") else f"?::{kind}"
        self.connection.execute(f"UPDATE store.{table} SET {column} = {new} WHERE rowid = {rowid}", [value])


def _journal(engine: Engine, request: VerifyRequest, findings: Findings) -> None:
    with engine.snapshot():
        check_journal(engine, request, findings, time.time_ns() // 1000)


def _in_snapshot(check: Callable[..., Any]) -> Callable[[Engine, VerifyRequest, Findings], None]:
    def run(engine: Engine, request: VerifyRequest, findings: Findings) -> None:
        with engine.snapshot():
            check(engine, request, findings)

    return run


def _runs(engine: Engine, request: VerifyRequest, findings: Findings) -> None:
    RunsCheck(engine, request, findings, RunTotals()).check_all(content=True)


STAGES = (_journal, _in_snapshot(check_ledger), _in_snapshot(check_sources), _in_snapshot(check_acts), _runs)


def mutated(rng: random.Random, kind: str, value: Any) -> Any:  # noqa: PLR0911  one per type
    """A value that differs by one bit, one character, or in being there."""
    if kind == "BOOLEAN":
        return not value
    if value is None:
        return {"VARCHAR": "x", "BLOB": b"\x01"}.get(kind, 1)
    if rng.random() < 0.03:
        return None
    if kind == "VARCHAR":
        if not value:
            return "x"
        place = rng.randrange(len(value))
        other = chr(ord(value[place]) ^ (1 << rng.randrange(5)))
        return value[:place] + (other if other.isprintable() else "~") + value[place + 1 :]
    if kind == "BLOB":
        flipped = bytearray(value)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        return bytes(flipped)
    bits = {"UBIGINT": 64, "BIGINT": 40}.get(kind, 40)
    return value ^ (1 << rng.randrange(bits))


def run(record: Record, seed: int, flips: int, limit_s: float | None = None) -> Outcome:
    """So many flips; as many as go in `limit_s` where that is given."""
    bench, outcome = Bench(record, seed), Outcome()
    assert not bench.verify("runs"), "the record must be proven before anything is flipped"
    assert bench.ask() == 0, "the record must be proven before anything is flipped"
    began = time.monotonic()
    while outcome.flips < flips and (limit_s is None or time.monotonic() - began < limit_s):
        bench.flip(outcome)
    bench.connection.close()
    return outcome


def portions(flips: int, record: Record, longer: Record, seed: int) -> Iterator[tuple[Record, int, int]]:
    """(record, seed, flips): so many in all, one in `LONG_ONE_IN` of them in the longer record."""
    of_longer = -(-flips // LONG_ONE_IN)
    for start, of, number in ((0, record, flips - of_longer), (500, longer, of_longer)):
        for place, first in enumerate(range(0, number, PORTION_FLIPS)):
            yield of, seed * 1_000 + start + place, min(PORTION_FLIPS, number - first)


def _run(portion: tuple[Record, int, int]) -> Outcome:
    return run(*portion)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attacks.fuzz")
    parser.add_argument("--flips", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="skillaudit-fuzz-"))
    try:
        record, longer = make_record(directory / "record"), make_long_record(directory / "long")
        jobs = list(portions(arguments.flips, record, longer, arguments.seed))
        outcomes: list[Outcome] = []
        with multiprocessing.get_context("spawn").Pool(arguments.workers) as pool:
            for outcome in pool.imap_unordered(_run, jobs):
                outcomes.append(outcome)
                done = sum(it.flips for it in outcomes)
                print(f"{done} of {arguments.flips} flips, {time.monotonic() - began:.0f} s", file=sys.stderr)
    finally:
        shutil.rmtree(directory)
    columns = sum((outcome.by_column for outcome in outcomes), Counter())
    passed = [name for outcome in outcomes for name in outcome.passed]
    flips = sum(outcome.flips for outcome in outcomes)
    print(
        f"{flips} flips over {len(columns)} columns of {len(COVERED) + len(LONG)} tables in {time.monotonic() - began:.0f} s"
    )
    for name in passed:
        print(f"verify answered 0 to {name}")
    left = {f"{t}.{c}" for t, cs in (COVERED | LONG).items() for c in cs} - set(columns)
    if left:
        print(f"not drawn: {', '.join(sorted(left))}")
    return 1 if passed or flips < arguments.flips else 0


if __name__ == "__main__":
    sys.exit(main())
