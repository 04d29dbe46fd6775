"""MMLU's scores: closed forms, and a reference that takes one prompt at a time."""

import math
from types import SimpleNamespace

import pytest
import torch
from tiny_mmlu import write_mmlu
from tiny_runs import save_tiny
from torch import nn
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from leff.errors import ModelError
from leff.tasks.metrics.mmlu import fit, log_likelihoods, score
from leff.tasks.sources.mmlu import load_test, with_shots
from leff.tasks.sources.sample import MODEL


class TwoTokens:
    """Every character is two tokens; the letters differ in both: A 2 10, B 3 0, C 4 1, D 5 2."""

    bos_token_id = None
    all_special_tokens = ()

    def __call__(self, texts, **_):
        texts = [texts] if isinstance(texts, str) else texts
        ids = [[i for c in map(ord, text) for i in (c % 7, c % 11)] for text in texts]
        return {"input_ids": ids if len(ids) > 1 else ids[0]}


class Mixed(TwoTokens):
    """The same, but " B" is one token, as in vocabularies that hold only some of the letters."""

    def __call__(self, texts, **_):
        found = [
            super(Mixed, self).__call__(text.removesuffix(" B"))["input_ids"] for text in texts
        ]
        return {
            "input_ids": [i + [11] * t.endswith(" B") for i, t in zip(found, texts, strict=True)]
        }


class WithStart(TwoTokens):
    """The same, after a beginning-of-sequence token."""

    bos_token_id = 11
    bos_token = "<s>"

    def __call__(self, texts, add_special_tokens=True, **_):
        found = super().__call__(texts)["input_ids"]
        return {"input_ids": [11, *found] if add_special_tokens else found}


class Counts(nn.Module):
    """Predicts what was frequent: log p of a token grows with its count so far."""

    def __init__(self, vocabulary):
        super().__init__()
        self.config = GPT2Config(n_positions=10_000)
        self.vocabulary = vocabulary
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, input_ids, attention_mask):
        hot = nn.functional.one_hot(input_ids, self.vocabulary) * attention_mask[..., None]
        return SimpleNamespace(logits=hot.cumsum(1) * self.weight)


@pytest.fixture(scope="module")
def mmlu(tmp_path_factory):
    return load_test(write_mmlu(tmp_path_factory.mktemp("mmlu")))


@pytest.fixture(scope="module")
def bpe():
    return AutoTokenizer.from_pretrained(str(MODEL))


def gpt2(vocabulary, positions=1024):
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=vocabulary, n_embd=16, n_layer=2, n_head=2, n_positions=positions,
        initializer_range=0.5, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def llama(vocabulary, positions=1024):
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=positions, initializer_range=0.5,
        bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def reference(model, tokenizer, text):
    """Log-likelihoods of the four answers, the slow and plain way: no batch, no padding."""
    found = []
    for letter in "ABCD":
        before, whole = tokenizer([text, f"{text} {letter}"])["input_ids"]
        with torch.no_grad():
            logs = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
        same = next(
            (i for i, (a, b) in enumerate(zip(before, whole, strict=False)) if a != b), len(before)
        )
        found.append(sum(float(logs[t - 1, whole[t]]) for t in range(same, len(whole))))
    return torch.tensor(found)


def relative(found):
    return found - found.mean(-1, keepdim=True)  # what all four share has no part in the choice


@pytest.mark.parametrize("make", [gpt2, llama])
@pytest.mark.parametrize("whose", ["bpe", "two", "mixed"])
@pytest.mark.parametrize("count", [0, 2])
def test_one_prompt_at_a_time_gives_the_same(make, whose, count, mmlu, bpe):
    tokenizer = {"bpe": bpe, "two": TwoTokens(), "mixed": Mixed()}[whose]
    model = make(len(bpe) if whose == "bpe" else 12)
    questions, shots = mmlu
    prompts = [fit(tokenizer, q, shots[q["subject"]][:count], 1024) for q in questions]
    assert {prompt.shots for prompt in prompts} == {count}
    tokens = {"bpe": {1}, "two": {2}, "mixed": {1, 4}}[whose]
    assert {len(answer) for prompt in prompts for answer in prompt.answers} == tokens
    texts = [with_shots(q["input"], q["subject"], shots[q["subject"]][:count]) for q in questions]
    wanted = torch.stack([reference(model, tokenizer, text) for text in texts])
    assert relative(wanted).abs().min(1).values.max() > 1e-2  # there is a choice to get wrong
    for batch_size in (1, 3, 64):
        found = log_likelihoods(model, prompts, batch_size)
        torch.testing.assert_close(relative(found), relative(wanted), atol=2e-4, rtol=1e-4)
    scores = score(model, tokenizer, questions, shots, count=count, batch_size=3)
    answers = torch.tensor(["ABCD".index(q["references"][0]) for q in questions])
    assert scores.accuracy == pytest.approx(float((wanted.argmax(1) == answers).double().mean()))


def test_the_frequent_answer_is_chosen_where_the_logits_are_counts(mmlu, bpe):
    """Of A B C D A, the five worked examples' answers, A is the most frequent."""
    questions, shots = mmlu
    letters = [bpe(f"Answer: {a}")["input_ids"][-1] for a in "ABCD"]
    assert len(set(letters)) == 4
    model = Counts(len(bpe))
    for batch_size in (1, 2, 64):
        scores = score(model, bpe, questions, shots, batch_size=batch_size)
        # answers are A B C, and A B: one of three, one of two
        assert scores.accuracy == pytest.approx(2 / 5)
        assert scores.subject_mean == pytest.approx((1 / 3 + 1 / 2) / 2)
        assert scores.subjects == {
            "abstract_algebra": {"accuracy": pytest.approx(1 / 3), "questions": 3},
            "virology": {"accuracy": pytest.approx(1 / 2), "questions": 2},
        }
        assert scores.categories == {"STEM": pytest.approx(1 / 3), "other": pytest.approx(1 / 2)}
        assert scores.questions == 5 and scores.notes == {}
    only_b = {subject: [texts[1]] * 5 for subject, texts in shots.items()}
    assert score(model, bpe, questions, only_b).accuracy == pytest.approx(2 / 5)
    only_c = {subject: [texts[2]] * 5 for subject, texts in shots.items()}
    assert score(model, bpe, questions, only_c).subjects["virology"]["accuracy"] == 0


def test_shots_are_dropped_one_by_one_from_the_end(mmlu):
    questions, shots = mmlu
    row, worked = questions[0], shots["abstract_algebra"]
    tokenizer = TwoTokens()
    sizes = [2 * len(with_shots(row["input"], row["subject"], worked[:k])) for k in range(6)]
    for k in range(6):
        for most, wanted in ((sizes[k] + 3, k), (sizes[k] + 2, k - 1)):
            # a blank of two tokens is in common, and the first of a letter's two needs a position
            prompt = fit(tokenizer, row, worked, most)
            assert (prompt.shots, prompt.cut) == ((wanted, False) if wanted >= 0 else (0, True))
            assert len(prompt.common) + 1 <= most
    text = with_shots(row["input"], row["subject"], worked[:2]) + " "
    assert fit(tokenizer, row, worked, sizes[2] + 3).common == tokenizer(text)["input_ids"]


@pytest.mark.parametrize("kind", [TwoTokens, WithStart])
def test_a_question_that_does_not_fit_is_cut_from_the_left(mmlu, kind):
    questions, shots = mmlu
    tokenizer, start = kind(), [11] if kind is WithStart else []
    prompt = fit(tokenizer, questions[0], shots["abstract_algebra"], 40)
    ids = TwoTokens()(questions[0]["input"] + " ")["input_ids"]
    assert prompt.cut and prompt.shots == 0
    assert prompt.common == start + ids[len(ids) - 39 + len(start) :]
    assert prompt.answers == [[2, 10], [3, 0], [4, 1], [5, 2]]


def test_notes_count_the_shortened_prompts(mmlu):
    questions, shots = mmlu
    tokenizer = TwoTokens()
    assert score(gpt2(11, 2000), tokenizer, questions, shots).notes == {}
    notes = score(gpt2(11, 64), tokenizer, questions, shots).notes
    assert notes["shots"].startswith("5 of 5 questions had fewer than 5 worked examples")
    assert "the mean of all is 0.00" in notes["shots"]
    assert notes["cut"] == "5 of 5 questions had no room in 64 positions and lost their left"
    fewer = score(gpt2(11, 700), tokenizer, questions, shots).notes
    assert "shots" in fewer and "cut" not in fewer


def test_a_diverged_model_scores_not_a_number(mmlu, bpe):
    model = gpt2(len(bpe))
    with torch.no_grad():
        model.transformer.ln_f.bias.fill_(torch.nan)
    scores = score(model, bpe, *mmlu)
    assert math.isnan(scores.accuracy) and math.isnan(scores.subject_mean)


def test_the_mode_is_put_back_and_progress_is_told(mmlu, bpe):
    model, heard = gpt2(len(bpe)).train(), []
    score(model, bpe, *mmlu, progress=lambda done, total: heard.append((done, total)))
    assert model.training and heard == [(3, 5), (5, 5)]


def test_letters_that_are_one_token_are_refused(mmlu):
    class Capitals(TwoTokens):
        def __call__(self, texts, **_):
            texts = [t.translate(dict.fromkeys(map(ord, "ABCD"), "?")) for t in texts]
            return super().__call__(texts)

    tokenizer = Capitals()
    with pytest.raises(ModelError, match="cannot tell"):
        score(gpt2(11), tokenizer, *mmlu)


def test_the_evaluator_measures_by_likelihood(tmp_path, monkeypatch):
    from leff.models import load_model
    from leff.tasks.evaluator import Evaluator
    from leff.tasks.load import load_task
    from leff.tasks.task import draw_rows

    monkeypatch.setattr(
        "leff.tasks.evaluator.generate", lambda *_, **__: pytest.fail("text written")
    )
    task = load_task("mmlu", write_mmlu(tmp_path))
    model, tokenizer = load_model(save_tiny(tmp_path / "model"), "generation")
    evaluator = Evaluator(task, tokenizer, 48, batch_size=16)
    assert evaluator.metric == "accuracy"
    quick = evaluator.quick(model, 6)
    drawn = draw_rows(task.validation, 6, 0, "validation")
    assert quick["metric"] == score(model, tokenizer, drawn, task.shots).accuracy
    assert quick["loss"] > 0
    full = evaluator.full(model, None)
    assert (full["split"], full["examples"], full["texts"]) == ("test", 5, [])
    scores = score(model, tokenizer, task.test, task.shots)
    assert full["metrics"] == {"accuracy": scores.accuracy, "subject_mean": scores.subject_mean}
    assert full["notes"] == scores.notes and "cut" in full["notes"]
