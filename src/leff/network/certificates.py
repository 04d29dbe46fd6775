"""The federation's own certificate authority and the server's certificate.

    make_authority(folder)                            # ca.key, ca.crt: once, for ten years
    make_certificate(folder, ["fl.example", "10.0.0.7"])  # server.key, server.crt: again to renew
    federation_id(folder / AUTHORITY)                 # "3f0c…": 32 hexadecimal digits

Devices trust this authority alone, so no public authority can vouch for another server.  What a
device trusts stays the same when the server's certificate is made again.
"""

import hashlib
import ipaddress
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from leff.errors import ConfigError, shown
from leff.files import write_atomically

AUTHORITY, AUTHORITY_KEY = "ca.crt", "ca.key"
CERTIFICATE, CERTIFICATE_KEY = "server.crt", "server.key"
EARLIER = timedelta(days=7)  # how far a device's clock may be behind
AUTHORITY_DAYS, CERTIFICATE_DAYS = 3650, 730
_CURVE = ec.SECP256R1()  # known to every TLS library


def make_authority(folder: Path) -> None:
    """Make a federation's authority: `AUTHORITY` and `AUTHORITY_KEY` in `folder`.

    ConfigError if there is one, because every device that joined would be lost.
    """
    if (folder / AUTHORITY_KEY).exists() or (folder / AUTHORITY).exists():
        raise ConfigError(f"{folder} has a certificate authority; choose another folder")
    key = ec.generate_private_key(_CURVE)
    public, name = key.public_key(), _name("LEFF federation")
    certificate = (
        _builder(name, name, public, public, AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    _write_key(folder / AUTHORITY_KEY, key)
    write_atomically(folder / AUTHORITY, certificate.public_bytes(Encoding.PEM))


def make_certificate(folder: Path, hosts: Sequence[str], days: int = CERTIFICATE_DAYS) -> None:
    """Make a server's key and certificate in `folder`, signed by its authority.

    `hosts` are the host names and IP addresses under which devices reach the server.  What was
    there is replaced.  ConfigError without hosts, for what is neither a name nor an address, and
    for an authority that is missing or cannot be read.
    """
    names = [_host(host) for host in hosts]
    if not names:
        raise ConfigError("a certificate needs a host name or an IP address")
    authority, authority_key = _read_authority(folder)
    key = ec.generate_private_key(_CURVE)
    builder = _builder(
        _name("LEFF server"), authority.subject, key.public_key(), authority_key.public_key(), days
    )
    certificate = (
        builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    _write_key(folder / CERTIFICATE_KEY, key)
    write_atomically(folder / CERTIFICATE, certificate.public_bytes(Encoding.PEM))


def federation_id(authority: Path) -> str:
    """Return the name of a federation: 32 hexadecimal digits of its public key's SHA-256."""
    key = _read_certificate(authority).public_key()
    encoded = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()[:32]


def valid_until(certificate: Path) -> datetime:
    """Return the end of a certificate's time, in UTC.  ConfigError if it cannot be read."""
    return _read_certificate(certificate).not_valid_after_utc


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    signer: ec.EllipticCurvePublicKey,
    days: int,
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer), critical=False)
    )


def _host(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        label = r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)"
        if len(host) > 253 or not re.fullmatch(rf"{label}(\.{label})*", host):
            raise ConfigError(
                f"a host must be a name such as fl.example or an IP address, got {shown(host)}"
            ) from None
        return x509.DNSName(host)


def _read_authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    certificate = _read_certificate(folder / AUTHORITY)
    path = folder / AUTHORITY_KEY
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        raise ConfigError(f"{path} cannot be read as a private key; restore it") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or (
        key.public_key() != certificate.public_key()
    ):
        raise ConfigError(f"{path} is not the key of {AUTHORITY}; restore both")
    return certificate, key


def _read_certificate(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"certificate {path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ConfigError(f"{path} is no certificate in PEM; restore it") from None


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_secret(path, pem)


def write_secret(path: Path, content: bytes) -> None:
    """Write a file that only its owner may read, from its first byte on."""
    unfinished = path.with_name(f".{path.name}.new")
    unfinished.unlink(missing_ok=True)
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)
