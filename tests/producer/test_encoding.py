"""JSON without silent changes: what JSON can't hold becomes a string or a JSON container, and says where."""

import dataclasses
import enum
import json
import math
import uuid
from collections import OrderedDict, defaultdict
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import PurePosixPath
from types import MappingProxyType

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillaudit.contract.errors import InvalidRecordError
from skillaudit.producer.encoding import (
    COERCED_PATHS_MAX,
    COERCED_TEXT_MAX,
    DEPTH_MAX,
    encode_object,
    encode_text,
)

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
)


@given(st.dictionaries(st.text(), PLAIN))
def test_plain_values_are_kept(value):
    """Encoded and parsed again they are what they were, with no mark; strict takes them too."""
    data = encode_object(value, strict=True)
    assert orjson.loads(data) == value
    assert data == encode_object(value)


class Colour(enum.Enum):
    RED = "r"


class Size(enum.StrEnum):
    BIG = "big"


class Level(enum.IntEnum):
    HIGH = 3


@dataclasses.dataclass
class Point:
    x: int
    y: float


class Model:
    """As pydantic's models look from outside."""

    def model_dump(self):
        return {"name": "m", "at": date(2024, 2, 3)}


class Broken:
    def __str__(self):
        raise RuntimeError("no text")


IDENTITY = uuid.UUID("0197a1b2-0000-7000-8000-000000000000")


@pytest.mark.parametrize(
    ("value", "plain", "paths"),
    [
        (math.nan, "NaN", ["/v"]),
        (math.inf, "Infinity", ["/v"]),
        (-math.inf, "-Infinity", ["/v"]),
        (2**64, "18446744073709551616", ["/v"]),
        (-(2**63) - 1, "-9223372036854775809", ["/v"]),
        ("a\ud800b", "a\\ud800b", ["/v"]),
        (datetime(2024, 2, 3, tzinfo=UTC), "2024-02-03T00:00:00+00:00", ["/v"]),
        (b"text", "text", ["/v"]),
        (b"\xff\x00", "base64:/wA=", ["/v"]),
        (IDENTITY, str(IDENTITY), ["/v"]),
        (Decimal("1.10"), "1.10", ["/v"]),
        (PurePosixPath("/a"), "/a", ["/v"]),
        (Colour.RED, "r", ["/v"]),
        (Size.BIG, "big", []),
        (Level.HIGH, 3, []),
        (1j, "1j", ["/v"]),
        ({3, 1, 2}, [1, 2, 3], ["/v"]),
        (Point(1, math.nan), {"x": 1, "y": "NaN"}, ["/v", "/v/y"]),
        (Model(), {"name": "m", "at": "2024-02-03"}, ["/v", "/v/at"]),
        (MappingProxyType({"a": 1}), {"a": 1}, ["/v"]),
        (OrderedDict(a=1), {"a": 1}, []),
        (defaultdict(int, a=1), {"a": 1}, []),
        ((1, (2,)), [1, [2]], []),
        ({"a/b~c": math.nan}, {"a/b~c": "NaN"}, ["/v/a~1b~0c"]),
        ({1: "x", "1": "y", None: 0}, {"1": "x", "1_": "y", "null": 0}, ["/v/1", "/v/1_", "/v/null"]),
        (orjson.Fragment(b"nonsense"), None, ["/v"]),
        (Broken(), "[Broken without a text]", ["/v"]),
        (ValueError("x"), "x", ["/v"]),
        (int, "<class 'int'>", ["/v"]),
    ],
)
def test_what_json_cannot_hold_is_marked(value, plain, paths):
    """The value becomes text or a container; its path is listed; strict names it instead."""
    parsed = orjson.loads(encode_object({"v": value}))
    assert parsed.pop("_coerced", []) == paths
    if plain is not None:
        assert parsed == {"v": plain}
    if paths:
        with pytest.raises(InvalidRecordError, match="payload/v"):
            encode_object({"v": value}, strict=True)
    else:
        encode_object({"v": value}, strict=True)


ANYTHING = st.recursive(
    PLAIN | st.floats() | st.integers() | st.binary() | st.text(st.characters()) | st.datetimes() | st.uuids() | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers() | st.none(), inner, max_size=3) | st.tuples(inner),
)  # fmt: skip


@given(st.dictionaries(st.text(st.characters()), ANYTHING, max_size=4))
def test_anything_becomes_strict_json(value):
    """Whatever is handed in: valid JSON of unique members, every listed path there; strict raises exactly then."""
    data = encode_object(value)

    def unique(pairs):
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    parsed = json.loads(data, object_pairs_hook=unique, parse_constant=pytest.fail)
    for path in parsed.get("_coerced", []):
        place = parsed
        for part in path.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            place = place[int(name)] if isinstance(place, list) else place[name]
    if "_coerced" in parsed and "_coerced" not in value:
        with pytest.raises(InvalidRecordError):
            encode_object(value, strict=True)
    else:
        assert encode_object(value, strict=True) == data


def test_cycles_and_depth_end():
    """A cycle, and nesting beyond the bound, become marked strings at their place; what is below the bound stays."""
    cycle = {"name": "c"}
    cycle["self"] = [cycle]
    assert orjson.loads(encode_object({"v": cycle})) == {
        "v": {"name": "c", "self": ["[cycle]"]},
        "_coerced": ["/v/self/0"],
    }

    def nested(levels):
        value = 1
        for _ in range(levels):
            value = [value]
        return {"v": value}

    assert orjson.loads(encode_object(nested(DEPTH_MAX - 1))) == nested(DEPTH_MAX - 1)
    deep = orjson.loads(encode_object(nested(5_000)))
    assert deep["_coerced"] == ["/v" + "/0" * (DEPTH_MAX - 1)]


def test_shared_references_are_no_cycle():
    """The same object twice stands there twice."""
    shared = {"a": 1}
    assert orjson.loads(encode_object({"x": shared, "y": [shared, shared], "z": math.nan}))["y"] == [
        shared,
        shared,
    ]


def test_a_small_structure_that_is_endless_is_bounded():
    """Sixty levels of a list that holds the next one twice would be 2^60 values."""
    value = []
    for _ in range(60):
        value = [value, value]
    assert b"[too many values]" in encode_object({"v": value})


def test_the_list_of_paths_is_bounded():
    """A last entry says that there are more."""
    paths = orjson.loads(encode_object({"v": [math.nan] * 1_000}))["_coerced"]
    assert len(paths) == COERCED_PATHS_MAX + 1
    assert paths[-1] == "..."


def test_a_long_foreign_text_is_cut_and_says_so():
    """Foreign objects' texts are bounded."""

    class Long:
        def __str__(self):
            return "x" * (COERCED_TEXT_MAX + 5)

    text = orjson.loads(encode_object({"v": Long()}))["v"]
    assert text == "x" * COERCED_TEXT_MAX + "... [5 more characters]"


def test_a_member_of_that_name_is_kept():
    """An object's own `_coerced` moves aside where the list needs its place, and stays where it doesn't."""
    assert orjson.loads(encode_object({"_coerced": 1})) == {"_coerced": 1}
    assert orjson.loads(encode_object({"_coerced": 1, "v": math.nan})) == {
        "_coerced_": 1,
        "v": "NaN",
        "_coerced": ["/v"],
    }


def test_what_is_no_object_is_put_into_one():
    """A payload is always a JSON object."""
    assert encode_object([1]) == b'{"value":[1]}'
    assert orjson.loads(encode_object(Model()))["_coerced"] == ["", "/at"]


def test_numpy_is_understood():
    """Arrays become lists, scalars numbers; both are listed."""

    class Array:
        def __init__(self, content):
            self.content = content

        def tolist(self):
            return self.content

    Array.__module__ = "numpy"
    value = {"array": Array([0, 1, 2]), "scalar": Array(0.5)}
    assert orjson.loads(encode_object(value)) == {
        "array": [0, 1, 2],
        "scalar": 0.5,
        "_coerced": ["/array", "/scalar"],
    }


def test_errors_never_quote_values():
    """An error names the place and the type, not the content."""
    with pytest.raises(InvalidRecordError) as caught:
        encode_object({"a": [b"secret"]}, strict=True, field="inputs")
    assert str(caught.value).startswith("inputs/a/0 is not JSON (bytes)")
    assert "secret" not in str(caught.value)
    with pytest.raises(InvalidRecordError) as caught:
        encode_text("secret\ud800", strict=True)
    assert "secret" not in str(caught.value)
