"""Before a seal says that runs finished: are they stored as their heads say?

What comes in is stored with its tags unchecked, so that storing costs nothing. Here the runs whose finish a seal takes in
are computed again, set-wise in the engine, and a run that is another one than its head says becomes an incident in the
journal, right behind the seal. That finds a faulty disk, engine or release within a minute; it is no proof for anybody
else: `skillaudit verify` is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import duckdb

from skillaudit.contract.engine import engine_errors
from skillaudit.contract.words import counted
from skillaudit.proof.acts import Act, ActKind, act_line
from skillaudit.proof.leaves import SealedRange
from skillaudit.proof.statements import statements

_SQL: Final = statements("sql/proving.sql")
EVENTS_MAX: Final = 4_000_000
"""Events computed again for one seal: at 20,000 a second a minute has 1.2 million. What is more is left to `verify`."""
CHUNK_EVENTS_MAX: Final = 50_000
"""Some 0.3 s of a core: what writes and reads meanwhile waits no longer for the engine."""
CHUNK_KEYS_MAX: Final = 10_000
"""How far apart the keys of a chunk's runs may be: events lie by key, and what is in between is read past."""
CHUNKS_MAX: Final = 64


@dataclass(frozen=True, slots=True)
class _Finished:
    run_key: int
    run_id: str
    place: str
    head: bytes
    events: int


class HeadProver:
    """`sealer.Prover`: one `incident` per run that is not what its head says."""

    def __init__(self, actor: str = "sealer") -> None:
        """`actor`: who the incidents say they come from."""
        self._actor = actor
        self.events = 0
        """Computed again so far."""
        self.skipped = 0
        """Runs left out, because a seal had more of them than its bounds allow."""

    def __call__(
        self, cursor: duckdb.DuckDBPyConnection, ranges: Sequence[SealedRange], now_us: int
    ) -> list[bytes]:
        """As `sealer.Prover`."""
        parameters = {
            "partitions": [part.partition for part in ranges],
            "firsts": [part.first for part in ranges],
            "ends": [part.end for part in ranges],
        }
        with engine_errors("find the runs that finished"):
            rows = cursor.execute(_SQL["finished"], parameters).fetchall()
        finished = [_Finished(row[0], row[1], row[2], bytes(row[3]), row[4]) for row in rows]
        chunks = list(_chunks(finished))
        self.skipped += len(finished) - sum(map(len, chunks))
        return [line for chunk in chunks for line in self._check(cursor, chunk, now_us)]

    def _check(
        self, cursor: duckdb.DuckDBPyConnection, chunk: Sequence[_Finished], now_us: int
    ) -> Iterator[bytes]:
        keys = [run.run_key for run in chunk]
        with engine_errors("compute heads again"):
            rows = cursor.execute(
                _SQL["heads"], {"first": keys[0], "last": keys[-1], "keys": keys}
            ).fetchall()
        self.events += sum(run.events for run in chunk)
        found = {row[0]: (bytes(row[1]), int(row[2])) for row in rows}
        for run in chunk:
            head, altered = found.get(run.run_key, (run.head, 0))  # gone meanwhile: purged
            if head != run.head or altered:
                yield self._incident(run, altered, now_us)

    def _incident(self, run: _Finished, altered: int, now_us: int) -> bytes:
        what = (
            f"{counted(altered, 'event')} not as tagged" if altered else "its tags agree, its head does not"
        )
        name = sha256(f"{run.run_id}\n{run.place}\n{now_us}".encode()).hexdigest()[:32]
        act = Act(
            act_id=f"incident-{name}",
            kind=ActKind.INCIDENT,
            actor=self._actor,
            at_us=now_us,
            reason=f"the stored run differs from the head in {run.place}: {what}",
            scope={"run": run.run_id, "ledger": run.place},
        )
        return act_line(act)


def _chunks(finished: Sequence[_Finished]) -> Iterator[list[_Finished]]:
    """Runs whose keys are near each other, in order, within the bounds; the newest first, for what is older is further
    apart.
    """
    chunk: list[_Finished] = []
    events = total = chunks = 0
    for run in reversed(finished):
        if total + run.events > EVENTS_MAX or chunks == CHUNKS_MAX:
            break
        far = bool(chunk) and chunk[0].run_key - run.run_key > CHUNK_KEYS_MAX
        if chunk and (far or events + run.events > CHUNK_EVENTS_MAX):
            yield chunk[::-1]
            chunk, events, chunks = [], 0, chunks + 1
        chunk.append(run)
        events, total = events + run.events, total + run.events
    if chunk and chunks < CHUNKS_MAX:
        yield chunk[::-1]
