"""Measures this device: free memory, speed, and the link if a server is given.

    profile = measure_device("cpu", repeats=5, server=None)
    write_class(Path("device.toml"), "laptop", profile)      # a class of a fleet file

Speed is the operations of a LEFF training step (`sizes.step_flops`) over its median time.  It holds
for the calibration model only: smaller models lose time between products.  Other threads, other
precisions and a busy machine change it too.
"""

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GPT2Config

from leff.capacity.job_cost import step_flops
from leff.capacity.link import Link, measure_link
from leff.capacity.sizes import model_sizes
from leff.client.model import prepared
from leff.errors import ConfigError
from leff.files import write_atomically
from leff.methods.jobs import JobWriter, layout_job
from leff.methods.setup import block_layout
from leff.methods.stand_ins import make_context
from leff.models import model_class
from leff.models.hardware import pinned_threads, synchronise, torch_device
from leff.models.losses import mean_loss
from leff.models.optimizer import make_optimizer
from leff.seeds import forked
from leff.wire.messages import Job, LocalTraining, Step
from leff.wire.parts import PartStore

LAYERS, BLOCK, WIDTH, WORDS = 6, 3, 512, 4096  # BLOCK: the layer that trains
BATCH, LENGTH = 8, 128
CALIBRATION = (
    f"a GPT-2 of {LAYERS} layers, width {WIDTH}, {WORDS} words, random weights: one layer trained "
    f"among 8-bit ones, {BATCH} x {LENGTH} tokens, float32"
)
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Profile:
    """A device's measured values; a bandwidth is None if not measured, `link` says how or why."""

    memory_bytes: int
    flops_per_second: float
    down_bytes_per_second: float | None
    up_bytes_per_second: float | None
    link: dict[str, str]
    step_flops: int
    step_seconds: dict[str, float]
    repeats: int
    threads: int
    device: str
    calibration: str = CALIBRATION

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def measure_device(
    device: str, *, threads: int = 1, repeats: int = 5, server: str | None = None
) -> Profile:
    """Return the profile of this device.

    Raises ConfigError for a device that cannot be used, and for a server that is no http(s)
    address, is this machine or does not answer.
    """
    where = torch_device(device)
    link = Link() if server is None else measure_link(server)
    memory_bytes = free_bytes(where)
    with pinned_threads(threads):
        operations, seconds = calibration_steps(where, repeats)
    median = statistics.median(seconds)
    return Profile(
        memory_bytes,
        operations / median,
        link.down_bytes_per_second,
        link.up_bytes_per_second,
        {"down": link.down, "up": link.up},
        operations,
        {"median": median, "min": min(seconds), "max": max(seconds)},
        repeats,
        threads,
        str(where),
    )


def free_bytes(device: torch.device, cgroup: Path = CGROUP) -> int:
    """Return the free memory of a GPU, or the memory of the machine that this process may take.

    A container's own limit counts if it is lower (cgroup v2).
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    import psutil

    free = psutil.virtual_memory().available
    try:
        limit = (cgroup / "memory.max").read_text().strip()
        used = int((cgroup / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else max(0, min(free, int(limit) - used))


def calibration_steps(device: torch.device, repeats: int) -> tuple[int, list[float]]:
    """Return the operations of a calibration step, and the seconds of each of `repeats` steps.

    Two steps run before them to warm up.
    """
    with tempfile.TemporaryDirectory() as folder, forked(0):
        store = PartStore(Path(folder))
        job, operations = _job(store)
        model, trained = prepared(job, store.get, device)
        optimizer = make_optimizer("adamw", list(trained.values()), 1e-4, 0.01)
        ids = torch.randint(WORDS, (BATCH, LENGTH), device=device)  # (B, T)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            mean_loss(model, batch).backward()  # pyright: ignore[reportUnknownMemberType]
            optimizer.step()

        for _ in range(2):
            step()
        return operations, [_timed(step, device) for _ in range(repeats)]


def _timed(step: Callable[[], None], device: torch.device) -> float:
    synchronise(device)
    started = time.perf_counter()
    step()
    synchronise(device)
    return time.perf_counter() - started


def _job(store: PartStore) -> tuple[Job, int]:
    """Return a LEFF job with 8-bit layers around the block, and the operations of its step."""
    config = GPT2Config(
        vocab_size=WORDS,
        n_positions=LENGTH,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=WIDTH // 64,
        bos_token_id=0,
        eos_token_id=0,
    )
    model: Any = model_class(config, "generation").from_config(config, trust_remote_code=False)
    context = make_context("quantise", bits=8)
    layout = block_layout(context, range(BLOCK, BLOCK + 1), LAYERS)
    training = LocalTraining(1.0, 1e-4, 0.01, 1.0, step=Step(BATCH))
    job = layout_job(JobWriter(store, "generation", pad_id=0), model, layout, training)
    return job, step_flops(layout, model_sizes(model, "generation"), training.step, LENGTH)


def write_class(path: Path, name: str, profile: Profile) -> None:
    """Write the device as a class that `leff plan --device` and clients.fleet read.

    A value that was not measured becomes a comment that says why.  ConfigError for a name that is
    no plain TOML key.
    """
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise ConfigError(f"--name must be letters, digits, - and _, got {name!r}")
    lines = [
        "# Written by `leff profile`.  memory is what was free beside this interpreter, for the",
        "# peak of a training step: leave some of it to other programs.",
        f"# speed: {profile.calibration}; {profile.device}, {profile.threads} threads",
        f"[{name}]",
        "count = 1",
        f'memory = "{profile.memory_bytes}B"',
        f'speed = "{profile.flops_per_second / 1e9:.4f}GFLOP/s"',
    ]
    for key, rate, example in (
        ("down", profile.down_bytes_per_second, "20Mbit/s"),
        ("up", profile.up_bytes_per_second, "5Mbit/s"),
    ):
        if rate is None:
            lines.append(f'# {key} = "{example}"  # an example; {profile.link[key]}')
        else:
            lines.append(f'{key} = "{rate * 8 / 1e6:.4f}Mbit/s"')
    write_atomically(path, ("\n".join(lines) + "\n").encode())
