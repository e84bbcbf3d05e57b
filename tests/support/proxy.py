"""A TCP proxy on the loopback interface before a Kafka broker, which may lose produce requests and their answers.

It knows of Kafka's protocol that a request begins with its size, its kind and a number, and an answer with its size and that number.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import Callable
from enum import Enum
from typing import Final, Self

_PRODUCE: Final = 0
_HEAD: Final = struct.Struct(">hhi")
_FRAME_BYTES_MAX: Final = 64 * 1024 * 1024


class Fate(Enum):
    """What becomes of a produce request."""

    PASSES = "passes"
    NEVER_ARRIVES = "never arrives"
    """The broker does not get it, and the client no answer."""
    ANSWER_LOST = "answer lost"
    """The broker has it, and the connection is cut in the place of its answer."""
    ANSWER_LATE = "answer late"
    """The broker has it; its answer comes after `late_s`."""


class KafkaProxy:
    """Listens at a port and speaks with a broker at another one; `async with`."""

    def __init__(self, port: int, *, late_s: float) -> None:
        self.port = port
        self.late_s = late_s
        self.fate: Callable[[], Fate] = lambda: Fate.PASSES
        """Asked for each produce request."""
        self._target = 0
        self._server: asyncio.Server | None = None
        self._talks: set[asyncio.Task[None]] = set()

    def forward_to(self, port: int) -> None:
        """Where the broker is."""
        self._target = port

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for talk in tuple(self._talks):
            talk.cancel()
        if self._talks:
            await asyncio.wait(self._talks)
        await self._server.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = asyncio.current_task()
        assert own is not None
        self._talks.add(own)
        fates: dict[int, Fate] = {}
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", self._target)
                try:
                    await self._both_ways(reader, writer, broker_reader, broker_writer, fates)
                finally:
                    broker_writer.close()
        finally:
            writer.close()
            self._talks.discard(own)

    async def _both_ways(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        broker_reader: asyncio.StreamReader,
        broker_writer: asyncio.StreamWriter,
        fates: dict[int, Fate],
    ) -> None:
        """Until one side has ended, or the connection is to be cut."""
        ways = {
            asyncio.ensure_future(self._requests(reader, broker_writer, fates)),
            asyncio.ensure_future(self._answers(broker_reader, writer, fates)),
        }
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _requests(
        self, reader: asyncio.StreamReader, broker: asyncio.StreamWriter, fates: dict[int, Fate]
    ) -> None:
        while True:
            frame = await _frame(reader)
            kind, _, number = _HEAD.unpack_from(frame)
            if kind == _PRODUCE:
                fates[number] = self.fate()
                if fates[number] is Fate.NEVER_ARRIVES:
                    continue
            await _pass_on(broker, frame)

    async def _answers(
        self, broker: asyncio.StreamReader, writer: asyncio.StreamWriter, fates: dict[int, Fate]
    ) -> None:
        while True:
            frame = await _frame(broker)
            (number,) = struct.unpack_from(">i", frame)
            fate = fates.pop(number, Fate.PASSES)
            if fate is Fate.ANSWER_LOST:
                return
            if fate is Fate.ANSWER_LATE:
                await asyncio.sleep(self.late_s)  # the fault's length; what is behind it is late, too
            await _pass_on(writer, frame)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    (size,) = struct.unpack(">i", await reader.readexactly(4))
    if not 0 < size <= _FRAME_BYTES_MAX:
        raise OSError(f"{size} bytes are no frame")
    return await reader.readexactly(size)


async def _pass_on(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(struct.pack(">i", len(frame)) + frame)
    await writer.drain()
