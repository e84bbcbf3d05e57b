"""What the Kafka clients of this part share: errors mapped where they enter, topics asked for without making them, an end
within a bound. With `anchors/kafka.py` and `kafka_records.py` all that imports aiokafka here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from typing import Any, Final

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from aiokafka import errors as kafka_errors
from aiokafka.protocol.metadata import MetadataRequest

from skillaudit.contract.errors import UnreachableError

CLOSE_TIMEOUT_S: Final = 2.0


@contextlib.contextmanager
def mapped_errors(doing: str, where: str) -> Generator[None]:
    """What aiokafka raises becomes ours where it enters."""
    try:
        yield
    except (kafka_errors.KafkaError, OSError, TimeoutError) as exc:
        raise UnreachableError(f"can't {doing} {where}: {str(exc) or type(exc).__name__}") from exc


async def cluster_metadata(client: Any, topics: list[str]) -> Any:
    """The cluster's id and these topics. Asked by hand: the client's own request would create a missing topic with the
    broker's defaults.
    """
    request = MetadataRequest(topics, allow_auto_topic_creation=False)
    return (await client.send(client.get_random_node(), request)).to_object()


async def stopped(client: Any) -> None:
    """End a client, whatever it says: it is thrown away either way."""
    with contextlib.suppress(kafka_errors.KafkaError, OSError, TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await client.stop()
