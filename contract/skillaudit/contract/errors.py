"""What can go wrong, sorted by what the caller should do about it.

* `RetryableError`: nothing is lost and nothing is wrong with the call; the same call may succeed later.
* `RejectedError`: this call will never succeed as it stands; change it. The object it was made on is unharmed.
* `StopError`: going on would lose or falsify a record; a person has to look. The text names the remedy.

Foreign exceptions (aiokafka's, DuckDB's, httpx's) are mapped to these where they enter, `raise ... from exc`.
Texts name cause and remedy and never contain payloads. `exit_code` is what the command line ends with.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class SkillauditError(Exception):
    """Base of every error this project raises on purpose."""

    exit_code: ClassVar[int] = 1


class RetryableError(SkillauditError):
    """Nothing was lost; the same call may succeed later."""


class RejectedError(SkillauditError):
    """This call can't succeed as it stands; change it."""


class StopError(SkillauditError):
    """Going on would lose or falsify a record; a person has to look."""

    exit_code = 5


class OutboxFullError(RetryableError):
    """The outbox has no room for this event within the allowed wait; the event took no number."""


class UnreachableError(RetryableError):
    """A broker or a server doesn't answer."""

    exit_code = 7


class DiskFullError(RetryableError):
    """A file system has no room for what was to be written; nothing of it is kept in part. Free some space."""

    exit_code = 7


class LockedError(RetryableError):
    """Another process holds the database or a source; the text names it."""

    exit_code = 7


class NotYetMaterializedError(RetryableError):
    """What this session wrote has not reached the database within `session_wait_ms_max`."""

    exit_code = 8


class QueryTimeoutError(RetryableError):
    """A read took longer than `query_timeout_ms` and was interrupted; ask for less, or allow more time."""

    exit_code = 8


class InvalidRecordError(RejectedError):
    """A record, argument or response breaks the format; the text names the field and the remedy."""


class UnsupportedVersionError(InvalidRecordError):
    """A record carries a format version or type this release doesn't know; upgrade the consumer, then replay."""


class RecordTooLargeError(RejectedError):
    """The event exceeds `record_bytes_max`; it took no number."""


class RunStateError(RejectedError):
    """The run can't take this call: it is finished, or was begun before a fork."""


class RunNotFoundError(RejectedError, LookupError):
    """No run with this id is stored."""

    exit_code = 3

    def __init__(self, run_id: str) -> None:
        super().__init__(f"no run {run_id!r} is stored here; `skillaudit runs` lists those that are")
        self.run_id = run_id


class DeadLetterNotFoundError(RejectedError, LookupError):
    """No dead letter with this id is stored."""

    exit_code = 3

    def __init__(self, dead_letter_id: int) -> None:
        super().__init__(
            f"no dead letter {dead_letter_id} is stored here; `skillaudit dead-letters list` shows them"
        )
        self.dead_letter_id = dead_letter_id


class HoldNotFoundError(RejectedError, LookupError):
    """No hold of this id is in force."""

    exit_code = 3

    def __init__(self, hold_id: str) -> None:
        super().__init__(
            f"no hold {hold_id!r} is in force here; `skillaudit acts --holds` lists those that are"
        )
        self.hold_id = hold_id


class HeldError(RejectedError):
    """A hold or the minimum age keeps what the act would touch; the text names it."""


class SettingsError(RejectedError):
    """A setting is unknown, malformed or contradicts another; the text names it and where it came from."""

    exit_code = 2


class UnsupportedPlatformError(StopError):
    """The platform or file system lacks something the delivery contract stands on (locks, mapping)."""

    exit_code = 1


class OutboxMismatchError(StopError):
    """The outbox directory belongs to another reader (cluster and topic, or database)."""


class OutboxCorruptError(StopError):
    """A segment or acknowledgement is damaged in a way that recovery must not guess about."""


class DatabaseError(StopError):
    """The database refuses to work (damaged, disk full, not ours); the text carries the engine's words."""


class UnopenedError(DatabaseError):
    """A file that was to be read is no database of this project, or can't be opened: nothing of it was looked at."""

    exit_code = 7


class SchemaVersionError(DatabaseError):
    """The database was written by a newer release; upgrade this one. Nothing was changed."""


class HistoryLostError(StopError):
    """The topic no longer holds what the stored position points at (recreated, truncated, retention past it)."""

    def __init__(self, text: str, partition: str = "") -> None:
        super().__init__(text)
        self.partition = partition
        """Whose history it is; empty where no single partition can be named."""


class PoisonLimitError(StopError):
    """Too many records in a row or in share are malformed: a bad deployment, not single bad records."""

    def __init__(self, text: str, place: str = "", refused: Mapping[str, int] | None = None) -> None:
        super().__init__(text)
        self.place = place
        """`partition#offset` of the first malformed record of the batch that was not taken."""
        self.refused: Mapping[str, int] = refused or {}
        """Partition -> offset behind what was not taken of it. Whoever is past all of these has got past the trouble."""


class FencedError(StopError):
    """Another materializer moved a stored position meanwhile; this one must not write any more."""
