"""A run's model after training: read back, restored, saved and measured.

model, tokenizer = read_trained(Path("runs/e2e"))
"""

from pathlib import Path
from typing import Any

from torch import nn

from leff.errors import CheckpointError
from leff.models import FROZEN_HEAD, freeze_head, full_state, load_model
from leff.models.hardware import pinned_threads, torch_device
from leff.models.known import load_config
from leff.models.quiet import quiet
from leff.runs.folder import Checkpoint, RunFolder
from leff.runs.sources import evaluator_for, load_start, model_source, task_of


def read_trained(name: str | Path) -> tuple[Any, Any]:
    """Return model and tokenizer of a run (of its newest checkpoint, if it is not finished).

    What is no run is taken for a model's folder or hub id.  Raises ModelError, CheckpointError.
    """
    path = Path(name)
    if not (path / "config.toml").exists():
        source = model_source(str(name))
        return load_model(source, load_config(source)[1])
    folder, config = RunFolder.open(path)
    kind = folder.environment()["kind"]
    if folder.result() is not None:
        return load_model(str(path / "model"), kind)
    checkpoint = folder.load_checkpoint(folder.digest())
    if checkpoint is None:
        raise CheckpointError(f"{path} has no checkpoint yet; `leff resume {path}` goes on with it")
    model, tokenizer = load_start(config, task_of(config))
    restore(model, checkpoint)
    return model, tokenizer


def is_generation_run(path: Path) -> bool:
    """Return whether a folder is a run, or a run's model, that learnt targets from inputs."""
    run = path.parent if path.name == "model" else path
    return (run / "config.toml").exists() and RunFolder(run).environment()["kind"] == "generation"


def restore(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's tensors into the model.  Raises CheckpointError if they do not fit."""
    wanted = {(name, tensor.shape) for name, tensor in full_state(model).items()}
    found = {(name, tensor.shape) for name, tensor in checkpoint.model.items()}
    if wanted != found:
        differing = ", ".join(sorted({name for name, _ in wanted ^ found})[:4])
        raise CheckpointError(
            f"the checkpoint of round {checkpoint.round} is of another model ({differing}); "
            "put the model back that the run was started with"
        )
    model.load_state_dict(checkpoint.model, strict=False)  # tied duplicates are not in it


def measure(path: Path, examples: int | None, beams: int | None) -> dict[str, Any]:
    """Return what `Evaluator.full` says of a run's model, measured as the run would have."""
    _, config = RunFolder.open(path)
    model, tokenizer = read_trained(path)
    model = model.to(torch_device(config.engine.device))
    evaluator = evaluator_for(config, task_of(config), tokenizer)
    with pinned_threads(config.engine.threads):
        return evaluator.full(model, examples, beams or config.evaluation.beams)


def save_model(model: Any, tokenizer: Any, path: Path) -> None:
    """Write a folder that `from_pretrained` reads.

    That its head was frozen is of the run, not of the model: nobody else's training should know.
    """
    frozen = model.config.__dict__.pop(FROZEN_HEAD, False)
    try:
        with quiet():
            model.save_pretrained(path)
            tokenizer.save_pretrained(path)
    finally:
        if frozen:
            freeze_head(model)
