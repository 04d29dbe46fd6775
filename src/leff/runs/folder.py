"""The folder of a run: what is in it, and how an interrupted run continues.

    run/config.toml        every option
        environment.json   versions, the machine's size, digests of config and split
        split.json         how the examples were divided over the clients
        rounds.jsonl       one record a round; round 0 is the model before the first
        checkpoints/       round-0003/: model, method state, server state, SHA-256 of each
        decisions.json     what clocks decided since the oldest checkpoint (`decisions`)
        rounds.png         loss and metric, layers trained, importance
        result.json        metrics before and after, texts; written last
        model/             loads with `from_pretrained`

A record is appended before its checkpoint is made, and a checkpoint gets its final name when it is
complete.  After a kill at any moment, `rounds.jsonl` is cut back to the newest good checkpoint.
"""

import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tomllib
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from leff.errors import CheckpointError, ConfigError, LeffError, RunError
from leff.files import finite, read_json, sync_folder, write_atomically, write_json, write_synced
from leff.record import RoundRecord
from leff.runs.config import load_config
from leff.runs.decisions import Decisions, forget_decisions
from leff.runs.options import RunConfig
from leff.runs.toml import commented_toml

if TYPE_CHECKING:
    import torch

log = logging.getLogger("leff.runs.folder")
STARTING = {".lock", "environment.json", "split.json"}  # what is written before config.toml
SCRATCH = ("parts", "updates")  # a round makes these, and a resumed run makes them again


@dataclass(frozen=True)
class Checkpoint:
    """The run after `round` rounds."""

    round: int
    model: "dict[str, torch.Tensor]"
    method: "dict[str, torch.Tensor]"
    server: dict[str, Any]


class RunFolder:
    """Writes and reads one run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def new(cls, path: Path, config: RunConfig) -> "RunFolder":
        """Return the folder of a new run; nothing is written yet.

        Raises ConfigError if the folder holds a run already, or anything else.
        """
        if (path / "config.toml").exists():
            same = load_config(path / "config.toml") == config
            remedy = f"`leff resume {path}` goes on with it" if same else "choose another --out"
            whose = "this very run" if same else "a run with another configuration"
            raise ConfigError(f"{path} holds {whose}; {remedy}")
        if path.exists() and (not path.is_dir() or _foreign(path)):
            raise ConfigError(f"{path} is not empty and is no run folder; choose another --out")
        return cls(path)

    def start(self, config: RunConfig, environment: Mapping[str, Any], split: Any) -> None:
        """Write what is known before the first round, unless the run was started already."""
        if (self.path / "config.toml").exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        write_json(self.path / "environment.json", environment)
        write_json(self.path / "split.json", split)
        write_atomically(self.path / "config.toml", commented_toml(config).encode())

    @contextmanager
    def lock(self) -> Generator[None]:
        """Keep other processes out while the body runs; the lock goes with the process.

        Raises RunError if another process has the run.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("w")
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written ({error}); see --out") from None
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{self.path} is being run by another process; wait for it"
                ) from None
            yield

    @classmethod
    def open(cls, path: Path) -> tuple["RunFolder", RunConfig]:
        """Return a run folder and its configuration.

        Raises ConfigError if it is no run folder, or its configuration was edited since the start.
        """
        if not (path / "config.toml").exists():
            raise ConfigError(f"{path} is no run folder: it has no config.toml; see `leff list`")
        run, config = cls(path), load_config(path / "config.toml")
        written = (path / "config.toml").read_text(encoding="utf-8")
        if run.digest() != _digest_values(written):
            raise ConfigError(
                f"{path}/config.toml is not the configuration that this run was started with; "
                "undo the edit, or start a new run from it with `leff run`"
            )
        return run, config

    def digest(self) -> str:
        """Return the digest of the configuration that the run was started with."""
        return self.environment()["config_digest"]

    def environment(self) -> dict[str, Any]:
        """Return what `start` recorded.  Raises CheckpointError if it is lost."""
        try:
            content: Any = read_json(self.path / "environment.json")
        except CheckpointError:
            content = None
        values = cast("dict[str, Any]", content) if isinstance(content, dict) else {}
        if "config_digest" not in values:
            raise CheckpointError(
                f"{self.path} has lost its environment.json, so it cannot go on; "
                f"start again with `leff run {self.path}/config.toml`"
            )
        return values

    def clear_scratch(self) -> None:
        """Remove the files that only a running round needs."""
        for name in SCRATCH:
            shutil.rmtree(self.path / name, ignore_errors=True)

    def write_result(self, values: Mapping[str, Any]) -> None:
        write_json(self.path / "result.json", values)

    def result(self) -> dict[str, Any] | None:
        """Return the result, or None while the run is not finished."""
        return read_json(self.path / "result.json")

    # Rounds

    def append(self, record: RoundRecord) -> None:
        """Append a round's record; it is on disk when this returns."""
        with (self.path / "rounds.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(finite(record.to_dict()), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def records(self) -> list[RoundRecord]:
        """Return the records of complete lines, in order.  CheckpointError for a damaged line."""
        records: list[RoundRecord] = []
        for number, line in enumerate(self._lines(), start=1):
            try:
                records.append(RoundRecord.from_dict(json.loads(line)))
            except (ValueError, LookupError, TypeError, AttributeError):
                raise CheckpointError(
                    f"{self.path / 'rounds.jsonl'}, line {number} is damaged; cut the file before "
                    "that line and resume from a checkpoint as early, or start the run again"
                ) from None
        return records

    def _lines(self) -> list[bytes]:
        path = self.path / "rounds.jsonl"
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []

    def cut_back(self, rounds: int) -> None:
        """Keep the records up to round `rounds`.  Raises CheckpointError if some are missing."""
        pairs = zip(self._lines(), self.records(), strict=True)
        kept = [(record.round, line) for line, record in pairs if record.round <= rounds]
        if rounds >= 0 and [number for number, _ in kept] != list(range(rounds + 1)):
            raise CheckpointError(
                f"{self.path / 'rounds.jsonl'} lacks records of rounds 0 to {rounds}, which the "
                "checkpoint has done; remove the folder checkpoints and resume, which starts "
                "again from the first round"
            )
        lines = b"".join(line + b"\n" for _, line in kept)
        write_atomically(self.path / "rounds.jsonl", lines)

    def decisions(self, round_index: int) -> Decisions:
        """Return what clocks decided in round `round_index` (from 0); more can be set in it.

        Raises CheckpointError if the file is damaged.
        """
        return Decisions(self.path / "decisions.json", round_index)

    # Checkpoints

    def save_checkpoint(self, checkpoint: Checkpoint, digest: str, keep: int) -> None:
        """Write a checkpoint of the run with config `digest`; keep only the newest `keep`."""
        from leff.wire.tensors import pack

        folder = self.path / "checkpoints"
        unfinished = folder / f".round-{checkpoint.round:04d}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        payloads = {
            "model.safetensors": pack(checkpoint.model),
            "method.safetensors": pack(checkpoint.method),
            "server.json": json.dumps(checkpoint.server).encode(),
        }
        for name, payload in payloads.items():
            write_synced(unfinished / name, payload)
        state = {
            "round": checkpoint.round,
            "config_digest": digest,
            "sha256": {name: _sha256(payload) for name, payload in payloads.items()},
        }
        write_synced(unfinished / "state.json", json.dumps(state).encode())
        final = folder / f"round-{checkpoint.round:04d}"
        shutil.rmtree(final, ignore_errors=True)
        unfinished.replace(final)
        sync_folder(folder)
        folders = self._checkpoints()
        for old in folders[keep:]:
            shutil.rmtree(old)
        # rounds since the oldest checkpoint may run again, if the newer ones are damaged
        forget_decisions(self.path / "decisions.json", _round_of(folders[:keep][-1]))

    def load_checkpoint(self, digest: str) -> Checkpoint | None:
        """Return the newest good checkpoint, or None if none was made yet.

        A damaged one is skipped with a warning.  Raises CheckpointError if all are damaged,
        ConfigError if one belongs to a run with another config digest.
        """
        folders = self._checkpoints()
        for path in folders:
            try:
                checkpoint, belongs_to = _read_checkpoint(path)
            except (OSError, ValueError, KeyError) as error:
                log.warning("checkpoint %s is damaged (%s); looking for an older", path, error)
                continue
            if belongs_to != digest:
                raise ConfigError(
                    f"checkpoint {path} belongs to a run with another configuration; "
                    "remove it, or resume the run it came from"
                )
            return checkpoint
        if folders:
            raise CheckpointError(
                f"every checkpoint in {self.path / 'checkpoints'} is damaged; remove that folder "
                "and resume, which starts again from the first round"
            )
        return None

    def _checkpoints(self) -> list[Path]:
        """Return the folders of complete checkpoints, newest first."""
        paths = (self.path / "checkpoints").glob("round-*")
        named = [path for path in paths if re.fullmatch(r"round-\d+", path.name)]
        return sorted(named, key=_round_of, reverse=True)


def _round_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("round-"))


def _read_checkpoint(path: Path) -> tuple[Checkpoint, str]:
    from leff.wire.tensors import unpack

    read: Any = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if not isinstance(read, dict):
        raise ValueError("state.json is not what was written")
    state = cast("dict[str, Any]", read)
    payloads = {name: (path / name).read_bytes() for name in state["sha256"]}
    for name, wanted in state["sha256"].items():
        if _sha256(payloads[name]) != wanted:
            raise ValueError(f"{name} is not what was written")
    checkpoint = Checkpoint(
        state["round"],
        unpack(payloads["model.safetensors"]),
        unpack(payloads["method.safetensors"]),
        json.loads(payloads["server.json"]),
    )
    return checkpoint, state["config_digest"]


def config_digest(config: RunConfig) -> str:
    """Return the SHA-256 of a configuration's values, as `config.toml` has them.

    Comments do not count, nor do options that a later version adds to an old file.
    """
    return _digest_values(commented_toml(config))


def _digest_values(toml: str) -> str:
    return _sha256(json.dumps(tomllib.loads(toml), sort_keys=True).encode())


def list_runs(root: Path) -> list[dict[str, Any]]:
    """Return a summary of every run folder in `root`, by name; ``problem`` if it is damaged."""
    return [_summary(RunFolder(path.parent)) for path in sorted(root.glob("*/config.toml"))]


def _summary(run: RunFolder) -> dict[str, Any]:
    names = ("task", "method", "rounds", "of", "metric", "before", "after", "finished", "problem")
    summary: dict[str, Any] = {"run": str(run.path), **dict.fromkeys(names), "finished": False}
    try:
        values = tomllib.loads((run.path / "config.toml").read_text(encoding="utf-8"))
        summary |= {"task": values["data"]["task"], "method": values["method"]["name"]}
        summary["of"] = values["training"]["rounds"]
        records, result = run.records(), run.result()
        summary["rounds"] = records[-1].round if records else 0
        if result is not None:
            metric = summary["metric"] = result["metric"]
            summary |= {when: result[when]["metrics"][metric] for when in ("before", "after")}
            summary["finished"] = True
    except (LeffError, OSError, ValueError, LookupError, TypeError) as error:
        summary["problem"] = str(error) if isinstance(error, LeffError) else f"damaged: {error!r}"
    return summary


def _foreign(path: Path) -> list[str]:
    """Return the names in a folder that are not left by a run killed while it started."""
    unfinished = {f".{name}.new" for name in ("environment.json", "split.json", "config.toml")}
    return [p.name for p in path.iterdir() if p.name not in STARTING | unfinished]


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()
