"""Names of a classifier's classes, in its configuration and in its head.

    name_classes(model, ("billing", "login"), own={0: "login", 1: "billing"}, seed=0)

A head has a row of weights for each class.  A start model that was trained on the same classes in
another order keeps what it knows: its rows are put in the data's order, by name.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from leff.errors import ModelError
from leff.models.detect import family_of
from leff.models.families import find
from leff.seeds import forked

log = logging.getLogger("leff.models")


def class_names(config: Any) -> dict[int, str]:
    """Return the names of a configuration's classes by row; {} if it has only ``LABEL_0``, ..."""
    own: Mapping[Any, Any] = config.id2label or {}
    names = {int(row): str(name) for row, name in own.items()}
    return {} if all(name == f"LABEL_{row}" for row, name in names.items()) else names


def has_classes(config: Any) -> bool:
    """Return whether a configuration is that of a trained classifier."""
    heads: Sequence[str] = getattr(config, "architectures", None) or ()
    return any("SequenceClassification" in head for head in heads)


def set_names(config: Any, labels: Sequence[str]) -> None:
    """Write the classes' names and their number into a configuration."""
    config.num_labels = len(labels)
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: row for row, label in enumerate(labels)}


def fit_head(
    model: Any, labels: Sequence[str], own: Mapping[int, str], *, by_row: bool, seed: int
) -> None:
    """Give a classifier the classes `labels`, in this order.

    `own` has the names of the head's rows.  If all labels are among them, the head's rows are put
    in the labels' order.  Capitals and blanks around a name do not count.  A head without names
    keeps its rows if `by_row`, when the task's authors numbered the classes, and if there are as
    many.  Any other head is made new from `seed`, which is logged.
    """
    rows = _rows(labels, own)
    kept = not own and by_row and model.config.num_labels == len(labels)
    if rows is None and not kept:
        known = ", ".join(list(own.values())[:8]) or "not named"
        wanted = ", ".join(labels[:8])
        log.warning(
            "the start model's classes (%s) are not the data's (%s): its head is made new",
            known,
            wanted,
        )
    if rows is not None or not kept:
        _replace_rows(model, len(labels), rows, seed)
    set_names(model.config, labels)
    model.num_labels = len(labels)


def _rows(labels: Sequence[str], own: Mapping[int, str]) -> list[int] | None:
    """Return the head's row of every label; None if a label has none, or names are alike."""
    places = {name.strip().casefold(): row for row, name in own.items()}
    wanted = [label.strip().casefold() for label in labels]
    if len(places) < len(own) or len(set(wanted)) < len(wanted):  # names differ in capitals alone
        places, wanted = {name: row for row, name in own.items()}, list(labels)
    return [places[name] for name in wanted] if places.keys() >= set(wanted) else None


@torch.no_grad()
def _replace_rows(model: Any, count: int, rows: Sequence[int] | None, seed: int) -> None:
    """Replace the head by one of `count` rows: these rows of it, or new ones from `seed`."""
    path = head_path(model)
    old: Any = find(model, path)
    with forked(seed):
        new = nn.Linear(old.in_features, count, bias=old.bias is not None)
        new.weight.normal_(0.0, getattr(model.config, "initializer_range", 0.02))
    if rows is None:
        if old.bias is not None:
            new.bias.zero_()
    else:
        new.weight.copy_(old.weight[list(rows)])
        if old.bias is not None:
            new.bias.copy_(old.bias[list(rows)])
    parent, _, name = path.rpartition(".")
    setattr(find(model, parent) if parent else model, name, new.to(old.weight))


def head_path(model: Any) -> str:
    """Return the path of the linear module whose outputs are the classes."""
    tail = tuple(f"{path}." for path in family_of(model).full_tail)
    heads = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and f"{name}.".startswith(tail)
        and module.out_features == model.config.num_labels
    ]
    if not heads:
        raise ModelError(f"the head of this {model.config.model_type} was not found")
    return heads[-1]
