"""Words that depend on a number."""

import pytest

from skillaudit.contract.words import counted, named


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (counted(0, "run"), "0 runs"),
        (counted(1, "run"), "1 run"),
        (counted(1_000, "run"), "1,000 runs"),
        (counted(1, "leaf", "leaves"), "1 leaf"),
        (counted(2, "leaf", "leaves"), "2 leaves"),
        (named("hold", ["a"]), "hold a"),
        (named("hold", ["a", "b"]), "holds a, b"),
        (named("hold", list("abcde")), "holds a, b, c and 2 more"),
    ],
)
def test_one_is_singular_and_the_rest_is_not(said, words):
    """The noun goes with the number; of many names the first are told."""
    assert said == words
