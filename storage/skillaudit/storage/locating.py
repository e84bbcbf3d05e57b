"""Who owns the database right now, asked without needing what only servers and clients need."""

from __future__ import annotations

import asyncio

from skillaudit.contract.settings import Settings


async def owner_url(settings: Settings) -> str:
    """The address of the live owner of the database; empty where there is none, or no HTTP client is installed."""
    try:
        from skillaudit.query.locate import find_owner
    except ModuleNotFoundError as exc:
        if exc.name != "httpx":
            raise
        return ""
    return await asyncio.to_thread(find_owner, settings) or ""
