"""FLoRA's cost by round: seconds, bytes, and what a checkpoint keeps of the method.

    .venv/bin/python -m benchmarks.flora             # about a minute
    .venv/bin/python -m benchmarks.flora --json

A random GPT-2 of 6 layers (width 256, 512 words), four clients of rank 8 with 4 random texts each,
one local step.  `seconds` are the processor's for a whole round, server and clients, so other work
beside it does not count.  A round's neighbours are measured too, and the median of the five is
given.  One torch thread.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from leff.engines.local import LocalFleet
from leff.methods.jobs import JobWriter
from leff.methods.method import RoundContext
from leff.round import run_round
from leff.runs.build_method import build_method
from leff.runs.config import load_config
from leff.seeds import forked
from leff.server import Server
from leff.tasks.encode import Example
from leff.wire.messages import Capacity, LocalTraining, Step
from leff.wire.parts import PartStore
from leff.wire.spool import Spool

LAYERS, WIDTH, WORDS, LENGTH = 6, 256, 512, 16
CLIENTS, RANK, TEXTS = 4, 8, 4
BESIDE = 2  # rounds before and after


def measure(rounds: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row for each of these rounds, which count from 1."""
    torch.set_num_threads(1)
    config = GPT2Config(
        n_layer=LAYERS,
        n_embd=WIDTH,
        n_head=4,
        vocab_size=WORDS,
        n_positions=LENGTH,
        bos_token_id=0,
        eos_token_id=0,
    )
    with forked(0):
        model = GPT2LMHeadModel(config).eval()
    options = {"method.name": "flora", "method.rank": RANK, "clients.count": CLIENTS}
    training = LocalTraining(1, 1e-4, 0.01, 1.0, step=Step(batch_size=TEXTS))
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        store = PartStore(Path(folder) / "parts")
        writer = JobWriter(store, "text", 0)
        method = build_method(load_config(None, options), writer, [], model)
        method.begin(model)
        examples = [
            [Example(rng.integers(WORDS, size=LENGTH).astype(np.int32), 0) for _ in range(TEXTS)]
            for _ in range(CLIENTS)
        ]
        reports = [Capacity(client, LAYERS, TEXTS) for client in range(CLIENTS)]
        fleet = LocalFleet(examples, reports, store, torch.device("cpu"))
        server = Server(store, Spool(Path(folder) / "updates"))
        seconds: list[float] = []
        downloads: list[int] = []
        kept: list[int] = []
        for index in range(max(rounds) + BESIDE):
            started = time.process_time()
            record = run_round(model, method, fleet, RoundContext(index, 0, training), server)
            seconds.append(time.process_time() - started)
            downloads.append(record.clients[0].download_bytes)
            kept.append(sum(tensor.nbytes for tensor in method.state().values()))
    return [
        {
            "round": number,
            "seconds": statistics.median(seconds[max(0, number - 1 - BESIDE) : number + BESIDE]),
            "download_bytes": downloads[number - 1],
            "mean_download_bytes": statistics.mean(downloads[1:number]),  # without the first
            "checkpoint_bytes": kept[number - 1],
        }
        for number in rounds
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, nargs="+", default=[2, 61], help="from 2 on")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = measure(arguments.rounds)
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(
            f"round {row['round']:>3}: {row['seconds']:.2f} s, a client that always takes part "
            f"gets {row['download_bytes'] / 1e6:.2f} MB "
            f"(mean {row['mean_download_bytes'] / 1e6:.2f}), a checkpoint keeps "
            f"{row['checkpoint_bytes'] / 1e6:.2f} MB beside the model"
        )


if __name__ == "__main__":
    main()
