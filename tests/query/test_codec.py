"""Records over the wire of HTTP and back; problems and errors both ways; tokens; names of runs in paths."""

import inspect
from datetime import UTC, datetime, timedelta, timezone
from urllib.parse import unquote

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaudit.contract import errors
from skillaudit.contract.errors import InvalidRecordError, RunNotFoundError, SettingsError
from skillaudit.contract.records import Completeness, Integrity, Liveness, RunState, SkillRun, SkillRunLog
from skillaudit.query import codec, problems
from skillaudit.query.requests import run_path

texts = st.text(st.characters(codec="utf-8"), max_size=20)
times = st.datetimes(datetime(1970, 1, 1), datetime(9000, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
int64 = st.integers(-(1 << 63), (1 << 63) - 1)
objects = st.dictionaries(texts, texts | int64 | st.booleans() | st.none(), max_size=3)
runs = st.builds(
    SkillRun,
    skill_id=texts,
    id=texts,
    caller_id=texts,
    channel_id=texts,
    inputs=objects,
    started_at=times,
    parent_run_id=texts,
    attributes=objects,
    finished_at=st.none() | times,
    status=texts,
    output=texts,
    error=texts,
    tool_calls_count=int64,
    runtime_seconds=st.integers(0, 10**12).map(lambda us: us / 1_000_000),
    total_input_tokens=int64,
)
ranges = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=3).map(tuple)
states = st.builds(
    RunState,
    run_id=texts,
    liveness=st.sampled_from(Liveness),
    completeness=st.sampled_from(Completeness),
    integrity=st.sampled_from(Integrity),
    events=int64,
    missing=ranges,
    lost=ranges,
    conflicts=int64,
    source_id=texts,
    last_event_at=st.none() | times,
)


@given(runs)
@settings(max_examples=60, deadline=None)
def test_runs_travel(run):
    """What comes out is what went in, to the microsecond and the last bit of a count."""
    assert codec.decoded(codec.run_json(run), codec.run_of_json) == run


@given(states)
@settings(max_examples=60, deadline=None)
def test_states_travel(state):
    """Ranges and words, too."""
    assert codec.decoded(codec.state_json(state), codec.state_of_json) == state


@given(
    st.sampled_from([b'{"a":1}', b'{ "b" : 1.0,\n"a":"\\u00e9" }', b'{"a":1e5,"a2":"\\/"}', b"{}"]),
    int64,
    times,
)
@settings(max_examples=40, deadline=None)
def test_payloads_travel_byte_for_byte(payload, sequence, at):
    """As text the client gets the bytes; as an object the response holds them."""
    log = SkillRunLog.from_json(
        run_id="r", sequence=sequence, event_type="step", payload_json=payload, created_at=at
    )
    back = codec.decoded(codec.log_json(log, as_text=True), codec.log_of_json)
    assert back == log
    assert back.payload_json == payload
    assert codec.log_json(log, as_text=False).endswith(b'"payload":' + payload + b"}")


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b"null", b'{"id":1}', b'{"runs":7}'])
def test_an_answer_of_somebody_else_is_named(body):
    """Not a KeyError from deep inside."""
    with pytest.raises(InvalidRecordError, match="skillaudit server"):
        codec.decoded(body, codec.run_of_json)


def test_times_are_rfc_3339():
    """With an offset in and out."""
    there = timezone(timedelta(hours=5, minutes=30))
    assert codec.time_text(datetime(2026, 1, 2, 3, 4, 5, 6, there)) == "2026-01-01T21:34:05.000006Z"
    assert codec.parse_time("2026-01-02t03:04:05+05:30") == datetime(2026, 1, 1, 21, 34, 5, tzinfo=UTC)
    for text in ("2026-01-02", "2026-01-02T03:04:05", "1700000000", 1700000000, "", None, "yesterday"):
        with pytest.raises(ValueError, match=r"time|Invalid"):
            codec.parse_time(text)


@given(st.dictionaries(texts, st.integers(0, (1 << 63) - 1), max_size=5))
@settings(max_examples=40, deadline=None)
def test_session_tokens(positions):
    """One word of a header, and back."""
    token = codec.session_token(positions)
    assert token.isascii()
    assert " " not in token
    assert codec.parse_session_token(token) == positions


@pytest.mark.parametrize("token", ["é", "x", "e30x", "W10", "bnVsbA", "eyJhIjoieCJ9"])
def test_a_foreign_token_is_refused(token):
    """By name."""
    with pytest.raises(InvalidRecordError, match="Skillaudit-After"):
        codec.parse_session_token(token)


@given(texts)
@settings(max_examples=100, deadline=None)
def test_every_id_has_a_path(run_id):
    """One segment that no client or proxy takes apart, or a parameter."""
    path, query = run_path(run_id, "/events")
    _, _, _, _, segment, last = path.split("/")
    assert last == "events"
    assert segment not in ("", ".", "..")
    assert (dict(query).get("run_id") if query else unquote(segment)) == run_id


NAMED = {errors.DeadLetterNotFoundError: 7}
"""Errors that are made of something else than a reason."""
ALL_ERRORS = [
    it for _, it in inspect.getmembers(errors, inspect.isclass) if issubclass(it, errors.SkillauditError)
]


@pytest.mark.parametrize("error", ALL_ERRORS, ids=lambda it: it.__name__)
def test_every_error_travels_in_its_branch(error):
    """A caller that retries, rejects or stops by the class does the same with a remote reader."""
    reason = NAMED.get(error, "why")
    sent = problems.problem_of(error(reason))
    body = orjson.loads(sent.json())
    assert body["status"] == sent.status >= 400
    assert body["type"] in problems.TYPES or body["type"] == problems.BLANK
    back = problems.error_of(problems.parse_problem(sent.status, sent.json()))
    assert str(reason) in str(back)
    branches = (errors.RetryableError, errors.RejectedError, errors.StopError)
    for branch in branches:
        if issubclass(error, branch):
            assert isinstance(back, branch)


@pytest.mark.parametrize("kind", problems.TYPES.values(), ids=lambda it: it.slug)
def test_every_problem_has_its_error(kind):
    """And the reason survives."""
    back = problems.error_of(problems.parse_problem(kind.status, problems.problem(kind, "why").json()))
    assert type(back) is kind.error
    assert "why" in str(back) or kind in (problems.NOT_FOUND, problems.NO_DEAD_LETTER, problems.NO_HOLD)


def test_a_run_that_is_not_there_keeps_its_id():
    """`RunNotFoundError` is the same as a local one, whatever the id."""
    back = problems.error_of(
        problems.parse_problem(404, problems.problem_of(RunNotFoundError("a/b\n")).json())
    )
    assert isinstance(back, RunNotFoundError)
    assert back.run_id == "a/b\n"
    assert str(back) == str(RunNotFoundError("a/b\n"))


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (502, errors.UnreachableError),
        (504, errors.UnreachableError),
        (302, errors.UnreachableError),
        (401, SettingsError),
        (404, errors.RejectedError),
        (500, errors.StopError),
    ],
)
@pytest.mark.parametrize("body", [b"", b"<html>Bad Gateway</html>", b"[1]", b'{"type":7}'])
def test_answers_of_others_are_judged_by_their_status(status, error, body):
    """Proxies have their own pages."""
    assert isinstance(problems.error_of(problems.parse_problem(status, body)), error)
