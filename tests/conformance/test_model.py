"""The model's rules: what becomes of a Writer's records in any order, twice, missing, contradicted or late."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaudit.contract import events
from skillaudit.contract.clock import from_us
from skillaudit.contract.completeness import RunNumbers, completeness, missing
from skillaudit.contract.errors import InvalidRecordError, NotYetMaterializedError, RecordTooLargeError
from skillaudit.contract.eventlog import RecordKind
from skillaudit.contract.events import FinishIdentity, OpenRun, SourceCounts, StartIdentity
from skillaudit.contract.memory import MemoryStorage, Outcome
from skillaudit.contract.records import Completeness, Liveness, RunStats, SkillRun, SkillRunLog
from skillaudit.contract.testing.stateful import StorageStateMachine

SOURCE = "1" * 32
OTHER_SOURCE = "2" * 32
T0 = 1_750_000_000_000_000


def tag(seq, word="a"):
    """Any 16 hex digits will do: nobody recomputes tags here."""
    return f"{ord(word):02x}{seq:014x}"


@dataclass
class Written:
    """The records of one run as a Writer would send them; tags are made up."""

    logs: int = 3
    run_id: str = "run"
    source_id: str = SOURCE
    run: SkillRun = field(init=False)

    def __post_init__(self):
        self.run = SkillRun(id=self.run_id, skill_id="s", inputs={"n": 1}, started_at=from_us(T0))

    def start(self, word="a"):
        identity = StartIdentity(
            at_us=T0, tag=tag(0, word), salt="0" * 32, source_id=self.source_id, source_seq=1, clock="manual"
        )
        return events.encode_start(self.run, identity, b'{"n":1}', b"{}")

    def log(self, seq, word="a", lost=""):
        run_id, payload = events.json_string(self.run_id), b'{"n":%d,"word":"%b"}' % (seq, word.encode())
        return events.encode_log(run_id, seq, T0 + seq, tag(seq, word), b'"step"', payload, lost)

    def finish(self, word="a", *, seq=None, status="ok", lost=""):
        seq = self.logs + 1 if seq is None else seq
        identity = FinishIdentity(
            seq=seq,
            at_us=T0 + seq,
            tag=tag(seq, word),
            source_id=self.source_id,
            source_seq=1,
            head="0" * 64,
            lost=lost,
        )
        return events.encode_finish(self.run_id, RunStats(status=status), identity)

    def refused(self, seq, word="a"):
        return events.encode_refused(self.run_id, seq, T0 + seq, tag(seq, word), "too large", 99)

    def all(self):
        return [self.start(), *(self.log(n) for n in range(1, self.logs + 1)), self.finish()]


def bare_start(run_id="run", call_id="c-start", skill="s"):
    return events.encode_storage_start(SkillRun(id=run_id, skill_id=skill), T0, call_id)


def bare_log(seq, call_id, run_id="run"):
    log = SkillRunLog(
        run_id=run_id, sequence=seq, event_type="step", payload={"by": call_id}, created_at=from_us(T0)
    )
    return events.encode_storage_log(log, T0, call_id)


def bare_finish(call_id, status="ok", run_id="run"):
    return events.encode_storage_finish(run_id, RunStats(status=status), T0, call_id)


def applied(*records):
    store = MemoryStorage()
    return store, [store.apply(record) for record in records]


async def state_of(*records, run_id="run"):
    return await applied(*records)[0].get_run_state(run_id)


W = Written()


# Duplicates and order.


async def test_a_whole_run_is_complete():
    """Start, all numbers and the finish."""
    state = await state_of(*W.all())
    assert (state.completeness, state.liveness) == (Completeness.COMPLETE, Liveness.FINISHED)
    assert (state.events, state.missing, state.lost, state.conflicts) == (3, (), (), 0)
    assert (state.source_id, state.last_event_at) == (SOURCE, from_us(T0 + 4))


async def test_the_same_record_twice_is_a_duplicate():
    """Same number and same tag: dropped."""
    store, outcomes = applied(*W.all(), *W.all())
    assert outcomes == [Outcome.STORED] * 5 + [Outcome.DUPLICATE] * 5
    assert await store.get_run_state("run") == await state_of(*W.all())


@given(st.lists(st.integers(0, 4), min_size=5, max_size=15).filter(lambda order: set(order) == set(range(5))))
@settings(max_examples=60, deadline=None)
async def test_any_order_gives_the_same_run(order):
    """Records of one run in any order, repeated at will: as if each had come once and in order."""
    store, _ = applied(*(W.all()[n] for n in order))
    expected, _ = applied(*W.all())
    assert await store.get_run("run") == await expected.get_run("run")
    assert await store.list_logs_by_run("run") == await expected.list_logs_by_run("run")
    assert await store.get_run_state("run") == await expected.get_run_state("run")


# Missing, declared, refused.


@pytest.mark.parametrize(
    ("left_out", "missing_then"), [({2}, ((2, 2),)), ({1, 3}, ((1, 1), (3, 3))), ({1, 2, 3}, ((1, 3),))]
)
async def test_missing_numbers(left_out, missing_then):
    """With the finish there, what it counts and isn't stored is missing."""
    state = await state_of(*(r for n, r in enumerate(W.all()) if n not in left_out))
    assert (state.completeness, state.missing) == (Completeness.INCOMPLETE, missing_then)


async def test_a_hole_below_the_highest_number_is_known_before_the_finish():
    """An unfinished run with a gap is incomplete, a gapless one open."""
    assert (await state_of(W.start(), W.log(1))).completeness is Completeness.OPEN
    gapped = await state_of(W.start(), W.log(1), W.log(3))
    assert (gapped.completeness, gapped.missing) == (Completeness.INCOMPLETE, ((2, 2),))
    assert gapped.liveness is Liveness.OPEN


async def test_an_orphan_misses_its_start():
    """It is no run, and its state says what is missing."""
    store, _ = applied(W.log(1), W.log(2))
    [orphan] = await store.list_orphans(10)
    assert (orphan.completeness, orphan.missing) == (Completeness.INCOMPLETE, ((0, 0),))
    assert (await state_of(W.finish())).missing == ((0, 3),)


async def test_what_the_finish_declares_lost_is_no_gap():
    """Declared loss, never complete."""
    state = await state_of(W.start(), W.log(1), W.finish(lost="2-3"))
    assert (state.completeness, state.missing, state.lost) == (Completeness.DECLARED_LOSS, (), ((2, 3),))


async def test_a_loss_declared_in_part_stays_incomplete():
    """What is missing beyond the declared is missing."""
    state = await state_of(W.start(), W.finish(lost="2-3"))
    assert (state.completeness, state.missing) == (Completeness.INCOMPLETE, ((1, 1),))


async def test_a_log_declares_losses_before_the_finish_does():
    """A running run with a declared loss is open, and shows it."""
    state = await state_of(W.start(), W.log(1), W.log(3, lost="2"))
    assert (state.completeness, state.missing, state.lost) == (Completeness.OPEN, (), ((2, 2),))


async def test_a_refused_record_takes_its_number_and_counts_as_declared():
    """The broker would not have it: no gap, and not complete."""
    state = await state_of(W.start(), W.log(1), W.refused(2), W.log(3), W.finish())
    assert (state.completeness, state.missing, state.lost) == (Completeness.DECLARED_LOSS, (), ((2, 2),))
    assert state.events == 2


@pytest.mark.parametrize("first_refused", [True, False])
async def test_a_refusal_and_its_record_are_duplicates(first_refused):
    """Same number and tag: whichever came first stays."""
    pair = [W.refused(2), W.log(2)] if first_refused else [W.log(2), W.refused(2)]
    store, outcomes = applied(W.start(), *pair)
    assert outcomes == [Outcome.STORED, Outcome.STORED, Outcome.DUPLICATE]
    assert len(await store.list_logs_by_run("run")) == int(not first_refused)


async def test_a_number_past_the_finish_is_kept_and_no_gap():
    """The verdict on it is not about completeness."""
    store, outcomes = applied(*W.all(), W.log(9))
    assert outcomes[-1] is Outcome.STORED
    assert [log.sequence for log in await store.list_logs_by_run("run")] == [1, 2, 3, 9]
    assert (await store.get_run_state("run")).completeness is Completeness.COMPLETE


# Conflicts.


CONFLICTS = {
    "log": W.log(2, "b"),
    "log-in-the-finishs-place": W.log(4, "b"),
    "start": W.start("b"),
    "start-of-another-source": Written(source_id=OTHER_SOURCE).start(),
    "second-finish": W.finish("b"),
    "later-finish": W.finish("b", seq=7),
    "refused-other": W.refused(2, "b"),
    "bare-start": bare_start(),
    "bare-log": bare_log(9, "c-1"),
    "bare-finish": bare_finish("c-2", "error"),
}


@pytest.mark.parametrize("record", CONFLICTS.values(), ids=CONFLICTS.keys())
async def test_what_contradicts_a_writers_run_is_kept_aside(record):
    """The run is as it was; the conflict is counted once, however often it comes."""
    store, outcomes = applied(*W.all(), record, record)
    assert outcomes[-2:] == [Outcome.CONFLICT, Outcome.DUPLICATE]
    expected, _ = applied(*W.all())
    assert await store.get_run("run") == await expected.get_run("run")
    assert await store.list_logs_by_run("run") == await expected.list_logs_by_run("run")
    state = await store.get_run_state("run")
    assert (state.completeness, state.conflicts) == (Completeness.COMPLETE, 1)


async def test_the_first_stored_of_two_wins():
    """Not the lower tag, nor the later one."""
    store, _ = applied(W.start(), W.log(1, "z"), W.log(1, "a"))
    [log] = await store.list_logs_by_run("run")
    assert log.payload["word"] == "z"


async def test_a_finish_of_another_source_ends_nothing():
    """A run belongs to the source of its first stored start; also where that start comes later."""
    foreign = Written(source_id=OTHER_SOURCE)
    for records in ((W.start(), foreign.finish()), (foreign.finish(), W.start())):
        store, _ = applied(*records)
        assert (await store.get_run("run")).status == "running"
        assert (await store.get_run_state("run")).conflicts == 1


# Bare writes.


async def test_bare_writes_are_deduplicated_by_call():
    """A redelivered finish does not win over a later one."""
    first, last = bare_finish("c-1", "error"), bare_finish("c-2", "ok")
    store, outcomes = applied(bare_start(), bare_start(), first, last, first)
    assert outcomes[1] is outcomes[4] is Outcome.DUPLICATE
    assert (await store.get_run("run")).status == "ok"


async def test_a_bare_log_of_a_number_is_first_come():
    """Also from two calls; no conflict."""
    store, outcomes = applied(bare_start(), bare_log(1, "c-1"), bare_log(1, "c-2"))
    assert outcomes[-1] is Outcome.DUPLICATE
    assert [log.payload for log in await store.list_logs_by_run("run")] == [{"by": "c-1"}]
    assert (await store.get_run_state("run")).completeness is Completeness.UNPROVEN


async def test_a_writers_records_of_a_bare_run_are_conflicts():
    """A run is one or the other; its first stored start decides."""
    store, outcomes = applied(bare_start(), *W.all())
    assert outcomes[1:] == [Outcome.CONFLICT] * 5
    state = await store.get_run_state("run")
    assert (state.completeness, state.events, state.conflicts) == (Completeness.UNPROVEN, 0, 5)


async def test_a_late_start_judges_what_came_before():
    """Bare logs that came first go aside when a Writer's start comes, as if it had come first."""
    store, _ = applied(bare_log(1, "c-1"), bare_log(1, "c-2"), *W.all())
    assert [log.payload["word"] for log in await store.list_logs_by_run("run")] == ["a"] * 3
    state = await store.get_run_state("run")
    assert (state.completeness, state.conflicts) == (Completeness.COMPLETE, 2)


async def test_an_orphan_is_a_writers_as_soon_as_one_record_is():
    """Whichever came first."""
    for records in ((bare_log(1, "c-1"), W.log(2)), (W.log(2), bare_log(1, "c-1"))):
        state = await state_of(*records)
        assert (state.events, state.conflicts, state.missing) == (1, 1, ((0, 1),))


# Sources.


def heartbeat(*runs):
    return events.encode_heartbeat(SOURCE, T0, 1, SourceCounts(runs_started=1, runs_finished=0, open=runs))


def closed(source_id=SOURCE, *runs):
    counts = SourceCounts(runs_started=1, runs_finished=0, open=runs)
    return events.encode_source_closed(source_id, T0, "adopter", counts)


def listed(count):
    return OpenRun(run_id="run", source_seq=1, events=count, head="0" * 64)


async def test_a_run_whose_source_closed_is_abandoned():
    """Unfinished and nobody left to finish it; what is there has no gap."""
    store, _ = applied(W.start(), W.log(1), closed(SOURCE, listed(2)))
    state = await store.get_run_state("run")
    assert (state.liveness, state.completeness) == (Liveness.ABANDONED, Completeness.OPEN)
    assert (await store.get_run("run")).status == "running"


async def test_a_finished_run_is_not_abandoned():
    """Nor is one of another source."""
    store, _ = applied(*W.all(), closed())
    assert (await store.get_run_state("run")).liveness is Liveness.FINISHED
    store, _ = applied(W.start(), closed(OTHER_SOURCE))
    assert (await store.get_run_state("run")).liveness is Liveness.OPEN


async def test_a_source_that_opens_again_is_alive():
    """An import goes on where its source ended."""
    opened = events.encode_source_opened(SOURCE, T0, "host", 1, "boot", "manual", "0")
    store, _ = applied(W.start(), closed(), opened)
    assert (await store.get_run_state("run")).liveness is Liveness.OPEN


async def test_what_a_source_says_it_wrote_is_missing_until_it_comes():
    """A truncated open run shows by its source's heartbeat."""
    store, _ = applied(W.start(), heartbeat(listed(3)))
    assert (await store.get_run_state("run")).missing == ((1, 2),)
    for record in (W.log(1), W.log(2)):
        store.apply(record)
    assert (await store.get_run_state("run")).completeness is Completeness.OPEN


# Purge, dead letters, the event log.


async def test_later_records_of_a_purged_run_are_counted():
    """And not stored: the tombstone stays."""
    store, _ = applied(*W.all())
    assert await store.purge_older_than(from_us(T0 + 1)) == 1
    assert [store.apply(record) for record in W.all()] == [Outcome.PURGED] * 5
    assert store.purged["run"].later_records == 5
    assert await store.list_orphans(10) == []
    assert (await store.get_run_state("run")).completeness is Completeness.PURGED


@pytest.mark.parametrize("record", [b"", b"{}", b'{"v":2,"type":"run.log"}', b"\xff", b'{"v":1,"type":"x"}'])
def test_what_cannot_be_read_is_kept(record):
    """A dead letter with its bytes and the reason."""
    store, outcomes = applied(record)
    assert outcomes == [Outcome.DEAD_LETTER]
    assert [kept for kept, _ in store.dead_letters] == [record]


async def test_the_event_log():
    """Appended is acknowledged and can be read; the report's positions are reached."""
    store = MemoryStorage()
    assert store.append("run", W.start(), RecordKind.RESERVED, wait_ms=0) == 1
    items = [("run", W.log(1), RecordKind.LOG), ("run", W.finish(seq=2), RecordKind.RESERVED)]
    assert store.append_many(items, wait_ms=0) == 3
    report = store.flush(timeout_s=0)
    assert (report.acknowledged, report.complete) == (3, True)
    await store.wait_for(report.positions, 0)
    with pytest.raises(NotYetMaterializedError):
        await store.wait_for({name: n + 1 for name, n in report.positions.items()}, 0)
    assert store.close(timeout_s=0) == report
    assert (await store.get_run_state("run")).completeness is Completeness.COMPLETE


def test_the_event_log_takes_all_or_nothing():
    """A record no consumer could read, with a wrong key or too large, is refused with its whole group."""
    store = MemoryStorage(record_bytes_max=1_000)
    good = ("run", W.start(), RecordKind.RESERVED)
    large = W.log(1)[:-2] + b"x" * 1_000 + b'"}'
    for record, key, error in (
        (b"{}", "run", InvalidRecordError),
        (W.log(1), "other", InvalidRecordError),
        (large, "run", RecordTooLargeError),
    ):
        with pytest.raises(error):
            store.append_many([good, (key, record, RecordKind.LOG)], wait_ms=0)
    assert store.flush(timeout_s=0).acknowledged == 0


def test_repr_shows_the_state():
    """For who debugs a test."""
    store, _ = applied(*W.all())
    assert repr(store) == "<MemoryStorage runs=1 purged=0 appended=0>"


# Completeness alone.


@pytest.mark.parametrize(
    ("numbers", "word"),
    [
        (RunNumbers(), Completeness.OPEN),
        (RunNumbers(bare=True, received=((5, 5),)), Completeness.UNPROVEN),
        (RunNumbers(received=((0, 0),)), Completeness.OPEN),
        (RunNumbers(received=((0, 1),), events=2), Completeness.COMPLETE),
        (RunNumbers(received=((1, 1),), events=2), Completeness.INCOMPLETE),
        (RunNumbers(received=((0, 0), (2, 2)), declared=((1, 1),), events=3), Completeness.DECLARED_LOSS),
        (RunNumbers(received=((0, 0), (2, 2)), declared=((1, 1),)), Completeness.OPEN),
        (RunNumbers(received=((0, 1),), known=2), Completeness.OPEN),
        (RunNumbers(received=((0, 1),), known=3), Completeness.INCOMPLETE),
        (RunNumbers(received=((0, 1),), known=9, events=2), Completeness.COMPLETE),
        (RunNumbers(declared=((0, 0),)), Completeness.OPEN),
    ],
    ids=str,
)
def test_completeness(numbers, word):
    """The precedence of the words."""
    assert completeness(numbers) is word
    assert bool(missing(numbers)) is (word is Completeness.INCOMPLETE)


# The machine, on the storage that is its own model: it tests the machine.


class MemoryMachine(StorageStateMachine):
    """Two MemoryStorages side by side."""

    async def open_storage(self):
        return MemoryStorage()


TestMachine = MemoryMachine.TestCase
TestMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
