"""Rounds on tiny models: random examples, proxy batches, jobs, and a helper that runs n rounds."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tiny_models import LAYERS, tiny

from leff.engines.local import LocalFleet
from leff.methods.aggregate import Merge
from leff.methods.assignment import AsReported
from leff.methods.fedavg import FedAvg
from leff.methods.guard import NO_GUARD, Guard
from leff.methods.jobs import JobWriter
from leff.methods.leff import Leff
from leff.methods.method import RoundContext
from leff.methods.sampling import BlockSampler, Rule
from leff.methods.stand_ins import Bank, Distillation, make_context
from leff.models import config_to_json, layer_state, shell_state, tail_state
from leff.round import Leveller, run_round
from leff.runs.build_method import build_method
from leff.runs.config import load_config
from leff.server import Server
from leff.tasks.encode import Example, collate
from leff.wire.messages import Capacity, Device, Job, LocalTraining, Segment, Step, Update
from leff.wire.parts import PartStore
from leff.wire.spool import Spool
from leff.wire.tensors import pack

CPU = torch.device("cpu")
PAD = 0
TRAINING = LocalTraining(
    epochs=1, learning_rate=1e-2, weight_decay=0.01, max_grad_norm=1.0, step=Step(batch_size=4)
)
STEP = {each.name for each in fields(Step)}
CASES = [
    ("gpt2", "generation"),
    ("bert", "classification"),
    ("llama", "generation"),
    ("deberta-v3", "regression"),
]


def with_settings(**changes: Any) -> LocalTraining:
    """The settings above with these changes, a step's among them."""
    step = replace(TRAINING.step, **{n: value for n, value in changes.items() if n in STEP})
    return replace(TRAINING, step=step, **{n: v for n, v in changes.items() if n not in STEP})


def random_examples(kind: str, count: int, seed: int = 0) -> list[Example]:
    """Examples of 5 to 11 tokens, with a label as the kind wants it."""
    rng = np.random.default_rng(seed)
    examples = []
    for _ in range(count):
        ids = rng.integers(5, 50, rng.integers(5, 12)).astype(np.int32)
        label: Any = None
        if kind == "classification":
            label = int(rng.integers(2))
        elif kind == "multilabel":
            label = tuple(rng.integers(0, 2, 2).astype(float).tolist())
        elif kind == "regression":
            label = float(rng.normal())
        examples.append(Example(ids, prompt_tokens=2 if kind == "generation" else 0, label=label))
    return examples


def clients_of(kind: str, sizes: tuple[int, ...]) -> list[list[Example]]:
    return [random_examples(kind, size, seed=10 + i) for i, size in enumerate(sizes)]


def proxy(kind: str, count: int = 3) -> list[dict[str, torch.Tensor]]:
    """Padded batches (B 4); with labels for a language model only."""
    batches = [collate(random_examples("text", 4, seed=100 + i), PAD) for i in range(count)]
    if kind in ("generation", "text"):
        return batches
    return [{n: t for n, t in batch.items() if n != "labels"} for batch in batches]


def dropping(name: str, kind: str, seed: int = 0) -> Any:
    """A tiny model without dropout: it has to equal loops that draw differently."""
    return undropped(tiny(name, kind, seed))


def undropped(model: Any) -> Any:
    """Take the dropout out of a model, and of the models that are made from its config."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    for key, value in model.config.to_dict().items():
        if ("drop" in key or "pdrop" in key) and isinstance(value, float):
            setattr(model.config, key, 0.0)
    return model


def state_of(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def same(a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor]) -> bool:
    """Equal to the bit, signs of zero too."""
    return a.keys() == b.keys() and all(_raw(a[name]) == _raw(b[name]) for name in a)


def _raw(tensor: torch.Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    values = tensor.detach().contiguous().flatten().view(torch.uint8)  # numpy has no bfloat16
    return tensor.dtype, tuple(tensor.shape), values.numpy().tobytes()


def make_method(name: str, kind: str, store: PartStore, context: str = "drop", **settings: Any):
    writer = JobWriter(store, kind, PAD)
    if name == "fedavg":
        return FedAvg(writer)
    options = {key: settings.pop(key) for key in ("rate", "bits", "suffix") if key in settings}
    options.setdefault("bits", 8 if context == "quantise" else 32)
    steps, seconds = settings.pop("steps", 40), settings.pop("seconds", 0.0)
    bank = Bank(Distillation(steps, 1e-3, 0.1, seconds=seconds))
    sampler = BlockSampler(Rule(**{"stratified": False, **settings}), proxy(kind), LAYERS)
    return Leff(
        writer, sampler, AsReported(make_context(context, **options)), bank, Merge(), proxy(kind)
    )


def recipe(name: str, model: Any, kind: str, store: PartStore, **options: Any) -> Any:
    """A method as a run builds it, begun; a double underscore in an option stands for the dot."""
    given = {"clients.count": 3, "method.rank": 3, "training.rounds": 3}
    given |= {key.replace("__", "."): value for key, value in options.items()}
    config = load_config(None, {**given, "method.name": name})
    made = build_method(config, JobWriter(store, kind, PAD), proxy(kind), model)
    made.begin(model)
    return made


def invented(job: Job, examples: int, seed: int) -> Update:
    """An update of a job with `tuned`: random numbers of the shapes that it asks for."""
    assert job.tuned is not None
    generator = torch.Generator().manual_seed(seed)
    tensors = {n: torch.randn(s, generator=generator) for n, s in job.tuned.shapes.items()}
    return Update(job.round, job.client, (), examples, pack(tensors))


def run_rounds(
    model: torch.nn.Module,
    method: Any,
    fleet: Any,
    folder: Path,
    rounds: int = 2,
    seed: int = 0,
    training: LocalTraining = TRAINING,
    share: float = 1.0,
    guard: Guard = NO_GUARD,
    spare: float = 0.0,
    leveller: Leveller | None = None,
) -> list[dict[str, Any]]:
    """Run rounds in place and return their records, as JSON values."""
    server = Server(PartStore(folder / "parts"), Spool(folder / "updates"), guard=guard)
    contexts = (RoundContext(index, seed, training) for index in range(rounds))
    return [
        run_round(
            model, method, fleet, context, server, share, spare=spare, leveller=leveller
        ).to_dict()
        for context in contexts
    ]


def fleet_of(
    examples: Sequence[Sequence[Example]],
    layers: Sequence[int],
    store: PartStore,
    device: torch.device = CPU,
    workers: int = 1,
    budgets: Sequence[tuple[int | None, int | None]] = (),
    devices: Sequence[Device] = (),
    kind: type[LocalFleet] = LocalFleet,
) -> LocalFleet:
    """A local fleet whose clients report these layers, budgets and devices."""
    none = [None] * len(examples)
    each = zip(
        layers, examples, budgets or [(None, None)] * len(examples), devices or none, strict=True
    )
    reports = [
        Capacity(client, count, len(own), *budget, where)
        for client, (count, own, budget, where) in enumerate(each)
    ]
    return kind(examples, reports, store, device, workers)


def federate(
    method: str,
    case: tuple[str, str],
    folder: Path,
    *,
    sizes: tuple[int, ...] = (9, 5, 12),
    capacities: tuple[int, ...] = (4, 4, 4),
    workers: int = 1,
    context: str = "drop",
    settings: dict[str, Any] | None = None,
    **rounds: Any,
) -> tuple[Any, list[dict[str, Any]]]:
    """Return a tiny model after some rounds of a method, and the records."""
    name, kind = case
    store = PartStore(folder / "parts")
    model = tiny(name, kind)
    fleet = fleet_of(clients_of(kind, sizes), capacities, store, CPU, workers)
    made = make_method(method, kind, store, context, **(settings or {}))
    return model, run_rounds(model, made, fleet, folder, **rounds)


def job_of(
    model: Any,
    kind: str,
    store: PartStore,
    block: range,
    before: Segment | None = None,
    after: Segment | None = None,
    seed: int = 7,
    training: LocalTraining = TRAINING,
) -> Job:
    """A job that trains `block`; what is not given before and after it is left out."""
    own = Segment(
        tuple(block), tuple(store.put(layer_state(model, layer)) for layer in block), trains=True
    )
    return Job(
        round=0,
        client=3,
        seed=seed,
        kind=kind,
        config=config_to_json(model.config),
        pad_id=PAD,
        shell=store.put(shell_state(model)),
        tail=store.put(tail_state(model)),
        segments=tuple(s for s in (before, own, after) if s is not None),
        training=training,
    )


def frozen(model: Any, store: PartStore, layers: range) -> Segment | None:
    """The model's own layers as a segment that does not train."""
    if not layers:
        return None
    return Segment(tuple(layers), tuple(store.put(layer_state(model, i)) for i in layers))


def whole(model, kind, store, block, **options):
    """A job for `block` with every other layer of the model around it, frozen."""
    return job_of(
        model,
        kind,
        store,
        block,
        before=frozen(model, store, range(block.start)),
        after=frozen(model, store, range(block.stop, LAYERS)),
        **options,
    )
