"""The benchmarks' interfaces: what scripts read from them.  Their figures are not tested."""

import argparse
import asyncio
import json
import runpy
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from scipy.stats import ttest_rel
from transformers import AutoConfig

from benchmarks import (
    attack,
    convergence,
    deadline,
    delay,
    device,
    fidelity,
    flora,
    frontier,
    inversion,
    masks,
    namespaces,
    network,
    private,
    robust,
    server,
    upload,
)
from benchmarks.federation import free_ports
from leff.files import read_json
from leff.methods.setup import ClientSetup
from leff.models import short_config
from leff.runs.config import RunConfig, load_config
from leff.runs.plans import shape_of
from leff.wire.messages import Step, Update
from leff.wire.tensors import pack, unpack

RESULTS = Path(__file__).parents[1] / "results"
SMALL = {
    "proxy.examples": 16,
    "context.steps": 2,
    "evaluation.examples": 6,
    "evaluation.final_examples": 6,
    "evaluation.gap_clients": 0,
    "evaluation.max_new_tokens": 4,
    "engine.workers": 1,
}


@pytest.fixture
def printed(capsys, monkeypatch):
    """What `python -m benchmarks.MODULE ... --json` prints, in this process."""

    def run(module: str, *arguments: str):
        monkeypatch.setattr("sys.argv", [module, *arguments, "--json"])
        monkeypatch.delitem(sys.modules, f"benchmarks.{module}", raising=False)
        runpy.run_module(f"benchmarks.{module}", run_name="__main__")
        return json.loads(capsys.readouterr().out)

    return run


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
def test_fidelity_has_a_row_for_each_side(printed):
    sizes = ("--partitions=1", "--rounds=1", "--examples=40", "--clients=2")
    changed = [f"{key}={value}" for key, value in SMALL.items() if key != "context.steps"]
    rows = printed("fidelity", "--task", "sample", *sizes, "--set", *changed)
    assert [row["method"] for row in rows] == ["fedavg", "leff", "leff-paper"]
    for row in rows:
        assert 0 <= row["worst_last5"] <= row["mean_last5"] <= 100
        assert row["server_seconds"] >= 0 and row["step_flops"] > 0
        assert row["client_bytes"] == pytest.approx(row["client_bytes_predicted"], rel=0.02)
    by_method = {row["method"]: row for row in rows}
    assert by_method["leff"]["client_bytes"] < 0.3 * by_method["fedavg"]["client_bytes"]


def test_fidelity_runs_nothing_whose_figures_are_there(tmp_path, monkeypatch):
    runs = []
    monkeypatch.setattr(fidelity, "run_of", lambda config, folder: runs.append(folder) or {"a": 1})
    for rate in (1e-3, 1e-3, 2e-3):
        options = {"data.task": "sample", "training.learning_rate": rate}
        results = tmp_path / "results"
        assert fidelity.one_run("leff", options, tmp_path, results) == {"a": 1}
    assert len(runs) == 2 and len(list(results.iterdir())) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
def test_deadline_has_two_rows_for_each_method(monkeypatch, tiny_gpt2):
    monkeypatch.setattr(deadline, "METHODS", ("leff",))
    changes = {**SMALL, "model.name": str(tiny_gpt2), "data.max_length": 32}
    free, late = deadline.compare("0.1s", 1, examples=160, seed=0, roomy=False, changes=changes)
    assert free["method"] == late["method"] == "leff"
    assert free["deadline"] is None and late["deadline"] == "0.1s"
    assert late["round_seconds"]["max"] <= 0.1 < free["round_seconds"]["max"]
    assert late["steps_share"] < free["steps_share"] and 0 <= late["idle_share"] <= 1


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
def test_upload_has_a_row_for_each_form(tiny_gpt2):
    changes = {**SMALL, "model.name": str(tiny_gpt2), "data.max_length": 32}
    changes |= {"training.rounds": 1, "data.train_examples": 40, "clients.count": 2}
    rows = upload.compare(["fedavg"], [0], changes)
    assert [row["upload"] for row in rows] == ["full", "bf16", "int8"]
    assert 1 == rows[0]["share"] > rows[1]["share"] > rows[2]["share"] > 0.25
    assert all(row["loss"]["mean"] > 0 and row["bleu"]["deviation"] == 0 for row in rows)


@pytest.mark.slow
@pytest.mark.usefixtures("quick_runs")
def test_real_has_a_row_for_each_side_and_keeps_what_it_found(printed, tmp_path):
    sizes = {**SMALL, "proxy.task": "sample", "data.train_examples": 24, "training.rounds": 1}
    sizes |= {"clients.count": 2, "clients.partition": "iid"}
    changed = [f"{key}={json.dumps(value)}" for key, value in sizes.items()]
    asked = ("real", "--model", "sample", "--task", "sample", "--sides", "leff")
    where = ("--results", str(tmp_path / "kept"), "--picture", str(tmp_path / "real.png"))
    rows = printed(*asked, *where, "--set", *changed)
    (row,) = rows
    assert row["method"] == "leff" and row["seeds"] == 1 and row["deviation"] is None
    assert 0 <= row["quality"] <= 1 and row["device_seconds"] > 0
    assert row["peak_bytes"] > 0 and row["tokens_per_second"] > 0
    assert row["download_bytes"] > 0 < row["upload_bytes"]
    assert (tmp_path / "real.png").stat().st_size > 10_000
    assert len(list((tmp_path / "kept").glob("*.json"))) == 2
    assert printed(*asked, *where, "--set", *changed) == rows


def test_every_side_is_a_configuration():
    arguments = argparse.Namespace(
        task="cola", rounds=3, clients=4, layers=[1], alpha=0.5, examples=None, epochs=0.25, set=[]
    )
    for options in fidelity.SIDES.values():
        config = load_config(None, {**options, **fidelity.shared_options(arguments)})
        assert config.data.task == "cola" and config.training.rounds == 3
        assert config.training.epochs == 0.25


def test_a_sides_rate_is_its_own_or_its_methods():
    assert fidelity.known_rate("leff-paper", "cola") == fidelity.RATES["glue"]["leff-paper"]
    assert fidelity.known_rate("leff-random", "cola") == fidelity.RATES["glue"]["leff"]
    assert fidelity.known_rate("leff-random", "e2e") == fidelity.RATES["e2e"]["leff"]
    for task in ("rte", *fidelity.TASKS):
        assert all(fidelity.known_rate(side, task) > 0 for side in fidelity.SIDES)


def test_the_paired_interval_is_that_of_the_t_test():
    ours, theirs = [81.0, 79.5, 82.0, 80.0], [80.0, 80.0, 81.0, 78.0]
    found = fidelity.paired([a - b for a, b in zip(ours, theirs, strict=True)])
    interval = ttest_rel(ours, theirs).confidence_interval(0.95)
    assert found["low"] == pytest.approx(interval.low)
    assert found["high"] == pytest.approx(interval.high)
    assert fidelity.paired([1.0])["low"] is None


def test_the_bank_and_per_client_distillation_serve_the_same_spans(monkeypatch):
    monkeypatch.setitem(server.SETTINGS, "steps", 1)
    monkeypatch.setattr(server, "client_spans", lambda n, seed: REAL_SPANS(min(n, 2), seed))
    found = server.compare([8, 40], repeats=1)
    assert set(found["bank_seconds"]) == set(found["per_client_seconds"]) == {"8", "40"}
    assert 0 < found["error"] < 10


REAL_SPANS = server.client_spans


def test_flora_has_a_row_for_each_round(monkeypatch):
    monkeypatch.setattr(flora, "LAYERS", 1)
    monkeypatch.setattr(flora, "WIDTH", 32)
    second, third = flora.measure([2, 3])
    assert (second["round"], third["round"]) == (2, 3)
    for row in (second, third):
        assert row["seconds"] > 0 and row["download_bytes"] > 0
        assert row["checkpoint_bytes"] >= 4 * 32 * (96 + 32 + 128)  # folded in every round


def test_every_client_trains_one_layer_of_twelve():
    spans = server.client_spans(12, 0)
    replaced = [sum(span.stop - span.start for span in own) for own in spans]
    assert replaced == [11] * 12
    assert len(set(spans)) == 12  # drawn evenly


def test_convergence_keeps_its_runs(monkeypatch, tmp_path):
    asked = []

    def measured(config):
        asked.append(config.training.learning_rate)
        return {"smallest": 1.0}

    monkeypatch.setattr(convergence, "_measured", measured)
    keep = tmp_path / "runs.json"
    first = convergence.one_run("exact", 4, 0, 4e-3, keep)
    assert convergence.one_run("exact", 4, 0, 4e-3, keep) == first
    convergence.one_run("4 bits", 4, 0, 4e-3, keep)
    convergence.one_run("exact", 16, 0, 4e-3, keep)
    assert asked == pytest.approx([2e-3, 2e-3, 1e-3])
    kept = read_json(keep, "run it again")
    assert [run["context"] for run in kept.values()] == ["exact", "4 bits", "exact"]


def test_the_convergence_picture_names_every_line_in_place(monkeypatch, capsys, tmp_path):
    """From the committed runs, none of which is run again."""
    monkeypatch.setattr(convergence, "_measured", None)
    arguments = ["--done", str(RESULTS / "convergence.json"), "--picture", str(tmp_path / "c.png")]
    monkeypatch.setattr("sys.argv", ["convergence", *arguments])
    with patch.object(convergence, "save_figure") as save:
        convergence.main()
    (figure, _) = save.call_args.args
    falling, floor = figure.axes
    assert "slope -1.81 ± 0.24" in capsys.readouterr().out
    assert [text.get_text() for text in floor.texts] == list(convergence.CONTEXTS)
    named = [text.get_text().partition(":")[0] for text in falling.texts]
    assert named == ["1/√T", *convergence.CONTEXTS]
    renderer = figure.canvas.get_renderer()
    for axis in figure.axes:
        assert axis.get_legend() is None
        boxes = [Text.get_window_extent(text, renderer) for text in axis.texts]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert all(axis.bbox.x0 < box.x0 and box.x1 < axis.bbox.x1 for box in boxes)


def test_a_run_that_the_file_has_not_is_named(tmp_path):
    find = convergence.done_runs(RESULTS / "convergence.json")
    assert find("exact", 4, 0)["rounds"] == 4
    with pytest.raises(SystemExit, match="no run of exact, 5 rounds, seed 0"):
        find("exact", 5, 0)


def test_the_frontier_keeps_what_it_measured(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(frontier, "_measured", lambda config, layers: asked.append(layers) or [])
    config, keep = RunConfig(), tmp_path / "rows.json"
    for layers in (1, 1, 2):
        frontier.rows(config, layers, keep)
    frontier.rows(config.model_copy(update={"seed": 1}), 2, keep)
    assert asked == [1, 2, 2]


def test_every_side_of_device_can_be_asked_for():
    config, kind = shape_of("gpt2", load_config(None))
    plain = [side.name for side in device._plain_sides(ClientSetup(step=Step(2), length=8))]
    assert [*plain, device.LEANEST] == list(device.NAMES)
    asked = device.sides(config, kind, ClientSetup(), ["leff", "fedavg"])
    assert [side.name for side in asked] == ["fedavg", "leff"]


def test_device_says_what_cannot_be(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["device", "--model", "gpt2", "--frozen-head"])
    with pytest.raises(SystemExit):
        device.main()
    assert "only a language model's own head can be frozen" in capsys.readouterr().err


def test_a_side_that_fails_is_left_out_and_keeps_what_it_has(monkeypatch, capsys, tiny_gpt2):
    measured = []

    def measure(side, *_):
        measured.append(side.name)
        if side.name == "fedavg" or measured.count("fedbitfit") > 1:
            raise RuntimeError("out of memory")
        return {"peak_bytes": 100, "state_bytes": 50, "seconds": [0.5], "failure": None}

    monkeypatch.setattr(device, "measure", measure)
    given = ["--model", str(tiny_gpt2), "--batch=2", "--length=8", "--json"]
    asked = ["--repeats=2", "--methods", "fedavg", "fedbitfit"]
    monkeypatch.setattr("sys.argv", ["device", *given, *asked])
    device.main()
    printed = capsys.readouterr()
    (row,) = json.loads(printed.out)
    assert (row["method"], row["repeats"]) == ("fedbitfit", 1)
    for name in ("fedavg", "fedbitfit"):
        assert f"{name} is left out from here on: out of memory" in printed.err
    monkeypatch.setattr("sys.argv", ["device", *given, "--methods", "fedavg"])
    with pytest.raises(SystemExit):
        device.main()
    assert "no side could be measured" in capsys.readouterr().err


@pytest.mark.slow
def test_device_has_a_row_for_each_side(printed, tiny_gpt2, tmp_path):
    short = tmp_path / "short"  # of two layers: a process less
    AutoConfig.from_pretrained(tiny_gpt2, n_layer=2).save_pretrained(short)
    given = ["--methods", "fedlora", "leff", "--batch=2", "--length=8", "--steps=2"]
    rows = printed("device", "--model", str(short), *given)
    assert [row["method"] for row in rows] == ["fedlora", "leff"]
    for row in rows:
        assert row.keys() >= {"context", "predicted_bytes", "tokens_per_second", "precision"}
        assert 0 <= row["context_error"] < 0.02  # all layers, in 32 or 8 bits
        assert 0 < row["state_bytes"] <= row["floor_bytes"] and row["peak_bytes"] >= 0
        assert row["peak_to_fedlora"] > 0 and (row["batch"], row["length"]) == (2, 8)
    assert len(rows[1]["peak_by_place"]) == 2


def test_leff_is_measured_first_in_the_middle_and_last():
    config, kind = shape_of("gpt2", load_config(None))
    adapters, leff = device.sides(config, kind, ClientSetup(), ("fedlora", "leff"))
    short = short_config(config, [0, 1])

    def blocks(side, config):
        return [layout.block for layout in device.layouts(side, config, kind)]

    assert blocks(leff, config) == [[0], [6], [11]]
    assert blocks(leff, short) == [[0], [1]]
    assert blocks(adapters, config) == [list(range(12))]  # once, whole


def test_robust_bounds_by_the_plain_runs_median_norm(monkeypatch):
    asked = []

    def short_run(options, hostile):
        asked.append((options["method.clip_norm"], options.get("method.merge", "mean"), hostile))
        clients = [SimpleNamespace(norm=norm, clipped=None) for norm in (1.0, 2.0, 9.0)]
        return float(len(asked)), clients

    monkeypatch.setattr(robust, "short_run", short_run)
    rows = robust.measure("fedavg", rounds=2, examples=40, seeds=2)
    assert [(row["rule"], row["hostile"]) for row in rows] == [
        (rule, hostile) for rule in robust.RULES for hostile in (0, 1)
    ]
    assert rows[0]["losses"] == [1.0, 9.0] and rows[0]["loss"] == 5.0
    bounds = {"clip": 2.0}
    for rule, (bound, merge, _) in zip((r["rule"] for r in rows), asked[:8], strict=True):
        assert bound == bounds.get(rule, 0.0)
        assert merge == (rule if rule in robust.ROBUST else "mean")


def test_private_takes_the_clip_that_was_best_on_another_seed(monkeypatch, capsys, tmp_path):
    asked, best_of = [], {2.0: 0.2, 8.0: 0.6, None: 2.0}

    def run(side, options, keep, results):
        asked.append(options)
        clip = options.get("privacy.clip")
        assert ("privacy.noise" in options) == (
            clip is not None and "privacy.epsilon" not in options
        )
        best = clip == pytest.approx(best_of[options.get("privacy.epsilon")])
        return {"median_norm": 2.0, "mean_last5": 9.0 if best else 1.0, "before": 0.0, "noise": 1.5}

    monkeypatch.setattr(private, "one_run", run)
    monkeypatch.setattr("sys.argv", ["private", "--clients", "40", "--sides", "leff", "--json"])
    private.main()
    rows = json.loads(capsys.readouterr().out)
    assert [(row["epsilon"], row["clip"], row["partitions"]) for row in rows] == [
        (epsilon, clip, 3) for epsilon, clip in best_of.items()
    ]
    tuning = [options for options in asked if options["seed"] == fidelity.TUNING_SEED]
    assert len(tuning) == 3 * 5 and len(asked) == 3 * 5 + 9
    load_config(None, asked[-1])
    assert {options.get("privacy.delta") for options in asked} == {None, 0.1 / 40}


def test_the_attack_scores_the_example_behind_a_change_highest(tmp_path, tiny_gpt2):
    """A change that is one example's own step has the cosine 1 with it, and less with others."""
    from leff.runs.folder import RunFolder
    from leff.runs.prepare import prepare

    config = load_config(
        None,
        {
            "model.name": str(tiny_gpt2),
            "clients.layers": [1],
            "clients.count": 2,
            "data.train_examples": 24,
            "data.max_length": 48,
            "evaluation.examples": 4,
            "evaluation.max_new_tokens": 8,
            "training.learning_rate": 1e-3,
            "engine.workers": 1,
        },
    )
    run = prepare(config, RunFolder.new(tmp_path / "run", config))
    fleet = run.clients.fleet
    run.method.begin(run.model)
    context = attack.RoundContext(0, 0, config.training.local(0))
    (job, _) = run.method.plan(run.model, context, fleet.report([0, 1])).jobs
    tried, pad = fleet._examples[0][:5], run.tokenizer.pad_token_id
    model, trained = attack.prepared(job, run.server.store.get, attack.CPU)
    model.eval()
    loss = attack.mean_loss(model, attack.collate([tried[3]], pad))
    gradients = torch.autograd.grad(loss, list(trained.values()))
    changes = {name: -0.1 * own for name, own in zip(trained, gradients, strict=True)}
    found = attack.scored(job, run.server.store.get, tried, pad, {"update": changes})["update"]
    assert found[3] == pytest.approx(1.0, abs=1e-4)
    assert max(found[:3] + found[4:]) < 0.999


def test_the_attacks_figures():
    assert attack.hits_of([1, 1, 0, 0], [4.0, 2.0, 3.0, 1.0]) == 0.5
    assert attack.hits_of([1, 1, 0, 0], [4.0, 3.5, 3.0, 1.0]) == 1.0
    seen = {0: {"a": torch.ones(2)}, 1: {"a": 3 * torch.ones(2), "b": torch.ones(1)}}
    assert attack.mean_of(seen, "a").tolist() == [2.0, 2.0]
    assert attack.mean_of(seen, "b").tolist() == [1.0]


def test_a_token_whose_input_is_in_the_span_of_a_change_is_nearest():
    """Rows of a gradient span what went into the layer: three of twelve tokens, at their places."""
    inputs = torch.randn(12, 4, 16, generator=torch.Generator().manual_seed(0))
    into = torch.stack([inputs[2, 1], inputs[5, 0], inputs[9, 3]])
    steps = torch.randn(8, 3, generator=torch.Generator().manual_seed(1))
    scores = inversion.near(inputs, [steps[:5] @ into, steps[5:] @ into])
    assert set(np.argsort(scores)[-3:]) == {2, 5, 9}
    assert min(scores[i] for i in (2, 5, 9)) > -1e-5 and sorted(scores)[-4] < -0.1


def test_a_change_of_full_rank_is_longest_along_its_inputs():
    inputs = torch.randn(12, 4, 16, generator=torch.Generator().manual_seed(0))
    noise = torch.randn(32, 16, generator=torch.Generator().manual_seed(2))
    change = 0.02 * noise + torch.outer(torch.ones(32), inputs[7, 2])
    assert np.argmax(inversion.near(inputs, [change])) == 7


def test_the_words_of_a_batch_are_found_in_its_gradient(tmp_path, tiny_gpt2):
    """Each method is attacked by what it trains; a guess has an area of .5."""
    common = {
        "model.name": str(tiny_gpt2),
        "clients.layers": [1],
        "clients.count": 2,
        "data.train_examples": 4,
        "data.max_length": 12,
        "evaluation.examples": 4,
        "evaluation.max_new_tokens": 8,
        "training.batch_size": 2,
        "training.learning_rate": 1e-3,
        "seed": 0,
    }
    for method in ("fedavg", "leff"):
        options = {**common, **attack.METHODS[method]}
        folder = tmp_path / method
        rows = list(inversion.attacked(method, 40, 0.1, options, folder))
        areas = {}
        for row in rows:
            areas.setdefault(row["seen"], []).append(row["area"])
        assert set(areas) == {"gradient", "update", "mean", "noise 0.1"}
        assert np.mean(areas["gradient"]) > 0.6
        assert all(0 < row["chance"] < 1 and 0 <= row["found"] <= 1 for row in rows)


def test_the_hostile_client_sends_minus_ten_times_its_change():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(2.0)

    class Fleet:
        steady = True

        def train(self, jobs):
            for client in (0, 1):
                yield Update(0, client, (0,), 1, pack({"weight": torch.tensor([[3.0]])}))

    sent = [unpack(u.payload)["weight"].item() for u in robust.Hostile(Fleet(), model, 1).train([])]
    assert sent == [3.0, -8.0]


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_robust_measures_a_merge(rule):
    cost = robust._merge_cost(rule, clients=3, width=8, layers=2)
    assert cost["rule"] == rule and cost["clients"] == 3
    assert cost["seconds"] >= 0 and cost["bytes"] >= 0


@pytest.mark.slow
@pytest.mark.parametrize(("side", "groups"), [("fedavg", 2), ("fedavg-layers", 13), ("leff", 2)])
def test_masks_measures_sums_that_are_right(side, groups):
    row = masks.measure(side, clients=8, dropped=1, repeats=2, layer=50, every=700)
    assert (row["groups"], row["dropped"], row["repeats"]) == (groups, 1, 2)
    values = 50 if side == "leff" else 700
    assert row["upload_bytes"] > row["plain_upload_bytes"] == 4 * values
    assert row["download_bytes"] > 8 * 2 * 32  # the keys
    for who in ("client", "server"):
        assert row[f"{who}_masked_seconds"] > row[f"{who}_plain_seconds"] > 0
        assert 1 < row[f"{who}_ratio"]["min"] <= row[f"{who}_ratio"]["max"]


@pytest.mark.slow
def test_transfers_has_a_row_for_one_device_and_one_for_many(printed):
    rows = printed("transfers", "--sizes", "2000000", "1000000", "--devices", "2")
    assert [(row["devices"], row["size_bytes"]) for row in rows] == [(1, 2 * 10**6), (2, 10**6)]
    for row in rows:
        assert row["get_mb_per_second"] > 0 and row["put_mb_per_second"] > 0
        assert row["server_peak_bytes"] >= row["server_before_bytes"] > 10**7


def test_every_side_of_network_is_a_configuration(tmp_path):
    assert set(network.DEFAULT_SIDES) <= set(network.SIDES)
    for side in network.SIDES.values():
        config = load_config(None, {**network.RANDOM, "engine.name": "flower", **side.options})
        assert config.clients.layers == [1] and config.evaluation.gap_clients == 0


def test_network_prints_what_scripts_read(monkeypatch, capsys):
    spreads = {f"{name}_spread": {"min": 1.0, "max": 3.0} for name in ROUNDS}
    monkeypatch.setattr(network, "overhead", lambda rounds: dict.fromkeys(ROUNDS, 2.0) | spreads)
    bytes_by_side = {"leff": 10.0, "leff-uncached": 40.0, "fedavg": 80.0, "fedlora": 5.0}
    found = {"download_bytes": bytes_by_side, "upload_bytes": bytes_by_side}
    monkeypatch.setattr(network, "transferred", lambda names, size: found)
    peak = {8: 100, 40: 105}
    monkeypatch.setattr(
        network,
        "memory",
        lambda counts, layers, width: {
            str(n): {"total": peak[n], "model_bytes": layers * width} for n in counts
        },
    )
    one = {"seconds": {"local": 1.0}}
    monkeypatch.setattr(network, "simulated", lambda count, rounds: one)
    monkeypatch.setattr("sys.argv", ["network", "--json"])
    network.main()
    printed = json.loads(capsys.readouterr().out)
    assert printed["server_peak_bytes"] == {"8": 100, "40": 105}
    assert printed["server_peak_growth"] == pytest.approx(0.05)
    assert printed["simulated"] == {"40": one} and "large" not in printed
    assert printed.keys() >= {*ROUNDS, "download_bytes", "upload_bytes"}
    assert set(printed["seconds"]) == {"overhead", "bytes", "memory", "simulated"}
    monkeypatch.setattr("sys.argv", ["network", "--only=memory", "--large"])
    network.main()
    lines = capsys.readouterr().out
    assert "which is +5.0%" in lines and "8 devices, a model of 0 MB" in lines


ROUNDS = ("round_seconds", "stock_round_seconds")


@pytest.mark.slow
def test_many_clients_of_one_device_and_of_two():
    found = network.simulated(clients=4, rounds=1)
    assert found["clients"] == 4
    assert set(found["seconds"]) == {"local", "1 process", "2 processes"}
    assert all(seconds > 0 for seconds in found["seconds"].values())


@pytest.mark.slow
def test_leff_sends_less_than_fedavg_through_the_real_gateway():
    size = network.Size(layers=4, width=64, words=800, devices=2, rounds=2, few_devices=1)
    found = network.transferred(network.DEFAULT_SIDES, size)
    about = found["bytes_about"]
    assert [about[name]["devices"] for name in ("leff", "fedavg")] == [2, 1]
    assert about["fedavg"]["layers_changed"] == [4] * 3
    layer = 12 * 64**2 * 4
    for way in ("download_bytes", "upload_bytes"):
        assert 4 * layer < found[way]["fedavg"] < 4.2 * layer
    assert layer < found["upload_bytes"]["leff"] < 1.1 * layer
    shares = found["download_to_fedavg"]
    assert 0.2 < shares["leff"] < 0.6 < shares["leff-uncached"]
    assert shares["fedlora"] < shares["leff"]


def test_the_forwarder_hands_everything_on_a_little_later():
    async def echo(reader, writer):
        writer.write(await reader.read())  # to the end, which is handed on too
        writer.close()

    async def there_and_back():
        (port,) = free_ports(1)
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as behind:
            to = behind.sockets[0].getsockname()
            forwarder = asyncio.create_task(delay.serve(("127.0.0.1", port), to, 0.05))
            await asyncio.sleep(0.05)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            started, sent = time.monotonic(), bytes(range(256)) * 4000
            writer.write(sent)
            writer.write_eof()
            assert await reader.read() == sent
            took = time.monotonic() - started
            writer.close()
            forwarder.cancel()
            await asyncio.gather(forwarder, return_exceptions=True)
            return took

    assert asyncio.run(there_and_back()) >= 0.1


def test_a_devices_round_is_from_the_ask_to_the_answer():
    log = (
        "2026-11-29 01:00:00,000 INFO waiting\n"
        "2026-11-29 01:00:01,250 INFO training in round 1\n"
        "2026-11-29 01:00:02,000 INFO sending its update of round 1\n"
        "2026-11-29 01:00:03,500 INFO waiting\n"
        "2026-11-29 01:00:04,000 INFO training in round 2\n"
        "2026-11-29 01:00:04,500 INFO waiting\n"
    )
    assert namespaces.round_seconds(log) == [2.25, 0.5]


@pytest.mark.soak(0, 2)
@pytest.mark.skipif(bool(namespaces.missing()), reason=namespaces.missing())
def test_a_run_in_namespaces_ends(count):
    if not count:
        pytest.skip("make soak runs it")
    found = namespaces.measure(rounds=count, examples=32, width=0)
    assert found["failures"] == 0 and set(found["devices"]) == {"slow", "lossy", "nat"}
    for row in found["devices"].values():
        assert row["round_seconds"] > row["train_seconds"] > 0
        assert row["predicted"]["round_seconds"] > 0 and row["download_bytes"] > 0
