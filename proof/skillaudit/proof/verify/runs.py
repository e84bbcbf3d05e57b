"""Checking many runs: set-wise in the engine, chunk by chunk, each chunk in a snapshot of its own. Runs where anything
is off are then compared again, set-wise, with the ledger as it is in the same snapshot, and what still is off is looked at
one by one: only what that says becomes a finding.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from skillaudit.contract.digests import run_hash
from skillaudit.contract.redacted import REDACTED_TEXT, redacted_json
from skillaudit.proof.findings import Finding, Findings, Kind, Severity
from skillaudit.proof.verify.cuts import NO_CUTS, ORPHAN_BEFORE, Cuts, orphans_before
from skillaudit.proof.verify.engine import Engine, told_where_not
from skillaudit.proof.verify.facts import read_facts
from skillaudit.proof.verify.judging import CLOCK_AHEAD_US_MAX, judge_run
from skillaudit.proof.verify.request import Depth, VerifyRequest

FILE: Final = "runs.sql"
CHUNK_RUNS: Final = 20_000
CHUNK_EVENTS: Final = 1_000_000
"""Bounds what one statement sorts and gathers: some 300 MB."""
LONG_RUN_EVENTS: Final = 2_000_000
"""A run longer than this is read row by row, so that its manifest never has to fit into memory."""
LOOKED_AT_MAX: Final = 1_000
"""Runs looked at one by one; of those beyond it is only said how many there are."""
OLD_RUNS_DRAWN: Final = 1_000
"""Of the runs whose content an earlier check computed so many are drawn and computed again; all where there are no more."""
DRAWN_ONE_BY_ONE_MAX: Final = 1_000
"""Runs of a sample that are looked at one by one. A larger one is computed set-wise, as whole records are."""
UNSETTLED_RUNS_MAX: Final = 10_000
"""Runs that lacked something at a check, and are computed again at the next. Where there are more, that computes everything."""
EXAMPLES: Final = 20
REDACTED: Final = {"redacted_json": redacted_json("%s"), "redacted_text": REDACTED_TEXT}
"""What stands in the place of redacted content, as the set-wise check is told it; `%s` is the act."""

_PLAIN: Final = (
    ("open", Kind.RUN_OPEN, "is not finished, or was abandoned: its last events are not proven"),
    ("abandoned", Kind.RUN_ABANDONED, "was abandoned, and everything that its source recorded of it is here"),
    ("lossy", Kind.RUN_DECLARED_LOSS, "its agent declared events lost"),
    ("ahead", Kind.CLOCK_JUMP, "is dated after it was received: the host's clock was ahead"),
    (
        "unlisted",
        Kind.RUN_UNPROVEN,
        "is in no ledger: it was stored by an earlier release, by a dead letter replayed later, or from what was left of a seal",
    ),
    ("redacted", Kind.REDACTED, "has redactions; what is left is proven"),
)
"""What is no fault, by the columns of the chunk's answer."""
_COUNTED: Final = frozenset(kind for _, kind, _ in _PLAIN)
"""What the chunk says of a run in which nothing is off."""
_ADMITTED: Final = frozenset({*_COUNTED, Kind.RUN_INCOMPLETE})
"""And of one that says itself that something is missing."""


@dataclass(slots=True)
class RunTotals:
    """What was looked at."""

    runs: int = 0
    events: int = 0
    altered: int = 0
    """Runs with a violation."""
    incomplete: int = 0
    hashed_runs: int = 0
    """Of which digests and heads were computed anew from the content,"""
    hashed_events: int = 0
    """and their logs."""


class Part(StrEnum):
    """Which runs of the scope a statement is about."""

    ALL = "all"
    NEW = "new"
    """Of an incremental check those whose content no earlier one can have computed; of a large sample those drawn."""
    REST = "rest"
    """And the others."""
    AGAIN = "again"
    """Those in which a chunk found something off."""


class RunsCheck:
    """One check of many runs; findings and totals grow as it goes."""

    def __init__(
        self,
        engine: Engine,
        request: VerifyRequest,
        findings: Findings,
        totals: RunTotals,
        cuts: Cuts = NO_CUTS,
    ) -> None:
        self._engine = engine
        self._request = request
        self._findings = findings
        self._totals = totals
        self._cuts = cuts
        self._looked_at = 0
        self._drawn: frozenset[int] = frozenset()
        self._known: dict[int, frozenset[Kind]] = {}
        """Of the runs drawn: what of them is told or counted already."""
        self._scope: dict[str, Any] = {"since_us": request.since_us, "until_us": request.until_us}

    def check(self) -> None:
        """As deeply as the request asks."""
        if self._request.depth is Depth.SAMPLE:
            self.check_sample()
        elif self._request.depth is Depth.FULL and self._request.content_from:
            self.check_new()
        else:
            self.check_all(content=self._request.depth is Depth.FULL)

    def check_all(self, *, content: bool) -> None:
        """Every run in the scope; `content`: tags and heads are computed anew."""
        with self._picking():
            self._each(Part.ALL, content=content)

    def _each(self, part: Part, *, content: bool) -> None:
        scope, before = {**self._scope, "part": part}, self._totals.events
        with self._engine.snapshot():
            runs, first, last, events = self._engine.rows(FILE, "bounds", **scope)[0]
            if not runs:
                return
            self._engine.run(FILE, "make_marks", first=first, last=last)
            sizes = {"runs": CHUNK_RUNS, "events": CHUNK_EVENTS if content else 100 * CHUNK_EVENTS}
            ends = [row[0] for row in self._engine.rows(FILE, "chunk_ends", **scope, **sizes)]
        try:
            for end in ends:
                what = f"the runs with keys {first} to {end}"
                with told_where_not(self._findings, what), self._engine.snapshot():
                    self._chunk({"first": first, "last": end, **scope}, content=content)
                first = end + 1
                self._engine.tell("events", self._totals.events - before, events)
        finally:
            self._engine.run(FILE, "drop_marks")

    @contextlib.contextmanager
    def _picking(self) -> Generator[None]:
        """What is looked at once, whichever runs are: orphans; and a place for the keys of parts."""
        with self._engine.snapshot():
            self._engine.run(FILE, "make_picked")
            self._orphans()
        try:
            yield
        finally:
            self._engine.run(FILE, "drop_picked")

    def _orphans(self) -> None:
        """They have no start, and so no time: they are told whatever the scope is."""
        cut = sorted(orphans_before(self._engine, self._cuts))
        named = frozenset(self._cuts.known.runs)
        known = [run_id for run_id in cut if run_id in named]
        others = [run_id for run_id in cut if run_id not in named]
        self._plain(Kind.LEDGER_CUT_KNOWN, ORPHAN_BEFORE, len(known), known[:EXAMPLES])
        self._plain(Kind.LEDGER_CUT, ORPHAN_BEFORE, len(others), others[:EXAMPLES])
        missing, some, bare, some_bare = self._engine.rows(FILE, "orphans", examples=EXAMPLES, cut=cut)[0]
        says = "its start never arrived; events of it are kept and can't be checked without"
        self._plain(Kind.RUN_INCOMPLETE, says, missing, some or ())
        self._totals.incomplete += missing
        says = "its start was never written; a bare Storage's events of it are kept"
        self._plain(Kind.RUN_UNPROVEN, says, bare, some_bare or ())

    def _chunk(self, keys: dict[str, Any], *, content: bool) -> None:
        long: dict[int, int] = {}
        if content:
            long = dict(self._engine.rows(FILE, "long_runs", **keys, events=LONG_RUN_EVENTS))
        answer = self._ask(keys, long, content=content)
        self._count(answer["runs"] + len(long), answer["events"] + sum(long.values()), hashed=content)
        told, off = list(answer["told"] or ()), answer["off"]
        self._tell_plain(answer)
        if off:
            answer = self._ask_again(keys, off, content=content)
            told, off = told + list(answer["told"] or ()), answer["off"]
            self._tell_plain(answer)
        for run_key in long:
            self._know([run_key], frozenset(Kind))
            self._look_closely(run_key)
        self._look_at(off or (), Kind.RUN_SUSPECT)
        self._look_at(told, Kind.RUN_INCOMPLETE)
        self._bare(keys)

    def _ask(self, keys: dict[str, Any], without: Iterable[int], *, content: bool) -> dict[str, Any]:
        statement, marks = ("chunk", REDACTED) if content else ("chunk_quickly", {})
        options = {"examples": EXAMPLES, "ahead_us": CLOCK_AHEAD_US_MAX, "long": list(without)}
        return self._engine.records(FILE, statement, **keys, **marks, **options)[0]

    def _ask_again(self, keys: dict[str, Any], run_keys: Sequence[int], *, content: bool) -> dict[str, Any]:
        """Of these runs, with the ledger as it is now: the marks are older than the chunk, and runs go on meanwhile."""
        self._engine.run(FILE, "pick_again", run_keys=list(run_keys))
        self._engine.run(FILE, "forget_marks")
        self._engine.run(FILE, "marks_again")
        within = {**keys, "first": min(run_keys), "last": max(run_keys), "part": Part.AGAIN}
        answer = self._ask(within, (), content=content)
        self._engine.run(FILE, "unpick_again")
        return answer

    def _count(self, runs: int, events: int, *, hashed: bool) -> None:
        self._totals.runs += runs
        self._totals.events += events
        self._totals.hashed_runs += runs if hashed else 0
        self._totals.hashed_events += events if hashed else 0

    def _tell_plain(self, answer: dict[str, Any]) -> None:
        for name, kind, says in _PLAIN:
            self._plain(kind, says, answer[name], answer[f"{name}_ids"] or ())

    def _plain(self, kind: Kind, says: str, number: int, examples: Sequence[str]) -> None:
        for run_id in examples:
            self._findings.add(Finding(kind, says, {"run_id": run_id}))
        self._findings.count(kind, number - len(examples))

    def _bare(self, keys: dict[str, Any]) -> None:
        number, examples, suspects = self._engine.rows(FILE, "bare", **keys, examples=EXAMPLES)[0]
        if number:
            self._totals.runs += number
            says = "was written through a bare Storage: nothing proves its content or its numbers"
            self._plain(Kind.RUN_UNPROVEN, says, number, examples)
        self._look_at(suspects or (), Kind.RUN_SUSPECT, unless=Kind.RUN_UNPROVEN)

    def _look_at(self, run_keys: Sequence[int], beyond: Kind, *, unless: Kind | None = None) -> None:
        """Look at runs one by one, within the bound; those beyond it count as `beyond`."""
        room = max(LOOKED_AT_MAX - self._looked_at, 0)
        self._looked_at += min(len(run_keys), room)
        self._know(run_keys[:room], frozenset(Kind))
        self._know(run_keys[room:], frozenset(Kind) if beyond is Kind.RUN_SUSPECT else _ADMITTED)
        for run_key in run_keys[:room]:
            self._look_closely(run_key, unless=unless)
        more = run_keys[room:]
        if beyond is Kind.RUN_SUSPECT:
            self._findings.count(beyond, len(more))
            self._totals.altered += len(more)
        elif more:
            refused = self._engine.rows(FILE, "only_refused", run_keys=list(more))[0][0]
            self._findings.count(Kind.RUN_DECLARED_LOSS, refused)
            self._findings.count(beyond, len(more) - refused)
            self._totals.incomplete += len(more) - refused

    def _look_closely(self, run_key: int, *, unless: Kind | None = None) -> None:
        for row in self._engine.records("one.sql", "run_of_key", run_key=run_key)[:1]:
            self.judge(row, unless=unless)

    def judge(self, row: dict[str, Any], *, unless: Kind | None = None) -> list[Finding]:
        """Look at one run by its row."""
        found = [it for it in judge_run(read_facts(self._engine, row)) if it.kind is not unless]
        self._take(found)
        return found

    def _take(self, found: Sequence[Finding]) -> None:
        self._findings.add_all(found)
        self._totals.altered += any(it.severity is Severity.VIOLATION for it in found)
        self._totals.incomplete += any(it.severity is Severity.INCOMPLETE for it in found)

    def check_sample(self) -> None:
        """As `check_all` without content, and the content of runs drawn at random: what is said of a run is said once."""
        if self._request.sample > DRAWN_ONE_BY_ONE_MAX:
            with self._picking():
                drawn = {"part": Part.ALL, "seed": self._request.seed, "number": self._request.sample}
                with self._engine.snapshot():
                    self._engine.run(FILE, "pick_drawn", **self._scope, **drawn)
                self._each_new_and_rest()
            return
        with self._picking():
            self._draw(Part.ALL, self._request.sample)
            self._each(Part.ALL, content=False)
        self._look_at_drawn()

    def check_new(self) -> None:
        """The content of all runs that an earlier check can't have seen as they are, and of some of the others, drawn at
        random; of the rest what `check_all` says without content.
        """
        with self._picking():
            with self._engine.snapshot():
                self._engine.run("ledger.sql", "make_seals")
                self._engine.run(FILE, "pick_new", **self._known_before())
            self._draw(Part.REST, OLD_RUNS_DRAWN)
            self._each_new_and_rest()
        self._look_at_drawn()

    def _known_before(self) -> dict[str, Any]:
        return {"content_from": self._request.content_from, "unsettled": list(self._request.unsettled)}

    def _each_new_and_rest(self) -> None:
        self._each(Part.NEW, content=True)
        self._each(Part.REST, content=False)

    def _draw(self, part: Part, number: int) -> None:
        with self._engine.snapshot():
            rows = self._engine.rows(
                FILE, "sample_keys", **self._scope, part=part, seed=self._request.seed, number=number
            )
        self._drawn = frozenset(row[0] for row in rows)

    def _look_at_drawn(self) -> None:
        for done, run_key in enumerate(sorted(self._drawn)):
            known = self._known.get(run_key, _COUNTED)
            what = f"the run with key {run_key}"
            with told_where_not(self._findings, what), self._engine.snapshot():
                for row in self._engine.records("one.sql", "run_of_key", run_key=run_key):
                    facts = read_facts(self._engine, row)
                    self._totals.hashed_runs += 1
                    self._totals.hashed_events += facts.logs_stored
                    if known != frozenset(Kind):
                        self._take([it for it in judge_run(facts) if _is_new(it, known)])
            self._engine.tell("runs drawn", done + 1, len(self._drawn))

    def _know(self, run_keys: Iterable[int], kinds: frozenset[Kind]) -> None:
        self._known.update((run_key, kinds) for run_key in run_keys if run_key in self._drawn)


def _is_new(finding: Finding, known: frozenset[Kind]) -> bool:
    """A clock that jumped between two events is seen with the content alone; the chunk sees one that was ahead."""
    return finding.kind not in known or (finding.kind is Kind.CLOCK_JUMP and "sequence" in finding.subject)


def unsettled_runs(engine: Engine) -> tuple[int, ...] | None:
    """Keys of finished runs to which records may still come that no row of the ledger tells of; None: more than are remembered."""
    keys = tuple(row[0] for row in engine.rows(FILE, "unsettled", limit=UNSETTLED_RUNS_MAX + 1))
    return None if len(keys) > UNSETTLED_RUNS_MAX else keys


def rows_of_run(engine: Engine, run_id: str) -> list[dict[str, Any]]:
    """The run's rows in `runs`: one, where nobody forged another; none where it isn't stored."""
    found = engine.records("one.sql", "runs_of_hash", run_hash=run_hash(run_id))
    found = [row for row in found if row["id"] == run_id] or engine.records(
        "one.sql", "runs_of_id", run_id=run_id
    )
    return sorted(found, key=lambda row: row["run_key"])
