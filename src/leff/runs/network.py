"""From a configuration to clients that are reached through Flower.

    clients = network_population(config, task, model, tokenizer, store, folder)
    fleet = simulated_fleet(config, task, rows, reports, model, tokenizer, store, folder, share)

On a network the server has the model, the proxy data and, if it likes, a validation and a test set.
Training examples stay on the devices.  In a simulation each client has a file of central data.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from leff.engines.flower.fleet import FleetRules, FlowerFleet
from leff.engines.flower.roster import Roster
from leff.engines.flower.seam import Network
from leff.engines.flower.server_network import ServerNetwork
from leff.engines.flower.simulation import Resources, SimulatedClients, SimulationNetwork, places
from leff.extras import need
from leff.methods.checks import expected_shapes
from leff.models import blocks
from leff.network.find import find_server
from leff.network.superlink import check_version
from leff.runs.options import RunConfig
from leff.runs.population import Population
from leff.runs.sources import text_form
from leff.runs.split_files import write_rows
from leff.tasks.card import task_card
from leff.tasks.columns import Table
from leff.tasks.partition import Partition
from leff.tasks.task import Task
from leff.tasks.tokenizer_part import packed_tokenizer
from leff.units import parse_seconds
from leff.wire.headers import most_bytes
from leff.wire.messages import Capacity, Job, Part
from leff.wire.parts import PartStore
from leff.wire.tensors import pack, part_of

ARRIVALS = Path("updates", "arrived")


def network_population(
    config: RunConfig, task: Task, model: Any, tokenizer: Any, store: PartStore, folder: Path
) -> Population:
    """Return the devices of the server that the configuration means, whoever they will be.

    Raises ConfigError if there is none, NetworkError if flwr is missing or of another version.
    """
    check_version()
    server, settings = find_server(config.engine.server)
    roster = Roster(folder / "clients.json")
    network = ServerNetwork(server, settings, roster.run, folder)
    rules = _rules(config)
    return Population(_fleet(config, task, model, tokenizer, store, folder, network, roster, rules))


def simulated_fleet(
    config: RunConfig,
    task: Task,
    rows: tuple[Table, Partition],
    reports: Sequence[Capacity],
    model: Any,
    tokenizer: Any,
    store: PartStore,
    folder: Path,
    share: float,
) -> FlowerFleet:
    """Return clients that Flower simulates on Ray, each with its share of central `rows`.

    Each holds out a `share` of its rows.  Raises ConfigError without Ray, NetworkError if flwr is
    missing or of another version.
    """
    check_version()
    need("simulation", "engine.name = 'flower-simulation'")
    engine, folder = config.engine, folder.absolute()
    arrivals, roster = folder / ARRIVALS, Roster(folder / "clients.json")
    clients = SimulatedClients(
        files=tuple(write_rows(*rows, task, folder / "shards")),
        folder=folder / "clients",
        parts=store.folder.absolute(),
        arrivals=arrivals,
        run=roster.run,
        device="cuda" if engine.client_gpus else "cpu",
        threads=engine.threads,
        validation_share=share,
    )
    roster.enter(places(clients))
    cpus = math.ceil(engine.workers * engine.client_cpus) or None
    network = SimulationNetwork(
        clients, Resources(engine.client_cpus, engine.client_gpus, engine.ray, cpus)
    )
    rules = FleetRules(
        quorum=len(reports),
        deadline_seconds=0.0,
        capacities=tuple(reports),
        ask_again=False,
    )
    return _fleet(config, task, model, tokenizer, store, folder, network, roster, rules)


def _fleet(
    config: RunConfig,
    task: Task,
    model: Any,
    tokenizer: Any,
    store: PartStore,
    folder: Path,
    network: Network,
    roster: Roster,
    rules: FleetRules,
) -> FlowerFleet:
    files = packed_tokenizer(tokenizer)

    def named(tensors: Mapping[str, torch.Tensor]) -> Part:
        return part_of(pack(tensors))  # the fleet stores it when it is needed

    form, length = text_form(config, task, tokenizer), config.data.max_length
    card = task_card(task, form, length, tokenizer, named)

    def upload_bytes(job: Job) -> int:
        return most_bytes(expected_shapes(model, job), job.upload)

    return FlowerFleet(
        network,
        roster,
        card,
        files,
        store,
        folder / ARRIVALS,
        rules,
        len(blocks(model)),
        upload_bytes,
    )


def _rules(config: RunConfig) -> FleetRules:
    engine, clients = config.engine, config.clients
    return FleetRules(
        quorum=engine.quorum,
        wait_seconds=parse_seconds(engine.wait),
        deadline_seconds=parse_seconds(engine.deadline),
        partial=engine.partial,
        most_clients=engine.device_clients,
        layers=tuple(clients.layers),
    )
