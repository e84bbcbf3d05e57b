"""What a consuming service is at, for people, `/readyz` and metrics."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from skillaudit.consumer.notary import NotaryStatus
from skillaudit.contract.errors import DatabaseError


class ServiceState(Enum):
    """NEW -> STARTING -> RUNNING <-> RETRYING -> STOPPED, or FAILED from anywhere."""

    NEW = "new"
    STARTING = "starting"
    RUNNING = "running"
    RETRYING = "retrying"
    """The other side does not answer; what is stored can be read."""
    STOPPED = "stopped"
    FAILED = "failed"


@dataclass(slots=True)
class ServiceStatus:
    """Written by the service's parts, read by anybody."""

    state: ServiceState = ServiceState.NEW
    records: int = 0
    batches: int = 0
    rate: float = 0.0
    """Records per second over the last seconds."""
    lag: dict[str, int] = field(default_factory=dict[str, int])
    """Partition -> offsets behind the end last seen; for an outbox 1 means that more waits."""
    outcomes: dict[str, int] = field(default_factory=dict[str, int])
    """What became of records, by outcome, since the start."""
    last_error: str = ""
    apply_ms: float = 0.0
    """How long the last batch took."""
    notary: NotaryStatus = field(default_factory=NotaryStatus)
    """How sealing and anchoring stand."""

    def not_open(self) -> DatabaseError:
        """Why there is no database to ask."""
        if self.state is ServiceState.FAILED:
            return DatabaseError(f"the consumer has stopped: {self.last_error}")
        return DatabaseError(f"the consumer is {self.state.value}, its database is not open")
