"""An act is one line of JSON: what is written is read back, what is not exactly an act is refused by name."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaudit.contract.errors import InvalidRecordError
from skillaudit.proof.acts import ACT_BYTES_MAX, Act, ActKind, Violated, act_line, parse_act

TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)
SCOPES = st.one_of(
    st.tuples(
        st.just(ActKind.PURGE), st.fixed_dictionaries({"runs": st.lists(TEXT, min_size=1, max_size=3)})
    ),
    st.tuples(st.just(ActKind.PURGE), st.fixed_dictionaries({"started_before": st.integers(0, 1 << 62)})),
    st.tuples(st.just(ActKind.REDACT), st.fixed_dictionaries({"run": TEXT, "seq": st.integers(0, 9)})),
    st.tuples(st.just(ActKind.HOLD), st.just({"all": True})),
    st.tuples(st.just(ActKind.RELEASE), st.fixed_dictionaries({"hold": TEXT})),
    st.tuples(st.just(ActKind.INCIDENT), st.dictionaries(TEXT, TEXT | st.integers(0, 99), max_size=3)),
)


VIOLATES = {"hold": {"runs": 3, "at": {"t/0": "5-9,22"}, "by": ["h"]}}


@st.composite
def acts(draw: st.DrawFn) -> Act:
    kind, scope = draw(SCOPES)
    return Act(
        act_id=draw(TEXT),
        kind=kind,
        actor=draw(TEXT),
        at_us=draw(st.integers(0, 1 << 62)),
        reason=draw(st.just("") | TEXT),
        scope=scope,
        policy=draw(st.just({}) | st.just({"force": True, "min_retention_days": 183, "violates": VIOLATES})),
        positions=draw(st.dictionaries(TEXT, st.integers(0, 1 << 62), max_size=3)),
    )


def test_what_a_purge_goes_over_is_read_from_its_word() -> None:
    """Nothing said, and said that there is nothing, are two things."""
    said = parse_act(line(policy={"violates": VIOLATES})).violates
    assert said == {"hold": Violated(3, {"t/0": ((5, 9), (22, 22))})}
    assert parse_act(line(policy={"violates": {}})).violates == {}
    assert parse_act(line(policy={"force": True})).violates is None


@given(acts())
@settings(max_examples=50)
def test_a_line_is_read_as_what_was_written(act: Act) -> None:
    """And it is one line."""
    line = act_line(act)
    assert b"\n" not in line
    assert parse_act(line) == act


def line(**changes: object) -> bytes:
    members: dict[str, object] = {
        "act_id": "1",
        "kind": "purge",
        "actor": "me",
        "at": 1,
        "reason": "",
        "scope": {"runs": ["a"]},
        "policy": {},
        "positions": {},
    }
    return orjson.dumps({name: value for name, value in (members | changes).items() if value is not None})


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (b"{", "no JSON"),
        (b"[]", "JSON object"),
        (b'{"a":1,"a":2}', "twice"),
        (b'{"a":NaN}', "no JSON"),
        (line(reason="x").replace(b'"x"', b'"\\ud800"'), "no JSON"),
        (b"\xff", "no JSON"),
        (b"{}\n{}", "one line"),
        (b" " * (ACT_BYTES_MAX + 1), "at most"),
        (line(more=1), "no member 'more'"),
        (line(actor=None), "lacks the member 'actor'"),
        (line(actor=""), "actor"),
        (line(at=1.5), "at of an act"),
        (line(at=True), "at of an act"),
        (line(kind="burn"), "no kind"),
        (line(scope={}), "scope"),
        (line(scope={"runs": []}), "at least one"),
        (line(scope={"runs": ["a"], "started_before": 1}), "scope"),
        (line(kind="redact", scope={"run": "a", "seq": 1, "field": "status"}), "field"),
        (line(kind="hold", scope={"all": False}), "all of a hold"),
        (line(policy={"force": 1}), "force"),
        (line(policy={"violates": {"taste": {}}}), "not 'taste'"),
        (line(policy={"violates": {"hold": {"runs": 1}}}), "violates"),
        (line(policy={"violates": {"hold": {"runs": -1, "at": {}}}}), "runs"),
        (line(policy={"violates": {"minimum": {"runs": 1, "at": {"t/0": "9-5"}}}}), "violates"),
        (line(policy={"violates": [1]}), "violates"),
        (line(policy={"last_hold": 1}), "last_hold"),
        (line(positions={"t/0": -1}), "position"),
    ],
)
def test_what_is_no_act_is_refused_by_name(wrong: bytes, words: str) -> None:
    """Unknown members too: ignoring one could make an act reach further than was meant."""
    with pytest.raises(InvalidRecordError, match=words):
        parse_act(wrong)


def test_an_act_that_nobody_could_read_is_not_written() -> None:
    """The writer refuses what the reader would."""
    with pytest.raises(InvalidRecordError, match="actor"):
        act_line(Act(act_id="1", kind=ActKind.GENESIS, actor="", at_us=1))
