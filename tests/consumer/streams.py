"""Random record streams: what any number of agents, storages, forwarders and vandals may send of a few runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
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


@dataclass(frozen=True)
class Draft:
    """A record still to be written, in one world or another: what is drawn does not depend on names."""

    maker: Callable[..., bytes]
    args: tuple[Any, ...]

    def make(self, world: World) -> bytes:
        return self.maker(world, *self.args)


def _malformed(world: World, number: int) -> bytes:
    del world
    return MALFORMED[number]


def honest_drafts(run: int, logs: int) -> list[Draft]:
    """What one Writer sends of one run."""
    source = run % 2
    return [
        Draft(_start, (run, source, 0)),
        *(Draft(_log, (run, seq, 0, "plain")) for seq in range(1, logs + 1)),
        Draft(_finish, (run, source, logs + 1, 0)),
    ]


def honest_run(world: World, run: int, logs: int) -> list[bytes]:
    """The same, written."""
    return [draft.make(world) for draft in honest_drafts(run, logs)]


def _drafts(maker: Callable[..., bytes], *args: st.SearchStrategy[Any]) -> st.SearchStrategy[Draft]:
    return st.builds(Draft, st.just(maker), st.tuples(*args))


_RUN = st.integers(0, 2)
_SOURCE = st.integers(0, 1)
_VARIANT = st.integers(0, 2)
_SEQ = st.integers(1, 6)
_FORM = st.sampled_from(["plain", "plain", "spaced", "lost"])
_OPEN = st.lists(st.tuples(_RUN, st.integers(1, 8)), max_size=2, unique_by=lambda pair: pair[0])
_KIND = st.sampled_from(["opened", "beat", "beat", "closed"])

ONE_RECORD = st.one_of(
    _drafts(_start, _RUN, _SOURCE, _VARIANT),
    _drafts(_log, _RUN, _SEQ, _VARIANT, _FORM),
    _drafts(_finish, _RUN, _SOURCE, _SEQ, _VARIANT),
    _drafts(_bare_start, _RUN, _VARIANT),
    _drafts(_bare_log, _RUN, _SEQ, _VARIANT),
    _drafts(_bare_finish, _RUN, _VARIANT),
    _drafts(_refused, _RUN, st.integers(0, 6), _VARIANT),
    _drafts(_source, _SOURCE, _KIND, st.integers(1, 4), _OPEN),
    _drafts(_malformed, st.integers(0, len(MALFORMED) - 1)),
)
"""Any single record."""


@st.composite
def streams(draw: st.DrawFn) -> list[Draft]:
    """Honest runs, in order or shuffled, with repetitions and anything else between them."""
    records: list[Draft] = []
    for run in draw(st.lists(_RUN, max_size=3, unique=True)):
        records += honest_drafts(run, draw(st.integers(0, 5)))
    for record in draw(st.lists(ONE_RECORD, max_size=12)):
        records.insert(draw(st.integers(0, len(records))), record)
    if draw(st.booleans()):
        records = list(draw(st.permutations(records)))
    if records and draw(st.booleans()):
        records += records[draw(st.integers(0, len(records) - 1)) :]
    return records
