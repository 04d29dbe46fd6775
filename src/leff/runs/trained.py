"""A run's trained model: reads it back, restores, measures and saves it.

model, tokenizer = read_trained(Path("runs/e2e"))
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from leff.errors import CheckpointError, ConfigError
from leff.extras import need
from leff.files import whole_folder
from leff.models import FROZEN_HEAD, freeze_head, full_state, load_model
from leff.models.hardware import pinned_threads, torch_device
from leff.models.kinds import CLASS_KINDS
from leff.models.known import load_config
from leff.models.quiet import quiet
from leff.runs.checkpoints import Checkpoint
from leff.runs.folder import RunFolder
from leff.runs.options import RunConfig
from leff.runs.sources import evaluator_for, load_start, model_source, task_of
from leff.tasks.chat_form import chat_form
from leff.tasks.load import load_task
from leff.tasks.sources.table import load_test
from leff.tasks.task import Task
from leff.tasks.text_form import AS_IT_IS, INPUT, TextForm, form_of


def read_trained(name: str | Path) -> tuple[Any, Any]:
    """Return model and tokenizer of a run; of its newest checkpoint if it is not finished.

    A name that is no run is a model's folder or hub id.  A finished run's model is read only if
    it is what the run wrote.  Raises ModelError, CheckpointError.
    """
    path = Path(name)
    if _in_run(path):
        RunFolder(path.parent).check_model()
    if not (path / "config.toml").exists():
        source = model_source(str(name))
        return load_model(source, load_config(source)[1])
    folder, config = RunFolder.open(path)
    kind = folder.environment()["kind"]
    if folder.result() is not None:
        folder.check_model()
        return load_model(str(path / "model"), kind)
    checkpoint = folder.load_checkpoint(folder.digest())
    if checkpoint is None:
        raise CheckpointError(f"{path} has no checkpoint yet; `leff resume {path}` goes on with it")
    model, tokenizer = load_start(config, task_of(config))
    restore(model, checkpoint)
    return model, tokenizer


def trained_form(name: str | Path, tokenizer: Any) -> TextForm:
    """Return the form of the texts that a run's or any other model was trained with.

    It is the one of the tokenizer's chat template.  Without a template inputs stay as they are.
    """
    run = _run(name)
    special = run is not None and run[1].data.special_tokens
    if run is not None and run[0].environment()["kind"] == "chat":
        return TextForm(INPUT, special, chat_form(tokenizer, special_tokens=special))
    return replace(form_of(tokenizer) or AS_IT_IS, special_tokens=special)


def run_config(name: str | Path) -> RunConfig | None:
    """Return the configuration of a run, by its folder or its model's; None for another model."""
    run = _run(name)
    return None if run is None else run[1]


def _run(name: str | Path) -> tuple[RunFolder, RunConfig] | None:
    path = Path(name)
    folder = path.parent if _in_run(path) else path
    return RunFolder.open(folder) if (folder / "config.toml").exists() else None


def _in_run(path: Path) -> bool:
    """Return whether a folder is the one that a run writes its model to."""
    return path.name == "model" and (path.parent / "config.toml").exists()


def restore(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's tensors into the model.  Raises CheckpointError if they do not fit."""
    wanted = {(name, tensor.shape) for name, tensor in full_state(model).items()}
    stored = {(name, tensor.shape) for name, tensor in checkpoint.model.items()}
    if wanted != stored:
        differing = ", ".join(sorted({name for name, _ in wanted ^ stored})[:4])
        raise CheckpointError(
            f"the checkpoint of round {checkpoint.round} is of another model ({differing}); "
            "put the model back that the run was started with"
        )
    model.load_state_dict(checkpoint.model, strict=False)  # the checkpoint lacks tied duplicates


def measure(
    path: Path, examples: int | None, beams: int | None, data: Path | None = None
) -> dict[str, Any]:
    """Return `Evaluator.full` of a run's model, with the run's own settings.

    `data` is a table to measure on in place of the run's own test split.
    """
    folder, config = RunFolder.open(path)
    need("server", "a measurement")
    model, tokenizer = read_trained(path)
    task = task_of(config) if data is None else _own_test(data, folder, config, model)
    if not len(task.validation if task.test is None else task.test):
        raise ConfigError(
            f"{path} has no data on this machine to measure on; give it with --data (devices "
            "measure in a run only, and their figures are in its result.json)"
        )
    model = model.to(torch_device(config.engine.device))
    evaluator = replace(evaluator_for(config, task, tokenizer), form=trained_form(path, tokenizer))
    with pinned_threads(config.engine.threads):
        return evaluator.full(model, examples, beams or config.evaluation.beams)


def _own_test(data: Path, folder: RunFolder, config: RunConfig, model: Any) -> Task:
    """Return the task of measuring a run's model on a file of the user's own."""
    if config.data.task == "text":
        return load_task("text", train=data, validation=data, test=data)
    kind = folder.environment()["kind"]
    names = tuple(model.config.id2label.values()) if kind in CLASS_KINDS else ()
    own = config.data
    return load_test(data, kind, columns=own.columns, names=names, group=own.group)


def save_model(model: Any, tokenizer: Any, card: str, path: Path) -> None:
    """Write a folder that `from_pretrained` reads, with a model card; it is on the disk then.

    The mark of a frozen head is not written, so later training of the model is free of it.
    """
    frozen = model.config.__dict__.pop(FROZEN_HEAD, False)
    try:
        with quiet(), whole_folder(path) as unfinished:
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
            (unfinished / "README.md").write_text(card, encoding="utf-8")
    finally:
        if frozen:
            freeze_head(model)
