"""`leff server` and `leff device`: what they make, and what they say of wrong use.

No process is started here, apart from ports that are held.  `tests/network` starts the real ones.
"""

import json
import socket

import pytest

from leff.device.home import DeviceHome
from leff.network.folder import ServerFolder
from leff.network.registry import Registry

SETTINGS = "threads = 1\n"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No server of this machine, and no device of this user."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("LEFF_DEVICE", str(tmp_path / "device"))
    monkeypatch.delenv("LEFF_SERVER", raising=False)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A server's folder that no test changes."""
    path = tmp_path_factory.mktemp("made") / "server"
    return ServerFolder.init(path, "fl.example.org:9443", "0.0.0.0", 9444)


@pytest.fixture
def server(cli, tmp_path):
    status, printed, _ = cli("server", "init", tmp_path / "server", "--json")
    assert status == 0
    return json.loads(printed)


@pytest.fixture
def key(tmp_path, made):
    return DeviceHome.join(tmp_path / "someone", made.join_file, SETTINGS).public_key


def refused(answer, *words):
    status, printed, said = answer
    assert status in (1, 2) and not printed
    assert said.startswith("error: ") and said.count("\n") == 1
    assert all(word in said for word in words), said
    return status


def test_a_server_is_made_once(cli, server, tmp_path):
    path = tmp_path / "server"
    assert server["folder"] == str(path) and server["address"] == "127.0.0.1:9443"
    join = json.loads((path / "join.json").read_text())
    assert join["federation"] == server["federation"] and "BEGIN CERTIFICATE" in join["ca"]
    assert "PRIVATE" not in json.dumps(join)
    for secret in (*(path / "secrets").iterdir(), path / "tls/ca.key", path / "tls/server.key"):
        assert secret.stat().st_mode & 0o077 == 0
    assert path.stat().st_mode & 0o077 == 0
    refused(cli("server", "init", path), "holds a server already", "leff server start")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    refused(cli("server", "init", tmp_path / "full"), "is not empty")


@pytest.mark.parametrize(
    "address", ["", "fl.example.org:0", "fl.example.org:99999", "a b:1", "https://x:1", "x:y"]
)
def test_an_address_that_is_none(cli, tmp_path, address):
    refused(cli("server", "init", tmp_path / "s", "--address", address), "must be", "9443")
    assert not (tmp_path / "s").exists()


def test_without_a_server(cli, tmp_path):
    refused(cli("server", "start", tmp_path / "none"), "holds no server", "leff server init")
    for command in (("server", "status"), ("server", "stop"), ("server", "admit", "AAAA")):
        refused(cli(*command), "no server runs here", "leff server start")
    answer = cli("run", "--engine", "flower", "--out", tmp_path / "run")
    refused(answer, "no server runs here", "engine.server")
    assert not (tmp_path / "run").exists()


def test_a_server_that_is_not_running(cli, made, monkeypatch, tmp_path):
    monkeypatch.setenv("LEFF_SERVER", str(made.path))
    status, printed, _ = cli("server", "status", "--json")
    found = json.loads(printed)
    assert status == 0 and not found["running"]
    assert found["devices"] == [] and found["runs"] == []
    status, printed, _ = cli("server", "stop", "--json")
    assert status == 0 and json.loads(printed) == {"folder": str(made.path), "stopped": False}


def test_a_run_without_data_that_shall_be_measured_here(cli, made, monkeypatch, tmp_path):
    monkeypatch.setenv("LEFF_SERVER", str(made.path))
    path = tmp_path / "tickets.toml"
    path.write_text("data = { task = 'table', kind = 'classification', labels = ['a', 'b'] }\n")
    answer = cli("run", path, "--engine", "flower", "--out", tmp_path / "run")
    refused(answer, "no validation data on this machine", "evaluation.where = 'devices'")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("which", ["port", "link_port"])
def test_a_port_that_is_taken(cli, tmp_path, which):
    with socket.socket() as holder, socket.socket() as free:
        for each in (holder, free):
            each.bind(("127.0.0.1", 0))
        holder.listen()
        taken, other = holder.getsockname()[1], free.getsockname()[1]
        free.close()
        port, link = (taken, other) if which == "port" else (other, taken)
        arguments = ("--address", f"127.0.0.1:{port}", "--link-port", link)
        assert cli("server", "init", tmp_path / "s", *arguments)[0] == 0
        refused(cli("server", "start", tmp_path / "s"), f"port {taken}", "cannot be used")


def test_admission(cli, server, key):
    status, printed, _ = cli("server", "admit", key, "--server", server["folder"], "--json")
    device = json.loads(printed)
    assert status == 0 and device["number"] == 1 and len(device["key"]) == 16
    twice = cli("server", "admit", f"ecdsa-sha2-nistp384 {key} me", "--server", server["folder"])
    refused(twice, "was admitted already, as device 1")
    for wrong in ("", "AAAA", key[:-8], "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAA me"):
        refused(
            cli("server", "admit", wrong, "--server", server["folder"]), "is no key of a device"
        )
    wrong = cli("server", "admit", key, "--memory", "much", "--server", server["folder"])
    refused(wrong, "'much' is no amount")
    status, printed, _ = cli("server", "status", server["folder"], "--json")
    (shown,) = json.loads(printed)["devices"]
    assert shown["key"] == device["key"] and shown["state"] == "unknown"
    assert {"key", "state", "last_seen", "capacity"} <= shown.keys()


def test_what_a_device_measured_is_shown_before_its_first_run(cli, server, key):
    arguments = ("--memory", "4000MB", "--speed", "20GFLOP/s", "--server", server["folder"])
    assert cli("server", "admit", key, *arguments)[0] == 0
    (shown,) = json.loads(cli("server", "status", server["folder"], "--json")[1])["devices"]
    assert shown["capacity"]["memory_bytes"] == 4 * 10**9
    assert shown["capacity"]["flops_per_second"] == 2e10


def test_removal_keeps_the_numbers(cli, server, key, made, tmp_path):
    other = DeviceHome.join(tmp_path / "other", made.join_file, SETTINGS).public_key
    server_option = ("--server", server["folder"])
    first = json.loads(cli("server", "admit", key, *server_option, "--json")[1])
    refused(cli("server", "remove", "0" * 16, *server_option), "no device", "leff server status")
    assert cli("server", "remove", first["key"], *server_option)[0] == 0
    second = json.loads(cli("server", "admit", other, *server_option, "--json")[1])
    assert second["number"] == 2
    refused(cli("server", "admit", key, *server_option), "was removed, and stays out")
    registry = Registry(ServerFolder(tmp_path / "server").path / "devices.json")
    assert [device.number for device in registry.devices()] == [2]


def test_a_renewed_certificate_is_of_the_same_federation(cli, server, tmp_path):
    path = tmp_path / "server"
    before = (path / "tls/server.crt").read_bytes(), (path / "tls/ca.crt").read_bytes()
    status, printed, _ = cli("server", "renew", path, "--json")
    said = json.loads(printed)
    assert status == 0 and not said["restart"] and said["until"] > "2028"
    assert (path / "tls/server.crt").read_bytes() != before[0]
    assert (path / "tls/ca.crt").read_bytes() == before[1]


def test_join_files(cli, made, tmp_path):
    for name, content in (("a", ""), ("b", "[]"), ("c", "{}"), ("d", '{"address": 3}')):
        (tmp_path / name).write_text(content)
        refused(cli("device", "join", tmp_path / name), "is no join file", "leff server init")
    refused(cli("device", "join", tmp_path / "none"), "cannot be read")
    assert not (tmp_path / "device").exists()


def test_a_device_of_another_federation(cli, made, server, tmp_path):
    home = DeviceHome.join(tmp_path / "device", made.join_file, SETTINGS)
    join = ServerFolder(tmp_path / "server").join_file
    refused(cli("device", "join", join), "has joined the federation", "--home")
    assert DeviceHome.open(home.path).joined().address == "fl.example.org:9443"
    key = home.public_key
    assert cli("device", "join", made.join_file)[0] == 0  # again: it keeps its key and settings
    assert DeviceHome.open(home.path).public_key == key


def test_a_device_without_a_federation(cli):
    refused(cli("device", "start", "--data", "x.jsonl"), "joined no federation", "leff device join")
    refused(cli("device", "status"), "joined no federation")


def test_what_a_device_needs_to_start(cli, made, tmp_path):
    home = DeviceHome.join(tmp_path / "device", made.join_file, SETTINGS)
    refused(cli("device", "start"), "no data", "--data")
    refused(cli("device", "start", "--data", tmp_path / "none.jsonl"), "none.jsonl")
    (tmp_path / "x.jsonl").write_text("{}\n")
    start = ("device", "start", "--data", tmp_path / "x.jsonl")
    for wrong, word in (
        ("limits.time=soon", "limits.time"),
        ("capacity.layers=0", "capacity.layers"),
        ("capacity.memory=big", "capacity.memory"),
        ("data.validation_share=1.5", "data.validation_share"),
        ("colour=red", "colour"),
        ("data.train.deep=1", "no such key"),
    ):
        refused(cli(*start, "--set", wrong), word)
    (home.path / "device.toml").write_text("threads = 'many'\n")
    refused(cli(*start), "device.toml: threads", "'many'")


def test_a_second_process_of_a_device(cli, made, tmp_path):
    home = DeviceHome.join(tmp_path / "device", made.join_file, SETTINGS)
    (tmp_path / "x.jsonl").write_text("{}\n")
    with home.lock():
        refused(cli("device", "start", "--data", tmp_path / "x.jsonl"), "is running already")
        found = json.loads(cli("device", "status", "--json")[1])
    assert found["running"] and found["state"] == "starting"
    assert not json.loads(cli("device", "status", "--json")[1])["running"]


def test_a_device_is_known_by_its_key_alone(cli, made, tmp_path):
    home = DeviceHome.join(tmp_path / "device", made.join_file, SETTINGS)
    assert home.key_file.stat().st_mode & 0o077 == 0
    status, printed, _ = cli("device", "status", "--json")
    assert status == 0 and json.loads(printed)["key"] == home.public_key
    home.key_file.write_text("nonsense")
    from leff.errors import ConfigError

    with pytest.raises(ConfigError, match="join anew"):
        home.key()
