"""What the rows of jammed clients look at to be sure that their fault came about."""

from tests.faults.jams import runs_out_of_order


def log(run_id: str, seq: int) -> tuple[bytes, bytes]:
    """A record."""
    return run_id.encode(), b'{"type":"run.log","run_id":"%b","seq":%d}' % (run_id.encode(), seq)


def test_a_run_is_overtaken_where_a_later_event_lies_first_for_the_first_time() -> None:
    """Another run between them changes nothing, nor does what lies there once more."""
    in_order = [log("a", 1), log("b", 1), log("a", 2), log("b", 2)]
    assert runs_out_of_order({0: in_order, 1: [log("c", 1)]}) == 0
    assert runs_out_of_order({0: [*in_order, log("a", 1)]}) == 0
    assert runs_out_of_order({0: [log("a", 2), log("b", 1), log("a", 1)], 1: [log("c", 2), log("c", 1)]}) == 2
