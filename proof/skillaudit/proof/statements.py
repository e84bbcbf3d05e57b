"""The statements of this part's `.sql` files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from skillaudit.contract.statements import named_statements

_SLOTS: Final = frozenset({"schema"})
"""The tables of the writer, or the views of anybody else."""


def statements(path: str) -> Mapping[str, str]:
    """Those of a file below `skillaudit/proof/`; `ValueError` where it names one twice."""
    return named_statements("skillaudit.proof", path, _SLOTS)
