"""A run that finds no server: a new one says so at once, one that is resumed waits a minute."""

import pytest

from leff.engines.flower import server_network
from leff.engines.flower.server_network import START_SECONDS, ServerNetwork
from leff.errors import RunError
from leff.network.folder import ServerFolder
from leff.network.superlink import LinkLostError


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
