"""The federation's authority and the server's certificate."""

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from gateways import HOSTS

from leff.errors import ConfigError
from leff.network.certificates import (
    AUTHORITY,
    AUTHORITY_KEY,
    CERTIFICATE,
    CERTIFICATE_KEY,
    federation_id,
    make_authority,
    make_certificate,
    valid_until,
)


@pytest.fixture
def made(tmp_path):
    make_authority(tmp_path)
    make_certificate(tmp_path, HOSTS)
    return tmp_path


def handshake(server, authority, host):
    """Shake hands in memory, as strictly as OpenSSL can check."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server / CERTIFICATE, server / CERTIFICATE_KEY)
    trusting = ssl.create_default_context(cafile=authority / AUTHORITY)
    trusting.verify_flags |= ssl.VERIFY_X509_STRICT
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    device = trusting.wrap_bio(back, there, server_hostname=host)
    other = context.wrap_bio(there, back, server_side=True)
    for end in (device, other, device, other, device):
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return device.version()


@pytest.mark.parametrize("host", HOSTS)
def test_a_device_accepts_the_certificate(made, host):
    assert handshake(made, made, host) == "TLSv1.3"


@pytest.mark.parametrize("host", ["example.com", "127.0.0.2"])
def test_for_no_other_host(made, host):
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        handshake(made, made, host)


def test_another_authority_is_not_trusted(made, tmp_path):
    (tmp_path / "other").mkdir()
    make_authority(tmp_path / "other")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(made, tmp_path / "other", "localhost")
    assert federation_id(made / AUTHORITY) != federation_id(tmp_path / "other" / AUTHORITY)


def test_renewed_with_the_same_authority(made):
    before = federation_id(made / AUTHORITY), (made / CERTIFICATE).read_bytes()
    make_certificate(made, ["::1", "fl.example"])
    assert handshake(made, made, "fl.example") == "TLSv1.3"
    assert handshake(made, made, "::1") == "TLSv1.3"
    assert federation_id(made / AUTHORITY) == before[0] and len(before[0]) == 32
    assert (made / CERTIFICATE).read_bytes() != before[1]


def test_times_of_validity(made):
    left = valid_until(made / CERTIFICATE) - datetime.now(UTC)
    assert timedelta(days=729) < left < timedelta(days=731)
    assert valid_until(made / AUTHORITY) - datetime.now(UTC) > timedelta(days=3640)
    loaded = ssl._ssl._test_decode_cert(str(made / CERTIFICATE))
    begins = datetime.fromtimestamp(ssl.cert_time_to_seconds(loaded["notBefore"]), UTC)
    assert begins < datetime.now(UTC) - timedelta(days=6)


def test_keys_are_for_their_owner_alone(made):
    for name in (AUTHORITY_KEY, CERTIFICATE_KEY):
        assert (made / name).stat().st_mode & 0o777 == 0o600


def test_an_authority_is_never_replaced(made):
    with pytest.raises(ConfigError, match="choose another folder"):
        make_authority(made)


@pytest.mark.parametrize("host", ["", "a b", "-a.com", "a..b", "x" * 64, "*.a.com", "ü.de", "a/b"])
def test_no_host(made, host):
    with pytest.raises(ConfigError, match="host"):
        make_certificate(made, [host])


def test_no_hosts(made):
    with pytest.raises(ConfigError, match="needs a host name"):
        make_certificate(made, [])


def test_an_authority_that_cannot_be_used(made, tmp_path):
    (tmp_path / "other").mkdir()
    make_authority(tmp_path / "other")
    (made / AUTHORITY_KEY).write_bytes((tmp_path / "other" / AUTHORITY_KEY).read_bytes())
    with pytest.raises(ConfigError, match=r"is not the key of ca\.crt"):
        make_certificate(made, HOSTS)
    (made / AUTHORITY_KEY).write_text("nothing")
    with pytest.raises(ConfigError, match="cannot be read as a private key"):
        make_certificate(made, HOSTS)
    (made / AUTHORITY).write_text("nothing")
    with pytest.raises(ConfigError, match="no certificate in PEM"):
        make_certificate(made, HOSTS)
    (made / AUTHORITY).unlink()
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        federation_id(made / AUTHORITY)
