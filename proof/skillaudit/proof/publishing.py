"""The publisher: brings signed checkpoints, and the leaves below them, to the anchors.

What an anchor has is asked of the anchor itself, once at the start: the database's notes of it are for people. An anchor
out of reach is tried again after a pause that grows to a bound; the journal goes on meanwhile, and what waits goes there
in few, larger objects. An anchor that holds another journal gets nothing any more: a person has to look.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

import orjson

from skillaudit.contract.engine import engine_errors
from skillaudit.contract.errors import SettingsError, UnreachableError
from skillaudit.contract.words import counted
from skillaudit.proof.anchors.base import Anchor, AnchorObject, Receipt, newest_of
from skillaudit.proof.engine import ProofDatabase
from skillaudit.proof.errors import AnchorConflictError, AnchorContentError
from skillaudit.proof.journal import Journal
from skillaudit.proof.sealer import OBJECT_BYTES_MAX, OBJECT_LEAVES_MAX
from skillaudit.proof.statements import statements

_SQL: Final = statements("sql/publishing.sql")
RETRY_PAUSE_MS: Final = 1_000
RETRY_PAUSE_MS_MAX: Final = 300_000
OBJECTS_PER_STEP_MAX: Final = 16
"""Per anchor: what is more goes with the next step."""
_WAITING_READ_MAX: Final = OBJECT_LEAVES_MAX

_log = logging.getLogger("skillaudit.proof")


class AnchorState(Enum):
    """UNASKED -> REACHED <-> AWAY; CONFLICT from any of them, for good."""

    UNASKED = "unasked"
    REACHED = "reached"
    AWAY = "away"
    """It does not answer; it is tried again."""
    CONFLICT = "conflict"
    """It holds something else; nothing more is published there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnchorStatus:
    """How an anchor stands."""

    uri: str
    state: AnchorState = AnchorState.UNASKED
    published: int = 0
    """Size of the newest journal there, as far as is known."""
    published_us: int = 0
    """When the anchor took that one, by its own clock."""
    behind: int = 0
    """Leaves that are signed and not there."""
    failures: int = 0
    """In a row."""
    next_try_us: int = 0
    error: str = ""


class Publisher:
    """Publishes to each of the anchors. One thread at a time, best one of its own: an anchor may take its time."""

    def __init__(self, database: ProofDatabase, anchors: Sequence[Anchor]) -> None:
        self._database = database
        self._anchors = tuple(anchors)
        self._status = [AnchorStatus(uri=anchor.uri) for anchor in anchors]

    def __repr__(self) -> str:
        """The anchors and their states."""
        return f"Publisher({', '.join(f'{status.uri} {status.state.value}' for status in self._status)})"

    def status(self) -> tuple[AnchorStatus, ...]:
        """How each anchor stood after the last step."""
        return tuple(self._status)

    def step(self, now_us: int) -> tuple[AnchorStatus, ...]:
        """Publish what waits, to each anchor whose turn it is. Raises only what concerns the database: what an anchor
        does is in its status, and said once in the log.
        """
        for number, anchor in enumerate(self._anchors):
            self._status[number] = self._one(anchor, self._status[number], now_us)
        return self.status()

    def close(self) -> None:
        """Let go of the anchors."""
        for anchor in self._anchors:
            anchor.close()

    def _one(self, anchor: Anchor, status: AnchorStatus, now_us: int) -> AnchorStatus:
        if status.state is AnchorState.CONFLICT or (status.failures and now_us < status.next_try_us):
            return self._lag(status)
        objects: list[AnchorObject] = []
        try:
            if status.state is not AnchorState.REACHED:
                status = self._asked(anchor, status)
            objects = self._waiting(status.published)
            receipts = anchor.publish(objects)
        except UnreachableError as exc:
            return self._lag(_failed(status, now_us, exc))
        except (AnchorConflictError, AnchorContentError, SettingsError) as exc:
            _log.error("%s: %s; nothing more is published there", anchor.uri, exc)
            return self._lag(replace(status, state=AnchorState.CONFLICT, error=str(exc)))
        if objects:
            self._note(anchor.uri, objects, receipts)
            newest = objects[-1].checkpoint.size
            status = replace(status, published=newest, published_us=receipts[-1].at_us)
        if status.failures:
            _log.info("%s is reached again", anchor.uri)
        return self._lag(replace(status, state=AnchorState.REACHED, failures=0, error=""))

    def _asked(self, anchor: Anchor, status: AnchorStatus) -> AnchorStatus:
        """What the anchor has; it has to be the beginning of our journal."""
        with contextlib.closing(self._database.cursor()) as cursor:
            newest = newest_of(anchor, Journal(cursor).size())
        if newest is None:
            return replace(status, published=0, published_us=0)
        found = newest.content.checkpoint
        with contextlib.closing(self._database.cursor()) as cursor:
            journal = Journal(cursor)
            if journal.size() < found.size or journal.root(found.size) != found.root:
                raise AnchorConflictError(
                    f"{newest.place} holds a journal of {counted(found.size, 'leaf', 'leaves')} that this database does not have: it is an"
                    " older copy, or another one; run `skillaudit verify`"
                )
        return replace(status, published=found.size, published_us=newest.at_us)

    def _waiting(self, published: int) -> list[AnchorObject]:
        """The next objects: each as many checkpoints further as its bounds allow."""
        objects: list[AnchorObject] = []
        with contextlib.closing(self._database.cursor()) as cursor:
            for _ in range(OBJECTS_PER_STEP_MAX):
                bounds = {"after": published, "rows_max": _WAITING_READ_MAX, "leaves_max": OBJECT_LEAVES_MAX}
                with engine_errors("read what waits for the anchors"):
                    rows = cursor.execute(_SQL["waiting"], bounds).fetchall()
                if not rows:
                    break
                fitting = [row for row in rows if row[2] is not None and row[2] <= OBJECT_BYTES_MAX]
                size, note, _ = fitting[-1] if fitting else rows[0]
                leaves = Journal(cursor).leaves(published, int(size))
                objects.append(AnchorObject(published, tuple(leaves), str(note)))
                published = int(size)
        return objects

    def _note(self, uri: str, objects: Sequence[AnchorObject], receipts: Sequence[Receipt]) -> None:
        """Write down for people where each checkpoint is."""
        with (
            self._database.transaction("note what was published") as cursor,
            engine_errors("note what was published"),
        ):
            for content, receipt in zip(objects, receipts, strict=True):
                size = content.checkpoint.size
                row = cursor.execute(_SQL["published"], {"size": size}).fetchone()
                known: dict[str, Any] = orjson.loads(row[0]) if row else {}
                known[uri] = {"at_us": receipt.at_us, "receipt": receipt.place}
                text = orjson.dumps(known).decode()
                cursor.execute(_SQL["note_published"], {"size": size, "published": text})

    def _lag(self, status: AnchorStatus) -> AnchorStatus:
        with contextlib.closing(self._database.cursor()) as cursor, engine_errors("read the checkpoints"):
            row = cursor.execute(_SQL["newest_size"]).fetchone()
        return replace(status, behind=max(0, (int(row[0]) if row else 0) - status.published))


def _failed(status: AnchorStatus, now_us: int, exc: UnreachableError) -> AnchorStatus:
    if not status.failures:
        _log.warning("%s: %s; it is tried again", status.uri, exc)
    pause_ms = min(RETRY_PAUSE_MS << min(status.failures, 20), RETRY_PAUSE_MS_MAX)
    return replace(
        status,
        state=AnchorState.AWAY,  # what arrived there is asked again
        failures=status.failures + 1,
        next_try_us=now_us + 1000 * pause_ms,
        error=str(exc),
    )
