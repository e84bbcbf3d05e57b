"""Finding the process that owns the database, by the file it writes beside it."""

from __future__ import annotations

from typing import Any, Final

import httpx

from skillaudit.contract.owner import Owner, read_owner
from skillaudit.contract.settings import Settings

LIVEZ_TIMEOUT_S: Final = 2.0
LIVEZ_BYTES_MAX: Final = 4096


def find_owner(settings: Settings) -> str | None:
    """The address of the live owner of `settings.database`, or None: no file, nobody there, or somebody else.

    Asks `/livez` and compares the database's id, since process ids and ports are given again; waits at most two
    seconds. A plain function: inside an event loop call it in a thread.
    """
    owner = read_owner(settings.database)
    return owner.url if owner is not None and owner.url and answers(owner) else None


def answers(owner: Owner) -> bool:
    """Whether a server at the owner's address says to serve the owner's database."""
    try:
        # The environment's proxies are none of a neighbour's business, and a proxy would see the request.
        with httpx.Client(timeout=LIVEZ_TIMEOUT_S, trust_env=False) as client:
            reply = client.get(owner.url.rstrip("/") + "/livez")
            found: Any = reply.json() if reply.is_success and len(reply.content) <= LIVEZ_BYTES_MAX else {}
            return bool(found["status"] == "alive" and owner.database_id in ("", found["database"]))
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, TypeError, KeyError):
        return False
