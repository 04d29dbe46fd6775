"""A server's folder, how commands find it, and what it says of itself."""

import json
import os
import stat

import pytest
from tiny_runs import reseal

from leff.device.home import JoinFile
from leff.errors import CheckpointError, ConfigError, NetworkError
from leff.network import find, status
from leff.network.find import find_server, forget_running, note_running
from leff.network.folder import ServerFolder, split_address
from leff.network.status import server_status


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "server"
    return ServerFolder.init(path, "fl.example.org:9000", "0.0.0.0", 9001)


@pytest.fixture
def state(tmp_path, monkeypatch):
    """Where servers that run are noted; none runs."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("LEFF_SERVER", raising=False)


def test_a_folder_opens_as_it_was_made(made):
    folder, settings = ServerFolder.open(made.path)
    assert folder.path == made.path
    assert (settings.address, settings.host) == ("fl.example.org:9000", "0.0.0.0")
    assert (settings.port, settings.link_port) == (9000, 9001)
    joined = JoinFile.read(made.join_file)
    assert (joined.address, joined.federation) == (settings.address, settings.federation)


def test_secrets_are_their_owner_s_alone_and_not_in_the_join_file(made):
    for path in (made.ca_key, made.key, made.token_secret, made.link_secret):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
        assert path.read_bytes() not in made.join_file.read_bytes()
    assert stat.S_IMODE(made.path.stat().st_mode) == 0o700
    assert b"PRIVATE" not in made.join_file.read_bytes()


def test_a_folder_is_not_made_twice_nor_over_others(made, tmp_path):
    with pytest.raises(ConfigError, match="holds a server already"):
        ServerFolder.init(made.path, "a:1", "127.0.0.1", 2)
    (tmp_path / "mine.txt").touch()
    with pytest.raises(ConfigError, match="is not empty"):
        ServerFolder.init(tmp_path, "a:1", "127.0.0.1", 2)
    with pytest.raises(ConfigError, match="is not empty"):
        ServerFolder.init(tmp_path / "mine.txt", "a:1", "127.0.0.1", 2)


def test_two_servers_are_two_federations(made, tmp_path):
    other = ServerFolder.init(tmp_path / "other", "fl.example.org:9000", "0.0.0.0", 9001)
    assert ServerFolder.open(other.path)[1].federation != ServerFolder.open(made.path)[1].federation


def test_a_folder_without_a_server_says_how_one_is_made(tmp_path):
    with pytest.raises(ConfigError, match="holds no server; `leff server init"):
        ServerFolder.open(tmp_path)


def test_damaged_settings_are_refused(made, tmp_path):
    other = ServerFolder.init(tmp_path / "other", "127.0.0.1:1", "127.0.0.1", 2)
    path = other.path / "server.json"
    reseal(path, unknown=1)
    with pytest.raises(ConfigError, match="is of another version of leff"):
        ServerFolder.open(other.path)
    path.write_text(path.read_text().replace("127", "128"))
    with pytest.raises(CheckpointError, match="is damaged"):
        ServerFolder.open(other.path)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("fl.example.org", ("fl.example.org", 9443)),
        ("fl.example.org:80", ("fl.example.org", 80)),
        ("192.168.0.4:65535", ("192.168.0.4", 65535)),
        ("[::1]:9443", ("::1", 9443)),
    ],
)
def test_addresses(text, address):
    assert split_address(text) == address


@pytest.mark.parametrize(
    "text", ["", ":9443", "a:", "a:0", "a:65536", "a:b", "a b:1", "https://a:1", "u@a:1", "a:-1"]
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(ConfigError, match="the address must be like"):
        split_address(text)


def test_a_lock_keeps_others_out(made):
    with made.lock("devices"):
        with (
            pytest.raises(NetworkError, match="another process has the devices"),
            made.lock("devices", wait=False),
        ):
            pass
        with made.lock("link", wait=False):
            pass
    with made.lock("devices", wait=False):
        pass


def test_a_server_runs_while_its_process_has_the_lock(made):
    assert made.running() is None
    state = {"pid": os.getpid(), "ready": True, "processes": {}}
    made.state_file.write_text(json.dumps(state))
    try:
        assert made.running() is None  # what a killed server leaves
        with made.lock("server"):
            assert made.running() == state
        made.state_file.write_text("{")
        assert made.running() is None
    finally:
        made.state_file.unlink()


# How commands find a server


def test_the_folder_given_comes_first_then_the_variable(made, state, monkeypatch, tmp_path):
    monkeypatch.setenv("LEFF_SERVER", str(made.path))
    assert find_server(None)[0].path == made.path
    with pytest.raises(ConfigError, match="holds no server"):
        find_server(tmp_path / "nothing")
    monkeypatch.setenv("LEFF_SERVER", str(tmp_path))
    with pytest.raises(ConfigError, match="holds no server"):
        find_server(None)


def test_without_a_server_the_remedy_is_named(state):
    with pytest.raises(ConfigError, match="no server runs here; name the server's folder"):
        find_server(None)


def test_the_only_server_that_runs_is_found(made, state, monkeypatch):
    note_running(made)
    with pytest.raises(ConfigError, match="no server runs here"):
        find_server(None)  # it was killed
    monkeypatch.setattr(ServerFolder, "running", lambda self: {"pid": 1, "processes": {}})
    assert find_server(None)[0].path == made.path
    forget_running(made)
    with pytest.raises(ConfigError, match="no server runs here"):
        find_server(None)


def test_of_two_servers_none_is_guessed(made, state, monkeypatch, tmp_path):
    other = ServerFolder.init(tmp_path / "other", "127.0.0.1:1", "127.0.0.1", 2)
    note_running(made)
    note_running(other)
    monkeypatch.setattr(ServerFolder, "running", lambda self: {"pid": 1, "processes": {}})
    with pytest.raises(ConfigError, match="2 servers run here") as error:
        find_server(None)
    assert str(made.path) in str(error.value) and str(other.path) in str(error.value)
    assert find._running()


# What it says of itself


def test_the_status_of_a_server_that_does_not_run(made):
    found = server_status(*ServerFolder.open(made.path))
    assert found["running"] is False and found["processes"] == {}
    assert found["address"] == "fl.example.org:9000" and found["runs"] == []


def test_a_run_is_running_interrupted_or_finished(made, tmp_path):
    runs = made.path / "runs"
    runs.mkdir()
    gone = 2**22 + 1  # more than a process id can be
    for name, pid, finished in (("a", os.getpid(), False), ("b", gone, False), ("c", gone, True)):
        folder = tmp_path / name
        folder.mkdir()
        if finished:
            (folder / "result.json").touch()
        values = {"run": name, "folder": str(folder), "pid": pid, "round": 1, "since": ord(name)}
        (runs / f"{name}.json").write_text(json.dumps(values))
    (runs / "broken.json").write_text("{")
    try:
        found = server_status(*ServerFolder.open(made.path))["runs"]
    finally:
        for path in runs.iterdir():
            path.unlink()
        runs.rmdir()
    assert [(run["run"], run["state"]) for run in found] == [
        ("c", "finished"),
        ("b", "interrupted"),
        ("a", "running"),
    ]


def test_a_device_s_state_is_what_the_superlink_knows():
    from leff.network.superlink import Node

    nodes = {
        b"here": Node(1, True, 5.0),
        b"gone": Node(2, False, 4.0),
        b"new": Node(3, False, None),
    }
    assert status._seen(None, b"here") == {"state": "unknown", "last_seen": None}
    states = [status._seen(nodes, key)["state"] for key in (b"here", b"gone", b"new", b"other")]
    assert states == ["online", "offline", "admitted", "admitted"]
