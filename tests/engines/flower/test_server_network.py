"""A run that finds no server: a new one says so at once, one that is resumed waits a minute."""

import pytest

from leff.device.home import DeviceHome
from leff.engines.flower import server_network
from leff.engines.flower.server_network import START_SECONDS, ServerNetwork
from leff.errors import RunError
from leff.network.folder import ServerFolder
from leff.network.registry import Registry
from leff.network.status import server_status
from leff.network.superlink import LinkLostError
from leff.wire.asks import DeviceReport, ShareReport


@pytest.fixture
def server(tmp_path):
    ServerFolder.init(tmp_path / "server", "127.0.0.1:9443", "127.0.0.1", 9444)
    return ServerFolder.open(tmp_path / "server")


@pytest.fixture
def clock(monkeypatch):
    class Clock:
        now = 0.0

        def monotonic(self):
            return self.now

        def sleep(self, seconds):
            self.now += seconds

    clock = Clock()
    monkeypatch.setattr(server_network, "time", clock)
    return clock


def test_a_new_run_without_a_server_is_an_error_at_once(server, clock, tmp_path):
    network = ServerNetwork(*server, "run", tmp_path / "run")
    with pytest.raises(
        RunError, match=r"is not running; start it with `leff server start .*resume"
    ):
        network.pull([])
    assert clock.now == 0


def test_a_resumed_run_waits_for_a_server_that_is_being_started(server, clock, tmp_path, caplog):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rounds.jsonl").write_text("")
    network = ServerNetwork(*server, "run", tmp_path / "run")
    with pytest.raises(LinkLostError, match="is not running"):
        network.pull([])
    assert network.present() == {} == network.present()
    assert caplog.text.count("is not running; trying again") == 1
    clock.now = START_SECONDS + 1
    with pytest.raises(RunError, match="start it with `leff server start"):
        network.present()


def test_the_status_says_who_took_no_part(server, tmp_path):
    folder, settings = server
    home = DeviceHome(tmp_path)
    home._make_key()
    admitted = Registry(folder.path / "devices.json").admit(home.public_key, name="site2")
    network = ServerNetwork(folder, settings, "run", tmp_path / "run")
    network.refused(admitted.fingerprint, "its disk is full")
    (device,) = server_status(folder, settings)["devices"]
    assert device["refused"] == "its disk is full"
    network.reported(admitted.fingerprint, DeviceReport("0", "s", "d" * 64, (ShareReport(5, 0),)))
    (device,) = server_status(folder, settings)["devices"]
    assert device["refused"] is None and device["capacity"]["examples"] == 5
