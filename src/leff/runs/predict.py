"""What a trained classifier says of new texts.

predict(Path("runs/tickets"), {"text": ["cannot log in"]})
# [{"label": "login", "probability": 0.98}]
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leff.errors import ConfigError
from leff.models import positions
from leff.models.hardware import torch_device
from leff.runs.folder import RunFolder
from leff.runs.trained import read_trained, trained_form
from leff.tasks.encode import encode, ensure_padding
from leff.tasks.held_out import held_out_logits
from leff.tasks.sources.table import read_texts

LONGEST = 512  # tokens of a text, for a model that is no run's


def predict(
    name: str | Path, texts: Mapping[str, Sequence[str]], *, batch_size: int = 64
) -> list[dict[str, Any]]:
    """Return ``label`` and ``probability`` of each text, or its ``score`` for a regression.

    `name` is a run's or a model's folder; `texts` has the columns ``text`` and, for pairs,
    ``text_pair``.  Raises ConfigError for a model that generates text.
    """
    model, tokenizer = read_trained(name)
    if model.can_generate():
        raise ConfigError(f"the model of {name} generates text; use `leff generate`")
    model = model.to(torch_device("auto"))
    columns = {**texts, "label": [0] * len(texts["text"])}
    examples = encode(
        [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
        tokenizer,
        "classification",
        min(_longest(Path(name)), positions(model.config)),
        trained_form(name, tokenizer),
    )
    pad_id = ensure_padding(tokenizer)
    logits = held_out_logits(model, examples, batch_size=batch_size, pad_id=pad_id)
    if model.config.problem_type == "regression":
        return [{"score": float(score)} for score in logits[:, 0]]
    likeliest = logits.softmax(-1).max(-1)
    names = model.config.id2label
    return [
        {"label": names[int(row)], "probability": float(value)}
        for value, row in zip(likeliest.values, likeliest.indices, strict=True)
    ]


def texts_of(name: str | Path, file: Path) -> dict[str, list[str]]:
    """Return the texts of a table, by ``text`` and ``text_pair``, in the columns of the run.

    Raises DataError for a file, column or row that cannot be used.
    """
    path = Path(name)
    in_run = (path / "config.toml").exists()
    return read_texts(file, RunFolder.open(path)[1].data.columns if in_run else {})


def _longest(path: Path) -> int:
    """Return the most tokens of a text that a run was trained with."""
    if (path / "config.toml").exists():
        return RunFolder.open(path)[1].data.max_length
    return LONGEST
