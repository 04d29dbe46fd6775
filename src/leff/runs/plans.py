"""The planner: what a method costs a client, what fits a budget, what a fleet can train.

    planned("gpt2", "leff", RunConfig(), layers=2)["total_bytes"]
    choose_plan("gpt2", RunConfig(), memory="1GB")["layers"]
    fleet_plan("gpt2", RunConfig(), classes, RoundTime(30.0, 160))["classes"]["phone"]["layers"]

Models are given by name; no weights are loaded.  Results are JSON values.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from transformers import PretrainedConfig

from leff.capacity.candidates import Setting, assumed_errors, with_checkpointing
from leff.capacity.choose import Chosen, choose
from leff.capacity.clock import Needs, round_seconds, steps_within
from leff.capacity.deadline import TimeLimit, candidate_needs, footprint_needs, least_steps
from leff.capacity.fleet_file import DeviceClass
from leff.capacity.peak import fitted, logits_bytes, peaks_of
from leff.capacity.plan import ClientPlan, client_plan
from leff.capacity.sizes import model_sizes
from leff.errors import ConfigError
from leff.methods.registry import methods, spec_of, users_of
from leff.methods.setup import ClientSetup
from leff.models import empty_model, freeze_head
from leff.models.known import KNOWN_CONFIGS, load_config
from leff.runs.budgets import fixed_setting, setup_of, time_limit
from leff.runs.options import RunConfig
from leff.runs.sources import model_source
from leff.units import BYTES, FLOPS, parse_amount
from leff.wire.messages import Capacity, Device

log = logging.getLogger("leff")
_OPTIONS = {"layers": "clients.layers", "rank": "method.rank", "base_bits": "method.base_bits"}


@dataclass(frozen=True)
class Asked:
    """A given method and its numbers (layers, rank, base_bits): costed, and nothing is chosen."""

    method: str
    numbers: Mapping[str, int]


@dataclass(frozen=True)
class RoundTime:
    """A round's time limit in seconds (None: no limit), and a client's number of examples."""

    seconds: float | None
    examples: int


def planned(model: str, method: str, config: RunConfig, **numbers: int) -> dict[str, Any]:
    """Return what a method costs a client, with the configuration's context and batches.

    `numbers` may be `layers`, `rank` and `base_bits`; the others are the configuration's.
    Raises ConfigError as `client_plan`, and for an unknown method; ModelError for the model.
    """
    spec = spec_of(method)
    plan = client_plan(*shape_of(model, config), spec, setup_of(config, spec, **numbers))
    return _costs(model, config, plan)


def predicted(
    model: str, method: str, config: RunConfig, labelled: float = 1.0, **numbers: int
) -> dict[str, Any]:
    """Return `planned`, and the memory of a training step.

    `predicted_bytes` is the peak.  The parts (`activations`, `logits`, ...) are not all in memory
    at once, so they need not sum to it.  `labelled` is the share of tokens that have a label.
    """
    spec = spec_of(method)
    setup = replace(setup_of(config, spec, **numbers), labelled=labelled)
    plan = client_plan(*shape_of(model, config), spec, setup)
    costs, rehearsal = _costs(model, config, plan), plan.rehearsal
    if setup.step.optimizer != "adamw":
        costs["total_bytes"] += rehearsal.optimizer - costs["optimizer"]
        costs["optimizer"] = rehearsal.optimizer
    return {
        **costs,
        "activations": rehearsal.activations,
        "logits": logits_bytes(plan.config, plan.kind, setup),
        "predicted_bytes": rehearsal.peak,
        "step": _step(setup),
    }


def choose_plan(
    model: str,
    config: RunConfig,
    memory: str | None = None,
    flops: str | None = None,
    labelled: float = 1.0,
) -> dict[str, Any]:
    """Return the layers and the context of least error that fit budgets such as 64MB and 50G.

    `memory` limits a step's peak, `predicted_bytes`.  Without weights no error can be measured, so
    `assumed_errors` are used.  In the result, `options` are those of such a run, and `step` is how
    it does a step.  ConfigError if nothing fits.
    """
    memory_bytes = None if memory is None else parse_amount(memory, BYTES)
    step_flops = None if flops is None else parse_amount(flops, FLOPS)
    report = Capacity(0, 1, 0, memory_bytes, step_flops)
    chosen, _, plan = _chosen(model, config, report, RoundTime(None, 0), labelled)
    best = chosen.candidate
    return {
        "model": model,
        "layers": best.layers,
        "context": str(best.setting),
        "predicted_bytes": plan.rehearsal.peak,
        "state_bytes": best.state_bytes,
        "step_flops": best.step_flops,
        "assumed_error": assumed_errors([best])[best],
        "step": _step(plan.setup),
        "options": _block_options(config, best.layers, best.setting, plan.setup),
    }


def fleet_plan(
    model: str,
    config: RunConfig,
    classes: Mapping[str, DeviceClass],
    time: RoundTime,
    asked: Asked | None = None,
    labelled: float = 1.0,
) -> dict[str, Any]:
    """Return a plan for every class, by name; ``problem`` says why a class cannot take part.

    `labelled` is the share of tokens that have a label.  Raises ConfigError for a class with
    missing or wrong values, and if no class can take part.
    """
    plans: dict[str, dict[str, Any]] = {}
    for name, each in classes.items():
        device = each.device()
        try:
            plans[name] = device_plan(model, config, device, time, asked, labelled)
        except ConfigError as error:
            plans[name] = {"problem": str(error)}
        plans[name]["count"] = each.count
    if all("problem" in plan for plan in plans.values()):
        raise ConfigError(next(iter(plans.values()))["problem"])
    return {"model": model, "classes": plans}


def device_plan(
    model: str,
    config: RunConfig,
    device: Device,
    time: RoundTime,
    asked: Asked | None = None,
    labelled: float = 1.0,
) -> dict[str, Any]:
    """Return what a device trains in a round, its bytes and seconds, and the options of such a run.

    Without `asked`, the method is LEFF, and block and context are chosen by `assumed_errors`.
    ConfigError if nothing fits the memory and the time.
    """
    if asked is None:
        report = Capacity(0, 1, time.examples, device.memory_bytes, None, device)
        chosen, needs, plan = _chosen(model, config, report, time, labelled)
        best, steps, wanted = chosen.candidate, chosen.steps, chosen.wanted
        layers, setting = best.layers, best.setting
        error = {"assumed_error": assumed_errors([best])[best]}
    else:
        plan = _asked(model, config, device, labelled, asked)
        needs, error = footprint_needs(plan.footprint), dict[str, float]()
        shape, kind = shape_of(model, config)
        sizes = model_sizes(empty_model(shape, kind), kind)
        limit = time_limit(config, sizes, time.seconds, {})
        steps, wanted = _steps_in_time(limit, needs, device, time.examples, asked.method)
        layers = plan.setup.layers
        setting = fixed_setting(config.context) if plan.spec.trains_blocks else None
    if setting is not None:
        options = _block_options(config, layers, setting, plan.setup)
    else:
        given: Mapping[str, int] = {} if asked is None else asked.numbers
        numbers = {f"method.{name}": n for name, n in given.items() if name != "layers"}
        options: dict[str, Any] = {"method.name": plan.spec.name, **numbers}
        options |= _step_options(config, plan.setup)
    spent = round_seconds(needs, device, steps)
    return {
        "method": plan.spec.name,
        "layers": plan.footprint.block_layers,
        "context": None if setting is None else str(setting),
        "predicted_bytes": plan.rehearsal.peak,
        "state_bytes": plan.footprint.state_bytes,
        **error,
        "setup_bytes": plan.footprint.setup_bytes,
        **asdict(needs),
        "steps": steps,
        "all_steps": wanted,
        "step": _step(plan.setup),
        "options": options,
        "memory_bytes": device.memory_bytes,
        "examples": time.examples,
        "setup_seconds": plan.footprint.setup_bytes / device.down_bytes_per_second,
        "download_seconds": spent.download,
        "compute_seconds": spent.compute,
        "upload_seconds": spent.upload,
        "round_seconds": spent.total,
    }


def round_time(config: RunConfig, seconds: float | None, examples: int | None) -> RoundTime:
    """Return the round's limits; without `examples`, a client has an even share of a run's.

    Raises ConfigError for a number below 1, and if the run's number is not known.
    """
    if examples is None:
        if config.data.train_examples is None:
            raise ConfigError("data.train_examples is 'all'; give --examples, those of a client")
        examples = max(1, config.data.train_examples // config.clients.count)
    if examples < 1:
        raise ConfigError(f"--examples must be at least 1, got {examples}")
    return RoundTime(seconds, examples)


def check_used(method: str, given: Iterable[str]) -> None:
    """Log which given options of a plan (layers, context.bits, ...) the method does not use.

    Raises ConfigError for base_bits, which would promise memory.  An unknown method passes here;
    it is refused where it is looked up.
    """
    for option in given:
        names = users_of(_OPTIONS.get(option, option))
        if method not in methods() or method in names:
            continue
        flag = option.removeprefix("context.").replace("_", "-").replace("name", "context")
        message = f"--{flag} means nothing to {method}, only to {', '.join(names)}"
        if option == "base_bits":
            raise ConfigError(f"{message}; leave it out")
        log.info("%s", message)


def shape_of(model: str, config: RunConfig) -> tuple[PretrainedConfig, str]:
    """Return a model's configuration and kind.

    `model` is a known name, a folder, a file or a hub id.  ConfigError for a head not to freeze.
    """
    shape, kind = load_config(model if model in KNOWN_CONFIGS else model_source(model))
    if not config.model.train_head:
        empty: Any = empty_model(shape, kind)
        freeze_head(empty)
        shape = empty.config
    return shape, kind


def _chosen(
    model: str, config: RunConfig, report: Capacity, time: RoundTime, labelled: float
) -> tuple[Chosen, Needs, ClientPlan]:
    """Return the chosen candidate for a device's report, a round's needs with it, and its plan."""
    spec = spec_of("leff")
    shape, kind = shape_of(model, config)
    asked = replace(setup_of(config, spec), labelled=labelled)
    sizes = model_sizes(empty_model(shape, kind), kind)
    candidates = with_checkpointing(sizes, asked)
    needs = {} if report.device is None else candidate_needs(sizes, candidates, asked)
    limit = time_limit(config, sizes, time.seconds, needs)
    chosen = choose(candidates, assumed_errors, report, limit, peaks_of(shape, kind, spec, asked))
    best = chosen.candidate
    setup = fitted(shape, kind, spec, best.setup(asked), report.memory_bytes)
    plan = client_plan(shape, kind, spec, setup)
    return chosen, needs.get(best, footprint_needs(plan.footprint)), plan


def _asked(
    model: str, config: RunConfig, device: Device, labelled: float, asked: Asked
) -> ClientPlan:
    """Return the plan of a given method, with a step that fits the device's memory."""
    spec, shape = spec_of(asked.method), shape_of(model, config)
    setup = replace(setup_of(config, spec, **asked.numbers), labelled=labelled)
    client_plan(*shape, spec, setup)  # raises for numbers that are impossible in themselves
    return client_plan(*shape, spec, fitted(*shape, spec, setup, device.memory_bytes))


def _steps_in_time(
    limit: TimeLimit, needs: Needs, device: Device, examples: int, method: str
) -> tuple[int, int]:
    """Return the steps that fit the time, and all steps; ConfigError if too few fit."""
    wanted = limit.wanted(needs.step_flops, examples)
    if limit.seconds is None:
        return wanted, wanted
    least = least_steps(wanted, limit.min_share)
    steps = steps_within(needs, device, limit.seconds, wanted)
    if steps < least:
        needed = round_seconds(needs, device, least).total
        raise ConfigError(
            f"{least} of {wanted} steps with {method} take {needed:.3g} s on a {device.name}, "
            f"there are {limit.seconds:g} s"
        )
    return steps, wanted


def _costs(model: str, config: RunConfig, plan: ClientPlan) -> dict[str, Any]:
    """Return a plan's counts and bytes; weights are by role and in total."""
    size = plan.footprint
    return {
        "model": model,
        "kind": plan.kind,
        "method": plan.spec.name,
        "model_layers": plan.model_layers,
        "block_layers": size.block_layers,
        "stand_in_layers": size.stand_in_layers,
        "trainable_parameters": size.trainable_parameters,
        "model_bytes": plan.model_bytes,
        "weights": {**asdict(size.weights), "total": size.weights.total},
        "gradients": plan.gradients,
        "optimizer": plan.optimizer,
        "setup_bytes": size.setup_bytes,
        "download_bytes": size.download_bytes,
        "upload_bytes": size.upload_bytes,
        "step_flops": size.step_flops,
        "total_bytes": size.state_bytes,
        "context": config.context.name if size.stand_in_layers else None,
    }


def _step(setup: ClientSetup) -> dict[str, Any]:
    """Return the settings of a step, for which its peak is predicted."""
    step = asdict(setup.step)
    del step["proximal"]
    return {"length": setup.length, "labelled": setup.labelled, **step}


def _block_options(
    config: RunConfig, layers: int, setting: Setting, setup: ClientSetup
) -> dict[str, Any]:
    """Return the options of a run whose clients all train this block in this context."""
    return {"clients.layers": [layers], **setting.options(), **_step_options(config, setup)}


def _step_options(config: RunConfig, setup: ClientSetup) -> dict[str, Any]:
    """Return the options of a run with these steps, except those that are defaults."""
    plain = RunConfig()
    options: dict[str, Any] = {} if config.model.train_head else {"model.train_head": False}
    if setup.length != plain.data.max_length:
        options["data.max_length"] = setup.length
    default = asdict(plain.training.step)
    changed = {n: v for n, v in _step(setup).items() if n in default and v != default[n]}
    return options | {f"training.{name}": value for name, value in changed.items()}
