"""When malformed records stop a consumer: counted over whole batches of any size."""

from hypothesis import given
from hypothesis import strategies as st

from skillaudit.consumer.poison import WINDOW_RECORDS, PoisonPolicy, PoisonState, exceeded, load_state

NEVER_IN_A_ROW = 10**9
SIZES = st.lists(st.integers(1, 3_000), min_size=1, max_size=30)


def seen(sizes: list[int], bad_of_ten: int, policy: PoisonPolicy) -> tuple[PoisonState, bool]:
    """The state after batches of these sizes, and whether one of them was too much; the first of ten are malformed."""
    state, stopped = PoisonState(), False
    for records in sizes:
        malformed = [index for index in range(records) if index % 10 < bad_of_ten]
        stopped = stopped or bool(exceeded(policy, state, records, malformed))
        state = state.after(records, malformed)
    return state, stopped


@given(SIZES)
def test_a_share_over_a_hundred_percent_is_never_exceeded(sizes: list[int]):
    """101 switches it off; the window holds whole batches and so more records than it is named after."""
    policy = PoisonPolicy(in_a_row_max=NEVER_IN_A_ROW, share_percent_max=101)
    _, stopped = seen([*sizes, *[1_600] * 10], 10, policy)
    assert not stopped


@given(SIZES, st.integers(1, 9))
def test_a_share_at_the_limit_passes_and_one_beyond_it_stops(sizes: list[int], bad_of_ten: int):
    """However the records are put into batches of tens: as many of ten as the limit says never stop, one more does."""
    tens = [10 * size for size in sizes] + [1_000] * (2 * WINDOW_RECORDS // 1_000)
    policy = PoisonPolicy(in_a_row_max=NEVER_IN_A_ROW, share_percent_max=10 * bad_of_ten)
    assert not seen(tens, bad_of_ten, policy)[1]
    assert seen(tens, bad_of_ten + 1, policy)[1]


@given(SIZES)
def test_what_has_not_come_yet_counts_as_good(sizes: list[int]):
    """A consumer that has just begun does not stop at its first few."""
    policy = PoisonPolicy(in_a_row_max=NEVER_IN_A_ROW, share_percent_max=50)
    few = [size for size in sizes if size <= 150][:30]
    assert not seen(few, 10, policy)[1]


@given(SIZES, st.integers(0, 10))
def test_the_state_survives_a_restart(sizes: list[int], bad_of_ten: int):
    """What is dumped is what is loaded, and the window stays short."""
    state, _ = seen(sizes, bad_of_ten, PoisonPolicy(NEVER_IN_A_ROW, 101))
    assert load_state(state.dump()) == state
    assert state.records() < WINDOW_RECORDS + max(sizes) + WINDOW_RECORDS // 20
    assert len(state.batches) <= 2 * 20 + 2


def test_malformed_records_in_a_row_are_counted_over_batches():
    """One good record in between begins anew."""
    policy = PoisonPolicy(in_a_row_max=5, share_percent_max=101)
    state = PoisonState().after(4, [1, 2, 3])
    assert exceeded(policy, state, 2, [0, 1])
    assert not exceeded(policy, state, 2, [0])
    assert not exceeded(policy, state, 3, [0, 2])
