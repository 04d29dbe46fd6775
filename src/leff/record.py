"""."""

from collections.abc import Mapping, Sequence
from typing import Any

from leff.capacity.schedule import Paced
from leff.methods.method import RoundContext
from leff.wire.messages import Capacity, Job, Update
from leff.wire.spool import Spool


def _record(
    context: RoundContext,
    reports: Sequence[Capacity],
    paced: Paced,
    jobs: Mapping[int, Job],
    spool: Spool,
) -> dict[str, Any]:
    capacities = {report.client: report for report in reports}
    clock, clocks = paced.clock(update for _, update in sorted(spool.updates.items()))
    clients = [
        {
            "client": update.client,
            "capacity": capacities[update.client].layers,
            "memory_bytes": capacities[update.client].memory_bytes,
            "step_flops": capacities[update.client].step_flops,
            "layers": list(update.layers),
            "examples": update.examples,
            "steps": update.steps,
            "losses": None if update.losses is None else list(update.losses),
            "download_bytes": update.download_bytes,
            "upload_bytes": update.upload_bytes,
            "train_seconds": update.train_seconds,
            "state_bytes": update.state_bytes,
            "predicted_bytes": jobs[update.client].predicted_bytes or None,
            "accumulation": jobs[update.client].training.accumulation,
            "checkpointing": jobs[update.client].training.checkpointing,
            "layer_scores": list(update.layer_scores),
            "failure": update.failure,
            **_out_of_memory(update),
            **clocks.get(update.client, {}),
        }
        for _, update in sorted(spool.updates.items())
    ]
    done = [(c["examples"], c["losses"][1]) for c in clients if not c["failure"] and c["losses"]]
    total = sum(examples for examples, _ in done)
    return {
        "round": context.index + 1,
        "train_loss": sum(n * loss for n, loss in done) / total if done else None,
        "learning_rate": context.training.learning_rate,
        "failures": sum(client["failure"] is not None for client in clients),
        "download_bytes": sum(client["download_bytes"] for client in clients),
        "upload_bytes": sum(client["upload_bytes"] for client in clients),
        **clock,
        **paced.plan.facts,
        "clients": clients,
    }


def _out_of_memory(update: Update) -> dict[str, int]:
    found = update.out_of_memory_bytes
    return {"out_of_memory_bytes": found} if found else {}
