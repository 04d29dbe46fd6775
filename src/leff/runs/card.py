"""The card of a trained model: what it is, how to use it, and how it was made.

(run / "model" / "README.md").write_text(model_card(config, task, form, result))
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leff.models.kinds import LANGUAGE_KINDS
from leff.runs.options import RunConfig
from leff.tasks.task import Task
from leff.tasks.text_form import TextForm


def model_card(config: RunConfig, task: Task, form: TextForm, result: Mapping[str, Any]) -> str:
    """Return a model's card in Markdown; `result` is the run's."""
    writes, base = task.kind in LANGUAGE_KINDS, config.model.name
    pipeline = "text-generation" if writes else "text-classification"
    is_path = Path(base).is_absolute()
    head = ["---", "library_name: transformers", f"pipeline_tag: {pipeline}"]
    head += [] if is_path or base == "sample" else [f"base_model: {base}"]
    training = config.training
    facts = {
        "base model": Path(base).name if is_path else base,
        "task": task.name,
        "method": config.method.name,
        "clients": config.clients.count,
        "rounds": training.rounds,
        "learning rate": training.learning_rate,
        "seed": config.seed,
        "bytes down, all rounds": f"{result['download_bytes']:,}",
        "bytes up, all rounds": f"{result['upload_bytes']:,}",
    }
    after, before = result["after"], result["before"]
    lines = [*head, "---", "", "# A model fine-tuned with LEFF", "", *_use(task, form, pipeline)]
    lines += ["", "## How it was made", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items()]
    own = after["split"] == "devices"
    place = "held out by the devices" if own else f"of the {after['split']} split"
    lines += ["", f"## Measured on {after['examples']} examples {place}", ""]
    lines += ["| | before | after |", "|---|---|---|"]
    lines += [
        f"| {name} | {_figure(before['metrics'].get(name))} | {_figure(value)} |"
        for name, value in after["metrics"].items()
    ]
    return "\n".join(lines) + "\n"


def _use(task: Task, form: TextForm, pipeline: str) -> list[str]:
    """Return the section that says how to use the model."""
    load = [
        "```python",
        "from transformers import pipeline",
        "",
        f'model = pipeline("{pipeline}", model=".")  # the folder of this file',
    ]
    if task.kind == "generation":
        call = 'print(model([{"role": "user", "content": "an input"}], max_new_tokens=64))'
        said = [
            f"It was trained on this prompt, with the input in place of `{{input}}`: "
            f"`{json.dumps(form.prompt, ensure_ascii=False)}`.",
            "The chat template in this folder makes the same prompt.",
        ]
    elif task.kind == "chat":
        call = 'print(model([{"role": "user", "content": "a question"}], max_new_tokens=128))'
        said = ["It answers in a conversation. The chat template in this folder is its form."]
    elif task.kind == "text":
        call = 'print(model("The start of a text", max_new_tokens=64))'
        said = ["It continues plain text."]
    else:
        pair = '{"text": "a text", "text_pair": "another"}'
        text = pair if "text_pair" in task.train.columns else '"a text"'
        call = f"print(model({text}))"
        said = ["It gives a number, not a class."]
        if task.labels:
            said = [f"Its classes are: {', '.join(task.labels)}."]
        else:
            call = call.replace("))", ', function_to_apply="none"))')
    return ["## Use", "", *said, "", *load, call, "```"]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
