"""`training.epochs = "auto"`: every client does as many operations as full training of an epoch."""

import numpy as np
import pytest
from tiny_runs import least, outcome

import leff
from leff.errors import ConfigError
from leff.runs.config import load_config
from leff.runs.plans import planned
from leff.runs.toml import commented_toml

pytestmark = pytest.mark.usefixtures("quick_runs")
METHODS = ("leff", "fedavg", "fedlora", "slora", "fedbitfit")


def steps_of(folder, name, epochs):
    """Run two clients with one layer each; return the run and its clients' steps in round 1."""
    folder = folder / f"{name}-{epochs}"
    folder.mkdir()
    changes = {"data__train_examples": 60, "clients__layers": [1], "clients__count": 2}
    changes |= {
        "context__name": "quantise",
        "evaluation__gap_clients": 0,
        "training__batch_size": 1,
    }
    settings = least(folder, method__name=name, training__epochs=epochs, **changes)
    run = leff.run(out=folder / "run", **settings)
    return run, {client.client: client.steps for client in run.records()[1].clients}


@pytest.mark.parametrize("name", METHODS)
def test_the_operations_of_a_round_are_those_of_full_training(name, tmp_path):
    """One step fewer or more is all that they differ by."""
    _, full = steps_of(tmp_path, "fedavg", 1.0)
    run, own = steps_of(tmp_path, name, "auto")
    config, wide = load_config(run.folder / "config.toml", {}), {}
    for method in ("fedavg", name):
        wide[method] = planned(config.model.name, method, config, layers=1)["step_flops"]
    for client, steps in own.items():
        wanted = full[client] * wide["fedavg"]
        if name == "leff":  # a step's operations depend on the place of the block
            assert full[client] < steps <= 2 * full[client]
        elif name != "slora":  # its first stage computes every weight's gradient
            assert steps * wide[name] <= wanted < (steps + 1) * wide[name]


def test_with_all_layers_auto_is_one_epoch_to_the_bit(tmp_path):
    one, auto = (steps_of(tmp_path, "fedavg", epochs)[0] for epochs in (1.0, "auto"))
    first, second = outcome(one.folder), outcome(auto.folder)
    assert first["model"] == second["model"] and first["records"] == second["records"]


def test_the_option_is_a_number_or_auto(tmp_path):
    config = load_config(None, {"training.epochs": "auto", "training.learning_rate": 1e-3})
    assert config.training.epochs == "auto" and config.training.local(0).epochs == 1.0
    assert 'epochs = "auto"' in commented_toml(config)
    assert load_config(None, {"training.epochs": np.float64(0.5)}).training.epochs == 0.5
    for wrong, shown in (("all", "'all'"), (True, "True"), (0, "0"), (2e4, "20000.0")):
        with pytest.raises(ConfigError, match=rf"training\.epochs must be a number .* got {shown}"):
            load_config(None, {"training.epochs": wrong})
