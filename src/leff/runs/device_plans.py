"""Plans for devices, without weights: what each class of a fleet can train, and in what time.

    classes = read_classes(Path("fleet.toml"))
    fleet_plan("gpt2", RunConfig(), classes, seconds=30.0)["classes"]["phone"]["layers"]

Both ways: the best block and context for memory and time, or, with a `Fixed` choice, its cost.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from leff.capacity.candidates import assumed_errors, leaner_too
from leff.capacity.choose import choose
from leff.capacity.clock import Needs, round_seconds, steps_within
from leff.capacity.deadline import TimeLimit, candidate_needs
from leff.capacity.fleet_file import DeviceClass
from leff.capacity.job_cost import steps_of
from leff.capacity.peak import fitted, predict
from leff.capacity.peaks import peaks_of
from leff.capacity.schedule import least_steps
from leff.capacity.sizes import model_sizes
from leff.errors import ConfigError
from leff.models import empty_model
from leff.runs.config import RunConfig
from leff.runs.plans import block_options, plan_of, shape_of, step_of, step_options
from leff.runs.setups import choice_of, fixed_setting
from leff.wire.messages import Capacity, Device


@dataclass(frozen=True)
class Fixed:
    """A method, and LEFF's layers, to be costed instead of chosen."""

    method: str
    numbers: Mapping[str, int]  # layers, rank, base_bits


@dataclass(frozen=True)
class Time:
    """A round's time in seconds, None without limit, and the examples that a client has."""

    seconds: float | None
    examples: int


def round_time(config: RunConfig, seconds: float | None, examples: int | None) -> Time:
    """Return the time asked about; the examples are a run's own number if not given.

    Raises ConfigError for a number below 1, and where a run's own is not known.
    """
    if examples is None:
        if config.data.train_examples is None:
            raise ConfigError("data.train_examples is 'all'; give --examples, those of a client")
        examples = max(1, config.data.train_examples // config.clients.count)
    if examples < 1:
        raise ConfigError(f"--examples must be at least 1, got {examples}")
    return Time(seconds, examples)


def fleet_plan(
    model: str,
    config: RunConfig,
    classes: Mapping[str, DeviceClass],
    time: Time,
    fixed: Fixed | None = None,
    labelled: float = 1.0,
) -> dict[str, Any]:
    """Return a plan for every class by its name; ``problem`` says why one cannot take part.

    `labelled` is the share of a text's tokens that have a label.  Raises ConfigError for a class
    with values that are missing or wrong, and if no class can.
    """
    plans: dict[str, Any] = {}
    for name, each in classes.items():
        device = each.device()
        try:
            plans[name] = device_plan(model, config, device, time, fixed, labelled)
        except ConfigError as error:
            plans[name] = {"problem": str(error)}
        plans[name]["count"] = each.count
    if all("problem" in found for found in plans.values()):
        raise ConfigError(next(iter(plans.values()))["problem"])
    return {"model": model, "classes": plans}


def device_plan(
    model: str,
    config: RunConfig,
    device: Device,
    time: Time,
    fixed: Fixed | None = None,
    labelled: float = 1.0,
) -> dict[str, Any]:
    """Return what a device trains in a round, its bytes and seconds, and the options of such a run.

    Without `fixed` LEFF's block and context are chosen, by `ASSUMED_ERRORS`.  ConfigError if
    nothing fits the memory and the time.
    """
    found = (
        _chosen(model, config, device, time, labelled)
        if fixed is None
        else _costed(model, config, device, time, labelled, fixed)
    )
    needs = Needs(found["download_bytes"], found["upload_bytes"], found["step_flops"])
    spent = round_seconds(needs, device, found["steps"])
    return {
        **found,
        "memory_bytes": device.memory_bytes,
        "examples": time.examples,
        "setup_seconds": found["setup_bytes"] / device.down_bytes_per_second,
        "download_seconds": spent.download,
        "compute_seconds": spent.compute,
        "upload_seconds": spent.upload,
        "round_seconds": spent.total,
    }


def _chosen(
    model: str, config: RunConfig, device: Device, time: Time, labelled: float
) -> dict[str, Any]:
    shape, kind = shape_of(model, config)
    asked = replace(choice_of(config, "leff"), labelled=labelled)
    sizes = model_sizes(empty_model(shape, kind), kind)
    every = leaner_too(sizes, asked)
    limit = TimeLimit(
        time.seconds,
        config.clients.min_steps_share,
        candidate_needs(sizes, every, asked),
        config.training.epochs,
        config.training.batch_size,
    )
    report = Capacity(0, 1, time.examples, device.memory_bytes, None, device)
    chosen = choose(every, assumed_errors, report, limit, peaks_of(shape, kind, asked))
    best, needs = chosen.candidate, limit.needs[chosen.candidate]
    choice = fitted(shape, kind, "leff", best.choice(asked), device.memory_bytes)
    return {
        "method": "leff",
        "layers": best.layers,
        "context": str(best.setting),
        "predicted_bytes": predict(shape, kind, "leff", choice).peak,
        "assumed_error": assumed_errors([best])[best],
        "setup_bytes": sizes.shell_bytes(asked.embedding_bits),
        "download_bytes": needs.download_bytes,
        "upload_bytes": needs.upload_bytes,
        "step_flops": needs.step_flops,
        "steps": chosen.steps,
        "all_steps": chosen.wanted,
        "step": step_of(choice),
        "options": block_options(config, best.layers, best.setting, choice),
    }


def _costed(
    model: str, config: RunConfig, device: Device, time: Time, labelled: float, fixed: Fixed
) -> dict[str, Any]:
    shape, kind = shape_of(model, config)
    asked = replace(choice_of(config, fixed.method, **fixed.numbers), labelled=labelled)
    plan_of(model, fixed.method, config, asked)  # refuses what cannot be
    choice = fitted(shape, kind, fixed.method, asked, device.memory_bytes)
    plan = plan_of(model, fixed.method, config, choice)
    training = config.training
    wanted = steps_of(training.epochs, training.batch_size, time.examples)
    needs = Needs(plan["download_bytes"], plan["upload_bytes"], plan["step_flops"])
    steps, least = wanted, least_steps(wanted, config.clients.min_steps_share)
    if time.seconds is not None:
        steps = steps_within(needs, device, time.seconds, wanted)
    if steps < least:
        needed = round_seconds(needs, device, least).total
        raise ConfigError(
            f"{least} of {wanted} steps with {fixed.method} take {needed:.3g} s on a "
            f"{device.name}, there are {time.seconds:g} s"
        )
    setting = fixed_setting(config.context) if fixed.method == "leff" else None
    given = {f"method.{name}": n for name, n in fixed.numbers.items() if name != "layers"}
    options = {"method.name": fixed.method, **given, **step_options(config, choice)}
    if setting is not None:
        options = block_options(config, asked.layers, setting, choice)
    return {
        "method": fixed.method,
        "layers": plan["block_layers"],
        "context": None if setting is None else str(setting),
        "predicted_bytes": predict(shape, kind, fixed.method, choice).peak,
        **{key: plan[key] for key in ("setup_bytes", "download_bytes", "upload_bytes")},
        "step_flops": plan["step_flops"],
        "steps": steps,
        "all_steps": wanted,
        "step": step_of(choice),
        "options": options,
    }
