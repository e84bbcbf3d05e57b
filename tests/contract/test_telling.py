"""What may happen a million times is said at once, and then now and then, with the count: nothing is left unsaid."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from skillaudit.contract.telling import Untold

SECOND_US = 1_000_000


def test_the_first_is_said_at_once_and_the_rest_together() -> None:
    """One line in the first moment, one after the interval with all since; then nothing while nothing happens."""
    untold = Untold(60)
    assert untold.add(1, 5) == 1
    assert [untold.add(3, 5 + number) for number in range(1_000)] == [0] * 1_000
    assert untold.due(59 * SECOND_US) == 0
    assert untold.due(61 * SECOND_US) == 3_000
    assert untold.due(500 * SECOND_US) == 0
    assert untold.add(2, 500 * SECOND_US) == 2, "after a quiet time it is the first again"


def test_the_last_word_does_not_wait() -> None:
    """Whoever ends says what is left."""
    untold = Untold(60)
    untold.add(1, 0)
    untold.add(6, 1)
    assert untold.due(2, last=True) == 6
    assert untold.due(3, last=True) == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=60))
def test_all_is_said_and_seldom(steps: list[tuple[int, int]]) -> None:
    """Whatever comes when: what was said and what is left is what came, and two lines are an interval apart."""
    untold, now_us, said_us, said = Untold(60), 0, [], 0
    for number, after_s in steps:
        now_us += after_s * SECOND_US
        told = untold.add(number, now_us)
        said += told
        said_us += [now_us] if told else []
    assert all(later - earlier >= 60 * SECOND_US for earlier, later in pairwise(said_us))
    assert said + untold.due(now_us, last=True) == sum(number for number, _ in steps)
