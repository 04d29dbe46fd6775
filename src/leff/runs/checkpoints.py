"""Checkpoints: a run after some of its rounds, in a folder each, whole or not there.

save(run / "checkpoints", checkpoint, digest, keep=2)
load(run / "checkpoints", digest)              # the newest good one

round-0003/state.json            round, digest of the configuration, SHA-256 of the files below
           model.safetensors     the full model
           method.safetensors    the method's state
           server.json           what the server knows of its clients
"""

import json
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leff.errors import CheckpointError, ConfigError
from leff.files import file_digest, make_folder, unsealed, whole_folder, write_json

if TYPE_CHECKING:
    import torch

log = logging.getLogger("leff.runs.folder")
FILES = ("model.safetensors", "method.safetensors", "server.json")


@dataclass(frozen=True)
class Checkpoint:
    """The run after `round` rounds."""

    round: int
    model: "dict[str, torch.Tensor]"
    method: "dict[str, torch.Tensor]"
    server: dict[str, Any]


def save(folder: Path, checkpoint: Checkpoint, digest: str, keep: int) -> int:
    """Write a checkpoint of the run with config `digest`; keep only the newest `keep`.

    Those of later rounds are removed: this run has not come to them.  Return the round of the
    oldest that is kept.
    """
    from leff.wire.tensors import pack_file

    make_folder(folder)
    with whole_folder(folder / f"round-{checkpoint.round:04d}") as unfinished:
        pack_file(checkpoint.model, unfinished / "model.safetensors")
        pack_file(checkpoint.method, unfinished / "method.safetensors")
        (unfinished / "server.json").write_text(json.dumps(checkpoint.server))
        state = {"round": checkpoint.round, "config_digest": digest, "files": _digests(unfinished)}
        write_json(unfinished / "state.json", state)
    paths = checkpoints(folder)
    kept = [path for path in paths if _round_of(path) <= checkpoint.round][:keep]
    for path in set(paths) - set(kept):
        shutil.rmtree(path)
    return _round_of(kept[-1])


def load(folder: Path, digest: str) -> Checkpoint | None:
    """Return the newest good checkpoint, or None if none was made yet.

    A damaged one is skipped with a warning.  Raises CheckpointError if all are damaged,
    ConfigError if one belongs to a run with another config digest.
    """
    paths = checkpoints(folder)
    for path in paths:
        try:
            checkpoint, belongs_to = _read(path)
        except (OSError, ValueError) as error:
            log.warning("checkpoint %s is damaged (%s); looking for an older", path, error)
            continue
        if belongs_to != digest:
            raise ConfigError(
                f"checkpoint {path} belongs to a run with another configuration; "
                "remove it, or resume the run it came from"
            )
        return checkpoint
    if paths:
        raise CheckpointError(
            f"every checkpoint in {folder} is damaged; remove that folder "
            "and resume, which starts again from the first round"
        )
    return None


def checkpoints(folder: Path) -> list[Path]:
    """Return the folders of complete checkpoints, newest first."""
    paths = [p for p in folder.glob("round-*") if re.fullmatch(r"round-\d{4,9}", p.name)]
    return sorted((path for path in paths if path.is_dir()), key=_round_of, reverse=True)


def _round_of(path: Path) -> int:
    return int(path.name.removeprefix("round-"))


def _read(path: Path) -> tuple[Checkpoint, str]:
    """Return a checkpoint and its run's config digest.  OSError, ValueError if it is damaged."""
    from safetensors import SafetensorError

    from leff.wire.tensors import unpack_file

    state = unsealed((path / "state.json").read_bytes())
    if state.get("round") != _round_of(path) or state.get("files") != _digests(path):
        raise ValueError("its name or a file is not what state.json says")
    model, method, server = (path / name for name in FILES)
    try:
        tensors = unpack_file(model), unpack_file(method)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    checkpoint = Checkpoint(_round_of(path), *tensors, json.loads(server.read_bytes()))
    return checkpoint, str(state.get("config_digest"))


def _digests(folder: Path) -> dict[str, str]:
    return {name: file_digest(folder / name) for name in FILES}
