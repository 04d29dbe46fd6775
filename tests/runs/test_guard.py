"""From options to the bounds of one client's influence, and a resumed run under each."""

import json
import logging

import pytest
from small_rounds import recipe
from tiny_models import tiny
from tiny_runs import Killed, options, outcome, save_tiny, write_table

import leff
from leff.errors import ConfigError
from leff.methods.guard import Guard
from leff.runs import federation
from leff.runs.config import load_config
from leff.runs.guard import make_guard

KIND = "generation"


def guard_of(store, method="fedavg", layers=(4,), total=4, kind=KIND, **given):
    values = {key.replace("__", "."): value for key, value in given.items()}
    config = load_config(None, {"method.name": method, "clients.count": 8, **values})
    made = recipe(method, tiny("gpt2", KIND), KIND, store)
    return make_guard(config, made, layers, total, kind)


def test_options_are_the_guards(store):
    assert guard_of(store) == Guard()
    given = {"clip_norm": 2.5, "merge": "trimmed_mean", "trim": 0.1, "most_weight": 0.5}
    made = guard_of(store, **{f"method__{key}": value for key, value in given.items()})
    assert made == Guard(**given)


@pytest.mark.parametrize(
    ("kind", "levelled", "weights"),
    [
        ("generation", True, "examples"),
        ("classification", True, "steps"),
        ("regression", True, "steps"),
        ("classification", False, "examples"),
    ],
)
def test_a_client_counts_by_steps_where_heads_are_levelled(store, kind, levelled, weights):
    given = {"training__levelled": levelled, "kind": kind}
    assert guard_of(store, "leff", **given).weights == weights
    assert guard_of(store, "leff", method__weights="equal", **given).weights == "equal"


@pytest.mark.parametrize("method", ["flora", "flexlora"])
@pytest.mark.parametrize("merge", ["median", "trimmed_mean"])
def test_robust_merges_of_single_updates_are_refused_by_name(method, merge, store):
    with pytest.raises(ConfigError) as caught:
        guard_of(store, method, method__merge=merge)
    assert f"method.merge = '{merge}'" in str(caught.value)
    assert f"cannot be used by {method}" in str(caught.value)
    assert guard_of(store, method, method__clip_norm=1.0, method__most_weight=0.5).clip_norm == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"clients__count": 2, "method__merge": "median"}, "needs 3 clients, and a round has 2"),
        (
            {"clients__per_round": 0.25, "method__merge": "median"},
            "needs 3 clients, and a round has 2",
        ),
        (
            {"method__merge": "trimmed_mean", "method__trim": 0.4},
            "with method.trim = 0.4 needs 9 clients, and a round has 8",
        ),
    ],
)
def test_too_few_clients_are_refused(given, said, store):
    with pytest.raises(ConfigError, match=said):
        guard_of(store, **given)


def test_layers_of_too_few_clients_are_mentioned(store, caplog):
    caplog.set_level(logging.WARNING, "leff")
    guard_of(store, layers=(1, 2), method__merge="median")  # 8 clients of 1.5 of 4 layers
    assert not caplog.records
    guard_of(store, layers=(1, 1), method__merge="median")
    assert "trained by about 2.0 clients a round" in caplog.text and "needs 3" in caplog.text


@pytest.mark.parametrize("value", [-1.0, "much", 1e10])
def test_a_bound_that_is_none_is_refused(value):
    with pytest.raises(ConfigError, match="clip_norm"):
        load_config(None, {"method.clip_norm": value})


@pytest.mark.parametrize("value", [0.0, 0.5, -0.1])
def test_a_share_that_leaves_nothing_is_refused(value):
    with pytest.raises(ConfigError, match="trim"):
        load_config(None, {"method.trim": value})


class Dies(federation.Silent):
    """Ends the process, so to say, after so many updates."""

    def __init__(self, left):
        self.left = left

    def trained(self, index, update):
        self.left -= 1
        if not self.left:
            raise Killed


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
@pytest.mark.parametrize(
    ("method", "given"),
    [
        ("leff", {"merge": "median", "source": "clients", "momentum": 0.5, "clip_norm": 0.01}),
        ("fedlora", {"merge": "trimmed_mean"}),
        ("flora", {"clip_norm": 0.01, "most_weight": 0.3}),
    ],
)
def test_a_killed_run_goes_on_to_the_same_result(method, given, tmp_path):
    table = write_table(tmp_path / "train.jsonl", KIND)
    changes = {"data__task": "table", "data__train": str(table), "clients__partition": "iid"}
    changes |= {f"method__{key}": value for key, value in given.items()}
    settings = options(
        save_tiny(tmp_path / "model"), method__name=method, method__rank=2, **changes
    )
    leff.run(**settings, out=tmp_path / "whole")
    with pytest.raises(Killed):
        leff.run(**settings, out=tmp_path / "run", progress=Dies(6))
    leff.resume(tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")
    lines = (tmp_path / "run" / "rounds.jsonl").read_text().splitlines()[1:]
    records = [json.loads(line) for line in lines]
    clients = [client for record in records for client in record["clients"]]
    assert all(client["norm"] > 0 for client in clients)
    assert all(client.get("clipped", False) == ("clip_norm" in given) for client in clients)
    if method == "leff":
        assert all(set(record.get("too_few", {})) <= set("0123") for record in records)
        assert any("too_few" in record for record in records)
