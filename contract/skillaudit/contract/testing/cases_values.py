"""Cases of values: ids, JSON, texts, counts and times come back as they were given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

import pytest

from skillaudit.contract.records import RunFilter, SkillRunLog, Status
from skillaudit.contract.storage import Storage
from skillaudit.contract.testing.support import (
    Scope,
    at,
    exact_json,
    ids,
    is_utc,
    log,
    record,
    stats,
    stored,
    unique,
)

ODD_IDS: Final = {
    "unicode": "z\u00fcri \u2603 \u6f22\u5b57",
    "astral": "\U0001f600\U0001f9ff",
    "spaces": " two  spaces ",
    "single-quote": "it's",
    "double-quote": 'say "x"',
    "backslash": "a\\b\\",
    "newline": "line\nbreak\r\n\ttab",
    "sql": "'; DROP TABLE runs; --",
    "like": "100%_of[a-z]",
    "regex": "^(.*)+$[x]{2}?|",
    "url": "a/b?c=d&e=f#g%20h+i",
    "path": "../../etc/x",
    "dot": ".",
    "dollar": "$1 ? :name {x} %s",
    "json": '{"a": [1]}',
    "null": "null",
    "number": "0012",
    "500-bytes": "x" * 460,
    "500-bytes-unicode": "\u6f22" * 153,
}
"""Each case adds 40 bytes to it where it has to be unique."""

INT64_MAX: Final = 2**63 - 1

JSON_OBJECTS: Final[dict[str, dict[str, Any]]] = {
    "empty": {},
    "unicode": {"k\u00e9y \u6f22": "\u2603 \U0001f600", "\u2028": "\u2029"},
    "escapes": {'quote"back\\slash/': "tab\t newline\n return\r bell\x07 nul\x00 del\x7f"},
    "integers": {"max": INT64_MAX, "min": -(2**63), "odd": 2**53 + 1, "zero": 0, "minus": -1},
    "floats": {
        "tenth": 0.1,
        "one": 1.0,
        "big": 1e300,
        "small": 5e-324,
        "zero": -0.0,
        "pi": 3.141592653589793,
    },
    "nested": {"a": [{"b": [[], {}, [{"c": None}]]}, [[["deep"]]]]},
    "constants": {"yes": True, "no": False, "none": None},
    "empty-parts": {"": "", "list": [], "object": {}},
    "order": {"z": 1, "a": 2, "m": 3, "10": 4, "9": 5},
    "looks-like-more": {"date": "2025-06-01T12:00:00Z", "number": "1e5", "null": "null", "json": '{"a":1}'},
    "own-names": {"run_id": "x", "seq": 1.5, "payload": {"payload": {}}, "tag": "", "type": "run.log"},
}

PAYLOAD_BYTES: Final = {
    "spaces": b'{ "a" : 1 , "b" : [ 1, 2 ] }',
    "floats-as-written": b'{"a":1.0,"b":1.10,"c":1e5,"d":1E+2,"e":-0.0,"f":0.1000}',
    "escapes-as-written": b'{"slash":"\\/","letter":"\\u0041","snow":"\\u2603","pair":"\\ud83d\\ude00"}',
    "raw-unicode": '{"\u2603":"\U0001f600 \u6f22"}'.encode(),
    "long-integer": b'{"n":123456789012345678901234567890}',
    "order": b'{"b":1,"a":2,"10":3,"9":4}',
    "empty": b"{}",
}

TEXTS: Final = {
    "empty": "",
    "unicode": "gr\u00fc\u00df \u2603 \U0001f600 \u6f22\u5b57",
    "lines": "one\ntwo\r\nthree\ttab\n",
    "quotes": "'single' \"double\" \\back\\ `tick` $1 %s {x}",
    "controls": "bell\x07 escape\x1b nul\x00 end",
    "json": '{"not": "parsed"}',
    "long": "0123456789" * 10_000,
}

ZONES: Final = {
    "utc": UTC,
    "india": timezone(timedelta(hours=5, minutes=30)),
    "pacific": timezone(timedelta(hours=-8)),
    "far-east": timezone(timedelta(hours=14)),
}


class IdCases:
    """Any text is a name; none is a pattern."""

    @pytest.mark.parametrize("odd", ODD_IDS.values(), ids=ODD_IDS.keys())
    async def test_an_odd_run_id_is_an_id(self, storage: Storage, scope: Scope, odd: str) -> None:
        """A run, its events, its children and its chain are found by whatever text its id is."""
        run = scope.run(id=f"{odd}{unique()}")
        child = scope.run(id=f"{unique()}{odd}", parent_run_id=run.id)
        await record(storage, run, child, status=Status.OK)
        await storage.append_log(log(run.id, 1))
        assert (await storage.get_run(run.id)).id == run.id
        assert await storage.list_logs_by_run(run.id) == [log(run.id, 1)]
        assert ids(await storage.list_children_by_parent(run.id)) == [child.id]
        assert ids(await storage.walk_parent_chain(child.id)) == [run.id, child.id]

    @pytest.mark.parametrize("odd", ODD_IDS.values(), ids=ODD_IDS.keys())
    async def test_odd_names_are_matched_exactly(self, storage: Storage, odd: str) -> None:
        """Skill, caller and channel are matched as they are in every list."""
        scope = Scope(skill=f"{odd}{unique()}", caller=f"{odd}{unique()}", channel=f"{unique()}{odd}")
        run = scope.run()
        await record(storage, run, status=Status.OK)
        assert await storage.list_runs_by_skill(scope.skill, 10) == [await storage.get_run(run.id)]
        assert ids(await storage.list_runs_by_skill_paginated(scope.skill, 0, 10)) == [run.id]
        assert await storage.count_runs_by_skill(scope.skill) == 1
        assert ids(await storage.list_runs_by_caller(scope.caller, 10)) == [run.id]
        exact = RunFilter(skill_id=scope.skill, caller_id=scope.caller, channel_id=scope.channel)
        assert ids(await storage.list_runs_filtered(exact, 0, 10)) == [run.id]
        assert await storage.last_run_by_skills([scope.skill]) == {scope.skill: run.started_at}

    @pytest.mark.parametrize(
        ("stored_name", "asked"),
        [
            ("abc", "ABC"),
            ("abc", "abc "),
            ("abc", " abc"),
            ("abc", "ab%"),
            ("abc", "a_c"),
            ("abc", "a.c"),
            ("abc", "a*"),
            ("abc", "ab"),
            ("caf\u00e9", "cafe\u0301"),
            ("1", "01"),
            ("stra\u00dfe", "strasse"),
        ],
    )
    async def test_a_similar_name_is_another_name(
        self, storage: Storage, stored_name: str, asked: str
    ) -> None:
        """No case folding, trimming, normalizing or wildcards."""
        prefix = unique()
        known, name = f"{prefix}{stored_name}", f"{prefix}{asked}"
        scope = Scope(skill=known, caller=known, channel=known)
        run = scope.run(id=known, parent_run_id=known)
        await storage.start_run(run)
        assert await storage.list_runs_by_skill(name, 10) == []
        assert await storage.count_runs_by_skill(name) == 0
        assert await storage.list_runs_by_caller(name, 10) == []
        assert await storage.count_runs_filtered(RunFilter(channel_id=name)) == 0
        assert await storage.list_children_by_parent(name) == []
        assert await storage.last_run_by_skills([name]) == {}
        assert await storage.list_logs_by_run(name) == []


class JsonCases:
    """JSON objects come back with every value, type and order; payloads byte for byte."""

    @pytest.mark.parametrize("value", JSON_OBJECTS.values(), ids=JSON_OBJECTS.keys())
    @pytest.mark.parametrize("member", ["inputs", "attributes"])
    async def test_inputs_and_attributes_come_back(
        self, storage: Storage, scope: Scope, member: str, value: dict[str, Any]
    ) -> None:
        """`inputs` and `attributes` of a run, by `get_run` and in a list, before and after its finish."""
        run = scope.run(**{member: value})
        await storage.start_run(run)
        assert exact_json(getattr(await storage.get_run(run.id), member)) == exact_json(value)
        await storage.finish_run(run.id, stats())
        [listed] = await storage.list_runs_by_skill(scope.skill, 10)
        assert exact_json(getattr(listed, member)) == exact_json(value)

    @pytest.mark.parametrize("value", JSON_OBJECTS.values(), ids=JSON_OBJECTS.keys())
    async def test_a_payload_comes_back(self, storage: Storage, scope: Scope, value: dict[str, Any]) -> None:
        """`payload` the object and `payload_json` the bytes."""
        run = scope.run()
        event = log(run.id, 1, payload=value)
        await storage.start_run(run)
        await storage.append_log(event)
        [read] = await storage.list_logs_by_run(event.run_id)
        assert exact_json(read.payload) == exact_json(value)
        assert read.payload_json == event.payload_json

    @pytest.mark.parametrize("written", PAYLOAD_BYTES.values(), ids=PAYLOAD_BYTES.keys())
    async def test_payload_bytes_come_back_as_written(
        self, storage: Storage, scope: Scope, written: bytes
    ) -> None:
        """Nothing parses and writes them again on their way."""
        run = scope.run()
        await storage.start_run(run)
        await storage.append_log(
            SkillRunLog.from_json(
                run_id=run.id, sequence=1, event_type="step", payload_json=written, created_at=at()
            )
        )
        [read] = await storage.list_logs_by_run(run.id)
        assert read.payload_json == written

    async def test_a_large_payload_comes_back(self, storage: Storage, scope: Scope) -> None:
        """A megabyte is an ordinary event."""
        run = scope.run()
        event = log(run.id, 1, payload={"text": "\u6f22\n" * 250_000})
        await storage.start_run(run)
        await storage.append_log(event)
        [read] = await storage.list_logs_by_run(event.run_id)
        assert read.payload_json == event.payload_json


class ScalarCases:
    """Texts, counts, durations and times."""

    @pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS.keys())
    async def test_output_and_error_come_back(self, storage: Storage, scope: Scope, text: str) -> None:
        """Any text, in both places at once."""
        run = scope.run()
        await storage.start_run(run)
        await storage.finish_run(run.id, stats(output=text, error=text))
        read = await storage.get_run(run.id)
        assert (read.output, read.error) == (text, text)

    @pytest.mark.parametrize("count", [0, 1, 2**31, 2**53 + 1, INT64_MAX])
    async def test_counts_are_64_bit(self, storage: Storage, scope: Scope, count: int) -> None:
        """Tool calls and the three token counts, each its own."""
        run = scope.run()
        await storage.start_run(run)
        end = stats(
            tool_calls=count, input_tokens=max(count - 1, 0), output_tokens=count, thinking_tokens=count // 2
        )
        await storage.finish_run(run.id, end)
        read = await storage.get_run(run.id)
        assert read.tool_calls_count == end.tool_calls
        assert read.total_input_tokens == end.input_tokens
        assert read.total_output_tokens == end.output_tokens
        assert read.total_thinking_tokens == end.thinking_tokens

    @pytest.mark.parametrize("seconds", [0.0, 0.000001, 1.234567, 59.999999, 86400.5, 31_536_000.25])
    async def test_the_runtime_is_exact_to_the_microsecond(
        self, storage: Storage, scope: Scope, seconds: float
    ) -> None:
        """`runtime_seconds` comes back as given where it is whole microseconds."""
        run = scope.run()
        await storage.start_run(run)
        await storage.finish_run(run.id, stats(runtime_seconds=seconds))
        assert (await storage.get_run(run.id)).runtime_seconds == seconds

    async def test_a_finer_runtime_is_rounded_to_the_microsecond(
        self, storage: Storage, scope: Scope
    ) -> None:
        """0.1 + 0.2 is 0.3 seconds."""
        run = scope.run()
        await storage.start_run(run)
        await storage.finish_run(run.id, stats(runtime_seconds=0.1 + 0.2))
        assert (await storage.get_run(run.id)).runtime_seconds == 0.3

    @pytest.mark.parametrize("zone", ZONES.values(), ids=ZONES.keys())
    async def test_times_come_back_in_utc(self, storage: Storage, scope: Scope, zone: timezone) -> None:
        """A time given in any zone is the same instant in UTC everywhere it is read."""
        instant = at(1, us=123_457)
        run = scope.run(started_at=instant.astimezone(zone))
        await record(storage, run, status=Status.OK)
        await storage.append_log(log(run.id, 1, created_at=instant.astimezone(zone)))
        read = await storage.get_run(run.id)
        [event] = await storage.list_logs_by_run(run.id)
        last = await storage.last_run_by_skills([scope.skill])
        for answer in (read.started_at, event.created_at, last[scope.skill]):
            assert answer == instant
            assert is_utc(answer)
        assert is_utc(read.finished_at)

    @pytest.mark.parametrize(
        "moment",
        [
            datetime(2025, 6, 1, tzinfo=UTC),
            datetime(2025, 6, 1, 0, 0, 0, 1, tzinfo=UTC),
            datetime(2025, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
            datetime(2024, 2, 29, 12, 0, 0, 500_000, tzinfo=UTC),
            datetime(2025, 3, 30, 1, 30, tzinfo=UTC),
            datetime(2106, 2, 7, 6, 28, 16, 7, tzinfo=UTC),
        ],
        ids=str,
    )
    async def test_times_are_exact_to_the_microsecond(
        self, storage: Storage, scope: Scope, moment: datetime
    ) -> None:
        """No rounding through floats, no calendar surprises."""
        run = scope.run(started_at=moment)
        await storage.start_run(run)
        await storage.append_log(log(run.id, 1, created_at=moment))
        assert await storage.get_run(run.id) == stored(run)
        [event] = await storage.list_logs_by_run(run.id)
        assert event.created_at == moment
