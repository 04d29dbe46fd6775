"""The peak of a job that was written: what its choice is planned to take, and what it takes."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from small_rounds import CPU, TRAINING, invented, recipe
from tiny_models import LAYERS, tiny
from transformers import GPT2Config

from benchmarks.random_job import write
from leff.capacity.peak import fitted, least_peak, predict, predict_job
from leff.capacity.rehearsal import rehearse
from leff.errors import ConfigError
from leff.methods.method import RoundContext, merge_round
from leff.methods.registry import spec_of
from leff.methods.setup import ClientSetup, block_layout, block_layouts
from leff.methods.stand_ins import make_context
from leff.models import empty_model
from leff.wire.messages import Capacity, Step
from leff.wire.spool import Spool

KIND = "generation"
ASKED = ClientSetup(rank=3, step=Step(batch_size=4), length=12)
LEFF, FEDAVG = spec_of("leff"), spec_of("fedavg")


def stepping(setup, **changes):
    return replace(setup, step=replace(setup.step, **changes))


def first_stage(name, config):
    """Return what a step holds in the first stage of a method without blocks."""
    ((layout,), *_) = spec_of(name).stages(empty_model(config, KIND), ASKED)
    return rehearse(config, KIND, layout, ASKED)


def planned(made, model, round_index=0):
    context = RoundContext(round_index, 0, TRAINING)
    return made.plan(model, context, [Capacity(client, 2, 6) for client in range(3)]).jobs


def jobs(method, store, model, **options):
    return planned(recipe(method, model, KIND, store, **options), model)


@pytest.mark.parametrize("method", ["fedavg", "fedbitfit", "fedlora", "flora"])
def test_a_job_is_what_its_method_is_predicted_to_hold(method, store):
    model = tiny("gpt2", KIND)
    (job, *_) = jobs(method, store, model)
    assert predict_job(job, ASKED).peak == predict(model.config, KIND, spec_of(method), ASKED).peak


def test_both_stages_of_slora(store, tmp_path):
    model = tiny("gpt2", KIND)
    made = recipe("slora", model, KIND, store, training__rounds=2)
    (first, *_) = planned(made, model)
    spool = Spool(tmp_path / "updates")
    spool.open({first.client: ""})
    spool.add(invented(first, 5, seed=0))
    merge_round(made, model, spool)
    (second, *_) = planned(made, model, 1)
    peaks = [predict_job(job, ASKED).peak for job in (first, second)]
    assert peaks[0] == first_stage("slora", model.config).peak
    assert peaks[1] == first_stage("fedlora", model.config).peak
    assert max(peaks) == predict(model.config, KIND, spec_of("slora"), ASKED).peak


def test_the_base_of_adapters_is_held_in_its_bits(store):
    model = tiny("gpt2", KIND)
    (job, *_) = jobs("flexlora", store, model, clients__ranks=[2], method__base_bits=8)
    asked = replace(ASKED, base_bits=8, rank=2)
    assert predict_job(job, replace(ASKED, base_bits=8)) == predict(
        model.config, KIND, spec_of("flexlora"), asked
    )


@pytest.mark.parametrize("context", ["quantise", "drop"])
def test_leff_is_predicted_where_its_block_was_drawn(context, store):
    model = tiny("gpt2", KIND)
    options = {"context__name": context, "context__bits": 8, "context__embedding_bits": 16}
    around = make_context(context, rate=0.5, bits=8)
    asked = replace(ASKED, embedding_bits=16, context=around)
    drawn = {}
    for job in jobs("leff", store, model, **options):
        block = range(job.block[0], job.block[-1] + 1)
        drawn[block] = predict_job(job, asked)
        layout = block_layout(around, block, LAYERS, asked.embedding_bits)
        assert drawn[block] == rehearse(model.config, KIND, layout, asked)
    assert len(drawn) > 1


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", ["gpt2", "deberta-v3"])
def test_the_peak_is_that_of_the_place_where_it_is_most(name, checkpointing):
    """For DeBERTa, checkpointed, the last: all of its layers read the tail and have a graph."""
    kind = KIND if name == "gpt2" else "classification"
    config = tiny(name, kind, layers=3).config
    asked = replace(ASKED, context=make_context("quantise", bits=8))
    asked = stepping(asked, checkpointing=checkpointing)
    places = block_layouts(asked, 3)
    assert [layout.block for layout in places] == [[0], [1], [2]]
    peaks = [rehearse(config, kind, layout, asked).peak for layout in places]
    assert predict(config, kind, LEFF, asked).peak == max(peaks)


def test_a_jobs_own_settings_count(store):
    model = tiny("gpt2", KIND)
    (job, *_) = jobs("fedavg", store, model)
    plain = predict_job(job, ASKED).peak
    for change in ({"accumulation": 2}, {"checkpointing": True}, {"optimizer": "adamw8bit"}):
        asked = stepping(ASKED, **change)
        other = replace(job, training=replace(job.training, step=asked.step))
        assert predict_job(other, ASKED) == predict(model.config, KIND, FEDAVG, asked)
    step = replace(ASKED.step, proximal=0.1)
    pulled = replace(job, training=replace(job.training, step=step))
    weights = sum(p.nbytes for p in model.parameters()) - model.transformer.wpe.weight.nbytes
    weights -= model.transformer.wte.weight.nbytes  # neither trains
    assert predict_job(pulled, ASKED).peak == plain + weights


def test_fitted_is_the_plainest_and_the_least_is_said():
    config = tiny("gpt2", KIND).config
    peaks = [predict(config, KIND, FEDAVG, stepping(ASKED, accumulation=n)).peak for n in (1, 2, 4)]
    for peak, parts in zip(peaks, (1, 2, 4), strict=True):
        found = fitted(config, KIND, FEDAVG, ASKED, peak)
        assert found == stepping(ASKED, accumulation=parts, checkpointing=False)
    assert fitted(config, KIND, FEDAVG, ASKED, peaks[2] - 1).step.checkpointing
    least = least_peak(config, KIND, FEDAVG, ASKED)
    with pytest.raises(ConfigError, match=f"fedavg needs {least:,} bytes at least, there are 10"):
        fitted(config, KIND, FEDAVG, ASKED, 10)


@pytest.mark.slow
def test_a_process_takes_what_is_predicted_when_it_trains_in_parts(tmp_path):
    config = GPT2Config(n_embd=256, n_layer=6, n_head=4, vocab_size=5000, n_positions=256)
    around = make_context("quantise", bits=8)
    plain = ClientSetup(context=around, step=Step(batch_size=8), length=256)
    memory = predict(config, KIND, LEFF, plain).peak // 3
    setup = fitted(config, KIND, LEFF, plain, memory)
    assert setup.step.accumulation > 1
    layout = block_layout(around, range(1), 6)
    job = write(tmp_path, config, KIND, LEFF, setup, layout, 3)
    predicted = predict_job(job, setup).peak
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.device_side", str(tmp_path), str(CPU), "1"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )
    found = json.loads(done.stdout)
    assert found["failure"] is None
    assert found["peak_bytes"] == pytest.approx(predicted, rel=0.1)
    assert found["peak_bytes"] <= memory * 1.1
