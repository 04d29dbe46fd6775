"""Grants: which tokens are good, and what they count."""

import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from leff.errors import RefusedError
from leff.network.grants import KEPT_SECONDS, Grant, Grants, Traffic

SECRET = b"s" * 32


@pytest.fixture
def grants(tmp_path):
    return Grants(tmp_path / "grants", SECRET)


def grant(tmp_path, **changes):
    values = {"device": "d", "job": "run-1-2", "parts": {"a" * 64: 5}, "folder": tmp_path / "parts"}
    more = {"upload_bytes": 9, "spool": tmp_path / "spool", "expires": time.time() + 60.0}
    return Grant(**{**values, **more, **changes})


@pytest.fixture
def token(grants, tmp_path):
    return grants.issue(grant(tmp_path))


def test_what_is_issued_is_read_by_another_process(grants, tmp_path):
    issued = grant(tmp_path)
    token = grants.issue(issued)
    assert Grants(grants.folder, SECRET).check(token) == issued
    assert grants.issue(issued) != token


def test_of_another_server(grants, tmp_path):
    token = Grants(grants.folder, b"o" * 32).issue(grant(tmp_path))
    with pytest.raises(RefusedError, match="not issued by this server"):
        grants.check(token)


def test_expired(grants, tmp_path, monkeypatch):
    issued = grant(tmp_path)
    token = grants.issue(issued)
    monkeypatch.setattr("time.time", lambda: issued.expires - 0.01)
    assert grants.check(token) == issued
    monkeypatch.setattr("time.time", lambda: issued.expires + 0.01)
    with pytest.raises(RefusedError, match="has expired"):
        grants.check(token)


def test_a_longer_time_cannot_be_had(grants, tmp_path):
    token = grants.issue(grant(tmp_path, expires=time.time() - 1))
    later = f"{int(token[:12], 16) + 10**6:012x}{token[12:]}"
    with pytest.raises(RefusedError, match="not issued by this server"):
        grants.check(later)


def test_revoked(grants, tmp_path):
    token = grants.issue(grant(tmp_path))
    grants.count(token, download=3)
    assert grants.revoke(token) == Traffic(3, 0, 0)
    with pytest.raises(RefusedError, match="was revoked"):
        grants.check(token)
    with pytest.raises(RefusedError, match="was revoked"):
        grants.count(token, download=3)
    assert grants.traffic(token) == grants.revoke(token) == Traffic()


def test_damaged(grants, tmp_path):
    token = grants.issue(grant(tmp_path))
    path = grants.folder / f"{token.partition('.')[0]}.json"
    path.write_text(path.read_text().replace('"upload_bytes": 9', '"upload_bytes": 10'))
    with pytest.raises(RefusedError, match="is damaged"):
        grants.check(token)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_changed_token_is_good(data, grants, token):
    at = data.draw(st.integers(0, len(token) - 1))
    new = data.draw(st.sampled_from("0123456789abcdefABF.-/\0\nü ") | st.text())
    changed = token[:at] + new + token[at + data.draw(st.integers(0, 2)) :]
    if changed != token:
        with pytest.raises(RefusedError):
            grants.check(changed)


@pytest.mark.parametrize("token", ["", ".", "x", "../../etc/passwd", "a" * 10**6, "\0"])
def test_malformed(grants, token):
    with pytest.raises(RefusedError, match="malformed"):
        grants.check(token)


def test_counts_add_up_and_outlive_the_process(grants, tmp_path):
    token, other = grants.issue(grant(tmp_path)), grants.issue(grant(tmp_path))
    grants.count(token, download=2**40)
    grants.count(token, download=1, upload=7)
    Grants(grants.folder, SECRET).count(token, upload=1, uploads=1)
    assert grants.traffic(token) == Traffic(2**40 + 1, 8, 1)
    assert grants.traffic(other) == Traffic()


def test_old_grants_go(grants, tmp_path, monkeypatch):
    now = time.time()
    old = grants.issue(grant(tmp_path, expires=now - KEPT_SECONDS - 1))
    new = grants.issue(grant(tmp_path, expires=now - KEPT_SECONDS + 60))
    (grants.folder / "note.txt").touch()
    Grants(grants.folder, SECRET).issue(grant(tmp_path))
    left = {path.name.partition(".")[0] for path in grants.folder.iterdir()}
    assert old.partition(".")[0] not in left
    assert {new.partition(".")[0], "note"} <= left
