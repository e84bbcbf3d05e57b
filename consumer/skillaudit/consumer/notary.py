"""Sealing, signing and publishing beside the consumer: the proof's sealer and publisher, hosted.

    prepare()   before anything is consumed: leaves that an anchor has and the journal lacks are put back
    step()      once a second: seal what is due, sign, in one thread; publish to the anchors, in another

Both threads read by cursors of their own and share nothing with ingest but the writer's lock, for as long as a leaf is
appended. A step that fails for a passing reason is made again; one that must not be passed over ends the consumer by
name: a journal that does not continue what was signed, a rebuilt ledger that is not the one sealed.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

import duckdb

from skillaudit.consumer.materializer import Materializer
from skillaudit.contract.clock import Clock
from skillaudit.contract.errors import (
    DatabaseError,
    FencedError,
    RetryableError,
    SettingsError,
    UnreachableError,
)
from skillaudit.contract.settings import Settings
from skillaudit.contract.words import counted
from skillaudit.proof.anchors import Anchor, newest_of, open_anchor
from skillaudit.proof.decided import FileCuts
from skillaudit.proof.journal import Journal
from skillaudit.proof.proving import HeadProver
from skillaudit.proof.publishing import AnchorStatus, Publisher
from skillaudit.proof.restoring import restore_journal, unmet_from
from skillaudit.proof.sealer import FileState, Sealer, Signing
from skillaudit.proof.sealing import SealPolicy

STEP_INTERVAL_S: Final = 1.0
BUSY_SHARE_PERCENT_MAX: Final = 5
"""Of the time, for sealing while records come faster than they are stored."""
FAILURES_MAX: Final = 30
"""Steps in a row that the database refuses, a second apart, before that counts as no passing trouble."""

_log = logging.getLogger("skillaudit.consumer")


def rest_s(took_s: float, most_s: float) -> float:
    """How long to let go after a step that took so long, while records come faster than they are stored: the sealer checks what
    it seals on the cores that store, so it rather falls behind, and catches up when there is less to store. `most_s`:
    how far it may fall behind.
    """
    return min(took_s * (100 / BUSY_SHARE_PERCENT_MAX - 1), most_s)


class NotaryState(Enum):
    """OFF for good; STARTING -> MEETING (a restored journal's seals) -> SEALING; SEALING <-> RETRYING."""

    OFF = "off"
    """Nothing is sealed here."""
    STARTING = "starting"
    MEETING = "meeting"
    """The ledger is being made again from the events; nothing is sealed until it has met what was sealed before."""
    SEALING = "sealing"
    RETRYING = "retrying"
    """The last step failed for a reason that may pass."""


@dataclass(slots=True)
class NotaryStatus:
    """For people, `/readyz` and metrics."""

    state: NotaryState = NotaryState.OFF
    signs: bool = False
    """Whether a key is configured."""
    sealed_us: int = 0
    """When nothing waited for a seal, last; wall clock."""
    behind_rows: int = 0
    """Rows of the ledger that wait for a seal."""
    rows_sealed: int = 0
    """Since the start."""
    leaves: int = 0
    """Appended to the journal by seals, since the start."""
    incidents: int = 0
    """Journaled because what a seal covers did not agree with the runs."""
    unchecked_runs: int = 0
    """Sealed without being computed again, since the start: a seal had more of them than are computed at once."""
    signed_size: int = 0
    """Leaves that the last checkpoint made here covers; 0: none was made since the start."""
    anchors: tuple[AnchorStatus, ...] = ()
    anchored_us: int = 0
    """When nothing signed waited for an anchor, last; 0 where there is no anchor."""
    lacking: tuple[str, ...] = ()
    """While `MEETING`: some of the rows that were sealed and are not here, by partition."""
    last_error: str = ""

    def seal_age_s(self, now_us: int) -> float:
        """How long rows have waited for a seal; 0 where nothing waits or nothing is sealed here."""
        waiting = self.state is not NotaryState.OFF and self.behind_rows > 0
        return max(now_us - self.sealed_us, 0) / 1e6 if waiting else 0.0

    def anchor_lag_s(self, now_us: int) -> float:
        """How long something signed has waited for an anchor, the slowest counted; 0 where nothing waits."""
        waiting = any(anchor.behind for anchor in self.anchors)
        return max(now_us - self.anchored_us, 0) / 1e6 if waiting else 0.0


class WriterAccess:
    """`ProofDatabase` of whoever writes the database: transactions on the writer's cursor, under its lock."""

    def __init__(self, materializer: Callable[[], Materializer]) -> None:
        """`materializer`: the writer as it is now; it may be another one after the file was opened again."""
        self._materializer = materializer

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """As `ProofDatabase.cursor`."""
        return self._materializer().database.cursor()

    def transaction(self, doing: str) -> contextlib.AbstractContextManager[duckdb.DuckDBPyConnection]:
        """As `ProofDatabase.transaction`."""
        return self._materializer().transaction(doing)


class Notary:
    """Blocking: `prepare` and `step` in one thread, `publish` in another. `status` may be read by any."""

    def __init__(self, settings: Settings, access: WriterAccess, clock: Clock) -> None:
        """Raises `SettingsError` for a key that cannot be read, an anchor that is none, anchors without a key."""
        self._settings = settings
        self._access = access
        self._clock = clock
        self._signing = read_signing(settings)
        self._anchors = open_anchors(settings, self._signing)
        self._publisher = Publisher(access, self._anchors)
        self._prover = HeadProver() if settings.seal_check else None
        self._sealer = self._new_sealer()
        self._failures = 0
        for sentence in kept_too_near(settings):
            _log.warning("%s", sentence)
        now_us = clock.wall_us()
        self.status = NotaryStatus(
            state=NotaryState.STARTING,
            signs=self._signing is not None,
            sealed_us=now_us,
            anchored_us=now_us if self._anchors else 0,
            anchors=self._publisher.status(),
        )

    def __repr__(self) -> str:
        """State, and to whom it publishes."""
        return f"<Notary {self.status.state.value} {self._sealer!r} {len(self._anchors)} anchors>"

    def prepare(self) -> None:
        """Put back what an anchor has and the journal lacks, and take what anchors hold as signed. Before anything is
        consumed, an act least of all: what is appended then has to stand behind it.

        Raises `UnreachableError` where an anchor does not answer and nothing else would tell what was signed before;
        `AnchorConflictError`, `AnchorContentError` and `SigningRefusedError` where its journal is another one.
        """
        if self._signing is None:
            return
        needed = self._journal_size() == 0 or self._signing.state.read() is None
        for anchor in self._anchors:
            try:
                self._meet(anchor, self._signing)
            except UnreachableError as exc:
                if needed:
                    raise UnreachableError(
                        f"{exc}. It may hold a journal that this database lacks: start again when it answers"
                    ) from exc
                _log.warning("%s: %s; it is asked again", anchor.uri, exc)

    def step(self, *, force: bool = False) -> bool:
        """Seal what is due; whether there is more to do at once. Raises what must not be passed over."""
        now_us = self._clock.wall_us()
        try:
            report = self._sealer.step(now_us, force=force)
            meeting = self._is_meeting()
        except (RetryableError, DatabaseError, FencedError) as exc:
            self._note_failure(exc)
            return False
        self._failures = 0
        status = self.status
        status.state = NotaryState.MEETING if meeting else NotaryState.SEALING
        status.last_error = ""
        status.lacking = report.lacking if meeting else ()
        status.behind_rows = report.behind_rows
        if not report.behind_rows and not meeting:
            status.sealed_us = now_us
        status.rows_sealed += report.rows
        status.leaves += len(report.leaves)
        status.incidents += report.incidents
        self._count_unchecked()
        if report.signed:
            status.signed_size = report.signed[-1].size
        if report.incidents:
            _log.error(
                "differs from what was recorded: %s; run `skillaudit verify`",
                counted(report.incidents, "run"),
            )
        return report.more

    def publish(self) -> None:
        """Bring what is signed to the anchors. What an anchor does is in the status."""
        if not self._anchors:
            return
        now_us = self._clock.wall_us()
        try:
            found = self._publisher.step(now_us)
        except (RetryableError, DatabaseError, FencedError) as exc:
            self._note_failure(exc)
            return
        self.status.anchors = found
        if not any(anchor.behind for anchor in found):
            self.status.anchored_us = now_us

    def _count_unchecked(self) -> None:
        unchecked = self._prover.skipped if self._prover else 0
        if unchecked and not self.status.unchecked_runs:
            _log.warning(
                "a seal had too many runs for all to be computed again before it: %s left to `skillaudit verify`; more are"
                " counted as skillaudit_seal_unchecked_runs",
                counted(unchecked, "run"),
            )
        self.status.unchecked_runs = unchecked

    def close(self) -> None:
        """Let go of the anchors; safe to call again."""
        self._publisher.close()

    def _meet(self, anchor: Anchor, signing: Signing) -> None:
        size = self._journal_size()
        newest = newest_of(anchor, size)
        if newest is None:
            return
        if newest.content.checkpoint.size > size:
            _log.warning(
                "%s holds %d leaves of the journal, this database %d: they are put back, and nothing is sealed until the "
                "ledger has met them",
                anchor.uri,
                newest.content.checkpoint.size,
                size,
            )
            restore_journal(self._access, anchor.objects(size), signing.verifiers)
        self._sealer.meet(newest.content.note)

    def _journal_size(self) -> int:
        with contextlib.closing(self._access.cursor()) as cursor:
            return Journal(cursor).size()

    def _is_meeting(self) -> bool:
        if self.status.state is NotaryState.SEALING:
            return False
        with contextlib.closing(self._access.cursor()) as cursor:
            return unmet_from(cursor) is not None

    def _note_failure(self, exc: RetryableError | DatabaseError | FencedError) -> None:
        """A full disk, a file that is opened again, an anchor's hiccup: the next step is made with nothing remembered."""
        if not isinstance(exc, RetryableError):
            self._failures += 1
            if self._failures > FAILURES_MAX:
                raise exc
        if self.status.state is not NotaryState.RETRYING:
            _log.warning("%s; nothing is sealed meanwhile, attempts go on", exc)
        self.status.state, self.status.last_error = NotaryState.RETRYING, str(exc)
        self._sealer = self._new_sealer()

    def _new_sealer(self) -> Sealer:
        policy = SealPolicy(interval_ms=self._settings.seal_interval_ms)
        return Sealer(self._access, policy=policy, signing=self._signing, prover=self._prover)


def read_signing(settings: Settings) -> Signing | None:
    """The keys that the settings name; None for none."""
    if settings.seal_key_file is None:
        return None
    from skillaudit.proof.keys import read_former_keys, read_key  # cryptography is needed by who signs

    signer, file = read_key(settings.seal_key_file), settings.seal_former_key_file
    also, former = read_former_keys(file) if file is not None else ((), ())
    return Signing(
        signers=[signer, *also],
        state=FileState(settings.seal_state),
        former=former,
        cuts=decided_cuts(settings),
    )


def kept_too_near(settings: Settings) -> list[str]:
    """What signs, or remembers what was signed, and lies where the database lies: sentences for whoever runs it. Whoever
    can write or put back the data directory can then sign what he likes, or unsay what was signed.
    """
    if settings.seal_key_file is None:
        return []
    private = [
        ("seal_key_file", settings.seal_key_file),
        ("seal_former_key_file", settings.seal_former_key_file),
    ]
    from skillaudit.proof.keys import lies_in  # cryptography is needed by who signs

    told = [
        f"the key {path} lies in the data directory: whoever gets at the database can sign in its name. Keep it apart, and set"
        f" {name}"
        for name, path in private
        if path is not None and lies_in(path, settings.data)
    ]
    if lies_in(settings.seal_state, settings.data):
        told.append(
            f"what was signed last is kept in the data directory ({settings.seal_state}): an older copy of all of it goes"
            " unnoticed. Set seal_state_file to another disk, or another owner's directory"
        )
    return told


def decided_cuts(settings: Settings) -> FileCuts | None:
    """Where it is kept what a database made again lacks, until that is signed; None where nothing is signed."""
    if settings.seal_key_file is None:
        return None
    return FileCuts(settings.seal_state.with_name(f"{settings.seal_state.name}.cuts"))


def open_anchors(settings: Settings, signing: Signing | None) -> list[Anchor]:
    """The anchors that the settings name."""
    uris = [uri.strip() for uri in settings.anchors.split(",") if uri.strip()]
    if uris and signing is None:
        raise SettingsError(
            "anchors keep signed checkpoints: set seal_key_file, too; `skillaudit keys new` makes a key"
        )
    return [open_anchor(uri, settings) for uri in uris]
