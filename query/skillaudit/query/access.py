"""Who may ask a server, and by which name: loopback, allowed hosts, the token. Pure but for reading the token's file."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final

from skillaudit.contract.errors import SettingsError
from skillaudit.contract.settings import Settings

LOOPBACK_NAMES: Final = frozenset({"localhost", "127.0.0.1", "[::1]"})
ANY_HOST: Final = "*"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address of this host."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def split_listen(listen: str) -> tuple[str, int]:
    """Host (an IPv6 address without brackets) and port of `http_listen`."""
    host, colon, port = listen.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not bare or not port.isascii() or not port.isdigit() or int(port) > 65_535:  # noqa: PLR2004
        raise SettingsError(f"http_listen {listen!r} must be host:port, like 127.0.0.1:8765 or [::1]:8765")
    return bare, int(port)


def url_of(host: str, port: int) -> str:
    """The address to reach a server at that listens there; loopback where it listens on every interface."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        address = ipaddress.ip_address("127.0.0.1" if address.version == 4 else "::1")  # noqa: PLR2004
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"  # noqa: PLR2004


def allowed_hosts(settings: Settings) -> frozenset[str]:
    """The names a request may address the server by: loopback's, the one it listens on, `http_allow_hosts`."""
    host, _ = split_listen(settings.http_listen)
    named = (name.strip().lower() for name in settings.http_allow_hosts.split(","))
    own = f"[{host}]" if ":" in host else host.lower()
    return LOOPBACK_NAMES | {own} | {name for name in named if name}


def host_allowed(header: str, allowed: frozenset[str]) -> bool:
    """Whether a Host header, its port aside, is among the allowed names. Stops DNS rebinding: a page of another name
    that resolves to this address sends its own name.
    """
    if ANY_HOST in allowed:
        return True
    name = header.lower()
    bracket = name.find("]")
    colon = name.find(":", bracket + 1)
    return (name if colon < 0 else name[:colon]) in allowed


def read_token(path: Path | None) -> str | None:
    """The token in a file, None where no file is set; `SettingsError` where it can't be one."""
    if path is None:
        return None
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"can't read token_file {path}: {exc}") from exc
    return checked_token(token, f"token_file {path}")


def checked_token(token: str, origin: str) -> str:
    """The token, or `SettingsError` naming where it came from: it has to be one word of a header."""
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise SettingsError(f"{origin} must be one word of printable ASCII characters")
    return token
