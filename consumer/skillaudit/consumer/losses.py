"""What goes wrong with records, said in the consumer's log: each kind at once the first time, then once per interval with the
count since. The figures beside it (`metrics`) tell the same of what is stored.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from skillaudit.contract.clock import Clock
from skillaudit.contract.runrecord import Outcome
from skillaudit.contract.telling import TELL_INTERVAL_S, Untold
from skillaudit.contract.words import counted, named

HOSTS_MAX: Final = 100
"""Hosts remembered by name between two lines; more are counted and not named."""

_log = logging.getLogger("skillaudit.consumer")


class Loss(Enum):
    """What is told, each by itself."""

    CONFLICTS = "conflicts"
    DEAD_LETTERS = "dead letters"
    REFUSED = "refused"
    LOST = "lost"


_NOUNS: Final = {Loss.LOST: "event"}
_TEXTS: Final[Mapping[Loss, str]] = {
    Loss.CONFLICTS: "%s kept aside as conflicts: another record of their run holds their place; `skillaudit show RUN` names them",
    Loss.DEAD_LETTERS: "%s kept as dead letters: no events that this version understands; see `skillaudit dead-letters list`",
    Loss.REFUSED: "%s refused for good by the broker, as heartbeats tell (%s); the bytes are in refused/ there",
    Loss.LOST: "%s dropped by agents in best effort, as heartbeats tell (%s); their runs declare which",
}


@dataclass(slots=True)
class Told:
    """By how much more sources say that they were refused and have lost, by host."""

    refused: Counter[str] = field(default_factory=Counter[str])
    lost: Counter[str] = field(default_factory=Counter[str])

    def add(self, host: str, refused: int, lost: int) -> None:
        """A heartbeat says so many more; counts that went down are a source that begins anew, and say nothing."""
        if refused > 0:
            self.refused[host] += refused
        if lost > 0:
            self.lost[host] += lost

    def update(self, other: Told) -> None:
        """Count another portion."""
        self.refused.update(other.refused)
        self.lost.update(other.lost)


class LossLog:
    """Says them. To be told of each batch, and asked now and then whether something is left to say."""

    def __init__(self, clock: Clock, interval_s: float = TELL_INTERVAL_S) -> None:
        self._clock = clock
        self._untold = {loss: Untold(interval_s) for loss in Loss}
        self._hosts: dict[Loss, set[str]] = {Loss.REFUSED: set(), Loss.LOST: set()}

    def take(self, outcomes: Mapping[Outcome, int], told: Told) -> None:
        """What became of a batch that is committed."""
        for loss, by_host in ((Loss.REFUSED, told.refused), (Loss.LOST, told.lost)):
            if by_host:
                room = HOSTS_MAX - len(self._hosts[loss])
                self._hosts[loss].update(list(by_host)[:room])
                self._add(loss, by_host.total())
        self._add(Loss.CONFLICTS, outcomes.get(Outcome.CONFLICT, 0))
        self._add(Loss.DEAD_LETTERS, outcomes.get(Outcome.DEAD_LETTER, 0))

    def tell(self, *, last: bool = False) -> None:
        """Say what is due; with `last` everything."""
        now_us = self._clock.steady_us()
        for loss, untold in self._untold.items():
            self._say(loss, untold.due(now_us, last=last))

    def _add(self, loss: Loss, number: int) -> None:
        if number:
            self._say(loss, self._untold[loss].add(number, self._clock.steady_us()))

    def _say(self, loss: Loss, number: int) -> None:
        if not number:
            return
        words = [counted(number, _NOUNS.get(loss, "record"))]
        if loss in self._hosts:
            words.append(named("host", sorted(self._hosts[loss])))
            self._hosts[loss].clear()
        _log.warning(_TEXTS[loss], *words)
