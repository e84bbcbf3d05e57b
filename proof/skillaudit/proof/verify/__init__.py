"""The checks behind `skillaudit verify`: everything the proof says of a database, asked of the database and its anchors.

`Verifier(cursor).check(request, now_us)` gives a `Report`. The set-wise part is SQL (`checks/*.sql`); Python judges what
it finds. Nothing is written but temporary tables of the cursor. Keys, anchors and rules come with the request, from the verifier's own policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillaudit.proof.verify.report import Report, parse_report, sentence
from skillaudit.proof.verify.request import Depth, VerifyRequest

if TYPE_CHECKING:
    from skillaudit.proof.verify.verifier import Memory, Verifier

__all__ = ["Depth", "Memory", "Report", "Verifier", "VerifyRequest", "parse_report", "sentence"]


def __getattr__(name: str) -> object:
    """`Verifier` and its `Memory` when they are asked for: they load the engine, and a command's help needs only the words."""
    if name in {"Memory", "Verifier"}:
        from skillaudit.proof.verify import verifier

        return getattr(verifier, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
