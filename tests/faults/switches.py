"""Consumers that do without one of their mechanisms: another part behind the same interface, or a subclass.

The product itself has no switch for any of them.

one-transaction    positions are committed by themselves, after the rows
compare-and-set    a position is overwritten whoever moved it
broker-time        the silence of sources is judged by this machine's clock
migrated-whole     every statement of a migration is committed by itself
purged-whole       every statement of a purge is committed by itself
sealed-whole       rows are copied to the sealed table and taken out of the hot one in two transactions
numbers-kept       of a run that is known no number is known
"""

from __future__ import annotations

from typing import Any

from tests.faults.fuse import Fuse, FusedCursor
from tests.faults.switches_consumer import NumbersForgotten

from skillaudit.consumer.materializer import Materializer
from skillaudit.contract.clock import Clock, SystemClock


class PositionsAlone(FusedCursor):
    """Commits what a batch wrote before its positions are written."""

    def execute(self, query: str, *parameters: Any) -> Any:
        """As the engine's, with two statements more."""
        if "INTO store.positions" in query or "UPDATE store.positions" in query:
            super().execute("COMMIT")
            super().execute("BEGIN")
        return super().execute(query, *parameters)


class PositionsOverwritten(FusedCursor):
    """Moves a position wherever it is."""

    def execute(self, query: str, *parameters: Any) -> Any:
        """As the engine's, without the comparison."""
        query = query.replace("AND p.next_offset = m.expected", "")
        return super().execute(query.replace("AND next_offset = $2", "AND $2 >= 0"), *parameters)


class EveryStatementAlone(FusedCursor):
    """Commits every statement by itself."""

    def execute(self, query: str, *parameters: Any) -> Any:
        """As the engine's, without transactions."""
        return self if query in ("BEGIN", "COMMIT", "ROLLBACK") else super().execute(query, *parameters)


class StatementsAlone(FusedCursor):
    """Commits every statement of one phase by itself."""

    phase = ""
    _began = False

    def _execute(self, query: str, *parameters: Any) -> Any:
        if query in ("BEGIN", "COMMIT", "ROLLBACK"):
            self._began = query == "BEGIN"
        elif self._began and self._phase == self.phase:
            super()._execute("COMMIT")
            super()._execute("BEGIN")
            self._phase = self.phase
        return super()._execute(query, *parameters)


class PurgesAlone(StatementsAlone):
    """Of purges."""

    phase = "purge"


class MovesAlone(StatementsAlone):
    """Of seals."""

    phase = "seal"


class LocalTime(FusedCursor):
    """Takes this machine's time for the moment up to which a partition was read, when silence is judged."""

    clock: Clock = SystemClock()

    def execute(self, query: str, *parameters: Any) -> Any:
        """As the engine's, with another clock."""
        if "$limit_us" in query:
            query = query.replace("p.read_to_us", str(self.clock.wall_us()))
        return super().execute(query, *parameters)


class ForgetfulMaterializer(Materializer):
    """Takes what is delivered twice for new."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.forget()

    def forget(self) -> None:
        """As before, of another kind."""
        self.remembered = NumbersForgotten(self._cursor, self.remembered.known)


CURSORS: dict[str, type[FusedCursor]] = {
    "one-transaction": PositionsAlone,
    "compare-and-set": PositionsOverwritten,
    "migrated-whole": EveryStatementAlone,
    "purged-whole": PurgesAlone,
    "sealed-whole": MovesAlone,
}
MATERIALIZERS: dict[str, type[Materializer]] = {"numbers-kept": ForgetfulMaterializer}


def cursor_kind(switched_off: str) -> type[FusedCursor]:
    """The cursors of a database that does without a mechanism."""
    return CURSORS.get(switched_off, FusedCursor)


def materializer_kind(switched_off: str) -> type[Materializer]:
    """The materializer that does without one."""
    return MATERIALIZERS.get(switched_off, Materializer)


__all__ = ["Fuse", "cursor_kind", "materializer_kind"]
