"""A host's forwarder that may kill itself at an exact point, or has a mechanism switched off.

`python -m tests.faults.dying_forwarder TRIP`, settings from the environment, until SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys

from tests.faults.dying_agent import Trip, arm

from skillaudit.contract.settings import Settings
from skillaudit.producer.forwarder_host import make_publisher, run_host_forwarder


async def main(trip: Trip) -> None:
    """Forward until told to end."""
    settings, stop, publisher = Settings.load(), asyncio.Event(), None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    if trip.off == "acknowledged-by-broker":
        from tests.faults.switched_off import HastyPublisher

        publisher = HastyPublisher(make_publisher(settings))
    arm(trip)
    await run_host_forwarder(settings, stop, publisher=publisher)  # type: ignore[arg-type]


if __name__ == "__main__":
    asyncio.run(main(Trip(**json.loads(sys.argv[1]))))
