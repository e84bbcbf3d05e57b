"""Arrow, as this part sees it: the one module here that imports pyarrow."""

# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final

import pyarrow as pa

CHUNK_RECORDS: Final = 4_096
"""The engine gives each of its threads one chunk at a time."""


class Kind(Enum):
    """Types of columns."""

    I64 = "int64"
    U64 = "uint64"
    TEXT = "text"
    BLOB = "blob"
    BOOL = "bool"
    TIME = "time"
    """Integer microseconds since the epoch, UTC."""


_TYPES: Final = {
    Kind.I64: pa.int64(),
    Kind.U64: pa.uint64(),
    Kind.TEXT: pa.large_string(),
    Kind.BLOB: pa.large_binary(),
    Kind.BOOL: pa.bool_(),
    Kind.TIME: pa.timestamp("us", "UTC"),
}


def make_table(columns: Mapping[str, Kind], rows: Sequence[Sequence[Any]]) -> Any:
    """An Arrow table of rows, for the engine to read; there is at least one row."""
    arrays = [
        pa.array(values, _TYPES[kind])
        for values, kind in zip(zip(*rows, strict=True), columns.values(), strict=True)
    ]
    return pa.table(dict(zip(columns, arrays, strict=True)))


def make_incoming(values: Sequence[bytes | None]) -> Any:
    """A batch of records as the engine takes it: `idx` and `record`, text. Text that is none is left out, at the cost of
    that record only.
    """
    raw = pa.array(values, pa.large_binary())
    try:
        text = raw.cast(pa.large_string())
    except pa.ArrowInvalid:
        text = pa.array([_text(value) for value in values], pa.large_string())
    whole = pa.table({"idx": pa.array(range(len(values)), pa.int64()), "record": text, "bytes": raw})
    return pa.Table.from_batches(whole.to_batches(max_chunksize=CHUNK_RECORDS))


def numbers_of(connection: Any, query: str) -> array[int]:
    """The one UBIGINT column of a query, without a Python object for each; on a cursor of its own."""
    numbers = array("Q")
    with contextlib.closing(connection.cursor()) as cursor:
        chunks = cursor.sql(query).to_arrow_table().column(0).chunks
    for chunk in chunks:
        if len(chunk):
            start = chunk.offset * numbers.itemsize
            numbers.frombytes(memoryview(chunk.buffers()[1])[start : start + len(chunk) * numbers.itemsize])
    return numbers


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
