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


def print_device_plans(console: Console, found: Mapping[str, Any]) -> None:
    """Print a row for every device class: what it trains, bytes and seconds of a round."""
    classes = found.get("classes") or {found["class"]: found}
    rows: list[dict[str, Any]] = []
    problems: dict[str, str] = {}
    for name, plan in classes.items():
        if "problem" in plan:
            problems[name] = plan["problem"]
            continue
        setup = f"{bytes_text(plan['setup_bytes'])}, {plan['setup_seconds']:.1f} s"
        row = {
            "class": f"{plan['count']} x {name}",
            "layers": plan["layers"],
            "context": plan["context"],
            "peak": bytes_text(plan["predicted_bytes"]),
            "done": _way(plan["step"]),
            "steps": f"{plan['steps']} of {plan['all_steps']}",
            "once": setup,
            "down": bytes_text(plan["download_bytes"]),
            "up": bytes_text(plan["upload_bytes"]),
        }
        for key in ("download", "compute", "upload", "round"):
            row[f"{key} s"] = f"{plan[f'{key}_seconds']:.1f}"
        rows.append(row)
    console.print(f"{found['model']}: a round by device class")
    print_rows(console, rows)
    for name, problem in problems.items():
        console.print(f"{name} sits out: {problem}", markup=False, highlight=False)


def print_profile(console: Console, found: Mapping[str, Any]) -> None:
    """Print what was measured on a device, and where it is written."""
    step = found["step_seconds"]
    rows = [
        {"what": "free memory", "measured": bytes_text(found["memory_bytes"]), "by": "the system"},
        {
            "what": "speed",
            "measured": f"{found['flops_per_second'] / 1e9:.1f} GFLOP/s",
            "by": f"{found['calibration']}, {found['threads']} threads, {step['median']:.3g} s a "
            f"step ({step['min']:.3g} to {step['max']:.3g}, {found['repeats']} steps)",
        },
    ]
    for way in ("down", "up"):
        rate = found[f"{way}_bytes_per_second"]
        said = "not measured" if rate is None else f"{rate * 8 / 1e6:.2f} Mbit/s"
        rows.append({"what": way, "measured": said, "by": found["link"][way]})
    print_rows(console, rows)
    console.print(f"written to {found['file']}", markup=False, highlight=False)


def _step(found: Mapping[str, Any]) -> str:
    step = found["step"]
    return (
        f"a training step: {step['batch_size']} × {step['length']} tokens, {_way(step)}, "
        f"{step['labelled']:.0%} with a label, {step['precision']}, {step['optimizer']}; "
        f"{found['step_flops'] / 1e9:,.1f} GFLOP"
    )


def _way(step: Mapping[str, Any]) -> str:
    parts = f"in {step['accumulation']} parts" if step["accumulation"] > 1 else "whole"
    return parts + (", checkpointed" if step["checkpointing"] else "")
