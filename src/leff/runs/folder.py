"""The folder of a run: what is in it, and how an interrupted run continues.

    run/config.toml        every option
        environment.json   versions, the machine's size, digests of config and split
        split.json         how the examples were divided over the clients
        clients.json       on a network: which device and file each client is (`roster`)
        decisions.json     what clocks decided since the oldest checkpoint (`decisions`)
        rounds.jsonl       one record a round; round 0 is the model before the first
        checkpoints/       round-0003/: model, method state, server state (`checkpoints`)
        rounds.png         loss and metric, layers trained, importance
        model/             loads with `from_pretrained`
        result.json        metrics before and after, texts, SHA-256 of model/; written last

A record is appended before its checkpoint is made, and a checkpoint gets its final name when it is
complete.  After a kill at any moment, `rounds.jsonl` is cut back to the newest good checkpoint.
Each file is on the disk before one that relies on it.  Each JSON file and each line is sealed
(`leff.files`), and the seal is checked when it is read.  `split.json` is compared with the split
itself.  The configuration's digest is in `environment.json`.  A resumed run makes the parts again,
and goes on with the updates and the residuals, each of which has its digest beside it.  They are
removed when the run is finished.  `rounds.png` needs no check: nothing reads it again.
"""

import hashlib
import json
import shutil
import tomllib
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from leff.errors import CheckpointError, ConfigError, LeffError, RunError
from leff.files import (
    append_synced,
    file_digest,
    locked,
    make_folder,
    read_json,
    sealed,
    unsealed,
    write_atomically,
    write_json,
)
from leff.record import RoundRecord
from leff.runs import checkpoints
from leff.runs.checkpoints import Checkpoint
from leff.runs.config import load_config
from leff.runs.decisions import Decisions, forget_decisions
from leff.runs.options import RunConfig
from leff.runs.toml import commented_toml

BEFORE = ("environment.json", "split.json", "decisions.json")  # written before config.toml
STARTING = {".lock", *BEFORE, *(f".{name}.new" for name in (*BEFORE, "config.toml"))}
CHOSEN = {  # options that a run fills in if they are not set
    "training": ("learning_rate",),
    "clients": ("count", "partition", "min_examples"),
    "data": ("prompt",),
}
SCRATCH = ("parts", "updates", "residuals", "shards", "clients")  # only while the run is under way


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
            same = _same(load_config(path / "config.toml"), config)
            remedy = f"`leff resume {path}` goes on with it" if same else "choose another --out"
            whose = "this very run" if same else "a run with another configuration"
            raise ConfigError(f"{path} holds {whose}; {remedy}")
        if path.exists() and (not path.is_dir() or _foreign(path)):
            raise ConfigError(f"{path} is not empty and is no run folder; choose another --out")
        return cls(path)

    def start(
        self, config: RunConfig, environment: Mapping[str, Any], split: Sequence[Mapping[str, Any]]
    ) -> None:
        """Write what is known before the first round, unless the run was started already."""
        if (self.path / "config.toml").exists():
            return
        make_folder(self.path)
        write_json(self.path / "environment.json", environment)
        self.write_split(split)
        write_json(self.path / "decisions.json", {})
        write_atomically(self.path / "config.toml", commented_toml(config).encode())

    @contextmanager
    def lock(self, made: bool = False) -> Generator[None]:
        """Keep other processes out while the body runs; the lock goes with the process.

        If the body wrote nothing, the lock's file is removed, and the folder too if it was `made`
        for this.  Raises RunError if another process has the run.
        """
        path, made = self.path / ".lock", made or not self.path.exists()
        with ExitStack() as held:
            try:
                make_folder(self.path)
                held.enter_context(locked(path, 0.0))
            except BlockingIOError:
                busy = f"{self.path} is being run by another process; wait for it"
                raise RunError(busy) from None
            except OSError as error:
                raise ConfigError(f"{self.path} cannot be written ({error}); see --out") from None
            try:
                yield
            finally:
                self._discard(made)

    def _discard(self, made: bool) -> None:
        """Remove the lock's file if nothing else is there, and the folder if it was `made`."""
        with suppress(OSError):
            if [each.name for each in self.path.iterdir()] == [".lock"]:
                (self.path / ".lock").unlink()
                if made:
                    self.path.rmdir()

    @classmethod
    def open(cls, path: Path) -> tuple["RunFolder", RunConfig]:
        """Return a run folder and its configuration.

        Raises ConfigError if it is no run folder, or its configuration was edited since the start.
        """
        if not (path / "config.toml").exists():
            raise ConfigError(f"{path} is no run folder: it has no config.toml; see `leff list`")
        run, config = cls(path), load_config(path / "config.toml")
        run.check_config()
        return run, config

    @classmethod
    def open_finished(cls, path: Path) -> "tuple[RunFolder, RunConfig, dict[str, Any]]":
        """Return a run folder, its configuration and its result; its `model/` is whole.

        Raises ConfigError as `open`, and if the run is not finished; CheckpointError if it is
        damaged.
        """
        run, config = cls.open(path)
        result = run.result()
        if result is None:
            raise ConfigError(
                f"{path} is a run that has no model yet, as it is not finished; "
                f"`leff resume {path}` finishes it"
            )
        run.check_model()
        return run, config, result

    def check_config(self) -> None:
        """Raise ConfigError if `config.toml` is not what the run was started with."""
        written = (self.path / "config.toml").read_text(encoding="utf-8")
        if self.digest() != _digest_values(written):
            raise ConfigError(
                f"{self.path}/config.toml is not the configuration that this run was started "
                "with; undo the edit, or start a new run from it with `leff run`"
            )

    def digest(self) -> str:
        """Return the digest of the configuration that the run was started with."""
        return self.environment()["config_digest"]

    def environment(self) -> dict[str, Any]:
        """Return what `start` recorded.  Raises CheckpointError if it is lost or damaged."""
        remedy = f"the run cannot go on; start again with `leff run {self.path}/config.toml`"
        values = read_json(self.path / "environment.json", remedy)
        if values is None and not (self.path / "rounds.jsonl").exists():
            raise CheckpointError(
                f"{self.path} holds a configuration and no run; "
                f"`leff run {self.path}/config.toml` starts one"
            )
        if values is None or not {"config_digest", "kind"} <= values.keys():
            raise CheckpointError(f"{self.path} has lost its environment.json; {remedy}")
        return values

    def write_split(self, split: Sequence[Mapping[str, Any]]) -> None:
        """Write how the examples were divided: a record a client."""
        text = json.dumps(split, indent=1, ensure_ascii=False)
        write_atomically(self.path / "split.json", f"{text}\n".encode())

    def split(self) -> Any:
        """Return what `split.json` holds, or None if that is lost or damaged."""
        with suppress(OSError, ValueError, RecursionError):
            return json.loads((self.path / "split.json").read_bytes())
        return None

    def clear_parts(self) -> None:
        """Remove the parts that a killed run left, perhaps half written: they are made again."""
        shutil.rmtree(self.path / "parts", ignore_errors=True)

    def clear_scratch(self) -> None:
        """Remove what is of no use once the run is finished."""
        for name in SCRATCH:
            shutil.rmtree(self.path / name, ignore_errors=True)

    # The end

    def write_result(self, values: Mapping[str, Any]) -> None:
        """Write the result, with the digests of `model/`, which is on the disk already."""
        files = {name: file_digest(path) for name, path in self._model_files().items()}
        write_json(self.path / "result.json", {**values, "files": files})

    def result(self) -> dict[str, Any] | None:
        """Return the result, or None while the run is not finished."""
        return read_json(self.path / "result.json", self._again())

    def check_model(self) -> None:
        """Raise CheckpointError if a finished run's `model/` is not what the run wrote."""
        wanted = (self.result() or {}).get("files", {})
        found = self._model_files()
        for name, digest in wanted.items():
            if name not in found or file_digest(found[name]) != digest:
                state = "damaged" if name in found else "missing"
                raise CheckpointError(f"{self.path / name} is {state}; {self._again()}")

    def _model_files(self) -> dict[str, Path]:
        """Return the files that must stay as they are, by name; people may edit the card."""
        paths = sorted(path for path in (self.path / "model").rglob("*") if path.is_file())
        names = {path.relative_to(self.path).as_posix(): path for path in paths}
        return {name: path for name, path in names.items() if path.name != "README.md"}

    def _again(self) -> str:
        """Return the remedy for a damaged result or model."""
        return (
            f"remove {self.path / 'result.json'} and resume, which makes both result and model "
            "again from the newest checkpoint"
        )

    def _anew(self) -> str:
        """Return the remedy for lost records."""
        finished = " and result.json" if (self.path / "result.json").exists() else ""
        return (
            f"remove the folder checkpoints{finished} and resume, which starts again from the "
            "first round"
        )

    # Rounds

    def append(self, record: RoundRecord) -> None:
        """Append a round's record; it is on disk when this returns."""
        line = json.dumps(sealed(record.to_dict()), allow_nan=False) + "\n"
        append_synced(self.path / "rounds.jsonl", line.encode())

    def records(self) -> list[RoundRecord]:
        """Return the records of complete lines: rounds 0, 1 and so on.

        Raises CheckpointError for a damaged line, or if a round of a finished run is missing.
        """
        result = self.result()  # before the lines, as another process may add the last one now
        records = self._read(self._lines())
        if result is not None and len(records) - 1 != result.get("rounds"):
            raise CheckpointError(
                f"{self.path / 'rounds.jsonl'} lacks records of the last rounds; {self._anew()}"
            )
        return records

    def _read(self, lines: Sequence[bytes]) -> list[RoundRecord]:
        """Return the records of lines that begin with round 0; CheckpointError for a wrong one."""
        records: list[RoundRecord] = []
        for index, line in enumerate(lines):
            try:
                record = RoundRecord.from_dict(unsealed(line))
                if record.round != index:
                    raise ValueError(f"it is of round {record.round}, not {index}")
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise CheckpointError(
                    f"{self.path / 'rounds.jsonl'}, line {index + 1} is damaged ({error}); "
                    f"{self._anew()}"
                ) from None
            records.append(record)
        return records

    def _lines(self) -> list[bytes]:
        path = self.path / "rounds.jsonl"
        return path.read_bytes().split(b"\n")[:-1] if path.exists() else []

    def cut_back(self, rounds: int) -> int:
        """Keep the records up to round `rounds`, or none if it is -1; return how many are dropped.

        Raises CheckpointError if some are missing.
        """
        found = self._lines()
        lines = found[: rounds + 1]
        if len(self._read(lines)) <= rounds:
            raise CheckpointError(
                f"{self.path / 'rounds.jsonl'} lacks records of rounds 0 to {rounds}, which the "
                f"checkpoint has done; {self._anew()}"
            )
        if rounds >= 0 and not (self.path / "decisions.json").exists():
            raise CheckpointError(f"{self.path} has lost its decisions.json; {self._anew()}")
        write_atomically(self.path / "rounds.jsonl", b"".join(line + b"\n" for line in lines))
        return len(found) - len(lines)

    def decisions(self, round_index: int) -> Decisions:
        """Return what clocks decided in round `round_index` (from 0); more can be set in it.

        Raises CheckpointError if the file is damaged.
        """
        return Decisions(self.path / "decisions.json", round_index)

    # Checkpoints

    def save_checkpoint(self, checkpoint: Checkpoint, digest: str, keep: int) -> None:
        """Write a checkpoint of the run with config `digest`; keep only the newest `keep`."""
        oldest = checkpoints.save(self.path / "checkpoints", checkpoint, digest, keep)
        # rounds since the oldest checkpoint may run again, if the newer ones are damaged
        forget_decisions(self.path / "decisions.json", oldest)

    def load_checkpoint(self, digest: str) -> Checkpoint | None:
        """Return the newest good checkpoint, or None if none was made yet; see `checkpoints`."""
        return checkpoints.load(self.path / "checkpoints", digest)


def config_digest(config: RunConfig) -> str:
    """Return the SHA-256 of a configuration's values, as `config.toml` has them.

    Comments do not count, nor do options that a later version adds to an old file.
    """
    return _digest_values(commented_toml(config))


def _same(stored: RunConfig, config: RunConfig) -> bool:
    """Return whether a run was started with this configuration, what it chose itself aside."""
    for section, names in CHOSEN.items():
        given, own = getattr(config, section), getattr(stored, section)
        update = {name: getattr(own, name) for name in names if name not in given.model_fields_set}
        config = config.model_copy(update={section: given.model_copy(update=update)})
    return stored == config


def _digest_values(toml: str) -> str:
    return _sha256(json.dumps(tomllib.loads(toml), sort_keys=True).encode())


def continued(run: Path, overrides: Mapping[str, Any]) -> tuple[Path, dict[str, Any]]:
    """Return the configuration file of a finished run, and what to set to go on with its model.

    Raises as `RunFolder.open_finished`.
    """
    folder = RunFolder.open_finished(run)[0]
    return folder.path / "config.toml", {"model.name": str(folder.path), **overrides}


def list_runs(root: Path) -> list[dict[str, Any]]:
    """Return a summary of every run folder in `root`, by name; ``problem`` if it is damaged."""
    return [_summary(RunFolder(path.parent)) for path in sorted(root.glob("*/config.toml"))]


def _summary(run: RunFolder) -> dict[str, Any]:
    names = ("task", "method", "seed", "rate", "rounds", "of", "metric", "before", "after")
    names += ("seconds", "finished", "problem")
    summary: dict[str, Any] = {"run": str(run.path), **dict.fromkeys(names), "finished": False}
    try:
        values = tomllib.loads((run.path / "config.toml").read_text(encoding="utf-8"))
        summary |= {"task": values["data"]["task"], "method": values["method"]["name"]}
        training = values["training"]
        summary |= {"of": training["rounds"], "rate": training.get("learning_rate")}
        summary["seed"] = values["seed"]
        run.check_config()
        records, result = run.records(), run.result()
        summary["rounds"] = records[-1].round if records else 0
        summary["seconds"] = round(sum(record.seconds or 0.0 for record in records), 1)
        if result is not None:
            metric = summary["metric"] = result["metric"]
            summary |= {when: result[when]["metrics"][metric] for when in ("before", "after")}
            summary["finished"] = True
    except (LeffError, OSError, ValueError, LookupError, TypeError) as error:
        summary["problem"] = str(error) if isinstance(error, LeffError) else f"damaged: {error!r}"
    return summary


def _foreign(path: Path) -> list[str]:
    """Return the names in a folder that are not left by a run killed while it started."""
    return [p.name for p in path.iterdir() if p.name not in STARTING]


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()
