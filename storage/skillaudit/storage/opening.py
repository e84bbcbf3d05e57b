"""Choosing the halves: by settings, or by a URL."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import unquote, urlsplit

from skillaudit.contract.errors import DatabaseError, LockedError, SettingsError, StopError, UnopenedError
from skillaudit.contract.outbox.directory import ReaderPresence, list_source_dirs, source_status
from skillaudit.contract.settings import Settings
from skillaudit.contract.storage import AuditReader
from skillaudit.contract.words import counted
from skillaudit.storage.locating import owner_url, reads_outbox
from skillaudit.storage.session import Consistency, Purger, SessionStorage
from skillaudit.storage.writing import LogWriter

T = TypeVar("T")

CLOSE_TIMEOUT_S: Final = 10.0
LOCKED_PAUSE_S: Final = 0.1

if TYPE_CHECKING:
    from skillaudit.storage.hosting import HostedConsumer

_log = logging.getLogger("skillaudit.storage")


def open_storage(
    target: Settings | str | None = None, *, consistency: Consistency = "session", **overrides: Any
) -> AbstractAsyncContextManager[SessionStorage]:
    """The whole `Storage`, to be entered by `async with`.

    `target`: settings; or a URL: `http://host:port` (reads and purges there, writes by the outbox of the settings),
    `duckdb:///path/to/file` (straight on a database file, no outbox); None loads the settings. `overrides` are settings
    by name. Where no consumer runs, this object is one while it is open.
    """
    settings, direct = _resolve(target, overrides)
    return _direct_storage(settings, consistency) if direct else _composed_storage(settings, consistency)


def open_reader(
    target: Settings | str | None = None, **overrides: Any
) -> AbstractAsyncContextManager[AuditReader]:
    """The read half, to be entered by `async with`.

    Asks the consumer at `url`, else the live owner of the database over HTTP, else opens the file itself: embedded, with
    no file named by `db_file`, it first reads in what waits in the outbox, for at most `session_wait_ms_max`. Raises
    `LockedError` where a process without an HTTP surface owns the file, `UnreachableError` where there is nothing to
    read, `UnopenedError` where the file is no database of ours.
    """
    settings, direct = _resolve(target, overrides)
    return _file_reader(settings) if direct else _reader(settings)


def _resolve(target: Settings | str | None, overrides: dict[str, Any]) -> tuple[Settings, bool]:
    """The settings, and whether they are about a bare database file."""
    if isinstance(target, Settings):
        return (replace(target, **overrides) if overrides else target), False
    settings = Settings.load(overrides)
    if target is None:
        return settings, False
    parts = urlsplit(target)
    if parts.scheme in {"http", "https"}:
        return replace(settings, url=target), False
    if parts.scheme == "duckdb" and parts.path and not parts.netloc:
        return replace(settings, db_file=Path(unquote(parts.path)), url=""), True
    raise SettingsError(f"{target!r} is neither http://host:port nor duckdb:///path/to/file")


@contextlib.asynccontextmanager
async def _reader(settings: Settings) -> AsyncGenerator[AuditReader]:
    async with AsyncExitStack() as resources:
        yield await patiently(settings, lambda: _open_reader(settings, resources))


async def _open_reader(settings: Settings, resources: AsyncExitStack) -> AuditReader:
    url = settings.url or await owner_url(settings)
    if url:
        remote: AuditReader = await resources.enter_async_context(_http_reader(settings, url))
        return remote
    if not reads_outbox(settings):
        reader = await resources.enter_async_context(_file_reader(settings))
        await asyncio.to_thread(_tell_what_waits, settings)
        return reader
    hosted = await resources.enter_async_context(caught_up(settings))
    return hosted.reader


@contextlib.asynccontextmanager
async def caught_up(settings: Settings) -> AsyncGenerator[HostedConsumer]:
    """A consumer in this process that has read in what waits in the outbox, as far as `session_wait_ms_max` allows."""
    from skillaudit.storage.hosting import host_consumer

    async with AsyncExitStack() as resources:
        try:
            hosted = await resources.enter_async_context(host_consumer(settings, serve=False))
        except DatabaseError as exc:
            if type(exc) is not DatabaseError:
                raise
            raise UnopenedError(str(exc)) from exc  # for who only wants to read
        await _catch_up(hosted, settings.session_wait_ms_max / 1000)
        yield hosted


def _tell_what_waits(settings: Settings) -> None:
    """A file that is named is read as it is: say so where the outbox beside it holds more, and nobody consumes it."""
    if settings.uses_kafka or not settings.outbox_dir.exists():
        return
    presence = ReaderPresence(settings.outbox_dir)
    for path in list_source_dirs(settings.outbox_dir):
        if presence.is_consumed(path.name):
            continue
        with contextlib.suppress(StopError, OSError):  # `skillaudit outbox status` names a damaged one
            if source_status(path).backlog_records:
                _log.warning(
                    "%s is read as it is; more waits in %s: `skillaudit consume` reads it in",
                    settings.database,
                    settings.outbox_dir,
                )
                return


async def _catch_up(hosted: HostedConsumer, limit_s: float) -> None:
    """Read in what waits in the outbox, bounded."""
    waiting = asyncio.ensure_future(hosted.service.caught_up.wait())
    await asyncio.wait((waiting, hosted.running), timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
    if hosted.running.done():
        hosted.running.result()
    if not waiting.done():
        waiting.cancel()
        _log.warning(
            "more waits in the outbox than was read in %g s; `skillaudit consume` reads it all", limit_s
        )


async def patiently(settings: Settings, opening: Callable[[], Awaitable[T]]) -> T:
    """Open what another process may hold for a moment (a command that reads, a consumer that has not announced where it
    answers): tried again for at most `session_wait_ms_max`, then its `LockedError` is raised.
    """
    deadline_s = time.monotonic() + settings.session_wait_ms_max / 1000
    while True:
        try:
            return await opening()
        except LockedError:
            if time.monotonic() >= deadline_s:
                raise
        await asyncio.sleep(LOCKED_PAUSE_S)


@contextlib.asynccontextmanager
async def _file_reader(settings: Settings) -> AsyncGenerator[AuditReader]:
    from skillaudit.query.standalone import open_file_reader

    async with await asyncio.to_thread(open_file_reader, settings.database, settings=settings) as reader:
        yield reader


@contextlib.asynccontextmanager
async def _composed_storage(settings: Settings, consistency: Consistency) -> AsyncGenerator[SessionStorage]:
    async with AsyncExitStack() as resources:
        reader, admin = await _read_half(settings, resources)
        writer = _write_half(settings, resources)
        yield SessionStorage(
            writer,
            reader,
            admin,
            consistency=consistency,
            session_wait_ms_max=settings.session_wait_ms_max,
            resources=resources,
        )


async def _read_half(settings: Settings, resources: AsyncExitStack) -> tuple[AuditReader, Purger]:
    async def opening() -> tuple[AuditReader, Purger]:
        url = settings.url or await owner_url(settings)
        if url:
            remote = await resources.enter_async_context(_http_reader(settings, url))
            return remote, remote
        from skillaudit.storage.hosting import host_consumer

        hosted = await resources.enter_async_context(host_consumer(settings, serve=False))
        return hosted.reader, hosted.service

    return await patiently(settings, opening)


def _write_half(settings: Settings, resources: AsyncExitStack) -> LogWriter:
    from skillaudit.producer.outbox import OutboxLog

    log = OutboxLog(settings)
    forwarder = None
    if settings.uses_kafka and settings.forwarder in {"auto", "thread"}:
        from skillaudit.producer.forwarder_thread import start_forwarder

        forwarder = start_forwarder(settings, log)
    writer = LogWriter(log, wait_ms=settings.outbox_block_ms_max)

    async def close() -> None:
        report = await writer.aclose(settings.flush_timeout_ms / 1000)
        if forwarder is not None:
            await asyncio.to_thread(forwarder.close, CLOSE_TIMEOUT_S)
        if report.pending:
            _log.warning("left in the outbox for the next reader: %s", counted(report.pending, "record"))

    resources.push_async_callback(close)
    return writer


@contextlib.asynccontextmanager
async def _direct_storage(settings: Settings, consistency: Consistency) -> AsyncGenerator[SessionStorage]:
    from skillaudit.storage.direct import open_direct

    async with AsyncExitStack() as resources:
        log, reader, admin = await open_direct(settings, resources)
        yield SessionStorage(
            LogWriter(log, wait_ms=0),
            reader,
            admin,
            consistency=consistency,
            session_wait_ms_max=settings.session_wait_ms_max,
            resources=resources,
        )


def _http_reader(settings: Settings, url: str) -> Any:
    from skillaudit.query.access import read_token
    from skillaudit.query.client import HttpReader

    return HttpReader(url, token=read_token(settings.token_file))
