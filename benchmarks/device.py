"""What a client's step takes on the device: peak memory, predicted and measured, and speed.

    .venv/bin/python -m benchmarks.device --model gpt2 --json
    .venv/bin/python -m benchmarks.device --model gpt2-large --methods fedlora leff --batch 2

Random weights at real sizes.  Each side is a fresh process that builds its model from a job's
parts as any client does and takes `--steps` steps (`benchmarks.device_side`); sides alternate over
the repeats, rows have medians, lowest and highest values.  LEFF trains one layer, first, in the
middle and last: its rows are means over the three places.  All sides have the same batch, length,
precision and optimizer; logits are made only where there are labels, which are `--labelled` of the
tokens on every side.

`context_error` is how far LEFF's client model is from the full one before it trains, by
`candidates.ASSUMED_ERRORS` (measured on two small models, docs/understand/stand-ins.md).  What is
saved among poorer stand-ins is paid for with what a block learns there.  For a base in few bits it
is that of the same layers in a client of LEFF; None where nothing was measured.

`peak_bytes` above the interpreter's own, after its libraries are loaded and a tiny model trained;
`predicted_bytes` of `leff.capacity.rehearsal`; `floor_bytes` what cannot be less: the weights that
train with gradients and optimizer state, the frozen weights as they are stored, and one layer's
activations for one example.

On the CPU freed memory goes back to the system at once (glibc's MALLOC_MMAP_THRESHOLD_ = 64 KiB,
`--heap system`); as glibc comes, it keeps pieces of it (`--heap kept`): faster, and more memory.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PretrainedConfig

from benchmarks.processes import in_process, spread
from benchmarks.random_job import write
from leff.capacity.candidates import ASSUMED_ERRORS, Setting, settings
from leff.capacity.leaner_steps import smallest
from leff.capacity.rehearsal import Rehearsal, rehearse
from leff.errors import LeffError
from leff.methods.registry import MethodSpec, spec_of
from leff.methods.setup import ClientSetup, Layout
from leff.models import empty_model, layer_count, short_config
from leff.runs.config import load_config
from leff.runs.plans import shape_of
from leff.wire.messages import Step

LEANEST = "leff-leanest"
NAMES = (
    "fedavg",
    "fedbitfit",
    "fedlora",
    "fedlora-bf16",
    "fedlora-nf4",
    "leff-distil",
    "leff",
    LEANEST,
)
PAPER_RATE = 0.2  # r: the smallest of its Figure 5; which one Table 5 has is not said
ERRORS = {  # and of this rate, measured as the others were (docs/LOG.md)
    **ASSUMED_ERRORS,
    Setting("distil", PAPER_RATE, 32): 0.56,
    Setting("distil", PAPER_RATE, 4): 0.56,
}
HEAPS = {"system": {"MALLOC_MMAP_THRESHOLD_": str(2**16)}, "kept": {}}


@dataclass(frozen=True)
class Side:
    """One row: a method as it is measured."""

    name: str
    spec: MethodSpec
    setup: ClientSetup
    context: str = ""
    error: float | None = 0.0  # of the last hidden state before any training, relative


def sides(
    config: PretrainedConfig, kind: str, asked: ClientSetup, wanted: Sequence[str] | None
) -> list[Side]:
    """Return the sides of these names, without names all.

    LEFF's leanest is that of the least predicted peak.
    """
    found = [side for side in _plain_sides(asked) if not wanted or side.name in wanted]
    return found + ([_leanest(config, kind, asked)] if not wanted or LEANEST in wanted else [])


def _plain_sides(asked: ClientSetup) -> Iterator[Side]:
    for name in ("fedavg", "fedbitfit"):
        yield Side(name, spec_of(name), asked)
    lora = spec_of("fedlora")
    for bits, name in ((32, "fedlora"), (16, "fedlora-bf16"), (4, "fedlora-nf4")):
        error = ERRORS.get(Setting("quantise", bits=bits))
        yield Side(name, lora, replace(asked, base_bits=bits), f"base of {bits} bits", error)
    yield _leff("leff-distil", Setting("distil", PAPER_RATE, 32), asked)
    yield _leff("leff", Setting("quantise", bits=8), replace(asked, embedding_bits=16))


def _leff(name: str, setting: Setting, asked: ClientSetup) -> Side:
    setup = replace(asked, context=setting.context)
    return Side(name, spec_of("leff"), setup, str(setting), ERRORS.get(setting))


def _leanest(config: PretrainedConfig, kind: str, asked: ClientSetup) -> Side:
    lean = replace(asked, embedding_bits=16, step=smallest(asked.step))
    tried = [
        s for s in (*settings(layer_count(config)), Setting("distil", PAPER_RATE, 4)) if s.bits == 4
    ]
    found = [_leff(LEANEST, setting, lean) for setting in tried]
    first = [layouts(side, config, kind)[0] for side in found]
    peaks = [rehearse(config, kind, layout, lean).peak for layout in first]
    least = found[peaks.index(min(peaks))]
    parts = lean.step.accumulation
    parts = f"checkpointed, {parts} parts" if parts > 1 else "checkpointed"
    return replace(least, context=f"{least.context}, words 16 bits, {parts}")


def layouts(side: Side, config: PretrainedConfig, kind: str) -> list[Layout]:
    """Return what a side is measured with: its block first, in the middle and last, if it has one.

    Raises ConfigError for a method that the model does not allow.
    """
    places = side.spec.stages(empty_model(config, kind), side.setup)[0]
    count = len(places)
    return [places[k] for k in sorted({0, count // 2, count - 1})]


def measure(
    side: Side, config: PretrainedConfig, kind: str, layout: Layout, given: argparse.Namespace
) -> dict[str, Any]:
    """Train in a process of its own and return what `benchmarks.device_side` prints."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), config, kind, side.spec, side.setup, layout, given.steps)
        arguments = (folder, given.device, str(given.threads))
        found = in_process("benchmarks.device_side", *arguments, environment=HEAPS[given.heap])
    if found["failure"]:
        raise RuntimeError(f"{side.name} failed: {found['failure']}")
    return found


def compare(given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each side that could be measured.

    One that the model does not allow, or the machine has no room for, is named on standard error.
    Raises LeffError if there is no row.
    """
    asks = {"model.train_head": not given.frozen_head}
    config, kind = shape_of(given.model, load_config(None, asks))
    asked = ClientSetup(
        step=Step(given.batch, precision=given.precision, optimizer=given.optimizer),
        length=given.length,
        labelled=given.labelled,
    )
    chosen = sides(config, kind, asked, given.methods)
    runs: dict[str, list[list[dict[str, Any]]]] = {side.name: [] for side in chosen}
    able = list(chosen)
    for repeat in range(given.repeats):
        for side in list(able):
            try:
                around = layouts(side, config, kind)
                done = [measure(side, config, kind, layout, given) for layout in around]
            except (LeffError, RuntimeError) as error:
                able.remove(side)
                print(f"{side.name} is left out from here on: {error}", file=sys.stderr)
                continue
            runs[side.name].append(done)
            print(f"repeat {repeat + 1}, {side.name}: {done}", file=sys.stderr)
    if not any(runs.values()):
        raise LeffError("no side could be measured, for the reasons above")
    layer = layer_activations(config, kind, asked)
    rows = []
    for side in (side for side in chosen if runs[side.name]):
        around = layouts(side, config, kind)
        rehearsed = [rehearse(config, kind, layout, side.setup) for layout in around]
        rows.append(_row(side, rehearsed, layer, runs[side.name], given))
    return _with_ratios(rows)


def layer_activations(config: PretrainedConfig, kind: str, asked: ClientSetup) -> int:
    """Return what one layer that trains keeps for the backward pass of one example, in bytes."""
    one = replace(asked, step=replace(asked.step, batch_size=1, accumulation=1))
    side, kept = Side("fedavg", spec_of("fedavg"), one), []
    for layers in (1, 2):
        short = short_config(config, range(layers))
        (layout,) = layouts(side, short, kind)
        kept.append(rehearse(short, kind, layout, one).activations)
    return kept[1] - kept[0]


def _row(
    side: Side,
    rehearsed: Sequence[Rehearsal],
    layer: int,
    repeats: Sequence[Sequence[dict[str, Any]]],
    given: argparse.Namespace,
) -> dict[str, Any]:
    tokens = given.batch * given.length
    peaks = [statistics.mean(run["peak_bytes"] for run in runs) for runs in repeats]
    speeds = [
        statistics.mean(tokens / statistics.median(run["seconds"]) for run in runs)
        for runs in repeats
        if all(run["seconds"] for run in runs)
    ]
    predicted = statistics.mean(each.peak for each in rehearsed)
    return {
        "model": given.model,
        "method": side.name,
        "context": side.context,
        "context_error": side.error,
        "peak_bytes": statistics.median(peaks),
        "peak_spread": spread(peaks),
        "peak_by_place": [run["peak_bytes"] for run in repeats[0]],
        "predicted_bytes": predicted,
        "predicted_by_place": [each.peak for each in rehearsed],
        "predicted_to_measured": predicted / statistics.median(peaks),
        "state_bytes": repeats[0][0]["state_bytes"],
        "floor_bytes": statistics.mean(
            each.weights + each.gradients + each.optimizer + layer for each in rehearsed
        ),
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "tokens_per_second_spread": spread(speeds) if speeds else None,
        "precision": given.precision,
        "optimizer": given.optimizer,
        "batch": given.batch,
        "length": given.length,
        "labelled": given.labelled,
        "accumulation": side.setup.step.accumulation,
        "checkpointing": side.setup.step.checkpointing,
        "device": given.device,
        "heap": given.heap,
        "threads": given.threads,
        "steps": given.steps,
        "repeats": len(repeats),
    }


def _with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Add each row's peak and speed over FedAvg's and FedLoRA's, where these were measured."""
    by_name = {row["method"]: row for row in rows}
    for row in rows:
        for name in ("fedavg", "fedlora", "fedlora-nf4"):
            if (other := by_name.get(name)) is None:
                continue
            row[f"peak_to_{name}"] = row["peak_bytes"] / other["peak_bytes"]
            if row["tokens_per_second"] and other["tokens_per_second"]:
                row[f"speed_to_{name}"] = row["tokens_per_second"] / other["tokens_per_second"]
    return rows


def show(rows: Sequence[dict[str, Any]]) -> None:
    """Print a row a side, and how far each peak is from its floor."""
    first = rows[0]
    print(
        f"{first['model']}, {first['device']}, {first['precision']}, {first['optimizer']}, "
        f"batches of {first['batch']} × {first['length']} tokens, "
        f"labels on {first['labelled']:.0%}, {first['threads']} threads, heap {first['heap']}"
    )
    print(f"{'method':<14}{'peak MB':>9}{'predicted':>10}{'floor':>8}{'over':>6}{'state':>8}"
          f"{'FedAvg':>8}{'FedLoRA':>8}{'NF4':>6}{'tok/s':>8}{'error':>7}  context")  # fmt: skip
    for row in rows:
        ratios = [row.get(f"peak_to_{name}") for name in ("fedavg", "fedlora", "fedlora-nf4")]
        texts = ["-" if ratio is None else f"{ratio:.3f}" for ratio in ratios]
        mb = [row[key] / 1e6 for key in ("peak_bytes", "predicted_bytes", "floor_bytes")]
        speed = row["tokens_per_second"]
        print(
            f"{row['method']:<14}{mb[0]:>9.0f}{mb[1]:>10.0f}{mb[2]:>8.0f}{mb[0] / mb[2]:>6.2f}"
            f"{row['state_bytes'] / 1e6:>8.0f}{texts[0]:>8}{texts[1]:>8}{texts[2]:>6}"
            f"{'-' if speed is None else f'{speed:.1f}':>8}"
            f"{'-' if (error := row['context_error']) is None else f'{error:.3f}':>7}  "
            f"{row['context']}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", default="gpt2")
    add("--methods", nargs="+", choices=NAMES, help="sides by name; without it, all")
    add("--batch", type=int, default=4)
    add("--length", type=int, default=128)
    add("--frozen-head", action="store_true", help="a language model's own head does not train")
    add("--labelled", type=float, default=1.0, help="share of the tokens with a label")
    add("--steps", type=int, default=3)
    add("--repeats", type=int, default=1)
    add("--device", default="cpu")
    add("--precision", default="float32", choices=("float32", "bfloat16"))
    add("--optimizer", default="adamw", choices=("adamw", "adamw8bit"))
    add("--threads", type=int, default=1)
    add("--heap", default="system", choices=tuple(HEAPS))
    add("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    try:
        rows = compare(given)
    except LeffError as error:
        parser.error(str(error))
    print(json.dumps(rows, indent=1)) if given.json else show(rows)


if __name__ == "__main__":
    main()
