"""Numbers of things are told through `contract.words.counted`: nobody reads "1 runs"."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOUNS = [
    "acts",
    "bytes",
    "conflicts",
    "days",
    "differences",
    "events",
    "files",
    "findings",
    "incidents",
    "leaves",
    "letters",
    "lines",
    "partitions",
    "places",
    "problems",
    "processes",
    "records",
    "rows",
    "runs",
    "sources",
    "topics",
]
A_NUMBER_AND_ITS_NOUN = re.compile(
    r"\{(?!counted|[A-Z_]+\})[^{}\"]*\} (?:[a-z]+ )?(" + "|".join(NOUNS) + r")\b"
)


@pytest.mark.parametrize("part", ["cli/skillaudit/cli", "proof/skillaudit/proof/verify"])
def test_no_noun_is_plural_by_itself(part):
    """What is printed after a number that may be one."""
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted((ROOT / part).rglob("*.py"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if A_NUMBER_AND_ITS_NOUN.search(line)
    ]
    assert not found, "\n".join(found)
