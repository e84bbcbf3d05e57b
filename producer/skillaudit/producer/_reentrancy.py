"""Calls that come from inside an append on the same thread: signal handlers and finalizers.

Python runs both between two bytecodes of whatever the thread is doing. If that is an append, the thread holds locks
(the run's, the source's, the outbox's own) that the new call would wait for without end. So a thread that is about to
take such a lock enters itself in `BUSY`; a call that finds its own thread there takes no lock at all, queues its work
(`defer`), and the interrupted frame does it before it returns (`leave`).

    BUSY[ident] = None              no call between this line and `try`: CPython looks for signals at calls and jumps back
    try: ...
    finally:
        if BUSY[ident] is None: del BUSY[ident]
        else: leave(ident)

An exception that a signal handler raises (KeyboardInterrupt, a timeout) may leave queued work undone when it hits
`leave` itself; each piece of work therefore also stands in its owner's own queue, and the owner's next call does it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from threading import get_ident
from typing import Final

BUSY: Final[dict[int, list[Callable[[], None]] | None]] = {}
"""Thread -> the work its handlers left behind, while it is inside an append."""


def defer(work: Callable[[], None]) -> None:
    """Have the interrupted frame of this thread do `work`; it must not raise, and finds the thread still in `BUSY`."""
    ident = get_ident()
    queue = BUSY[ident]
    if queue is None:
        BUSY[ident] = [work]
    else:
        queue.append(work)


def leave(ident: int) -> None:
    """Do what was deferred, in order, also what handlers defer meanwhile; then take the thread out of `BUSY`."""
    try:
        while queue := BUSY[ident]:
            queue.pop(0)()
    finally:
        del BUSY[ident]


def guarded(work: Callable[[], None]) -> None:
    """Do `work`, which takes such locks, as described above; at once if this thread is not inside an append, else when
    the interrupted frame is done. Its exceptions come out only in the first case.
    """
    ident = get_ident()
    if ident in BUSY:
        defer(work)
        return
    BUSY[ident] = None
    try:
        work()
    finally:
        if BUSY[ident] is None:
            del BUSY[ident]
        else:
            leave(ident)


os.register_at_fork(after_in_child=BUSY.clear)
