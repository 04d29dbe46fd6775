"""The loss in chunks, against the models' own and against its closed form."""

import math

import pytest
import torch
from largest import Largest
from small_rounds import CPU, PAD, dropping, job_of, random_examples, undropped
from tiny_models import DECODERS, tiny
from torch.nn import functional
from transformers import Gemma2Config, GPT2Config, LlamaConfig

from leff.capacity.ledger import Ledger
from leff.client import train as client
from leff.models import body_and_head, model_class
from leff.models.losses import IGNORED, POSITIONS, chunked_loss, label_count, mean_loss
from leff.seeds import forked
from leff.tasks.encode import collate
from leff.tasks.held_out import held_out_loss

PLAIN = [name for name in DECODERS if name != "bert-decoder"]
B, T, D, V = 4, 70, 16, 3000  # N = 276 labels: three chunks


def labelled(name, rows=4):
    return dropping(name, "generation"), collate(random_examples("generation", rows), PAD)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def random_head(seed=0, trains=True):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(B, T, D, generator=generator).requires_grad_()
    weight = torch.randn(V, D, generator=generator).requires_grad_(trains)
    labels = torch.randint(0, V, (B, T), generator=generator)
    labels[0, :30] = labels[2] = labels[3, 65:] = IGNORED
    return hidden, weight, labels


def plain_loss(hidden, weight, labels):
    logits = functional.linear(hidden, weight).float()[:, :-1]
    return functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten())


def wide(kind=GPT2Config):
    """A model of one layer whose logits are by far the largest tensor, and a batch with labels."""
    sizes = {"vocab_size": V, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_size": D}
    extra = {} if kind is GPT2Config else {"intermediate_size": D, "num_key_value_heads": 2}
    model = undropped(model_class(kind(), "generation").from_config(kind(**sizes, **extra)))
    model.loss_type = "ForCausalLM"
    ids = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(0))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}


# The models' own loss


@pytest.mark.parametrize("name", DECODERS)
def test_loss_and_every_gradient_are_the_models_own(name):
    """Also of an architecture that is not taken apart."""
    model, batch = labelled(name)
    assert (body_and_head(model) is not None) == (name in PLAIN)
    own, found = model(**batch).loss, mean_loss(model, batch)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, own, rtol=1e-6, atol=0)
    wanted, got = gradients(model, own), gradients(model, found)
    assert wanted.keys() == got.keys()
    for each, gradient in wanted.items():
        torch.testing.assert_close(got[each], gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["classification", "multilabel", "regression"])
@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_other_kinds_keep_their_own_loss(name, kind):
    model, batch = dropping(name, kind), collate(random_examples(kind, 4), PAD)
    assert torch.equal(mean_loss(model, batch), model(**batch).loss)
    assert label_count(batch["labels"]) == 4


def test_logits_that_are_more_than_a_product_are_left_to_the_model():
    """Gemma 2 caps its logits; a head may have a bias, and a model another loss."""
    config = Gemma2Config(vocab_size=50, hidden_size=32, intermediate_size=48, head_dim=8,
                          num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                          final_logit_softcapping=0.01)  # fmt: skip
    with forked(0):  # with some seeds the two losses are equal to 1e-3
        model = model_class(config, "generation").from_config(config).eval()
    batch = collate(random_examples("generation", 4), PAD)
    assert body_and_head(model) is None
    own = model(**batch).loss
    assert torch.equal(mean_loss(model, batch), own)
    body = model.base_model(**{n: t for n, t in batch.items() if n != "labels"})
    uncapped = chunked_loss(body.last_hidden_state, model.lm_head.weight, batch["labels"])
    assert not torch.allclose(uncapped, own, rtol=1e-3)
    other = tiny("gpt2", "generation")
    other.loss_type = "ForMaskedLM"
    assert body_and_head(other) is None
    biased = tiny("gpt2-untied", "generation")
    biased.lm_head.bias = torch.nn.Parameter(torch.ones(50))
    assert body_and_head(biased) is None


# The chunks


@pytest.mark.parametrize("positions", [1, 5, 100, POSITIONS, 10_000])
@pytest.mark.parametrize("trains", [True, False])
def test_the_size_of_the_chunks_does_not_matter(positions, trains):
    (hidden, weight, labels), (plain_hidden, plain_weight, _) = (
        random_head(trains=trains) for _ in range(2)
    )
    loss, plain = chunked_loss(hidden, weight, labels, positions), plain_loss(
        plain_hidden, plain_weight, labels
    )  # fmt: skip
    torch.testing.assert_close(loss, plain, rtol=1e-6, atol=0)
    (3 * loss).backward()
    (3 * plain).backward()
    torch.testing.assert_close(hidden.grad, plain_hidden.grad, rtol=1e-4, atol=1e-7)
    assert (weight.grad is None) != trains
    if trains:
        torch.testing.assert_close(weight.grad, plain_weight.grad, rtol=1e-4, atol=1e-7)


def test_the_gradient_is_softmax_less_the_label():
    """Closed form: logits z, ∂/∂z = (softmax(z) - e_y) / N, with W the identity z = h."""
    hidden = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 0.0, 1.0], [5.0, 5.0, 5.0]]]).requires_grad_()
    loss = chunked_loss(hidden, torch.eye(3), torch.tensor([[0, 2, 1]]), positions=1)
    e = math.e
    first, second = [x / (e**2 + e + 1) for x in (e**2, e, 1)], [x / (e + 2) for x in (1, 1, e)]
    assert float(loss.detach()) == pytest.approx(-(math.log(first[2]) + math.log(second[1])) / 2)
    loss.backward()
    wanted = [[first[0], first[1], first[2] - 1], [second[0], second[1] - 1, second[2]], [0, 0, 0]]
    torch.testing.assert_close(hidden.grad[0], torch.tensor(wanted) / 2)


def test_bfloat16_products_and_an_fp32_softmax():
    """Against the plain path in the same autocast: the same products, so nearly the same bits."""
    model, batch = labelled("llama")
    with torch.autocast("cpu", torch.bfloat16):
        own, found = model(**batch).loss.float(), mean_loss(model, batch)
    exact = model(**batch).loss
    torch.testing.assert_close(found, own, rtol=1e-6, atol=0)
    assert not torch.allclose(found, exact, rtol=1e-5)
    wanted, got = gradients(model, own), gradients(model, found)
    for each, gradient in wanted.items():
        assert got[each].dtype == torch.float32
        assert float((got[each] - gradient).norm()) <= 1e-3 * float(gradient.norm())


def test_without_labels_it_is_nan_as_the_library_says():
    hidden, weight, labels = random_head()
    loss = chunked_loss(hidden, weight, torch.full_like(labels, IGNORED))
    assert math.isnan(float(loss.detach()))
    loss.backward()
    assert not hidden.grad.any() and not weight.grad.any()


def test_gradients_are_taken_once():
    hidden, weight, labels = random_head()
    loss = chunked_loss(hidden, weight, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(TypeError):
        loss.backward()


# What never exists


@pytest.mark.parametrize("config", [GPT2Config, LlamaConfig])
def test_no_tensor_has_all_the_logits(config):
    """The largest of forward and backward pass is a chunk's; the plain path makes all logits."""
    model, batch = wide(config)
    chunk = -(-B * (T - 1) // 3) * V  # 276 labels in three equal chunks
    assert chunk > V * D
    for loss_of, most in ((mean_loss, chunk), (lambda m, b: m(**b).loss, B * T * V)):
        with Largest() as seen:
            loss_of(model, batch).backward()
        assert seen.values == most


@pytest.mark.parametrize("trains", [True, False])
def test_a_chunks_logits_exist_once(trains):
    """Not three times, as log-probabilities, their gradient and the logits' gradient."""
    rows, width, words = 2 * POSITIONS, 8, 4096
    with Ledger() as ledger:
        hidden = ledger.empty((1, rows + 1, width), torch.float32).requires_grad_()
        weight = ledger.empty((words, width), torch.float32).requires_grad_(trains)
        before = ledger.held
        loss = chunked_loss(hidden, weight, torch.ones(1, rows + 1, dtype=torch.long))
        more = ledger.peak - before - (weight.nbytes if trains else 0)
        loss.backward()
    assert POSITIONS * words * 4 < more < 1.2 * POSITIONS * words * 4


def test_a_client_never_makes_all_the_logits_in_training_and_evaluation(store):
    model, _ = wide(LlamaConfig)
    model.config.pad_token_id = PAD
    examples = random_examples("text", 40)
    job = job_of(model, "generation", store, range(1))
    with Largest() as seen:
        assert client.train(job, store.get, examples, CPU).failure is None
        held_out_loss(model, examples, batch_size=40, pad_id=PAD)
    assert seen.values <= POSITIONS * V < 40 * 5 * V


def test_no_gradient_is_made_where_none_is_wanted():
    """In evaluation a head that could train costs its products forward alone."""
    model, batch = wide(LlamaConfig)
    with torch.no_grad(), Counting() as counted:
        mean_loss(model, batch)
    assert counted.products == 3  # one for each chunk


class Counting(Largest):
    """How many products make (C, V) logits, or their gradients with (V, D)."""

    products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        matrices = [a for a in args if isinstance(a, torch.Tensor) and V in a.shape]
        self.products += name in ("mm", "addmm", "addmm_") and bool(matrices)
        return super().__torch_dispatch__(func, types, args, kwargs)
