"""What a verifier remembers on his own side: how far he checked, of which database, and what he saw of its journal.

The next check then compares of the seals it knows, and computes of the runs it knows, only some, drawn anew each time; numbers,
counts and heads as they are stored, and anchors are looked at each time. Of another database, and of one that was put back
since, it knows nothing: it looks at everything.
And a journal that is shorter than, or other than, what was seen then is found without any anchor.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson

from skillaudit.contract.errors import SettingsError
from skillaudit.contract.outbox.files import read_optional, write_atomically
from skillaudit.proof.verify.report import Report
from skillaudit.proof.verify.request import VerifyRequest
from skillaudit.proof.verify.witness import Anchored, AnchorReading

FORMAT: Final = 1
NAME: Final = "what this verifier saw"


@dataclass(frozen=True, slots=True)
class VerifierState:
    """What the last check that found nothing wrong had seen."""

    journal: int
    root: str
    checked_at_us: int
    sealed_to: int
    content_to: int = 0
    database: str = ""
    """As `Report.database`; of an earlier release's file it is not known, and the next check looks at everything."""
    unsettled: tuple[int, ...] = ()

    def apply(self, request: VerifyRequest) -> VerifyRequest:
        """The request with what is known: of the seals and runs below only a share is compared again, and the journal must contain
        what was seen.
        """
        if not self.journal:
            return request
        seen = Anchored(
            "", self.journal, bytes.fromhex(self.root), self.checked_at_us, NAME, (), False, self.journal, ()
        )
        own = AnchorReading(uri=NAME, trust="memory", checkpoints=(seen,))
        anchors = (*request.anchors, own)
        known = replace(request, sealed_from=self.sealed_to, content_from=self.content_to, anchors=anchors)
        return replace(known, database=self.database, unsettled=self.unsettled)


def read_state(path: Path) -> VerifierState:
    """The state in a file, the empty one where there is none; `SettingsError` for another file."""
    content = read_optional(path)
    if content is None:
        return VerifierState(0, "", 0, 0)
    try:
        found: dict[str, Any] = orjson.loads(content)
        root = bytes.fromhex(found["root"]).hex()
        numbers = int(found["journal"]), int(found["checked_at_us"]), int(found["sealed_to"])
        content_to, database = int(found.get("content_to", 0)), str(found.get("database", ""))
        unsettled = tuple(map(int, found.get("unsettled", ())))
        known = found["format"] == FORMAT
    except (KeyError, TypeError, ValueError) as exc:
        raise SettingsError(f"{path} is no state of a verifier; name another file, or remove it") from exc
    if not known:
        raise SettingsError(
            f"{path} was written by another release; remove it, and the next check makes it anew"
        )
    return VerifierState(
        numbers[0], root, numbers[1], numbers[2], content_to, database=database, unsettled=unsettled
    )


def write_state(path: Path, report: Report) -> None:
    """Remember a check; not to be called after a violation: then nothing is known to be right."""
    members = {
        "format": FORMAT,
        "journal": report.journal,
        "root": report.root,
        "checked_at_us": report.checked_at_us,
        "sealed_to": report.sealed_to,
        "content_to": report.content_to,
        "database": report.database,
        "unsettled": list(report.unsettled),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, orjson.dumps(members, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
