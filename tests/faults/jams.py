"""What rows of stuck Kafka clients share, on the mock cluster and on a real broker: a mortal sender, batches in disorder."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import orjson
from aiokafka import AIOKafkaProducer
from tests.faults.oracle import must
from tests.faults.stage_kafka import NeverRebuilt

from skillaudit.contract.settings import Settings
from skillaudit.producer.kafka import KafkaPublisher


class NeverGivesUp(KafkaPublisher):
    """Waits for an acknowledgement as long as it takes."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._ack_timeout_s = float("inf")


class Mortal(KafkaPublisher):
    """Its client's sender can be killed; the client itself notices nothing, or as much as it does of a bug of its own."""

    opened = 0
    """How often."""
    killed: asyncio.Task[Any]
    """The sender that was killed, once one was: it is dead when this is done."""

    async def open(self) -> str:
        """As usual, counted."""
        self.opened += 1
        return await super().open()

    def kill_sender(self, *, silently: bool) -> bool:
        """Whether there was one."""
        producer = self._producer
        if producer is None or producer._sender.sender_task is None:
            return False
        self.killed = producer._sender.sender_task
        if silently:
            producer._sender.sender_task.cancel()
        else:
            producer._sender._muted_partitions = None
        return True


class MortalForever(Mortal, NeverRebuilt):
    """Nobody supervises it."""


class MortalPatient(Mortal, NeverGivesUp):
    """Nobody bounds the wait for an acknowledgement."""


def assert_in_order(records: Sequence[tuple[bytes, bytes]]) -> None:
    """What was stored twice apart, each source's records are in the order in which they were recorded."""
    first: dict[bytes, list[bytes]] = {}
    for key, value in dict.fromkeys(records):
        first.setdefault(key, []).append(value)
    for key, values in first.items():
        numbers = [int(v.split(b'"seq":', 1)[1].split(b",", 1)[0]) for v in values if b'"type":"run.' in v]
        must(numbers == sorted(numbers), f"{key.decode()} arrived as {numbers}")


def runs_out_of_order(sent: dict[int, list[tuple[bytes, bytes]]]) -> int:
    """How many runs have an event that lies behind one of a higher number, and not before it, too."""
    overtaken = 0
    for records in sent.values():
        numbers: dict[str, list[int]] = {}
        for _, value in dict.fromkeys(records):
            record = orjson.loads(value)
            if record["type"] == "run.log":
                numbers.setdefault(record["run_id"], []).append(record["seq"])
        overtaken += sum(seqs != sorted(seqs) for seqs in numbers.values())
    return overtaken


async def send_overtaking(
    bootstrap: str,
    topic: str,
    sent: dict[int, list[tuple[bytes, bytes]]],
    chance: random.Random,
) -> int:
    """Send the same records with batches swapped, and some sent twice. Returns how many batches were moved."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap)
    await producer.start()
    moved = 0
    try:
        for partition, records in sent.items():
            batches: list[list[tuple[bytes, bytes]]] = []
            left = list(records)
            while left:
                size = chance.randint(2, 12)
                batches.append(left[:size])
                left = left[size:]
            for place in range(len(batches) - 1):
                if chance.random() < 0.4:
                    batches[place : place + 2] = [batches[place + 1], batches[place]]
                    moved += 1
                if chance.random() < 0.1:
                    batches.append(batches[place])
            for batch in batches:
                built = producer.create_batch()
                for key, value in batch:
                    assert built.append(key=key, value=value, timestamp=None) is not None
                built.close()
                await (await producer.send_batch(built, topic, partition=partition))
    finally:
        await producer.stop()
    return moved
