"""Giving back the space of what is acknowledged: delete it, or move it compressed to the archive.

The order that keeps every crash harmless: the acknowledgement is on the disk before anything here is called; an
archived copy is on the disk before its segment is deleted; segments go oldest first, and a source's own files last.
"""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Final

from skillaudit.contract.errors import OutboxCorruptError
from skillaudit.contract.outbox.acknowledgement import ACKNOWLEDGEMENT_NAME, Acknowledgement
from skillaudit.contract.outbox.files import read_optional, sync_directory, write_atomically
from skillaudit.contract.outbox.identity import SOURCE_FILE_NAME, read_source
from skillaudit.contract.outbox.layout import list_segments, segment_name, unpack_position
from skillaudit.contract.outbox.locks import is_locked
from skillaudit.contract.outbox.reader import WRITER_LOCK_NAME
from skillaudit.contract.outbox.refused import REFUSED_DIR_NAME
from skillaudit.contract.outbox.scan import used_end
from skillaudit.contract.outbox.segments import archived_path, archived_segments

_COMPRESSION_LEVEL: Final = 1
_DAY_US: Final = 86_400_000_000


def retire_segments(source_dir: Path, ack: Acknowledgement, archive_dir: Path | None) -> int:
    """Delete the segments before the acknowledged one, oldest first, archived before where `archive_dir` is given.

    The caller holds the source's `reader` lock and has written `ack`. The acknowledged position's own segment stays:
    it tells a later reader that nothing is missing. Returns how many went.
    """
    current, _ = unpack_position(ack.position)
    retired = [number for number in list_segments(source_dir) if number < current]
    for number in retired:
        _retire(source_dir, number, archive_dir)
    if retired:
        sync_directory(source_dir)
    return len(retired)


def remove_source(source_dir: Path, ack: Acknowledgement, archive_dir: Path | None) -> bool:
    """Remove a dead source that is acknowledged to its end; False, with nothing done, where it is not safe.

    Not safe: the writer lives, bytes stand behind the acknowledged position, or the source may be continued (an
    import; its segments go, its small files stay). The caller holds the `reader` lock, has written `ack`, and has
    published what there was to say about the source. Refused records go to the archive, or keep the directory.
    """
    if is_locked(source_dir / WRITER_LOCK_NAME) or not is_read_to_end(source_dir, ack):
        return False
    stays = _may_be_continued(source_dir)
    for number in list_segments(source_dir):
        _retire(source_dir, number, archive_dir)
    if stays:
        sync_directory(source_dir)
        return False
    if archive_dir is None and any((source_dir / REFUSED_DIR_NAME).glob("*")):
        return False
    if archive_dir is not None:
        _archive_refused(source_dir, archive_dir / source_dir.name)
        _keep_acknowledgement(source_dir, archive_dir / source_dir.name)
    (source_dir / SOURCE_FILE_NAME).unlink(missing_ok=True)  # from here on it is no source
    shutil.rmtree(source_dir)
    sync_directory(source_dir.parent)
    return True


def _may_be_continued(source_dir: Path) -> bool:
    """Whether the directory has to stay: an import's, or one whose `source.json` does not say."""
    try:
        identity = read_source(source_dir)
    except OutboxCorruptError:
        return True
    return identity is not None and identity.continued


def is_read_to_end(source_dir: Path, ack: Acknowledgement) -> bool:
    """Whether nothing but unused space stands behind the acknowledged position."""
    current, byte = unpack_position(ack.position)
    for number in list_segments(source_dir):
        content = (source_dir / segment_name(number)).read_bytes() if number >= current else b""
        begin = byte if number == current else content.find(b"\n") + 1
        if used_end(content, begin) > begin:
            return False
    return True


def prune_archive(archive_dir: Path, keep_days: int, now_us: int) -> int:
    """Delete archived segments older than `keep_days`, oldest first, and sources of which nothing is left.

    Returns how many segments went. A rebuild then begins at the oldest one there is.
    """
    before_us = now_us - keep_days * _DAY_US
    pruned = 0
    for source in [path for path in archive_dir.glob("*") if path.is_dir()]:
        for number in archived_segments(source):
            path = archived_path(source, number)
            if path.stat().st_mtime_ns // 1000 >= before_us:
                break
            path.unlink()
            pruned += 1
        if not archived_segments(source) and source.stat().st_mtime_ns // 1000 < before_us:
            shutil.rmtree(source)
    return pruned


def list_archived_sources(archive_dir: Path) -> list[Path]:
    """The archived sources, oldest first; `SourceReader(outbox_dir / name, archive_dir=archive_dir)` reads one."""
    found = [path for path in archive_dir.glob("*") if archived_segments(path)]
    return sorted(found, key=lambda path: archived_path(path, archived_segments(path)[0]).stat().st_mtime_ns)


def _retire(source_dir: Path, number: int, archive_dir: Path | None) -> None:
    path = source_dir / segment_name(number)
    if archive_dir is not None:
        _archive(path, number, archive_dir / source_dir.name)
    path.unlink()


def _archive(path: Path, number: int, archive_of_source: Path) -> None:
    _copy_once(path.parent, archive_of_source)
    content = path.read_bytes().rstrip(b"\0")
    write_atomically(
        archived_path(archive_of_source, number), gzip.compress(content, _COMPRESSION_LEVEL, mtime=0)
    )


def _copy_once(source_dir: Path, archive_of_source: Path) -> None:
    """`source.json` goes with the first archived segment."""
    if (archive_of_source / SOURCE_FILE_NAME).exists():
        return
    archive_of_source.mkdir(parents=True, exist_ok=True)
    sync_directory(archive_of_source.parent)
    content = read_optional(source_dir / SOURCE_FILE_NAME)
    if content is not None:
        write_atomically(archive_of_source / SOURCE_FILE_NAME, content)


def _keep_acknowledgement(source_dir: Path, archive_of_source: Path) -> None:
    content = read_optional(source_dir / ACKNOWLEDGEMENT_NAME)
    if content is not None and archive_of_source.is_dir():
        write_atomically(archive_of_source / ACKNOWLEDGEMENT_NAME, content)


def _archive_refused(source_dir: Path, archive_of_source: Path) -> None:
    refused = source_dir / REFUSED_DIR_NAME
    for path in refused.glob("*"):
        (archive_of_source / REFUSED_DIR_NAME).mkdir(parents=True, exist_ok=True)
        write_atomically(archive_of_source / REFUSED_DIR_NAME / path.name, path.read_bytes())
