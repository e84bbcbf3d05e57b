"""Waiting for a condition, bounded: never for a length of time."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

_LOOK_AGAIN_S = 0.02


async def until(condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """What the condition says once that is true; a coroutine function is awaited. TimeoutError names the condition."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = condition()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {timeout_s:g} s: {getattr(condition, '__qualname__', condition)}")
        await asyncio.sleep(_LOOK_AGAIN_S)


def until_now(condition: Callable[[], Any], timeout_s: float = 30.0) -> Any:
    """The same where there is no event loop."""
    return asyncio.run(until(condition, timeout_s))
