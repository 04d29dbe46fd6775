"""Which devices are admitted."""

import json

import pytest

from leff.device.home import DeviceHome
from leff.errors import CheckpointError, ConfigError
from leff.network.registry import Registry, fingerprint, key_of


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Keys of three devices, as OpenSSH lines."""
    made = []
    for name in "abc":
        home = DeviceHome(tmp_path_factory.mktemp(name))
        home._make_key()
        made.append((home.path / "key.pub").read_text())
    return made


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "devices.json")


def test_without_a_file_nobody_is_admitted(registry):
    assert registry.devices() == []


def test_devices_are_numbered_in_the_order_of_admission(registry, lines):
    for line, name in zip(lines, ("", "kitchen", ""), strict=True):
        registry.admit(line, name)
    found = registry.devices()
    assert [device.number for device in found] == [1, 2, 3]
    assert [device.name for device in found] == ["device 1", "kitchen", "device 3"]
    assert len({device.fingerprint for device in found}) == 3


def test_a_whole_line_and_its_middle_are_the_same_key(registry, lines):
    middle = lines[0].split()[1]
    assert key_of(lines[0]) == key_of(middle) == key_of(f"  {middle}\n") == middle
    device = registry.admit(lines[0])
    assert device.fingerprint == fingerprint(middle) and len(device.fingerprint) == 16
    assert device.pem.startswith(b"-----BEGIN PUBLIC KEY-----")


def test_a_key_is_admitted_once(registry, lines):
    registry.admit(lines[0])
    with pytest.raises(ConfigError, match="was admitted already, as device 1; each device needs"):
        registry.admit(lines[0])


def test_a_removed_device_s_number_is_not_given_again(registry, lines):
    first, _ = registry.admit(lines[0]), registry.admit(lines[1])
    registry.remove(first.fingerprint)
    assert [device.number for device in registry.devices()] == [2]
    assert registry.admit(lines[2]).number == 3
    assert [device.number for device in registry.devices(removed=True)] == [1, 2, 3]


def test_a_removed_key_stays_out(registry, lines):
    """The SuperLink does not register a key twice."""
    registry.remove(registry.admit(lines[0]).fingerprint)
    with pytest.raises(ConfigError, match=r"was removed, and stays out; .* join again"):
        registry.admit(lines[0])


@pytest.mark.parametrize("name", ["", "0" * 16, "../devices"])
def test_who_is_not_admitted_cannot_be_removed(registry, lines, name):
    registry.admit(lines[0])
    with pytest.raises(ConfigError, match=r"no device .* is admitted; see `leff server status`"):
        registry.remove(name)


RSA = "AAAAB3NzaC1yc2EAAAADAQABAAAAgQC7"
OTHER_CURVE = "AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBJlbTTJVf6Yl8yyPq5ckzbVjw7Go"


@pytest.mark.parametrize("text", ["", "hello", "AAAA", RSA, OTHER_CURVE, "AAAA\n" * 50, "ä" * 100])
def test_what_is_no_key_of_ours_is_refused_in_one_line(registry, text):
    with pytest.raises(ConfigError) as error:
        registry.admit(text)
    assert "this is no key of a device" in str(error.value) and "\n" not in str(error.value)
    assert registry.devices() == []


def test_a_damaged_file_is_named(registry, lines, tmp_path):
    registry.admit(lines[0])
    path = tmp_path / "devices.json"
    path.write_text(path.read_text().replace('"number": 1', '"number": 2'))
    with pytest.raises(CheckpointError, match=r"devices\.json"):
        registry.devices()
    path.write_text(json.dumps({"devices": []}))
    with pytest.raises(CheckpointError, match="put a copy of it back"):
        registry.devices()
