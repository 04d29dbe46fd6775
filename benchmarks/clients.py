"""Peak memory of the local engine with 8 clients and with 200: it must not grow with them.

    .venv/bin/python -m benchmarks.clients            # about 3 minutes on two cores
    .venv/bin/python -m benchmarks.clients --json

Each side is a process of its own that runs one LEFF round of the built-in task with all clients,
the same examples split over them, one worker; sides alternate.  Peak is the process's largest
resident set; `above_start` is what it adds to the interpreter with all libraries loaded.
"""

import argparse
import json
import resource
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.processes import in_process, spread

SIDES = (8, 200)


def one_side(clients: int) -> dict[str, int]:
    """Run one round with `clients` clients and return this process's memory, in bytes."""
    import leff
    import leff.models.quantised
    import leff.report.picture
    import leff.runs.prepare

    start = _peak_bytes()
    with tempfile.TemporaryDirectory() as folder:
        leff.run(
            out=Path(folder) / "run",
            rounds=1,
            count=clients,
            partition="iid",
            train_examples=3200,
            final_examples=8,
            workers=1,
        )
    return {"peak_bytes": _peak_bytes(), "start_bytes": start}


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # kilobytes on Linux


def compare(repeats: int) -> dict[str, Any]:
    """Return the peaks of both sides over `repeats` alternating runs, and their ratio."""
    found: dict[int, list[dict[str, int]]] = {clients: [] for clients in SIDES}
    for _ in range(repeats):
        for clients in SIDES:
            found[clients].append(in_process("benchmarks.clients", "--side", str(clients)))
    few, many = (found[clients] for clients in SIDES)
    pairs = list(zip(few, many, strict=True))
    return {
        "peak_bytes": {str(n): spread([run["peak_bytes"] for run in found[n]]) for n in SIDES},
        "ratio": spread([b["peak_bytes"] / a["peak_bytes"] for a, b in pairs]),
        "ratio_above_start": spread(
            [
                (b["peak_bytes"] - b["start_bytes"]) / (a["peak_bytes"] - a["start_bytes"])
                for a, b in pairs
            ]
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(one_side(arguments.side)))
        return
    found = compare(arguments.repeats)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for clients, peak in found["peak_bytes"].items():
        print(
            f"{clients:>4} clients  peak {peak['median'] / 1e6:.0f} MB "
            f"({peak['min'] / 1e6:.0f} to {peak['max'] / 1e6:.0f})"
        )
    for name in ("ratio", "ratio_above_start"):
        value = found[name]
        print(f"{name:<18} {value['median']:.3f} ({value['min']:.3f} to {value['max']:.3f})")


if __name__ == "__main__":
    main()
