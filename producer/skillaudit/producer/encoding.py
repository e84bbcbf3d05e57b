"""JSON encoding of what agents hand in, without silent changes.

Plain JSON values (`str`, `int` of 64 bits, finite `float`, `bool`, `None`, `dict` with `str` keys, `list`, `tuple`) are
encoded as they are. Everything else is *coerced*: it becomes a string (or, where it is a container, a JSON container),
and the JSON pointers of all such places are listed in the object's member `_coerced`:

    NaN, Infinity, -Infinity, integers beyond 64 bit       their Python text ("NaN"; very long integers in hexadecimal)
    lone surrogates                                        escaped as backslash-u text
    datetime, date, time                                   isoformat()
    bytes                                                  the text if it is UTF-8, else "base64:..."
    enum members                                           their value
    UUID, Decimal, Path, other objects                     str() of them
    dataclasses, pydantic models (`model_dump`), mappings, objects, by member
    sets, frozensets, numpy arrays (`tolist`)              arrays; a set is sorted by its elements' text
    keys that are not strings                              their text; the place of the value is listed
    cycles, nesting beyond DEPTH_MAX, more than NODES_MAX values    a marked string, "[cycle]", "[too deep]", "[too many values]"

Subclasses of str, int, float, dict and list (StrEnum, OrderedDict) count as what they extend. `strict=True` raises
`InvalidRecordError` at the first such place instead. An object's own member `_coerced` moves to `_coerced_` where the
list needs its place.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import math
from collections.abc import Iterable, Mapping
from datetime import date, time
from typing import Any, Final, cast

import orjson

from skillaudit.contract.errors import InvalidRecordError

DEPTH_MAX: Final = 100
"""Levels of nesting inside one object; the wire's parser takes 512, and orjson's encoder 254."""
NODES_MAX: Final = 1_000_000
"""Values in one object that is not plain: shared references can make a small structure endless."""
COERCED_PATHS_MAX: Final = 64
"""Paths listed in `_coerced` at most; a last entry `...` says that there are more."""
COERCED_TEXT_MAX: Final = 100_000
"""Characters of a foreign object's text."""
COERCED: Final = "_coerced"
_PLAIN_DEPTH: Final = 24
_INT_MIN: Final = -(1 << 63)
_INT_MAX: Final = (1 << 64) - 1


def encode_object(value: object, *, strict: bool = False, field: str = "payload") -> bytes:
    """The bytes of a JSON object. `field` names it in errors; a value that is no mapping becomes `{"value": ...}`."""
    anything = cast("Any", value)
    if type(anything) is dict and _is_plain(anything.values(), _PLAIN_DEPTH):  # pyright: ignore[reportUnknownArgumentType]
        try:
            return orjson.dumps(anything)
        except TypeError:  # a key, a surrogate or an integer: the careful way names or mends it
            pass
    return _encode_carefully(anything, strict=strict, field=field)


def encode_text(value: object, *, strict: bool = False, field: str = "output") -> str:
    """Text that JSON can hold: None is empty, what is no text becomes its JSON, lone surrogates are escaped."""
    if value is None:
        return ""
    if not isinstance(value, str):
        if strict:
            raise InvalidRecordError(f"{field} is text, not {type(value).__name__}; convert it first")
        value = orjson.loads(encode_object({"value": value}))["value"]
        value = value if isinstance(value, str) else orjson.dumps(value).decode()
    if is_encodable(value):
        return str.__str__(value)
    if strict:
        raise InvalidRecordError(f"{field} holds a lone surrogate; encode it first")
    return _escaped(value)


def is_encodable(text: str) -> bool:
    """Whether the text has no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_plain(values: Iterable[Any], levels: int) -> bool:
    """Whether orjson keeps all of it exactly, or raises. Costs by the number of values, not by their size."""
    for value in values:
        kind = cast("Any", type(value))
        if kind is str or kind is int or value is None or kind is bool:
            continue
        if kind is float:
            if value - value != 0.0:  # NaN and infinities, which orjson makes null
                return False
        elif levels == 0:
            return False
        elif kind is dict:
            if not _is_plain(value.values(), levels - 1):
                return False
        elif kind is list or kind is tuple:
            if not _is_plain(value, levels - 1):
                return False
        else:
            return False
    return True


def _encode_carefully(value: Any, *, strict: bool, field: str) -> bytes:
    coercion = _Coercion(strict, field)
    plain = coercion.convert(value, ())
    if not isinstance(plain, dict):
        plain = {"value": plain}
    result = cast("dict[str, Any]", plain)
    if coercion.paths:
        if COERCED in result:
            result["_coerced_"] = result.pop(COERCED)
        result[COERCED] = coercion.paths
    return orjson.dumps(result)


class _Coercion:
    """One careful walk over one object."""

    def __init__(self, strict: bool, field: str) -> None:
        self.paths: list[str] = []
        self._strict = strict
        self._field = field
        self._nodes = 0
        self._open: set[int] = set()
        """Containers being walked, by id: meeting one again is a cycle."""

    def convert(self, value: Any, path: tuple[str, ...]) -> Any:
        """A plain JSON value; notes the path where it isn't what was handed in."""
        self._nodes += 1
        if self._nodes > NODES_MAX:
            return self._note(path, value, "[too many values]")
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return str.__str__(value) if is_encodable(value) else self._note(path, value, _escaped(value))
        if isinstance(value, int):
            plain = int.__int__(value)
            return plain if _INT_MIN <= plain <= _INT_MAX else self._note(path, value, _integer_text(plain))
        if isinstance(value, float):
            number = float.__float__(value)
            return number if math.isfinite(number) else self._note(path, value, _NOT_FINITE[str(number)])
        return self._container(value, path)

    def _container(self, value: Any, path: tuple[str, ...]) -> Any:
        if len(path) >= DEPTH_MAX:
            return self._note(path, value, "[too deep]")
        if id(value) in self._open:
            return self._note(path, value, "[cycle]")
        self._open.add(id(value))
        try:
            return self._members(value, path)
        finally:
            self._open.discard(id(value))

    def _members(self, value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, dict):
            return self._object(cast("Any", value).items(), path)
        if isinstance(value, list | tuple):
            return self._array(cast("Any", value), path)
        members = _foreign_members(value)
        if members is None:
            return self._note(path, value, _text_of(value))
        self._note(path, value, None)
        if isinstance(members, dict | list):
            return self._members(members, path)
        return self.convert(members, path)

    def _array(self, values: Iterable[Any], path: tuple[str, ...]) -> list[Any]:
        return [self.convert(item, (*path, str(n))) for n, item in enumerate(values)]

    def _object(self, items: Iterable[tuple[Any, Any]], path: tuple[str, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key, item in items:
            name = _key_text(key)
            while name in result:  # 1 and "1", or two keys that escape alike
                name += "_"
            if name != key:
                self._note((*path, name), key, None)
            result[name] = self.convert(item, (*path, name))
        return result

    def _note(self, path: tuple[str, ...], value: object, text: str | None) -> str | None:
        pointer = "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in path)
        if self._strict:
            raise InvalidRecordError(
                f"{self._field}{pointer} is not JSON ({type(value).__name__}); convert it first, or use encoding='coerce'"
            )
        if len(self.paths) < COERCED_PATHS_MAX:
            self.paths.append(pointer)
        elif self.paths[-1] != "...":
            self.paths.append("...")
        return text


_BYTES: Final[Any] = (bytes, bytearray, memoryview)
_NOT_FINITE: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _foreign_members(value: Any) -> Any:  # noqa: PLR0911  one line a kind
    """What a foreign object consists of, as a container or a simpler value; None where its text has to do."""
    try:
        if isinstance(value, Mapping):
            return dict(cast("Any", value))
        if isinstance(value, set | frozenset):
            return sorted(cast("Iterable[Any]", value), key=_text_of)
        if isinstance(value, enum.Enum):
            return value.value
        if isinstance(value, type):
            return None
        if dataclasses.is_dataclass(value):
            return {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        if type(value).__module__.partition(".")[0] == "numpy" and hasattr(value, "tolist"):
            return value.tolist()
        dump = getattr(value, "model_dump", None)
        return dump() if callable(dump) else None
    except Exception:  # noqa: BLE001  a foreign object may fail in any way; its text stands in for it, marked
        return None


def _text_of(value: Any) -> str:
    """A foreign object's text; never raises."""
    try:
        if isinstance(value, _BYTES):
            return _bytes_text(bytes(value))
        text = value.isoformat() if isinstance(value, date | time) else str(value)
    except Exception:  # noqa: BLE001  as above
        return f"[{type(value).__name__} without a text]"
    if len(text) > COERCED_TEXT_MAX:
        text = f"{text[:COERCED_TEXT_MAX]}... [{len(text) - COERCED_TEXT_MAX} more characters]"
    return text if is_encodable(text) else _escaped(text)


def _bytes_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return "base64:" + base64.b64encode(value).decode()


def _key_text(key: Any) -> str:
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, str):
        return str.__str__(key) if is_encodable(key) else _escaped(key)
    return _integer_text(key) if isinstance(key, int) else _text_of(key)


def _integer_text(value: int) -> str:
    try:
        return str(value)
    except ValueError:  # more digits than the interpreter converts
        return hex(value)


def _escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
