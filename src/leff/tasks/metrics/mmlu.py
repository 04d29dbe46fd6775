"""MMLU (Hendrycks et al. 2021): accuracy of the answer that a language model finds likeliest.

    questions, shots = load_test(folder)
    score(model, tokenizer, questions, shots).accuracy

As in the authors' `evaluate.py` (github.com/hendrycks/test): up to five worked examples of the
subject, the question, ``Answer:``, and of " A" to " D" the likeliest continuation.  Nothing is
generated.  Legend: B batch, P positions, V vocabulary.
"""

import inspect
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from leff.errors import ModelError
from leff.models import positions
from leff.tasks.columns import Table
from leff.tasks.encode import Example, by_length, collate, prompt_ids
from leff.tasks.sources.mmlu import LETTERS, SHOTS, Shots, with_shots

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# The authors' `categories.py`, whose fourth is "other (business, health, misc.)".
CATEGORIES = {
    name: subjects.split()
    for name, subjects in {
        "STEM": """abstract_algebra astronomy college_biology college_chemistry
            college_computer_science college_mathematics college_physics computer_security
            conceptual_physics electrical_engineering elementary_mathematics high_school_biology
            high_school_chemistry high_school_computer_science high_school_mathematics
            high_school_physics high_school_statistics machine_learning""",
        "humanities": """formal_logic high_school_european_history high_school_us_history
            high_school_world_history international_law jurisprudence logical_fallacies
            moral_disputes moral_scenarios philosophy prehistory professional_law
            world_religions""",
        "social sciences": """econometrics high_school_geography
            high_school_government_and_politics high_school_macroeconomics
            high_school_microeconomics high_school_psychology human_sexuality
            professional_psychology public_relations security_studies sociology
            us_foreign_policy""",
        "other": """anatomy business_ethics clinical_knowledge college_medicine global_facts
            human_aging management marketing medical_genetics miscellaneous nutrition
            professional_accounting professional_medicine virology""",
    }.items()
}


@dataclass(frozen=True)
class Prompt:
    """A question as tokens: the tokens that its answers share, and those of each answer.

    Prompt and answer are tokenised together, not the letter alone, since tokenizers differ in what
    they do with the blank before it.
    """

    common: list[int]
    answers: list[list[int]]  # of A, B, C, D; usually a token each
    shots: int
    cut: bool


@dataclass(frozen=True)
class Scores:
    """Shares of right answers: of all questions (the usual headline), and the subjects' mean.

    `subjects` has ``accuracy`` and ``questions`` of each subject.  `categories` has the accuracy
    over the questions of each of the authors' four categories, except empty ones.  A model that is
    not finite scores NaN.  `notes` says how many prompts were shortened.
    """

    accuracy: float
    subject_mean: float
    subjects: dict[str, dict[str, float]]
    categories: dict[str, float]
    questions: int
    notes: dict[str, str]


def score(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    questions: Table,
    shots: Shots,
    *,
    count: int = SHOTS,
    batch_size: int = 8,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Score a causal model on questions (``input``, ``references``, ``subject``).

    `count` worked examples of `shots` come before each question.  If the prompt has more tokens
    than the model positions, the last examples are left out one by one, as the authors do.  A
    question that is too long by itself loses its left.  `batch_size` is the number of prompts
    computed at a time; it does not change the result.  `progress` is called with the number of
    questions done and of all questions.

    Raises ModelError for a tokenizer that cannot tell the letters apart.
    """
    by_subject: dict[str, list[Mapping[str, Any]]] = {}
    for row in questions:
        by_subject.setdefault(row["subject"], []).append(row)
    right: dict[str, list[float]] = {}
    fitted: list[Prompt] = []
    most = positions(model.config)  # pyright: ignore[reportArgumentType]
    for subject, rows in sorted(by_subject.items()):
        prompts = [fit(tokenizer, row, shots[subject][:count], most) for row in rows]
        scores = log_likelihoods(model, prompts, batch_size)
        wanted = torch.tensor([LETTERS.index(row["references"][0]) for row in rows])
        hits = (scores.argmax(1) == wanted).double()
        hits = hits.where(~scores.isnan().any(1), math.nan)
        right[subject] = cast(list[float], hits.tolist())  # pyright: ignore[reportUnknownMemberType]
        fitted += prompts
        progress(len(fitted), len(questions))
    grouped = {
        name: [hit for subject in subjects for hit in right.get(subject, ())]
        for name, subjects in CATEGORIES.items()
    }
    return Scores(
        accuracy=_mean([hit for hits in right.values() for hit in hits]),
        subject_mean=_mean([_mean(hits) for hits in right.values()]),
        subjects={
            subject: {"accuracy": _mean(hits), "questions": len(hits)}
            for subject, hits in right.items()
        },
        categories={name: _mean(hits) for name, hits in grouped.items() if hits},
        questions=len(questions),
        notes=_notes(fitted, count, most),
    )


def fit(
    tokenizer: "PreTrainedTokenizerBase", row: Mapping[str, Any], shots: Sequence[str], most: int
) -> Prompt:
    """Return a question after as many of its worked examples as fit into `most` positions.

    A question that is cut from the left keeps a beginning-of-sequence token.
    """
    count = len(shots)
    while True:
        text = with_shots(row["input"], row["subject"], shots[:count])
        common, answers = _tokens(tokenizer, text)
        # an answer's last token is only predicted, so it needs no position
        excess = len(common) + max(map(len, answers)) - 1 - most
        if excess <= 0:
            return Prompt(common, answers, count, cut=False)
        if not count:
            start = int(common[0] == tokenizer.bos_token_id)
            return Prompt(common[:start] + common[start + excess :], answers, 0, cut=True)
        count -= 1


@torch.no_grad()
def log_likelihoods(model: nn.Module, prompts: Sequence[Prompt], batch_size: int) -> torch.Tensor:
    """Return log p(answer | prompt) in nats of A to D, (prompts, 4), on the CPU.

    The tokens that the answers share are left out, since they add the same to all four.  Padding
    is on the right, where a causal model does not see it.
    """
    served: dict[tuple[int, ...], list[tuple[int, int]]] = {}  # answers of one token share a pass
    for i, prompt in enumerate(prompts):
        for a, answer in enumerate(prompt.answers):
            served.setdefault((*prompt.common, *answer[:-1]), []).append((i, a))
    passes = [Example(np.array(ids, dtype=np.int32)) for ids in served]
    answered = list(served.values())
    scores = torch.empty(len(prompts), len(LETTERS))
    was_training = model.training
    model.eval()
    order = by_length(passes)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        wanted = [  # an answer's tokens are predicted at the last positions of its pass
            (row, len(passes[p].input_ids), i, a)
            for row, p in enumerate(chosen)
            for i, a in answered[p]
        ]
        spans = [range(size - len(prompts[i].answers[a]), size) for _, size, i, a in wanted]
        places = sorted({place for span in spans for place in span})
        logs = _log_probabilities(model, [passes[p] for p in chosen], places)  # (B, P, V)
        for (row, _, i, a), span in zip(wanted, spans, strict=True):
            answer = torch.tensor(prompts[i].answers[a])
            columns = [places.index(place) for place in span]
            scores[i, a] = logs[row, columns, answer].sum()
    model.train(was_training)
    return scores


def _tokens(tokenizer: "PreTrainedTokenizerBase", text: str) -> tuple[list[int], list[list[int]]]:
    """Return the tokens that the prompt shares with all answers, and those of each answer."""
    whole = prompt_ids([f"{text} {letter}" for letter in LETTERS], tokenizer, sys.maxsize)
    alike = (len(set(tokens)) == 1 for tokens in zip(*whole, strict=False))
    shared = next((place for place, same in enumerate(alike) if not same), None)
    answers = [ids[shared:] for ids in whole]
    if shared is None or len(set(map(tuple, answers))) < len(LETTERS):
        raise ModelError(
            'the tokenizer cannot tell " A", " B", " C" and " D" apart, so the answers have no '
            "likelihoods of their own; take a model whose tokenizer knows capital letters"
        )
    return whole[0][:shared], answers


def _log_probabilities(
    model: nn.Module, examples: Sequence[Example], places: Sequence[int]
) -> torch.Tensor:
    """Return log p of the token after each of the `places`, (B, P, V), on the CPU."""
    device = next(model.parameters()).device
    batch = collate(examples, pad_id=0)  # any token will do
    inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}
    wanted = torch.tensor(places, device=device)
    # logits of all places would need the most memory; most models compute chosen ones
    if "logits_to_keep" in inspect.signature(model.forward).parameters:
        logits = model(**inputs, logits_to_keep=wanted).logits
    else:
        logits = model(**inputs).logits[:, wanted]
    return logits.float().log_softmax(-1).cpu()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _notes(prompts: Sequence[Prompt], count: int, most: int) -> dict[str, str]:
    of = f"of {len(prompts)} questions"
    notes: dict[str, str] = {}
    if fewer := sum(prompt.shots < count for prompt in prompts):
        mean = _mean([prompt.shots for prompt in prompts])
        notes["shots"] = (
            f"{fewer} {of} had fewer than {count} worked examples, to fit into {most} positions; "
            f"the mean of all is {mean:.2f}"
        )
    if cut := sum(prompt.cut for prompt in prompts):
        notes["cut"] = f"{cut} {of} had no room in {most} positions and lost their left"
    return notes
