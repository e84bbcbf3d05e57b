"""Real servers and Python's own ways to fork, end and interrupt: nothing that was recorded is lost by them."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
from tests.faults.kills import (
    PATIENT_CASE_S,
    PATIENT_S,
    account_files,
    check_deaths,
    ended,
    read_to_the_end,
)
from tests.faults.notes import LOG_DIGEST_SQL
from tests.faults.oracle import Account, altered, must, read_accounts, take
from tests.faults.prefork import DIRECTORY, OFF
from tests.faults.python_lives import HANGS, ROOM
from tests.faults.rows import Case, row
from tests.faults.rows_damage import make_service
from tests.faults.stage import QUIET_SMALL, consuming, database, embedded
from tests.faults.stage_kafka import forwarding
from tests.pipeline.support import Process
from tests.support.small_fs import MIB
from tests.support.waiting import until

from skillaudit.consumer.outbox_source import OutboxSource
from skillaudit.contract.outbox.directory import list_source_dirs, list_sources
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import RecordBatch
from skillaudit.producer.forwarder_files import INCIDENTS_NAME, read_incidents

FORK_NOTICED = {"fork-noticed": "a forked child goes on in its parent's source, in the same mapped segment"}
FORGETFUL = {"stored-before-return": "events wait in memory and are stored 32 at a time, as other SDKs do it"}
HANDLERS = {
    "fork-handlers": "os.register_at_fork does nothing: what the parent has begun stays writable in a child"
}
QUEUED = {"reentrancy": "a call inside a call is not told from any other"}
TASKS = {"call-stores": "events are stored by a task beside, which is cancelled with the one that recorded"}

_LIVES = "tests.faults.python_lives"
_WITHOUT = {
    "fork-handlers": "os.register_at_fork = lambda **_: None",
    "reentrancy": (
        "import sys; from skillaudit.producer import Sink, _reentrancy; told = _reentrancy.BUSY; "
        "deaf = type('Deaf', (dict,), {'__contains__': lambda *_: False})(); "
        "[setattr(m, 'BUSY', deaf) for m in list(sys.modules.values()) if getattr(m, 'BUSY', None) is told]"
    ),
}


THREADS = 2
"""Of each of Gunicorn's workers."""
HUNG_POOL_S = 30.0
"""A child that is killed while it holds a lock of its pool's queues leaves it held, and the pool waits for ever (billiard's
SimpleQueue): what was recorded until then counts."""


class _InDirectory(Process):
    """A process that finds its directory, and what it has to do without, in its environment."""

    def __init__(self, case: Case, settings: Settings, name: str, words: Sequence[str]) -> None:
        super().__init__(name, settings, list(words), case.directory / f"{name}.log")
        self._own = {DIRECTORY: str(case.directory), OFF: case.switched_off, "C_FORCE_ROOT": "1"}

    async def start(self) -> None:
        """With them."""
        before = {name: os.environ.get(name) for name in self._own}
        os.environ.update(self._own)
        try:
            await super().start()
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


def entries(case: Case) -> list[dict[str, object]]:
    paths = account_files(case.directory)
    lines = [line for path in paths for line in path.read_bytes().splitlines(keepends=True)]
    return [json.loads(line) for line in lines if line.endswith(b"\n")]


def _damage(settings: Settings) -> list[dict[str, object]]:
    """What forwarders found in the outbox; a directory of which there is something to tell stays."""
    paths = [path.parent for path in settings.outbox_dir.glob(f"*/{INCIDENTS_NAME}")]
    return [incident for path in paths for incident in read_incidents(path)]


async def drain_and_check(case: Case, settings: Settings, *, deaths: int = 0, threads: int = 0) -> None:
    """What is left is forwarded where there is a broker, everything is read, and compared with what was noted."""
    if settings.uses_kafka:
        case.note(
            left_to_the_adopter=sum(source.backlog_records for source in list_sources(settings.outbox_dir))
        )
        async with forwarding(settings) as running:
            await until(
                lambda: running.done() or not list_source_dirs(settings.outbox_dir) or _damage(settings),
                PATIENT_S,
            )
        must(not _damage(settings), f"the forwarder tells of damage: {_damage(settings)[:3]}")
    await read_to_the_end(settings)
    accounts = read_accounts(account_files(case.directory))
    shared = {str(entry["shared"]) for entry in entries(case) if "shared" in entry}
    check_deaths(case, settings, accounts, deaths=deaths, threads=threads, elsewhere=shared)


async def _nothing(*_: object) -> None:
    """Nothing."""


async def live(
    case: Case,
    life: str,
    codes: Sequence[int] = (0,),
    *,
    settings: Settings | None = None,
    deaths: int = 0,
    judge: Callable[[Settings], None] = lambda _: None,
    meanwhile: Callable[[Process], Awaitable[None]] = _nothing,
    then: Callable[[], Awaitable[None]] = _nothing,
) -> None:
    """One process of `python_lives.py`, then everything it left behind. `judge`: of what the common one does not know.
    `meanwhile`: while it lives; `then`: when it has ended, before anything is drained.

    Where a mechanism is switched off it may end as it likes: what is missing then is for the judges to say, before that. Where its
    want shows by waiting in vain, a process that has hung longer than all of it took before is what they say.
    """
    settings = settings or embedded(case, **QUIET_SMALL)
    words = [life, str(case.directory), str(case.seed)]
    if case.switched_off:
        words += [case.switched_off, *([f"{case.with_it_s}"] if case.with_it_s else [])]
    first = _WITHOUT.get(case.switched_off)
    run = f"import os, runpy; {first}; runpy.run_module('{_LIVES}', run_name='__main__', alter_sys=True)"
    start = ["-c", run] if first else ["-m", _LIVES]
    async with Process(life, settings, [*start, *words], case.directory / "life.log") as process:
        await meanwhile(process)
        code = await ended(process)
    said = process.said().strip()
    told = "" if code in codes else f"{life} ended with {code}, {said.rpartition(chr(10))[2]}: {said[-900:]}"
    assert case.switched_off or not told, told
    await then()
    await drain_and_check(case, settings, deaths=deaths)
    judge(settings)
    must(code != HANGS or not case.with_it_s, told)
    assert not told, told


@row(
    "gunicorn-prefork",
    about="gunicorn with --preload, three workers of two threads: requests while a worker is killed, workers are added, replaced by SIGHUP, recycled by max-requests; a run begun in the master",
    full=20,
    share=1,
    off=FORK_NOTICED,
    test=1,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
)
async def gunicorn_prefork(case: Case) -> None:
    """One Sink for all workers, made before the fork."""
    await serve_prefork(case, embedded(case, **QUIET_SMALL))


async def serve_prefork(
    case: Case, settings: Settings, then: Callable[[], Awaitable[None]] = _nothing
) -> None:
    """Gunicorn's life, as the row tells. `then`: when it has ended, before anything is drained."""
    chance = case.random
    socket = case.directory / "socket"
    words = f"--preload -w 3 -k gthread --threads {THREADS} --max-requests 25 --graceful-timeout 5 -b unix:{socket}"
    server = _InDirectory(
        case, settings, "gunicorn", ["-m", "gunicorn", *words.split(), "tests.faults.gunicorn_app:app"]
    )
    async with server, _client(socket) as client:
        await until(lambda: socket.exists() or not server.running, PATIENT_S)
        answered = await _ask(client, range(30))
        assert answered, server.said()[-900:]
        os.kill(chance.choice(answered), signal.SIGKILL)
        await _ask(client, range(30, 60))
        os.kill(server.pid, chance.choice((signal.SIGHUP, signal.SIGTTIN, signal.SIGTTOU)))
        await _ask(client, range(60, 90))
        await server.terminate()
    await then()
    await drain_and_check(case, settings, deaths=1, threads=THREADS)
    done = sum("done" in entry for entry in entries(case))
    assert done >= 60, f"only {done} requests were served: {server.said()[-900:]}"
    case.note(requests=done)


@asynccontextmanager
async def _client(socket: Path) -> AsyncGenerator[httpx.AsyncClient]:
    transport = httpx.AsyncHTTPTransport(uds=str(socket))
    async with httpx.AsyncClient(transport=transport, base_url="http://gunicorn", timeout=60) as client:
        yield client


async def _ask(client: httpx.AsyncClient, numbers: Sequence[int]) -> list[int]:
    """The processes that answered; a worker that is killed answers nobody."""
    turn = asyncio.Semaphore(6)

    async def one(number: int) -> int:
        async with turn:
            try:
                return int((await client.get(f"/{number}", headers={"Connection": "close"})).text)
            except (httpx.HTTPError, ValueError):
                return 0

    return [pid for pid in await asyncio.gather(*map(one, numbers)) if pid]


@row(
    "celery-prefork",
    about="a Celery worker with a prefork pool of two, its queue in a directory: children are recycled after four tasks, one is killed; a run begun before the fork",
    full=20,
    share=1,
    off=FORK_NOTICED,
    test=1,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
)
async def celery_prefork(case: Case) -> None:
    """Children end by os._exit, without a word to anybody."""
    await work_prefork(case, embedded(case, **QUIET_SMALL))


async def work_prefork(
    case: Case, settings: Settings, then: Callable[[], Awaitable[None]] = _nothing
) -> None:
    """Celery's life, as the row tells. `then`: when it has ended, before anything is drained."""
    tasks = 16
    words = "worker -P prefork -c 2 --max-tasks-per-child 4 -l WARNING --without-gossip --without-mingle"
    worker = _InDirectory(
        case, settings, "celery", ["-m", "celery", "-A", "tests.faults.celery_app:celery", *words.split()]
    )
    sender = _InDirectory(case, settings, "sender", ["-m", "tests.faults.celery_app", str(tasks)])
    async with worker, sender:
        await sender.succeeded(PATIENT_S)

        def done() -> list[int]:
            return [int(str(entry["pid"])) for entry in entries(case) if "done" in entry]

        await until(lambda: len(done()) >= tasks // 2 or not worker.running, PATIENT_S)
        assert worker.running, worker.said()[-900:]
        deaths = 0
        if not case.switched_off:
            await until(lambda: _kill_a_child(case, worker), PATIENT_S)
            deaths = 1
        try:
            enough_s = HUNG_POOL_S if deaths else PATIENT_S
            await until(lambda: len(done()) >= tasks - 2 or not worker.running, enough_s)
            await worker.terminate()
        except TimeoutError:
            if not deaths:
                raise
            deaths += await _kill_pool(worker)
            case.note(hung_pools=1)
    await then()
    await drain_and_check(case, settings, deaths=deaths)
    case.note(tasks=len(done()))


async def _kill_a_child(case: Case, worker: Process) -> bool:
    """One that has recorded. It is stopped before, since it could end by itself meanwhile: so it surely dies of this."""
    assert worker.running, worker.said()[-900:]
    children = [pid for pid in _children(worker.pid) if (case.directory / f"account-{pid}.jsonl").exists()]
    if not children:
        return False
    pid = case.random.choice(children)
    _send(pid, signal.SIGSTOP)
    await until(lambda: _state(pid) in ("T", "Z", ""))
    if _state(pid) != "T":  # it was faster
        return False
    _send(pid, signal.SIGKILL)
    return True


async def _kill_pool(worker: Process) -> int:
    """First who would make new children. Answers how many die."""
    children = _children(worker.pid)
    await worker.kill()
    for pid in children:
        _send(pid, signal.SIGKILL)
    return 1 + len(children)


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def _state(pid: int) -> str:
    """As the kernel tells it: `T` stopped, `Z` ended; empty where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:  # recycled already
        return


@row(
    "multiprocessing-fork",
    about="a forked pool that is terminated, and forked processes that return, exit, os._exit and are killed, all with the parent's Sink; the parent records on",
    full=20,
    share=1,
    off=FORK_NOTICED,
    test=1,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
)
async def multiprocessing_fork(case: Case) -> None:
    """They end without running what is registered for the exit."""
    await live(case, "multiprocessing:fork")


@row(
    "multiprocessing-spawn",
    about="the same with spawned processes, each with a Sink of its own that nobody closes",
    full=20,
    share=1,
    off=FORGETFUL,
    test=0,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
    off_in_share=False,
    not_in_tests="long; its twin that forks is in",
)
async def multiprocessing_spawn(case: Case) -> None:
    """A pool ends its workers by SIGTERM."""
    await live(case, "multiprocessing:spawn")


@row(
    "exit-in-a-forked-child",
    about="sys.exit in forked children out of the `with` blocks of runs that the parent has begun and goes on with; every other child records runs of its own before",
    full=20,
    share=1,
    off=HANDLERS,
    test=1,
    case_s_max=PATIENT_CASE_S,
)
async def exit_in_a_forked_child(case: Case) -> None:
    """The blocks' ends do nothing in the child."""
    await live(case, "exit-in-child")


CANCELLED_MIN, WAITED_FOR_ROOM_MIN = 100, 20


class _Slow(OutboxSource):
    """Reads a little, and not at once."""

    async def poll(self, records_max: int, timeout_ms: int) -> RecordBatch:
        await asyncio.sleep(0.03)
        return await super().poll(min(records_max, 20), timeout_ms)


@row(
    "asyncio-cancelled",
    about="150 tasks that record are cancelled at random awaits: sleeping, flushing, in a timeout of their own; in every other case most of them "
    "while they wait for room, in an outbox of the smallest size with a slow reader",
    full=20,
    share=1,
    off=TASKS,
    test=1,
    case_s_max=PATIENT_CASE_S,
)
async def asyncio_cancelled(case: Case) -> None:
    """What a call returned from is stored, and every run is finished by its block."""
    if case.number % 2:
        settings = embedded(case, outbox_bytes_max=MIB, outbox_block_ms_max=20, segment_bytes=64 * 1024)

        async def read_slowly(process: Process) -> None:
            async with consuming(settings, partial(make_service, kind=_Slow)):
                await ended(process)

        await live(case, "cancelled:full", settings=settings, meanwhile=read_slowly)
    else:
        await live(case, "cancelled")
    places = Counter(str(entry["cancelled_at"]) for entry in entries(case) if "cancelled_at" in entry)
    case.note(**{f"cancelled {place}": count for place, count in places.items()})
    assert places.total() >= CANCELLED_MIN, f"most tasks had ended before they were cancelled: {places}"
    assert case.number % 2 == 0 or places[ROOM] >= WAITED_FOR_ROOM_MIN, f"few waited for room: {places}"


@row(
    "called-from-a-signal-handler",
    about="a signal handler records 300 times in the midst of appends: in the very run that is written, in one of its own, whole runs",
    full=20,
    share=1,
    off=QUEUED,
    off_by_waiting=("reentrancy",),
    test=1,
    case_s_max=PATIENT_CASE_S,
)
async def called_from_a_signal_handler(case: Case) -> None:
    """Both streams are there, each in its order."""
    await _interrupted(case, "signal")


@row(
    "called-from-a-finalizer",
    about="finalizers that the collector runs in the midst of appends record 300 times: in the very run that is written, in one of their own, whole runs",
    full=20,
    share=1,
    off=QUEUED,
    off_by_waiting=("reentrancy",),
    test=1,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
)
async def called_from_a_finalizer(case: Case) -> None:
    """As with signals."""
    await _interrupted(case, "finalizer")


async def _interrupted(case: Case, way: str) -> None:
    await live(case, f"interrupted:{way}", judge=partial(_judge_shared, case))
    times = sum(int(str(entry.get("interruptions", 0))) for entry in entries(case))
    assert times >= 50, f"interrupted only {times} times"
    case.note(interruptions=times)


def _judge_shared(case: Case, settings: Settings) -> None:
    """The run that two write holds the events of both, each once, and each one's in order."""
    of_it = [entry for entry in entries(case) if "shared" in entry]
    told = [entry for entry in of_it if "stream" in entry]
    ends: dict[str, Account] = {}
    for entry in of_it:
        take(ends, {} if "stream" in entry else entry | {"run": entry["shared"]})
    with database(settings) as cursor:
        found = cursor.execute(
            f"SELECT {LOG_DIGEST_SQL} FROM main.events e JOIN main.runs r USING (run_key) WHERE r.id = ? "
            "ORDER BY e.sequence",
            [told[0]["shared"]],
        ).fetchall()
        otherwise = altered(cursor, ends)
    stored = [str(row[0]) for row in found]
    sent, kept = Counter(str(entry["sha256"]) for entry in told), Counter(stored)
    # A process that dies between a call and its line has stored one event more, of each of the two.
    allowed = 2 if case.switched_off else 0
    lost, more = sent - kept, kept - sent
    wrong = otherwise + ([f"{lost.total()} lost"] if lost else [])
    wrong += [f"{more.total()} more than were told of"] if more.total() > allowed else []
    place = {sha: number for number, sha in enumerate(stored)}
    for stream in ("main", "inner"):
        hashes = [str(entry["sha256"]) for entry in told if entry["stream"] == stream]
        places = [place[sha] for sha in hashes if sha in place]
        moved = sum(after < before for before, after in itertools.pairwise(places))
        wrong += [f"{moved} of {stream} out of order"] if moved else []
    must(not wrong, f"of {len(told)} events of the run that two write: {', '.join(wrong)}")
    case.events += len(told)


EXITS = {"end": (0,), "sys-exit": (7,), "raise": (1,), "interrupted": (-2, 130, 1)}
HARD_EXITS = {"os-exit": (0,), "terminated": (-15,)}


@row(
    "interpreter-exit",
    about="the process ends, by its last line, sys.exit, an exception or SIGINT, with runs open, the Sink not closed and a thread that records to the last moment",
    full=20,
    share=4,
    test=1,
    off=FORGETFUL,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
)
async def interpreter_exit(case: Case) -> None:
    """Runs that were not finished read abandoned."""
    way = list(EXITS)[case.number % len(EXITS)]
    await live(case, f"leave:{way}", EXITS[way], deaths=1)


@row(
    "exit-without-goodbye",
    about="os._exit, or SIGTERM without a handler, with runs open, the Sink not closed and a thread that records to the last moment",
    full=20,
    share=2,
    off=FORGETFUL,
    test=1,
    off_in_tests=False,
    case_s_max=PATIENT_CASE_S,
)
async def exit_without_goodbye(case: Case) -> None:
    """Nothing of Python's runs any more."""
    way = list(HARD_EXITS)[case.number % len(HARD_EXITS)]
    await live(case, f"leave:{way}", HARD_EXITS[way], deaths=1)
