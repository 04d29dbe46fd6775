"""Loads what a configuration names: its task, its model, its evaluator.

task = task_of(config)
model, tokenizer = load_start(config, task)
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from leff.errors import ConfigError
from leff.models import freeze_head, load_model
from leff.models.kinds import LANGUAGE_KINDS
from leff.runs.folder import RunFolder
from leff.runs.options import DataConfig, ProxyConfig, RunConfig
from leff.tasks.chat_form import ChatForm, chat_form, end_id, is_template_of, template_of
from leff.tasks.encode import ensure_padding
from leff.tasks.evaluator import Evaluator
from leff.tasks.load import OWN, load_task
from leff.tasks.task import Task
from leff.tasks.text_form import TextForm, chat_template

log = logging.getLogger("leff")
SOURCE = ("task", "folder", "train", "validation", "test", "columns", "kind", "labels", "group")


def load_source(source: DataConfig | ProxyConfig, seed: int = 0, hold_out: bool = True) -> Task:
    """Return the task that a configuration's section names; every row is checked."""
    given = {name: getattr(source, name) for name in SOURCE if hasattr(source, name)}
    task, folder = given.pop("task"), given.pop("folder")
    return load_task(task, folder, **given, hold_out=hold_out, seed=seed)


def task_of(config: RunConfig) -> Task:
    """Return the task that the clients learn.

    If the devices alone measure, no rows of the user's own files are held out for the server.
    """
    return load_source(config.data, config.seed, hold_out=config.evaluation.where != "devices")


def with_prompt(config: RunConfig, task: Task) -> RunConfig:
    """Return the configuration with the prompt of the run it starts from, unless one is set."""
    if task.kind != "generation" or config.data.prompt is not None:
        return config
    if not (Path(config.model.name) / "config.toml").exists():
        return config
    prompt = RunFolder.open(Path(config.model.name))[1].data.prompt
    if prompt is None:
        return config
    log.info("data.prompt = %r, that of %s", prompt, config.model.name)
    return config.model_copy(update={"data": config.data.model_copy(update={"prompt": prompt})})


def text_form(config: RunConfig, task: Task, tokenizer: Any) -> TextForm:
    """Return the form of texts: the prompt is the configuration's, or else the task's own.

    That of conversations is the tokenizer's chat template's, or a plain one (`data.chat_template`).
    Raises ModelError as `chat_form`.
    """
    data, chat = config.data, None
    if task.kind == "chat":
        plain = data.chat_template == "plain"
        chat = chat_form(tokenizer, plain=plain, special_tokens=data.special_tokens)
    return TextForm(data.prompt or task.prompt, data.special_tokens, chat)


def load_start(config: RunConfig, task: Task) -> tuple[Any, Any]:
    """Return the model that a run starts from, and its tokenizer with padding and end token.

    Raises ModelError, and ConfigError if the tokenizer lacks the end token, or if the head is to
    be frozen and cannot be.
    """
    model, tokenizer = start_model(config, task.kind, task.labels)
    if not config.model.train_head:
        freeze_head(model)
    if task.kind in LANGUAGE_KINDS:
        end = config.model.end_token or _trained_end(model, tokenizer)
        if end is not None and end not in tokenizer.get_vocab():
            raise ConfigError(
                f"model.end_token = {end!r} is no token of {config.model.name}; its special tokens "
                f"are {', '.join(tokenizer.all_special_tokens)}"
            )
        tokenizer.eos_token = end
        model.config.eos_token_id = tokenizer.eos_token_id
        model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.config.pad_token_id = ensure_padding(tokenizer)
    form = text_form(config, task, tokenizer)
    if form.chat is None:
        _set_template(tokenizer, form if task.kind == "generation" else None)
    else:
        _set_chat(model, tokenizer, form.chat)
    return model, tokenizer


def start_model(config: RunConfig, kind: str, labels: Sequence[str]) -> tuple[Any, Any]:
    """Return the weights that a run starts from, and the tokenizer as it is stored."""
    by_row = config.data.task not in OWN or _numbers(labels)
    return load_model(
        model_source(config.model.name), kind, labels, seed=config.seed, by_row=by_row
    )


def _set_chat(model: Any, tokenizer: Any, form: ChatForm) -> None:
    """Let generation end where an answer does; the saved chat template makes what is trained."""
    model.generation_config.eos_token_id = end_id(form, tokenizer)
    own = is_template_of(form, tokenizer)
    if not own:
        tokenizer.chat_template = template_of(form)
    log.info(
        "conversations are written %s: %r",
        "in the model's own chat template" if own else "in a form that the model did not have",
        form.text([{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]),
    )


def _set_template(tokenizer: Any, form: TextForm | None) -> None:
    """Replace the tokenizer's chat template by the form that the model is trained with."""
    own = None if form is None else chat_template(form, tokenizer)
    if tokenizer.chat_template and tokenizer.chat_template != own:
        log.warning(
            "the start model's chat template is not what it is trained with here, so it is not "
            "kept%s",
            "" if form is None else f"; the prompt is {form.prompt!r} (data.prompt)",
        )
    tokenizer.chat_template = own


def _numbers(labels: Sequence[str]) -> bool:
    """Return whether the classes are 0, 1, ...: a head without names has them in this order."""
    return list(labels) == [str(row) for row in range(len(labels))]


def _trained_end(model: Any, tokenizer: Any) -> str | None:
    """Return the tokenizer's end token, or its beginning token if the end token is untrained.

    A token that shares its embedding with others was never trained.  Embeddings stay frozen, so
    no text would ever end with it.  Such a model has seen the beginning token between texts.
    """
    end, start = tokenizer.eos_token, tokenizer.bos_token
    alike = _sharing(model, tokenizer.eos_token_id)
    if not alike:
        return end
    if start in (None, end) or _sharing(model, tokenizer.bos_token_id):
        remedy = "so texts may not end; set model.end_token to one that the model knows"
        log.warning("the end token %r shares its embedding with %d others, %s", end, alike, remedy)
        return end
    log.warning(
        "the end token %r shares its embedding with %d others, so it was never trained; ending "
        "texts with %r instead (model.end_token sets another)",
        end,
        alike,
        start,
    )
    return start


def _sharing(model: Any, token: int | None) -> int:
    """Return how many other tokens have this token's embedding, within a thousandth."""
    if token is None:
        return 0
    weights = model.get_output_embeddings().weight
    distances = (weights - weights[token]).norm(dim=1)
    return int((distances < 1e-3 * weights[token].norm()).sum()) - 1


def model_source(name: str) -> str:
    """Return the folder or hub id behind a model's name.

    "sample" is the built-in decoder.  A run's folder stands for its trained model.  A name that is
    no folder here is looked up in the folder LEFF_MODELS (an environment variable), whole or by the
    part after the last slash.
    """
    if name == "sample":
        from leff.tasks.sources.sample import MODEL

        return str(MODEL)
    if (Path(name) / "config.toml").exists():
        return str(RunFolder.open_finished(Path(name))[0].path / "model")
    root = os.environ.get("LEFF_MODELS")
    if not root or Path(name).exists():
        return name
    places = (Path(root) / name, Path(root) / name.rpartition("/")[2])
    return next((str(place) for place in places if (place / "config.json").exists()), name)


def evaluator_for(config: RunConfig, task: Task, tokenizer: Any) -> Evaluator:
    settings = config.evaluation
    return Evaluator(
        task,
        tokenizer,
        config.data.max_length,
        settings.batch_size,
        settings.max_new_tokens,
        config.seed,
        text_form(config, task, tokenizer),
    )
