"""What a trained classifier says of new texts.

predict(Path("runs/tickets"), {"text": ["cannot log in"]})
# [{"label": "login", "probability": 0.98}]
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from leff.errors import ConfigError
from leff.models import positions
from leff.models.class_names import has_classes
from leff.models.hardware import torch_device
from leff.models.kinds import LANGUAGE_KINDS
from leff.models.known import load_config
from leff.runs.folder import RunFolder
from leff.runs.options import RunConfig
from leff.runs.sources import model_source
from leff.runs.trained import read_trained, run_config
from leff.tasks.encode import encode, ensure_padding
from leff.tasks.held_out import held_out_logits
from leff.tasks.sources.table import read_texts
from leff.tasks.text_form import AS_IT_IS, INPUT, TextForm

LONGEST = 512  # tokens of a text, for a model that is no run's


def predict(
    name: str | Path, texts: Mapping[str, Sequence[str]], *, batch_size: int = 64
) -> list[dict[str, Any]]:
    """Return ``label`` and ``probability`` of each text, or its ``score`` for a regression.

    If a text may have several classes, it is ``labels``, a list, and ``probabilities`` by name.
    `name` is a run's or a model's folder; `texts` has the columns ``text`` and, for pairs,
    ``text_pair``.  Raises ConfigError for a model that was not trained as a classifier.
    """
    config = check_classifier(name)
    if not texts["text"]:
        return []
    model, tokenizer = read_trained(name)
    model = model.to(torch_device("auto"))
    columns = {**texts, "label": [0] * len(texts["text"])}
    longest = LONGEST if config is None else config.data.max_length
    examples = encode(
        [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
        tokenizer,
        "classification",
        min(longest, positions(model.config)),
        AS_IT_IS if config is None else TextForm(INPUT, config.data.special_tokens),
    )
    pad_id = ensure_padding(tokenizer)
    logits = held_out_logits(model, examples, batch_size=batch_size, pad_id=pad_id)
    if model.config.problem_type == "regression":
        return [{"score": float(score)} for score in logits[:, 0]]
    names = model.config.id2label
    if model.config.problem_type == "multi_label_classification":
        return [_several(names, list(map(float, row))) for row in logits.sigmoid()]
    likeliest = logits.softmax(-1).max(-1)
    return [
        {"label": names[int(row)], "probability": float(value)}
        for value, row in zip(likeliest.values, likeliest.indices, strict=True)
    ]


def _several(names: Mapping[int, str], probabilities: Sequence[float]) -> dict[str, Any]:
    """Return the classes that are more likely than not, and the probability of every class."""
    own = [names[k] for k, probability in enumerate(probabilities) if probability > 0.5]
    by_name = {names[k]: probability for k, probability in enumerate(probabilities)}
    return {"labels": own, "probabilities": by_name}


def check_classifier(name: str | Path) -> RunConfig | None:
    """Return the configuration of a run that trains a classifier; None for another classifier.

    Raises ConfigError for any other run or model.
    """
    config = run_config(name)
    if config is None:
        if has_classes(load_config(model_source(str(name)))[0]):
            return None
        raise ConfigError(f"{name} is no trained classifier; train one with `leff run`")
    path = Path(name)
    folder = path if (path / "config.toml").exists() else path.parent
    if RunFolder(folder).environment()["kind"] in LANGUAGE_KINDS:
        raise ConfigError(f"the model of {name} generates text; use `leff generate`")
    return config


def read_rows_of(name: str | Path, file: Path) -> tuple[dict[str, list[str]], dict[str, list[Any]]]:
    """Return a table's texts, by ``text`` and ``text_pair``, and all of its columns.

    Columns are mapped as in the run.  Raises ConfigError for a model that is no classifier,
    DataError for a file, column or row that cannot be used.
    """
    config = check_classifier(name)
    return read_texts(file, {} if config is None else config.data.columns)
