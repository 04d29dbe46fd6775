"""Which rows and which examples every client has, from central data.

config, train, split = divided(config, task)
trained, held = client_examples(train, split, task.kind, share=0.1, tokenised=...)
"""

import logging
from collections.abc import Callable, Sequence

from leff.errors import ConfigError, DataError
from leff.runs.budgets import with_fewest_examples
from leff.runs.options import RunConfig
from leff.tasks.columns import Table
from leff.tasks.encode import Example, Kind
from leff.tasks.partition import Partition, partition
from leff.tasks.sources.attributes import FILE
from leff.tasks.task import Task, draw_rows, own_validation

log = logging.getLogger("leff")


def divided(config: RunConfig, task: Task) -> tuple[RunConfig, Table, Partition]:
    """Return the training rows that are used, and how the clients divide them.

    The configuration that comes back has the clients.min_examples that these rows allow.
    Raises DataError for too few rows, and for a column that cannot divide them.
    """
    if not len(task.train):
        raise ConfigError("there are no training examples here; name a train file (data.train)")
    train = draw_rows(task.train, config.data.train_examples, config.seed, "train")
    config = with_fewest_examples(config, len(train))
    split = partition(
        train,
        config.clients.count,
        config.clients.partition,
        by=_split_column(config, task),
        alpha=config.clients.alpha,
        seed=config.seed,
        min_examples=config.clients.min_examples,
    )
    return config, train, split


def client_examples(
    train: Table,
    split: Partition,
    kind: Kind,
    share: float,
    encoded: Callable[[Table], list[Example]],
) -> tuple[list[list[Example]], list[list[Example]]]:
    """Return every client's examples to train on, and those of the `share` that it holds out.

    In kind text, a client's documents are joined, so each client's are encoded apart.
    """
    whole = [] if kind == "text" else encoded(train)

    def own(rows: Sequence[int]) -> list[Example]:
        return [whole[i] for i in rows] if whole else encoded(train.select(rows))

    trained: list[list[Example]] = []
    held: list[list[Example]] = []
    for indices in split.indices:
        rows = [int(i) for i in indices]
        taken = own_validation(train.select(rows), kind, share)
        trained.append(own([i for i, out in zip(rows, taken, strict=True) if not out]))
        held.append(own([i for i, out in zip(rows, taken, strict=True) if out]))
    return trained, held


def _split_column(config: RunConfig, task: Task) -> str | None:
    """Return the column that examples are divided by; raise if there is none, or it cannot."""
    scheme, by = config.clients.partition, config.clients.by
    if scheme == "iid":
        return None
    if scheme == "files":
        return FILE
    if by in task.unusable:
        raise DataError(
            f"{task.unusable[by]}, so clients.by = {by!r} cannot divide the examples; mend the "
            "rows, or leave them out"
        )
    if not by and not task.attributes:
        why = "; ".join(task.unusable.values())
        raise ConfigError(
            f"clients.partition = {scheme!r} needs clients.by, a column to split by, and "
            f"{task.name} has none{f' ({why})' if why else ''}; use clients.partition = 'iid'"
        )
    if not by and task.unusable:
        log.info(
            "clients.by is not set, so %r divides the examples; these columns cannot: %s",
            task.attributes[0],
            ", ".join(task.unusable),
        )
    return by or task.attributes[0]
