"""Run one side of a benchmark in a process of its own, so that sides do not share memory.

peak = in_process("benchmarks.clients", "--side", "200")["peak_bytes"]
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any


def in_process(
    module: str, *arguments: str, environment: Mapping[str, str] = MappingProxyType({})
) -> Any:
    """Return the JSON that ``python -m module arguments`` prints; RuntimeError if it fails.

    `environment` is added to this process's own.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the smallest and the largest value."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
