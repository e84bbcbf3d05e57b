"""Anchors: places outside the database that keep signed checkpoints and the journal's leaves."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from skillaudit.contract.errors import SettingsError
from skillaudit.contract.settings import Settings
from skillaudit.proof.anchors.base import Anchor, AnchorObject, AnchorTrust, Receipt, StoredObject, newest_of

__all__ = ["Anchor", "AnchorObject", "AnchorTrust", "Receipt", "StoredObject", "newest_of", "open_anchor"]

_LATER: Final = ("https", "http", "exec", "witness", "s3", "rfc3161", "ots")
_TOPIC: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


def open_anchor(uri: str, settings: Settings | None = None, *, make: bool = True) -> Anchor:
    """The anchor behind a URI: `file:<directory>`, `kafka:<topic>` on the broker of the settings, or
    `kafka://<host>:<port>/<topic>` on another one, with the same security settings.

    `make`: a directory that is missing is made, as a sealer wants it; to a verifier it is out of reach. Nothing is asked of it yet. Raises `SettingsError` for anything else.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or not rest:
        raise SettingsError(f"an anchor is a URI like file:/mnt/worm/audit or kafka:<topic>, not {uri!r}")
    if scheme == "file":
        return _file(uri, make)
    if scheme == "kafka":
        return _kafka(uri, settings)
    if scheme in _LATER:
        raise SettingsError(f"{scheme}: anchors are not there yet; use file: or kafka:")
    raise SettingsError(f"no anchor is called {scheme}:; use file: or kafka:")


def _file(uri: str, make: bool) -> Anchor:
    from skillaudit.proof.anchors.file import FileAnchor

    parts = urlsplit(uri)
    if parts.netloc not in {"", "localhost"} or not parts.path or parts.query or parts.fragment:
        raise SettingsError(f"{uri} names no directory of this machine; write file:/path/to/it")
    return FileAnchor(Path(unquote(parts.path)), uri, make=make)


def _kafka(uri: str, settings: Settings | None) -> Anchor:
    from skillaudit.proof.anchors.kafka import KafkaAnchor

    parts = urlsplit(uri)
    topic = parts.path.removeprefix("/") if parts.netloc else parts.path
    settings = settings or Settings()
    if parts.netloc:
        settings = replace(settings, kafka_bootstrap_servers=parts.netloc)
    if not settings.kafka_bootstrap_servers:
        raise SettingsError(
            f"{uri} needs a broker: set kafka_bootstrap_servers, or write kafka://host:port/topic"
        )
    if not _TOPIC.fullmatch(topic) or parts.query or parts.fragment:
        raise SettingsError(f"{uri} names no topic; write kafka:<topic>")
    return KafkaAnchor(topic, settings, uri)
