"""From a configuration to a fleet of devices on a network, and what it asks of the method.

    fleet = network_fleet(config, folder, task, tokenizer, model, store)

The server has the model, the proxy data and, if it likes, a validation and a test set.  Training
examples stay on the devices.
"""

import logging
from pathlib import Path
from typing import Any

from leff.engines.flower.fleet import FleetRules, FlowerFleet
from leff.engines.flower.roster import Roster
from leff.engines.flower.server_network import ServerNetwork
from leff.methods.checks import expected_shapes
from leff.models import blocks
from leff.network.find import find_server
from leff.network.superlink import check_version
from leff.runs.options import RunConfig
from leff.runs.sources import text_form
from leff.tasks.task import Task
from leff.tasks.tokenizer_part import pack_tokenizer
from leff.units import parse_seconds
from leff.wire.headers import most_bytes
from leff.wire.messages import Job, TaskCard
from leff.wire.parts import PartStore
from leff.wire.tensors import pack, part_of

log = logging.getLogger("leff")


def network_fleet(
    config: RunConfig, folder: Path, task: Task, tokenizer: Any, model: Any, store: PartStore
) -> FlowerFleet:
    """Return the fleet of the server that the configuration means.

    Raises ConfigError if there is none, NetworkError if flwr is missing or of another version.
    """
    check_version()
    server, settings = find_server(config.engine.server)
    roster = Roster(folder / "clients.json")
    form, files = text_form(config, task), pack_tokenizer(tokenizer)
    card = TaskCard(
        kind=task.kind,
        labels=task.labels,
        max_length=config.data.max_length,
        prompt=form.prompt,
        special_tokens=form.special_tokens,
        pad_id=tokenizer.pad_token_id,
        tokenizer=part_of(pack(files)),
    )

    def upload_bytes(job: Job) -> int:
        return most_bytes(expected_shapes(model, job), job.upload)

    return FlowerFleet(
        ServerNetwork(server, settings, roster.run),
        roster,
        card,
        files,
        store,
        folder / "updates" / "arrived",
        _rules(config),
        len(blocks(model)),
        upload_bytes,
    )


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
