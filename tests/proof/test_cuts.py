"""A database made again from records that no longer reach back to the first: its ledger begins at a seal, what is before is
named everywhere, and what comes after is met as ever.
"""

import contextlib
import random
import shutil
import time
from collections import defaultdict
from copy import copy
from dataclasses import replace

import duckdb
import pytest
from tests.attacks.world import (
    PARTITIONS,
    SIGNER,
    SOURCES,
    STAGES,
    TOPIC,
    Collected,
    Depth,
    Store,
    Tampered,
    Topic,
    World,
    build,
    names,
    told,
    violations,
)

from skillaudit.consumer.acts import accept_history_loss
from skillaudit.consumer.materializer import Materializer
from skillaudit.contract.errors import RunNotFoundError
from skillaudit.contract.records import SkillRun
from skillaudit.producer import Sink
from skillaudit.producer.publisher import partition_for
from skillaudit.proof.acts import act_line
from skillaudit.proof.anchors import open_anchor
from skillaudit.proof.cuts import Around, Cut, Trial, beginning, cut_act, end_empty, name_cuts
from skillaudit.proof.decided import FileCuts, check_decided, decide, decide_trial
from skillaudit.proof.errors import KeyNeededError, SigningRefusedError
from skillaudit.proof.findings import Findings
from skillaudit.proof.leaves import encode_act, leaf_kind, parse_seal
from skillaudit.proof.policy import AnchorPolicy, KnownCuts, parse_policy, policy_members
from skillaudit.proof.restoring import restore_journal, unmet_from
from skillaudit.proof.verify import Verifier, VerifyRequest
from skillaudit.proof.verify.cuts import Cuts, before_cut, find_cuts
from skillaudit.proof.verify.engine import Engine
from skillaudit.proof.verify.state import VerifierState
from skillaudit.proof.verify.witness import read_anchors


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Four stages, a seal after each."""
    return build(tmp_path_factory.mktemp("cuts"))


def rows(store, query, *parameters):
    with contextlib.closing(store.cursor()) as cursor:
        return cursor.execute(query, parameters).fetchall()


def seals_of(world):
    """Partition -> its sealed ranges, in order."""
    found = defaultdict(list)
    for stored in open_anchor(f"file:{world.anchor}").objects():
        for leaf in stored.content.leaves:
            if leaf_kind(leaf) == "seal":
                for sealed in parse_seal(leaf).ranges:
                    found[sealed.partition].append(sealed)
    return found


class Again:
    """A new database, with the journal from a copy of the anchor and the records from some position on."""

    def __init__(self, world, directory, begins, path):
        self.world, self.begins = world, begins
        self.store = Store(path or directory / "again.duckdb")
        self.anchor = directory / "anchor"
        if not self.anchor.exists():
            shutil.copytree(world.anchor, self.anchor)
        with contextlib.closing(open_anchor(f"file:{self.anchor}")) as anchor:
            restore_journal(self.store, anchor.objects(0), [SIGNER.verifier])
            newest = anchor.newest()
        self.store.sealer.meet(newest.content.note)

    def left(self):
        return [r for r in self.world.topic.records if r.offset >= self.begins.get(r.partition, 0)]

    def take(self, portion=1_000_000):
        left = self.left()
        for at in range(0, len(left), portion):
            batch = sorted(left[at : at + portion], key=lambda record: record.partition)
            self.store.materializer.apply(batch, self.world.topic.ends)
            self.store.materializer.forget()  # as after a restart: what is not settled yet is remembered
        self.store.materializer.look(self.world.topic.ends, self.store.materializer.to_ask())
        self.store.materializer.tick(self.world.topic.ends)

    def end_empty(self):
        with self.store.transaction("find empty partitions") as cursor:
            cuts = end_empty(cursor, self.world.topic.ends, lambda _name, _us: False)
        decide(self.store.cuts, cuts)
        return cuts

    def seal(self):
        self.store.seal(f"file:{self.anchor}")

    def is_met(self):
        with contextlib.closing(self.store.cursor()) as cursor:
            return unmet_from(cursor) is None

    def verify(self, **options):
        self.close()
        world = World(self.store.database.path, self.anchor, self.world.topic, self.store.database.path, "")
        with contextlib.closing(Tampered(world, world.path)) as tampered:
            return tampered.verify(**options)

    def close(self):
        if self.store is not None:
            with contextlib.suppress(Exception):
                self.store.close()


@pytest.fixture
def again(world, tmp_path):
    made = []

    def make(begins, *, world=world, path=None):
        made.append(Again(world, tmp_path, begins, path))
        return made[-1]

    yield make
    for it in made:
        it.close()


P = "t/0"
OFFSET = 9
"""Where a row of the ledger has its record's position."""


def row_offsets(world, partition):
    return [row[OFFSET] for row in original(world, partition, 0)]


def place_in(world, partition, number):
    """A seal, and a position within its records, behind the first of them that made a row."""
    sealed = seals_of(world)[partition][number]
    return sealed, row_offsets(world, partition)[sealed.first] + 1


@pytest.fixture(scope="session")
def part(world):
    """A partition with all four seals, of two rows at least; ids of runs are random, so which one it is is, too."""
    for name, seals in seals_of(world).items():
        offsets = row_offsets(world, name)
        if len(seals) == STAGES and all(offsets[it.first] < offsets[it.end - 1] for it in seals):
            return name
    raise LookupError("no partition with all seals")


def first_row(store, partition):
    return rows(store, "SELECT min(idx) FROM ledger WHERE partition = ?", partition)[0][0]


def cuts_of(store):
    return rows(store, "SELECT partition, first_row, record_offset FROM ledger_cuts ORDER BY 1")


def original(world, partition, first):
    """The rows of the first database, from one on."""
    with contextlib.closing(duckdb.connect(str(world.path), read_only=True)) as connection:
        query = "SELECT * FROM ledger WHERE partition = ? AND idx >= ? ORDER BY idx"
        return connection.execute(query, [partition, first]).fetchall()


def check_goes_on(it, world):
    """What is left of the ledger is the first database's, it is sealed on, and nothing but the cut is told."""
    assert it.is_met()
    cut = {partition: first for partition, first, _ in cuts_of(it.store)}
    for partition in it.world.topic.ends:
        here = rows(it.store, "SELECT * FROM ledger WHERE partition = ? ORDER BY idx", partition)
        assert here == original(world, partition, cut.get(partition, 0))
    told_of = rows(it.store, "SELECT subject FROM incidents WHERE kind = 'ledger-cut' ORDER BY subject")
    assert told_of == [(partition,) for partition in sorted(cut)]
    report = it.verify()
    # A run is open, too, whose source said its last word in what is left of the last seal.
    lawful = {"LEDGER_CUT", "RUN_UNPROVEN", "RUN_OPEN", "SOURCE_TAIL_UNKNOWN"} if cut else set()
    assert names(report) - {"RUN_ABANDONED"} <= lawful, told(report)
    assert report.exit_code == (6 if cut else 0)
    named = {finding["partition"]: finding["idx"] for finding in report.findings if "partition" in finding}
    assert named == cut
    return report


def test_cut_within_a_seal(again, world, part):
    """Numbering goes on with the next seal's first row; the rest of that seal's records are stored, and make no rows."""
    second, begin = place_in(world, part, 1)
    it = again({part: begin})
    it.take(40)
    it.seal()
    assert cuts_of(it.store) == [(part, second.end, second.next_offset)]
    assert first_row(it.store, part) == second.end
    check_goes_on(it, world)


def test_cut_exactly_at_a_seal(again, world, part):
    """Nothing of the next one is missing."""
    first = seals_of(world)[part][0]
    it = again({part: first.next_offset})
    it.take()
    it.seal()
    assert cuts_of(it.store) == [(part, first.end, first.next_offset)]
    check_goes_on(it, world)


@pytest.fixture(scope="session")
def long_run(tmp_path_factory):
    """One run over two seals: its start, many logs, its finish."""
    directory = tmp_path_factory.mktemp("long")
    topic, store, log = Topic(), Store(directory / "audit.duckdb"), Collected(f"{1:032x}")
    sink, sent = Sink(log), 0
    run = sink.start_run(SkillRun(skill_id="s"))
    for stage in range(2):
        for step in range(6):
            run.step(f"thought {stage}.{step}")
        if stage:
            run.finish(output="done")
            sink.close()
        store.take(topic, topic.append(log.items[sent:]))
        sent = len(log.items)
        store.seal(f"file:{directory / 'anchor'}")
    store.close()
    world = World(directory / "audit.duckdb", directory / "anchor", topic, directory / "audit.duckdb", "")
    key = next(key for key, value in log.items if b"run.started" in value)
    return world, f"{TOPIC}/{partition_for(key, PARTITIONS)}"


def test_records_that_made_no_rows_may_be_missing(again, long_run):
    """Retention took logs between a seal's end and the next row: all rows of the next seal are there, and are met."""
    world, part = long_run
    first, second = seals_of(world)[part][:2]
    begin = row_offsets(world, part)[second.first] - 2
    assert begin > first.next_offset
    it = again({part: begin}, world=world)
    it.take(2)
    it.seal()
    assert it.is_met()
    assert cuts_of(it.store) == [(part, first.end, first.next_offset)]
    assert rows(it.store, "SELECT * FROM ledger WHERE partition = ?", part) == original(
        world, part, first.end
    )
    [(trials,)] = rows(it.store, "SELECT count(trial_row) FROM store.ledger_cuts")
    assert trials == 0
    report = it.verify()
    assert (report.exit_code, violations(report)) == (6, set()), told(report)


def test_nothing_is_left_of_a_partition(again, world, part):
    """Its end is where the last seal ended: all of it is cut, and what comes later goes on with the next row."""
    last = seals_of(world)[part][-1]
    it = again({part: world.topic.ends[part]})
    it.take()
    it.seal()
    assert not it.is_met(), "it may still come"
    assert [cut.partition for cut in it.end_empty()] == [part]
    it.store.materializer.forget()
    it.seal()
    assert it.is_met()
    assert cuts_of(it.store) == [(part, last.end, last.next_offset)]
    size = len(rows(it.store, "SELECT * FROM journal"))
    late = [
        r._replace(offset=r.offset + 500, next_offset=r.offset + 501)
        for r in world.topic.records
        if r.partition == part
    ]
    it.store.materializer.apply(late)
    it.seal()
    assert first_row(it.store, part) == last.end
    [(leaf,)] = rows(it.store, "SELECT leaf FROM journal WHERE idx = ?", size)
    assert [(part.partition, part.first) for part in parse_seal(bytes(leaf)).ranges] == [(part, last.end)]
    report = it.verify()
    assert not violations(report), told(report)
    assert report.exit_code == 6


def test_a_log_that_ends_before_what_was_sealed_is_no_cut(again, world, part):
    """A topic made anew under the name: nothing is sealed until somebody looks."""
    it = again({part: world.topic.ends[part]})
    it.take()
    with it.store.transaction("find empty partitions") as cursor:
        assert end_empty(cursor, {part: 3}, lambda _name, _us: False) == []
    it.seal()
    assert not it.is_met()


def test_what_comes_after_the_cut_has_to_be_met(again, world, part):
    """A record that is missing there, or another one, is no matter of retention."""
    first, second = seals_of(world)[part][:2]
    it = again({part: first.next_offset})
    gone = row_offsets(world, part)[second.end]  # of the third seal
    it.world = replace(world, topic=copy(world.topic))
    it.world.topic.records = [r for r in world.topic.records if (r.partition, r.offset) != (part, gone)]
    it.take()
    with contextlib.suppress(SigningRefusedError):
        it.seal()
    assert not it.is_met()
    assert cuts_of(it.store) == [(part, first.end, first.next_offset)]


def test_an_older_copy_goes_on_behind_what_is_lost(again, world, part, tmp_path):
    """A backup, and a topic that no longer reaches back to it: its rows count, what is between is cut."""
    path = tmp_path / "copy.duckdb"
    shutil.copy(world.older, path)
    last = seals_of(world)[part][-1]
    it = again({part: last.next_offset - 2}, path=path)
    had = first_row(it.store, part), len(rows(it.store, "SELECT * FROM ledger WHERE partition = ?", part))
    accept_history_loss(it.store.materializer, part)
    it.take()
    it.seal()
    assert it.is_met()
    assert had[0] == 0
    assert cuts_of(it.store) == [(part, last.end, last.next_offset)]
    report = it.verify()
    assert not violations(report), told(report)
    assert (report.exit_code, report.counts["LEDGER_CUT"] > 0) == (6, True), told(report)


@pytest.mark.parametrize("seed", range(2))
def test_wherever_it_is_cut(again, world, seed):
    """Each partition at its own place, read in portions of any size: what is left is the same, and nothing else is said."""
    chance = random.Random(seed)
    begins = {
        name: chance.randrange(end - 1) for name, end in world.topic.ends.items() if chance.random() < 0.8
    }
    it = again(begins)
    it.take(chance.choice([30, 71, 1_000]))
    it.seal()
    check_goes_on(it, world)


def test_one_run_before_and_after(again, world, part):
    """A run after the cut is proven as ever; one from the rest of a seal is not; one from before is not there."""
    second, begin = place_in(world, part, 1)
    it = again({part: begin})
    it.take()
    it.seal()
    starts = "SELECT id, record_offset FROM runs WHERE partition = ? ORDER BY record_offset"
    here = rows(it.store, starts, part)
    after = [run_id for run_id, offset in here if offset >= second.next_offset]
    rest = [run_id for run_id, offset in here if offset < second.next_offset]
    assert after
    for run_id in after:
        report = it.verify(run_id=run_id)
        assert (report.exit_code, names(report)) == (0, set()), told(report)
    for run_id in rest:
        report = it.verify(run_id=run_id)
        assert (report.exit_code, names(report)) == (6, {"RUN_UNPROVEN"}), told(report)
    for run_id in {
        row[3] for row in original(world, part, 0) if row[2] == "start" and row[OFFSET] < begin - 1
    }:
        try:
            report = it.verify(run_id=run_id)
        except RunNotFoundError:
            continue
        assert (report.exit_code, names(report)) == (6, {"LEDGER_CUT"}), "listed, or finished, behind the cut"
    for depth in (Depth.QUICK, Depth.FULL):
        assert it.verify(depth=depth).exit_code == 6


def known_of(report):
    """What an auditor writes down of a cut after he looked at it: all that is told of it."""
    cut = [it for it in report.findings if it["kind"] == "LEDGER_CUT"]
    rows_of = {it["partition"]: it["idx"] for it in cut if "partition" in it}
    sources = {it["source_id"]: 1 << 20 for it in cut if "source_id" in it}
    return KnownCuts(rows=rows_of, sources=sources, runs=tuple(it["run_id"] for it in cut if "run_id" in it))


def test_a_cut_that_the_policy_names_is_a_note(again, world, part):
    """And nothing beside it: another first row, a source or a run that it doesn't name is told as ever."""
    first = seals_of(world)[part][0]
    it = again({part: first.next_offset})
    it.take()
    it.seal()
    policy = replace(world.policy, anchors=(AnchorPolicy(f"file:{it.anchor}"),))
    before = it.verify(policy=policy)
    assert before.counts["LEDGER_CUT"] == len([f for f in before.findings if f["kind"] == "LEDGER_CUT"])
    known = known_of(before)
    policy = parse_policy(policy_members(replace(policy, cuts=known)), "as it travels")
    report = it.verify(policy=policy)
    assert report.counts["LEDGER_CUT_KNOWN"] >= before.counts["LEDGER_CUT"]
    assert names(report) <= {"LEDGER_CUT_KNOWN", "RUN_ABANDONED"}, told(report)
    assert report.exit_code == 0
    for run_id in known.runs:
        one = it.verify(policy=policy, run_id=run_id)
        assert (one.exit_code, names(one)) == (0, {"LEDGER_CUT_KNOWN"}), told(one)
        assert it.verify(policy=replace(policy, cuts=KnownCuts()), run_id=run_id).exit_code == 6
    for other in (
        replace(known, rows={part: first.end - 1}),
        replace(known, sources={}) if known.sources else KnownCuts(),
        replace(known, runs=()) if known.runs else KnownCuts(),
    ):
        assert it.verify(policy=replace(policy, cuts=other)).exit_code == 6


def test_a_source_is_known_to_lack_runs_below_a_number():
    """Of a range that reaches beyond it the rest is told."""
    cuts = Cuts({"t/0": 1}, {"s": 9}, KnownCuts(sources={"s": 5}))
    told_of = [(it.kind.value, it.subject["source_seq"]) for it in before_cut(cuts, "s", 3, 8)]
    assert told_of == [("LEDGER_CUT_KNOWN", 3), ("LEDGER_CUT", 5)]
    assert [it.kind.value for it in before_cut(cuts, "s", 5, 8)] == ["LEDGER_CUT"]
    assert [it.kind.value for it in before_cut(cuts, "s", 3, 4)] == ["LEDGER_CUT_KNOWN"]
    assert [it.kind.value for it in before_cut(cuts, "another", 3, 4)] == ["LEDGER_CUT"]


# Attacks: what was deleted, in the name of a retention.


@pytest.fixture(scope="session")
def lawful(world, part, tmp_path_factory):
    """A database made again from the second seal on."""
    directory = tmp_path_factory.mktemp("lawful")
    it = Again(world, directory, {part: seals_of(world)[part][1].next_offset}, None)
    it.take()
    it.seal()
    it.close()
    path = it.store.database.path
    made = Tampered(World(path, it.anchor, world.topic, path, ""), path, it.anchor)
    yield made
    made.close()


def cut_away(tampered, world, part, *, journal_idx=None):
    """Rows and runs of a partition below its second seal's end, and the row that calls it a cut."""
    second = seals_of(world)[part][1]
    tampered.sql("DELETE FROM store.ledger WHERE partition = ? AND idx < ?", part, second.end)
    tampered.sql("DELETE FROM store.runs WHERE partition = ? AND record_offset < ?", part, second.next_offset)
    tampered.events("DELETE FROM {events} WHERE run_key NOT IN (SELECT run_key FROM store.runs)")
    row = (part, second.end, second.next_offset, None, None, journal_idx)
    tampered.sql("INSERT INTO store.ledger_cuts VALUES (?, ?, ?, ?, ?, ?)", *row)
    return second


@pytest.fixture
def tampered(world, tmp_path):
    shutil.copy(world.path, tmp_path / "tampered.duckdb")
    made = Tampered(world, tmp_path / "tampered.duckdb")
    yield made
    made.close()


def test_a_cut_that_the_journal_does_not_name_is_none(tampered, world, part):
    """Rows that are gone are gone, whatever the database calls it."""
    second = cut_away(tampered, world, part)
    known = KnownCuts(rows={part: second.end}, sources={f"{n + 1:032x}": 99 for n in range(SOURCES)})
    for policy in (world.policy, replace(world.policy, cuts=known)):
        report = tampered.verify(policy=policy)
        assert report.exit_code == 5
    assert {"LEDGER_ALTERED", "LEDGER_ENTRY_MISSING"} <= violations(report)


def test_a_cut_named_in_the_journal_without_the_key(tampered, world, part):
    """It is behind what is signed and anchored: an act that anybody may have put there."""
    size = tampered.one("SELECT count(*) FROM journal")
    second = cut_away(tampered, world, part, journal_idx=size)
    leaf = encode_act(act_line(cut_act([Cut(part, second.end, second.next_offset)], 1)))
    tampered.sql("INSERT INTO store.journal VALUES (?, 1, 'act', ?)", size, leaf)
    report = tampered.verify()
    assert (report.exit_code, "LEDGER_ENTRY_MISSING" in names(report)) == (5, True), told(report)
    assert "ACT_UNPROVEN" in names(report), told(report)
    assert any(finding.get("partition") == part for finding in report.findings)


def test_a_cut_with_the_key_is_told_for_ever(tampered, world, part, tmp_path):
    """Who holds the key and what is kept beside it can say so: what is missing is named, by range, and never exit code 0; also to a verifier who
    remembers that it was there.
    """
    anchor = tmp_path / "anchor"
    shutil.copytree(world.anchor, anchor)
    before = tampered.verify()
    seen = VerifierState(before.journal, before.root, before.checked_at_us, before.sealed_to)
    cut_away(tampered, world, part)
    tampered.close()
    store = Store(tampered.path)
    decide(store.cuts, [Cut(part, it.end, it.next_offset) for it in [seals_of(world)[part][1]]])
    with store.transaction("name the cut") as cursor:
        name_cuts(cursor, 1)
    with contextlib.closing(store.cursor()) as cursor:
        (note,) = cursor.execute("SELECT note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
    store.state.note = note
    store.seal(f"file:{anchor}")
    store.close()
    again = Tampered(world, tampered.path, anchor)
    try:
        policy = replace(world.policy, anchors=(AnchorPolicy(f"file:{anchor}"),))
        plain = VerifyRequest(policy=policy, anchors=read_anchors(policy))
        for request in (plain, seen.apply(plain)):
            with contextlib.closing(again.connection.cursor()) as cursor:
                report = Verifier(cursor).check(request, time.time_ns() // 1000)
            assert report.exit_code not in {0, 7}, told(report)
            [range_told] = [
                it for it in report.findings if it.get("partition") == part and it["kind"] == "LEDGER_CUT"
            ]
            assert range_told["idx"] == seals_of(world)[part][1].end
    finally:
        again.close()


def restarted(tampered, world):
    """The sealer starts on the file as somebody left it, with what it keeps outside."""
    (note,) = tampered.sql("SELECT note FROM store.checkpoints ORDER BY size DESC LIMIT 1")[0]
    tampered.connection.execute("CHECKPOINT")
    tampered.connection.close()
    store = Store(tampered.path)
    store.state.note = note
    return store


def refuses(store, tampered):
    """It names what it does not sign, and what it is asked then says so."""
    size = open_anchor(f"file:{tampered.anchor}").newest().content.checkpoint.size
    try:
        with pytest.raises(SigningRefusedError, match="did not decide"):
            store.seal(f"file:{tampered.anchor}")
    finally:
        store.close()
        tampered.connection = duckdb.connect(str(tampered.path))
    assert open_anchor(f"file:{tampered.anchor}").newest().content.checkpoint.size == size
    report = tampered.verify()
    assert (report.exit_code, "LEDGER_ENTRY_MISSING" in violations(report)) == (5, True), told(report)


@pytest.fixture
def own_anchor(world, tampered, tmp_path):
    shutil.copytree(world.anchor, tmp_path / "own")
    tampered.anchor = tmp_path / "own"
    return tampered


def test_a_cut_that_somebody_wrote_into_the_closed_database_is_not_signed(own_anchor, world, part):
    """As if it were being made again: the sealer that starts on it did not decide so, and 5 stays 5."""
    cut_away(own_anchor, world, part)
    own_anchor.sql("INSERT INTO store.meta VALUES ('seals_unmet_from', '0')")
    refuses(restarted(own_anchor, world), own_anchor)


def test_an_act_of_a_cut_that_somebody_appended_is_not_signed(own_anchor, world, part):
    """Whoever seals next signs what he finds in the journal, but not this."""
    size = own_anchor.one("SELECT count(*) FROM journal")
    second = cut_away(own_anchor, world, part, journal_idx=size)
    leaf = encode_act(act_line(cut_act([Cut(part, second.end, second.next_offset)], 1)))
    own_anchor.sql("INSERT INTO store.journal VALUES (?, 1, 'act', ?)", size, leaf)
    refuses(restarted(own_anchor, world), own_anchor)


def test_a_trial_that_somebody_wrote_is_none_of_the_consumers(own_anchor, world, part):
    """The consumer would settle it with the next records, as if it had begun it."""
    second = cut_away(own_anchor, world, part)
    end = own_anchor.one("SELECT next_offset FROM store.positions WHERE partition = ?", part)
    rows = own_anchor.one("SELECT ledger_next FROM store.positions WHERE partition = ?", part)
    own_anchor.sql("UPDATE store.ledger_cuts SET trial_row = ?, trial_offset = ?", rows, end)
    own_anchor.sql("INSERT INTO store.meta VALUES ('seals_unmet_from', '0')")
    store = restarted(own_anchor, world)
    [late, *_] = [r for r in world.topic.records if r.partition == part]
    store.materializer.apply([late._replace(offset=end, next_offset=end + 1)])
    assert cuts_of(store) == [(part, second.end, second.next_offset)], "it is settled"
    refuses(store, own_anchor)


def test_what_was_decided_is_kept_outside_until_it_is_signed(again, world, part):
    """A consumer that ends in between goes on with it; another cut of the same partition is still none of its own."""
    second, begin = place_in(world, part, 1)
    it = again({part: begin})
    it.take(40)
    expected = Cut(part, second.end, second.next_offset)
    assert it.store.cuts.read() == {part: expected}
    with pytest.raises(SigningRefusedError, match=part):
        check_decided(it.store.cuts, [replace(expected, first_row=second.end + 1)])
    it.seal()
    assert it.is_met()
    assert it.store.cuts.read() == {}


@contextlib.contextmanager
def keyless(it):
    """A consumer of the same database that does not sign, as a command that reads is."""
    it.store.materializer.close()
    materializer = Materializer(it.store.database, identity="attacks")
    try:
        yield materializer
    finally:
        materializer.close()
        it.store.materializer = Materializer(it.store.database, identity="attacks", cuts=it.store.cuts)


def test_who_does_not_sign_decides_no_cut(again, world, part):
    """He is told whom it takes, nothing is stored of what he read, and the one who signs goes on."""
    _, begin = place_in(world, part, 1)
    it = again({part: begin})
    with keyless(it) as materializer, pytest.raises(KeyNeededError, match=f"{part}.*seal_key_file"):
        materializer.apply(it.left())
    assert cuts_of(it.store) == rows(it.store, "SELECT * FROM ledger") == []
    it.take(40)
    it.seal()
    check_goes_on(it, world)


def test_who_does_not_sign_settles_no_trial(again, world, part):
    """A trial that another began: as above."""
    second, begin = place_in(world, part, 1)
    it = again({part: begin})
    of_seal = [r for r in it.left() if r.partition == part and r.offset < second.next_offset]
    it.store.materializer.apply(of_seal[:1])
    tried = it.store.cuts.read()
    assert tried[part].trial is not None
    with keyless(it) as materializer, pytest.raises(KeyNeededError, match=part):
        materializer.apply(it.left())
    assert it.store.cuts.read() == tried
    it.take(40)
    it.seal()
    check_goes_on(it, world)


def test_decided_cuts_are_kept_in_a_file(tmp_path):
    """Beside what was signed last, and made with its directory. What is none of ours is named."""
    state = FileCuts(tmp_path / "deep" / "state.cuts")
    tried, other = Cut(P, 0, 0, Trial(10, 100)), Cut("t/ü", 7, 70)
    assert state.read() == {}
    decide(state, [])
    assert not (tmp_path / "deep").exists()
    decide(state, [tried])
    decide(state, [other])
    assert FileCuts(tmp_path / "deep" / "state.cuts").read() == {P: tried, "t/ü": other}
    with pytest.raises(SigningRefusedError, match="t/0 with row 0"):
        check_decided(state, [replace(tried, trial=None)])
    decide_trial(state, replace(tried, first_row=3), Cut(P, 10, 100))  # not the one that was begun
    assert state.read()[P] == tried
    decide_trial(state, tried, Cut(P, 10, 100))
    check_decided(state, [Cut(P, 10, 100), other])
    decide_trial(state, other, None)
    assert state.read() == {P: Cut(P, 10, 100)}
    (tmp_path / "deep" / "state.cuts").write_text("something")
    with pytest.raises(SigningRefusedError, match=r"state\.cuts"):
        state.read()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE store.ledger_cuts SET first_row = first_row + 1",
        "UPDATE store.ledger_cuts SET record_offset = record_offset + 1000",
        "UPDATE store.ledger_cuts SET partition = 'skillaudit.events/9'",
        "UPDATE store.ledger_cuts SET journal_idx = 0",
        "UPDATE store.ledger_cuts SET trial_row = 1",
        "DELETE FROM store.ledger_cuts",
    ],
)
def test_a_lawful_cut_that_was_moved(lawful, change):
    """It reaches as far as the journal says, and no further."""
    cuts = lawful.sql("SELECT * FROM store.ledger_cuts")
    lawful.sql(change)
    try:
        report = lawful.verify()
    finally:
        lawful.sql("DELETE FROM store.ledger_cuts")
        for row in cuts:
            lawful.sql("INSERT INTO store.ledger_cuts VALUES (?, ?, ?, ?, ?, ?)", *row)
    assert report.exit_code == 5, told(report)
    assert violations(report) & {"LEDGER_ALTERED", "LEDGER_ENTRY_MISSING"}


def test_when_a_cut_was_is_what_the_seal_says(lawful):
    """The times beside the journal's leaves are covered by nothing: moved, they would call what never arrived cut."""

    def numbers():
        with contextlib.closing(lawful.connection.cursor()) as cursor:
            engine = Engine(cursor)
            with engine.snapshot():
                return find_cuts(engine, Findings(), 1 << 40).numbers

    before = numbers()
    lawful.sql("UPDATE store.journal SET at_us = at_us + 1000000000000")
    try:
        assert before
        assert numbers() == before
    finally:
        lawful.sql("UPDATE store.journal SET at_us = at_us - 1000000000000")


# The rule alone.


@pytest.mark.parametrize(
    ("offset", "here", "expected"),
    [
        (0, 0, None),
        (1, 0, Cut(P, 0, 0, Trial(10, 100))),
    ],
)
def test_before_the_first_seal(offset, here, expected):
    """From the first record on nothing is missing; behind it the first seal is tried."""
    assert beginning(Around(P, offset, 0, 0, 10, 100), here) == expected


@pytest.mark.parametrize(
    ("offset", "here", "expected"),
    [
        (100, 0, Cut(P, 10, 100)),
        (101, 0, Cut(P, 10, 100, Trial(20, 200))),
        (101, 15, Cut(P, 15, 100, Trial(20, 200))),
        (101, 25, None),
    ],
)
def test_between_two_seals(offset, here, expected):
    """The rows of an older copy stand, and numbering never goes back."""
    assert beginning(Around(P, offset, 10, 100, 20, 200), here) == expected


def test_behind_the_last_seal():
    """What was there was never sealed."""
    assert beginning(Around(P, 500, 20, 200, None, None), 0) == Cut(P, 20, 200)
    assert beginning(Around(P, 500, 20, 200, None, None), 20) is None
