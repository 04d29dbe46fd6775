"""Measures a model on a task: loss, the task's own metrics, and generated texts.

    evaluator = Evaluator(task, tokenizer, max_length=96)
    evaluator.quick(model, examples=64)      # {"loss": 1.2, "metric": 0.31}
    evaluator.full(model, examples=200)      # every metric of the task, and texts

Each task has one headline metric: BLEU for generation, GLUE's own per task, accuracy or Pearson's
correlation for a table, and perplexity for plain text and for the answers of conversations.  A task
with worked examples (MMLU) is measured by the accuracy of the likeliest answer after them; no text
is generated.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import nn

from leff.tasks.columns import Table
from leff.tasks.encode import Example, encode, ensure_padding
from leff.tasks.generation import generate
from leff.tasks.held_out import held_out_logits, held_out_loss
from leff.tasks.metrics import glue, mmlu, nlg
from leff.tasks.metrics.sums import METRICS
from leff.tasks.task import Task, draw_rows
from leff.tasks.text_form import USUAL, TextForm

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Evaluator:
    """Measures models on a task's validation split (`quick`) and test split (`full`).

    If the task has no test split with answers, as in GLUE, `full` takes the validation split.
    A number of examples means that many random rows of the split, drawn with `seed`.
    """

    task: Task
    tokenizer: "PreTrainedTokenizerBase"
    max_length: int
    batch_size: int = 64
    max_new_tokens: int = 64
    seed: int = 0
    form: TextForm = USUAL  # of prompts, and of special tokens in texts
    _seen: dict[tuple[str, int], list[Example]] = field(
        default_factory=dict[tuple[str, int], list[Example]], repr=False
    )

    @property
    def metric(self) -> str:
        """The name of the task's headline metric."""
        if self.task.shots:
            return "accuracy"
        if self.task.kind == "generation":
            return "BLEU"
        return glue.PRIMARY.get(self.task.name, METRICS[self.task.kind][0])

    def quick(self, model: nn.Module, examples: int, texts: int = 0) -> dict[str, Any]:
        """Return ``loss`` (nats) and ``metric`` on that many examples of `validation`, greedily.

        Of a model that writes there are ``texts`` too, as in `full`, of the first `texts` examples.
        """
        rows = self._rows("validation", examples)
        if not self._writes:
            found = self._figures(model, "validation", rows)
            return {"loss": found.loss, "metric": found.metrics[self.metric]}
        loss = self._loss(model, "validation", rows)
        if self.task.kind == "chat":
            first = rows.select(range(min(texts, len(rows))))
            written = self._compared(first, self._texts(model, first, beams=1)) if texts else []
            return {"loss": loss, "metric": _perplexity(loss), "texts": written}
        outputs = self._texts(model, rows, beams=1)
        metric = nlg.bleu(rows["references"], outputs)
        return {"loss": loss, "metric": metric, "texts": self._compared(rows, outputs)[:texts]}

    def full(self, model: nn.Module, examples: int | None, beams: int = 1) -> dict[str, Any]:
        """Return ``loss``, ``metrics``, ``notes``, ``split``, ``examples`` and ``texts``.

        ``texts`` holds input, output and references of every example, for generation only.
        ``notes`` says why a metric is missing, how it differs from the official one, or how many
        prompts were shortened.  A classifier has ``confusion`` too: for each class, by name, how
        many of its examples were taken for each class.  If an example may have several classes, it
        is how many examples got the class rightly, missed it, or got it wrongly.
        """
        split = "test" if self.task.test is not None else "validation"
        rows = self._rows(split, examples)
        report: dict[str, Any] = {"split": split, "examples": len(rows)}
        if not self._writes:
            found = self._figures(model, split, rows)
            report |= {"loss": found.loss, "metrics": found.metrics, "notes": found.notes}
            report |= {"confusion": found.confusion} if found.confusion else {}
            report["texts"] = []
            return report
        outputs = self._texts(model, rows, beams)
        texts = self._compared(rows, outputs)
        scores = nlg.score([text["references"] for text in texts], outputs)
        loss = self._loss(model, split, rows)
        perplexity = {"perplexity": _perplexity(loss)} if self.task.kind == "chat" else {}
        return report | {
            "loss": loss,
            "metrics": perplexity | scores.values,
            "notes": scores.notes,
            "texts": texts,
        }

    def examples(self, split: str, count: int) -> list[Example]:
        """Return that many examples of a split, encoded, drawn with `seed`."""
        return self._encoded(split, self._rows(split, count))

    def _rows(self, split: str, examples: int | None) -> Table:
        return draw_rows(getattr(self.task, split), examples, self.seed, split)

    def _asked(self, rows: Table) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """Return the inputs, or the last questions, and the references of each."""
        if self.task.kind != "chat":
            return rows["input"], rows["references"]
        last = [talk[-2:] for talk in rows["messages"]]
        return [talk[0]["content"] for talk in last], [[talk[1]["content"]] for talk in last]

    def _compared(self, rows: Table, outputs: Sequence[str]) -> list[dict[str, Any]]:
        """Return each row's input, output and references."""
        asked, references = self._asked(rows)
        return [
            {"input": text, "output": output, "references": own}
            for text, output, own in zip(asked, outputs, references, strict=True)
        ]

    def _texts(self, model: nn.Module, rows: Table, beams: int) -> list[str]:
        chat = self.task.kind == "chat"
        return generate(
            model,
            self.tokenizer,
            [talk[:-1] for talk in rows["messages"]] if chat else rows["input"],
            max_new_tokens=self.max_new_tokens,
            beams=beams,
            batch_size=self.batch_size,
            max_length=self.max_length,
            form=self.form,
        )

    def _encoded(self, split: str, rows: Table) -> list[Example]:
        """Return the drawn rows of a split as examples, kept for the next rounds."""
        key = (split, len(rows))
        if key not in self._seen:
            self._seen[key] = encode(
                rows, self.tokenizer, self.task.kind, self.max_length, self.form
            )
        return self._seen[key]

    def _loss(self, model: nn.Module, split: str, rows: Table) -> float:
        pad_id = ensure_padding(self.tokenizer)
        examples = self._encoded(split, rows)
        return held_out_loss(model, examples, batch_size=self.batch_size, pad_id=pad_id)

    @property
    def _writes(self) -> bool:
        """Whether the model writes texts, to be compared with references."""
        return self.task.kind in ("generation", "chat") and not self.task.shots

    def _figures(self, model: nn.Module, split: str, rows: Any) -> "_Figures":
        """Return what is measured without generated text."""
        if not self.task.shots:
            return self._labels(model, split, rows)
        scores = mmlu.score(
            model,
            self.tokenizer,
            rows,
            self.task.shots,
            # a prompt with worked examples is several times as long as other tasks' examples
            batch_size=max(1, self.batch_size // 8),
        )
        metrics = {"accuracy": scores.accuracy, "subject_mean": scores.subject_mean}
        return _Figures(self._loss(model, split, rows), metrics, scores.notes)

    def _labels(self, model: nn.Module, split: str, rows: Table) -> "_Figures":
        """Return the figures of plain text, of conversations, or of labels."""
        if self.task.kind in ("text", "chat"):
            loss = self._loss(model, split, rows)
            return _Figures(loss, {"perplexity": _perplexity(loss)}, {})
        examples = self._encoded(split, rows)
        pad_id = ensure_padding(self.tokenizer)
        logits = held_out_logits(model, examples, batch_size=self.batch_size, pad_id=pad_id)
        labels = [example.label for example in examples if example.label is not None]
        if not torch.isfinite(logits).all():  # a diverged model is recorded, not an error
            return _Figures(math.nan, {self.metric: math.nan}, {})
        kind = cast(glue.Kind, self.task.kind)
        if kind == "regression":
            predictions, wanted = logits[:, 0], torch.tensor(labels, dtype=torch.float32)
            loss = nn.functional.mse_loss(predictions, wanted)
        elif kind == "multilabel":
            predictions, wanted = (logits > 0).int(), torch.tensor(labels, dtype=torch.float32)
            loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted)
        else:
            predictions, wanted = logits.argmax(-1), torch.tensor(labels, dtype=torch.long)
            loss = nn.functional.cross_entropy(logits, wanted)
        values = cast(list[Any], predictions.tolist())  # pyright: ignore[reportUnknownMemberType]
        if self.task.name in glue.PRIMARY:
            metrics = glue.score(self.task.name, values, wanted.numpy())
        else:
            metrics = glue.score_labels(kind, values, wanted.numpy())
        counts: Mapping[str, Mapping[str, int]] = {}
        if kind == "classification":
            counts = _confusion(self.task.labels, list(map(int, wanted)), values)
        elif kind == "multilabel":
            counts = _counts_by_class(self.task.labels, wanted > 0, predictions > 0)
        return _Figures(float(loss), metrics, {}, counts)


class _Figures(NamedTuple):
    loss: float
    metrics: dict[str, float]
    notes: dict[str, str]
    confusion: Mapping[str, Mapping[str, int]] = {}


def _confusion(
    names: Sequence[str], labels: Sequence[float], predictions: Sequence[float]
) -> dict[str, dict[str, int]]:
    """Return how many examples of each class, by name, were taken for each class."""
    pairs = Counter((int(y), int(p)) for y, p in zip(labels, predictions, strict=True))
    return {
        name: {other: pairs[y, p] for p, other in enumerate(names)} for y, name in enumerate(names)
    }


def _counts_by_class(
    names: Sequence[str], has: torch.Tensor, got: torch.Tensor
) -> dict[str, dict[str, int]]:
    """Return of each class, by name, how many examples have it, and were right or wrong; (n, K)."""
    counts = {"right": has & got, "missed": has & ~got, "wrong": ~has & got}
    return {
        name: {what: int(cells[:, k].sum()) for what, cells in counts.items()}
        for k, name in enumerate(names)
    }


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 700.0))
