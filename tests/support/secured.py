"""A broker that asks for passwords and permissions, in clear and over TLS with a certificate authority of its own."""

from __future__ import annotations

import datetime as dt
import ipaddress
from pathlib import Path
from typing import Any, Final

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.support.broker import KafkaContainer, free_port

AGENT: Final = "agent"
CONSUMER: Final = "consumer"
PASSWORDS: Final = {AGENT: "agent's word", CONSUMER: "consumer's word"}
_VALID_DAYS: Final = 2
_CERTIFICATES: Final = "/certificates"
_ASK_S_MAX: Final = 30.0


class SecuredKafka(KafkaContainer):
    """`bootstrap` is for the administration, without a password; `password_bootstrap` is SASL_PLAINTEXT, and
    `tls_bootstrap` SASL_SSL. Nobody may do anything that was not granted.
    """

    def __init__(self, directory: Path, **options: Any) -> None:
        """`directory`: for the certificates; `cafile` is in it."""
        super().__init__(**options)
        self.cafile = _make_certificates(directory)
        self.with_volume_mapping(str(directory), _CERTIFICATES, "ro")
        password_port, tls_port = free_port(), free_port()
        self.password_bootstrap, self.tls_bootstrap = f"127.0.0.1:{password_port}", f"127.0.0.1:{tls_port}"
        for inside, outside in ((9095, password_port), (9096, tls_port)):
            self.ports[f"{inside}/tcp"] = ("127.0.0.1", outside)  # type: ignore[assignment]
        users = " ".join(f'user_{name}="{word}"' for name, word in PASSWORDS.items())
        module = f"org.apache.kafka.common.security.plain.PlainLoginModule required {users};"
        self.env |= {
            "KAFKA_LISTENERS": f"{self.env['KAFKA_LISTENERS']},PASSWORD://:9095,TLS://:9096",
            "KAFKA_ADVERTISED_LISTENERS": f"{self.env['KAFKA_ADVERTISED_LISTENERS']},"
            f"PASSWORD://{self.password_bootstrap},TLS://{self.tls_bootstrap}",
            "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": f"{self.env['KAFKA_LISTENER_SECURITY_PROTOCOL_MAP']},"
            "PASSWORD:SASL_PLAINTEXT,TLS:SASL_SSL",
            "KAFKA_SASL_ENABLED_MECHANISMS": "PLAIN",
            "KAFKA_LISTENER_NAME_PASSWORD_PLAIN_SASL_JAAS_CONFIG": module,
            "KAFKA_LISTENER_NAME_TLS_PLAIN_SASL_JAAS_CONFIG": module,
            "KAFKA_LISTENER_NAME_TLS_SSL_KEYSTORE_TYPE": "PEM",
            "KAFKA_LISTENER_NAME_TLS_SSL_KEYSTORE_LOCATION": f"{_CERTIFICATES}/broker.pem",
            "KAFKA_AUTHORIZER_CLASS_NAME": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "KAFKA_SUPER_USERS": "User:ANONYMOUS",
        }

    def grant(self, user: str, topic: str, *operations: AclOperation) -> None:
        """Let a user do something with a topic."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        for future in admin.create_acls([_binding(AclBinding, user, topic, o) for o in operations]).values():
            future.result(_ASK_S_MAX)

    def take_back(self, user: str, topic: str, *operations: AclOperation) -> None:
        """The contrary."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        filters = [_binding(AclBindingFilter, user, topic, o) for o in operations]
        for future in admin.delete_acls(filters).values():
            future.result(_ASK_S_MAX)


def _binding(kind: Any, user: str, topic: str, operation: AclOperation) -> Any:
    return kind(
        ResourceType.TOPIC,
        topic,
        ResourcePatternType.LITERAL,
        f"User:{user}",
        "*",
        operation,
        AclPermissionType.ALLOW,
    )


def _make_certificates(directory: Path) -> Path:
    """`ca.pem`, and `broker.pem` with the broker's key and certificate for 127.0.0.1; returns the former."""
    authority, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = _name("a test's authority")
    root = (
        _certificate(issuer, issuer, authority)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority.public_key()), critical=False)
        .sign(authority, hashes.SHA256())
    )
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    leaf = (
        _certificate(_name("broker"), issuer, key)
        .add_extension(here, critical=False)
        .add_extension(_usage(signs=False), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False
        )
        .sign(authority, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem = serialization.Encoding.PEM
    (directory / "ca.pem").write_bytes(root.public_bytes(pem))
    (directory / "broker.pem").write_bytes(private + leaf.public_bytes(pem) + root.public_bytes(pem))
    directory.chmod(0o755)  # the broker in the container is another user
    (directory / "broker.pem").chmod(0o644)
    return directory / "ca.pem"


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=_VALID_DAYS))
    )


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )
