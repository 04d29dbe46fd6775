"""What `leff plan` prints for a reader.

print_plan(Console(), planned("gpt2", "leff", RunConfig()))
"""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from leff.report.live import bytes_text, print_rows


def print_plan(console: Console, plan: Mapping[str, Any]) -> None:
    """Print a plan: what trains, a row for each role of bytes, the operations of a step."""
    sizes = {f"weights: {role}": value for role, value in plan["weights"].items()}
    sizes |= {key: value for key, value in plan.items() if key.endswith("_bytes")}
    sizes |= {key: plan[key] for key in ("gradients", "optimizer", "activations", "logits")}
    count = f"{plan['trainable_parameters']:,} parameters train"
    console.print(f"{plan['model']}: {plan['method']}, {count}")
    print_rows(
        console,
        [{"role": key, "bytes": f"{v:,}", "": bytes_text(v)} for key, v in sizes.items()],
    )
    console.print(_step(plan))


def print_choice(console: Console, choice: Mapping[str, Any]) -> None:
    """Print what was chosen, what it takes, and the command that runs it."""
    layers = f"{choice['layers']} layer" + ("" if choice["layers"] == 1 else "s")
    console.print(f"{choice['model']}: train {layers}; in place of the others: {choice['context']}")
    peak, state = (bytes_text(choice[key]) for key in ("predicted_bytes", "state_bytes"))
    console.print(
        f"{peak} at the peak of a training step, {state} of it weights, gradients, optimizer"
    )
    console.print(_step(choice))
    flags = " ".join(
        f"--set {key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in choice["options"].items()
    )
    console.print(f"leff run --model {choice['model']} {flags}", markup=False)


def _step(found: Mapping[str, Any]) -> str:
    step = found["step"]
    parts = f" in {step['accumulation']} parts" if step["accumulation"] > 1 else ""
    again = ", checkpointed" if step["checkpointing"] else ""
    return (
        f"a training step: {step['batch_size']} × {step['length']} tokens{parts}, "
        f"{step['labelled']:.0%} with a label, {step['precision']}, {step['optimizer']}{again}; "
        f"{found['step_flops'] / 1e9:,.1f} GFLOP"
    )
