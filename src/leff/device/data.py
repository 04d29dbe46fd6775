"""A device's own files as examples: what it trains on, and what it holds out to measure models on.

    settings = DataSettings(("tickets.jsonl",), columns={"text": "body", "label": "queue"})
    data = read_data(settings, card, read_tokenizer(fetch(card.tokenizer)))
    data.clients[0].train, data.clients[0].validation

Each file is a client, as in the local engine.  The rules for files, columns, texts and labels are
those of central data (docs/do/split.md).  No library of data sets is needed, and pyarrow only for
Parquet files.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from leff.errors import ConfigError, DataError, nearest
from leff.files import expanded
from leff.tasks.chat_form import ChatForm
from leff.tasks.columns import Table
from leff.tasks.encode import Example, Kind, encode
from leff.tasks.load import own_files
from leff.tasks.sources.attributes import file_names
from leff.tasks.sources.rows import Rows
from leff.tasks.sources.table import (
    CANONICAL,
    CLASSED,
    LABELLED,
    evaluation_table,
    read_kind,
    training_table,
)
from leff.tasks.sources.text import is_table, read_text
from leff.tasks.task import own_validation
from leff.tasks.text_form import TextForm
from leff.wire.json import from_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from leff.wire.messages import TaskCard

log = logging.getLogger("leff.device")
WHOSE = "this federation's classes"


@dataclass(frozen=True)
class DataSettings:
    """The device's own words about its data.

    `files` are paths and patterns such as ``sites/*.csv``; each file is a client.  `columns` maps
    our columns to the files' own.  `validation` is a file to measure models on, for a single
    client.  Without it, `validation_share` of each client's texts is held out; 0 is none.  `kind`
    is what the owner expects the data to be used for; a federation of another kind is refused.

    Raises ConfigError for values that do not go together.
    """

    files: tuple[str | Path, ...]
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    validation: str | Path | None = None
    validation_share: float = 0.1
    kind: str | None = None

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError("the device names no data file; name one or more")
        if not 0 <= self.validation_share <= 0.9:
            raise ConfigError(
                f"validation_share must be 0 to 0.9, got {self.validation_share:g}; the other "
                "texts are trained on"
            )
        if self.kind is not None and self.kind not in get_args(Kind):
            raise ConfigError(
                f"no kind of data is called {self.kind!r}{nearest(self.kind, get_args(Kind))}"
            )
        for name in self.columns:
            if name not in CANONICAL:
                raise ConfigError(f"no column is called {name!r} here{nearest(name, CANONICAL)}")


@dataclass(frozen=True)
class ClientData:
    """The examples of one client, a file."""

    name: str
    train: list[Example]
    validation: list[Example]


@dataclass(frozen=True)
class DeviceData:
    """What a device has, by client, in the order of their files' paths."""

    clients: tuple[ClientData, ...]

    @property
    def examples(self) -> int:
        """Return the number of examples that are trained on, of all clients."""
        return sum(len(client.train) for client in self.clients)

    @property
    def validation(self) -> int:
        """Return the number of examples that models are measured on, of all clients."""
        return sum(len(client.validation) for client in self.clients)


def read_data(
    settings: DataSettings, card: "TaskCard", tokenizer: "PreTrainedTokenizerBase"
) -> DeviceData:
    """Read and check a device's files, and return its clients' examples for a federation's task.

    Raises ConfigError for settings that do not fit the task, and DataError, with file, column and
    row, for data that does not: a missing column, a label that the federation does not have.
    """
    kind = _kind(settings, card)
    paths = own_files(settings.files)
    if settings.validation is not None and len(paths) > 1:
        raise ConfigError(
            f"a validation file is for one data file, and there are {len(paths)}, a client each; "
            "leave it out, so that a share of each is held out (validation_share)"
        )
    chat = from_json(ChatForm, card.chat) if card.chat else None
    form = TextForm(card.prompt, card.special_tokens, chat)

    def encoded(table: Table) -> list[Example]:
        return encode(table, tokenizer, kind, card.max_length, form)

    clients: list[ClientData] = []
    for path, name in zip(paths, file_names(paths), strict=True):
        trained, held = _tables(path, settings, card, kind)
        client = ClientData(name, encoded(trained), encoded(held))
        if not client.train:
            raise DataError(f"{path}: its texts are too short to learn from; add some, or leave it")
        if not client.validation:
            log.warning("%s: nothing is held out, so models are not measured on it", path)
        clients.append(client)
    return DeviceData(tuple(clients))


def _kind(settings: DataSettings, card: "TaskCard") -> Kind:
    """Return the federation's kind of task.  Raises ConfigError if it is not the owner's."""
    if settings.kind is not None and settings.kind != card.kind:
        raise ConfigError(
            f"this device's data is for {settings.kind} (kind), and the federation learns "
            f"{card.kind}; change the one, or join another federation"
        )
    for kind in get_args(Kind):
        if kind == card.kind:
            return kind
    raise ConfigError(f"the federation learns {card.kind!r}, which this version does not know")


def _tables(
    path: Path, settings: DataSettings, card: "TaskCard", kind: Kind
) -> tuple[Table, Table]:
    """Return the rows of a file that are trained on, and those that are held out."""
    rows = _read(path, settings, card, kind)
    pairs = kind in LABELLED and "text_pair" in rows.columns
    table = training_table(rows, kind, pairs)
    if settings.validation is not None:
        other = _read(expanded(settings.validation), settings, card, kind)
        return table, evaluation_table(other, kind, pairs)
    taken = own_validation(table, kind, settings.validation_share)
    chosen = [[i for i, held in enumerate(taken) if held is out] for out in (False, True)]
    return table.select(chosen[0]), table.select(chosen[1])


def _read(path: Path, settings: DataSettings, card: "TaskCard", kind: Kind) -> Rows:
    """Return the checked rows of a file; in kind text a file without columns has a text a line."""
    if kind == "text" and not is_table(path) and not settings.columns:
        return read_text(path)
    if kind in CLASSED and not card.labels:
        raise ConfigError("the federation names no classes; its owner sets data.labels")
    names = card.labels if kind in CLASSED else ()
    return read_kind([path], kind, settings.columns, names, WHOSE)
