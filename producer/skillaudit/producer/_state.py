"""The states of a run's Writer, and which calls they take.

A Writer is made STARTING: its start has no number yet. `start_run` writes the start before it returns, so that callers
only ever see what follows; only inside a signal handler that interrupted an append on its own thread is a Writer handed
out STARTING, and its events wait behind its start until that append is done.

OPEN takes events. A finish moves to FINISHED; where it has to wait behind an interrupted append it moves through
FINISHING, which already refuses everything else. If the outbox has no room for that finish, the run is OPEN again.

INERT is a run that this process can't write any more: it was begun before a fork (the parent goes on with it) or its
sink was closed. Nothing leads out of FINISHED and INERT. A call that the table doesn't list raises `RunStateError` and
changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from skillaudit.contract.errors import RunStateError


class State(Enum):
    """Where a run stands, as its Writer knows it."""

    STARTING = "starting"
    OPEN = "open"
    FINISHING = "finishing"
    FINISHED = "finished"
    INERT = "inert"


class Act(Enum):
    """What moves a Writer, or asks it for something."""

    STARTED = "started"
    LOG = "log"
    DEFER_FINISH = "defer finish"
    FINISH = "finish"
    FINISH_REFUSED = "finish refused"
    FORKED = "forked"
    SINK_CLOSED = "sink closed"


TRANSITIONS: Final[Mapping[tuple[State, Act], State]] = {
    (State.STARTING, Act.STARTED): State.OPEN,
    (State.STARTING, Act.LOG): State.STARTING,
    (State.STARTING, Act.DEFER_FINISH): State.FINISHING,
    (State.STARTING, Act.FORKED): State.INERT,
    (State.STARTING, Act.SINK_CLOSED): State.INERT,
    (State.OPEN, Act.LOG): State.OPEN,
    (State.OPEN, Act.DEFER_FINISH): State.FINISHING,
    (State.OPEN, Act.FINISH): State.FINISHED,
    (State.OPEN, Act.FORKED): State.INERT,
    (State.OPEN, Act.SINK_CLOSED): State.INERT,
    (State.FINISHING, Act.STARTED): State.FINISHING,
    (State.FINISHING, Act.FINISH): State.FINISHED,
    (State.FINISHING, Act.FINISH_REFUSED): State.OPEN,
    (State.FINISHING, Act.FORKED): State.INERT,
    (State.FINISHING, Act.SINK_CLOSED): State.INERT,
    (State.FINISHED, Act.FORKED): State.FINISHED,
    (State.FINISHED, Act.SINK_CLOSED): State.FINISHED,
    (State.INERT, Act.FORKED): State.INERT,
    (State.INERT, Act.SINK_CLOSED): State.INERT,
}

_REASONS: Final[Mapping[State, str]] = {
    State.STARTING: "its start still waits behind an interrupted append",
    State.OPEN: "it is open",
    State.FINISHING: "it is being finished",
    State.FINISHED: "it is finished; begin a child run with start_child, or a new one",
    State.INERT: "it was begun before a fork, or its sink was closed; begin a new run here",
}


def next_state(state: State, act: Act, run_id: str) -> State:
    """The state after `act`; raises `RunStateError` where the table has none."""
    after = TRANSITIONS.get((state, act))
    if after is None:
        raise RunStateError(f"run {run_id!r} takes no {act.value}: {_REASONS[state]}")
    return after
