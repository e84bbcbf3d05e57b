"""Settings reach aiokafka as they should; a pure function, so that no broker is needed to know."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from aiokafka import errors as kafka_errors

from skillaudit.contract.errors import SettingsError, UnreachableError
from skillaudit.contract.settings import Settings
from skillaudit.producer.kafka import _raise_mapped, producer_options
from skillaudit.producer.publisher import PublisherBrokenError, RefusedForGoodError


def test_delivery_is_not_negotiable():
    """Acknowledged by all replicas in sync, idempotent, whatever the settings say."""
    options = producer_options(Settings(kafka_bootstrap_servers="a:1, b:2"))
    assert options["acks"] == "all"
    assert options["enable_idempotence"] is True
    assert options["bootstrap_servers"] == ["a:1", "b:2"]
    assert options["compression_type"] is None
    assert "ssl_context" not in options
    assert "sasl_mechanism" not in options


def test_bounds_and_compression_are_handed_on():
    """Batch size, request timeout and compression are what the settings say."""
    options = producer_options(
        Settings(kafka_batch_bytes=65_536, kafka_request_timeout_ms=7_000, kafka_compression="gzip")
    )
    assert options["max_batch_size"] == 65_536
    assert options["request_timeout_ms"] == 7_000
    assert options["compression_type"] == "gzip"


def test_sasl_over_plain():
    """User and password reach the client; the password is not in the settings' repr."""
    settings = Settings(
        kafka_security_protocol="SASL_PLAINTEXT",
        kafka_sasl_mechanism="SCRAM-SHA-512",
        kafka_sasl_username="audit",
        kafka_sasl_password="secret-word",
    )
    options = producer_options(settings)
    assert options["security_protocol"] == "SASL_PLAINTEXT"
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert options["sasl_plain_username"] == "audit"
    assert options["sasl_plain_password"] == "secret-word"
    assert "secret-word" not in repr(settings)


@pytest.mark.parametrize("protocol", ["SSL", "SASL_SSL"])
def test_tls_verifies_the_broker(protocol: str):
    """TLS gives a context that checks certificate and host name."""
    context = producer_options(Settings(kafka_security_protocol=protocol))["ssl_context"]
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname


def test_a_missing_certificate_is_a_settings_error(tmp_path: Path):
    """The error names the settings, not a line deep in ssl."""
    with pytest.raises(SettingsError, match="kafka_ssl_cafile"):
        producer_options(Settings(kafka_security_protocol="SSL", kafka_ssl_cafile=tmp_path / "missing.pem"))


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        (kafka_errors.MessageSizeTooLargeError(), RefusedForGoodError),
        (kafka_errors.InvalidTimestampError(), RefusedForGoodError),
        (kafka_errors.TopicAuthorizationFailedError("t"), UnreachableError),
        (kafka_errors.SaslAuthenticationFailed(), UnreachableError),
        (kafka_errors.InvalidTopicError(), UnreachableError),
        (kafka_errors.NotEnoughReplicasError(), UnreachableError),
        (kafka_errors.RequestTimedOutError(), UnreachableError),
        (kafka_errors.KafkaConnectionError(), UnreachableError),
        (ConnectionRefusedError(), UnreachableError),
        (kafka_errors.OutOfOrderSequenceNumber(), PublisherBrokenError),
        (kafka_errors.UnknownProducerId(), PublisherBrokenError),
        (kafka_errors.ProducerFenced(), PublisherBrokenError),
        (kafka_errors.ProducerClosed(), PublisherBrokenError),
        (kafka_errors.KafkaError("Unexpected error during batch delivery"), PublisherBrokenError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else type(value).__name__,
)
def test_foreign_errors_become_what_the_forwarder_should_do(foreign: Exception, ours: type[Exception]):
    """Refuse the record, wait, or rebuild the producer; a missing permission is waited for, never blamed on a record."""
    with pytest.raises(ours) as caught:
        _raise_mapped(foreign, "here")
    assert caught.value.__cause__ is foreign
