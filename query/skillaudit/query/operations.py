"""`HttpOperations`: an operator's acts, asked of the process that owns the database."""

from __future__ import annotations

import asyncio
import os
import secrets
from base64 import b64decode
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import httpx
import orjson

from skillaudit.contract.admin import DeadLetter, ReplayReport
from skillaudit.contract.errors import DatabaseError, RejectedError, UnreachableError
from skillaudit.query.acts import HttpActs
from skillaudit.query.codec import Object, parse_time
from skillaudit.query.problems import error_of, parse_problem
from skillaudit.query.requests import API, Request, ask

BACKUP_TIMEOUT_S: Final = 3_600.0
_OK: Final = 200


class HttpOperations(HttpActs):
    """`Operations` over HTTP. Acts are never sent twice: an `UnreachableError` may mean that one was done."""

    async def list_dead_letters(self, state: str | None, limit: int, after: int = 0) -> list[DeadLetter]:
        """As `Operations.list_dead_letters`; keys and bytes are left out."""
        query = (("limit", str(limit)), ("after", str(after)), *((("state", state),) if state else ()))
        return await self._do(ask(Request("GET", f"{API}/dead-letters", query), _letters))

    async def get_dead_letter(self, dead_letter_id: int) -> DeadLetter:
        """As `Operations.get_dead_letter`."""
        return await self._do(ask(Request("GET", f"{API}/dead-letters/{dead_letter_id}"), _letter))

    async def replay_dead_letters(self, ids: Sequence[int]) -> ReplayReport:
        """As `Operations.replay_dead_letters`."""
        return await self._do(ask(self._act("replay", ids), _replayed))

    async def discard_dead_letters(self, ids: Sequence[int]) -> int:
        """As `Operations.discard_dead_letters`."""
        return await self._do(ask(self._act("discard", ids), lambda found: int(found["discarded"])))

    async def back_up(self, target: Path) -> int:
        """As `Operations.back_up`; the copy travels over HTTP into a file of this process."""
        partial = await asyncio.to_thread(_partial, target)
        try:
            size = await self._download(partial)
            await asyncio.to_thread(_give_name, partial, target)
        except OSError as exc:
            raise DatabaseError(f"can't write {target}: {exc.strerror}") from exc
        finally:
            await asyncio.to_thread(partial.unlink, missing_ok=True)
        return size

    async def _download(self, partial: Path) -> int:
        request = self._connection.arguments(Request("GET", f"{API}/backup"))
        file = await asyncio.to_thread(partial.open, "xb")
        try:
            async with self._client.stream(**request, timeout=BACKUP_TIMEOUT_S) as response:
                if response.status_code != _OK:
                    raise error_of(parse_problem(response.status_code, await response.aread()))
                async for piece in response.aiter_raw():
                    await asyncio.to_thread(file.write, piece)
                expected = int(response.headers.get("Content-Length", "-1"))
            size = file.tell()
        except httpx.HTTPError as exc:
            raise UnreachableError(f"{self!r} broke off: {exc or type(exc).__name__}") from exc
        finally:
            file.close()
        if size != expected:
            raise UnreachableError(f"{self!r} sent {size} of {expected} bytes; ask again")
        return size

    @staticmethod
    def _act(act: str, ids: Sequence[int]) -> Request:
        return Request(
            "POST", f"{API}/dead-letters/{act}", (), orjson.dumps({"ids": list(ids)}), repeatable=False
        )


def _partial(target: Path) -> Path:
    if target.exists():
        raise RejectedError(f"{target} exists already; name a file that does not, or move that one away")
    return target.absolute().with_name(f".{target.name}.{secrets.token_hex(4)}.partial")


def _give_name(partial: Path, target: Path) -> None:
    fd = os.open(partial, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    os.link(partial, target)  # unlike a rename it never replaces what came meanwhile


def _letters(found: Object) -> list[DeadLetter]:
    return [_letter(it) for it in found["dead_letters"]]


def _letter(found: Object) -> DeadLetter:
    return DeadLetter(
        id=int(found["id"]),
        partition=str(found["partition"]),
        offset=int(found["offset"]),
        received_at=None if found["received_at"] is None else parse_time(found["received_at"]),
        stored_at=parse_time(found["stored_at"]),
        error=str(found["error"]),
        state=str(found["state"]),
        key=_bytes(found.get("key")),
        record=_bytes(found.get("record")),
    )


def _bytes(text: Any) -> bytes | None:
    return None if text is None else b64decode(text)


def _replayed(found: Object) -> ReplayReport:
    return ReplayReport(replayed=int(found["replayed"]), still_malformed=tuple(found["still_malformed"]))
