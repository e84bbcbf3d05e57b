"""Who has the database open: a small JSON file beside it, `<database>.owner`, written by the owner for readers.

DuckDB lets one process open a file that is being written, so readers go through that process; this file says where it
listens. It is a hint, never a lock: whoever reads it asks the address whether the owner still lives.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

_HOLDER: Final = re.compile(r"\(PID (\d+)\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The process that has a database open."""

    pid: int
    host: str
    url: str
    """Where its HTTP surface listens; empty where it has none."""
    started_us: int = 0
    database_id: str = ""
    """What `/livez` at `url` answers as `database`, so that a stale file is never taken for a live owner."""


def owner_file(database: Path) -> Path:
    """Where the owner of `database` writes its address."""
    return database.with_name(database.name + ".owner")


def write_owner(database: Path, owner: Owner) -> None:
    """Announce `owner`; readers see the old file or the new one, never a part."""
    target = owner_file(database)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=target.name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(owner), file)
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_owner(database: Path) -> Owner | None:
    """Who says to own `database`; None where nobody does or the file can't be understood."""
    try:
        found: Any = json.loads(owner_file(database).read_text(encoding="utf-8"))
        return Owner(
            pid=int(found["pid"]),
            host=str(found["host"]),
            url=str(found["url"]),
            started_us=int(found.get("started_us", 0)),
            database_id=str(found.get("database_id", "")),
        )
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def remove_owner(database: Path, owner: Owner) -> None:
    """Withdraw the announcement, unless somebody else has announced itself meanwhile."""
    if read_owner(database) == owner:
        with contextlib.suppress(OSError):
            owner_file(database).unlink(missing_ok=True)


def held_text(database: Path, words: str = "") -> str:
    """Who holds the file and what to do, from the engine's `words` about its lock and from what the owner wrote beside it."""
    found = _HOLDER.search(words)
    owner = read_owner(database)
    pid = int(found[1]) if found else owner.pid if owner else 0
    who = f"process {pid}" if pid else "another process"
    if owner and owner.url and owner.pid == pid:
        return (
            f"{database} is held by {who}, which answers at {owner.url}; ask it over HTTP (--url), or end it"
        )
    return f"{database} is held by {who}; it serves no readers: wait until it is done, or end it"
