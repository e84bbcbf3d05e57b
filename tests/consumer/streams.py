"""Random record streams: what any number of agents, storages, forwarders and vandals may send of a few runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from zlib import crc32

import orjson
from hypothesis import strategies as st

from skillaudit.contract import events
from skillaudit.contract.clock import from_us
from skillaudit.contract.events import OpenRun, SourceCounts
from skillaudit.contract.records import RunStats, SkillRun, SkillRunLog

BASE_US = 1_700_000_000_000_000


@dataclass(frozen=True)
class World:
    """Names that no other example uses."""

    number: int
    runs: tuple[str, ...] = field(init=False)
    sources: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "runs", (f"r{self.number}-a", f"r{self.number}-b", f'r{self.number} "ü"'))
        object.__setattr__(self, "sources", tuple(f"{self.number:030x}{i:02x}" for i in (1, 2)))


def tag_of(kind: str, seq: int, variant: int) -> str:
    return f"{crc32(f'{kind} {seq}'.encode()):08x}{variant:08x}"


def _start(world: World, run: int, source: int, variant: int) -> bytes:
    return events.encode_start(
        SkillRun(id=world.runs[run], skill_id=f"s{variant}", caller_id="c", parent_run_id="p" * variant),
        events.StartIdentity(
            at_us=BASE_US + variant,
            tag=tag_of("start", 0, variant),
            salt="ab" * 16,
            source_id=world.sources[source],
            source_seq=run + 1,
            clock="manual",
        ),
        b'{"q":"%d"}' % variant,
        b"{}",
    )


def _log(world: World, run: int, seq: int, variant: int, form: str) -> bytes:
    value = events.encode_log(
        orjson.dumps(world.runs[run]),
        seq,
        BASE_US + seq * 1000 + variant,
        tag_of("log", seq, variant),
        b'"step"',
        orjson.dumps({"content": f"{seq}/{variant} é", "n": variant}),
        lost="20-21" if form == "lost" else "",
    )
    return value.replace(b'"seq":', b'"seq": ') if form == "spaced" else value


def _finish(world: World, run: int, source: int, seq: int, variant: int) -> bytes:
    return events.encode_finish(
        world.runs[run],
        RunStats(status="ok" if variant == 0 else "error", output=f"o{variant}", tool_calls=variant),
        events.FinishIdentity(
            seq=seq,
            at_us=BASE_US + seq * 1000 + variant,
            tag=tag_of("finish", seq, variant),
            source_id=world.sources[source],
            source_seq=run + 1,
            head="cd" * 32,
            lost="3" if variant == 2 else "",
        ),
    )


def _bare_start(world: World, run: int, call: int) -> bytes:
    return events.encode_storage_start(
        SkillRun(id=world.runs[run], skill_id=f"bare{call}", inputs={"n": call}),
        BASE_US + call,
        f"start-{run}-{call}",
    )


def _bare_log(world: World, run: int, seq: int, call: int) -> bytes:
    log = SkillRunLog(
        run_id=world.runs[run],
        sequence=seq,
        event_type="step",
        payload={"call": call},
        created_at=from_us(BASE_US + seq),
    )
    return events.encode_storage_log(log, BASE_US + seq, f"log-{run}-{seq}-{call}")


def _bare_finish(world: World, run: int, call: int) -> bytes:
    stats = RunStats(status="ok", output=f"bare{call}", input_tokens=call)
    return events.encode_storage_finish(world.runs[run], stats, BASE_US + call, f"finish-{run}-{call}")


def _refused(world: World, run: int, seq: int, variant: int) -> bytes:
    kind = "start" if seq == 0 else "log"
    return events.encode_refused(
        world.runs[run], seq, BASE_US + seq, tag_of(kind, seq, variant), "too large", 99
    )


def _source(world: World, source: int, kind: str, beat: int, open_runs: list[tuple[int, int]]) -> bytes:
    source_id = world.sources[source]
    counts = SourceCounts(
        runs_started=beat,
        runs_finished=0,
        open=[
            OpenRun(run_id=world.runs[r], source_seq=r + 1, events=n, head="ef" * 32) for r, n in open_runs
        ],
    )
    if kind == "opened":
        return events.encode_source_opened(source_id, BASE_US, "host", 1, "boot", "manual", "1")
    if kind == "closed":
        return events.encode_source_closed(source_id, BASE_US, "adopter", counts)
    return events.encode_heartbeat(source_id, BASE_US, beat, counts)


MALFORMED = (
    b"",
    b"{",
    b"\xff\xfe",
    b"[]",
    b"null",
    b'{"v":2,"type":"run.log"}',
    b'{"v":1,"type":"run.log","run_id":"x","seq":1.5,"at_us":1,"tag":"0123456789abcdef","event_type":"step","payload":{}}',
    b'{"v":1,"type":"run.log","run_id":"x","seq":1,"at_us":1,"tag":"0123456789abcdef","event_type":"step","payload":{"a":NaN}}',
    b'{"v":1,"type":"run.log","run_id":"x","seq":1,"at_us":1,"tag":"0123456789abcdef","event_type":"step","payload":{"a":1,}}',
    b'{"v":1,"type":"run.log","run_id":"x","seq":1,"at_us":1,"tag":"0123456789abcdef","event_type":"step","payload":{}}}',
    b'{"v":1,"type":"run.log","run_id":"x","seq":1,"at_us":1,"tag":"0123456789abcdef","event_type":"step","payload":{"a":"\xff"}}',
)


def honest_run(world: World, run: int, logs: int) -> list[bytes]:
    """What one Writer sends of one run."""
    source = run % 2
    return [
        _start(world, run, source, 0),
        *(_log(world, run, seq, 0, "plain") for seq in range(1, logs + 1)),
        _finish(world, run, source, logs + 1, 0),
    ]


def one_record(world: World) -> st.SearchStrategy[bytes]:
    """Any single record."""
    run = st.integers(0, len(world.runs) - 1)
    source = st.integers(0, 1)
    variant = st.integers(0, 2)
    seq = st.integers(1, 6)
    opened = st.lists(st.tuples(run, st.integers(1, 8)), max_size=2, unique_by=lambda pair: pair[0])
    return st.one_of(
        st.builds(lambda r, s, v: _start(world, r, s, v), run, source, variant),
        st.builds(
            lambda r, n, v, f: _log(world, r, n, v, f),
            run,
            seq,
            variant,
            st.sampled_from(["plain", "plain", "spaced", "lost"]),
        ),
        st.builds(lambda r, s, n, v: _finish(world, r, s, n, v), run, source, seq, variant),
        st.builds(lambda r, n: _bare_start(world, r, n), run, variant),
        st.builds(lambda r, n, c: _bare_log(world, r, n, c), run, seq, variant),
        st.builds(lambda r, c: _bare_finish(world, r, c), run, variant),
        st.builds(lambda r, n, v: _refused(world, r, n, v), run, st.integers(0, 6), variant),
        st.builds(
            lambda s, k, b, o: _source(world, s, k, b, o),
            source,
            st.sampled_from(["opened", "beat", "beat", "closed"]),
            st.integers(1, 4),
            opened,
        ),
        st.sampled_from(MALFORMED),
    )


@st.composite
def streams(draw: st.DrawFn, world: World) -> list[bytes]:
    """Honest runs, in order or shuffled, with repetitions and anything else between them."""
    records: list[bytes] = []
    for run in draw(st.lists(st.integers(0, len(world.runs) - 1), max_size=3, unique=True)):
        records += honest_run(world, run, draw(st.integers(0, 5)))
    extra = draw(st.lists(one_record(world), max_size=12))
    for record in extra:
        records.insert(draw(st.integers(0, len(records))), record)
    if draw(st.booleans()):
        records = draw(st.permutations(records))
    if records and draw(st.booleans()):
        start = draw(st.integers(0, len(records) - 1))
        records = [*records, *records[start:]]
    return list(records)
