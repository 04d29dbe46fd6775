"""Fleet files: what is read, and what is refused."""

import random

import pytest
from any_toml import GIB, KEYS, any_value, document, guarded, said

from leff.capacity.fleet_file import asked_classes, fleet_devices, pick, read_classes
from leff.errors import ConfigError
from leff.wire.messages import Device

PHONE = 'memory = "2GB"\nspeed = "50GFLOP/s"\ndown = "20Mbit/s"\nup = "5Mbit/s"\n'


def write(tmp_path, text):
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    return path


def test_a_device_for_every_client_class_after_class(tmp_path):
    path = write(tmp_path, f"[phone]\ncount = 2\n{PHONE}[old]\n{PHONE}")
    phone = Device("phone", 2 * 10**9, 50 * 10**9, 2_500_000.0, 625_000.0)
    old = Device("old", 2 * 10**9, 50 * 10**9, 2_500_000.0, 625_000.0)
    assert fleet_devices(read_classes(path)) == (phone, phone, old)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no device class; write one"),
        ("[phone", "cannot be read as TOML"),
        ('memory = "2GB"', "memory = '2GB' is outside a class such as"),
        (f"[phone]\nsped = 1\n{PHONE}", "unknown key phone.sped; did you mean 'speed'"),
        (f"[phone]\ncount = 0\n{PHONE}", "phone.count must be a whole number from 1, got 0"),
        (f"[phone]\ncount = 1.5\n{PHONE}", "phone.count must be a whole number from 1, got 1.5"),
        (f"[phone]\ncount = true\n{PHONE}", "phone.count must be a whole number from 1, got True"),
        ('[phone]\nmemory = ["2GB"]', r"phone.memory must be text such as '2GB', got \['2GB'\]"),
        ('[phone]\nmemory = "2GB"\nspeed = "1GFLOP/s"', "phone has no down and no up; write it"),
        ("[a]\n" + PHONE.replace("2GB", "2GO"), "a.memory: '2GO' has an unknown unit 'GO'"),
        ("[a]\n" + PHONE.replace("2GB", "0GB"), "a.memory must be above 0"),
        ("[a]\n" + PHONE.replace('"20Mbit/s"', "20"), "the bandwidth '20' needs a unit: bit/s"),
        ("[a]\n" + PHONE.replace("50G", "50X"), "unknown unit 'XFLOP/s'; known are FLOP/s"),
    ],
)
def test_what_is_refused(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        fleet_devices(read_classes(write(tmp_path, text)))


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match="there is no fleet file"):
        read_classes(tmp_path / "fleet.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_classes(tmp_path)


def test_one_class_of_a_file(tmp_path):
    several = read_classes(write(tmp_path, f"[phone]\n{PHONE}[laptop]\n{PHONE}"))
    assert pick(several, "laptop").name == "laptop"
    with pytest.raises(ConfigError, match=r"several classes \(phone, laptop\); say which"):
        pick(several, None)
    with pytest.raises(ConfigError, match="no class 'phne'; did you mean 'phone'"):
        pick(several, "phne")


def test_values_beside_a_file(tmp_path):
    path = write(tmp_path, '[mine]\nmemory = "2GB"\nspeed = "1GFLOP/s"\n')
    links = {"memory": None, "speed": "3GFLOP/s", "down": "8Mbit/s", "up": "1MB/s"}
    (found,) = asked_classes(None, path, None, links).values()
    assert found.device() == Device("mine", 2 * 10**9, 3 * 10**9, 1e6, 1e6)
    with pytest.raises(ConfigError, match="--speed, --down, --up cannot be combined with --fleet"):
        asked_classes(path, None, None, links)
    with pytest.raises(ConfigError, match="a round's seconds need --memory too"):
        asked_classes(None, None, None, links)
    with pytest.raises(ConfigError, match="give --fleet or --device"):
        asked_classes(None, None, "phone", links)


@pytest.mark.soak(300, 5000)
def test_any_file_is_taken_or_refused_in_a_line(count, tmp_path):
    values = {"count": 2, "memory": "2GB", "speed": "50GFLOP/s", "down": "20Mbit/s", "up": "1MB/s"}
    taken = 0
    for case in range(count):
        rng = random.Random(case)
        phone = {key: value for key, value in values.items() if rng.random() < 0.95}
        classes = {rng.choice(["phone", *KEYS]): phone}
        if rng.random() < 0.5:
            phone[rng.choice([*values, *KEYS])] = any_value(rng)
        if rng.random() < 0.3:
            classes[rng.choice(["laptop", *KEYS])] = any_value(rng)
        try:
            text = document(classes)
            path = write(tmp_path, text)
        except ValueError:  # TOML cannot hold it
            continue
        try:
            with guarded(20, GIB):
                taken += bool(fleet_devices(read_classes(path)))
        except ConfigError as error:
            said(error)
        except BaseException as error:
            raise AssertionError(f"case {case}: {text[:2000]}") from error
    assert count // 20 < taken < count  # both ways are tried


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[phone]\ncount = 1000000000\n" + PHONE, "a fleet has at most 1000000, lower count"),
        ("[phone]\nmemory = 2.5", "phone.memory must be text such as '2GB', got 2.5"),
        ("[phone]\nmemory = 0x" + "f" * 9999, "phone.memory must be at most 10.18"),
        ("[phone]\nmemory = " + "9" * 9999, "cannot be read as TOML"),
        ("a = " + "[" * 9999, "nested too deeply"),
        ("a." * 9999 + "a = 1", "more than 1000 parts"),
        ("#" * 2**21, "more than a MiB"),
    ],
)
def test_what_could_not_be_borne(text, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        fleet_devices(read_classes(write(tmp_path, text)))
    said(caught.value)


def test_a_file_as_windows_editors_write_it(tmp_path):
    path = tmp_path / "fleet.toml"
    path.write_bytes(b"\xef\xbb\xbf[phone]\r\n" + PHONE.encode())
    assert [*read_classes(path)] == ["phone"]
