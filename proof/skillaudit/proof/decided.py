"""Which cuts a consumer decided by itself, kept outside the database until they are signed.

A cut excuses rows that were sealed and are not here, so the database's word is not enough for it: whoever writes the file
while it is closed could excuse what he deleted, and have it signed by the sealer that starts on it. Who decides a cut
therefore writes it down here first, before the database holds it, and the sealer signs no other.

    no record is left of it -> decided (kept here) -> in the database -> met -> in the journal -> signed -> forgotten here
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from skillaudit.contract.errors import RetryableError
from skillaudit.contract.outbox.files import read_optional, write_atomically
from skillaudit.proof.cuts import Cut, Trial, cuts_in
from skillaudit.proof.errors import KeyNeededError, SigningRefusedError

FORMAT: Final = 1
TOLD_MAX: Final = 3
_REMEDY: Final = (
    "Nothing is sealed or signed: somebody wrote it into the database, or the file beside seal_state_file is gone in which"
    " cuts are kept. Look with `skillaudit verify`; restore a backup, or move the database away and have it made again"
)

_KEYLESS: Final = (
    "this database is being made again, and of the ledger of {} not all that was sealed is left. Whoever signs has to find that"
    " out, or nothing will be signed here any more: set seal_key_file (and seal_state_file) as `skillaudit consume` has them,"
    " or let that one go on first"
)
_WHAT: Final = "what a database made again lacks"


@contextlib.contextmanager
def file_errors(doing: str, path: Path, what: str) -> Generator[None]:
    """A disk that refuses a file of the sealer's may take it later: `RetryableError`."""
    try:
        yield
    except OSError as exc:
        raise RetryableError(f"can't {doing} {path}, which holds {what}: {exc}") from exc


class CutState(Protocol):
    """Where decided cuts are kept, apart from the database. Read and written by several threads, each call whole."""

    def read(self) -> Mapping[str, Cut]:
        """By partition."""
        ...

    def write(self, cuts: Mapping[str, Cut]) -> None:
        """Keep these instead. They are on the disk when this returns."""
        ...


class FileCuts:
    """`CutState` in a file. `RetryableError` where it can't be read or written: nothing is cut or signed meanwhile."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __repr__(self) -> str:
        """The path."""
        return f"FileCuts({str(self._path)!r})"

    def read(self) -> Mapping[str, Cut]:
        """As `CutState.read`."""
        with file_errors("read", self._path, _WHAT):
            content = read_optional(self._path)
        if content is None:
            return {}
        try:
            members: dict[str, Any] = orjson.loads(content)
            rows = {FORMAT: members["cuts"]}[members["format"]]
            return {row[0]: _cut(row) for row in rows}
        except (ValueError, TypeError, LookupError) as exc:
            raise SigningRefusedError(
                f"{self._path} is none of this release's files of {_WHAT} ({exc!r}); put it back, or"
                " move the database away and have it made again"
            ) from exc

    def write(self, cuts: Mapping[str, Cut]) -> None:
        """As `CutState.write`."""
        content = orjson.dumps({"format": FORMAT, "cuts": [_row(cuts[name]) for name in sorted(cuts)]})
        with file_errors("write", self._path, _WHAT):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, content + b"\n")


def decide(state: CutState | None, cuts: Sequence[Cut]) -> None:
    """Keep what was decided, before the database holds it; `KeyNeededError` where there is nowhere to keep it."""
    if cuts:
        kept = _required(state, cuts[0])
        kept.write({**kept.read(), **{cut.partition: cut for cut in cuts}})


def decide_trial(state: CutState | None, tried: Cut, settled: Cut | None) -> None:
    """Keep what became of a trial, if it was decided here that there is one; None: nothing is missing. Raises as `decide`."""
    if state is None and settled is None:  # a cut that nobody signs is in nobody's way
        return
    kept = _required(state, tried)
    known = dict(kept.read())
    if known.get(tried.partition) != tried:
        return
    del known[tried.partition]
    kept.write(known if settled is None else {**known, settled.partition: settled})


def forget_decided(state: CutState | None) -> None:
    """All of them are signed, or were never used."""
    if state is not None and state.read():
        state.write({})


def check_decided(state: CutState | None, cuts: Iterable[Cut]) -> None:
    """Raise `SigningRefusedError` for cuts that were not decided by the consumer itself."""
    found = list(cuts)
    known: Mapping[str, Cut] = {} if state is None or not found else state.read()
    others = [cut for cut in found if known.get(cut.partition) != cut]
    if others:
        told = ", ".join(f"{cut.partition} with row {cut.first_row}" for cut in others[:TOLD_MAX])
        more = f" and {len(others) - TOLD_MAX} more" if len(others) > TOLD_MAX else ""
        raise SigningRefusedError(
            f"the ledger of {told}{more} is said to begin there, at a cut that this consumer did not decide. {_REMEDY}"
        )


def check_leaves(state: CutState | None, leaves: Iterable[bytes]) -> None:
    """The same of what is about to be signed, whoever appended it to the journal."""
    check_decided(state, [cut for leaf in leaves for cut in cuts_in(leaf)])


def _required(state: CutState | None, cut: Cut) -> CutState:
    if state is None:
        raise KeyNeededError(_KEYLESS.format(cut.partition))
    return state


def _row(cut: Cut) -> list[Any]:
    trial = (None, None) if cut.trial is None else (cut.trial.row, cut.trial.offset)
    return [cut.partition, cut.first_row, cut.record_offset, *trial]


def _cut(row: Sequence[Any]) -> Cut:
    partition, first_row, record_offset, trial_row, trial_offset = row
    trial = None if trial_row is None else Trial(int(trial_row), int(trial_offset))
    return Cut(str(partition), int(first_row), int(record_offset), trial)
