"""Where a check runs: in the process that owns the database, or here on a file that nobody writes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from skillaudit.contract.errors import SkillauditError
from skillaudit.contract.settings import Settings
from skillaudit.proof.findings import Finding, Findings, Kind
from skillaudit.proof.verify import Report, VerifyRequest
from skillaudit.proof.verify.logged import ControlReading, LoggedAct, logged_act
from skillaudit.query.verifying import Checks, Progress
from skillaudit.storage.locating import owner_url, reads_outbox
from skillaudit.storage.opening import caught_up, patiently
from skillaudit.storage.records import records_opener, require_kafka

Tell = Callable[[str, int, int], None]
HERE = "this process"


async def verify(settings: Settings, request: VerifyRequest, tell: Tell | None = None) -> Report:
    """Check the record: at `url`, else by the live owner of the database, else on the file itself, read-only.

    Embedded, with no file named, what waits in the outbox is read in first, as any reading command does. Raises
    `LockedError` where a process without an HTTP surface owns the file, `UnreachableError` where there is nothing.
    """
    async with contextlib.AsyncExitStack() as resources:
        checks = await patiently(settings, lambda: _open(settings, request, tell, resources))
        if isinstance(checks, Report):
            return checks
        return await _followed(checks, request, tell)


async def read_control(settings: Settings) -> ControlReading:
    """What the control log that the settings name holds, to its end; what fails is told in the reading."""
    from skillaudit.consumer.control import make_control, read_whole
    from skillaudit.consumer.control_file import FileControlLog

    log = make_control(settings)
    if isinstance(log, FileControlLog) and not log.path.exists():
        return ControlReading(partition=log.partition, error=f"there is no {log.path}", absent=True)
    acts: list[LoggedAct] = []
    try:
        async with contextlib.aclosing(read_whole(log)) as records:
            async for record in records:
                act = logged_act(record.value or b"", record.offset)
                acts += [act] if act is not None else []
    except SkillauditError as exc:
        return ControlReading(partition=log.partition, error=str(exc))
    if not log.identity:
        return ControlReading(
            partition=log.partition, error=f"the cluster has no {log.partition}", absent=True
        )
    return ControlReading(partition=log.partition, acts=tuple(acts))


async def _open(
    settings: Settings, request: VerifyRequest, tell: Tell | None, resources: contextlib.AsyncExitStack
) -> Checks | Report:
    url = settings.url or await owner_url(settings)
    if url:
        from skillaudit.query.access import read_token
        from skillaudit.query.checking import HttpVerifier

        remote = HttpVerifier(url, token=read_token(settings.token_file))
        async with remote:
            report = await remote.verify(request, tell)
        if request.against_kafka and report.kafka is None:
            report.hold_against(_not_asked(url), None)
        return report
    if request.against_kafka:
        require_kafka(settings, HERE)
    if not reads_outbox(settings):
        return await resources.enter_async_context(_file(settings))
    hosted = await resources.enter_async_context(caught_up(settings))
    return Checks(hosted.service.database.cursor, records=records_opener(settings, HERE))


def _not_asked(url: str) -> Findings:
    """An earlier release passes over what it does not know."""
    found = Findings()
    says = f"could not check records against Kafka: {url} is an earlier release, which does not do it; upgrade it, or check a copy here"
    found.add(Finding(Kind.NOT_CHECKED, says))
    return found


@contextlib.asynccontextmanager
async def _file(settings: Settings) -> AsyncGenerator[Checks]:
    from skillaudit.query.standalone import open_file

    connection = await asyncio.to_thread(open_file, settings.database)
    try:
        yield Checks(connection.cursor, records=records_opener(settings, HERE))
    finally:
        await asyncio.to_thread(connection.close)


async def _followed(checks: Checks, request: VerifyRequest, tell: Tell | None) -> Report:
    async with contextlib.aclosing(checks.run(request)) as lines:
        async for line in lines:
            if not isinstance(line, Progress):
                return line
            if tell is not None:
                tell(line.what, line.done, line.of)
    raise RuntimeError("a check ends with a report or an error")
