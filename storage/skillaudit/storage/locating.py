"""Who owns the database right now, asked without needing what only servers and clients need."""

from __future__ import annotations

import asyncio

from skillaudit.contract.settings import Settings


def reads_outbox(settings: Settings) -> bool:
    """Whether a reader consumes what waits in the outbox before it answers: embedded, and no database file is named. A file
    that is named is only read, so that a backup stays what it is and a mistyped name makes no database.
    """
    return not settings.uses_kafka and settings.db_file is None and settings.outbox_dir.exists()


async def owner_url(settings: Settings) -> str:
    """The address of the live owner of the database; empty where there is none, or no HTTP client is installed."""
    try:
        from skillaudit.query.locate import find_owner
    except ModuleNotFoundError as exc:
        if exc.name != "httpx":
            raise
        return ""
    return await asyncio.to_thread(find_owner, settings) or ""
