"""Flower's simulation as a network, without Ray: a grid that answers at once."""

import logging
from types import SimpleNamespace

import pytest

from leff.engines.flower.simulation import (
    Resources,
    SimulatedClients,
    SimulationNetwork,
    client_app,
    places,
)
from leff.errors import RunError
from leff.wire.flower_texts import KEY, record


@pytest.fixture
def clients(tmp_path):
    files = tuple(tmp_path / f"{name}.jsonl" for name in "abc")
    return SimulatedClients(files, tmp_path / "clients", tmp_path / "p", tmp_path / "u", "run")


@pytest.fixture(autouse=True)
def levels():
    """A client's process is quieter than this one."""
    loggers = [logging.getLogger(name) for name in ("leff", "flwr")]
    before = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, before, strict=True):
        logger.setLevel(level)


class Grid:
    """Virtual nodes 30, 20 and 10 of the clients 0, 1 and 2; they say what they are asked."""

    def __init__(self, fails=""):
        self.sent, self.fails, self.looks = {}, fails, 0

    def get_node_ids(self):
        self.looks += 1
        return [30, 20, 10][: self.looks]  # they come one by one

    def push_messages(self, messages):
        for message in messages:
            self.sent[str(len(self.sent))] = message
        return [str(len(self.sent) - 1)]

    def pull_messages(self, names):
        for name in list(names):
            message = self.sent[name]
            text = str(message.content.config_records[KEY][KEY])
            client = {30: 0, 20: 1, 10: 2}[message.metadata.dst_node_id]
            yield SimpleNamespace(
                has_error=lambda: bool(self.fails),
                error=SimpleNamespace(reason=self.fails),
                content=record(text or str(client)),
                metadata=SimpleNamespace(reply_to_message_id=name),
            )


@pytest.fixture
def identity():
    """Flower wants to know whose a message is."""
    from flwr.supercore.task_identity import TaskIdentity

    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 2, 3


@pytest.fixture
def network(clients, identity, monkeypatch):
    made = SimulationNetwork(clients, Resources())
    monkeypatch.setattr(made, "_simulate", lambda: made._grids.put(Grid()))
    return made


def test_nodes_say_which_client_they_are(network):
    found = network.present()
    assert {node: (m.key, m.number) for node, m in found.items()} == {
        30: ("client 0", 0),
        20: ("client 1", 1),
        10: ("client 2", 2),
    }


def test_places_are_those_that_the_members_have(network, clients):
    members = sorted(network.present().values(), key=lambda member: member.number)
    assert [(member.key, 0) for member in members] == places(clients)


def test_texts_go_out_and_answers_come_back(network):
    sent = network.push([(30, "an ask"), (10, "another")], 60.0)
    assert list(sent.values()) == [0, 1]
    assert {sent[name]: text for name, text in network.pull(sent)} == {0: "an ask", 1: "another"}


def test_a_process_that_failed_ends_the_run_with_the_remedy(clients, identity, monkeypatch):
    network = SimulationNetwork(clients, Resources())
    monkeypatch.setattr(network, "_simulate", lambda: network._grids.put(Grid("ActorDiedError")))
    with pytest.raises(RunError, match=r"ActorDiedError\); if its memory ran out, raise engine"):
        network.pull(network.push([(30, "an ask")], 60.0))


def test_a_simulation_that_does_not_start_says_why(clients, monkeypatch):
    import flwr.simulation

    def fails(*_, **__):
        raise RuntimeError("outer") from ValueError("ActorPool is empty.\nCheck num_cpus")

    monkeypatch.setattr(flwr.simulation, "run_simulation", fails)
    monkeypatch.setattr(Resources, "start_ray", lambda self: None)
    network = SimulationNetwork(clients, Resources())
    with pytest.raises(RunError) as error:
        network.present()
    assert "ValueError: ActorPool is empty. Check num_cpus" in str(error.value)
    assert "engine.client_cpus" in str(error.value)
    network.close()


def test_what_was_not_begun_needs_no_end(clients):
    SimulationNetwork(clients, Resources()).close()


def test_resources_are_those_of_flower_s_backend():
    assert Resources(2.0, 0.5).backend()["client_resources"] == {"num_cpus": 2.0, "num_gpus": 0.5}


@pytest.fixture
def starts(monkeypatch):
    """What Ray is started with; the first two starts of a test may fail."""
    import ray

    starts, fails = [], [TimeoutError, TimeoutError]

    def init(**options):
        starts.append(options)
        if fails:
            raise fails.pop()("The current node timed out during startup.")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    return starts


def test_ray_is_started_again_on_a_busy_machine(starts):
    Resources(cpus=8).start_ray()
    assert [start["num_cpus"] for start in starts] == [8, 8, 8] and "address" not in starts[0]


def test_a_cluster_that_is_not_there_is_an_error_at_once(starts):
    with pytest.raises(TimeoutError):
        Resources(address="10.0.0.1:6379").start_ray()
    assert [start["address"] for start in starts] == ["10.0.0.1:6379"]
    assert "num_cpus" not in starts[0]


def test_the_app_answers_as_its_partition(clients, identity):
    from flwr.app import Context, Message, RecordDict

    app, node = client_app(clients), {"partition-id": 1, "num-partitions": 3}
    context = Context(run_id=2, node_id=20, node_config=node, state=RecordDict(), run_config={})
    for asked, answered in (("", "1"), ("no ask", None)):
        message = Message(record(asked), 20, "train", ttl=60.0)
        message.metadata.__dict__["_message_id"] = "m"
        text = app(message, context).content.config_records[KEY][KEY]
        assert text == answered or (answered is None and "cannot read this ask" in text)
    assert (clients.folder / "client-001" / ".lock").exists()
