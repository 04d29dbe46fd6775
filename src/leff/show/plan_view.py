"""A plan for classes of devices, beside what the same classes measured in runs.

plan_view("plan", plan, {"a": followed})["classes"][0]["measured"]["upload_bytes"]
"""

from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean
from typing import Any

from leff.record import ClientRecord
from leff.show.followed import Followed
from leff.show.run_view import value_of

Job = tuple[str, ClientRecord]  # with its run's name

MEANS = ("download_bytes", "upload_bytes", "steps")  # alike in a plan and in a client's record


def plan_view(name: str, plan: Mapping[str, Any], runs: Mapping[str, Followed]) -> dict[str, Any]:
    """Return a row for every class of a plan: what it can train, and ``measured`` means.

    A run counts if it has the plan's model and the class's method, and devices of the class, by
    name.  ``measured`` is None if none has; else it has the ``runs`` and the number of ``jobs``
    that it is the mean of.  ``state_bytes`` is the most of them.
    """
    found = _jobs(plan.get("model"), runs)
    return {
        "name": name,
        "model": plan.get("model"),
        "classes": [
            {
                **dict(own),
                "class": each,
                "measured": _measured(found.get((own.get("method"), each), [])),
            }
            for each, own in plan["classes"].items()
        ],
    }


def _jobs(model: object, runs: Mapping[str, Followed]) -> dict[tuple[str, str], list[Job]]:
    """Return the jobs that were done, each with its run's name, by method and class of device."""
    found: dict[tuple[str, str], list[Job]] = defaultdict(list)
    for name, run in runs.items():
        if value_of(run.config, "model.name") != model:
            continue
        method = value_of(run.config, "method.name")
        for client in (c for record in run.records for c in record.clients):
            if client.device is not None and client.failure is None:
                found[method, client.device].append((name, client))
    return found


def _measured(jobs: list[Job]) -> dict[str, Any] | None:
    if not jobs:
        return None
    clients = [client for _, client in jobs]
    means = {key: fmean(getattr(client, key) for client in clients) for key in MEANS}
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
