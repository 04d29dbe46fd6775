"""One side of `benchmarks.device`, in a process of its own: a client's peak memory and speed.

    python -m benchmarks.device_side FOLDER cpu     # FOLDER has `job.pickle` and the parts

The client trains a tiny model of the same kind first, so that libraries are loaded and their pools
made; then the peak is set back.  On the CPU it is the kernel's own record of the largest resident
set (VmHWM, exact, set back through clear_refs), on a GPU torch's largest allocation.
"""

import ctypes
import gc
import itertools
import json
import pickle
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from leff.client import train as client
from leff.tasks.encode import Example
from leff.wire.messages import Job
from leff.wire.parts import PartStore


def measure(folder: Path, device: torch.device, threads: int) -> dict[str, Any]:
    """Do the job in `folder` and return its bytes, and the seconds of each step after the first."""
    torch.set_num_threads(threads)
    store = PartStore(folder / "parts")
    with (folder / "job.pickle").open("rb") as file:
        small, job, examples = pickle.load(file)
    _train(small, store, examples[:2], device)
    _forget(device)
    before = _held(device)
    ends: list[tuple[float, float]] = []

    def note(*_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()  # what was started is not done yet
        ends.append((time.perf_counter(), time.process_time()))

    hook = register_optimizer_step_post_hook(note)
    update = _train(job, store, examples, device)
    hook.remove()
    return {
        "peak_bytes": _peak(device) - before,
        "state_bytes": update.state_bytes,
        "seconds": [b[0] - a[0] for a, b in itertools.pairwise(ends)],
        "cpu_seconds": [b[1] - a[1] for a, b in itertools.pairwise(ends)],
        "failure": update.failure,
    }


def _train(job: Job, store: PartStore, examples: list[Example], device: torch.device) -> Any:
    return client.train(job, store.get, examples, device)


def _forget(device: torch.device) -> None:
    """Give back what the start left over, and begin a new peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now


def _held(device: torch.device) -> int:
    return torch.cuda.memory_allocated() if device.type == "cuda" else _status("VmRSS")


def _peak(device: torch.device) -> int:
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else _status("VmHWM")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024


if __name__ == "__main__":
    found = measure(Path(sys.argv[1]), torch.device(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps(found))
