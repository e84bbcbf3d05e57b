"""Consumer services in this process, with sources of other kinds in the place of the product's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from tests.faults.stage import DRAIN_S, consume_with

from skillaudit.consumer.database import Database
from skillaudit.consumer.dead_letters import list_dead_letters, replay_dead_letters
from skillaudit.consumer.materializer import Materializer
from skillaudit.consumer.service import ConsumerService, make_source
from skillaudit.contract.records import LIST_LIMIT_MAX
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import RecordBatch, RecordSource

Wrap = Callable[[RecordSource], Any]


def as_it_is(source: RecordSource) -> Any:
    """The product's own source."""
    return source


async def consume_through(
    settings: Settings,
    wrap: Wrap = as_it_is,
    *,
    service: type[ConsumerService] = ConsumerService,
    timeout_s: float = DRAIN_S,
    **options: Any,
) -> None:
    """A consumer takes everything there is through this source, then ends in order."""

    def make(own: Settings) -> ConsumerService:
        return service(own, source=lambda database: wrap(make_source(own)(database)), **options)

    await consume_with(settings, make, timeout_s=timeout_s)


class HalfOfThePartitions:
    """What a consumer group gives each of two members."""

    def __init__(self, source: RecordSource, half: int) -> None:
        self._source = source
        self._half = half

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    async def poll(self, records_max: int, timeout_ms: int) -> RecordBatch:
        """As the source's, of the own partitions."""
        batch = await self._source.poll(records_max, timeout_ms)
        records = [record for record in batch.records if self._mine(record.partition)]
        ends: Mapping[str, int] = {name: end for name, end in batch.ends.items() if self._mine(name)}
        return RecordBatch(records, ends, batch.findings, batch.closed)

    def _mine(self, partition: str) -> bool:
        return int(partition.rpartition("/")[2]) % 2 == self._half


def replay_all(database: Database, materializer: Materializer) -> int:
    """What `skillaudit dead-letters replay --all` does; answers how many are events now. Closes the materializer."""
    replayed = last = 0
    while waiting := list_dead_letters(database, "waiting", LIST_LIMIT_MAX, last):
        last = waiting[-1].id
        replayed += replay_dead_letters(materializer, [letter.id for letter in waiting]).replayed
    materializer.close()
    return replayed
