"""From a configuration to the devices of a server on the network.

    clients = network_population(config, task, model, tokenizer, store, folder)

The server has the model, the proxy data and, if it likes, a validation and a test set.  Training
examples stay on the devices.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from leff.engines.flower.fleet import FleetRules, FlowerFleet
from leff.engines.flower.roster import Roster
from leff.engines.flower.server_network import ServerNetwork
from leff.methods.checks import expected_shapes
from leff.models import blocks
from leff.network.find import find_server
from leff.network.superlink import check_version
from leff.runs.options import RunConfig
from leff.runs.population import Population
from leff.runs.sources import text_form
from leff.tasks.card import task_card
from leff.tasks.task import Task
from leff.tasks.tokenizer_part import packed_tokenizer
from leff.units import parse_seconds
from leff.wire.headers import most_bytes
from leff.wire.messages import Job, Part
from leff.wire.parts import PartStore
from leff.wire.tensors import pack, part_of

log = logging.getLogger("leff")


def network_population(
    config: RunConfig, task: Task, model: Any, tokenizer: Any, store: PartStore, folder: Path
) -> Population:
    """Return the devices of the server that the configuration means, whoever they will be.

    Raises ConfigError if there is none, NetworkError if flwr is missing or of another version.
    """
    check_version()
    server, settings = find_server(config.engine.server)
    roster = Roster(folder / "clients.json")
    files = packed_tokenizer(tokenizer)

    def named(tensors: Mapping[str, torch.Tensor]) -> Part:
        return part_of(pack(tensors))  # the fleet stores it when it is needed

    form, length = text_form(config, task), config.data.max_length
    card = task_card(task, form, length, tokenizer, named)

    def upload_bytes(job: Job) -> int:
        return most_bytes(expected_shapes(model, job), job.upload)

    fleet = FlowerFleet(
        ServerNetwork(server, settings, roster.run, folder),
        roster,
        card,
        files,
        store,
        folder / "updates" / "arrived",
        _rules(config),
        len(blocks(model)),
        upload_bytes,
    )
    return Population(fleet)


def _rules(config: RunConfig) -> FleetRules:
    engine, clients = config.engine, config.clients
    given = "layers" in clients.model_fields_set
    return FleetRules(
        quorum=engine.quorum,
        wait_seconds=parse_seconds(engine.wait),
        deadline_seconds=parse_seconds(engine.deadline),
        spare=engine.spare,
        partial=engine.partial,
        layers=tuple(clients.layers) if given else (),
    )
