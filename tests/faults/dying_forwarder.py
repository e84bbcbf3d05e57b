"""A host's forwarder that may kill itself at an exact point, or has a mechanism switched off.

`python -m tests.faults.dying_forwarder TRIP`, settings from the environment, until SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from tests.faults.dying_agent import Trip, arm
from tests.faults.switched_off import HastyPublisher, write_acknowledgement_in_place

from skillaudit.contract.settings import Settings
from skillaudit.producer import forwarder_source
from skillaudit.producer.forwarder_host import make_publisher, run_host_forwarder


class OnceAcknowledged:
    """A publisher that says when it has the first acknowledgement: what a process does until then is its beginning."""

    def __init__(self, publisher: Any, begin: Callable[[], None]) -> None:
        self._publisher = publisher
        self._begin: Callable[[], None] | None = begin

    def __getattr__(self, name: str) -> Any:
        return getattr(self._publisher, name)

    async def send(self, partition: int, records: Sequence[tuple[bytes, bytes]]) -> int:
        """As the publisher's."""
        offset = int(await self._publisher.send(partition, records))
        if self._begin is not None:
            begin, self._begin = self._begin, None
            begin()
        return offset


async def main(trip: Trip) -> None:
    """Forward until told to end."""
    settings, stop = Settings.load(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    publisher: Any = make_publisher(settings)
    if trip.off == "acknowledged-by-broker":
        publisher = HastyPublisher(publisher)
    if trip.off == "replaced-whole":
        vars(forwarder_source)["write_acknowledgement"] = write_acknowledgement_in_place
    await run_host_forwarder(settings, stop, publisher=OnceAcknowledged(publisher, lambda: arm(trip)))  # type: ignore[arg-type]


if __name__ == "__main__":
    asyncio.run(main(Trip(**json.loads(sys.argv[1]))))
