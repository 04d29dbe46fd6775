"""Says in a line who the clients of a run are: how many, what each has, what each can.

who(config, clients)      # "8 clients, 96 to 210 examples each, ...; capacities 1 2 3 layers"
"""

from collections import Counter
from collections.abc import Sequence

from leff.methods.registry import spec_of
from leff.runs.options import RunConfig
from leff.runs.population import Population
from leff.wire.messages import Device

LISTED = 10  # clients; of more, only how many have each capacity


def who(config: RunConfig, clients: Population) -> str:
    """Return how many clients there are, what each has, and what it can."""
    if clients.split is None:
        return (
            f"devices on the network; a round needs {config.engine.quorum} clients and ends after "
            f"{config.engine.deadline} at the latest"
        )
    sizes, split = [len(rows) for rows in clients.split.indices], config.clients.partition
    if split == "files":
        split = "a file each"
    elif split != "iid":
        split += f" by {clients.split.by}"
    if config.clients.partition == "dirichlet":
        split += f" (alpha {config.clients.alpha})"
    moved = f", {clients.split.moved} moved so that none is empty" if clients.split.moved else ""
    return (
        f"{len(clients.layers)} clients, {min(sizes)} to {max(sizes)} examples each, {split}{moved}"
        f"; {what_they_can(config, clients.layers, clients.devices)}"
    )


def what_they_can(config: RunConfig, layers: Sequence[int], devices: Sequence[Device]) -> str:
    """Return how the clients differ, as far as it matters to the method."""
    spec, clients = spec_of(config.method.name), config.clients
    if devices:
        counts = ", ".join(f"{n} {name}" for name, n in Counter(d.name for d in devices).items())
        return counts + (f", deadline {clients.deadline}" if clients.deadline else "")
    memory = f"memory {' '.join(clients.memory)}" if clients.memory else ""
    if spec.trains_blocks and config.context.name == "auto":
        flops = f"a step's operations {' '.join(clients.flops)}" if clients.flops else ""
        return ", ".join(filter(None, (memory, flops)))
    if spec.trains_blocks:
        return ", ".join(filter(None, (f"capacities {_capacities(layers)} layers", memory)))
    if spec.ranks_by_client:
        ranks = " ".join(map(str, clients.ranks or [config.method.rank]))
        by_memory = clients.memory and not clients.ranks
        return f"adapters of rank {ranks}{' at most, by memory' if by_memory else ''}"
    return spec.clients


def _capacities(layers: Sequence[int]) -> str:
    if len(layers) <= LISTED:
        return " ".join(map(str, layers))
    return ", ".join(f"{n} x {layer}" for layer, n in sorted(Counter(layers).items()))
