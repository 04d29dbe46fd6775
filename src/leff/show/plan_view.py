"""A plan for classes of devices, beside what the same classes measured in runs.

plan_view("plan", plan, {"a": followed})["classes"][0]["measured"]["upload_bytes"]
"""

from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from leff.record import ClientRecord
from leff.show.followed import Followed

PREDICTED = {  # what of a plan can be compared: its name there, and in a client's record
    "download_bytes": "download_bytes",
    "upload_bytes": "upload_bytes",
    "predicted_bytes": "predicted_bytes",
    "steps": "steps",
}


def plan_view(name: str, plan: Mapping[str, Any], runs: Mapping[str, Followed]) -> dict[str, Any]:
    """Return a row for every class of a plan: what it can train, and ``measured`` means.

    A run counts if its model is the plan's and its devices are of the class, by name.  ``measured``
    is None if none is; else it has the ``runs`` and the number of ``jobs`` that it is the mean of.
    """
    found = _jobs(plan.get("model"), runs)
    return {
        "name": name,
        "model": plan.get("model"),
        "classes": [
            {**dict(own), "class": each, "measured": _measured(found.get(each, []))}
            for each, own in plan["classes"].items()
        ],
    }


def _jobs(model: object, runs: Mapping[str, Followed]) -> dict[str, list[tuple[str, ClientRecord]]]:
    """Return the jobs that were done, each with its run's name, by class of device."""
    found: dict[str, list[tuple[str, ClientRecord]]] = defaultdict(list)
    for name, run in runs.items():
        if run.config.get("model", {}).get("name") != model:
            continue
        for client in (c for record in run.records for c in record.clients):
            if client.device is not None and client.failure is None:
                found[client.device].append((name, client))
    return found


def _measured(jobs: list[tuple[str, ClientRecord]]) -> dict[str, Any] | None:
    if not jobs:
        return None
    clients = [client for _, client in jobs]
    means: dict[str, Any] = {}
    for key, field in PREDICTED.items():
        values = [getattr(client, field) for client in clients]
        known = [value for value in values if value is not None]
        means[key] = fmean(known) if known else None
    layers = [len(client.layers) for client in clients]
    spent = [c.seconds_simulated.round for c in clients if c.seconds_simulated is not None]
    return {
        "runs": sorted({name for name, _ in jobs}),
        "jobs": len(jobs),
        "layers": fmean(layers),
        "round_seconds": fmean(spent) if spent else None,
        "state_bytes": max(client.state_bytes for client in clients),
        **means,
    }
