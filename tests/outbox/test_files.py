"""Small files of the outbox: the old content or the new, and nothing beside it."""

from pathlib import Path

import pytest

from skillaudit.contract.outbox.files import write_atomically


def test_a_file_that_could_not_be_replaced_leaves_nothing_behind(tmp_path: Path) -> None:
    """What was written for it goes again: on a full disk it would keep the disk full, under another name every time."""
    (tmp_path / "ack").mkdir()
    with pytest.raises(OSError, match="ack"):
        write_atomically(tmp_path / "ack", b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["ack"]
