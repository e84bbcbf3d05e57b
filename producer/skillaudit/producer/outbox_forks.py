"""Noticing a fork on every call for the price of a memory read, where the kernel helps.

Comparing `os.getpid()` costs a system call, a tenth of a whole append. A page that the kernel wipes in forked children
(Linux 4.14: MADV_WIPEONFORK) tells the same, whoever forks, also a C library that runs none of Python's fork hooks.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from typing import Final, Protocol

_WIPE_ON_FORK: Final = 18


class ProcessMark(Protocol):
    """`mark[0]` is true in the process that made it, and false in every process forked from that."""

    def __getitem__(self, index: int, /) -> int:
        """Index 0 is the mark."""
        ...


class PidMark:
    """The mark where the kernel can't wipe pages."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def __getitem__(self, index: int, /) -> int:
        """Compare the process ids."""
        del index
        return os.getpid() == self._pid


def mark_process() -> ProcessMark:
    """A mark of this process."""
    if hasattr(mmap, "MAP_ANONYMOUS"):
        page = mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        with contextlib.suppress(OSError, ValueError):
            page.madvise(_WIPE_ON_FORK)
            page[0] = 1
            return page
    return PidMark()
