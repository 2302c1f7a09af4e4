"""Certificates and keys for servers that a test runs itself."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LOOPBACK = IPv4Address("127.0.0.1")
LIFETIME = timedelta(days=30)
"""Longer than a cluster is left up for a developer."""


class Authority:
    """A certificate authority in a folder: `ca.crt`, and what it issues. Its key stays here.

    It follows RFC 5280 to the letter or, when it is not `strict`, leaves out what most do without: the use of keys, and
    who issued what.
    """

    def __init__(self, folder: Path, *, strict: bool = True) -> None:
        self._strict = strict
        self.certificate = folder / "ca.crt"
        self._folder = folder
        self._key = _key()
        self._name = _name("test-ca")
        public = self._key.public_key()
        authority = (
            _builder(self._name, self._name, public)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )
        if strict:
            authority = authority.add_extension(_usage(key_cert_sign=True), critical=True)
        self.certificate.write_bytes(authority.sign(self._key, hashes.SHA256()).public_bytes(Encoding.PEM))

    def server(self, file: str, *, names: Sequence[str], addresses: Sequence[str]) -> tuple[Path, Path]:
        """Write the certificate of a server and its key; return their paths, `file` with .crt and .key."""
        alternatives = [*map(x509.DNSName, names), *(x509.IPAddress(IPv4Address(one)) for one in addresses)]
        return self._issue(file, _name(file), ExtendedKeyUsageOID.SERVER_AUTH, alternatives)

    def client(self, file: str, *, group: str) -> tuple[Path, Path]:
        """Write the certificate of a client and its key; Kubernetes takes `file` for the user, in that `group`."""
        return self._issue(file, _name(file, group), ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def _issue(
        self,
        file: str,
        subject: x509.Name,
        usage: x509.ObjectIdentifier,
        alternatives: Sequence[x509.GeneralName],
    ) -> tuple[Path, Path]:
        key = _key()
        builder = _builder(subject, self._name, key.public_key()).add_extension(
            x509.ExtendedKeyUsage([usage]), critical=False
        )
        if self._strict:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
            builder = builder.add_extension(_usage(digital_signature=True), critical=True)
            builder = builder.add_extension(issuer, critical=False)
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        certificate_file = self._folder / f"{file}.crt"
        certificate_file.write_bytes(certificate.public_bytes(Encoding.PEM))
        return certificate_file, _write_private(self._folder / f"{file}.key", _pem(key))


def self_signed(path: Path) -> Path:
    """Write a certificate for 127.0.0.1 that is its own authority, and its key, to one file; return its path."""
    key = _key()
    name = _name("test")
    certificate = (
        _builder(name, name, key.public_key())
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _write_private(path, certificate.public_bytes(Encoding.PEM) + _pem(key))


def signing_key(folder: Path) -> tuple[Path, Path]:
    """Write the key pair with which an API server signs the tokens of service accounts; return private and public."""
    key = _key()
    # Kubernetes reads an EC key in this form only.
    private = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    public = folder / "service-account.pub"
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return _write_private(folder / "service-account.key", private), public


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_private(path: Path, content: bytes) -> Path:
    path.touch(mode=0o600)
    path.write_bytes(content)
    return path


def _name(common_name: str, organization: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    if organization is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization))
    return x509.Name(attributes)


def _usage(*, key_cert_sign: bool = False, digital_signature: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=key_cert_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    # A day back, for a machine whose clock was just put right.
    return x509.CertificateBuilder(
        issuer, subject, public, x509.random_serial_number(), now - timedelta(days=1), now + LIFETIME
    )
