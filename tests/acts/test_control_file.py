"""The embedded control log: a line that was promised is there for ever, one that a crash cut off never was."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skillaudit.consumer.control_file import PARTITION, FileControlLog
from skillaudit.contract.errors import HistoryLostError, RejectedError, StopError
from skillaudit.contract.sources import StoredPosition, record_digest


async def lines_of(path: Path, stored: StoredPosition | None = None) -> list[bytes | None]:
    log = FileControlLog(path)
    await log.open(stored)
    batch = await log.poll(0)
    assert batch.records == [] or batch.ends == {PARTITION: batch.records[-1].next_offset}
    return [record.value for record in batch.records]


def content(path: Path) -> bytes:
    return path.read_bytes()


def put(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@pytest.fixture
async def two(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "control.jsonl"
    log = FileControlLog(path)
    await log.append("1", b'{"n":1}')
    assert await log.append("2", b'{"n":2}') == len(content(path))
    return path


async def test_what_was_appended_is_read_in_order(two: Path) -> None:
    """And from a stored position on only what lies behind it."""
    assert await lines_of(two) == [b'{"n":1}', b'{"n":2}']
    end = len(content(two))
    stored = StoredPosition(end // 2, 0, record_digest(b'{"n":1}'))
    assert await lines_of(two, stored) == [b'{"n":2}']
    assert await lines_of(two.with_name("none")) == []


@given(cut=st.integers(1, 16))
@settings(max_examples=16)
async def test_a_line_cut_off_is_replaced_by_the_next_append(tmp_path_factory, cut: int) -> None:
    """Wherever a crash ended the last write."""
    path = tmp_path_factory.mktemp("cut") / "control.jsonl"
    log = FileControlLog(path)
    await log.append("1", b'{"n":1}')
    await log.append("2", b'{"n":2}')
    whole = content(path)
    put(path, whole[:-cut])
    assert await lines_of(path) == [b'{"n":1}']
    await log.append("3", b'{"n":3}')
    assert await lines_of(path) == [b'{"n":1}', b'{"n":3}']


async def test_zeroes_that_a_power_cut_left_are_a_line_cut_off(two: Path) -> None:
    """A file system may keep the length and lose the bytes."""
    whole = content(two)
    put(two, whole[: len(whole) // 2] + bytes(len(whole) // 2))
    assert await lines_of(two) == [b'{"n":1}']


async def test_damage_before_another_act_stops(two: Path) -> None:
    """An act that was applied elsewhere must not be passed over, and must not be written over."""
    damaged = content(two)
    put(two, b"X" + damaged[1:])
    with pytest.raises(StopError, match="damaged at byte 0"):
        await lines_of(two)
    with pytest.raises(StopError, match="damaged at byte 0"):
        await FileControlLog(two).append("3", b"{}")
    assert content(two) == b"X" + damaged[1:]


async def test_another_log_under_the_same_name_is_lost_history(two: Path) -> None:
    """The act at the stored position must still be the one that was applied."""
    stored = StoredPosition(len(content(two)), 0, record_digest(b"another"))
    with pytest.raises(HistoryLostError, match="accept-history-loss control/0"):
        await lines_of(two, stored)


async def test_a_line_is_one_line(tmp_path: Path) -> None:
    """Else it would be read as something else."""
    with pytest.raises(RejectedError):
        await FileControlLog(tmp_path / "c").append("1", b"a\nb")
