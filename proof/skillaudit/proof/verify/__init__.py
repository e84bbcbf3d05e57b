"""The checks behind `skillaudit verify`: everything the proof says of a database, asked of the database and its anchors.

`Verifier(cursor).check(request, now_us)` gives a `Report`. The set-wise part is SQL (`checks/*.sql`); Python judges what
it finds. Nothing is written. Keys, anchors and rules come with the request, from the verifier's own policy.
"""

from __future__ import annotations

from skillaudit.proof.verify.report import Report, parse_report, sentence
from skillaudit.proof.verify.request import Depth, VerifyRequest
from skillaudit.proof.verify.verifier import Verifier

__all__ = ["Depth", "Report", "Verifier", "VerifyRequest", "parse_report", "sentence"]
