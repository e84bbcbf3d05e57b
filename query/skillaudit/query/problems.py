"""Problems (RFC 9457) and errors: one table, read by the server in one direction and by the clients in the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, cast

import orjson

from skillaudit.contract.errors import (
    DatabaseError,
    DeadLetterNotFoundError,
    HeldError,
    HoldNotFoundError,
    InvalidRecordError,
    LockedError,
    NotYetMaterializedError,
    QueryTimeoutError,
    RecordTooLargeError,
    RejectedError,
    RetryableError,
    RunNotFoundError,
    SettingsError,
    SkillauditError,
    StopError,
    UnreachableError,
)

MEDIA_TYPE: Final = "application/problem+json"
TYPE_PREFIX: Final = "urn:skillaudit:problem:"
BLANK: Final = "about:blank"
"""The type of a problem of which the status says all."""


@dataclass(frozen=True, slots=True)
class ProblemType:
    """A kind of problem: its name in `type`, its status and title, the error it travels as, whether to ask again."""

    slug: str
    status: int
    title: str
    error: type[SkillauditError]
    transient: bool = False
    """The server was not up to it just now: asking again soon is right, even by a client on its own account."""


NOT_FOUND: Final = ProblemType("not-found", 404, "No such run", RunNotFoundError)
NO_DEAD_LETTER: Final = ProblemType("no-dead-letter", 404, "No such dead letter", DeadLetterNotFoundError)
NO_HOLD: Final = ProblemType("no-hold", 404, "No such hold", HoldNotFoundError)
HELD: Final = ProblemType("held", 409, "A hold keeps it", HeldError)
INVALID_FILTER: Final = ProblemType(
    "invalid-filter", 400, "The query can't be understood", InvalidRecordError
)
INVALID_BODY: Final = ProblemType("invalid-body", 400, "The body can't be understood", InvalidRecordError)
CURSOR_MISMATCH: Final = ProblemType(
    "cursor-mismatch", 400, "The cursor belongs to another query", InvalidRecordError
)
NOT_YET: Final = ProblemType("not-yet-materialised", 503, "Not consumed so far", NotYetMaterializedError)
TIMED_OUT: Final = ProblemType("query-timeout", 503, "The read took too long", QueryTimeoutError)
LOCKED: Final = ProblemType("locked", 503, "Another process holds the database", LockedError)
NOT_READY: Final = ProblemType("not-ready", 503, "The server is not ready", UnreachableError, transient=True)
RATE_LIMITED: Final = ProblemType(
    "rate-limited", 503, "Too many requests at once", UnreachableError, transient=True
)
TOO_LARGE: Final = ProblemType("too-large", 413, "The request is too large", RecordTooLargeError)
UNAUTHORISED: Final = ProblemType("unauthorised", 401, "A token is needed", SettingsError)
FORBIDDEN_HOST: Final = ProblemType("forbidden-host", 403, "This server has another name", SettingsError)
DATABASE: Final = ProblemType("database-error", 500, "The database refuses to work", DatabaseError)

TYPES: Final[Mapping[str, ProblemType]] = {
    TYPE_PREFIX + it.slug: it
    for it in (
        NOT_FOUND,
        NO_DEAD_LETTER,
        NO_HOLD,
        HELD,
        INVALID_FILTER,
        INVALID_BODY,
        CURSOR_MISMATCH,
        NOT_YET,
        TIMED_OUT,
        LOCKED,
        NOT_READY,
        RATE_LIMITED,
        TOO_LARGE,
        UNAUTHORISED,
        FORBIDDEN_HOST,
        DATABASE,
    )
}

_BY_ERROR: Final = (
    (RunNotFoundError, NOT_FOUND),
    (HeldError, HELD),
    (InvalidRecordError, INVALID_FILTER),
    (NotYetMaterializedError, NOT_YET),
    (QueryTimeoutError, TIMED_OUT),
    (LockedError, LOCKED),
    (RetryableError, NOT_READY),
    (RecordTooLargeError, TOO_LARGE),
    (StopError, DATABASE),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem as it travels."""

    type: str
    title: str
    status: int
    detail: str = ""
    extensions: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def json(self) -> bytes:
        """The body."""
        members: dict[str, Any] = {"type": self.type, "title": self.title, "status": self.status}
        if self.detail:
            members["detail"] = self.detail
        return orjson.dumps({**self.extensions, **members})


def problem(kind: ProblemType, detail: str, **extensions: Any) -> Problem:
    """A problem of a known kind."""
    return Problem(TYPE_PREFIX + kind.slug, kind.title, kind.status, detail, extensions)


def problem_of(exc: SkillauditError) -> Problem:
    """The problem an error travels as."""
    if isinstance(exc, RunNotFoundError):
        return problem(NOT_FOUND, str(exc), run_id=exc.run_id)
    if isinstance(exc, DeadLetterNotFoundError):
        return problem(NO_DEAD_LETTER, str(exc), dead_letter_id=exc.dead_letter_id)
    if isinstance(exc, HoldNotFoundError):
        return problem(NO_HOLD, str(exc), hold_id=exc.hold_id)
    for error, kind in _BY_ERROR:
        if isinstance(exc, error):
            return problem(kind, str(exc))
    if isinstance(exc, RejectedError):
        return Problem(BLANK, "Conflict", 409, str(exc))
    return Problem(BLANK, "Internal Server Error", 500, str(exc))


def parse_problem(status: int, body: bytes) -> Problem:
    """The problem in a reply; one made of the status alone where the reply is not a problem of ours."""
    try:
        found: Any = orjson.loads(body)
    except ValueError:  # some proxy's page: the status says all there is to say
        found = None
    if not isinstance(found, dict):
        return Problem(BLANK, "", status)
    members = cast("dict[str, Any]", found)
    kind, title, detail = (str(members.pop(name, "")) for name in ("type", "title", "detail"))
    members.pop("status", None)
    return Problem(kind or BLANK, title, status, detail, members)


def is_transient(reply: Problem) -> bool:
    """Whether a client may ask again by itself."""
    kind = TYPES.get(reply.type)
    return kind is not None and kind.transient


def error_of(reply: Problem) -> SkillauditError:
    """The error a problem stands for, so that a caller can't tell a remote reader from a local one."""
    kind = TYPES.get(reply.type)
    if kind is NOT_FOUND:
        return RunNotFoundError(str(reply.extensions.get("run_id", "")))
    if kind is NO_DEAD_LETTER:
        number = reply.extensions.get("dead_letter_id")
        return DeadLetterNotFoundError(number if isinstance(number, int) else 0)
    if kind is NO_HOLD:
        return HoldNotFoundError(str(reply.extensions.get("hold_id", "")))
    said = reply.detail or reply.title or "no reason given"
    if kind is UNAUTHORISED:
        return SettingsError(f"the server wants another token: {said}; set token_file")
    if kind is not None:
        return kind.error(said)
    return _error_of_status(reply.status, said)


def _error_of_status(status: int, said: str) -> SkillauditError:
    words = f"the server answers {status}: {said}"
    if status in (401, 403, 407):
        return SettingsError(f"{words}; check url and token_file")
    if status in (408, 429, 502, 503, 504) or status < 400:  # noqa: PLR2004
        return UnreachableError(words)
    return RejectedError(words) if status < 500 else StopError(f"{words}; see its log")  # noqa: PLR2004
