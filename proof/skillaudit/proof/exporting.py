"""The journal as a directory that any tool for tlog-tiles reads: checkpoint, tiles and entry bundles, partial ones too."""

from __future__ import annotations

from pathlib import Path

from skillaudit.proof.checkpoint import read_checkpoint
from skillaudit.proof.journal import Journal
from skillaudit.proof.tiles import tiles_between

CHECKPOINT_NAME = "checkpoint"


def export_log(directory: Path, journal: Journal, note: str) -> int:
    """Write the journal as it was at the note's checkpoint; returns the number of its leaves.

    The journal must contain that checkpoint (`DatabaseError` where leaves are missing); whether it agrees with it is
    for whoever reads the directory to say. Files that are there are written over.
    """
    size = read_checkpoint(note).size
    for tile in tiles_between(0, size):
        _write(directory / tile.path, journal.tile(tile))
        if tile.level == 0:
            _write(directory / tile.entries_path, journal.entries(tile))
    _write(directory / CHECKPOINT_NAME, note.encode())
    return size


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
