"""One run as the JSON values that its page draws.

    run_view("a", followed)["rounds"][3]["loss"]
    round_view(followed, 3)["clients"][0]["layers"]       # who did what in one round

Every list by layer has an entry for each layer of the model, from the first.  Bytes are bytes,
seconds are seconds, losses are nats.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, cast

from leff.record import ClientRecord, RoundRecord
from leff.show.clients import clients_view
from leff.show.followed import Followed
from leff.show.options_view import options_view

FIGURES = (
    *("round", "loss", "metric", "train_loss", "plug_in_gap", "download_bytes", "upload_bytes"),
    *("seconds", "train_seconds", "evaluation_seconds", "round_seconds_simulated", "idle_share"),
    "epsilon",
)
RECENT = 3  # rounds by which the time that is left is told
MOST_GROUPS = 8  # that colours can tell apart
MOST_FAILURES = 200  # that are listed one by one


def run_view(name: str, run: Followed) -> dict[str, Any]:
    """Return all of a run but who did what in each round, which `round_view` has."""
    records, result = run.records, run.result or {}
    asked = value_of(run.config, "training.rounds")
    count, groups = layer_count(records), groups_of(records)
    return {
        **run_summary(name, run),
        "layers": count,
        "groups": list(dict.fromkeys(groups.values())),
        "versions": run.environment.get("versions", {}),
        "device": run.environment.get("device"),
        "options": options_view(run.config),
        "rounds": [_round(record, count, groups) for record in records],
        "clients": clients_view(records),
        "failures": _failures(records),
        "sat_out": _sat_out(records),
        "texts": _texts(records),
        "tests": {when: _test(result[when]) for when in ("before", "after") if when in result},
        "who": result.get("clients"),
        "seconds_left": _seconds_left(records, asked, bool(result)),
    }


def run_summary(name: str, run: Followed) -> dict[str, Any]:
    """Return a run's row in a table of runs: what it is, how far it is, what came of it."""
    config, records, result = run.config, run.records, run.result or {}
    last = records[-1] if records else None
    measured = [record for record in records if record.metric is not None]
    latest = measured[-1] if measured else None
    peaks = [c.predicted_bytes for r in records for c in r.clients if c.predicted_bytes]
    after: dict[str, Any] = result.get("after") or {}
    metric = result.get("metric") or run.environment.get("metric") or "metric"
    return {
        "name": name,
        "folder": str(run.path),
        "finished": bool(result),
        "written": run.written,
        "task": value_of(config, "data.task"),
        "model": value_of(config, "model.name"),
        "method": value_of(config, "method.name"),
        "seed": value_of(config, "seed"),
        "rate": value_of(config, "training.learning_rate"),
        "engine": value_of(config, "engine.name"),
        "clients_count": value_of(config, "clients.count"),
        "rounds_asked": value_of(config, "training.rounds"),
        "rounds_done": last.round if last else 0,
        "metric_name": metric,
        "loss": latest.loss if latest else None,
        "metric": latest.metric if latest else None,
        "test": after.get("metrics", {}).get(metric),
        "download": sum(record.download_bytes or 0 for record in records),
        "upload": sum(record.upload_bytes or 0 for record in records),
        "peak": max(peaks, default=None),
        "seconds": sum(record.seconds or 0.0 for record in records),
        "failed": sum(record.failures or 0 for record in records),
        "problem": run.problem,
    }


def round_view(run: Followed, number: int) -> dict[str, Any] | None:
    """Return who trained what in a round, and which stand-ins it had; None without the round."""
    if not 0 <= number < len(run.records):
        return None
    record = run.records[number]
    errors: dict[str, float] = record.facts.get("context_error") or {}
    return {
        "round": number,
        "clients": [_client(client) for client in record.clients],
        "stand_ins": [  # by the layers that each replaced, such as 2-7
            {"layers": layers, "error": error} for layers, error in errors.items()
        ],
    }


def value_of(config: Mapping[str, Any], key: str) -> Any:
    """Return the value of a dotted key in a run's configuration, or None."""
    section, _, name = key.rpartition(".")
    own: Any = config.get(section) if section else config
    return cast("dict[str, Any]", own).get(name) if isinstance(own, dict) else None


def layer_count(records: Iterable[RoundRecord]) -> int:
    """Return the number of layers that records tell of."""
    count = 0
    for record in records:
        trained = (layer + 1 for each in record.clients for layer in each.layers)
        count = max(count, len(record.layer_scores or ()), *trained)
    return count


def groups_of(records: Sequence[RoundRecord]) -> dict[int, str]:
    """Return a group for each client: its class of devices, or itself if clients are few.

    Many clients without classes are grouped by the number of layers that they report.
    """
    last = {client.client: client for record in records for client in record.clients}
    clients = [last[number] for number in sorted(last)]
    if any(client.device for client in clients):
        clients.sort(key=lambda client: client.device or "")
        return {client.client: client.device or "no class" for client in clients}
    if len(clients) <= MOST_GROUPS:
        return {client.client: f"client {client.client}" for client in clients}
    clients.sort(key=lambda client: client.capacity)
    return {client.client: f"trains {client.capacity}" for client in clients}


def _round(record: RoundRecord, count: int, groups: Mapping[int, str]) -> dict[str, Any]:
    done = [client for client in record.clients if client.failure is None]
    by_layer = [[c for c in done if layer in c.layers] for layer in range(count)]
    scores = list(record.layer_scores or ())
    return {
        **{name: getattr(record, name) for name in FIGURES},
        "clients": len(record.clients),
        "trained": [len(clients) for clients in by_layer],
        "who": [dict(Counter(groups[c.client] for c in clients)) for clients in by_layer],
        "examples": [sum(client.examples for client in clients) for clients in by_layer],
        "moved": [_moved(clients, layer) for layer, clients in enumerate(by_layer)],
        "importance": scores + [None] * (count - len(scores)),
    }


def _moved(clients: Sequence[ClientRecord], layer: int) -> float | None:
    """Return the mean L2 norm of what clients changed in a layer, or None if none says."""
    norms = [c.norms[c.layers.index(layer)] for c in clients if c.norms]
    return fmean(norms) if norms else None


def _client(client: ClientRecord) -> dict[str, Any]:
    names = ("client", "device", "layers", "examples", "norms", "failure")
    return {name: getattr(client, name) for name in names}


def _failures(records: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    """Return the last failures, the newest first."""
    failed = [
        {"round": record.round, "client": client.client, "reason": client.failure}
        for record in records
        for client in record.clients
        if client.failure is not None
    ]
    return failed[: -MOST_FAILURES - 1 : -1]


def _sat_out(records: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    """Return why clients sat out: each reason once, with its clients and rounds."""
    reasons: dict[str, dict[str, Any]] = {}
    for record in records:
        for client, reason in (record.sat_out or {}).items():
            own = reasons.setdefault(reason, {"reason": reason, "clients": set(), "times": 0})
            own["clients"].add(int(client))
            own["times"] += 1
    return [{**own, "clients": sorted(own["clients"])} for own in reasons.values()]


def _texts(records: Sequence[RoundRecord]) -> list[dict[str, Any]]:
    """Return each text that is followed: what was asked, references, and its output by round."""
    written = [record for record in records if record.texts]
    first = written[0].texts if written else ()
    return [
        {
            "input": text["input"],
            "references": text["references"],
            "outputs": [
                {"round": record.round, "output": record.texts[k]["output"]}
                for record in written
                if record.texts and k < len(record.texts)
            ],
        }
        for k, text in enumerate(first or ())
    ]


def _test(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what was measured on the test split, without texts."""
    names = ("split", "examples", "loss", "metrics", "notes", "confusion")
    return {name: report.get(name) for name in names}


def _seconds_left(
    records: Sequence[RoundRecord], asked: int | None, finished: bool
) -> float | None:
    """Return the seconds that the rounds to come will take, by the mean of the last ones."""
    recent = [record.seconds for record in records if record.seconds is not None][-RECENT:]
    if finished or not recent or asked is None:
        return None
    return (asked - records[-1].round) * fmean(recent)
