"""The card of a trained model: what it is, how to use it, and how it was made.

(run / "model" / "README.md").write_text(model_card(config, task, form, result))
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, try_to_load_from_cache

from leff.models.kinds import LANGUAGE_KINDS
from leff.runs.options import RunConfig
from leff.runs.sources import model_source
from leff.tasks.task import Task
from leff.tasks.text_form import TextForm


def model_card(config: RunConfig, task: Task, form: TextForm, result: Mapping[str, Any]) -> str:
    """Return a model's card in Markdown; `result` is the run's."""
    pipeline = "text-generation" if task.kind in LANGUAGE_KINDS else "text-classification"
    head = ["library_name: transformers", f"pipeline_tag: {pipeline}"]
    return _card(config, result, head, "A model", _use(task, form, pipeline))


def adapter_card(config: RunConfig, kind: str, result: Mapping[str, Any], rank: int) -> str:
    """Return the card of a run's adapter of this rank, in Markdown."""
    auto, labels = "AutoModelForCausalLM", result.get("labels", ())
    if kind not in LANGUAGE_KINDS:
        auto = "AutoModelForSequenceClassification"
    more = "" if kind in LANGUAGE_KINDS else f", num_labels={len(labels) or 1}"
    use = [
        *(
            "## Use",
            "",
            f"Its rank is {rank}. It belongs to the base model below, and to no other.",
        ),
        *([f"Its classes are: {', '.join(labels)}."] if labels else []),
        *("", "```python", "from peft import PeftModel", f"from transformers import {auto}", ""),
        f'base = {auto}.from_pretrained("{base_name(config)[0]}"{more})',
        'model = PeftModel.from_pretrained(base, ".")  # the folder of this file',
        "```",
    ]
    return _card(config, result, ["library_name: peft"], "An adapter", use)


def _card(
    config: RunConfig, result: Mapping[str, Any], head: list[str], what: str, use: list[str]
) -> str:
    base, on_hub = base_name(config)
    licence = licence_of(model_source(config.model.name))
    head += [f"base_model: {base}"] if on_hub else []
    head += [f"license: {licence}"] if licence else []
    training = config.training
    facts = {
        "base model": base,
        "licence of the base model": licence
        or "not said in its files; look it up before you pass this on",
        "task": result["task"],
        "method": config.method.name,
        "clients": result["clients"],
        "rounds": training.rounds,
        "learning rate": training.learning_rate,
        "seed": config.seed,
        "bytes down, all rounds": f"{result['download_bytes']:,}",
        "bytes up, all rounds": f"{result['upload_bytes']:,}",
    }
    if "privacy" in result:
        for name in ("clients", "bytes down, all rounds", "bytes up, all rounds"):
            del facts[name]  # they tell of single clients, and have no noise
        facts["privacy of clients"] = _privacy(result["privacy"])
    after, before = result["after"], result["before"]
    lines = ["---", *head, "---", "", f"# {what} fine-tuned with LEFF", "", *use]
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


def _privacy(spent: Mapping[str, Any]) -> str:
    """Return the guarantee in words, or that there is none."""
    if spent["epsilon"] is None or spent["reproducible"]:
        return "none: sums had no noise, or noise from a known seed"
    other = {"replaced": "its data replaced by other data", "added or removed": "in it or not"}
    return (
        f"({spent['epsilon']:.2f}, {spent['delta']:g}) differential privacy of each client, "
        f"{other[spent['neighbours']]}"
        + ("; of this run alone, as it started from a run without" if spent["open_start"] else "")
    )


def base_name(config: RunConfig) -> tuple[str, bool]:
    """Return a name for the base model that tells nothing of this machine; is it on the hub?"""
    name = config.model.name
    local = Path(name).is_absolute()
    return (Path(name).name if local else name), not (local or name == "sample")


def licence_of(source: str) -> str | None:
    """Return the licence in the card of a model, in a folder or in the hub's cache, if it says.

    `source` is as from `model_source`.  Nothing is fetched.
    """
    card: Any = Path(source) / "README.md"
    try:
        if not Path(source).is_dir():
            card = try_to_load_from_cache(source, "README.md")  # None if it is not there
        stated: Any = (
            ModelCard.load(card, ignore_metadata_errors=True).data.to_dict().get("license")
        )
    except Exception:  # a damaged card makes the library raise errors of any type
        return None
    return stated if isinstance(stated, str) and re.fullmatch(r"[\w.+-]{1,64}", stated) else None


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
        if task.kind == "multilabel":
            call = call.replace("))", ", top_k=None))")
            said = [f"A text has those of its classes that are above .5: {', '.join(task.labels)}."]
        elif task.labels:
            said = [f"Its classes are: {', '.join(task.labels)}."]
        else:
            call = call.replace("))", ', function_to_apply="none"))')
    return ["## Use", "", *said, "", *load, call, "```"]


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"
