"""Consumers killed: at any moment, at exact statements of everything they do, in a migration, through a whole pipeline."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import tempfile
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
from tests.faults import stream
from tests.faults.dying_notary import LEAF_APPENDED, NOTARY_POINTS, STATE_TORN
from tests.faults.fuse import MOMENTS, open_fused
from tests.faults.old_schema import NEWEST, OLD_RUNS, OLDER, OldFiles, statements_by_step
from tests.faults.oracle import BrokenError, must
from tests.faults.rows import Case, row
from tests.faults.service_worker import POINTS, POLLED, CommitOnPoll
from tests.faults.stage import (
    DRAIN_S,
    QUIET_SMALL,
    Agents,
    acknowledged,
    check,
    consume_with,
    consuming,
    database,
    drain,
    embedded,
    is_drained,
    shared_broker,
    through_kafka,
)
from tests.faults.tripwires import places_of_death
from tests.faults.zygote import KILLED, Worker, Zygote, zygote
from tests.pipeline.support import Command, environment
from tests.proof.support import sealing
from tests.support.waiting import until

from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.service import ConsumerService, make_source
from skillaudit.contract.settings import Settings
from skillaudit.proof.anchors import open_anchor
from skillaudit.proof.errors import NoteError, SigningRefusedError

KILLS_IN_CASE = 5
SYNTHETIC = "tests.faults.consumer_worker"
ALONE = {"one-transaction": "positions are committed by themselves, after the rows"}


@dataclass(slots=True)
class Life:
    """What the killed ones noted, all in one file."""

    path: Path
    notes: Path
    backups: Path
    committed: int = 0
    purging: int = 0
    purged: int = 0
    opened: int = 0
    backed_up: tuple[str, ...] = ()

    def read(self) -> None:
        """Take what is in the file; a last line without its end was cut off."""
        backed_up: list[str] = []
        lines = self.notes.read_bytes().splitlines(keepends=True) if self.notes.exists() else []
        for line in lines:
            if line.endswith(b"\n"):
                self._take(json.loads(line), backed_up)
        self.backed_up = tuple(backed_up)
        self.opened = sum(b'"open"' in line for line in lines)

    def notes_count(self) -> int:
        """How much they have noted: grows while one works."""
        return self.notes.read_bytes().count(b"\n") if self.notes.exists() else 0

    def _take(self, note: dict[str, Any], backed_up: list[str]) -> None:
        for name in ("committed", "purging", "purged"):
            setattr(self, name, max(getattr(self, name), note.get(name, 0)))
        if "backup" in note:
            backed_up.append(note["backup"])

    def check(self) -> int:
        """The database holds what was said to be committed, whole and once; so does every backup that has its name."""
        self.read()
        if not self.path.exists():
            return 0
        with duckdb.connect(str(self.path), read_only=True) as cursor:
            if not cursor.execute("SELECT 1 FROM duckdb_views() WHERE view_name = 'incidents'").fetchall():
                must(not self.opened, "a database that was opened has no views")
                return 0
            position = stream.assert_holds(cursor, purged_least=self.purged, purged_most=self.purging)
        must(position >= self.committed, f"{self.committed} was committed, {position} is stored")
        return position

    def check_backups(self) -> int:
        """A file with a backup's name is whole; the others' leftovers have another one."""
        named = sorted(self.backups.glob("*.duckdb"))
        must(
            {str(path) for path in named} >= set(self.backed_up),
            "a backup that was said to be made is not there",
        )
        for path in named:
            try:
                with duckdb.connect(str(path), read_only=True) as cursor:
                    stream.assert_holds(cursor, purged_least=0, purged_most=self.purging)
            except duckdb.Error as exc:
                raise BrokenError(f"{path.name} has a backup's name and is none: {exc}") from exc
        return len(named)


def _life(case: Case) -> Life:
    backups = case.directory / "backups"
    backups.mkdir(exist_ok=True)
    return Life(case.directory / "audit.duckdb", case.directory / "notes.jsonl", backups)


async def _work(case: Case, life: Life, seed: int, **details: Any) -> int:
    """One worker's life, which ends by itself or by its fuse; its exit code."""
    plan = {"path": str(life.path), "notes": str(life.notes), "seed": seed, "switched_off": case.switched_off}
    worker = await _zygote(case).fork(SYNTHETIC, **(plan | details))
    code = await worker.ended()
    assert code in (0, KILLED), f"the worker ended with {code}"
    return code


def _zygote(case: Case) -> Zygote:
    return case.resource.zygote if isinstance(case.resource, Migrations) else case.resource


async def _finish(case: Case, life: Life, before: int) -> None:
    """What is left of it goes on, and ends in order."""
    life.read()
    await _work(case, life, case.seed, batches=3, purges=True, backups=str(life.backups))
    position = await asyncio.to_thread(life.check)
    must(position > before, "it goes on")
    backups = await asyncio.to_thread(life.check_backups)
    case.events += position
    case.note(records=position, purged_runs=life.purged, backups=backups)


@row(
    "consumer-killed-at-random",
    about="SIGKILL at a random moment of a consumer that applies, seals, checkpoints, purges and backs up, five times on one database",
    judge="the database and every backup hold exactly a prefix of the stream, at least as far as was noted as committed",
    synthetic=True,
    full=300,
    share=5,
    case_s_max=900,
    test=5,
    off={"numbers-kept": "of a run that is known no number is known"},
    resource=zygote,
)
async def killed_at_random(case: Case) -> None:
    """Each next one goes on exactly where the last one was cut off."""
    life, chance = _life(case), case.random
    position = 0
    for number in range(KILLS_IN_CASE):
        worker = await _zygote(case).fork(
            SYNTHETIC,
            path=str(life.path),
            notes=str(life.notes),
            seed=chance.getrandbits(32),
            batches=100_000,
            switched_off=case.switched_off,
            purges=True,
            backups=str(life.backups),
        )
        if number % 5:
            wanted = life.notes_count() + chance.randint(1, 12)
            await until(lambda wanted=wanted: life.notes_count() >= wanted, 60)
        await asyncio.sleep(chance.uniform(0, 0.15))  # the moment is what varies; nothing waits on it
        worker.kill()
        assert await worker.ended() == KILLED
        position = await asyncio.to_thread(life.check)
    case.injections = KILLS_IN_CASE
    await _finish(case, life, position)


PHASES = (("batch", 100), ("seal", 3), ("checkpoint", 1), ("purge", 20), ("backup", 5), ("", 150))
"""Phase and how many of its statements are aimed at."""
FUSED_BATCHES = 200
"""Batches within which every phase comes, and so often that each of these statements is reached."""


OF_PHASES = {
    "purged-whole": ("purge", "every statement of a purge is committed by itself"),
    "sealed-whole": (
        "seal",
        "events are copied to the sealed table and taken out of the hot one in two transactions",
    ),
    "backup-renamed": ("backup", "a backup is written under its own name"),
}
"""Mechanism -> the phase in which its want shows, and what is done instead."""


def _fuse(chance: random.Random, switched_off: str) -> dict[str, Any]:
    wanted, _ = OF_PHASES.get(switched_off, ("", ""))
    phase, most = chance.choice([one for one in PHASES if not wanted or one[0] == wanted])
    return {
        "at": chance.randint(1, most),
        "phase": phase,
        "moment": chance.choice(MOMENTS),
        "during_us": int(10 ** chance.uniform(1, 4.5)),
    }


@row(
    "consumer-killed-at-a-statement",
    about="SIGKILL before, during or after an exact statement of a batch, a seal, a checkpoint, a purge, a backup; five on one database",
    judge="the database and every backup hold exactly a prefix of the stream, at least as far as was noted as committed",
    synthetic=True,
    full=400,
    share=5,
    case_s_max=900,
    test=5,
    off=ALONE | {mechanism: how for mechanism, (_, how) in OF_PHASES.items()},
    off_cases_max=12,
    off_in_tests=False,
    off_in_share=False,
    resource=zygote,
)
async def killed_at_a_statement(case: Case) -> None:
    """Every statement is a place to die at."""
    life, chance = _life(case), case.random
    position = 0
    for _ in range(KILLS_IN_CASE):
        fuse, seed = _fuse(chance, case.switched_off), chance.getrandbits(32)
        plan = {"batches": FUSED_BATCHES, "purges": True, "backups": str(life.backups)}
        code = await _work(case, life, seed, fuse=fuse, **plan)
        phase = fuse["phase"] or "any"
        assert code == KILLED, f"{FUSED_BATCHES} batches, and statement {fuse['at']} of a {phase} never came"
        case.note(**{f"{fuse['moment']}_one_of_{phase}": 1})
        position = await asyncio.to_thread(life.check)
    case.injections = KILLS_IN_CASE
    await _finish(case, life, position)


MIGRATION_KILLS = 5
MIGRATIONS = tuple((since, step) for since in OLDER for step in range(since + 1, NEWEST + 1))
"""Version of a file, and the step of its migration that is cut off."""


@dataclass(frozen=True, slots=True)
class Migrations:
    """What every case of it needs."""

    zygote: Zygote
    files: OldFiles
    statements: dict[int, dict[int, list[int]]]
    """Version -> step -> statements of the whole migration that are part of it."""


@contextlib.asynccontextmanager
async def old_files_and_zygote() -> AsyncGenerator[Migrations]:
    """A resource of rows."""
    with tempfile.TemporaryDirectory() as made:
        files = await asyncio.to_thread(OldFiles, Path(made))
        statements: dict[int, dict[int, list[int]]] = {}
        for since in OLDER:
            shutil.copy(files.path(since), copy := Path(made) / f"migrated-{since}.duckdb")
            statements[since] = await asyncio.to_thread(statements_by_step, copy)
        async with zygote() as forking:
            yield Migrations(forking, files, statements)


@row(
    "consumer-killed-migrating",
    about="SIGKILL before, during or after an exact statement of every step of the migration, of files of every older schema",
    judge="the file has exactly the tables, columns and views of one of the schemas, its version names that one, and every row that it held is in it unchanged; the next start brings it to the newest",
    synthetic=True,
    full=100,
    share=10,
    case_s_max=900,
    test=5,
    off={"migrated-whole": "every statement of a migration is committed by itself"},
    resource=old_files_and_zygote,
)
async def killed_migrating(case: Case) -> None:
    """The file has the old schema or a newer one, nothing in between, and what it held."""
    shared: Migrations = case.resource
    life, chance = _life(case), case.random
    for number in range(MIGRATION_KILLS):
        since, step = MIGRATIONS[(case.number * MIGRATION_KILLS + number) % len(MIGRATIONS)]
        for path in case.directory.glob(f"{life.path.name}*"):
            path.unlink()
        shutil.copy(shared.files.path(since), life.path)
        statements = shared.statements[since][step]  # the last one is its COMMIT
        fuse = {
            "at": statements[-1] if chance.random() < 0.25 else chance.choice(statements),
            "moment": chance.choice(MOMENTS),
            "during_us": int(10 ** chance.uniform(1, 4)),
        }
        code = await _work(case, life, case.seed, batches=0, fuse=fuse)
        assert code == KILLED or case.switched_off, f"statement {fuse['at']} of step {step} never came"
        version = await asyncio.to_thread(shared.files.assert_kept, life.path, since)
        must(version in (step - 1, step), f"cut off in step {step}, and schema {version}")
        case.note(**{f"from_{since}_in_step_{step}": 1, "step_stood": int(version == step)})
        await _work(case, life, case.seed, batches=0)
        await asyncio.to_thread(shared.files.assert_kept, life.path, since, newest=True)
        case.events += OLD_RUNS
    await asyncio.to_thread(_goes_on, life.path)
    case.injections = MIGRATION_KILLS


def _goes_on(path: Path) -> None:
    database = open_fused(path)
    materializer = Materializer(database)
    materializer.apply(stream.records(0, 2))
    found = database.cursor().execute(
        "SELECT count(*) FROM main.runs WHERE topic = 't' AND completeness = 'complete'"
    )
    must(found.fetchone() == (2 * stream.RUNS_IN_BLOCK,), "a migrated file takes no new runs")
    materializer.close()
    database.close()


SERVICE = "tests.faults.service_worker"
SERVICE_KILLS = 5
AT_WORK = 3
"""Which of them is killed at a random moment from its first stored batch on."""
POINT_S_MAX = 60.0
"""Within which a consumer comes to a point while there is load: it is handed out something, and stores it; a seal is due every
second.
"""
POLLED_POSITIONS = {
    "positions-in-database": "positions are kept when records are handed out, as automatic commits do it"
}


@contextlib.asynccontextmanager
async def broker_and_zygote() -> AsyncGenerator[tuple[str, Zygote]]:
    """Both."""
    async with shared_broker() as bootstrap, zygote() as forking:
        yield bootstrap, forking


async def _kill_under_load(case: Case, settings: Settings, forking: Zygote) -> None:
    """Five consumers one after the other, each killed at an exact point or at a random moment, while two agents record to the
    last kill.
    """
    stop = case.directory / "stop"
    plan = {"runs": 100_000, "open_at_once": 12, "events_per_s": 100, "payload_bytes": 400}
    async with Agents(case, settings, [plan | {"stop_file": str(stop)}] * 2) as agents:
        await agents.until_noted(20)
        await _kill_each(case, settings, forking, agents)
        stop.touch()
        await agents.join()
    if not case.switched_off:
        await drain(settings)
    else:
        await _take_the_rest(settings, case.directory / "offsets.json")
    check(case, settings, agents.noted())


async def _kill_each(case: Case, settings: Settings, forking: Zygote, agents: Agents) -> None:
    """Three at points, which come as long as there is load; the others at random, one from its start on, one at its work."""
    chance, told, notes = case.random, case.directory / "places", case.directory / "stored.jsonl"
    case.injections = points = had_stored = 0
    for number in range(SERVICE_KILLS):
        before = _stored(notes)
        await until(lambda before=before: _is_behind(settings, before), POINT_S_MAX)
        point = POLLED if case.switched_off else chance.choice(POINTS) if number % 3 else ""
        worker = await forking.fork(
            SERVICE,
            environment=environment(settings),
            point=point,
            at=1 if case.switched_off else chance.randint(1, 3),
            told=str(told),
            stored=str(notes),
            switched_off=case.switched_off,
            offsets=str(case.directory / "offsets.json"),
        )
        if number == AT_WORK and not point:
            await until(lambda before=before: _stored(notes) != before, POINT_S_MAX)
        await _killed(worker, POINT_S_MAX if point else chance.uniform(0.3, 2.0))
        had_stored += _assert_met_work(agents, settings, before, _stored(notes))
        points += bool(point)
        case.injections += 1
    places = places_of_death(told)
    case.note(**places, at_random=SERVICE_KILLS - places.total(), killed_after_storing=had_stored)
    assert places.total() == points, f"{points} were to die at points, and did at {dict(places)}"


def _stored(notes: Path) -> dict[str, int]:
    """The positions that were noted last: none of them is ahead of what is stored."""
    lines = notes.read_bytes().splitlines() if notes.exists() else []
    return json.loads(lines[-1])["positions"] if lines else {}


def _assert_met_work(
    agents: Agents, settings: Settings, before: dict[str, int], after: dict[str, int]
) -> bool:
    """The consumer that was killed had something to do. Whether it has stored something since its start."""
    ended = [process.name for process in agents.processes if not process.running]
    assert not ended, f"{ended} ended before the last kill"
    moved = after != before
    assert moved or _is_behind(settings, after), "the consumer was killed when it had nothing to do"
    return moved


def _is_behind(settings: Settings, stored: dict[str, int]) -> bool:
    """Whether there are records that are not stored; through a broker, such that it has surely."""
    if not settings.uses_kafka:
        return not is_drained(settings)
    own = (offset for name, offset in stored.items() if name.rpartition("/")[0] in settings.kafka_topics)
    return acknowledged(settings) > sum(own)


async def _take_the_rest(settings: Settings, offsets: Path) -> None:
    """The last consumer of those that keep their positions apart: until it has been handed out everything. What it counts as read
    may never come to the end: what was handed out to one that died is behind nobody.
    """
    sources: list[CommitOnPoll] = []

    def make(own: Settings) -> ConsumerService:
        def source(database: Any) -> Any:
            sources.append(CommitOnPoll(make_source(own)(database), offsets))
            return sources[-1]

        return ConsumerService(own, source=source)

    async with consuming(settings, make) as (_, running):
        await until(lambda: running.done() or (sources and sources[-1].has_all), DRAIN_S)


async def _killed(worker: Worker, after_s: float) -> None:
    """It dies by itself before that time, or is killed then."""
    ending = asyncio.ensure_future(worker.ended())
    await asyncio.wait((ending,), timeout=after_s)  # the moment is what varies; nothing waits on it
    if not ending.done():
        worker.kill()
    assert await ending == KILLED, f"the consumer ended with {ending.result()}"


@row(
    "consumer-killed-embedded",
    about="SIGKILL of a consumer that reads the outbox of two agents which record to the last kill: a batch polled, stored and not acknowledged, acknowledged (three of five), at random from its start on, and from its first stored batch on",
    full=100,
    share=5,
    case_s_max=900,
    test=5,
    off=POLLED_POSITIONS,
    off_in_tests=False,
    resource=zygote,
)
async def killed_embedded(case: Case) -> None:
    """Positions are in the transaction of the rows."""
    await _kill_under_load(case, embedded(case, **QUIET_SMALL), case.resource)


@row(
    "consumer-killed-kafka",
    about="The same through a broker",
    full=100,
    share=5,
    case_s_max=900,
    test=0,
    off=POLLED_POSITIONS,
    off_in_tests=False,
    resource=broker_and_zygote,
    broker=True,
    off_in_share=False,
    not_in_tests="long; its twin without a broker is in",
)
async def killed_kafka(case: Case) -> None:
    """The group's offsets are for people; the database knows where it is."""
    bootstrap, forking = case.resource
    await _kill_under_load(case, await through_kafka(case, bootstrap, **QUIET_SMALL), forking)


VERIFIED = (0, 6)
"""Nothing altered and nothing missing; whether that is proven is the verifier's policy, and here is none."""


SEALING_OFF = {
    "committed-before-signed": "a leaf is signed, and that is kept in the state file, before it is committed",
    "state-replaced-whole": "the state file is written over what is in it, not beside it and renamed",
}
_OFF_POINTS = {"committed-before-signed": LEAF_APPENDED, "state-replaced-whole": STATE_TORN}


@row(
    "consumer-killed-sealing",
    about="SIGKILL of a consumer that seals its ledger every second, signs and anchors, while two agents record: at each point between the seal's BEGIN and the note of what was published, and at random; five in a case. Afterwards the record verifies, and the journal is what the anchor holds",
    full=105,
    share=5,
    case_s_max=900,
    test=0,
    off=SEALING_OFF,
    off_in_tests=False,
    resource=zygote,
    off_in_share=False,
    not_in_tests="long: five seals, a second each",
)
async def killed_sealing(case: Case) -> None:
    """A leaf, its rows and what was signed of it never disagree."""
    settings = embedded(case, **QUIET_SMALL, **sealing(case.directory))
    stop = case.directory / "stop"
    plan = {"runs": 100_000, "open_at_once": 12, "events_per_s": 150, "stop_file": str(stop)}
    async with Agents(case, settings, [plan, plan]) as agents:
        await agents.until_noted(20)
        await _kill_sealing(case, settings)
        stop.touch()
        await agents.join()
    places = places_of_death(case.directory / "places")
    case.note(**places, at_random=case.injections - places.total())
    assert case.switched_off or places.total() == SERVICE_KILLS - 1, f"they died at {dict(places)}"
    try:
        await consume_with(settings, seal=True)
    except (SigningRefusedError, NoteError) as exc:
        raise BrokenError(f"nothing is sealed any more: {exc}") from exc
    check(case, settings, agents.noted())
    await _check_proof(case, settings)


async def _kill_sealing(case: Case, settings: Settings) -> None:
    """Four at the points whose turn it is, one at a random moment."""
    chance, forking = case.random, _zygote(case)
    case.injections = 0
    for number in range(SERVICE_KILLS):
        turn = case.number * (SERVICE_KILLS - 1) + number
        point = NOTARY_POINTS[turn % len(NOTARY_POINTS)] if number < SERVICE_KILLS - 1 else ""
        worker = await forking.fork(
            SERVICE,
            environment=environment(settings),
            point=_OFF_POINTS.get(case.switched_off, point),
            at=chance.randint(1, 2),
            told=str(case.directory / "places"),
            seal=True,
            switched_off=case.switched_off,
        )
        if case.switched_off:  # who can't begin any more has ended by itself: the last one says why
            case.injections += await worker.ended(POINT_S_MAX) == KILLED
        else:
            await _killed(worker, POINT_S_MAX if point else chance.uniform(0.3, 6.0))
            case.injections += 1


async def _check_proof(case: Case, settings: Settings) -> None:
    words = ("verify", "--all", "--anchor", settings.anchors, "--json")
    verify = Command(settings, *words, logs=case.directory)
    await verify.start()
    code = await verify.join()
    must(code in VERIFIED, f"verify ends with {code}: {verify.said()[-300:]}")
    with contextlib.closing(open_anchor(settings.anchors)) as opened, database(settings) as cursor:
        newest = opened.newest()
        leaves = cursor.execute("SELECT count(*), max(idx) + 1 FROM main.journal").fetchone()
        assert newest is not None
        must(leaves == (newest.content.checkpoint.size,) * 2, f"{leaves} leaves, {newest.content.checkpoint}")
        case.note(leaves=leaves[0])
