"""What can go wrong here and nowhere else, by what the caller should do: see `contract.errors`."""

from __future__ import annotations

from skillaudit.contract.errors import RejectedError, StopError, UnreachableError


class NoteError(RejectedError):
    """A text is no signed note, no checkpoint, or no key of the form expected; or its signature is not the key's."""

    exit_code = 5


class SigningRefusedError(StopError):
    """The journal is not a continuation of what was signed before: an older copy, a fork, or damage. Nothing is signed
    until the journal is repaired from its anchors.
    """


class KeyNeededError(StopError):
    """A database is made again from less than was signed: only who has the sealer's key can say what it lacks."""

    exit_code = 2


class AnchorConflictError(StopError):
    """An anchor holds something else than what is to be published there: another log, a fork, or a longer journal."""


class NewestUnknownError(UnreachableError):
    """An anchor holds so much that may be newer than what it said last that its newest object can't be told within a bound."""


class AnchorContentError(RejectedError):
    """An object of an anchor is not what a sealer writes; the text names its place."""

    exit_code = 5
