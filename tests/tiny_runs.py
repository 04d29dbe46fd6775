"""Runs of a second: a random GPT-2 or BERT of four layers, few examples, one thread."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, GPT2Config

from leff.files import sealed, unsealed
from leff.models import model_class
from leff.models.kinds import LANGUAGE_KINDS
from leff.runs.toml import _toml
from leff.tasks.sources.sample import MODEL

LAYERS = 4
OPTIONS: dict[str, Any] = {
    "data.train_examples": 40,
    "data.max_length": 32,
    "proxy.examples": 8,
    "proxy.batch_size": 4,
    "proxy.importance_batches": 1,
    "clients.count": 4,
    "clients.layers": [1, 2, 4],
    "clients.min_examples": 4,
    "context.name": "distil",
    "context.steps": 2,
    "training.rounds": 3,
    "training.batch_size": 8,
    "evaluation.examples": 6,
    "evaluation.final_examples": 6,
    "evaluation.max_new_tokens": 6,
    "engine.threads": 1,
    "engine.workers": 1,
}
SECONDS = ("seconds",)  # what the fields end in that differ from run to run


def save_tiny(folder: Path, kind: str = "generation") -> Path:
    """Save a random model of 4 layers with the packaged tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(str(MODEL))
    sizes: dict[str, Any] = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config: Any
    if kind in LANGUAGE_KINDS:
        config = GPT2Config(
            n_embd=16,
            n_layer=LAYERS,
            n_head=2,
            n_positions=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **sizes,
        )
    else:
        config = BertConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            max_position_embeddings=64,
            **sizes,
        )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model_class(config, kind).from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def options(model: Path, **changes: Any) -> dict[str, Any]:
    """Return the options of a tiny run; a double underscore stands for the dot."""
    changed = {key.replace("__", "."): value for key, value in changes.items()}
    return {**OPTIONS, "model.name": str(model), **changed}


def least(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the options of a run of a third of a second, with its model and data in `folder`."""
    table = write_table(folder / "train.jsonl", "text")
    small = {
        "data__task": "table",
        "data__train": str(table),
        "data__train_examples": 8,
        "clients__partition": "iid",
        "clients__count": 2,
        "method__name": "fedavg",
        "training__rounds": 2,
        "evaluation__examples": 2,
        "evaluation__final_examples": 2,
    }
    return options(save_tiny(folder / "model", "text"), **{**small, **changes})


def flags(values: dict[str, Any]) -> list[str]:
    """Return options as command line arguments."""
    return [part for k, v in values.items() for part in ("--set", f"{k}={_toml(v)}")]


def outcome(folder: Path) -> dict[str, Any]:
    """Return all that must be the same in a resumed run: records, result, bytes of the model."""
    lines = (folder / "rounds.jsonl").read_text().split("\n")[:-1]  # a last one may be unfinished
    return {
        "records": [_timeless(unsealed(line)) for line in lines],
        "result": unsealed((folder / "result.json").read_text()),
        "model": {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted((folder / "model").iterdir())
            if path.name != "README.md"
        },
    }


def reseal(path: Path, **changes: Any) -> None:
    """Change values of a sealed file, as somebody could who knows how it is sealed."""
    path.write_text(json.dumps(sealed(unsealed(path.read_text()) | changes)))


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if not k.endswith(SECONDS)}
    return [_timeless(entry) for entry in value] if isinstance(value, list) else value


def write_table(path: Path, kind: str, rows: int = 60) -> Path:
    """Write a JSONL table for a kind of task; `town` is a column to split by."""
    words = ["fen", "hill", "river", "wood", "moor"]
    with path.open("w") as file:
        for i in range(rows):
            text = f"walk {i} by the {words[i % 5]} and the {words[i // 5 % 5]}"
            row: dict[str, Any] = {"town": words[i % 3]}
            if kind == "generation":
                row |= {"input": f"place: {words[i % 5]} {i}", "target": text}
            elif kind == "classification":
                row |= {"text": text, "label": ("flat", "flat", "steep", "steep", "wet")[i % 5]}
            elif kind == "multilabel":
                has = [word for k, word in enumerate(("flat", "steep", "wet")) if i >> k & 1]
                row |= {"text": text, "labels": has}
            elif kind == "regression":
                row |= {"text": text, "label": i / 7 + 0.5}
            elif kind == "chat":
                asked = {"role": "user", "content": f"Where is walk {i}?"}
                row |= {"messages": [asked, {"role": "assistant", "content": text}]}
            else:
                row |= {"text": text}
            file.write(json.dumps(row) + "\n")
    return path


FLEET = """[phone]
count = 4
memory = "2GB"
speed = "50GFLOP/s"
down = "20Mbit/s"
up = "5Mbit/s"
"""


def quicken(patch: pytest.MonkeyPatch) -> None:
    """Do without Java and without a picture, which takes longer than a tiny run."""
    patch.setenv("PATH", "")
    patch.delenv("JAVA_HOME", raising=False)
    patch.setattr("leff.report.picture.draw_run", lambda records, metric, path: path.touch())


class Killed(BaseException):
    """Stands for the end of the process: nothing in the package may catch it."""


def raises(*_: Any, **__: Any) -> Any:
    raise Killed


def command(capsys: pytest.CaptureFixture[str], monkeypatch: Any, *arguments: str):
    """Run the command line in this process; return exit status, standard output and error."""
    from leff.cli import main

    monkeypatch.setattr("sys.argv", ["leff", *arguments])
    status = 0
    try:
        main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    printed = capsys.readouterr()
    return status, printed.out, printed.err
