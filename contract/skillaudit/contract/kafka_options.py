"""What every Kafka client of this project is given: addresses, bounds, TLS and SASL. Imports no client."""

from __future__ import annotations

import ssl
from typing import Any, Final

from skillaudit.contract.errors import SettingsError
from skillaudit.contract.settings import Settings

CLIENT_ID: Final = "skillaudit"
RETRY_BACKOFF_MS: Final = 100


def connection_options(settings: Settings) -> dict[str, Any]:
    """The client's names and values for the connection settings. Raises `SettingsError`."""
    options: dict[str, Any] = {
        "bootstrap_servers": [s.strip() for s in settings.kafka_bootstrap_servers.split(",") if s.strip()],
        "client_id": CLIENT_ID,
        "request_timeout_ms": settings.kafka_request_timeout_ms,
        "retry_backoff_ms": RETRY_BACKOFF_MS,
        "security_protocol": settings.kafka_security_protocol,
    }
    if settings.kafka_security_protocol.endswith("SSL"):
        options["ssl_context"] = ssl_context(settings)
    if settings.kafka_security_protocol.startswith("SASL"):
        options["sasl_mechanism"] = settings.kafka_sasl_mechanism
        options["sasl_plain_username"] = settings.kafka_sasl_username or None
        options["sasl_plain_password"] = settings.kafka_sasl_password or None
    return options


def ssl_context(settings: Settings) -> ssl.SSLContext:
    """The TLS context of the files in the settings. Raises `SettingsError` where one can't be used."""
    try:
        context = ssl.create_default_context(
            cafile=str(settings.kafka_ssl_cafile) if settings.kafka_ssl_cafile else None
        )
        if settings.kafka_ssl_certfile:
            context.load_cert_chain(settings.kafka_ssl_certfile, settings.kafka_ssl_keyfile)
    except (OSError, ssl.SSLError) as exc:
        raise SettingsError(
            f"kafka_ssl_cafile, kafka_ssl_certfile or kafka_ssl_keyfile can't be used: {exc}"
        ) from exc
    return context
