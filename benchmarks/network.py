"""The network engine: seconds of a round, bytes by method, the server's memory, many clients.

    .venv/bin/python -m benchmarks.network --json                # at most 15 minutes on two cores
    .venv/bin/python -m benchmarks.network --only bytes
    .venv/bin/python -m benchmarks.network --only memory --large # and a model of 3 GB, once
    .venv/bin/python -m benchmarks.network --only simulated --many

All of it is the real thing: server, gateway, TLS, keys, `leff run` and devices as processes.

- ``overhead``: three devices train a tiny model for one step.  `round_seconds` is a round without
  the longest training of a device and without the server's measuring, after the first round.
  `stock_round_seconds` is a round of stock Flower with three nodes, also without training
  (`benchmarks.stock_flower`); its first round is left out too.
- ``bytes``: a model of GPT-2's size with random weights.  Devices do all but train, and send back
  as much as if they had (`benchmarks.echo_devices`).  `download_bytes` and `upload_bytes` are means
  of a round and device after the first round, counted at the store.  What is frozen is cached for
  every method but `leff-uncached`.  LEFF has ten rounds with eight devices, each with one layer.
  Where each round and device has the same bytes, which is looked at, there are two devices and
  three rounds.
- ``memory``: `server_peak_bytes` is the peak of the run, the gateway and the SuperLink together, in
  one round of LEFF with the same model of 500 MB, and 8 or 40 such devices that all come at once.
- ``simulated``: seconds of a round of many clients of the built-in task: on the local engine with
  two workers, on one device process, on two.
"""

import argparse
import json
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

import leff
from benchmarks.federation import LEFF, Federation
from benchmarks.processes import spread
from benchmarks.stock_flower import stock_rounds
from leff.record import RoundRecord
from leff.runs.config import load_config
from leff.runs.split_files import write_shards
from leff.tasks.sources import sample_model

EIGHT, FORTY = 8, 40
QUIET: dict[str, Any] = {  # no measuring that is not asked about
    "evaluation.every": 1000,
    "evaluation.examples": 1,
    "evaluation.final_examples": 1,
    "evaluation.max_new_tokens": 1,
    "evaluation.gap_clients": 0,
    "clients.layers": [1],
}
RANDOM: dict[str, Any] = {  # little proxy data: a model of random weights has nothing to show
    **QUIET,
    "data.max_length": 32,
    "proxy.examples": 8,
    "proxy.batch_size": 4,
    "proxy.importance_batches": 1,
    "engine.deadline": "1h",
}


@dataclass(frozen=True)
class Side:
    """One row of bytes: options of its run, whether devices keep parts, and how much is done.

    A `steady` one has the same bytes in each round, so that little is enough.
    """

    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    caches: bool = True
    steady: bool = False


SIDES: Mapping[str, Side] = MappingProxyType(
    {
        "leff": Side(),
        "leff-uncached": Side(caches=False, steady=True),
        "fedavg": Side({"method.name": "fedavg"}, steady=True),
        "fedlora": Side({"method.name": "fedlora"}, steady=True),
        # contexts that are not the default
        "leff-4bit": Side({"context.bits": 4}),
        "leff-drop": Side({"context.name": "drop"}),
        "leff-drop-4bit": Side({"context.name": "drop", "context.bits": 4}),
        "leff-distil": Side({"context.name": "distil", "context.steps": 1}),
        "leff-distil-fp32": Side(
            {"context.name": "distil", "context.steps": 1, "context.bits": 32}
        ),
    }
)
DEFAULT_SIDES = ("leff", "leff-uncached", "fedavg", "fedlora")


def random_model(folder: Path, layers: int, width: int, words: int = 50257) -> Path:
    """Save a GPT-2 of this size with random weights and the built-in model's tokenizer."""
    if not folder.exists():
        tokenizer = AutoTokenizer.from_pretrained(Path(sample_model.__path__[0]))
        ends = dict.fromkeys(("bos_token_id", "eos_token_id"), tokenizer.eos_token_id)
        sizes = {"n_layer": layers, "n_embd": width, "n_head": width // 64, "vocab_size": words}
        config = GPT2Config(**sizes, **ends)
        GPT2LMHeadModel(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return folder


def overhead(rounds: int) -> dict[str, Any]:
    """Return seconds of `rounds` rounds after the first, LEFF's and stock Flower's."""
    devices = 3
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = _shards(folder / "shards", devices, examples=16)
        with Federation(folder) as federation:
            for number, shard in enumerate(shards):
                federation.device(f"device-{number}", [shard])
            options = {**QUIET, "proxy.examples": 32, "training.rounds": rounds + 1}
            records, _ = federation.run(folder / "run", {**options, "engine.quorum": devices})
        seconds = [_without_training(record) for record in records[2:]]
        stock = stock_rounds(folder / "stock", devices, rounds + 1)[1:]
    return {
        "round_seconds": statistics.median(seconds),
        "round_seconds_each": seconds,
        "round_seconds_spread": spread(seconds),
        "stock_round_seconds": statistics.median(stock),
        "stock_round_seconds_each": stock,
        "stock_round_seconds_spread": spread(stock),
    }


def _without_training(record: RoundRecord) -> float:
    """Return a round's seconds without the longest training, and without measuring."""
    if any(client.failure for client in record.clients) or record.seconds is None:
        raise RuntimeError(f"round {record.round} has failures")
    longest = max(client.train_seconds for client in record.clients)
    return record.seconds - longest - (record.evaluation_seconds or 0.0)


def _shards(folder: Path, clients: int, examples: int) -> list[Path]:
    """Write files of this many examples each."""
    total = {"data.train_examples": clients * examples, "clients.partition": "iid"}
    return write_shards(load_config(None, total), clients, folder)


@dataclass(frozen=True)
class Size:
    """How large the model of `bytes` is, and how much is done."""

    layers: int = 12
    width: int = 768
    words: int = 50257
    devices: int = EIGHT
    rounds: int = 10
    few_devices: int = 2
    few_rounds: int = 3


def transferred(names: Sequence[str], size: Size) -> dict[str, Any]:
    """Return the bytes of a round and device of every side."""
    found: dict[str, dict[str, Any]] = {}
    ordered = sorted(names, key=lambda name: SIDES[name].steady)  # those with fewer devices last
    with tempfile.TemporaryDirectory() as name, Federation(Path(name)) as federation:
        model = random_model(federation.folder / "model", size.layers, size.width, size.words)
        echo = Echo(federation)
        for side in ordered:
            started = time.perf_counter()
            echo.be(size.few_devices if SIDES[side].steady else size.devices, together=2)
            echo.forget(SIDES[side].caches)
            found[side] = _side(federation, side, size, {**RANDOM, "model.name": model})
            found[side]["seconds"] = time.perf_counter() - started
            print(f"{side}: {found[side]}", file=sys.stderr)
    values = ("download_bytes", "upload_bytes")
    result: dict[str, Any] = {v: {n: found[n].pop(v) for n in names} for v in values}
    result["bytes_about"] = found
    if "fedavg" in found:
        whole = result["download_bytes"]["fedavg"]
        result["download_to_fedavg"] = {n: b / whole for n, b in result["download_bytes"].items()}
    return result


def _side(
    federation: Federation, name: str, size: Size, options: Mapping[str, Any]
) -> dict[str, Any]:
    side = SIDES[name]
    devices = size.few_devices if side.steady else size.devices
    rounds = size.few_rounds if side.steady else size.rounds
    counts = {"training.rounds": rounds, "engine.quorum": devices}
    out = federation.folder / name
    records, _ = federation.run(out, {**options, **counts, **side.options})
    shutil.rmtree(out)
    later = [client for record in records[2:] for client in record.clients]
    if any(client.failure for client in later) or len(later) != devices * (rounds - 1):
        raise RuntimeError(f"not every device answered: {[c.failure for c in later]}")
    down, up = ([getattr(c, f"{way}_bytes") for c in later] for way in ("download", "upload"))
    if side.steady and max(down) - min(down) > 0.001 * max(down):
        raise RuntimeError(f"bytes differ from round to round: {down}")
    return {
        "download_bytes": statistics.mean(down),
        "upload_bytes": statistics.mean(up),
        "download_spread": spread(down),
        "upload_spread": spread(up),
        "devices": devices,
        "rounds": rounds,
        "first_round_bytes": statistics.mean(c.download_bytes for c in records[1].clients),
        "layers_changed": [len({n for c in r.clients for n in c.layers}) for r in records[1:]],
        "round_seconds": [record.seconds for record in records[1:]],
    }


class Echo:
    """A federation's devices that do all but train, all in one process."""

    def __init__(self, federation: Federation) -> None:
        self._federation, self._names = federation, list[str]()
        (shard,) = _shards(federation.folder / "shards", 1, examples=2)
        self._settings = (
            'threads = 1\n[capacity]\nlayers = 1\n[limits]\ncache = "2GB"\n[data]\n'
            f"train = {json.dumps(str(shard))}\nvalidation_share = 0\n"
        )

    def be(self, count: int, together: int) -> None:
        """Have so many devices, with empty caches; `together` hold an update in memory at a time.

        Fewer than before are some of those.
        """
        federation = self._federation
        if self._names:
            federation.end("devices")
        for name in self._names[count:]:
            federation.remove(name)
        for number in range(len(self._names), count):
            federation.join(f"echo-{number}", self._settings)
        self._names = [f"echo-{number}" for number in range(count)]
        homes = [federation.folder / name for name in self._names]
        for parts in (path for home in homes for path in home.glob("parts/*")):
            parts.unlink()
        module, forget = "benchmarks.echo_devices", federation.folder / "forget"
        federation.start("devices", [LEFF[0], "-m", module, together, forget, *homes])
        federation.until("devices", "started")

    def forget(self, keeps: bool) -> None:
        """Have devices keep their parts, or forget them after each job."""
        path = self._federation.folder / "forget"
        path.unlink(missing_ok=True) if keeps else path.touch()


def memory(counts: Sequence[int], layers: int, width: int, words: int = 50257) -> dict[str, Any]:
    """Return the server's peak in a round with these numbers of devices, and the parts of it."""
    peaks: dict[str, dict[str, int]] = {}
    with tempfile.TemporaryDirectory() as name, Federation(Path(name)) as federation:
        model = random_model(federation.folder / "model", layers, width, words)
        size = (model / "model.safetensors").stat().st_size
        options = {**RANDOM, "model.name": model, "training.rounds": 1}
        echo = Echo(federation)
        for devices in counts:
            echo.be(devices, together=devices)
            out = federation.folder / f"run-{devices}"
            records, found = federation.run(out, {**options, "engine.quorum": devices})
            if len(records[1].clients) != devices or records[1].failures:
                raise RuntimeError(f"not all of {devices} devices answered")
            peaks[str(devices)] = {**found, "total": sum(found.values()), "model_bytes": size}
            print(f"{devices} devices: {peaks[str(devices)]}", file=sys.stderr)
    return peaks


def simulated(clients: int, rounds: int, examples: int = 8) -> dict[str, Any]:
    """Return seconds of a round of simulated clients by engine, after the first round."""
    options = {**QUIET, "proxy.examples": 32, "training.rounds": rounds + 1}
    options |= {"training.batch_size": examples, "engine.device_clients": clients}  # one step each
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards = _shards(folder / "shards", clients, examples)
        local = {"data.task": "table", "data.train": [str(shard) for shard in shards]}
        local |= {"data.validation": str(shards[0]), "data.test": str(shards[0])}
        local |= {"clients.partition": "files", "clients.count": clients, "engine.workers": 2}
        run = leff.run(out=folder / "local", **options, **local)
        found["local"] = _seconds(run.records())
        with Federation(folder) as federation:
            for processes in (1, 2):
                for number in range(processes):
                    own = shards[number::processes]
                    federation.device(f"of-{processes}-{number}", own)
                out = folder / f"of-{processes}"
                records, _ = federation.run(out, {**options, "engine.quorum": clients})
                found[f"{processes} process{'es' if processes > 1 else ''}"] = _seconds(records)
                for number in range(processes):
                    federation.remove(f"of-{processes}-{number}")
                    federation.end(f"of-{processes}-{number}")
    return {
        "clients": clients,
        "seconds": {name: statistics.median(each) for name, each in found.items()},
        "seconds_each": found,
    }


def _seconds(records: Sequence[RoundRecord]) -> list[float]:
    """Return the seconds of each round after the first, without measuring."""
    if any(record.failures for record in records):
        raise RuntimeError("a round has failures")
    return [(r.seconds or 0.0) - (r.evaluation_seconds or 0.0) for r in records[2:]]


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Return the parts that are asked for, as one object."""
    result: dict[str, Any] = {"seconds": {}}

    def part(name: str, measure: Callable[[], dict[str, Any]]) -> None:
        if given.only not in (None, name):
            return
        started = time.perf_counter()
        result.update(measure())
        result["seconds"][name] = time.perf_counter() - started
        print(f"{name}: {result['seconds'][name]:.0f} s", file=sys.stderr)

    part("overhead", lambda: overhead(given.rounds))
    part("bytes", lambda: transferred(given.sides, Size(rounds=given.byte_rounds)))
    part("memory", lambda: peaks(given.large))
    part("simulated", lambda: many([FORTY, 200] if given.many else [FORTY]))
    return result


def peaks(large: bool) -> dict[str, Any]:
    """Return the server's peaks, and how they grow with the devices."""
    parts = memory([EIGHT, FORTY], layers=12, width=768)
    totals: dict[str, Any] = {name: each["total"] for name, each in parts.items()}
    found = {
        "server_peak_bytes": totals,
        "server_peak_parts": parts,
        "server_peak_growth": totals[str(FORTY)] / totals[str(EIGHT)] - 1,
    }
    if large:  # GPT-2 large: 774 million parameters
        found["large"] = memory([EIGHT], layers=36, width=1280)[str(EIGHT)]
    return found


def many(counts: Sequence[int]) -> dict[str, Any]:
    """Return a round's seconds with many simulated clients."""
    return {"simulated": {str(count): simulated(count, rounds=2) for count in counts}}


def show(result: Mapping[str, Any]) -> None:
    """Print the parts that were measured."""
    if "round_seconds" in result:
        for name, key in (("LEFF", "round_seconds"), ("stock Flower", "stock_round_seconds")):
            each = result[f"{key}_spread"]
            low, high = each["min"], each["max"]
            print(f"a tiny round, {name}: {result[key]:.2f} s ({low:.2f} to {high:.2f})")
    for name, down in result.get("download_bytes", {}).items():
        up = result["upload_bytes"][name] / 1e6
        ratio = result.get("download_to_fedavg", {}).get(name, float("nan"))
        print(f"{name:<17}{down / 1e6:8.1f} MB down, {ratio:.3f} of FedAvg's{up:8.1f} MB up")
    for devices, peak in result.get("server_peak_bytes", {}).items():
        print(f"{devices:>3} devices: the server's peak is {peak / 1e6:.0f} MB")
    if "server_peak_growth" in result:
        print(f"    which is {result['server_peak_growth']:+.1%}")
    if "large" in result:
        size, peak = (result["large"][key] / 1e6 for key in ("model_bytes", "total"))
        print(f"  8 devices, a model of {size:.0f} MB: {peak:.0f} MB")
    for count, found in result.get("simulated", {}).items():
        texts = [f"{name} {seconds:.2f} s" for name, seconds in found["seconds"].items()]
        print(f"{count} simulated clients: {', '.join(texts)}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--only", choices=("overhead", "bytes", "memory", "simulated"))
    add("--rounds", type=int, default=6, help="tiny rounds after the first")
    add("--byte-rounds", type=int, default=10, help="rounds of those whose bytes vary")
    add("--sides", nargs="+", choices=tuple(SIDES), default=DEFAULT_SIDES)
    add("--large", action="store_true", help="and a model of 3 GB")
    add("--many", action="store_true", help="and 200 simulated clients")
    add("--json", action="store_true")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all processes end
    result = compare(given)
    print(json.dumps(result, indent=1)) if given.json else show(result)


if __name__ == "__main__":
    main()
