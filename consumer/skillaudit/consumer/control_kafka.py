"""The control log as a Kafka topic of one partition."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace
from typing import Any, Final

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false
from aiokafka import AIOKafkaProducer
from aiokafka import errors as kafka_errors

from skillaudit.consumer.control import ACTS_POLLED_MAX
from skillaudit.consumer.kafka_source import START_ATTEMPTS_MAX, KafkaSource, MissingTopicError
from skillaudit.contract.errors import HistoryLostError, UnreachableError
from skillaudit.contract.kafka_options import connection_options
from skillaudit.contract.settings import Settings
from skillaudit.contract.sources import RecordBatch, StoredPosition

MISSING_RETRY_S: Final = 5.0
"""How often a topic that is not there is looked for again."""
MISSING_ATTEMPTS_MAX: Final = 4
"""How often it is looked for at once, where no act was ever read: a new cluster has none."""
CLOSE_TIMEOUT_S: Final = 2.0

_log = logging.getLogger("skillaudit.consumer")


class KafkaControlLog:
    """`ControlLog` over the topic of the settings.

    A cluster without that topic holds no acts: it is read as empty and looked for again now and then. Whoever wants to
    write an act there is told how to make it.
    """

    def __init__(self, settings: Settings) -> None:
        self.partition = f"{settings.kafka_control_topic}/0"
        self.identity = ""
        self._settings = replace(settings, kafka_topic=settings.kafka_control_topic)
        self._source: KafkaSource | None = None
        self._stored: StoredPosition | None = None
        self._sought_s = 0.0
        self._said = False

    def __repr__(self) -> str:
        """Topic and state."""
        return f"KafkaControlLog({self.partition}, {'open' if self._source else 'not there'})"

    async def open(self, stored: StoredPosition | None) -> None:
        """As `ControlLog.open`."""
        self._stored = stored
        await self._seek()

    async def poll(self, timeout_ms: int) -> RecordBatch:
        """As `ControlLog.poll`."""
        if self._source is None:
            if time.monotonic() - self._sought_s >= MISSING_RETRY_S:
                await self._seek()
            if self._source is None:
                await asyncio.sleep(timeout_ms / 1000)
                return RecordBatch()
        return await self._source.poll(ACTS_POLLED_MAX, timeout_ms)

    async def append(self, act_id: str, line: bytes) -> int:
        """As `ControlLog.append`."""
        limit_s = self._settings.kafka_request_timeout_ms / 1000
        if self._source is None:
            await self._seek()
        if self._source is None:
            raise UnreachableError(f"{self._missing_text()}; nothing was done")
        producer = AIOKafkaProducer(**connection_options(self._settings), acks="all", enable_idempotence=True)
        try:
            async with asyncio.timeout(limit_s):
                await producer.start()
                topic = self._settings.kafka_control_topic
                sent: Any = await producer.send_and_wait(topic, line, key=act_id.encode(), partition=0)
        except (kafka_errors.KafkaError, OSError, TimeoutError) as exc:
            raise UnreachableError(
                f"the act {act_id} was not acknowledged by {self.partition} ({exc or type(exc).__name__}); it may have "
                "been written all the same: `skillaudit acts` shows it then. To ask again does no harm"
            ) from exc
        finally:
            with contextlib.suppress(
                kafka_errors.KafkaError, OSError, TimeoutError
            ):  # thrown away either way
                async with asyncio.timeout(CLOSE_TIMEOUT_S):
                    await producer.stop()
        return int(sent.offset) + 1

    async def close(self) -> None:
        """As `ControlLog.close`."""
        source, self._source = self._source, None
        if source is not None:
            await source.close()

    async def _seek(self) -> None:
        """Open the topic if it is there."""
        self._sought_s = time.monotonic()
        attempts = START_ATTEMPTS_MAX if self._stored else MISSING_ATTEMPTS_MAX
        source = KafkaSource(self._settings, topic_attempts_max=attempts)
        try:
            await source.open({self.partition: self._stored} if self._stored else {})
        except MissingTopicError as exc:
            await source.close()
            if self._stored is not None and self._stored.next_offset:
                raise HistoryLostError(
                    f"{self.partition} held acts and is not there any more; put the topic back. `skillaudit consume "
                    f"--accept-history-loss {self.partition}` goes on without, and records it",
                    self.partition,
                ) from exc
            if not self._said:
                self._said = True
                _log.warning("%s; acts can't be requested until then", self._missing_text())
        except BaseException:
            await source.close()
            raise
        else:
            self._source, self.identity = source, source.identity

    def _missing_text(self) -> str:
        topic = self._settings.kafka_control_topic
        return f"the cluster has no topic {topic}; `skillaudit topics` creates it"
