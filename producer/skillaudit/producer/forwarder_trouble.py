"""What keeps a forwarder from its work, said in the log at each change and then at intervals; and what was refused for good.

Troubles of different kinds begin and end by themselves: a broker that answers says nothing about a disk that is full.
"""

from __future__ import annotations

import logging
from enum import Enum
from pathlib import Path

from skillaudit.contract.clock import Clock
from skillaudit.contract.telling import Untold
from skillaudit.contract.words import counted

logger = logging.getLogger("skillaudit.producer.forwarder")


class Trouble(Enum):
    """What goes wrong."""

    PUBLISHING = "publishing"
    LEADERLESS = "leaderless"
    """One partition; the others go on."""
    READING = "reading"
    SAVING = "saving"
    """Acknowledgements, or what is kept beside a source; records are sent all the same."""


class Troubles:
    """Those of one forwarder, each of the publisher, of one partition or of one source."""

    def __init__(self, outbox_dir: Path, clock: Clock, log_interval_ms: int) -> None:
        self._outbox_dir = outbox_dir
        self._clock = clock
        self._log_interval_us = log_interval_ms * 1_000
        self._reasons: dict[Trouble, dict[str, str]] = {}
        self._logged_us: dict[Trouble, int] = {}
        self._refusals = Untold(log_interval_ms / 1_000)
        self._refusal = ""

    @property
    def reason(self) -> str:
        """What is wrong now; empty where nothing is."""
        for reasons in self._reasons.values():
            for reason in reasons.values():
                return reason
        return ""

    def begin(self, trouble: Trouble, reason: str, subject: str = "") -> None:
        """It is there, maybe still: a line if no trouble of this kind was, and then one per interval."""
        reasons = self._reasons.setdefault(trouble, {})
        now_us = self._clock.steady_us()
        if not reasons or now_us - self._logged_us[trouble] >= self._log_interval_us:
            logger.warning(
                "forwarding from %s waits: %s; events stay in the outbox, attempts go on",
                self._outbox_dir,
                reason,
            )
            self._logged_us[trouble] = now_us
        reasons[subject] = reason

    def end(self, trouble: Trouble, subject: str = "") -> None:
        """It is over; a line if it was the last one of all."""
        reasons = self._reasons.get(trouble)
        if reasons is None or reasons.pop(subject, None) is None or reasons:
            return
        del self._reasons[trouble]
        if not self._reasons:
            logger.warning("forwarding from %s goes on", self._outbox_dir)

    def refuse(self, reason: str) -> None:
        """A record was refused for good and is kept: a line for the first one, then one per interval."""
        self._refusal = reason
        self._say_refused(self._refusals.add(1, self._clock.steady_us()))

    def tell(self, *, last: bool = False) -> None:
        """Say how many were refused since the last line, if it is time; with `last` at any time."""
        self._say_refused(self._refusals.due(self._clock.steady_us(), last=last))

    def _say_refused(self, number: int) -> None:
        if number:
            logger.warning(
                "%s from %s refused for good and kept in refused/ beside its source: %s",
                counted(number, "record"),
                self._outbox_dir,
                self._refusal,
            )
