"""What `leff plan` and `leff profile` print for a reader.

print_plan(Console(), planned("gpt2", "leff", RunConfig()))
"""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from leff.report.live import bytes_text, print_rows


def print_any_plan(console: Console, plan: Mapping[str, Any]) -> None:
    """Print what `leff.plan` returns: of classes, of a choice, or of a given method."""
    if "classes" in plan or "class" in plan:
        print_device_plans(console, plan)
    elif "options" in plan:
        print_choice(console, plan)
    else:
        print_plan(console, plan)


def print_plan(console: Console, plan: Mapping[str, Any]) -> None:
    """Print a plan: what trains, the bytes by role, and the operations of a step."""
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
    """Print the chosen layers and context, their memory, and the command that runs them."""
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


def print_device_plans(console: Console, result: Mapping[str, Any]) -> None:
    """Print a row for every device class: what it trains, and a round's bytes and seconds."""
    classes = result.get("classes") or {result["class"]: result}
    rows: list[dict[str, Any]] = []
    problems: dict[str, str] = {}
    for name, plan in classes.items():
        if "problem" in plan:
            problems[name] = plan["problem"]
            continue
        row = {
            "class": f"{plan['count']} x {name}",
            "layers": plan["layers"],
            "context": plan["context"],
            "peak": bytes_text(plan["predicted_bytes"]),
            "done": _step_variant(plan["step"]),
            "steps": f"{plan['steps']} of {plan['all_steps']}",
            "once": f"{bytes_text(plan['setup_bytes'])}, {plan['setup_seconds']:.1f} s",
            "down": bytes_text(plan["download_bytes"]),
            "up": bytes_text(plan["upload_bytes"]),
        }
        for key in ("download", "compute", "upload", "round"):
            row[f"{key} s"] = f"{plan[f'{key}_seconds']:.1f}"
        rows.append(row)
    console.print(f"{result['model']}: a round by device class")
    print_rows(console, rows)
    for name, problem in problems.items():
        console.print(f"{name} sits out: {problem}", markup=False, highlight=False)


def print_profile(console: Console, profile: Mapping[str, Any]) -> None:
    """Print what was measured on a device, and the file that it was written to."""
    step, memory = profile["step_seconds"], bytes_text(profile["memory_bytes"])
    rows = [
        {"what": "free memory", "measured": memory, "by": "the system"},
        {
            "what": "speed",
            "measured": f"{profile['flops_per_second'] / 1e9:.1f} GFLOP/s",
            "by": f"{profile['calibration']}, {profile['threads']} threads, {step['median']:.3g} s "
            f"a step ({step['min']:.3g} to {step['max']:.3g}, {profile['repeats']} steps)",
        },
    ]
    for direction in ("down", "up"):
        rate = profile[f"{direction}_bytes_per_second"]
        rate_text = "not measured" if rate is None else f"{rate * 8 / 1e6:.2f} Mbit/s"
        rows.append({"what": direction, "measured": rate_text, "by": profile["link"][direction]})
    print_rows(console, rows)
    console.print(f"written to {profile['file']}", markup=False, highlight=False)


def _step(plan: Mapping[str, Any]) -> str:
    step = plan["step"]
    return (
        f"a training step: {step['batch_size']} × {step['length']} tokens, {_step_variant(step)}, "
        f"{step['labelled']:.0%} with a label, {step['precision']}, {step['optimizer']}; "
        f"{plan['step_flops'] / 1e9:,.1f} GFLOP"
    )


def _step_variant(step: Mapping[str, Any]) -> str:
    parts = f"in {step['accumulation']} parts" if step["accumulation"] > 1 else "whole"
    return parts + (", checkpointed" if step["checkpointing"] else "")
