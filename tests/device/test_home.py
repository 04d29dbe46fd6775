"""A device's folder and settings."""

import json
import stat

import pytest

from leff.device.home import DeviceHome, JoinFile, check_server
from leff.device.settings import read_settings
from leff.errors import ConfigError, DataError, NetworkError, RunError
from leff.network.registry import key_of

SETTINGS = 'name = "kitchen"\nthreads = 2\n[data]\ntrain = "a.jsonl"\n'


def join_file(folder, **changes):
    values = {"address": "fl.example:9443", "federation": "f" * 64, "leff": "0.1.0", "ca": "CA"}
    path = folder / "join.json"
    path.write_text(json.dumps(values | changes))
    return path


@pytest.fixture
def home(tmp_path):
    return DeviceHome.join(tmp_path / "home", join_file(tmp_path), SETTINGS)


def test_joining_makes_a_key_that_is_the_owner_s_alone(home):
    assert stat.S_IMODE(home.key_file.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.path.stat().st_mode) == 0o700
    assert key_of(home.public_key) == home.public_key
    assert home.joined().address == "fl.example:9443" and home.ca.read_text() == "CA"
    home.key()


def test_joining_again_keeps_key_and_settings_and_takes_the_new_address(home, tmp_path):
    before = home.public_key
    again = DeviceHome.join(home.path, join_file(tmp_path, address="new:1"), "threads = 9\n")
    assert again.public_key == before and again.joined().address == "new:1"
    assert again.settings().threads == 2


def test_a_folder_of_another_federation_is_refused(home, tmp_path):
    with pytest.raises(ConfigError, match=r"has joined the federation f+"):
        DeviceHome.join(home.path, join_file(tmp_path, federation="e" * 64), SETTINGS)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "{}", '{"address": 3}', "\x00"])
def test_what_is_no_join_file_is_refused(tmp_path, text):
    path = tmp_path / "join.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match="is no join file"):
        JoinFile.read(path)


def test_a_join_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        JoinFile.read(tmp_path / "nothing.json")
    (tmp_path / "large.json").write_text('{"address": "' + "a" * 2**17)
    with pytest.raises(ConfigError, match="is no join file"):
        JoinFile.read(tmp_path / "large.json")


def test_a_folder_that_has_not_joined_says_how(tmp_path):
    with pytest.raises(ConfigError, match="run `leff device join JOIN-FILE`"):
        DeviceHome.open(tmp_path)


def test_a_damaged_key_is_named_with_the_remedy(home):
    home.key_file.write_bytes(b"no key")
    with pytest.raises(ConfigError, match=r"cannot be read .* join anew"):
        home.key()


def test_settings_of_the_command_line_win(home):
    settings = home.settings({"data": {"train": ["b.jsonl"]}, "threads": 3})
    assert settings.data.train == ["b.jsonl"] and settings.threads == 3
    assert settings.name == "kitchen" and settings.data.validation_share == 0.1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("threads = 0", "threads"),
        ('threads = "2"', "threads"),
        ("treads = 2", "treads"),
        ("[data]\nvalidation_share = 1.0", "data.validation_share"),
        ('[data]\nkind = "song"', "data.kind"),
        ('[capacity]\nmemory = "4 apples"', "capacity.memory"),
        ('[capacity]\ndown = "20"', "capacity.down"),
        ("[capacity]\nlayers = 0", "capacity.layers"),
        ('[limits]\ntime = "soon"', "limits.time"),
        ('[limits]\ndownload = "-1GB"', "limits.download"),
        ("[limits]\nepochs = 0", "limits.epochs"),
        ("threads = ", "device.toml"),
    ],
)
def test_a_bad_setting_is_named_with_its_value(home, text, says):
    (home.path / "device.toml").write_text(text)
    with pytest.raises(ConfigError) as error:
        home.settings()
    assert says in str(error.value) and "\n" not in str(error.value)


def test_capacity_is_read_in_its_units(home):
    amounts = {"memory": "2GB", "speed": "3GFLOP/s", "down": "8Mbit/s", "up": "1MB/s"}
    capacity = home.settings({"capacity": amounts}).capacity
    device = capacity.device("kitchen")
    assert device is not None and capacity.memory_bytes == 2 * 10**9
    assert (device.memory_bytes, device.flops_per_second) == (2 * 10**9, 3 * 10**9)
    assert home.settings({"capacity": {"memory": "2GB"}}).capacity.device("kitchen") is None


def test_data_that_is_not_there_is_named_before_anything_starts(home, tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*a\.jsonl"):
        home.settings().data.check_files()
    (home.path / "device.toml").write_text("threads = 1\n")
    with pytest.raises(ConfigError, match="the device has no data; give --data FILE"):
        home.settings().data.check_files()


def test_one_process_runs_on_a_folder(home):
    with (
        home.lock(),
        pytest.raises(NetworkError, match="is running already; another device needs a folder"),
        home.lock(),
    ):
        pass
    with home.lock():
        assert home.summary()["running"]
    assert not home.summary()["running"] and home.summary()["state"] == "not running"


def test_a_node_is_remembered_unless_its_file_is_damaged(home):
    assert home.node() is None
    home.remember_node(2**63 + 5)
    assert home.node() == 2**63 + 5
    (home.path / "node.json").write_text("{")
    assert home.node() is None


def test_a_server_of_another_federation_or_version_is_refused(home):
    from importlib import metadata

    leff, flwr = metadata.version("leff"), metadata.version("flwr")
    check_server(home, leff, flwr, "f" * 64)
    with pytest.raises(RunError, match="is the server of the federation eeeeeeee"):
        check_server(home, leff, flwr, "e" * 64)
    with pytest.raises(RunError, match=r"the server has leff 9\.9, and this device has leff"):
        check_server(home, "9.9", flwr, "f" * 64)
    with pytest.raises(RunError, match=r"the server has flwr 1\.0\.0, and this device has flwr"):
        check_server(home, leff, "1.0.0", "f" * 64)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[capcity]\nmemory = "2GB"', "unknown key capcity; did you mean 'capacity'"),
        ('[capacity]\nmemroy = "2GB"', r"unknown key capacity\.memroy; did you mean 'memory'"),
        ("xyzzy = 3", "unknown key xyzzy; known are: name, threads, device, data"),
        ('[capacity]\nmemory = "much"', r"capacity\.memory: .*got 'much'"),
    ],
)
def test_a_mistake_in_the_settings_is_named_with_what_may_be_meant(text, said, tmp_path):
    path = tmp_path / "device.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"device.toml: {said}"):
        read_settings(path, {})
