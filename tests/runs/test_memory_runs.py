"""Runs with `clients.memory`: how a step is done follows it, the result does not."""

from dataclasses import replace

import pytest
import torch
from tiny_runs import options, write_table

import leff
from leff.capacity.leaner_steps import variants
from leff.capacity.peak import predict
from leff.capacity.rehearsal import rehearse
from leff.errors import ConfigError
from leff.methods.registry import spec_of
from leff.methods.setup import block_layout
from leff.models import layer_count
from leff.models import load_config as load_model_config
from leff.runs.budgets import setup_of
from leff.runs.config import load_config
from leff.runs.plans import choose_plan

pytestmark = pytest.mark.usefixtures("quick_runs")

KIND = "generation"


@pytest.fixture
def settings(tmp_path, tiny_gpt2):
    """Options of a run of two clients that train two layers among 8-bit ones."""
    table = str(write_table(tmp_path / "t.jsonl", KIND))
    return options(
        undropped(tiny_gpt2, tmp_path / "model"),
        data__task="table",
        data__train=table,
        proxy__task="table",
        proxy__train=table,
        context__name="quantise",
        clients__count=2,
        clients__layers=[2],
        clients__partition="iid",
        training__rounds=2,
        training__batch_size=4,
        evaluation__gap_clients=0,
    )


def undropped(model, folder):
    """Copy a model without its dropout, which draws otherwise when a step is done in parts."""
    config, _ = load_model_config(str(model))
    made = leff.models.model_class(config, KIND).from_pretrained(str(model))
    for key in ("resid_pdrop", "embd_pdrop", "attn_pdrop"):
        setattr(made.config, key, 0.0)
    made.save_pretrained(folder)
    for path in model.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def peak_of(settings, variant, **numbers):
    """Return the peak of the nth variant of the step, at the place where most is held."""
    config = load_config(None, settings)
    shape, _ = load_model_config(config.model.name)
    spec = spec_of(config.method.name)
    asked = setup_of(config, spec, **numbers)
    return predict(shape, KIND, spec, replace(asked, step=variants(asked.step)[variant])).peak


def clients(run):
    return [client for record in run.records()[1:] for client in record.clients]


def weights(run):
    return run.load_model().state_dict()


@pytest.mark.parametrize("method", ["leff", "fedavg"])
def test_less_memory_does_the_step_in_parts_to_the_same_result(method, settings, tmp_path):
    settings["method.name"] = method
    free = leff.run(**settings, out=tmp_path / "free")
    assert {c.accumulation for c in clients(free)} == {1}
    assert {c.predicted_bytes for c in clients(free)} == {None}
    memory = (peak_of(settings, 0, layers=2) + peak_of(settings, -1, layers=2)) // 3
    lean = leff.run(**settings, **{"clients.memory": [f"{memory}B"]}, out=tmp_path / "lean")
    for client in clients(lean):
        assert client.accumulation > 1 or client.checkpointing
        assert client.state_bytes < client.predicted_bytes <= memory
    wanted = weights(free)
    for name, tensor in weights(lean).items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-3, atol=1e-4)


def test_a_byte_decides(settings, tmp_path):
    """Room for the plain step at the place of the most, and one byte less."""
    settings |= {"method.sampling": "fixed", "clients.count": 1, "training.rounds": 1}
    (first,) = clients(leff.run(**settings, out=tmp_path / "free"))
    config = load_config(None, settings)
    shape, _ = load_model_config(config.model.name)
    block = range(first.layers[0], first.layers[-1] + 1)
    asked = setup_of(config, spec_of("leff"), layers=2)
    layout = block_layout(asked.context, block, layer_count(shape), asked.embedding_bits)
    steps = (replace(asked.step, accumulation=n) for n in (1, 2))
    plain, two = (rehearse(shape, KIND, layout, replace(asked, step=step)).peak for step in steps)
    for memory, parts, predicted in ((plain, 1, plain), (plain - 1, 2, two)):
        given = {**settings, "clients.memory": [f"{memory}B"]}
        (client,) = clients(leff.run(**given, out=tmp_path / str(memory)))
        assert client.layers == first.layers
        assert (client.accumulation, client.checkpointing) == (parts, False)
        assert client.predicted_bytes == predicted


def test_it_is_never_plainer_than_asked(settings, tmp_path):
    settings |= {"training.accumulation": 2, "training.rounds": 1, "clients.memory": ["1GB"]}
    for client in clients(leff.run(**settings, out=tmp_path / "run")):
        assert (client.accumulation, client.checkpointing) == (2, False)


def test_memory_for_nobody_is_refused_at_the_start(settings, tmp_path):
    least = peak_of(settings, -1, layers=2)
    with pytest.raises(ConfigError, match=r"clients.memory: .* is too little for leff"):
        leff.run(**settings, **{"clients.memory": [f"{least - 1}B"]}, out=tmp_path / "run")
    given = {**settings, "clients.memory": [f"{least}B"], "training.rounds": 1}
    assert len(clients(leff.run(**given, out=tmp_path / "run"))) == 2


def test_a_plans_options_run_in_its_memory(settings, tmp_path):
    """The plan is for the place of the most; there, both count the same."""
    step = {k: v for k, v in settings.items() if k in ("training.batch_size", "data.max_length")}
    memory = peak_of(settings, 1, layers=2)
    plan = choose_plan(str(settings["model.name"]), load_config(None, step), memory=f"{memory}B")
    assert plan["predicted_bytes"] <= memory and plan["step"]["accumulation"] > 1
    given = {**settings, **plan["options"], "clients.memory": [f"{memory}B"]}
    given |= {"method.sampling": "round_robin", "training.rounds": 1, "clients.count": 4}
    done = clients(leff.run(**given, out=tmp_path / "run"))
    assert all(client.predicted_bytes <= memory for client in done)
    at_first = [client for client in done if client.layers[0] == 0]
    assert {client.predicted_bytes for client in at_first} == {plan["predicted_bytes"]}
    assert {client.accumulation for client in at_first} == {plan["step"]["accumulation"]}
