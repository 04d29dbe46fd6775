"""Generation: batches, order, padding, beams, and room for the new tokens."""

import pytest
import torch
from tiny_runs import save_tiny

from leff.errors import ConfigError
from leff.models import load_model
from leff.tasks.encode import prompt_ids
from leff.tasks.generation import generate
from leff.tasks.text_form import AS_IT_IS, USUAL

INPUTS = [
    "name: Heron Path | area: Mossdale | grade: easy | sight: a mill",
    "name: Fen Loop",
    "area: Mossdale | name: River Way",
    "name: Fen Loop | grade: hard",
    "x",
]


@pytest.fixture(scope="module")
def sample():
    from leff.tasks.sources.sample import MODEL

    return load_model(str(MODEL), "generation")


def one_by_one(model, tokenizer, text, **settings):
    ids = torch.tensor(prompt_ids([text], tokenizer, 64, USUAL))
    made = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, **settings)
    return tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True).strip()


@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_equals_the_librarys_own_calls_in_order(sample, beams):
    """So padding on the left changes nothing, and order is kept."""
    model, tokenizer = sample
    texts = generate(model, tokenizer, INPUTS, max_new_tokens=10, beams=beams)
    settings = {"max_new_tokens": 10, "num_beams": beams, "pad_token_id": tokenizer.pad_token_id}
    assert texts == [one_by_one(model, tokenizer, text, **settings) for text in INPUTS]
    assert len(set(texts)) > 2
    small = generate(model, tokenizer, INPUTS, max_new_tokens=10, beams=beams, batch_size=2)
    assert small == texts
    backwards = generate(model, tokenizer, INPUTS[::-1], max_new_tokens=10, beams=beams)
    assert backwards == texts[::-1]


def test_the_mode_is_put_back_and_nothing_is_drawn(sample):
    model, tokenizer = sample
    state = torch.get_rng_state()
    model.train()
    generate(model, tokenizer, INPUTS[:1], max_new_tokens=2)
    assert model.training
    model.eval()
    generate(model, tokenizer, INPUTS[:1], max_new_tokens=2)
    assert not model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_an_input_can_be_the_prompt_as_it_is(sample):
    written = generate(
        *sample, [USUAL.filled(text) for text in INPUTS], max_new_tokens=4, form=AS_IT_IS
    )
    assert written == generate(*sample, INPUTS, max_new_tokens=4)
    assert generate(*sample, INPUTS, max_new_tokens=4, form=AS_IT_IS) != written


def test_no_input_gives_no_text(sample):
    assert generate(*sample, []) == []


def test_long_prompts_leave_room_for_the_new_tokens(tmp_path):
    model, tokenizer = load_model(save_tiny(tmp_path), "generation")  # 64 positions
    long = " | ".join(INPUTS * 5)
    assert len(prompt_ids([long], tokenizer, 512, USUAL)[0]) > 64
    (text,) = generate(model, tokenizer, [long], max_new_tokens=60)
    cut = tokenizer.decode(prompt_ids([long], tokenizer, 4, USUAL)[0])
    assert cut.endswith("=") and isinstance(text, str)
    with pytest.raises(ConfigError, match=r"max_new_tokens must be at most 60 .* got 61"):
        generate(model, tokenizer, ["a"], max_new_tokens=61)
