"""Named SQL statements from the `.sql` files of this part, so that SQL is reviewed as SQL.

A file holds statements introduced by a line `-- name: <name>`; everything up to the next such line is its text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Final

_NAME: Final = re.compile(r"^-- name: ([a-z_]+)$", re.MULTILINE)


@cache
def statements(path: str) -> Mapping[str, str]:
    """The named statements of a file below `skillaudit/proof/`; `ValueError` where it names one twice."""
    text = (resources.files("skillaudit.proof") / path).read_text(encoding="utf-8")
    parts = _NAME.split(text)
    names = parts[1::2]
    if len(set(names)) != len(names):
        raise ValueError(f"{path} names a statement twice")
    return dict(zip(names, (part.strip().rstrip(";") for part in parts[2::2]), strict=True))
