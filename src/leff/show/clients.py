"""A run's clients over all rounds: what each can, what it sent and took, how often it failed."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from leff.record import ClientRecord, RoundRecord


def clients_view(records: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    """Return a row for every client that a round asked, by number.

    ``busy`` are seconds of training; ``idle_share`` is the mean share of a round that the client
    waited for the slowest one, by the virtual clock, and None without one.
    """
    own: dict[int, list[tuple[RoundRecord, ClientRecord]]] = defaultdict(list)
    for record in records:
        for client in record.clients:
            own[client.client].append((record, client))
    return [_row(number, own[number]) for number in sorted(own)]


def _row(number: int, rounds: Sequence[tuple[RoundRecord, ClientRecord]]) -> dict[str, Any]:
    clients = [client for _, client in rounds]
    failed = [client.failure for client in clients if client.failure is not None]
    last = clients[-1]
    return {
        "client": number,
        "device": last.device,
        "capacity": last.capacity,
        "memory": last.memory_bytes,
        "predicted": max((c.predicted_bytes for c in clients if c.predicted_bytes), default=None),
        "state": max((c.state_bytes for c in clients), default=None),
        "rounds": len(clients) - len(failed),
        "examples": max(c.examples for c in clients),
        "steps": sum(c.steps for c in clients),
        "busy": sum(c.train_seconds for c in clients),
        "simulated": _simulated(clients),
        "idle_share": _idle_share(rounds),
        "download": sum(c.download_bytes for c in clients),
        "upload": sum(c.upload_bytes for c in clients),
        "failures": len(failed),
        "last_failure": failed[-1] if failed else None,
        "layers": _layers(clients),
    }


def _simulated(clients: Sequence[ClientRecord]) -> float | None:
    spent = [c.seconds_simulated.round for c in clients if c.seconds_simulated is not None]
    return sum(spent) if spent else None


def _idle_share(rounds: Sequence[tuple[RoundRecord, ClientRecord]]) -> float | None:
    shares = [
        1 - client.seconds_simulated.round / record.round_seconds_simulated
        for record, client in rounds
        if client.seconds_simulated is not None and record.round_seconds_simulated
    ]
    return fmean(shares) if shares else None


def _layers(clients: Sequence[ClientRecord]) -> list[list[int]]:
    """Return how often the client trained each layer: pairs of layer and rounds."""
    counts: dict[int, int] = defaultdict(int)
    for client in clients:
        for layer in client.layers if client.failure is None else ():
            counts[layer] += 1
    return [[layer, counts[layer]] for layer in sorted(counts)]
