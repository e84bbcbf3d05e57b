"""Settings: argument over environment over TOML file over default; prefix `SKILLAUDIT_`.

Every bound has its unit in its name. Secrets come from files or the environment and are never printed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

from skillaudit.contract.errors import SettingsError

PREFIX: Final = "SKILLAUDIT_"
CONFIG_VARIABLE: Final = "SKILLAUDIT_CONFIG"
MIB: Final = 1024 * 1024

_TRUE: Final = frozenset({"1", "true", "yes", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "off"})


def default_data_dir() -> Path:
    """`$XDG_DATA_HOME/skillaudit`, else `~/.local/share/skillaudit`."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "skillaudit"


def _choice(*words: str) -> dict[str, Any]:
    return {"choices": words}


def _bounds(low: int, high: int) -> dict[str, Any]:
    return {"bounds": (low, high)}


_SECRET: Final[dict[str, Any]] = {"secret": True}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set. Construct by `Settings.load()`; `Settings(...)` directly in tests."""

    enabled: bool = True
    """0: `Sink.from_settings()` audits nothing and costs nothing."""
    data: Path = field(default_factory=default_data_dir)
    """Directory of outbox, archive, database and import key."""

    kafka_bootstrap_servers: str = ""
    """`host:port[,host:port]`; unset: the embedded pipeline."""
    kafka_topic: str = "skillaudit.events"
    """Comma-separated for the consumer; the first is the one written to."""
    kafka_control_topic: str = "skillaudit.control"
    """Administrative acts; kept for ever."""
    kafka_security_protocol: str = field(
        default="PLAINTEXT", metadata=_choice("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
    )
    kafka_sasl_mechanism: str = field(
        default="PLAIN", metadata=_choice("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "GSSAPI", "OAUTHBEARER")
    )
    kafka_sasl_username: str = ""
    kafka_sasl_password: str = field(default="", repr=False, metadata=_SECRET)
    kafka_sasl_password_file: Path | None = None
    kafka_ssl_cafile: Path | None = None
    kafka_ssl_certfile: Path | None = None
    kafka_ssl_keyfile: Path | None = None
    kafka_request_timeout_ms: int = field(default=30_000, metadata=_bounds(1_000, 600_000))
    kafka_linger_ms: int = field(default=5, metadata=_bounds(0, 1_000))
    kafka_batch_bytes: int = field(default=128 * 1024, metadata=_bounds(16 * 1024, 16 * MIB))
    kafka_compression: str = field(default="none", metadata=_choice("none", "gzip", "lz4", "zstd"))
    """lz4 and zstd need the package cramjam."""

    forwarder: str = field(default="auto", metadata=_choice("auto", "thread", "host", "none"))
    """auto: a thread where Kafka is configured; host: `skillaudit forward` does it; none: nobody here."""
    outbox_bytes_max: int = field(default=256 * MIB, metadata=_bounds(MIB, 1 << 40))
    """Unacknowledged bytes a source may hold."""
    outbox_free_bytes_min: int = field(default=1024 * MIB, metadata=_bounds(0, 1 << 50))
    """Free space of the file system below which the outbox counts as full."""
    outbox_reserve_bytes: int = field(default=4 * MIB, metadata=_bounds(64 * 1024, 1 << 32))
    """Held back for starts, finishes and heartbeats."""
    outbox_block_ms_max: int = field(default=5_000, metadata=_bounds(0, 600_000))
    """How long a call waits for room outside an event loop; inside one it is 50 ms."""
    outbox_fsync: str = field(default="never", metadata=_choice("never", "interval", "always"))
    outbox_fsync_interval_ms: int = field(default=1_000, metadata=_bounds(10, 600_000))
    outbox_on_full: str = field(default="raise", metadata=_choice("raise", "count"))
    """count: best effort; logs may be dropped, counted and declared."""
    outbox_keep_days: int = field(default=30, metadata=_bounds(0, 36_500))
    """How long the embedded mode keeps consumed segments in `archive/`; a rebuild reads those."""
    segment_bytes: int = field(default=8 * MIB, metadata=_bounds(64 * 1024, 1 << 30))
    record_bytes_max: int = field(default=12 * MIB, metadata=_bounds(64 * 1024, 15 * MIB))
    flush_timeout_ms: int = field(default=5_000, metadata=_bounds(0, 600_000))
    """How long `close` and interpreter exit wait for acknowledgements."""
    heartbeat_interval_ms: int = field(default=30_000, metadata=_bounds(100, 3_600_000))

    db_file: Path | None = None
    """Default: `<data>/audit.duckdb`."""
    batch_records_max: int = field(default=20_000, metadata=_bounds(1, 1_000_000))
    batch_interval_ms: int = field(default=100, metadata=_bounds(1, 60_000))
    seal_rows: int = field(default=400_000, metadata=_bounds(1_000, 100_000_000))
    """Rows in the hot table at which it is sealed; 256 MiB of payload seal it, too."""
    abandon_after_ms: int = field(default=300_000, metadata=_bounds(1_000, 86_400_000))
    """Silence of a source, in broker time, after which its open runs read `abandoned`."""
    poison_in_a_row_max: int = field(default=1_000, metadata=_bounds(1, 1_000_000_000))
    poison_share_percent_max: int = field(default=50, metadata=_bounds(1, 101))
    """Of the last 10,000 records; 101 switches the share off."""
    retention_days: int = field(default=0, metadata=_bounds(0, 36_500))
    """0: keep for ever."""
    min_retention_days: int = field(default=0, metadata=_bounds(0, 36_500))
    """Younger runs are purged only by force, recorded; 0: no minimum."""

    seal_interval_ms: int = field(default=60_000, metadata=_bounds(1_000, 86_400_000))
    """How long rows of the ledger wait for their seal, at most, where `skillaudit consume` runs."""
    seal_check: bool = True
    """Compute runs again before their finish is sealed; what differs is an incident. Some 7 us of a core per event."""
    seal_key_file: Path | None = None
    """The Ed25519 key that signs the journal; its name is the journal's. None: sealed, not signed."""
    seal_former_key_file: Path | None = None
    """After a change of keys, those before, one a line: a private key signs, too; a verifier's half counts as having signed."""
    seal_state_file: Path | None = None
    """What was signed last; best on another disk than the database. Default: `<data>/seal.checkpoint`."""
    anchors: str = ""
    """Comma-separated `file:<directory>`, `kafka:<topic>`, `kafka://<host>:<port>/<topic>`: where checkpoints are kept."""

    session_wait_ms_max: int = field(default=5_000, metadata=_bounds(0, 600_000))
    query_timeout_ms: int = field(default=30_000, metadata=_bounds(10, 3_600_000))
    http_listen: str = "127.0.0.1:8765"
    """`host:port`; port 0 takes a free one."""
    http_allow_hosts: str = ""
    """Comma-separated names a request may address this server by, besides loopback and `http_listen`'s own; `*`: any."""
    http_allow_unauthenticated: bool = False
    """Serve off loopback without a token: only behind something that authenticates."""
    metrics_listen: str = "127.0.0.1:8766"
    """`host:port` at which `skillaudit forward` serves Prometheus metrics; empty: nowhere. The consumer's are at `http_listen`."""
    url: str = ""
    """Address of a running consumer's HTTP surface; reading commands ask it."""
    token_file: Path | None = None

    def __post_init__(self) -> None:
        """An agent may change its directory; its outbox stays where it is."""
        object.__setattr__(self, "data", self.data.absolute())

    @classmethod
    def load(
        cls,
        arguments: Mapping[str, Any] | None = None,
        *,
        environ: Mapping[str, str] | None = None,
        config_file: Path | None = None,
    ) -> Settings:
        """Settings from all four places. `arguments` holds only what was really given; None values are ignored.

        The TOML file is `config_file`, else `$SKILLAUDIT_CONFIG`, else none. Raises `SettingsError` naming the setting
        and where its value came from.
        """
        environ = os.environ if environ is None else environ
        known = {f.name: f for f in fields(cls)}
        values: dict[str, Any] = {}
        path = config_file or (Path(environ[CONFIG_VARIABLE]) if environ.get(CONFIG_VARIABLE) else None)
        layers: list[tuple[str, Mapping[str, Any]]] = []
        if path is not None:
            layers.append((f"the file {path}", _read_toml(path)))
        named = {k[len(PREFIX) :].lower(): v for k, v in environ.items() if k.startswith(PREFIX)}
        layers.append(("the environment", {k: v for k, v in named.items() if k in known}))
        layers.append(("an argument", {k: v for k, v in (arguments or {}).items() if v is not None}))
        for origin, layer in layers:
            for name, raw in layer.items():
                if name not in known:
                    raise SettingsError(
                        f"unknown setting {name!r} in {origin}; `skillaudit settings` lists all"
                    )
                values[name] = _convert(name, raw, str(known[name].type), known[name].metadata, origin)
        return _with_secrets(cls(**values))

    @property
    def database(self) -> Path:
        """The database file."""
        return self.db_file or self.data / "audit.duckdb"

    @property
    def outbox_dir(self) -> Path:
        """The outbox directory."""
        return self.data / "outbox"

    @property
    def archive_dir(self) -> Path:
        """Where consumed segments of the embedded mode go."""
        return self.data / "archive"

    @property
    def seal_state(self) -> Path:
        """Where the last signed checkpoint is kept."""
        return self.seal_state_file or self.data / "seal.checkpoint"

    @property
    def kafka_topics(self) -> tuple[str, ...]:
        """The topics a consumer reads."""
        return tuple(t.strip() for t in self.kafka_topic.split(",") if t.strip())

    @property
    def uses_kafka(self) -> bool:
        """Whether a broker is configured."""
        return bool(self.kafka_bootstrap_servers)

    def printable(self) -> dict[str, str]:
        """Name -> value as text, secrets masked."""
        return {
            f.name: ("(set)" if getattr(self, f.name) else "")
            if f.metadata.get("secret")
            else _text(getattr(self, f.name))
            for f in fields(self)
        }


def _with_secrets(settings: Settings) -> Settings:
    path = settings.kafka_sasl_password_file
    if path is None or settings.kafka_sasl_password:
        return settings
    try:
        secret = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"can't read kafka_sasl_password_file {path}: {exc}") from exc
    return replace(settings, kafka_sasl_password=secret)


def _text(value: object) -> str:
    if value is None:
        return ""
    return ("1" if value else "0") if isinstance(value, bool) else str(value)


def _read_toml(path: Path) -> Mapping[str, Any]:
    import tomllib  # most processes have no such file

    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as exc:
        raise SettingsError(f"can't read the settings file {path}: {exc.strerror}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"the settings file {path} is no TOML: {exc}") from exc


def _convert(name: str, raw: object, kind: str, metadata: Mapping[str, Any], origin: str) -> object:
    try:
        value = _CONVERTERS[kind](raw)
    except (ValueError, TypeError) as exc:
        raise SettingsError(f"setting {name} from {origin}: {exc}") from exc
    choices = metadata.get("choices")
    if choices and value not in choices:
        raise SettingsError(f"setting {name} from {origin}: {value!r} is none of {', '.join(choices)}")
    bounds = metadata.get("bounds")
    if bounds and isinstance(value, int) and not bounds[0] <= value <= bounds[1]:
        raise SettingsError(f"setting {name} from {origin}: {value} is not within {bounds[0]} to {bounds[1]}")
    return value


def _boolean(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    word = str(raw).strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError(f"{raw!r} is neither 1 nor 0")


def _integer(raw: object) -> int:
    if isinstance(raw, bool) or not isinstance(raw, int | str):
        raise TypeError(f"{raw!r} is not a whole number")
    try:
        return int(raw)
    except ValueError as exc:
        raise ValueError(f"{raw!r} is not a whole number") from exc


def _string(raw: object) -> str:
    if not isinstance(raw, str):
        raise TypeError(f"{raw!r} is not text")
    return raw


def _path(raw: object) -> Path | None:
    if not isinstance(raw, str | Path):
        raise TypeError(f"{raw!r} is not a path")
    return Path(raw).expanduser() if str(raw) else None


def _directory(raw: object) -> Path:
    return _path(raw) or default_data_dir()


_CONVERTERS: Final[Mapping[str, Callable[[object], object]]] = {
    "bool": _boolean,
    "int": _integer,
    "str": _string,
    "Path": _directory,
    "Path | None": _path,
}
